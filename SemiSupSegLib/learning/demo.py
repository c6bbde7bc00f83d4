"""The whole road in one go: a cohort, a training, predictions, their scores, and a picture of it all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..cohort import Case, Cohort, Role
from ..commands.local_run import follow
from ..commands.predict import predict
from ..errors import CohortError, ErrorCode
from ..files import write_json_atomically
from ..phantom import make_phantom_cohort
from ..progress import ProgressBar
from ..runs import RunFolder, RunRequest
from ..segmentation_file import read_annotation
from ..superpixels import SuperpixelSettings, cached_superpixels
from ..training_settings import PredictionSettings, TrainingSettings
from ..volume import Geometry
from .array_cache import cache_folder
from .demo_picture import PictureRow, draw
from .evaluation import evaluate_folder
from .plan import Plan, prepare_image

REPORT_VERSION = 1
SHOWN_PREDICTIONS = 2


def run_demo(out: Path, settings: TrainingSettings, cohort_file: Path | None = None) -> dict[str, Any]:
    """Train, predict what was not annotated, measure it, and write ``report.json`` and ``demo.png``.

    Parameters
    ----------
    out : Path
        Folder of everything that is made.
    settings : TrainingSettings
        How to train.
    cohort_file : Path, optional
        A cohort; a made-up one if not given.

    Returns
    -------
    dict
        What stands in ``report.json``; see Documentation/json.md.
    """
    watch = _StopWatch()
    with watch("cohort"):
        cohort = make_phantom_cohort(out / "cohort") if cohort_file is None else Cohort.load(cohort_file)
        predicted = [case for case in cohort.cases if not (case.role == Role.TRAIN and case.annotated)]
        if not predicted:
            raise CohortError("Every case is annotated: nothing is left to predict.", "Add scans without annotation.")
    with watch("training"):
        run = _new_run(out / "runs", cohort, settings)
        follow(run, "Training")
    shown_annotated = next(case for case in cohort.cases_of(Role.TRAIN) if case.annotated)
    with watch("prediction"):
        predict(
            run.model,
            [Path(cohort.path)],
            out / "segmentations",
            PredictionSettings(device=settings.device, uncertainty=True),
            cases=[case.id for case in (shown_annotated, *predicted)],
        )
    with watch("evaluation"):
        scores = _scores(out / "segmentations", cohort, predicted)
    with watch("picture"):
        shown = [shown_annotated, *_typical(predicted, scores)]
        _draw(out / "demo.png", cohort, run, shown, out / "segmentations", scores)
    report = _report(out, run, settings, scores, len(predicted), watch)
    write_json_atomically(out / "report.json", report)
    return report


def _new_run(folder: Path, cohort: Cohort, settings: TrainingSettings) -> RunFolder:
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{settings.method}"
    request = RunRequest(task="train", cohort=str(cohort.path), settings=settings.to_json(), label=name)
    return RunFolder.create(folder / name, request)


def _scores(folder: Path, cohort: Cohort, predicted: Sequence[Case]) -> dict[str, Any] | None:
    """Scores of the predicted cases whose truth is known; None where there is none."""
    known = [case.id for case in predicted if case.label is not None]
    if not known:
        return None
    with ProgressBar("Evaluating") as bar:
        return evaluate_folder(folder, cohort, known, on_progress=bar.update)


def _report(
    out: Path,
    run: RunFolder,
    settings: TrainingSettings,
    scores: dict[str, Any] | None,
    n_predicted: int,
    watch: _StopWatch,
) -> dict[str, Any]:
    details = run.details()
    classes = scores["classes"] if scores else {}
    return {
        "schema_version": REPORT_VERSION,
        "mean_dice": scores["mean_dice"] if scores else None,
        "dice": {name: measures["dice"]["mean"] for name, measures in classes.items()},
        "hd95_mm": {name: measures["hd95"]["mean"] for name, measures in classes.items()},
        "cases_predicted": n_predicted,
        "cases_scored": scores["n_cases"] if scores else 0,
        "seconds": round(sum(watch.seconds.values()), 1),
        "seconds_of": {name: round(seconds, 1) for name, seconds in watch.seconds.items()},
        "device": details["device"],
        "method": settings.method,
        "iterations": details["iterations"],
        "seed": settings.seed,
        "versions": details["versions"],
        "run": run.path.relative_to(out.resolve()).as_posix(),
        "segmentations": "segmentations",
        "picture": "demo.png",
    }


def _typical(predicted: Sequence[Case], scores: dict[str, Any] | None) -> list[Case]:
    """The predicted cases to show: the one in the middle and the worst by Dice, or the first where none is scored."""
    if scores is None:
        return list(predicted[:SHOWN_PREDICTIONS])
    by_id = {case.id: case for case in predicted}
    ranked = sorted(scores["cases"], key=lambda case: _mean_dice(scores, case))
    chosen = dict.fromkeys((ranked[len(ranked) // 2], ranked[0]))
    return [by_id[case] for case in chosen]


def _mean_dice(scores: dict[str, Any], case: str) -> float:
    known = [each["dice"] for each in scores["cases"][case].values() if each["dice"] is not None]
    return statistics.fmean(known) if known else 0.0


def _draw(
    file: Path,
    cohort: Cohort,
    run: RunFolder,
    shown: Sequence[Case],
    segmentations: Path,
    scores: dict[str, Any] | None,
) -> None:
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise CohortError(
            "The picture needs matplotlib, which isn't installed.",
            "Install it: python -m pip install matplotlib.",
            code=ErrorCode.PACKAGES_MISSING,
        ) from error
    settings = TrainingSettings.from_json(run.request().settings)
    plan = Plan.from_json(run.details()["plan"])
    rows = [_row(cohort, case, run, settings, plan, segmentations, scores) for case in shown]
    title = f"{settings.method}, {run.details()['iterations']} iterations"
    if scores:
        title += f": mean Dice {scores['mean_dice']:.3f} on {scores['n_cases']} cases that training saw no label of"
    draw(file, rows, run.metrics(), cohort.schema, title)


def _row(
    cohort: Cohort,
    case: Case,
    run: RunFolder,
    settings: TrainingSettings,
    plan: Plan,
    segmentations: Path,
    scores: dict[str, Any] | None,
) -> PictureRow:
    volume = cohort.read_image(case)
    annotation = cohort.read_training_annotation(case)
    title = f"{case.id}\nannotated"
    if annotation is None:
        known = scores is not None and case.id in scores["cases"]
        title = f"{case.id}\nDice {_mean_dice(scores, case.id):.3f}" if known else case.id
    return PictureRow(
        title=title,
        image=volume.array,
        spacing=volume.geometry.spacing,
        superpixels=_superpixels(cohort, volume, run, settings, plan),
        prediction=read_annotation(segmentations / f"{case.id}.seg.nrrd", None, cohort.schema)[0],
        scribble=annotation,
        truth=cohort.read_label(case) if case.label is not None else None,
    )


def _superpixels(cohort: Cohort, volume, run: RunFolder, settings: TrainingSettings, plan: Plan) -> np.ndarray:
    """The superpixels that training uses, on the image's own grid."""
    prepared = prepare_image(volume, plan)
    options = SuperpixelSettings(
        size_mm=settings.sp3.superpixel_size, compactness=settings.sp3.compactness, dimensions=plan.dimensions
    )
    ids = cached_superpixels(
        cache_folder(cohort, run.path),
        prepared.array.astype(np.float16),  # as training holds it: then they are in the cache
        prepared.geometry.spacing,
        options,
    )
    return _nearest(ids, prepared.geometry, volume.geometry)


def _nearest(ids: np.ndarray, source: Geometry, target: Geometry) -> np.ndarray:
    """Ids on another grid that has the same axes."""
    to_source = target.index_map(source)
    indices = [
        np.clip(np.rint(to_source[axis, axis] * np.arange(target.size[axis]) + to_source[axis, 3]), 0, limit - 1)
        for axis, limit in enumerate(source.size)
    ]
    return ids[np.ix_(*(index.astype(int) for index in reversed(indices)))]


class _StopWatch:
    """Seconds that each named part took."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.seconds[part] = time.monotonic() - start
