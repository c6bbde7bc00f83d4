"""One training for each switch of a method: what each of its parts is worth, in paired runs (same cohort, same seed).

    python -m Testing.Benchmarks ablation --method sp3 --cohort cohort.json --minutes 5 --out ablation-sp3.json

The cohort's test cases are scored, or its validation cases where it has none. A run that was broken off goes on when
the same command is given again, and what is finished is never done again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from SemiSupSegLib.cohort import Cohort, Role
from SemiSupSegLib.files import read_json, write_json_atomically
from SemiSupSegLib.models import Model
from SemiSupSegLib.runs import RunFolder, RunRequest
from SemiSupSegLib.training_settings import PredictionSettings, TrainingSettings

from .statistics import interval
from .study import check_settings

FULL = "full"

SWITCHES: dict[str, dict[str, tuple[str, ...]]] = {
    "sp3": {
        "without expansion": ("sp3.expansion_weight=0",),
        "surroundings unknown": ("far_background=off",),
        "classes not balanced": ("sp3.class_balance=0",),
        "pseudo-labels balanced": ("sp3.pseudo_balance=0.4",),
        "certainty takes share": ("sp3.pseudo_balance=0",),
        "volumes not aligned": ("sp3.align_volumes=false",),
        "without pseudo-labels": ("sp3.pseudo_weight=0",),
        "pseudo-labels at full weight": ("sp3.pseudo_weight=1",),
        "pseudo-labels of voxels": ("sp3.refinement=false", "sp3.uncertainty_weights=false"),
        "without refinement": ("sp3.refinement=false",),
        "fixed threshold 0.7": ("sp3.dynamic_threshold=false", "sp3.fixed_threshold=0.7"),
        "fixed threshold 0.9": ("sp3.dynamic_threshold=false", "sp3.fixed_threshold=0.9"),
        "without uncertainty": ("sp3.uncertainty_weights=false",),
        "other superpixels discarded": ("sp3.discard_others=true",),
        "conflicts by majority": ("sp3.conflict=majority",),
    },
    "sgrs": {
        "plain view unchanged": ("sgrs.strong_view=false",),
        "surroundings unknown": ("far_background=off",),
        "without mixing": ("sgrs.mixing=false",),
        "without regions": ("sgrs.regions=false",),
        "consistent region only": ("sgrs.inconsistent_region=false",),
        "nothing disregarded": ("sgrs.uncertain_rule=none",),
        "uncertain by entropy": ("sgrs.uncertain_rule=entropy",),
        "without label smoothing": ("sgrs.label_smoothing=0",),
        "teacher without dropout": ("sgrs.teacher_dropout=false",),
        "ramp as published": ("schedule.unlabeled_start=0", "schedule.unlabeled_ramp=0.4"),
        "published code": ("sgrs.legacy=true",),
    },
    "embedding_matching": {
        "L_UA only": ("embedding_matching.matching_loss=false", "embedding_matching.entropy_loss=false"),
        "L_UA and L_NN": ("embedding_matching.entropy_loss=false",),
        "L_UA and L_EN": ("embedding_matching.matching_loss=false",),
        "surroundings unknown": ("far_background=off",),
        "not centred": ("embedding_matching.centred=off",),
        "cosine, maximum": ("embedding_matching.reduce=max",),
        "Euclidean, mean": ("embedding_matching.kernel=euclidean",),
        "Euclidean, maximum": ("embedding_matching.kernel=euclidean", "embedding_matching.reduce=max"),
        "references pooled": ("embedding_matching.pooled=true",),
        "weights as published": (
            "embedding_matching.uncertainty_weight=0.25",
            "embedding_matching.pseudo_weight=0.125",
        ),
        "dropout as published": ("embedding_matching.dropout=0.15",),
        "means over unreliable voxels": ("embedding_matching.over_unreliable=true",),
        "schedule as published": ("embedding_matching.published_schedule=true",),
    },
    "mean_teacher": {
        "without consistency": ("mean_teacher.weight=0",),
        "surroundings unknown": ("far_background=off",),
        "without noise": ("mean_teacher.noise=0",),
        "teacher without dropout": ("mean_teacher.teacher_dropout=false",),
    },
    "ua_mt": {
        "without consistency": ("ua_mt.weight=0",),
        "surroundings unknown": ("far_background=off",),
        "one pass": ("ua_mt.passes=1",),
        "without noise": ("ua_mt.noise=0",),
    },
}
"""Of each method, the parts that its paper ablates (or that are worth it), and the settings that switch them."""


@dataclass(frozen=True)
class Variant:
    """A method with some of its parts switched."""

    name: str
    method: str
    assignments: tuple[str, ...] = ()


def variants(method: str) -> list[Variant]:
    """The whole method, its variants, and the baseline that has none of it."""
    switched = [Variant(name, method, assignments) for name, assignments in SWITCHES[method].items()]
    return [Variant(FULL, method), *switched, Variant("partial", "partial")]


def main(arguments: Sequence[str]) -> int:
    """Train, predict and score what is left of an ablation; store the results, print the table."""
    options = _parse(arguments)
    cohort = Cohort.load(options.cohort)
    tests, validation = (
        [each.id for each in cohort.cases_of(role) if each.label] for role in (Role.TEST, Role.VALIDATION)
    )
    tests = tests or validation
    if not tests:
        raise SystemExit("The cohort has neither test nor validation cases with a dense label.")
    rows = []
    for seed in range(options.seeds):
        for variant in variants(options.method):
            row = run(variant, seed, tests, options)
            if row is None:
                print("stopped: the same command goes on")
                return 3
            rows.append(row)
            write_json_atomically(
                options.out,
                {"method": options.method, "cohort": str(options.cohort.name), "cases": tests, "rows": rows},
            )
    print(table(rows))
    return 0


def run(variant: Variant, seed: int, cases: Sequence[str], options: argparse.Namespace) -> dict[str, Any] | None:
    """One training and its scores; None where it was cancelled."""
    from SemiSupSegLib.learning.evaluation import evaluate_folder
    from SemiSupSegLib.learning.worker import run_locally

    folder = options.work / f"{variant.name.replace(' ', '-').replace(',', '')}-{seed}"
    result = folder / "result.json"
    settings = TrainingSettings().with_overrides(
        [f"method={variant.method}", f"seed={seed}", f"device={options.device}", *options.set, *variant.assignments]
        + ([f"iterations={options.iterations}"] if options.iterations else [f"minutes={options.minutes}"])
    )
    check_settings(folder / "run", settings)
    if result.is_file():
        return read_json(result, "a result")
    print(f"{variant.name}, seed {seed}", flush=True)
    exclusive = options.iterations is None  # a budget of time is fair only if nobody else uses the device
    request = RunRequest("train", str(options.cohort), settings.to_json(), exclusive=exclusive)
    training = _folder(folder / "run", request)
    if not _do(training, run_locally):
        return None
    out = folder / "out"
    wanted = {"prediction": PredictionSettings().to_json(), "cases": list(cases), "out": str(out.resolve())}
    request = RunRequest("predict", str(options.cohort), wanted, model=str(training.path), exclusive=exclusive)
    if not _do(_folder(folder / "prediction", request), run_locally):
        return None
    scores = evaluate_folder(out, Cohort.load(options.cohort), cases)
    details = training.details()
    row = {
        "variant": variant.name,
        "settings": variant.assignments,
        "seed": seed,
        "iterations": details["iterations"],
        "seconds": Model.load(training.path).summary["seconds"],
        "device": details["device"],
        "versions": details["versions"],
        "mean_dice": scores["mean_dice"],
        "classes": scores["classes"],
    }
    write_json_atomically(result, row)
    return row


def _folder(path: Path, request: RunRequest) -> RunFolder:
    return RunFolder.open(path) if (path / "run.json").is_file() else RunFolder.create(path, request)


def _do(folder: RunFolder, run_locally) -> bool:
    """Do what a run asks for unless it is done; False where it was cancelled."""
    if folder.manifest_file.is_file() and folder.verify_manifest(checksums=False)["outcome"] == "finished":
        return True
    code = run_locally(folder)
    if code not in (0, 3):
        raise SystemExit(f"The run in '{folder.path}' failed: see its log.")
    return code == 0


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Mean Dice of each variant and its difference from the whole method, with a 95 % interval over paired runs."""
    lines = [f"{'variant':<30}{'runs':>5}{'Dice':>9}{'difference from full':>32}"]
    dice = {(row["variant"], row["seed"]): row["mean_dice"] for row in rows}
    for name in dict.fromkeys(row["variant"] for row in rows):
        seeds = [seed for variant, seed in dice if variant == name]
        line = f"{name:<30}{len(seeds):>5}{np.mean([dice[name, seed] for seed in seeds]):>9.4f}"
        differences = np.array([dice[name, seed] - dice[FULL, seed] for seed in seeds if (FULL, seed) in dice])
        if name != FULL and len(differences):
            line += f"{differences.mean():>+12.4f}"
            if len(differences) > 1:
                low, high = interval(differences)
                line += f"  [{low:+.4f}, {high:+.4f}]"
        lines.append(line)
    return "\n".join(lines)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m Testing.Benchmarks ablation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--method", required=True, choices=SWITCHES)
    parser.add_argument("--cohort", required=True, type=Path)
    parser.add_argument("--seeds", type=int, default=3, help="paired runs of every variant")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--minutes", type=float, default=5.0, help="training time of a run")
    budget.add_argument("--iterations", type=int, help="iterations of a run, instead")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of every training")
    parser.add_argument("--work", type=Path, default=Path("ablation-runs"), help="folder of the runs")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the results")
    return parser.parse_args(arguments)
