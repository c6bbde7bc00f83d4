"""The files in a cohort's folder that hold what was painted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from ..cohort import AnnotationFile, Case, Cohort
from ..labels import IGNORE, LabelSchema
from ..segmentation_file import AnnotationKind
from ..volume import Volume, read_geometry
from .cohort_nodes import free_path, was_painted_here, write_cropped


class AnnotationFiles:
    """Writes annotations into a cohort's folder: ``scribbles``, ``labels`` and ``proposals``.

    Over no file but the case's own that was written here before: any other is somebody's work.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._painted: dict[tuple[str, str], Path] = {}

    def written(
        self,
        case: Case,
        annotation: Volume,
        what: Literal["scribble", "label", "proposals"],
        schema: LabelSchema,
        *,
        in_new_file: bool = False,
    ) -> Case:
        """The case with an annotation that is on disk; without one where nothing is painted."""
        before: AnnotationFile | None = getattr(case, what)
        folder = self.folder / (what if what == "proposals" else f"{what}s")
        # Strokes that were erased and painted anew go where they were.
        path = self._painted.get((case.id, what)) if before is None else before.path
        if path is None or in_new_file or path.parent != folder or not was_painted_here(path):
            path = free_path(folder / f"{case.id}_{what}.seg.nrrd")
        is_painted = write_cropped(path, annotation, schema, "label" if what == "label" else "scribble")
        if is_painted:
            self._painted[case.id, what] = path
        return replace(case, **{what: AnnotationFile(path) if is_painted else None})

    def forget(self, case_id: str) -> None:
        """A case that left the cohort has no files here any more."""
        self._painted = {key: path for key, path in self._painted.items() if key[0] != case_id}


def annotation_on_disk(cohort: Cohort, case: Case, kind: AnnotationKind) -> np.ndarray:
    """What a case's files hold, ``(k, j, i)`` on the scan's grid: a label, or strokes with the accepted proposals."""
    nothing = np.full(read_geometry(case.image).shape, IGNORE if kind == "scribble" else 0, dtype=np.uint8)
    if kind == "label":
        if case.label is None:
            return nothing
        label = cohort.read_label(case)
        # Where the file says nothing, say outside of a map smaller than the scan, a node can't say anything else.
        return np.where(label == IGNORE, nothing, label)
    strokes = nothing if case.scribble is None else cohort.read_scribble(case)
    if case.proposals is None:
        return strokes
    return np.where(strokes == IGNORE, cohort.read_proposals(case), strokes)
