"""A study: methods compared in paired runs (same labeled scans, same seed), in a queue that resumes where it stopped.

Every run goes through the command line as a user's would: train, predict, evaluate. What is finished is never done
again: call the same command until it says that all runs are done.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from SemiSupSegLib.cohort import Cohort
from SemiSupSegLib.errors import SemiSupSegError, SettingsError
from SemiSupSegLib.files import read_json, write_json_atomically, write_text_atomically
from SemiSupSegLib.runs import RunFolder
from SemiSupSegLib.settings import flat
from SemiSupSegLib.training_settings import METHODS, TrainingSettings

from .doubt import pointed_slices
from .protocols import FOLDS, LAYOUT, PUBLISHED_LA, Split, acdc_splits, hippocampus_splits, la_splits
from .statistics import compare

PUBLISHED_ITERATIONS = 6000
_MISSING = object()
_TRANSDUCTIVE_CASES = 20
"""Unlabeled training scans that are predicted for transductive Dice in the quick form."""
_NO_VARIANT = {"method", "seed", "minutes", "iterations", "device", "warm_start"}
"""What every run of a study has in its own way, so that a variant can't."""


def main(protocol: str, arguments: Sequence[str]) -> int:
    """Run what is left of a study, store its results, print its table."""
    options = _parse(protocol, arguments)
    splits = _splits(protocol, options)
    options.work.mkdir(parents=True, exist_ok=True)
    rows, began, finished = [], time.monotonic(), True
    for split in splits:
        for method in options.methods:
            left = None if options.seconds is None else options.seconds - (time.monotonic() - began)
            row = run(split, method, options, left)
            if row is None:
                finished = False
                continue
            rows.append(row)
            _store(protocol, options, rows, sum(case.labeled for case in split.cohort.cases))
    print(table(rows))
    print("all runs are done" if finished else "some runs are left: call the same command again")
    return 0 if finished else 3


def run(split: Split, method: str, options: argparse.Namespace, seconds_left: float | None) -> dict[str, Any] | None:
    """One method on one split; None if the time was up before it was done."""
    folder = options.work / f"{split.name}-{method}"
    result = folder / "result.json"
    _check_that_it_fits(folder, split, _wanted(split, method, options))
    row = read_json(result, "a result") if result.is_file() else _trained(split, method, folder, options, seconds_left)
    if row is None:
        return None
    groups = {"test": split.test, "unlabeled": split.unlabeled[: options.transductive]}
    for network in options.networks:
        for group, cases in groups.items():
            if cases and f"{group} {network}" not in row:
                row[f"{group} {network}"] = scores(folder, network, group, cases)
    return _with_pointed_slices(row, folder, result)


def _wanted(split: Split, method: str, options: argparse.Namespace) -> TrainingSettings:
    option, number = budget(options, method)
    name, changes = parts(method)
    given = [f"method={name}", f"seed={split.seed}", f"{option.removeprefix('--')}={number}"]
    return TrainingSettings().with_overrides([*settings_of(options), *changes, *given])


def _check_that_it_fits(folder: Path, split: Split, wanted: TrainingSettings) -> None:
    """Raise `SemiSupSegError` where a run that is there already was asked for otherwise, or had other defaults."""
    if (folder / "cohort.json").is_file():
        labeled = {case.id for case in Cohort.load(folder / "cohort.json").cases if case.labeled}
        if labeled != {case.id for case in split.cohort.cases if case.labeled}:
            raise SemiSupSegError(f"The run in '{folder}' has other labeled scans.", "Choose another --work.")
    check_settings(folder / "run", wanted)


def check_settings(training: Path, wanted: TrainingSettings) -> None:
    """Raise `SemiSupSegError` where a run is there already and has other settings, or an older version's defaults."""
    others = unlike(wanted, RunFolder.open(training).details()["settings"]) if (training / "run.json").is_file() else []
    if others:
        raise SemiSupSegError(
            f"The run in '{training}' has other settings, or an older version's defaults: {', '.join(others)}.",
            "Choose another --work.",
        )


def unlike(wanted: TrainingSettings, stored: Mapping[str, Any]) -> list[str]:
    """Keys of settings that matter to a training's result and differ from stored ones, or are missing there."""
    stored = flat(stored)
    ignored = ("device", "threads", "checkpoint_minutes", *(f"{each}." for each in METHODS if each != wanted.method))
    return [
        key
        for key, value in flat(wanted.to_json()).items()
        if not key.startswith(ignored) and stored.get(key, _MISSING) != value
    ]


