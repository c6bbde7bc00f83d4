"""``demo``: the whole road on made-up scans, or on a cohort of yours, with a report and a picture."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..files import explained
from ..progress import duration
from ..training_settings import METHODS, TrainingSettings

MINUTES = 1.5
"""Training time; on two cores all of the demo then takes less than three minutes."""


def add_to(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "demo", help="train, predict and measure on made-up scans, or on a cohort of yours, and draw a picture of it"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="the folder of everything that is made")
    parser.add_argument("--cohort", metavar="COHORT.json", type=Path, help="a cohort of yours (default: made-up scans)")
    parser.add_argument("--method", metavar="M", default="sp3", help=f"one of: {', '.join(METHODS)} (default: sp3)")
    parser.add_argument("--minutes", metavar="N", default=MINUTES, help=f"how long to train (default: {MINUTES})")
    parser.add_argument(
        "--device", metavar="DEVICE", default="auto", help="auto (default), cpu, cuda, cuda:INDEX or mps"
    )
    parser.add_argument("--seed", metavar="S", default=0, help="seed of every random number (default: 0)")
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    names = ("method", "minutes", "device", "seed")
    settings = TrainingSettings().with_overrides(f"{name}={getattr(options, name)}" for name in names)
    with explained("make the folder", options.out):
        options.out.mkdir(parents=True, exist_ok=True)

    from ..learning.demo import run_demo

    report = run_demo(options.out, settings, options.cohort)
    if options.json:
        print(json.dumps(report, indent=2))
        return 0
    if report["mean_dice"] is not None:
        by_class = ", ".join(f"{name} {dice:.3f}" for name, dice in report["dice"].items())
        print(f"Mean Dice of {report['cases_scored']} cases that training saw no label of: {report['mean_dice']:.3f}")
        print(f"  by class: {by_class}")
    print(f"{duration(report['seconds'])} in all, on {report['device']}")
    print(f"Report, picture, segmentations and run are in '{options.out}'.")
    return 0
