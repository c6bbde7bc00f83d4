"""Predictions measured against references: every case, every class, and their means."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..cohort import Case, Cohort
from ..errors import CohortError, ErrorCode
from ..labels import IGNORE
from ..segmentation_file import read_annotation
from ..volume import resample_labels
from .metrics import MEASURES, CaseScore, score_case, summarise
from .postprocessing import keep_largest_components


def evaluate_folder(
    folder: Path,
    cohort: Cohort,
    cases: Sequence[str] | None = None,
    *,
    largest_component: bool = False,
    on_progress: Callable[[float, str], None] = lambda fraction, text: None,
) -> dict[str, Any]:
    """Score the predictions in a folder against a cohort's dense labels.

    Parameters
    ----------
    folder : pathlib.Path
        Holds ``<case>.seg.nrrd``.
    cases : sequence of str, optional
        Which cases; those that have both a prediction and a dense label if not given.
    largest_component : bool
        Keep each class's largest component before scoring.

    Returns
    -------
    dict
        ``mean_dice``, ``n_cases``, ``classes`` {class: {measure: summary}} and ``cases``
        {case: {class: {measure: value}}}; distances in mm, null where undefined.

    Raises
    ------
    CohortError
        If a case that was asked for has no prediction or no dense label, or if there is nothing to score.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CohortError(
            f"There is no folder '{folder}'.",
            "Predict first, or check the path.",
            code=ErrorCode.MISSING_FILE,
        )
    if not any(case.label is not None for case in cohort.cases):
        raise CohortError(
            "The cohort has no dense label to compare with.",
            "Add complete labels to its cases, or evaluate with a cohort that has them.",
        )
    chosen = [cohort.case(each) for each in cases] if cases else _both(folder, cohort)
    if not chosen:
        raise CohortError(
            f"There is nothing to score in '{folder}'.",
            "It holds no prediction, named <case>.seg.nrrd, of a case that has a dense label.",
            code=ErrorCode.MISSING_FILE,
        )
    for case in chosen:
        _check_pair(case, folder)
    scores = []
    for index, case in enumerate(chosen):
        on_progress(index / len(chosen), f"Scoring {case.id}")
        scores.append(_score(case, folder, cohort, largest_component))
    return report(scores)


def _check_pair(case: Case, folder: Path) -> None:
    if case.label is None:
        raise CohortError(f"Case '{case.id}' has no dense label to compare with.", "Leave it out.")
    if not _prediction_file(case, folder).is_file():
        raise CohortError(
            f"There is no prediction of case '{case.id}' in '{folder}'.",
            "Predict it first.",
            code=ErrorCode.MISSING_FILE,
        )


def _prediction_file(case: Case, folder: Path) -> Path:
    return folder / f"{case.id}.seg.nrrd"


def _score(case: Case, folder: Path, cohort: Cohort, largest_component: bool) -> CaseScore:
    geometry = cohort.read_geometry(case)
    truth = cohort.read_label(case)
    prediction, grid = read_annotation(_prediction_file(case, folder), None, cohort.schema)
    if not grid.same_grid(geometry):
        prediction = resample_labels(prediction, grid, geometry)
        prediction = np.where(prediction == IGNORE, 0, prediction)
    if largest_component:
        prediction = keep_largest_components(prediction, range(1, cohort.schema.n_classes))
    return CaseScore(case.id, score_case(prediction, truth, cohort.schema.names, geometry.spacing))


def report(scores: Sequence[CaseScore]) -> dict[str, Any]:
    """Scores as plain JSON values, with means over cases."""
    return {
        "mean_dice": _mean([score.mean("dice") for score in scores]),
        "n_cases": len(scores),
        "classes": {
            name: {measure: _numbers(dataclasses.asdict(summary)) for measure, summary in measures.items()}
            for name, measures in summarise(scores).items()
        },
        "cases": {
            score.case: {
                name: {measure: _number(getattr(each, measure)) for measure in MEASURES}
                for name, each in score.classes.items()
            }
            for score in scores
        },
    }


def _both(folder: Path, cohort: Cohort) -> list[Case]:
    return [case for case in cohort.cases if case.label is not None and _prediction_file(case, folder).is_file()]


def _mean(values: Sequence[float]) -> float | None:
    known = [value for value in values if math.isfinite(value)]
    return float(np.mean(known)) if known else None


def _numbers(values: dict[str, float]) -> dict[str, float | None]:
    return {key: _number(value) for key, value in values.items()}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