def _trained(
    split: Split, method: str, folder: Path, options: argparse.Namespace, seconds_left: float | None
) -> dict[str, Any] | None:
    """What is known of a run when its training is done; None if the time was up before."""
    if seconds_left is not None and seconds_left <= 0:
        return None
    folder.mkdir(exist_ok=True)
    cohort = folder / "cohort.json"
    if not cohort.is_file():
        split.cohort.save(cohort)
    training = folder / "run"
    name, changes = parts(method)
    command = ["train", str(cohort), "--method", name, "--out", str(training), "--seed", str(split.seed)]
    command += ["--device", options.device, *budget(options, method)]
    for assignment in (*settings_of(options), *changes):
        command += ["--set", assignment]
    if training.is_dir():
        command.append("--resume")
    if not _call(command, seconds_left):
        return None
    summary = read_json(training / "model" / "model.json", "a model")["summary"]
    details = RunFolder.open(training).details()
    return {
        "method": method,
        "split": split.name,
        "seed": split.seed,
        **{key: summary[key] for key in ("iterations", "seconds", "device", "versions")},
        "settings": details["settings"],
        "plan": details["plan"],
        "clean test": list(split.clean_test),
    }


def _with_pointed_slices(row: dict[str, Any], folder: Path, result: Path) -> dict[str, Any]:
    """A run's row, stored, with what its uncertainty points at as long as the predictions lie there."""
    for group in ("test teacher", "unlabeled teacher"):
        predictions = folder / group.replace(" ", "-")
        if group in row and "slices" not in row[group] and predictions.is_dir():
            cohort = Cohort.load(folder / "cohort.json")
            row[group]["slices"] = pointed_slices(predictions, cohort, list(row[group]["cases"]))
    write_json_atomically(result, row)
    return row


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Mean and paired differences as text."""
    lines = [f"{'method':<20}{'runs':>5}{'test Dice':>12}{'HD95 mm':>9}{'unlabeled':>11}{'clean':>8}{'student':>9}"]
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == method]
        cells = [
            np.mean([row["test teacher"]["mean_dice"] for row in mine]),
            np.mean([_mean_of_cases(row, "hd95") for row in mine]),
            _nanmean([row.get("unlabeled teacher", {}).get("mean_dice") for row in mine]),
            _nanmean([_mean_of_cases(row, "dice", row["clean test"]) for row in mine]),
            _nanmean([row.get("test student", {}).get("mean_dice") for row in mine]),
        ]
        lines.append(f"{method:<20}{len(mine):>5}{cells[0]:>12.4f}{cells[1]:>9.2f}{cells[2]:>11.4f}"
                     f"{cells[3]:>8.4f}{cells[4]:>9.4f}")  # fmt: skip
    for line in compare(rows):
        lines.append(f"{line['method']} - {line['baseline']}: {line['difference']:+.4f} "
                     f"[{line['low']:+.4f}, {line['high']:+.4f}] in {line['runs']} runs, {line['better']} better, "
                     f"p (Holm) {line['p_holm']:.3f}")  # fmt: skip
    return "\n".join(lines)


def scores(folder: Path, network: str, group: str, cases: Sequence[str]) -> dict[str, Any]:
    """Predictions and scores of some cases by the model of a run's folder; what it has predicted already is read."""
    out, stored, cohort = folder / f"{group}-{network}", folder / f"{group}-{network}.json", folder / "cohort.json"
    if not _are_scores_of(stored, folder / "run" / "model" / "model.json", cases):
        if not _call(["predict", str(folder / "run"), str(cohort), "--out", str(out), "--cases", *cases,
                      "--set", f"network={network}", "--set", "uncertainty=true"]):  # fmt: skip
            raise SystemExit(f"the prediction of {folder.name} failed")
        if not _call(["evaluate", str(out), str(cohort), "--cases", *cases, "--json", str(stored)]):
            raise SystemExit(f"the evaluation of {folder.name} failed")
    body = read_json(stored, "scores")
    body["uncertainty"] = read_json(out / "predictions.json", "the predictions' uncertainty")["uncertainty"]
    return body


def _are_scores_of(stored: Path, model: Path, cases: Sequence[str]) -> bool:
    """Whether there are scores of these cases by this model: not by one that lay there before."""
    if not stored.is_file() or stored.stat().st_mtime_ns < model.stat().st_mtime_ns:
        return False
    return set(read_json(stored, "scores")["cases"]) == set(cases)


def _call(command: Sequence[str], seconds: float | None = None) -> bool:
    """Run the command line; False where it was cancelled because the time was up."""
    print("$ SemiSupSegLib", " ".join(command[:8]), "…", flush=True)
    process = subprocess.Popen([sys.executable, "-m", "SemiSupSegLib", *command], stdout=subprocess.DEVNULL)
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        import signal

        process.send_signal(signal.SIGINT)
        process.wait()
        return False
    if code == 3:
        return False
    if code != 0:
        raise SystemExit(f"exit code {code} of: {' '.join(command)}")
    return True


def parts(method: str) -> tuple[str, list[str]]:
    """A method's name and the settings that are changed: ``partial+far_background=on`` is a variant of `partial`."""
    name, *changes = method.split("+")
    return name, changes


