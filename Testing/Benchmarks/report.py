"""``python -m Testing.Benchmarks report RESULT.json …``: stored results as the README's table, and as plots."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from SemiSupSegLib.errors import SemiSupSegError
from SemiSupSegLib.files import read_json


def main(arguments: Sequence[str]) -> int:
    """Print a Markdown table of all results given and, with ``--plot``, draw them."""
    parser = argparse.ArgumentParser(prog="python -m Testing.Benchmarks report", description=__doc__)
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--plot", type=Path, help="picture: Dice against labeled cases, and a box for each method")
    options = parser.parse_args(arguments)
    studies = [_study(path) for path in options.results]
    print(markdown(studies))
    if options.plot:
        plot(studies, options.plot)
    return 0


def _study(path: Path) -> dict[str, Any]:
    study = read_json(path, "a result file")
    if not all("test teacher" in row for row in study.get("rows", [{}])):
        raise SemiSupSegError(f"'{path}' was not stored by a study.", "Give what la, acdc or hippocampus have stored.")
    return study


def markdown(studies: Sequence[dict[str, Any]]) -> str:
    """One row a study and method: mean test Dice and its standard deviation over runs, HD95, transductive Dice."""
    lines = [
        "| data | annotation | method | runs | test Dice | HD95 (mm) | unlabeled scans' Dice | minutes, device |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for study in studies:
        for method in dict.fromkeys(row["method"] for row in study["rows"]):
            rows = [row for row in study["rows"] if row["method"] == method]
            dice = np.array([row["test teacher"]["mean_dice"] for row in rows])
            spread = f" ± {dice.std(ddof=1):.3f}" if len(dice) > 1 else ""
            unlabeled = [row["unlabeled teacher"]["mean_dice"] for row in rows if "unlabeled teacher" in row]
            data = f"{study['protocol'].upper()} ({study['form']}) | {study['labeled']} {study['annotation']}"
            lines.append(
                f"| {data} | {method} | {len(rows)} | {dice.mean():.3f}{spread} | {_hd95(rows):.1f} "
                f"| {f'{np.mean(unlabeled):.3f}' if unlabeled else '–'} "
                f"| {np.mean([row['seconds'] for row in rows]) / 60:.1f}, {rows[0]['device']} |"
            )
    return "\n".join(lines)


def plot(studies: Sequence[dict[str, Any]], path: Path) -> None:
    """Dice against the number of labeled cases, a line a method; and a box of all cases for each method."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    methods = list(dict.fromkeys(row["method"] for study in studies for row in study["rows"]))
    figure, (lines, boxes) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for method in methods:
        points = sorted(
            (study["labeled"], np.mean([row["test teacher"]["mean_dice"] for row in study["rows"]
                                        if row["method"] == method]))
            for study in studies
            if any(row["method"] == method for row in study["rows"])
        )  # fmt: skip
        lines.plot(*zip(*points, strict=True), marker="o", label=method)
    lines.set(xlabel="annotated training scans", ylabel="mean test Dice")
    lines.legend(frameon=False)
    values = [[_case_dice(case) for study in studies for row in study["rows"] if row["method"] == method
               for case in row["test teacher"]["cases"].values()] for method in methods]  # fmt: skip
    boxes.boxplot(values, tick_labels=methods)
    boxes.set(ylabel="test Dice of a case")
    boxes.tick_params(axis="x", rotation=20)
    for axes in (lines, boxes):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
    figure.savefig(path, dpi=130)


def _case_dice(case: dict[str, dict[str, float | None]]) -> float:
    return float(np.mean([each["dice"] for each in case.values()]))


def _hd95(rows: Sequence[dict[str, Any]]) -> float:
    values = [each["hd95"] for row in rows for case in row["test teacher"]["cases"].values() for each in case.values()]
    return float(np.mean([value for value in values if value is not None]))
