"""Cases of a cohort as nodes of a scene, and what people paint in these back into the cohort's files.

The cohort's folder is the truth; a scene shows it. A node that shows something of a case says so in its attributes
(`nodes.CASE_ATTRIBUTE` and the two beside it), which survive saving and loading the scene.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import slicer

from ..cohort import Case, Cohort
from ..errors import CohortError, SemiSupSegError
from ..files import as_file_name
from ..labels import IGNORE, LabelSchema
from ..segmentation_file import AnnotationKind, write_segmentation
from ..volume import Volume, extension_of, read_fields, write_volume
from .accepted_proposals import note_accepted
from .nodes import CASE_ATTRIBUTE, COHORT_ATTRIBUTE, KIND_ATTRIBUTE, volume_of
from .results import add_segmentation, add_volume, painted_state
from .segments import SegmentationNodes, read_annotation

PAINTED_FIELD = "SemiSupSeg_Painted"
"""Field in the header of annotation files that were written here; saved by Slicer or anything else, a file loses it."""

QUIET_SECONDS = 2.0
"""How long nobody may have painted before strokes are written to the cohort."""


def tag(node: slicer.vtkMRMLNode, cohort: Path, case_id: str, kind: str) -> None:
    """Note on a node which case of which cohort it shows, and what of it (`nodes.Kind`)."""
    node.SetAttribute(CASE_ATTRIBUTE, case_id)
    node.SetAttribute(COHORT_ATTRIBUTE, str(cohort))
    node.SetAttribute(KIND_ATTRIBUTE, kind)


def tagged_nodes(
    scene: slicer.vtkMRMLScene, cohort: Path | None = None, case_id: str | None = None, kind: str | None = None
) -> list[slicer.vtkMRMLNode]:
    """Nodes that show something of a cohort, of one case or one kind if given, in the scene's order."""
    found = []
    for node_class in ("vtkMRMLScalarVolumeNode", "vtkMRMLSegmentationNode"):
        nodes = scene.GetNodesByClass(node_class)
        nodes.UnRegister(None)
        found += [nodes.GetItemAsObject(index) for index in range(nodes.GetNumberOfItems())]
    wanted = {COHORT_ATTRIBUTE: cohort and str(cohort), CASE_ATTRIBUTE: case_id, KIND_ATTRIBUTE: kind}
    return [
        node
        for node in found
        if node.GetAttribute(COHORT_ATTRIBUTE)
        and all(value is None or node.GetAttribute(name) == value for name, value in wanted.items())
    ]


def hide(node: slicer.vtkMRMLNode) -> None:
    """Let the views not show a node, if it's a segmentation."""
    if isinstance(node, slicer.vtkMRMLSegmentationNode) and node.GetDisplayNode() is not None:
        node.GetDisplayNode().SetVisibility(False)


def free_case_id(name: str, cohort: Cohort | None) -> str:
    """A case ID made of a node's name that no case of the cohort has."""
    stem = as_file_name(name, otherwise="case")
    taken = set() if cohort is None else {case.id.casefold() for case in cohort.cases}
    candidates = (stem if count == 1 else f"{stem}_{count}" for count in range(1, len(taken) + 2))
    return next(each for each in candidates if each.casefold() not in taken)


def write_image(volume_node: slicer.vtkMRMLScalarVolumeNode, path: Path, *, compress: bool = False) -> None:
    """Write a volume node's voxels in its own coordinates; the file appears complete or not at all.

    Parameters
    ----------
    volume_node : vtkMRMLScalarVolumeNode
    path : Path
        Ends in ``.nrrd``, which keeps every geometry.
    compress : bool
        Takes seconds for a CT, here and whenever it is read, and saves some 40 % of its size.
    """
    write_volume(path, volume_of(volume_node), compress=compress)


def write_annotation(
    path: Path,
    nodes: SegmentationNodes,
    volume_node: slicer.vtkMRMLScalarVolumeNode,
    schema: LabelSchema,
    kind: AnnotationKind,
) -> bool:
    """Write what is painted on a volume as ``.seg.nrrd`` on its grid, cropped; whether anything is painted.

    Nothing is written where nothing is: a file that stands there stays. Raises what `segments.read_annotation` raises.
    """
    return write_cropped(path, read_annotation(nodes, volume_node, schema, kind), schema, kind)


