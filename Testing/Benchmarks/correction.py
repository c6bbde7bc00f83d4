"""One round of correction: what annotating the scans that a model doubts adds, against annotating random ones.

    python -m Testing.Benchmarks correction --labeled 4 --method sgrs --seeds 3 --quick --out correction.json

A model is trained on few labeled scans and segments the unlabeled ones. A person then corrects some of them, here by
taking their reference: those with the highest uncertainty score, or as many drawn at random. Training goes on from the
model with both kinds of annotation, as *Use as starting point* and *Train* do in the panel. Left atrium, dense labels;
a study's ``--work`` holds the first trainings already, if it had the same iterations and settings.
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from SemiSupSegLib.files import write_json_atomically
from SemiSupSegLib.training_settings import METHODS

from . import study
from .doubt import case_dice
from .protocols import Split, la_splits
from .statistics import interval

CHOICES = ("uncertain", "random")
_NAMES = {"uncertain": "that the model doubts most", "random": "at random"}


def main(arguments: Sequence[str]) -> int:
    """Do what is left of the rounds, store them, print a table."""
    options = _parse(arguments)
    splits = la_splits(options.data, labeled=options.labeled, runs=options.seeds)
    options.work.mkdir(parents=True, exist_ok=True)
    rows = []
    for split in splits:
        rows.append(_round(split, options))
        body = {
            "protocol": "la",
            "labeled": options.labeled,
            "method": options.method,
            "added": options.add,
            "budget": study.budget(options, options.method),
            "budget of the round": study.budget(_going_on(options), options.method),
            "settings": options.set,
            "date": datetime.date.today().isoformat(),
            "rows": rows,
        }
        write_json_atomically(options.out, body)
    print(markdown(body))
    return 0


def _round(split: Split, options: argparse.Namespace) -> dict[str, Any]:
    """The first training of a split, and one that goes on from it for each way to choose what is corrected."""
    folder = options.work / f"{split.name}-{options.method}"
    first = study.run(split, options.method, options, None)
    pool = study.scores(folder, "teacher", "pool", split.unlabeled)
    dice = {case: case_dice(classes) for case, classes in pool["cases"].items()}
    ranked = sorted(dice, key=lambda case: -pool["uncertainty"][case])
    drawn = np.random.default_rng((26, split.seed)).permutation(sorted(dice))
    row = {
        "split": split.name,
        "device": first["device"],
        "versions": first["versions"],
        "before": first["test teacher"]["mean_dice"],
        "unlabeled": float(np.mean(list(dice.values()))),
    }
    going_on = _going_on(options)
    going_on.set = [*options.set, f"warm_start={(folder / 'run').resolve()}"]
    for choice, cases in zip(CHOICES, (ranked, drawn), strict=True):
        cases = [str(case) for case in cases[: options.add]]
        again = study.run(_corrected(split, cases, choice), options.method, going_on, None)
        row[choice] = {
            "cases": {case: dice[case] for case in cases},
            "mean_dice": again["test teacher"]["mean_dice"],
            "seconds": again["seconds"],
        }
    return row


def _corrected(split: Split, cases: Sequence[str], choice: str) -> Split:
    """The split with more of its scans labeled."""
    cohort = replace(
        split.cohort,
        cases=tuple(replace(case, labeled=True) if case.id in cases else case for case in split.cohort.cases),
    )
    left = tuple(case for case in split.unlabeled if case not in cases)
    return replace(split, name=f"{split.name}-{choice}", cohort=cohort, unlabeled=left)


def _going_on(options: argparse.Namespace) -> argparse.Namespace:
    """The options of a training that goes on from a model."""
    changed: dict[str, Any] = {"transductive": 0}
    if options.more:
        changed["iterations"] = {options.method: options.more}
    return argparse.Namespace(**vars(options) | changed)


def markdown(body: Mapping[str, Any]) -> str:
    """A title and a table: test Dice before and after, and the paired difference of the two ways to choose."""
    rows, added = body["rows"], body["added"]
    settings = ", ".join(each for each in body["settings"] if not each.startswith("threads"))
    lines = [
        f"**One round of correction, left atrium, `{body['method']}`, {body['labeled']} scans with dense labels, then "
        f"{added} more** ({rows[0]['device']}, {body['date']}{', ' + settings if settings else ''}; "
        f"{_words(body['budget'])}, then {_words(body['budget of the round'])})",
        "",
        "| annotated | runs | Dice of those scans before | test Dice | uncertain - random (95 %) |",
        "| --- | --- | --- | --- | --- |",
        f"| {body['labeled']} scans | {len(rows)} | – | {np.mean([row['before'] for row in rows]):.3f} | – |",
    ]
    differences = [row["uncertain"]["mean_dice"] - row["random"]["mean_dice"] for row in rows]
    low, high = interval(differences)
    gains = {"uncertain": f"{np.mean(differences):+.3f} [{low:+.3f}, {high:+.3f}]", "random": "–"}
    for choice in CHOICES:
        dice = np.mean([row[choice]["mean_dice"] for row in rows])
        before = np.mean([value for row in rows for value in row[choice]["cases"].values()])
        lines.append(f"| + {added} {_NAMES[choice]} | {len(rows)} | {before:.3f} | {dice:.3f} | {gains[choice]} |")
    return "\n".join(lines)


def _words(budget: Sequence[str]) -> str:
    option, number = budget
    return f"{number} {option.removeprefix('--')}"


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = study.parser("correction", __doc__)
    parser.add_argument("--method", default="sgrs", choices=METHODS)
    parser.add_argument("--add", type=int, default=4, help="scans that are corrected")
    parser.add_argument("--more", type=int, help="iterations of the training that goes on, if not as many")
    return study.parsed(parser, arguments, "la")
