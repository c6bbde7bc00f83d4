"""The cohort as a table for people: a row a case, what is known of it and what is to be done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..cohort import Case, Cohort
from ..errors import SemiSupSegError
from ..labels import IGNORE
from ..volume import read_geometry
from .predictions import PredictionStore


@dataclass(frozen=True)
class CaseRow:
    """One case as the table shows it.

    Parameters
    ----------
    id : str
    dimensions : tuple of int or None
        Voxels along i, j, k; None where the file can't be read.
    spacing : tuple of float or None
        Millimetres along i, j, k.
    annotation : str
        "none", "scribbles" or "dense"; "scribbles" where both train.
    annotated_fraction : float
        Share of the voxels that are annotated, 0..1.
    role : str
        "train", "validation" or "test".
    labeled : bool
        Whether the annotation trains, or is kept for evaluation.
    has_prediction : bool
    uncertainty : float or None
        Of the whole scan, 0..1, where it was predicted.
    status : str
        "error", "annotated", "predicted" or "new".
    problem : str
        What is wrong with it, in a sentence, for status "error".
    has_reference : bool
        Whether it has a dense label, which its prediction can be measured by.
    """

    id: str
    dimensions: tuple[int, int, int] | None
    spacing: tuple[float, float, float] | None
    annotation: str
    annotated_fraction: float
    role: str
    labeled: bool
    has_prediction: bool
    uncertainty: float | None
    status: str
    problem: str = ""
    has_reference: bool = False


class CaseTable:
    """Makes the rows; files that haven't changed since the last time aren't read again."""

    def __init__(self):
        self._known: dict[tuple, object] = {}

    def rows(self, cohort: Cohort, predictions: PredictionStore) -> list[CaseRow]:
        """A row for each case, in the cohort's order; what is wrong with one stands in its row, nothing is raised."""
        return [self._row(cohort, case, predictions) for case in cohort.cases]

    def _row(self, cohort: Cohort, case: Case, predictions: PredictionStore) -> CaseRow:
        dimensions = spacing = None
        fraction, problem = 0.0, ""
        kind = "scribbles" if case.scribble is not None else "dense" if case.label is not None else "none"
        try:
            geometry = self._remembered("geometry", case.image, lambda: read_geometry(case.image))
            dimensions, spacing = geometry.size, geometry.spacing
            if kind != "none":
                file = case.scribble or case.label
                fraction = self._remembered(kind, file.path, lambda: _annotated_fraction(cohort, case))
        except SemiSupSegError as error:
            problem = f"{error.message} {error.remedy}"
        prediction = predictions.get(case.id)
        status = "error" if problem else "annotated" if case.annotated else "predicted" if prediction else "new"
        return CaseRow(
            id=case.id,
            dimensions=dimensions,
            spacing=spacing,
            annotation=kind,
            annotated_fraction=fraction,
            role=str(case.role),
            labeled=case.labeled,
            has_prediction=prediction is not None,
            uncertainty=prediction.score if prediction else None,
            status=status,
            problem=problem,
            has_reference=case.label is not None,
        )

    def _remembered(self, what: str, path: Path, read):
        """What `read` gives, unless the file is as it was."""
        try:
            stat = path.stat()
        except OSError:
            return read()  # raises the sentence for people
        key = (what, path, stat.st_mtime_ns, stat.st_size)
        if key not in self._known:
            self._known = {each: value for each, value in self._known.items() if each[:2] != key[:2]}
            self._known[key] = read()
        return self._known[key]


def _annotated_fraction(cohort: Cohort, case: Case) -> float:
    labels = cohort.read_scribble(case) if case.scribble is not None else cohort.read_label(case)
    return float(np.count_nonzero(labels != IGNORE) / labels.size)
