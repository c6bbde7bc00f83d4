"""The files in a cohort's folder that hold what was painted, and nodes that hold the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import slicer

from ..cohort import AnnotationFile, Case, Cohort
from ..labels import IGNORE, LabelSchema
from ..segmentation_file import AnnotationKind
from ..volume import Volume, read_geometry
from .accepted_proposals import forget_accepted, note_accepted
from .cohort_nodes import free_path, kind_of, was_painted_here, write_cropped
from .nodes import CASE_ATTRIBUTE, geometry_of
from .results import update_segmentation
from .segments import read_annotation, uncropped


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


def is_on_disk(
    cohort: Cohort, node: slicer.vtkMRMLSegmentationNode, volume_node: slicer.vtkMRMLScalarVolumeNode
) -> bool:
    """Whether an annotation node holds what its case's files do; raises `SemiSupSegError` if it holds no classes."""
    case, kind = cohort.case(node.GetAttribute(CASE_ATTRIBUTE)), kind_of(node)
    annotation = read_annotation(node, volume_node, cohort.schema, kind)
    in_node = uncropped(annotation, geometry_of(volume_node), kind)
    return np.array_equal(in_node, annotation_on_disk(cohort, case, kind))


def show_file(
    cohort: Cohort, node: slicer.vtkMRMLSegmentationNode, volume_node: slicer.vtkMRMLScalarVolumeNode
) -> None:
    """Let an annotation node hold what its case's files do."""
    case, kind = cohort.case(node.GetAttribute(CASE_ATTRIBUTE)), kind_of(node)
    on_disk, schema = annotation_on_disk(cohort, case, kind), cohort.schema
    update_segmentation(node, on_disk, volume_node, schema, with_background=kind == "scribble", overwrite=True)
    forget_accepted(node)
    if kind == "scribble" and case.proposals is not None:
        note_accepted(node, cohort.read_proposals(case), volume_node, schema)
