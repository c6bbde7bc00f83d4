"""Stored studies as one picture: the Dice of every paired run, what is left to a person who follows uncertainty, and,
where studies differ in nothing but the number of annotated scans, Dice against that number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .doubt import ranking
from .report import baseline_of, bound_of, is_bound, pooled

_LEAST_SPAN = 0.04
"""Dice from the bottom of the upper pictures to their top, at least: less is a difference that says nothing."""
_MOST_COLUMNS = 3
"""So that letters can be read at the width of a page."""
_HANDED_OVER = 0.8
"""Beyond this share of the cases the mean of the others is one of very few."""


def plot(studies: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the studies given, a panel above another each; the upper bound of one is its dashed line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [study for study in studies if not is_bound(study, studies)]
    series = _by_number(studies)
    n_columns = min(_MOST_COLUMNS, len(shown) + len(series))
    n_rows = 2 * math.ceil((len(shown) + len(series)) / n_columns)
    size = (3.8 * n_columns, 2.9 * n_rows)
    figure, axes = pyplot.subplots(n_rows, n_columns, figsize=size, layout="constrained", squeeze=False)
    pairs = [(axes[row, column], axes[row + 1, column]) for row in range(0, n_rows, 2) for column in range(n_columns)]
    for study, (runs, curves) in zip(shown, pairs, strict=False):
        _draw_runs(runs, study, bound_of(study, studies))
        _draw_curves(curves, study)
    for each, (numbers, _) in zip(series, pairs[len(shown) :], strict=False):
        _draw_numbers(numbers, each)
    for each in axes.flat:
        each.set_axis_on() if each.has_data() else each.set_axis_off()
        each.spines[["top", "right"]].set_visible(False)
        each.grid(axis="y", alpha=0.3)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _draw_runs(axes: Any, study: Mapping[str, Any], bound: Mapping[str, Any] | None) -> None:
    """A line a paired run, from method to method: what is common to its methods is its labeled scans' luck.

    The dashed line is what `supervised` reaches with the labels of all training scans.
    """
    methods = list(dict.fromkeys(row["method"] for row in study["rows"]))
    methods.sort(key=lambda method: method != baseline_of(study))
    dice = {(row["split"], row["method"]): row["test teacher"]["mean_dice"] for row in study["rows"]}
    for split in dict.fromkeys(row["split"] for row in study["rows"]):
        axes.plot(range(len(methods)), [dice.get((split, each), np.nan) for each in methods], color="0.75", linewidth=1)
    for place, method in enumerate(methods):
        values = [value for (_, each), value in dice.items() if each == method]
        axes.plot([place] * len(values), values, "o", color="tab:blue", markersize=4)
        axes.hlines(np.mean(values), place - 0.3, place + 0.3, color="tab:orange", linewidth=2)
    axes.set_xticks(range(len(methods)), methods, rotation=30, ha="right")
    heights = list(dice.values())
    if bound:
        heights.append(float(np.mean([row["test teacher"]["mean_dice"] for row in bound["rows"]])))
        axes.axhline(heights[-1], color="tab:gray", linestyle="--", linewidth=1)
        axes.annotate(f"{bound['labeled']} labels", (len(methods) - 1, heights[-1]), ha="right", va="bottom")
    middle = (max(heights) + min(heights)) / 2
    half = max(_LEAST_SPAN, 1.15 * (max(heights) - min(heights))) / 2
    axes.set(title=_title(study), ylabel="test Dice of a run", ylim=(middle - half, middle + half))


def _title(study: Mapping[str, Any], *, with_number: bool = True) -> str:
    annotation = "labels" if study["annotation"] == "dense" else "scribbles"
    grids = [each.split("=")[1].split(",")[0] for each in study["settings"] if each.startswith("plan.spacing=")]
    scans = f"{study['labeled']} scans with {annotation}" if with_number else f"scans with {annotation}"
    return ", ".join([study["protocol"].upper(), scans, *(f"{each} mm" for each in grids)])


def _by_number(studies: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Studies that differ in the number of annotated scans alone, fewest first; several methods twice at least."""
    alike: dict[str, list[Mapping[str, Any]]] = {}
    for study in studies:
        common = [study[key] for key in ("protocol", "form", "settings", "annotation")]
        alike.setdefault(str([*common, study["budget"][baseline_of(study)]]), []).append(study)
    groups = [sorted(group, key=lambda study: study["labeled"]) for group in alike.values()]
    return [group for group in groups if len({each["labeled"] for each in group if _has_several_methods(each)}) > 1]


def _has_several_methods(study: Mapping[str, Any]) -> bool:
    return len({row["method"] for row in study["rows"]}) > 1


def _draw_numbers(axes: Any, studies: Sequence[Mapping[str, Any]]) -> None:
    """Mean and standard deviation of a method's runs at each number of annotated scans, where there are several."""
    found: dict[str, dict[int, list[float]]] = {}
    for study in studies:
        for row in study["rows"]:
            of_method = found.setdefault(row["method"], {})
            of_method.setdefault(study["labeled"], []).append(row["test teacher"]["mean_dice"])
    shown = {method: known for method, known in found.items() if len(known) > 1}
    for place, (method, known) in enumerate(shown.items()):
        beside = 1.06 ** (place - (len(shown) - 1) / 2)
        axes.errorbar(
            [number * beside if len(values) > 1 else number for number, values in known.items()],
            [np.mean(values) for values in known.values()],
            [np.std(values, ddof=1) if len(values) > 1 else 0.0 for values in known.values()],
            marker="o", markersize=4, linewidth=1, label=method,
        )  # fmt: skip
    numbers = sorted({study["labeled"] for study in studies})
    axes.set_xscale("log")
    axes.set_xticks(numbers, map(str, numbers))
    axes.minorticks_off()
    axes.set(title=_title(studies[0], with_number=False), xlabel="annotated scans", ylabel="test Dice")
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)  # where no run is drawn


def _draw_curves(axes: Any, study: Mapping[str, Any]) -> None:
    """Mean Dice of the cases that are left when a person takes over the others, mean over all runs."""
    curves = [ranking(pooled(row)) for row in study["rows"]]
    fewest = min(len(each["random"]) for each in curves)
    drawn = max(2, round(_HANDED_OVER * fewest))
    for name, style in (("oracle", ":"), ("uncertainty", "-"), ("random", "--")):
        mean = np.mean([each[name][:drawn] for each in curves], axis=0)
        axes.plot(np.arange(drawn) / fewest, mean, style, label=name)
    axes.set(xlabel="share of cases handed to a person", ylabel="mean Dice of the others")
    axes.legend(frameon=False)
