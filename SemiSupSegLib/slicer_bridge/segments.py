"""Segmentation nodes as classes and strokes: read from the label maps that Slicer holds, never by its slow exports.

Segments that don't overlap share one label map (a *layer*), cropped to what is painted. Reading a layer and its extent
takes milliseconds where exporting one segment to the volume's grid takes a second.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import slicer
from vtk.util.numpy_support import vtk_to_numpy

from ..errors import CohortError, ErrorCode, VolumeError
from ..labels import IGNORE, LabelSchema, SegmentClass
from ..segmentation_file import AnnotationKind, Segment, match_class
from ..volume import Geometry, Volume, resample_labels
from .nodes import CASE_ATTRIBUTE, check_scalar_volume, geometry_of, image_geometry, own_to_own

BINARY_LABELMAP = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()

SegmentationNodes = slicer.vtkMRMLSegmentationNode | Iterable[slicer.vtkMRMLSegmentationNode]

_ON_LATTICE = 1e-3
"""Voxels that two grids may be apart and still count as the same, as in `Geometry.same_grid`."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A label map of a segmentation node and the segments that share it.

    Parameters
    ----------
    volume : Volume or None
        Label values, a view of what Slicer holds, in the node's own coordinates; None if nothing is painted.
    segments : tuple of Segment
    """

    volume: Volume | None
    segments: tuple[Segment, ...]


def read_layers(node: slicer.vtkMRMLSegmentationNode) -> list[Layer]:
    """The layers of a segmentation node; segments in the node's order. The node isn't changed, and no voxel copied."""
    segmentation = _with_label_maps(node)
    images: dict[object, list[Segment]] = {}
    for segment_id in segmentation.GetSegmentIDs():
        segment = segmentation.GetSegment(segment_id)
        image = segment.GetRepresentation(BINARY_LABELMAP)
        layer = list(images).index(image) if image in images else len(images)
        images.setdefault(image, []).append(
            Segment(
                segment_id,
                segment.GetName() or segment_id,
                segment.GetColor(),
                segment.GetTerminology(),
                segment.GetLabelValue(),
                layer,
            )
        )
    return [Layer(_voxels(image), tuple(segments)) for image, segments in images.items()]


def read_segments(node: slicer.vtkMRMLSegmentationNode) -> tuple[Segment, ...]:
    """ID, name, color, terminology, label value and layer of each segment, in the node's order."""
    segments = {segment.segment_id: segment for layer in read_layers(node) for segment in layer.segments}
    return tuple(segments[segment_id] for segment_id in node.GetSegmentation().GetSegmentIDs())


def read_segment(node: slicer.vtkMRMLSegmentationNode, segment_id: str) -> Volume | None:
    """What is painted of one segment: the fast way to see a stroke.

    Parameters
    ----------
    node : vtkMRMLSegmentationNode
    segment_id : str

    Returns
    -------
    Volume or None
        bool ``(k, j, i)``, cropped to what Slicer allocated, in the node's own coordinates; None if nothing is painted.

    Raises
    ------
    CohortError
        If there is no such segment.
    """
    segment = node.GetSegmentation().GetSegment(segment_id)
    if segment is None:
        raise CohortError(f"'{node.GetName()}' has no segment '{segment_id}'.", "Give the ID of one of its segments.")
    voxels = _voxels(segment.GetRepresentation(BINARY_LABELMAP))
    return voxels and Volume(voxels.array == segment.GetLabelValue(), voxels.geometry)


def schema_from_segmentation(nodes: SegmentationNodes) -> LabelSchema:
    """The classes that segmentation nodes define: each segment's ID, name, color and terminology.

    Parameters
    ----------
    nodes : vtkMRMLSegmentationNode or several
        A segment named "background" (in whatever case) is the background class. Of segments of one name in several
        nodes the first counts.

    Raises
    ------
    CohortError
        If there is no segment besides the background, or a node holds two of one name.
    """
    background, classes = LabelSchema.background, {}
    for node in _as_list(nodes):
        segments = read_segments(node)
        names = [segment.name for segment in segments]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise CohortError(f"Two segments of '{node.GetName()}' are called '{twice}'.", "Rename one of them.")
        for segment in segments:
            if segment.name.casefold() == "background":
                background = segment.to_class() if background is LabelSchema.background else background
            else:
                classes.setdefault(segment.name, segment.to_class())
    if not classes:
        raise CohortError(
            "The segmentation holds no structure to segment.", "Add a segment for each structure, and name it."
        )
    return LabelSchema(_with_unique_ids(background, classes.values()), background)


