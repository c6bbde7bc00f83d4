"""Which segment holds each voxel, kept up to date stroke by stroke: what changed is found, the rest isn't touched.

Slicer doesn't say where a stroke was. But comparing a label map with a copy of what it was is a matter of milliseconds
slice by slice, even in a CT, and only slices that differ are looked at any closer.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import slicer
from vtk.util.numpy_support import vtk_to_numpy

from ..errors import VolumeError
from ..labels import IGNORE
from ..volume import Geometry, resample_labels
from .nodes import image_geometry
from .segments import BINARY_LABELMAP

NOBODY = IGNORE
"""Code of voxels that no segment holds."""

SEVERAL = 254
"""Code of voxels that overlapping segments hold."""

_ON_LATTICE = 1e-3

Box = tuple[slice, slice, slice]
"""Slices along k, j, i."""


@dataclass(frozen=True, eq=False)
class HeldChange:
    """Voxels that others hold now.

    Attributes
    ----------
    where : numpy.ndarray of integers, shape (n,)
        Their flat (C order) indices in the grid.
    old, new : numpy.ndarray of uint8, shape (n,)
        Their codes before and after, which differ.
    """

    where: np.ndarray
    old: np.ndarray
    new: np.ndarray


class _Layer:
    """A label map as it was when it was last looked at.

    Remembered on the whole grid: what a label map grows by costs nothing, since zeros take no memory before they are
    written to.
    """

    def __init__(self, shape: tuple[int, int, int], dtype: np.dtype):
        self.values = np.zeros(shape, dtype)
        self.box: Box | None = None
        self.codes: dict[int, int] = {}
        self.modified = -1

    def take(self, values: np.ndarray, box: Box | None) -> Box | None:
        """Remember what a label map holds now, and where; a box around what has changed, None if nothing has."""
        changed = []
        if self.box is not None:
            for shell in _shells(self.box, _intersection(self.box, box) if box is not None else None):
                if self.values[shell].any():
                    self.values[shell] = 0
                    changed.append(shell)
        if box is not None:
            known = self.values[box]
            inner = _difference(known, values)
            if inner is not None:
                known[inner] = values[inner]  # a copy, since Slicer changes label maps in place
                changed.append(_shifted(inner, box))
        self.box = box
        return _union(changed) if changed else None


class HeldVoxels:
    """The segment that holds each voxel of a grid.

    Segments go by codes: 0 for the first one that was seen, and so on. A code stays its segment's for good.

    Parameters
    ----------
    node : vtkMRMLSegmentationNode
    geometry : Geometry
        The grid, in the own coordinates of the node.

    Attributes
    ----------
    codes : numpy.ndarray of uint8, shape (k, j, i)
        Code of the segment that holds each voxel, `NOBODY` or `SEVERAL`; up to the last `update`. Read only.
    """

    def __init__(self, node: slicer.vtkMRMLSegmentationNode, geometry: Geometry):
        self._node = node
        self._geometry = geometry
        self._layers: dict[slicer.vtkOrientedImageData, _Layer] = {}
        self._code_of: dict[str, int] = {}
        self.codes = np.full(geometry.shape, NOBODY, np.uint8)

    def segment_of(self, code: int) -> str:
        """ID of the segment of a code."""
        return list(self._code_of)[code]

    def code_of(self, segment_id: str) -> int:
        """Code of a segment; the next free one if it wasn't seen yet.

        Raises
        ------
        VolumeError
            If there are more segments than codes.
        """
        if segment_id not in self._code_of and len(self._code_of) >= SEVERAL:
            raise VolumeError(
                f"Superpixel proposals are made for up to {SEVERAL} segments.",
                "Move some segments to another segmentation.",
            )
        return self._code_of.setdefault(segment_id, len(self._code_of))

    @property
    def segments(self) -> tuple[str, ...]:
        """IDs of the segments in the order of their codes; some may not exist anymore."""
        return tuple(self._code_of)

    @property
    def painted_box(self) -> Box | None:
        """A box that contains every held voxel; None if there is none."""
        boxes = [layer.box for layer in self._layers.values() if layer.box is not None]
        return _union(boxes) if boxes else None

    def update(self) -> HeldChange | None:
        """Takes in what was painted, erased, undone, added or removed since the last time; None if nothing was."""
        boxes = self._look()
        if not boxes:
            return None
        change = self._compare(_union(boxes))
        if not len(change.where):
            return None
        self.codes.reshape(-1)[change.where] = change.new
        return change

    def _compare(self, box: Box) -> HeldChange:
        """What the layers say about a box against the codes, slice by slice: most of them have few changes or none."""
        rows, size = np.arange(box[1].start, box[1].stop), box[2].stop - box[2].start
        found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for k in range(box[0].start, box[0].stop):
            old = self.codes[k, box[1], box[2]]
            new = self._merged((slice(k, k + 1), *box[1:]))[0]
            changed = np.flatnonzero(old != new)
            if len(changed):
                j, i = np.divmod(changed, size)
                flat = (k * self.codes.shape[1] + rows[j]) * self.codes.shape[2] + i + box[2].start
                found.append((flat, old.reshape(-1)[changed], new.reshape(-1)[changed]))
        if not found:
            return HeldChange(np.empty(0, np.intp), np.empty(0, np.uint8), np.empty(0, np.uint8))
        return HeldChange(*(np.concatenate(part) for part in zip(*found, strict=True)))

    def _look(self) -> list[Box]:
        """Take in all label maps; boxes around what has changed."""
        tables = self._tables()
        boxes = [layer.box for image, layer in self._layers.items() if image not in tables and layer.box is not None]
        self._layers = {image: layer for image, layer in self._layers.items() if image in tables}
        for image, codes in tables.items():
            layer = self._layers.get(image)
            if layer is not None and layer.modified == image.GetMTime() and layer.codes == codes:
                continue
            values, box = self._on_grid(image, codes)
            if layer is None or layer.values.dtype != values.dtype:
                boxes += [layer.box] if layer is not None and layer.box is not None else []
                layer = self._layers[image] = _Layer(self.codes.shape, values.dtype)
            means_the_same = all(codes.get(value) == code for value, code in layer.codes.items())
            changed = layer.take(values, box)
            if not means_the_same and layer.box is not None:
                changed = layer.box if changed is None else _union([layer.box, changed])
            boxes += [changed] if changed is not None else []
            layer.codes, layer.modified = codes, image.GetMTime()
        return boxes

    def _tables(self) -> dict[slicer.vtkOrientedImageData, dict[int, int]]:
        """The label maps, and the code that each value stands for."""
        segmentation = self._node.GetSegmentation()
        tables: dict[slicer.vtkOrientedImageData, dict[int, int]] = {}
        for segment_id in segmentation.GetSegmentIDs():
            segment = segmentation.GetSegment(segment_id)
            image = segment.GetRepresentation(BINARY_LABELMAP)
            if image is not None and not image.IsEmpty() and image.GetPointData().GetScalars() is not None:
                tables.setdefault(image, {})[segment.GetLabelValue()] = self.code_of(segment_id)
        return tables

    def _on_grid(self, image: slicer.vtkOrientedImageData, codes: dict[int, int]) -> tuple[np.ndarray, Box | None]:
        """A label map's values, and their place on the grid; a view of what Slicer holds, if it is on the lattice."""
        values = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])
        geometry = image_geometry(image)
        shift = geometry.index_map(self._geometry)
        start = np.rint(shift[:3, 3]).astype(int)
        corners = np.array(list(itertools.product(*((0, size - 1) for size in geometry.size))))
        mapped = corners @ shift[:3, :3].T + shift[:3, 3]
        if np.abs(mapped - corners - start).max() > _ON_LATTICE:
            # A label map on voxels of its own, such as one that was imported and never edited.
            dense = resample_labels(_looked_up(values, codes), geometry, self._geometry)
            held = np.zeros(dense.shape, values.dtype)
            for value, code in codes.items():
                held[dense == code] = value
            return held, tuple(slice(0, size) for size in dense.shape)
        start = start[::-1]
        low = np.maximum(start, 0)
        high = np.minimum(start + values.shape, self._geometry.shape)
        if (low >= high).any():
            return values, None
        inside = values[tuple(slice(a, b) for a, b in zip(low - start, high - start, strict=True))]
        return inside, tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))

    def _merged(self, box: Box) -> np.ndarray:
        merged = None
        for layer in self._layers.values():
            common = None if layer.box is None else _intersection(box, layer.box)
            if common is None:
                continue
            codes = _looked_up(layer.values[common], layer.codes)
            if merged is None and common == box:
                merged = codes
                continue
            if merged is None:
                merged = np.full([each.stop - each.start for each in box], NOBODY, np.uint8)
            here = merged[_within(common, box)]
            held, free = codes != NOBODY, here == NOBODY
            here[held & ~free & (here != codes)] = SEVERAL
            np.copyto(here, codes, where=held & free)
        return np.full([each.stop - each.start for each in box], NOBODY, np.uint8) if merged is None else merged


