"""A cohort's folder and a scene that shows some of it: cases come in, are shown, painted on and written back."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import slicer

from ..cohort import Case, Cohort, Role
from ..cohort_creation import create_cohort
from ..cohort_lint import Finding, lint_cohort
from ..errors import CohortError, ErrorCode, SemiSupSegError, VolumeError
from ..file_pairing import FileSource, image_files
from ..labels import IGNORE, LabelSchema
from ..segmentation_file import AnnotationKind
from ..volume import Volume, check_image, read_geometry
from .accepted_proposals import forget_accepted, split_annotation
from .annotation_files import AnnotationFiles, is_on_disk, show_file
from .cohort_nodes import (
    EditWatcher,
    free_case_id,
    free_path,
    hide,
    kind_of,
    show_annotation,
    show_image,
    tag,
    tagged_nodes,
    write_image,
)
from .nodes import CASE_ATTRIBUTE, COHORT_ATTRIBUTE, KIND_ATTRIBUTE, volume_of
from .results import update_segmentation
from .segments import read_annotation, schema_from_segmentation
from .translation import tr as _

LOADED_ATTRIBUTE = "SemiSupSeg.Loaded"
"""Attribute of nodes that were made to show a case, and go when another one is shown; a person's own nodes stay."""

_OPEN_SCHEMA = LabelSchema.from_names(["structure"])
"""The classes of a cohort in which nobody said yet what is to be segmented."""


@dataclass(frozen=True, eq=False)
class CaseNodes:
    """The nodes that show a case.

    Parameters
    ----------
    volume : vtkMRMLScalarVolumeNode
    annotation : vtkMRMLSegmentationNode
        What is painted in it becomes the case's annotation.
    """

    volume: slicer.vtkMRMLScalarVolumeNode
    annotation: slicer.vtkMRMLSegmentationNode


