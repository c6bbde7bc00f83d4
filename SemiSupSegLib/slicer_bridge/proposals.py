"""Superpixel proposals: strokes expanded to the superpixels that they touch, shown at once, accepted when people agree.

A superpixel that strokes of one segment touch is proposed to that segment; one that strokes of several touch to none.
Accepting gives a segment the proposed voxels that no segment holds, never those under a stroke. A superpixel of which
something was accepted isn't proposed again until that is undone or taken back: what a person erases stays erased.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable

import numpy as np
import slicer
from scipy import ndimage
from vtk.util.numpy_support import vtk_to_numpy

from ..errors import ErrorCode, SettingsError, VolumeError
from ..propagation import SuperpixelTable
from ..volume import Geometry, Volume
from .accepted_proposals import accepted_node, add_voxels, store_codes, take_back
from .held_voxels import NOBODY, SEVERAL, Box, HeldChange, HeldVoxels
from .nodes import image_geometry
from .superpixel_overlay import SuperpixelOverlay

_MARGIN = 8
"""Voxels by which a box grows at once until superpixels fit into it."""

_REMEMBERED_STEPS = 32
"""Acceptances that are recognized when they are redone; the Segment Editor keeps 10 states at most."""


def source_of(image: slicer.vtkOrientedImageData) -> Volume:
    """The voxels that superpixels are made of: the source volume as the Segment Editor aligns it with the segmentation.

    Parameters
    ----------
    image : vtkOrientedImageData
        ``scriptedEffect.sourceVolumeImageData()`` or ``vtkSlicerSegmentEditorLogic.GetAlignedSourceVolume()``.

    Returns
    -------
    Volume
        A view (k, j, i) of the image's voxels. Geometry in the own coordinates of the segmentation node.

    Raises
    ------
    VolumeError
        If there are no voxels.
    """
    if image is None or image.IsEmpty() or image.GetPointData().GetScalars() is None:
        raise VolumeError("There is no source volume.", "Select a source volume in the Segment Editor.")
    values = vtk_to_numpy(image.GetPointData().GetScalars())
    if values.ndim != 1:
        raise VolumeError(
            f"The source volume has {values.shape[1]} values a voxel.", "Convert it to a scalar volume first."
        )
    return Volume(values.reshape(image.GetDimensions()[::-1]), image_geometry(image))


class Proposals:
    """Proposals for one segmentation node, kept up to date while people paint.

    Call `update` whenever the segmentation may have changed. It costs milliseconds.

    Parameters
    ----------
    node : vtkMRMLSegmentationNode
    labels : numpy.ndarray of int32, shape (k, j, i)
        Superpixel of each voxel, from 1. Not copied, and must not change.
    geometry : Geometry
        Where the voxels are, in the own coordinates of the node (see `source_of`).
    count : int
        Number of superpixels.
    overlay : SuperpixelOverlay, optional
        Shows the proposals.
    """

    def __init__(
        self,
        node: slicer.vtkMRMLSegmentationNode,
        labels: np.ndarray,
        geometry: Geometry,
        count: int,
        overlay: SuperpixelOverlay | None = None,
    ):
        if labels.shape != geometry.shape:
            raise VolumeError(
                f"Superpixels of shape {labels.shape} don't fit a grid of shape {geometry.shape} (k, j, i).",
                "Make the superpixels anew.",
                code=ErrorCode.BAD_GEOMETRY,
            )
        self.node = node
        self.geometry = geometry
        self.labels = labels
        self._overlay = overlay
        self._held = HeldVoxels(node, geometry)
        self._accepted = np.full(labels.shape, NOBODY, np.uint8)
        self._table = SuperpixelTable(self._accepted, labels)
        self._accepted_count = np.zeros(max(count + 1, len(self._table.classes)), np.int32)
        self._steps: deque[int] = deque(maxlen=_REMEMBERED_STEPS)
        self._colors: dict[int, tuple[int, int, int]] = {}
        self._recall()

    @property
    def classes(self) -> np.ndarray:
        """Code of the segment that each superpixel (from 1) is proposed to, 255 for none: uint8 (count + 1,)."""
        return np.where(self._accepted_count == 0, self._table.classes, np.uint8(NOBODY))

    @property
    def proposed_superpixels(self) -> int:
        """Number of superpixels that are proposed to a segment."""
        return int(np.count_nonzero(self.classes != NOBODY))

    @property
    def is_empty(self) -> bool:
        """Whether nothing is proposed."""
        return not self.proposed_superpixels

    @property
    def accepted_voxels(self) -> int:
        """Number of voxels that were accepted and still are."""
        return int(self._accepted_count.sum())

    def segment_at(self, ijk: Iterable[int]) -> str | None:
        """ID of the segment to which the superpixel at a voxel (i, j, k of `geometry`) is proposed; None if to none."""
        superpixel = self._superpixel_at(ijk)
        code = NOBODY if superpixel is None else int(self.classes[superpixel])
        return None if code == NOBODY else self._held.segment_of(code)

    def update(self) -> bool:
        """Takes in what was painted, erased or undone; whether anything was."""
        change = self._held.update()
        if change is not None:
            if not self._is_redo(change):
                self._claim(change)
            self._take_in(change)
        self._follow_colors()
        return change is not None

    def accept(
        self,
        save_state: Callable[[], object],
        at: Iterable[int] | None = None,
        editor_node: slicer.vtkMRMLSegmentEditorNode | None = None,
        intensities: np.ndarray | None = None,
    ) -> int:
        """Gives proposed voxels that no segment holds to the segments that they are proposed to.

        Parameters
        ----------
        save_state : callable
            Saves the state for undo; called once, if anything is accepted, before anything is changed. So an acceptance
            is one undo step.
        at : iterable of int, optional
            Only the superpixel at this voxel (i, j, k of `geometry`); all if not given.
        editor_node : vtkMRMLSegmentEditorNode, optional
            Its masking settings are respected.
        intensities : numpy.ndarray, shape (k, j, i), optional
            The source volume's, for an editable intensity range.

        Returns
        -------
        int
            How many voxels were accepted.

        Raises
        ------
        SettingsError
            If masking lets nothing be edited that isn't held by a segment already.
        """
        if editor_node is not None:
            self._check_editable(editor_node)
        self.update()
        wanted = self.classes
        start = self._held.painted_box
        if at is not None:
            superpixel = self._superpixel_at(at)
            only = np.full_like(wanted, NOBODY)
            if superpixel is not None:
                only[superpixel] = wanted[superpixel]
                start = tuple(slice(each, each + 1) for each in tuple(at)[::-1])
            wanted = only
        if start is None or not (wanted != NOBODY).any():
            return 0
        box = self._box_around(wanted, start)
        codes = self._free_voxels(wanted, box)
        if editor_node is not None and editor_node.GetSourceVolumeIntensityMask() and intensities is not None:
            low, high = editor_node.GetSourceVolumeIntensityMaskRange()
            codes[(intensities[box] < low) | (intensities[box] > high)] = NOBODY
        count = int(np.count_nonzero(codes != NOBODY))
        if count:
            save_state()
            self._write(codes, box)
            np.copyto(self._accepted[box], codes, where=codes != NOBODY)
            self._store()
            self._take_in_own(count)
        return count

    def take_back(self, save_state: Callable[[], object]) -> int:
        """Takes all accepted voxels out of their segments, as one undo step; how many."""
        count = take_back(self.node, save_state)
        if count:
            self._take_in_own(count)
        return count

    def _recall(self) -> None:
        """Takes in what is painted already, and what was accepted in this node earlier."""
        hidden = accepted_node(self.node)
        if hidden is not None:
            noted = HeldVoxels(hidden, self.geometry)
            noted.update()
            table = np.full(256, NOBODY, np.uint8)
            for code, segment_id in enumerate(noted.segments):
                table[code] = self._held.code_of(segment_id)
            self._accepted = table[noted.codes]
            self._steps.append(int(np.count_nonzero(self._accepted != NOBODY)))
        change = self._held.update()
        if change is not None:
            self._take_in(change)

    def _take_in_own(self, count: int) -> None:
        """Takes in what was accepted or taken back here, in one undo step."""
        self._steps.append(count)
        change = self._held.update()
        if change is not None:
            self._take_in(change)

    def _is_redo(self, change: HeldChange) -> bool:
        """Whether voxels that come back are exactly those of one acceptance, or of several in a row."""
        won = change.new != NOBODY
        total = int(np.count_nonzero(won))
        if not total or not np.array_equal(change.new[won], self._accepted.reshape(-1)[change.where[won]]):
            return False
        steps = list(self._steps)
        return any(total == sum(steps[a:b]) for a, b in itertools.combinations(range(len(steps) + 1), 2))

    def _claim(self, change: HeldChange) -> None:
        """Voxels that people paint are theirs, whatever was accepted there and undone before."""
        accepted = self._accepted.reshape(-1)
        painted = change.where[(change.new != NOBODY) & (change.new == accepted[change.where])]
        if len(painted):
            accepted[painted] = NOBODY
            self._store()

    def _take_in(self, change: HeldChange) -> None:
        accepted = self._accepted.reshape(-1)[change.where]
        old, new = (self._strokes(codes, accepted) for codes in (change.old, change.new))
        touched = self._table.update(change.where, old, new).superpixels
        superpixels = self.labels.reshape(-1)[change.where]
        for codes, sign in ((change.old, -1), (change.new, 1)):
            counted, times = np.unique(superpixels[(codes == accepted) & (codes != NOBODY)], return_counts=True)
            self._accepted_count[counted] += sign * times.astype(np.int32)
            touched = np.union1d(touched, counted)
        self._show(touched)

    @staticmethod
    def _strokes(codes: np.ndarray, accepted: np.ndarray) -> np.ndarray:
        """Codes of voxels that were painted; nobody's where segments overlap, and where a guess was accepted."""
        return np.where((codes == accepted) | (codes == SEVERAL), np.uint8(NOBODY), codes)

    def _show(self, superpixels: np.ndarray) -> None:
        if self._overlay is None or not len(superpixels):
            return
        classes = np.where(self._accepted_count[superpixels] == 0, self._table.classes[superpixels], NOBODY)
        palette = np.zeros((256, 4), np.uint8)
        for code in np.unique(classes[classes != NOBODY]):
            palette[code] = (*self._color_of(int(code)), 255)
        self._overlay.set_colors(superpixels, palette[classes])

    def _color_of(self, code: int) -> tuple[int, int, int]:
        segment = self.node.GetSegmentation().GetSegment(self._held.segment_of(code))
        if segment is not None:
            self._colors[code] = tuple(round(255 * part) for part in segment.GetColor())
        return self._colors.get(code, (127, 127, 127))

    def _follow_colors(self) -> None:
        for code, color in list(self._colors.items()):
            if self._color_of(code) != color:
                self._show(np.flatnonzero(self._table.classes == code))

    def _superpixel_at(self, ijk: Iterable[int]) -> int | None:
        kji = tuple(int(each) for each in ijk)[::-1]
        inside = all(0 <= each < size for each, size in zip(kji, self.labels.shape, strict=True))
        return int(self.labels[kji]) if inside else None

    def _box_around(self, wanted: np.ndarray, start: Box) -> Box:
        """A box that holds the wanted superpixels, all of which reach into `start`: superpixels are connected."""
        is_wanted = wanted != NOBODY
        box = start
        while True:
            larger = tuple(
                slice(max(each.start - _MARGIN, 0), min(each.stop + _MARGIN, size))
                for each, size in zip(box, self.labels.shape, strict=True)
            )
            shells = []
            for axis in range(3):
                for a, b in ((larger[axis].start, box[axis].start), (box[axis].stop, larger[axis].stop)):
                    shells.append((*larger[:axis], slice(a, b), *larger[axis + 1 :]))
            if not any(is_wanted[self.labels[shell]].any() for shell in shells):
                return box
            box = larger

    def _free_voxels(self, wanted: np.ndarray, box: Box) -> np.ndarray:
        """Codes of the wanted voxels that no segment holds, slice by slice to keep memory small."""
        labels, held = self.labels[box], self._held.codes[box]
        codes = np.empty(labels.shape, np.uint8)
        for k in range(len(labels)):
            np.take(wanted, labels[k], out=codes[k], mode="clip")
            codes[k][held[k] != NOBODY] = NOBODY
        return codes

    @staticmethod
    def _check_editable(editor_node: slicer.vtkMRMLSegmentEditorNode) -> None:
        node = slicer.vtkMRMLSegmentationNode
        inside = (
            node.EditAllowedInsideAllSegments,
            node.EditAllowedInsideVisibleSegments,
            node.EditAllowedInsideSingleSegment,
        )
        if editor_node.GetMaskMode() in inside:
            raise SettingsError(
                "The editable area is the inside of segments, where proposals never change anything.",
                "Set 'Editable area' in the Masking panel to 'Everywhere'.",
            )

    def _write(self, codes: np.ndarray, box: Box) -> None:
        for code, inner in enumerate(ndimage.find_objects(codes + np.uint8(1))):  # nobody's become 0
            if inner is not None:
                start = tuple(a.start + b.start for a, b in zip(box, inner, strict=True))[::-1]
                add_voxels(self.node, self._held.segment_of(code), codes[inner] == code, self.geometry, start)

    def _store(self) -> None:
        store_codes(self.node, self._accepted, self._held.segments, self.geometry)