def _shells(outer: Box, inner: Box | None) -> Iterator[Box]:
    """Boxes that together are `outer` without `inner`, which lies in it."""
    if inner is None:
        yield outer
        return
    rest = [*outer]
    for axis in range(3):
        for a, b in ((rest[axis].start, inner[axis].start), (inner[axis].stop, rest[axis].stop)):
            if a < b:
                yield (*rest[:axis], slice(a, b), *rest[axis + 1 :])
        rest[axis] = inner[axis]


def _difference(old: np.ndarray, new: np.ndarray) -> Box | None:
    """The smallest box that holds all differences of two arrays; None if they are equal."""
    rows = [k for k in range(len(old)) if not np.array_equal(old[k], new[k])]
    if not rows:
        return None
    k = slice(rows[0], rows[-1] + 1)
    plane = np.zeros(old.shape[1:], bool)
    for row in rows:
        plane |= old[row] != new[row]
    j, i = (np.flatnonzero(plane.any(axis=axis)) for axis in (1, 0))
    return k, slice(int(j[0]), int(j[-1]) + 1), slice(int(i[0]), int(i[-1]) + 1)


def _looked_up(values: np.ndarray, codes: dict[int, int]) -> np.ndarray:
    """The code of each label value, `NOBODY` for those without."""
    if values.dtype == np.uint8:
        table = np.full(256, NOBODY, np.uint8)
        for value, code in codes.items():
            if 0 <= value < 256:
                table[value] = code
        return table[values]
    result = np.full(values.shape, NOBODY, np.uint8)
    for value, code in codes.items():
        result[values == value] = code
    return result


def _union(boxes: list[Box]) -> Box:
    return tuple(
        slice(min(each.start for each in axis), max(each.stop for each in axis)) for axis in zip(*boxes, strict=True)
    )


def _intersection(first: Box, second: Box) -> Box | None:
    common = tuple(slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(first, second, strict=True))
    return common if all(each.start < each.stop for each in common) else None


def _within(box: Box, outer: Box) -> Box:
    """A box as slices of an array that covers `outer`."""
    return tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(box, outer, strict=True))


def _shifted(box: Box | None, outer: Box) -> Box | None:
    """The inverse of `_within`."""
    if box is None:
        return None
    return tuple(slice(a.start + b.start, a.stop + b.start) for a, b in zip(box, outer, strict=True))
