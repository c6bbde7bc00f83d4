"""One round of correction: what annotating the scans that a model doubts adds, against annotating random ones.

    python -m Testing.Benchmarks correction --labeled 4 --method sgrs --seeds 3 --quick --out correction.json

A model is trained on few labeled scans and segments the unlabeled ones. A person then corrects some of them, here by
taking their reference: those with the highest uncertainty score, as many drawn at random, or none. Training goes on
from the model with both kinds of annotation, as *Use as starting point* and *Train* do in the panel, equally long in
all three. Left atrium, dense labels; a study's ``--work`` holds the first trainings already, if they were asked for
alike.
"""

from __future__ import annotations

import argparse
import time
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

CHOICES = {"none": "none", "uncertain": "that the model doubts most", "random": "at random"}


def main(arguments: Sequence[str]) -> int:
    """Do what is left of the rounds, store them, print a table."""
    options = _parse(arguments)
    splits = la_splits(options.data, labeled=options.labeled, runs=options.seeds)
    if not 1 <= options.add <= len(splits[0].unlabeled):
        raise SystemExit(f"--add is 1 to {len(splits[0].unlabeled)}, the number of scans without annotation")
    options.work.mkdir(parents=True, exist_ok=True)
    rows, began = [], time.monotonic()
    for split in splits:
        row = _round(split, options, began)
        if row is None:
            print("some rounds are left: call the same command again")
            return 3
        rows.append(row)
        body = {
            "protocol": "la",
            "form": "quick" if options.quick else "published",
            "labeled": options.labeled,
            "method": options.method,
            "added": options.add,
            "budget": study.budget(options, options.method),
            "budget of the round": study.budget(_going_on(options), options.method),
            "settings": study.settings_of(options),
            **study.machine(),
            "rows": rows,
        }
        write_json_atomically(options.out, body)
    print(markdown(body))
    return 0


def _round(split: Split, options: argparse.Namespace, began: float) -> dict[str, Any] | None:
    """The first training of a split, and one that goes on from it for each choice; None if the time was up."""

    def run(which: Split, how: argparse.Namespace) -> dict[str, Any] | None:
        left = None if options.seconds is None else options.seconds - (time.monotonic() - began)
        return study.run(which, options.method, how, left)

    first = run(split, options)
    if first is None:
        return None
    folder = options.work / f"{split.name}-{options.method}"
    pool = study.scores(folder, "teacher", "pool", split.unlabeled)
    dice = {case: case_dice(classes) for case, classes in pool["cases"].items()}
    ranked = sorted(dice, key=lambda case: -pool["uncertainty"][case])
    drawn = np.random.default_rng((26, split.seed)).permutation(sorted(dice)).tolist()
    chosen = {"none": [], "uncertain": ranked[: options.add], "random": drawn[: options.add]}
    row = {
        "split": split.name,
        "device": first["device"],
        "versions": first["versions"],
        "before": first["test teacher"]["mean_dice"],
        "uncertainty": pool["uncertainty"],
    }
    going_on = _going_on(options)
    going_on.set = [*options.set, f"warm_start={(folder / 'run').resolve()}"]
    for choice, cases in chosen.items():
        again = run(_corrected(split, cases, f"{options.add}-{choice}"), going_on)
        if again is None:
            return None
        row[choice] = {
            "cases": {case: dice[case] for case in cases},
            "mean_dice": again["test teacher"]["mean_dice"],
            "iterations": again["iterations"],
            "seconds": again["seconds"],
        }
    return row


def _corrected(split: Split, cases: Sequence[str], name: str) -> Split:
    """The split with more of its scans labeled."""
    cohort = replace(
        split.cohort,
        cases=tuple(replace(case, labeled=True) if case.id in cases else case for case in split.cohort.cases),
    )
    left = tuple(case for case in split.unlabeled if case not in cases)
    return replace(split, name=f"{split.name}-{name}", cohort=cohort, unlabeled=left)


def _going_on(options: argparse.Namespace) -> argparse.Namespace:
    """The options of a training that goes on from a model."""
    changed = {"iterations": {options.method: options.more}} if options.more else {}
    return argparse.Namespace(**vars(options) | changed)


def markdown(body: Mapping[str, Any]) -> str:
    """A title and a table: test Dice before and after, and the paired difference of the two ways to choose."""
    rows, added = body["rows"], body["added"]
    settings = "".join(f", {each}" for each in body["settings"] if not each.startswith("threads"))
    lines = [
        f"**One round of correction, left atrium, `{body['method']}`, {body['labeled']} scans with dense labels, then "
        f"{added} more** ({body['form']} form, {rows[0]['device']}, {body['date']}{settings}; "
        f"{_words(body['budget'])}, then {_words(body['budget of the round'])})",
        "",
        "| corrected | runs | Dice of those scans before | test Dice | uncertain - random (95 %) |",
        "| --- | --- | --- | --- | --- |",
        f"| before the round | {len(rows)} | – | {np.mean([row['before'] for row in rows]):.3f} | – |",
    ]
    differences = [row["uncertain"]["mean_dice"] - row["random"]["mean_dice"] for row in rows]
    gain = f"{np.mean(differences):+.3f}"
    if len(rows) > 1:
        low, high = interval(differences)
        gain += f" [{low:+.3f}, {high:+.3f}]"
    for choice, name in CHOICES.items():
        dice = np.mean([row[choice]["mean_dice"] for row in rows])
        values = [value for row in rows for value in row[choice]["cases"].values()]
        before = f"{np.mean(values):.3f}" if values else "–"
        label = f"{added} {name}" if values else name
        lines.append(f"| {label} | {len(rows)} | {before} | {dice:.3f} | {gain if choice == 'uncertain' else '–'} |")
    return "\n".join(lines)


def _words(budget: Sequence[str]) -> str:
    option, number = budget
    return f"{number} {option.removeprefix('--')}"


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = study.parser("correction", __doc__)
    parser.add_argument("--method", default="sgrs", choices=METHODS)
    parser.add_argument("--add", type=int, default=4, help="scans that are corrected")
    parser.add_argument("--more", type=int, help="iterations of the training that goes on, if not as many")
    options = study.parsed(parser, arguments, "la")
    options.networks, options.transductive = ["teacher"], 0
    return options
