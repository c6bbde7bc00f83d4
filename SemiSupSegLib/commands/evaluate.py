"""``evaluate``: predictions in a folder against the cohort's dense labels."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..cohort import Cohort
from ..files import write_json_atomically
from ..progress import ProgressBar

SHOWN = ("dice", "jaccard", "precision", "recall", "hd95", "asd", "assd")


def add_to(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("evaluate", help="measure predictions against the cohort's dense labels")
    parser.add_argument("folder", metavar="DIR", type=Path, help="the folder that predict wrote to")
    parser.add_argument(
        "cohort", metavar="COHORT.json", type=Path, help="a cohort with dense labels; need not be the one trained on"
    )
    parser.add_argument(
        "--cases", metavar="ID", nargs="+", help="only these cases (default: all that have a label and a prediction)"
    )
    parser.add_argument(
        "--largest-component", action="store_true", help="keep each class's largest component before measuring"
    )
    parser.add_argument("--json", metavar="OUT.json", type=Path, help="write every number to this file too")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from ..learning.evaluation import evaluate_folder

    cohort = Cohort.load(options.cohort)
    with ProgressBar("Evaluating") as bar:
        scores = evaluate_folder(
            options.folder,
            cohort,
            options.cases,
            largest_component=options.largest_component,
            on_progress=bar.update,
        )
        bar.update(1.0)
    print(as_table(scores))
    if options.json:
        write_json_atomically(options.json, scores)
    return 0


def as_table(scores: Mapping[str, Any]) -> str:
    """The numbers as people read them: a line for each class of each case, then the means over cases."""
    classes = list(scores["classes"])
    width = max(len(name) for name in ("all cases", *scores["cases"]))
    class_width = max(len(name) for name in ("class", *classes))
    lines = [f"{'case':{width}}  {'class':{class_width}}  {'  '.join(f'{name:>9}' for name in SHOWN)}"]
    for case, name, numbers in _rows(scores):
        lines.append(f"{case:{width}}  {name:{class_width}}  {'  '.join(_number(numbers[key]) for key in SHOWN)}")
    cases = "1 case" if scores["n_cases"] == 1 else f"{scores['n_cases']} cases"
    lines.append(f"Mean Dice of {cases}: {_number(scores['mean_dice']).strip()}  (distances in mm, - is undefined)")
    return "\n".join(lines)


def _rows(scores: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, float | None]]]:
    for case, by_class in scores["cases"].items():
        for name, numbers in by_class.items():
            yield case, name, numbers
    for name, summaries in scores["classes"].items():
        yield "all cases", name, {measure: summary["mean"] for measure, summary in summaries.items()}


def _number(value: float | None) -> str:
    return f"{'-' if value is None else format(value, '.3f'):>9}"