def read_annotation(
    nodes: SegmentationNodes,
    volume_node: slicer.vtkMRMLScalarVolumeNode,
    schema: LabelSchema,
    kind: AnnotationKind = "scribble",
) -> Volume:
    """What is painted on a volume, as class indices on the volume's grid, cropped to where something is.

    Parameters
    ----------
    nodes : vtkMRMLSegmentationNode or several
        Segments count for the class of their name (see `segmentation_file.match_class`), those of a node that shows a
        case also for the class of their ID. Where a node lies under another transform than the volume, voxels go where
        the views show them.
    volume_node : vtkMRMLScalarVolumeNode
    schema : LabelSchema
    kind : {"scribble", "label"}
        Where segments of different classes overlap, a scribble contradicts itself and is not annotated; a label takes
        the last one's class.

    Returns
    -------
    Volume
        uint8 ``(k, j, i)`` on voxels of the volume's grid (own coordinates). Where no segment is: 255 in a scribble,
        0 in a label; so it is everywhere outside the crop (see `uncropped`).

    Raises
    ------
    CohortError
        If something is painted with a segment that is no class.
    VolumeError
        If everything painted lies outside the volume, or a non-linear transform lies between.
    """
    check_scalar_volume(volume_node)
    grid = geometry_of(volume_node)
    pieces, painted = [], False
    for node in _as_list(nodes):
        for layer in read_layers(node):
            classes = _classes_of(layer, node, schema, kind)
            if classes is not None:
                painted = True
                moved = Volume(classes.array, own_to_own(node, volume_node, classes.geometry))
                pieces += _on_grid(moved, grid, kind)
    if painted and not pieces:
        raise VolumeError(
            f"Everything that is painted lies outside the volume '{volume_node.GetName()}'.",
            "Check that they belong together, and that both are under the same transform.",
            code=ErrorCode.BAD_GEOMETRY,
        )
    return _merged(pieces, grid, kind)


def uncropped(annotation: Volume, grid: Geometry, kind: AnnotationKind = "scribble") -> np.ndarray:
    """A cropped annotation on the whole grid that it was cropped from: uint8 ``(k, j, i)``."""
    whole = np.full(grid.shape, _nothing(kind), dtype=np.uint8)
    start = np.rint(annotation.geometry.index_map(grid)[:3, 3]).astype(int)
    whole[_slices(start, annotation.geometry.size)] = annotation.array
    return whole


def _with_label_maps(node: slicer.vtkMRMLSegmentationNode) -> slicer.vtkSegmentation:
    """The node's segmentation; a converted copy where it holds no label maps (drawn as surfaces, say)."""
    segmentation = node.GetSegmentation()
    if segmentation.GetNumberOfSegments() == 0 or segmentation.ContainsRepresentation(BINARY_LABELMAP):
        return segmentation
    copy = slicer.vtkSegmentation()
    copy.DeepCopy(segmentation)
    if not copy.CreateRepresentation(BINARY_LABELMAP):
        raise VolumeError(
            f"The segmentation '{node.GetName()}' can't be converted to voxels.",
            "Set its source volume in the Segment Editor, then try again.",
        )
    return copy


def _voxels(image: slicer.vtkOrientedImageData | None) -> Volume | None:
    if image is None or image.IsEmpty() or image.GetPointData().GetScalars() is None:
        return None
    array = vtk_to_numpy(image.GetPointData().GetScalars())
    return Volume(array.reshape(image.GetDimensions()[::-1]), image_geometry(image))


def _classes_of(
    layer: Layer, node: slicer.vtkMRMLSegmentationNode, schema: LabelSchema, kind: AnnotationKind
) -> Volume | None:
    """A layer as class indices, 255 where none of its segments is; None if nothing is painted."""
    if layer.volume is None:
        return None
    values = layer.volume.array
    table = {}
    for segment in layer.segments:
        index = _class_index(segment, node, schema)
        if index is not None:
            table[segment.value] = index
        elif (values == segment.value).any():
            raise CohortError(
                f"'{node.GetName()}' has a segment '{segment.name}' that is no class of this cohort.",
                f"Rename it to one of: {schema.background.name}, {', '.join(schema.names)}; or remove it.",
            )
    if kind == "label":
        # Background covers nothing in a label: it is what no class covers.
        table = {value: index for value, index in table.items() if index != 0}
    classes = _looked_up(values, table)
    return Volume(classes, layer.volume.geometry) if classes.min() != IGNORE else None


def _class_index(segment: Segment, node: slicer.vtkMRMLSegmentationNode, schema: LabelSchema) -> int | None:
    if node.GetAttribute(CASE_ATTRIBUTE):
        # Its segments were made from the schema, so an ID stays true when a segment is renamed.
        for index, each in enumerate((schema.background, *schema.classes)):
            if segment.segment_id == each.segment_id:
                return index
    return match_class(segment, schema)