def _method(text: str) -> str:
    name, changes = parts(text)
    if name not in METHODS:
        raise argparse.ArgumentTypeError(f"'{name}' is none of {', '.join(METHODS)}")
    fixed = [each for each in changes if each.partition("=")[0].strip() in _NO_VARIANT]
    if fixed:
        raise argparse.ArgumentTypeError(f"a study says {', '.join(fixed)} by itself")
    try:
        TrainingSettings().with_overrides([*changes, f"method={name}"])
    except SettingsError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def budget(options: argparse.Namespace, method: str) -> list[str]:
    named = (options.iterations.get(each) for each in (method, parts(method)[0], None))
    iterations = next((each for each in named if each), None)
    if iterations:
        return ["--iterations", str(iterations)]
    return ["--minutes", str(options.minutes)] if options.quick else ["--iterations", str(PUBLISHED_ITERATIONS)]


def settings_of(options: argparse.Namespace) -> list[str]:
    return [*(() if options.quick or options.protocol != "la" else PUBLISHED_LA), *options.set]


def _splits(protocol: str, options: argparse.Namespace) -> list[Split]:
    if protocol == "la":
        return la_splits(options.data, labeled=options.labeled, runs=options.seeds, scribbles=options.scribbles)
    if protocol == "acdc":
        return acdc_splits(options.data, runs=options.seeds)
    return hippocampus_splits(options.data, labeled=options.labeled, runs=options.seeds)


def _store(protocol: str, options: argparse.Namespace, rows: list[dict[str, Any]], labeled: int) -> None:
    body = {
        "protocol": protocol,
        "form": "quick" if options.quick else "published",
        "labeled": labeled,
        "annotation": "scribbles" if options.scribbles or protocol == "acdc" else "dense",
        "budget": {method: budget(options, method) for method in options.methods},
        "settings": settings_of(options),
        **machine(),
        "comparisons": compare(rows),
        "rows": rows,
    }
    short = json.loads(json.dumps(body), parse_float=_six_digits)
    write_text_atomically(options.out, json.dumps(short, indent=1, allow_nan=False) + "\n")


def _six_digits(number: str) -> float:
    """No measure here means more."""
    return float(f"{float(number):.6g}")


def machine() -> dict[str, Any]:
    """When and on what it was computed."""
    return {
        "date": datetime.date.today().isoformat(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
    }


def _count(text: str) -> tuple[str | None, int]:
    method, _, number = text.rpartition("=")
    return method or None, int(number)


def _mean_of_cases(row: dict[str, Any], measure: str, cases: Sequence[str] | None = None) -> float:
    scored = row["test teacher"]["cases"]
    chosen = scored if cases is None else [case for case in scored if case in cases]
    values = [each[measure] for case in chosen for each in scored[case].values()]
    return _nanmean(values)


def _nanmean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else float("nan")


def parser(name: str, description: str) -> argparse.ArgumentParser:
    """Options of everything that runs trainings of a protocol."""
    made = argparse.ArgumentParser(
        prog=f"python -m Testing.Benchmarks {name}",
        description=description,
        epilog=LAYOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--data", type=Path, default=os.environ.get("SEMISUPSEG_DATA"), help="folder of the data sets")
    made.add_argument("--labeled", type=int, default=4, help="annotated training scans")
    made.add_argument("--seeds", type=int, default=FOLDS, help="paired runs")
    made.add_argument("--quick", action="store_true", help="small network and reduced spacing, for a CPU")
    made.add_argument("--minutes", type=float, default=5.0, help="training time of a quick run")
    made.add_argument(
        "--iterations", type=_count, nargs="+", default=[], metavar="[METHOD=]N", help="iterations of a run instead; "
        "by method, for equal computing on a machine that has other things to do too",
    )  # fmt: skip
    made.add_argument("--device", default="auto")
    made.add_argument("--seconds", type=float, help="stop after so long; the same command goes on")
    made.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of every training")
    made.add_argument("--work", type=Path, default=Path("benchmark-runs"), help="folder of the runs")
    made.add_argument("--out", type=Path, required=True, help="JSON file of the results")
    return made


def parsed(made: argparse.ArgumentParser, arguments: Sequence[str], protocol: str) -> argparse.Namespace:
    """The options that a protocol is run with."""
    options = made.parse_args(arguments)
    options.protocol = protocol
    options.iterations = dict(options.iterations)
    if options.data is None:
        made.error("say where the data sets lie: --data, or the variable SEMISUPSEG_DATA")
    options.data = Path(options.data)
    return options


def _parse(protocol: str, arguments: Sequence[str]) -> argparse.Namespace:
    made = parser(protocol, __doc__)
    made.add_argument("--networks", nargs="+", default=["teacher", "student"], choices=("teacher", "student", "best"))
    made.add_argument("--transductive", type=int, default=_TRANSDUCTIVE_CASES, help="unlabeled scans to predict")
    made.add_argument(
        "--methods", nargs="+", default=["supervised"], type=_method, metavar="METHOD[+KEY=VALUE]",
        help=f"of {', '.join(METHODS)}, perhaps with settings of its own",
    )  # fmt: skip
    made.add_argument("--scribbles", action="store_true", help="annotated by scribbles instead of densely")
    return parsed(made, arguments, protocol)