class CohortScene:
    """A cohort on disk, and the nodes of a scene that show it.

    Every change is on disk when the call returns; what is painted in the Segment Editor is written by `save_edits`.

    Parameters
    ----------
    path : Path or str
        The cohort's folder or its ``cohort.json``, which is read if it exists.
    scene : vtkMRMLScene, optional
        ``slicer.mrmlScene`` if not given.
    classes : LabelSchema, optional
        What is to be segmented, for a new cohort. If nobody says it, the first segmentation that comes in does.

    Raises
    ------
    SemiSupSegError
        If the file is there and can't be read.
    """

    def __init__(
        self, path: Path | str, scene: slicer.vtkMRMLScene | None = None, *, classes: LabelSchema | None = None
    ):
        path = Path(path).absolute()
        path = path if path.suffix == ".json" else path / "cohort.json"
        self.scene = slicer.mrmlScene if scene is None else scene
        self.cohort = (
            Cohort.load(path) if path.is_file() else Cohort(classes or _OPEN_SCHEMA, (), path.parent.name, path)
        )
        self.edits = EditWatcher()
        self.files = AnnotationFiles(path.parent)

    @property
    def path(self) -> Path:
        """The cohort's file."""
        return self.cohort.path

    @property
    def folder(self) -> Path:
        """Where the cohort lives: ``images``, ``scribbles``, ``labels``, ``predictions``, ``runs`` and ``models``."""
        return self.path.parent

    @property
    def is_shown(self) -> bool:
        """Whether any node of the scene shows something of the cohort."""
        return bool(tagged_nodes(self.scene, self.path))

    def save(self) -> None:
        """Write what is painted and the cohort's file."""
        self.save_edits()
        self._keep(self.cohort)

    def lint(self, on_progress: Callable[[float, str], None] = lambda fraction, text: None) -> list[Finding]:
        """What is wrong with the cohort; reads every file, so it takes its time."""
        return lint_cohort(self.cohort, on_progress)

    # -- cases --------------------------------------------------------------------------------------------------------

    def add_case(
        self,
        volume_node: slicer.vtkMRMLScalarVolumeNode,
        scribble_segmentation_node: slicer.vtkMRMLSegmentationNode | None = None,
        label_segmentation_node: slicer.vtkMRMLSegmentationNode | None = None,
        *,
        case_id: str | None = None,
        role: Role | str = Role.TRAIN,
        compress: bool = False,
    ) -> str:
        """Copy a scan and its annotations from the scene into the cohort.

        The nodes stay as they are, and from now on show the case: strokes that are added to them are written, too.

        Parameters
        ----------
        volume_node : vtkMRMLScalarVolumeNode
        scribble_segmentation_node : vtkMRMLSegmentationNode, optional
            Strokes; what isn't painted is unknown, and background is painted as a segment named "background".
        label_segmentation_node : vtkMRMLSegmentationNode, optional
            A complete segmentation; what isn't painted is background.
        case_id : str, optional
            The volume's name if not given, numbered where the cohort has one of that name.
        role : {"train", "validation", "test"}
        compress : bool
            See `cohort_nodes.write_image`.

        Returns
        -------
        str
            The case's ID.

        Raises
        ------
        SemiSupSegError
            If the volume, a segment or the place of a segmentation doesn't fit, or the folder can't be written to. Then
            the cohort is as it was.
        """
        volume = volume_of(volume_node)
        check_image(volume, volume_node.GetName())
        given = {"scribble": scribble_segmentation_node, "label": label_segmentation_node}
        nodes = {kind: node for kind, node in given.items() if node is not None}
        schema = self._schema_with(nodes.values())
        painted = {kind: read_annotation(node, volume_node, schema, kind) for kind, node in nodes.items()}
        case_id = free_case_id(volume_node.GetName(), self.cohort) if case_id is None else case_id
        if any(each.id.casefold() == case_id.casefold() for each in self.cohort.cases):
            raise CohortError(f"The cohort has a case '{case_id}' already.", "Give the case another ID.")
        case = Case(case_id, free_path(self.folder / "images" / f"{case_id}.nrrd"), role=role)
        write_image(volume_node, case.image, compress=compress)
        for kind, annotation in painted.items():
            case = self.files.written(case, annotation, kind, schema)
        self._keep(replace(self.cohort, schema=schema).with_case(case))
        tag(volume_node, self.path, case_id, "image")
        for kind, node in nodes.items():
            tag(node, self.path, case_id, kind)
            self.edits.watch(node)
        return case_id

    def add_files(
        self, images: FileSource, labels: FileSource | None = None, scribbles: FileSource | None = None, **options: Any
    ) -> list[str]:
        """Take scans from files, which stay where they are; annotations are paired with them by name.

        Parameters
        ----------
        images, labels, scribbles
            Folders, patterns or lists of files, as `cohort.create_cohort` takes them.
        **options
            Its other parameters: ``label_values``, ``scribble_values``, ``validation``, ``test``, ``labeled``.

        Returns
        -------
        list of str
            IDs of the cases that are new, or whose scan was in the cohort already without this annotation.

        Raises
        ------
        CohortError
            If files don't pair, or have other classes than the cohort; then the cohort is as it was.
        """
        images, labels, scribbles = (_expanded(source) for source in (images, labels, scribbles))
        if labels is None and scribbles is None:
            new = tuple(Case(case_id, path) for case_id, path in image_files(images).items())
            cohort = self.cohort
        else:
            made = create_cohort(images, labels, scribbles, **options)
            new = made.cases
            cohort = replace(self.cohort, schema=made.schema) if self._is_schema_open else self.cohort
            if set(made.schema.names) - set(cohort.schema.names):
                raise CohortError(
                    f"The files have the classes {', '.join(made.schema.names)}, and the cohort has "
                    f"{', '.join(cohort.schema.names)}.",
                    "Name the classes as in the cohort, for example with label values.",
                )
        known = {case.id.casefold(): case for case in cohort.cases}
        taken = [case for each in new if (case := _joined(known.get(each.id.casefold()), each)) is not None]
        if not taken:
            raise CohortError("The cohort has all of these scans already.", "Choose others, or annotations for them.")
        for case in taken:
            cohort = cohort.with_case(case)
        self._keep(cohort)
        return [case.id for case in taken]

    def remove_case(self, case_id: str) -> None:
        """Take a case out of the cohort; its files stay, and so do its nodes, as plain nodes."""
        self.save_edits()
        self._keep(self.cohort.without_case(case_id))
        self.files.forget(case_id)
        for node in tagged_nodes(self.scene, self.path, case_id):
            self.make_plain(node)

    def change_case(self, case_id: str, **changes: Any) -> None:
        """Change a case's ``role``, or whether its annotations train (``labeled``)."""
        unknown = set(changes) - {"role", "labeled"}
        if unknown:
            raise CohortError(f"A case's {', '.join(sorted(unknown))} can't be changed.", "Change its role or use.")
        self._keep(self.cohort.with_case(replace(self.cohort.case(case_id), **changes)))

    def set_classes(self, schema: LabelSchema) -> None:
        """Say what is to be segmented.

        Colors, terminology and new classes are always possible. Once something is annotated, its classes keep their
        names and their order, since files and models hold them.
        """
        known = self.cohort.schema.names
        if not self._is_schema_open and schema.names[: len(known)] != known:
            raise CohortError(
                f"The annotated classes {', '.join(known)} can't be renamed, removed or reordered.",
                "Add classes behind them, or begin a new cohort.",
            )
        self._keep(replace(self.cohort, schema=schema))

    # -- nodes --------------------------------------------------------------------------------------------------------

    def show_case(self, case_id: str, kind: AnnotationKind | None = None) -> CaseNodes:
        """Show a case's scan and its annotation, to be painted on; nodes that show it already are used.

        Parameters
        ----------
        case_id : str
        kind : {"scribble", "label"}, optional
            Which annotation; if not given the label where there is a label only, else the scribbles.

        A node that came with a scene and differs from the file is not painted on before its conflict is resolved: it
        is kept beside what is shown, as with ``resolve(node, "both")``.
        """
        case = self.cohort.case(case_id)
        if kind is None:
            kind = "label" if case.label is not None and case.scribble is None and case.labeled else "scribble"
        before = {node.GetID() for node in tagged_nodes(self.scene, self.path, case_id)}
        volume = show_image(self.cohort, case, self.scene)
        for node in tagged_nodes(self.scene, self.path, case_id, kind):
            if not self.edits.is_watched(node) and self.differs(node):
                self.resolve(node, "both")
        annotation = show_annotation(self.cohort, case, volume, kind)
        for node in (volume, annotation):
            if node.GetID() not in before:
                node.SetAttribute(LOADED_ATTRIBUTE, "1")
        if not self.edits.is_watched(annotation):
            self.edits.watch(annotation)
        return CaseNodes(volume, annotation)

    def hide_case(self, case_id: str) -> None:
        """Write what is painted, then take the nodes that were made to show a case out of the scene.

        Other segmentations that show the case stay, and become invisible.
        """
        self.save_edits()
        for node in tagged_nodes(self.scene, self.path, case_id):
            if node.GetAttribute(LOADED_ATTRIBUTE):
                self.take_out(node)
            else:
                hide(node)

    def take_out(self, node: slicer.vtkMRMLNode) -> None:
        """Take a node that shows something of a case out of the scene."""
        if isinstance(node, slicer.vtkMRMLSegmentationNode):
            forget_accepted(node)
        self.scene.RemoveNode(node)

    def make_plain(self, node: slicer.vtkMRMLNode) -> None:
        """Let a node no longer show anything of a case: what is done to it is nobody's annotation.

        Results stay what they are, so that no map of uncertainty is offered as a scan.
        """
        for name in (CASE_ATTRIBUTE, COHORT_ATTRIBUTE, LOADED_ATTRIBUTE):
            node.RemoveAttribute(name)
        if node.GetAttribute(KIND_ATTRIBUTE) in ("image", "scribble", "label"):
            node.RemoveAttribute(KIND_ATTRIBUTE)
        self.edits.forget(node)

    def image_node(self, case_id: str) -> slicer.vtkMRMLScalarVolumeNode:
        """The volume node of a case; loads it if no node shows it."""
        shown = tagged_nodes(self.scene, self.path, case_id, "image")
        if shown:
            return shown[0]
        node = show_image(self.cohort, self.cohort.case(case_id), self.scene)
        node.SetAttribute(LOADED_ATTRIBUTE, "1")
        return node

    # -- annotations --------------------------------------------------------------------------------------------------

    def annotate(self, case_id: str, array: np.ndarray, kind: AnnotationKind = "scribble") -> None:
        """Give a case its annotation from an array, in place of what it has of this kind.

        Parameters
        ----------
        case_id : str
        array : numpy.ndarray of uint8, shape (k, j, i)
            Class indices on the scan's grid, 0 for background; 255 where nobody annotated.
        kind : {"scribble", "label"}
            A label has no 255.

        Raises
        ------
        SemiSupSegError
            If shape or values don't fit, or the file can't be written.
        """
        case = self.cohort.case(case_id)
        grid = read_geometry(case.image)
        array = np.asarray(array)
        if array.shape != grid.shape:
            raise VolumeError(
                f"The annotation of case '{case_id}' has the shape {array.shape}, its scan {grid.shape} (k, j, i).",
                "Annotate the scan's own grid.",
                code=ErrorCode.BAD_GEOMETRY,
            )
        values = np.unique(array)
        allowed = {*range(self.cohort.schema.n_classes), *([IGNORE] if kind == "scribble" else [])}
        if set(values.tolist()) - allowed:
            raise CohortError(
                f"The annotation of case '{case_id}' holds {values.tolist()}; classes are 0 to "
                f"{self.cohort.schema.n_classes - 1}, and 255 in scribbles is unknown.",
                "Give class indices.",
            )
        array = array.astype(np.uint8)
        case = self.files.written(case, Volume(array, grid), kind, self.cohort.schema)
        self._keep(self.cohort.with_case(replace(case, proposals=None) if kind == "scribble" else case))
        for node in tagged_nodes(self.scene, self.path, case_id, kind):
            forget_accepted(node)
            volume_node = self.image_node(case_id)
            update_segmentation(
                node, array, volume_node, self.cohort.schema, with_background=kind == "scribble", overwrite=True
            )
            self.edits.watch(node)

    def save_edits(self, *, at_once: bool = True) -> list[str]:
        """Write what was painted in the nodes of cases since the last time.

        Parameters
        ----------
        at_once : bool
            Else only what nobody has touched for two seconds.

        Returns
        -------
        list of str
            The cases whose annotation changed on disk.

        Raises
        ------
        SemiSupSegError
            If something was painted that is no class, or the file can't be written: said after all others were written.
            It is tried again after the next stroke or with `at_once`.
        """
        saved, problem = [], None
        for node in self.edits.due(at_once=at_once):
            self.edits.tried(node)
            case_id, kind = node.GetAttribute(CASE_ATTRIBUTE), kind_of(node)
            try:
                volume_node = self.image_node(case_id)
                self._keep(self.cohort.with_case(self._as_painted(self.cohort.case(case_id), node, volume_node, kind)))
            except SemiSupSegError as error:
                problem = problem or error
                continue
            self.edits.watch(node)
            saved.append(case_id)
        if problem is not None:
            raise problem
        return saved

    def adopt_nodes(self, former: Path | str) -> None:
        """After scene and cohort were moved together: nodes that name the cohort's former file name this one."""
        for node in tagged_nodes(self.scene, Path(former)):
            node.SetAttribute(COHORT_ATTRIBUTE, str(self.path))

    def conflicts(self) -> list[slicer.vtkMRMLSegmentationNode]:
        """Annotation nodes of a loaded scene that differ from the cohort's files; the others are adopted."""
        differing = []
        for node in tagged_nodes(self.scene, self.path):
            if node.GetAttribute(KIND_ATTRIBUTE) in ("scribble", "label") and not self.edits.is_watched(node):
                if self.differs(node):
                    differing.append(node)
                else:
                    self.edits.watch(node)
        return differing

    def differs(self, node: slicer.vtkMRMLSegmentationNode) -> bool:
        """Whether an annotation node holds something else than the cohort's files, or nothing that they can."""
        try:
            return not is_on_disk(self.cohort, node, self.image_node(node.GetAttribute(CASE_ATTRIBUTE)))
        except SemiSupSegError:
            return True

    def resolve(self, node: slicer.vtkMRMLSegmentationNode, keep: str) -> None:
        """End a conflict.

        ``keep="scene"`` writes the node to the cohort, ``keep="cohort"`` shows the file in it, and with ``keep="both"``
        it becomes a plain, hidden segmentation beside the file.
        """
        case_id, kind = node.GetAttribute(CASE_ATTRIBUTE), kind_of(node)
        if keep not in ("scene", "cohort", "both"):
            raise ValueError(f"keep is {keep!r}, not 'scene', 'cohort' or 'both'")
        if keep == "both":
            self.make_plain(node)
            node.SetName(_("{name} (other version)").format(name=node.GetName()))
            hide(node)
            return
        volume_node = self.image_node(case_id)
        if keep == "scene":
            self._keep(self.cohort.with_case(self._as_painted(self.cohort.case(case_id), node, volume_node, kind)))
            for shown in tagged_nodes(self.scene, self.path, case_id, kind):
                if shown is not node and self.edits.is_watched(shown):  # what was at work when a scene was added
                    show_file(self.cohort, shown, volume_node)
                    self.edits.watch(shown)
        else:
            show_file(self.cohort, node, volume_node)
        self.edits.watch(node)

    # -- inside -------------------------------------------------------------------------------------------------------

    @property
    def _is_schema_open(self) -> bool:
        """Whether no file holds the classes yet, so that they may become others."""
        return not any(case.label or case.scribble for case in self.cohort.cases)

    def _schema_with(self, nodes: Iterable[slicer.vtkMRMLSegmentationNode]) -> LabelSchema:
        nodes = list(nodes)
        is_open = self._is_schema_open and self.cohort.schema == _OPEN_SCHEMA
        return schema_from_segmentation(nodes) if nodes and is_open else self.cohort.schema

    def _as_painted(
        self,
        case: Case,
        node: slicer.vtkMRMLSegmentationNode,
        volume_node: slicer.vtkMRMLScalarVolumeNode,
        kind: AnnotationKind,
    ) -> Case:
        """The case with what its node holds on disk; accepted proposals in a file of their own: they are guesses."""
        schema = self.cohort.schema
        if kind == "label":
            return self.files.written(case, read_annotation(node, volume_node, schema, kind), kind, schema)
        strokes, proposals = split_annotation(node, volume_node, schema)
        had_strokes = case.scribble is not None
        case = self.files.written(self.files.written(case, strokes, "scribble", schema), proposals, "proposals", schema)
        if case.scribble is not None:  # whoever paints on a case wants it to train, though its label was for evaluation
            return replace(case, labeled=True)
        if had_strokes and case.label is not None:  # beside strokes a label was the reference, and so it is again
            return replace(case, labeled=False)
        return case

    def _keep(self, cohort: Cohort) -> None:
        self.cohort = cohort.save(self.path)


def _joined(known: Case | None, new: Case) -> Case | None:
    """A new case, or the known one with the annotations that it lacked; None if nothing about it is new."""
    if known is None:
        return new
    if not os.path.exists(known.image) or not os.path.samefile(known.image, new.image):
        raise CohortError(
            f"The cohort has a case '{known.id}' already, whose scan is '{known.image}'.",
            f"Rename '{new.image.name}', or leave it out.",
        )
    kinds = ("label", "scribble")
    gained = {kind: getattr(new, kind) for kind in kinds if getattr(new, kind) and not getattr(known, kind)}
    return replace(known, **gained) if gained else None


def _expanded(source: FileSource | None) -> FileSource | None:
    """Files as they are meant by somebody who writes ``~`` for the home folder."""
    return Path(source).expanduser() if isinstance(source, str) and source.startswith("~") else source