def _looked_up(values: np.ndarray, table: dict[int, int]) -> np.ndarray:
    """The class index of each label value, 255 for those that aren't in the table."""
    result = np.full(values.shape, IGNORE, dtype=np.uint8)
    known = {value: index for value, index in table.items() if value > 0}
    if not known:
        return result
    classes = np.full(max(known) + 2, IGNORE, dtype=np.uint8)
    for value, index in known.items():
        classes[value] = index
    for k, plane in enumerate(values):
        if plane.any():  # strokes are on few slices
            result[k] = classes[np.clip(plane, 0, len(classes) - 1).astype(np.intp)]
    return result


def _on_grid(annotation: Volume, grid: Geometry, kind: AnnotationKind) -> list[tuple[np.ndarray, np.ndarray]]:
    """The part of an annotation that is on a grid: where it starts (i, j, k) and its class indices; [] if none is."""
    forward = annotation.geometry.index_map(grid)
    corners = np.array(list(itertools.product(*((-0.5, size - 0.5) for size in annotation.geometry.size))))
    mapped = corners @ forward[:3, :3].T + forward[:3, 3]
    shift = np.rint(forward[:3, 3]).astype(int)
    if np.abs(mapped - corners - shift).max() <= _ON_LATTICE:
        first, last = np.maximum(shift, 0), np.minimum(shift + annotation.geometry.size, grid.size)
        inside = annotation.array[_slices(first - shift, last - first)] if (first < last).all() else np.empty(0)
    else:
        first = np.maximum(np.floor(mapped.min(axis=0) + 0.5).astype(int), 0)
        last = np.minimum(np.ceil(mapped.max(axis=0) + 0.5).astype(int), grid.size)
        if (first >= last).any():
            return []
        inside = _resampled(annotation, grid.cropped(first, last - first), kind)
    return [(first, inside)] if inside.size and inside.min() != IGNORE else []


def _resampled(annotation: Volume, box: Geometry, kind: AnnotationKind) -> np.ndarray:
    if kind == "scribble":
        return resample_labels(annotation.array, annotation.geometry, box)
    # In a label what no class covers votes, too: it is background.
    dense = np.where(annotation.array == IGNORE, 0, annotation.array).astype(np.uint8)
    resampled = resample_labels(dense, annotation.geometry, box)
    resampled[resampled == 0] = IGNORE
    return resampled


def _merged(pieces: list[tuple[np.ndarray, np.ndarray]], grid: Geometry, kind: AnnotationKind) -> Volume:
    """All pieces on the smallest box of the grid that holds them."""
    if not pieces:
        return Volume(np.full((1, 1, 1), _nothing(kind), dtype=np.uint8), grid.cropped((0, 0, 0), (1, 1, 1)))
    start = np.min([first for first, _ in pieces], axis=0)
    stop = np.max([first + classes.shape[::-1] for first, classes in pieces], axis=0)
    box = grid.cropped(start, stop - start)
    if len(pieces) == 1:
        merged = pieces[0][1].copy()
    else:
        merged = np.full(box.shape, IGNORE, dtype=np.uint8)
        contradictory = np.zeros(box.shape, dtype=bool)
        for first, classes in pieces:
            where = _slices(first - start, classes.shape[::-1])
            here, painted = merged[where], classes != IGNORE
            contradictory[where] |= painted & (here != IGNORE) & (here != classes)
            here[painted] = classes[painted]
        if kind == "scribble":
            merged[contradictory] = IGNORE
    if kind == "label":
        merged[merged == IGNORE] = 0
    return Volume(merged, box)


def _nothing(kind: AnnotationKind) -> int:
    return IGNORE if kind == "scribble" else 0


def _slices(start: np.ndarray, size: Iterable[int]) -> tuple[slice, slice, slice]:
    """Slices along k, j, i of a box given by its start and size along i, j, k."""
    return tuple(slice(int(first), int(first) + int(n)) for first, n in zip(start, size, strict=True))[::-1]


def _with_unique_ids(background: SegmentClass, classes: Iterable[SegmentClass]) -> tuple[SegmentClass, ...]:
    """Slicer numbers segments within a node, so two nodes may have a "Segment_1" each; the second goes by its name."""
    taken, unique = {background.segment_id}, []
    for each in classes:
        if each.segment_id in taken:
            each = SegmentClass(each.name, each.name, each.color, each.terminology)
        taken.add(each.segment_id)
        unique.append(each)
    return tuple(unique)


def _as_list(nodes: SegmentationNodes) -> list[slicer.vtkMRMLSegmentationNode]:
    return [nodes] if isinstance(nodes, slicer.vtkMRMLSegmentationNode) else list(nodes)
