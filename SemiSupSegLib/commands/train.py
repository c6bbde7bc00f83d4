"""``train``: a model from a cohort, in a run folder."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

from .. import torchrun
from ..cohort import Cohort
from ..errors import ErrorCode, RunError, SettingsError
from ..runs import RunFolder, RunRequest, State
from ..training_settings import DEFAULT_MINUTES, METHODS, TrainingSettings
from .local_run import check_device, follow
from .set_option import add_set_option

LEADER_SECONDS = 60
"""How long the other processes of torchrun wait for the first to make the run folder."""


def add_to(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "train",
        help="train a model on a cohort",
        epilog="Ctrl+C stops with a checkpoint; --resume goes on there. '--set help' lists every setting.",
    )
    parser.add_argument("cohort", metavar="COHORT.json", type=Path, nargs="?", help="may be left out with --resume")
    parser.add_argument("--method", metavar="M", help=f"one of: {', '.join(METHODS)}; may be left out with --resume")
    parser.add_argument(
        "--out", metavar="RUN", type=Path, help="the run's folder: a new one, or with --resume the stopped run's"
    )
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--minutes", metavar="N", help=f"how long to train (default: {DEFAULT_MINUTES:g})")
    budget.add_argument("--iterations", metavar="N", help="how many steps to train, instead")
    parser.add_argument("--device", metavar="DEVICE", help="auto (default), cpu, cuda, cuda:INDEX or mps")
    parser.add_argument("--seed", metavar="S", help="seed of every random number")
    add_set_option(parser, TrainingSettings, "any other setting")
    parser.add_argument("--resume", action="store_true", help="go on with a run that was stopped")
    parser.add_argument("--json", action="store_true", help="print the run's events, a JSON object a line")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    if options.out is None:
        raise SettingsError("No folder for the run is given.", "Name one with --out.")
    folder = _folder(options)
    if torchrun.restarts() and folder.assess() in (State.FINISHED, State.CANCELLED):
        return 0  # torchrun starts every process again, whichever died and however late
    follow(folder, "Training", as_json=options.json)
    if not options.json and torchrun.is_leader():
        print(f"The model is in '{folder.model}'.")
    return 0


def _folder(options: argparse.Namespace) -> RunFolder:
    if options.resume:
        return _resumed(options)
    if torchrun.restarts() and (options.out / "run.json").is_file():
        return RunFolder.open(options.out)
    return _created(options)


def _created(options: argparse.Namespace) -> RunFolder:
    if options.cohort is None or options.method is None:
        missing, remedy = "cohort", "Name its .json file, or go on with an earlier run with --resume."
        if options.cohort is not None:
            missing, remedy = "method", f"Choose one with --method: {', '.join(METHODS)}."
        raise SettingsError(f"No {missing} is given.", remedy)
    settings = TrainingSettings().with_overrides(_assignments(options))
    if not options.cohort.is_file():
        raise RunError(
            f"There is no cohort '{options.cohort}'.",
            "Name its .json file; 'cohort create' makes one.",
            code=ErrorCode.MISSING_FILE,
        )
    Cohort.load(options.cohort)  # what is no cohort is refused before the run's folder is made
    check_device(settings.device)
    request = RunRequest(
        task="train",
        cohort=str(options.cohort),
        settings=settings.to_json(),
        label=options.out.name,
    )
    return RunFolder.create(options.out, request) if torchrun.is_leader() else _made_by_leader(options.out)


def _resumed(options: argparse.Namespace) -> RunFolder:
    """The folder of a run that goes on: everything stays as it was, only the device may be another."""
    folder = RunFolder.open(options.out)
    request = folder.request()
    if request.task != "train":
        raise RunError(f"The run in '{options.out}' trains nothing.", "Name the folder of a training run.")
    if options.cohort is not None and options.cohort.resolve() != Path(request.cohort).resolve():
        raise SettingsError(
            f"The run in '{options.out}' trains on '{request.cohort}'.", "Leave the cohort out, or start a new run."
        )
    settings = TrainingSettings.from_json(request.settings)
    wanted = _with_changes(settings, _assignments(options))
    if replace(wanted, device=settings.device) != settings:
        is_length = (wanted.minutes, wanted.iterations) != (settings.minutes, settings.iterations)
        raise SettingsError(
            f"A resumed run keeps its {'length' if is_length else 'settings'}; only --device may change.",
            "Leave the others out, or start a new run; it begins with the weights of this one with "
            f"--set warm_start={options.out}.",
        )
    check_device(wanted.device)
    if wanted != settings and torchrun.is_leader():
        folder.update_request(settings={**request.settings, "device": wanted.device})
    return folder


def _with_changes(settings: TrainingSettings, assignments: list[str]) -> TrainingSettings:
    """Settings with some of them changed; minutes take the place of iterations, and the other way round."""
    if any(each.partition("=")[0] in ("minutes", "iterations") for each in assignments):
        settings = replace(settings, minutes=None, iterations=None)
    return settings.with_overrides(assignments)


def _assignments(options: argparse.Namespace) -> list[str]:
    """Everything the person chose, as ``KEY=VALUE``; a plain option counts more than --set."""
    named = [(name, getattr(options, name)) for name in ("method", "minutes", "iterations", "device", "seed")]
    return [*options.set, *(f"{name}={value}" for name, value in named if value is not None)]


def _made_by_leader(path: Path) -> RunFolder:
    deadline = time.monotonic() + LEADER_SECONDS
    while time.monotonic() < deadline:
        if (path / "run.json").is_file():
            return RunFolder.open(path)
        time.sleep(0.1)
    raise RunError(f"The first process didn't make '{path}'.", "Look at what it says.")