def write_cropped(path: Path, annotation: Volume, schema: LabelSchema, kind: AnnotationKind) -> bool:
    """Write an annotation's smallest box with anything in it; whether there is anything.

    A label without foreground is one all the same, of a scan that shows no class: one voxel of it is written.
    """
    nothing = IGNORE if kind == "scribble" else 0
    in_plane = np.zeros(annotation.array.shape[1:], dtype=bool)
    slices = []
    for k, plane in enumerate(annotation.array):
        painted = plane != nothing
        if painted.any():
            slices.append(k)
            in_plane |= painted
    if not slices and kind == "scribble":
        return False
    used = [slices, np.flatnonzero(in_plane.any(axis=1)), np.flatnonzero(in_plane.any(axis=0))] if slices else [[0]] * 3
    start, stop = np.array([each[0] for each in used]), np.array([each[-1] + 1 for each in used])
    cropped = annotation.array[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
    geometry = annotation.geometry.cropped(start[::-1], (stop - start)[::-1])
    write_segmentation(path, np.ascontiguousarray(cropped), geometry, schema, kind=kind, notes={PAINTED_FIELD: "1"})
    return True


def was_painted_here(path: Path) -> bool:
    """Whether an annotation file was written by this software, so that it may be written over."""
    try:
        return PAINTED_FIELD in read_fields(path)
    except SemiSupSegError:
        return False


def free_path(path: Path) -> Path:
    """The path, numbered if there is a file of that name: ``scan_label.seg.nrrd``, ``scan_label_2.seg.nrrd``."""
    extension = extension_of(path)
    stem = path.name.removesuffix(extension)
    numbered = (path.with_name(f"{stem}_{count}{extension}") for count in itertools.count(2))
    return path if not path.exists() else next(each for each in numbered if not each.exists())


def show_image(cohort: Cohort, case: Case, scene: slicer.vtkMRMLScene) -> slicer.vtkMRMLScalarVolumeNode:
    """The volume node of a case: the one that shows it already, or a new one with the file's voxels."""
    shown = tagged_nodes(scene, cohort.path, case.id, "image")
    if shown:
        return shown[0]
    volume = cohort.read_image(case)
    node = add_volume(volume.array, volume.geometry, scene, case.id)
    tag(node, cohort.path, case.id, "image")
    return node


def show_annotation(
    cohort: Cohort, case: Case, volume_node: slicer.vtkMRMLScalarVolumeNode, kind: AnnotationKind = "scribble"
) -> slicer.vtkMRMLSegmentationNode:
    """The segmentation node to paint a case's annotation in: the one that is there, or a new one as the file says.

    It has a segment for every class, and for scribbles one for the background, painted or not. Proposals that were
    accepted are shown with the strokes, and noted as what they are.
    """
    scene = volume_node.GetScene()
    shown = tagged_nodes(scene, cohort.path, case.id, kind)
    if shown:
        return shown[0]
    annotation = case.scribble if kind == "scribble" else case.label
    if annotation is None:
        labels = np.full(volume_of(volume_node).geometry.shape, IGNORE, dtype=np.uint8)
    else:
        labels = cohort.read_scribble(case) if kind == "scribble" else cohort.read_label(case)
    proposals = None
    if kind == "scribble" and case.proposals is not None:
        proposals = cohort.read_proposals(case)
        labels = np.where(labels == IGNORE, proposals, labels)
    node = add_segmentation(labels, volume_node, cohort.schema, f"{case.id} {kind}", with_background=kind == "scribble")
    tag(node, cohort.path, case.id, kind)
    if proposals is not None:
        note_accepted(node, proposals, volume_node, cohort.schema)
    return node


@dataclass
class _Watched:
    node: slicer.vtkMRMLSegmentationNode
    saved: str
    seen: str
    since: float
    tried: str = ""


class EditWatcher:
    """Notices what people paint in the nodes of cases, and when they pause long enough for it to be written.

    Looks when it is asked to, so it needs neither observers nor a timer of its own.

    Parameters
    ----------
    quiet_seconds : float
        A node is due when nothing in it has changed for so long.
    now : callable
        The clock, in seconds; replaced in tests.
    """

    def __init__(self, quiet_seconds: float = QUIET_SECONDS, now: Callable[[], float] = time.monotonic):
        self._quiet_seconds = quiet_seconds
        self._now = now
        self._watched: dict[str, _Watched] = {}

    def watch(self, node: slicer.vtkMRMLSegmentationNode) -> None:
        """From now on, changes of this node are edits; as it stands, it counts as saved."""
        state = painted_state(node)
        self._watched[node.GetID()] = _Watched(node, state, state, self._now())

    def is_watched(self, node: slicer.vtkMRMLSegmentationNode) -> bool:
        """Whether changes of a node are noticed."""
        each = self._watched.get(node.GetID() or "")
        return each is not None and each.node is node

    def due(self, *, at_once: bool = False) -> list[slicer.vtkMRMLSegmentationNode]:
        """Nodes with edits that are to be written now; with `at_once`, however short the pause."""
        for node_id in [node_id for node_id, each in self._watched.items() if each.node.GetScene() is None]:
            del self._watched[node_id]  # a deleted node isn't an erased annotation
        due = []
        for each in self._watched.values():
            state = painted_state(each.node)
            if state != each.seen:
                each.seen, each.since = state, self._now()
            is_quiet = self._now() - each.since >= self._quiet_seconds and state != each.tried
            if state != each.saved and (at_once or is_quiet):
                due.append(each.node)
        return due

    def tried(self, node: slicer.vtkMRMLSegmentationNode) -> None:
        """Note that writing was tried: should it fail, nobody is told again before the next stroke."""
        self._watched[node.GetID()].tried = painted_state(node)

    def forget(self, node: slicer.vtkMRMLSegmentationNode) -> None:
        """No longer look at a node."""
        self._watched.pop(node.GetID() or "", None)

    def forget_all(self) -> None:
        """No longer look at any node."""
        self._watched.clear()


def kind_of(node: slicer.vtkMRMLNode) -> AnnotationKind:
    """Which annotation of its case a node shows."""
    kind = node.GetAttribute(KIND_ATTRIBUTE)
    if kind not in ("scribble", "label"):
        raise CohortError(f"'{node.GetName()}' shows no annotation of a case.", "Choose the case in the cohort first.")
    return kind
