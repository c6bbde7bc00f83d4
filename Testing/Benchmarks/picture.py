"""Stored studies as one picture: the Dice of every paired run, and what is left to a person who follows uncertainty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .doubt import ranking
from .report import baseline_of, is_bound, pooled

_LEAST_SPAN = 0.04
"""Dice from the bottom of the upper pictures to their top, at least: less is a difference that says nothing."""
_HANDED_OVER = 0.8
"""Beyond this share of the cases the mean of the others is one of very few."""


def plot(studies: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the studies given, a column each; the upper bound of one is its dashed line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [study for study in studies if not is_bound(study, studies)]
    figure, axes = pyplot.subplots(2, len(shown), figsize=(4.6 * len(shown), 7), layout="constrained", squeeze=False)
    for study, (runs, curves) in zip(shown, axes.T, strict=True):
        _draw_runs(runs, study)
        _draw_curves(curves, study)
    for each in axes.flat:
        each.spines[["top", "right"]].set_visible(False)
        each.grid(axis="y", alpha=0.3)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _draw_runs(axes: Any, study: Mapping[str, Any]) -> None:
    """A line a paired run, from method to method: what is common to its methods is its labeled scans' luck."""
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
    middle = (max(dice.values()) + min(dice.values())) / 2
    half = max(_LEAST_SPAN, 1.1 * (max(dice.values()) - min(dice.values()))) / 2
    axes.set(title=_title(study), ylabel="test Dice of a run", ylim=(middle - half, middle + half))


def _title(study: Mapping[str, Any]) -> str:
    annotation = "labels" if study["annotation"] == "dense" else "scribbles"
    grids = [each.split("=")[1].split(",")[0] for each in study["settings"] if each.startswith("plan.spacing=")]
    scans = f"{study['labeled']} scans with {annotation}"
    return ", ".join([study["protocol"].upper(), scans, *(f"{each} mm" for each in grids)])


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
