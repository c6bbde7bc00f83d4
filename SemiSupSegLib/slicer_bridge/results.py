"""Results as nodes: segmentations with the user's segments, probability and uncertainty as volumes that show at once.

The obvious calls of `slicer.util` take seconds for a CT (one import a segment, automatic window/level over all voxels).
Here all segments share one cropped label map, made before the node is in the scene, and display settings are fixed
before the display sees a voxel. No node that wasn't made here is written to unless `overwrite` says so.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import slicer

from ..errors import ErrorCode, SemiSupSegError, VolumeError
from ..labels import IGNORE, LabelSchema, SegmentClass
from ..volume import Geometry
from .nodes import (
    check_scalar_volume,
    geometry_of,
    image_data,
    set_geometry,
    set_image_geometry,
    vtk_array,
)
from .segments import BINARY_LABELMAP

RESULT_ATTRIBUTE = "SemiSupSeg.Result"
"""Attribute of the segmentation nodes made here: the state that they were left in, to notice a person's edits."""

UNCERTAINTY_COLORS = "vtkMRMLColorTableNodeFileInferno.txt"
GRAY = "vtkMRMLColorTableNodeGrey"


def add_segmentation(
    labels: np.ndarray,
    volume_node: slicer.vtkMRMLScalarVolumeNode,
    schema: LabelSchema,
    name: str,
    *,
    geometry: Geometry | None = None,
    with_background: bool = False,
) -> slicer.vtkMRMLSegmentationNode:
    """Show class indices as a new segmentation node in the scene of a volume node.

    Parameters
    ----------
    labels : numpy.ndarray of uint8, shape (k, j, i)
        Class indices; 255 belongs to no segment, and 0 only `with_background`.
    volume_node : vtkMRMLScalarVolumeNode
        The volume that they belong to. The node gets its parent transform and it as source volume.
    schema : LabelSchema
        Every class becomes a segment with its own ID, name, color, terminology and label value, painted or not.
    name : str
        Name of the node.
    geometry : Geometry, optional
        The grid of `labels`, on voxels of the volume's; that of the volume if not given.
    with_background : bool
        Make a segment of class 0, last, as scribbles have it.

    Returns
    -------
    vtkMRMLSegmentationNode

    Raises
    ------
    VolumeError
        ``BAD_GEOMETRY`` if the labels don't fit the grid.
    """
    segmentation = slicer.vtkSegmentation()
    _fill(segmentation, _label_map(labels, volume_node, schema, geometry, with_background), schema, with_background)
    node = slicer.vtkMRMLSegmentationNode()
    node.SetName(_free_name(volume_node.GetScene(), name))
    node.SetAndObserveSegmentation(segmentation)
    volume_node.GetScene().AddNode(node)
    node.CreateDefaultDisplayNodes()
    node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume_node)
    _remember_state(node)
    return node


def update_segmentation(
    node: slicer.vtkMRMLSegmentationNode,
    labels: np.ndarray,
    volume_node: slicer.vtkMRMLScalarVolumeNode,
    schema: LabelSchema,
    *,
    geometry: Geometry | None = None,
    with_background: bool = False,
    overwrite: bool = False,
) -> None:
    """Show class indices in a node that exists, in place of what it shows; display settings of segments stay.

    Parameters
    ----------
    node : vtkMRMLSegmentationNode
        A node made here that nobody edited since; any other only with `overwrite`. Segments that are no class stay.
    labels, volume_node, schema, geometry, with_background
        As in `add_segmentation`.
    overwrite : bool
        Replace what somebody painted. Whoever asks for this saves the undo state before.

    Raises
    ------
    SemiSupSegError
        ``NOT_WRITABLE`` if the node isn't ours or was edited, without `overwrite`; the node is as it was.
    """
    if not overwrite and not is_untouched(node):
        raise SemiSupSegError(
            f"The segmentation '{node.GetName()}' holds work that isn't a result, or a result that was edited.",
            "Show the result as a new segmentation, or say that it may be overwritten.",
            code=ErrorCode.NOT_WRITABLE,
        )
    image = _label_map(labels, volume_node, schema, geometry, with_background)
    segmentation = node.GetSegmentation()
    was_modifying = node.StartModify()
    try:
        segmentation.SetSourceRepresentationName(BINARY_LABELMAP)
        _fill(segmentation, image, schema, with_background)
        node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
        node.SetReferenceImageGeometryParameterFromVolumeNode(volume_node)
    finally:
        node.EndModify(was_modifying)
    image.Modified()  # one event for all segments: displays follow, and surfaces made of the old voxels go
    _remember_state(node)


def is_untouched(node: slicer.vtkMRMLSegmentationNode) -> bool:
    """Whether a node was made here and nobody edited a segment since. After loading a scene nobody knows: False."""
    return bool(node.GetAttribute(RESULT_ATTRIBUTE)) and node.GetAttribute(RESULT_ATTRIBUTE) == painted_state(node)


def painted_state(node: slicer.vtkMRMLSegmentationNode) -> str:
    """A text that changes whenever something in a segmentation is painted, erased, added or removed."""
    segmentation = node.GetSegmentation()
    images = {}
    for segment_id in segmentation.GetSegmentIDs():
        image = segmentation.GetSegment(segment_id).GetRepresentation(BINARY_LABELMAP)
        images[segment_id] = 0 if image is None else image.GetMTime()
    return " ".join(f"{segment_id}:{time}" for segment_id, time in images.items())


def add_probability(
    probability: np.ndarray, volume_node: slicer.vtkMRMLScalarVolumeNode, name: str
) -> slicer.vtkMRMLScalarVolumeNode:
    """Show a class's probability, 0..1, as a gray volume node with the window fixed to 0..1.

    Parameters
    ----------
    probability : numpy.ndarray, shape (k, j, i)
        On the grid of `volume_node`. A float32 array is shared with the node, not copied.
    volume_node : vtkMRMLScalarVolumeNode
        The volume that it belongs to: gives geometry, scene and parent transform.
    name : str
        Name of the node.
    """
    return _add_map(probability, volume_node, name, GRAY)


def add_uncertainty(
    uncertainty: np.ndarray, volume_node: slicer.vtkMRMLScalarVolumeNode, name: str
) -> slicer.vtkMRMLScalarVolumeNode:
    """Show an uncertainty, 0..1, as a volume node from black (sure) to bright yellow; see `add_probability`."""
    return _add_map(uncertainty, volume_node, name, UNCERTAINTY_COLORS)


def update_map(
    node: slicer.vtkMRMLScalarVolumeNode, array: np.ndarray, volume_node: slicer.vtkMRMLScalarVolumeNode
) -> None:
    """New voxels for a node that `add_probability` or `add_uncertainty` made; the window that a person chose stays."""
    check_fit(array, geometry_of(volume_node))
    was_modifying = node.StartModify()
    set_geometry(node, geometry_of(volume_node))
    node.SetAndObserveImageData(image_data(np.asarray(array, dtype=np.float32)))
    node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
    node.EndModify(was_modifying)


def add_volume(
    array: np.ndarray, geometry: Geometry, scene: slicer.vtkMRMLScene, name: str
) -> slicer.vtkMRMLScalarVolumeNode:
    """Show an image of the hall as a new scalar volume node; the array is shared, not copied.

    The window spans the 0.1st to the 99.9th percentile, as Slicer's automatic one does, of a sample of the voxels.
    """
    sample = array[tuple(slice(None, None, max(1, size // 64)) for size in array.shape)]
    low, high = np.percentile(sample, (0.1, 99.9))
    return _add_scalar_volume(array, geometry, scene, name, GRAY, (low, max(high, low + 1e-6)))


def _add_map(
    array: np.ndarray, volume_node: slicer.vtkMRMLScalarVolumeNode, name: str, colors: str
) -> slicer.vtkMRMLScalarVolumeNode:
    check_scalar_volume(volume_node)
    geometry = geometry_of(volume_node)
    check_fit(array, geometry)
    array = np.asarray(array, dtype=np.float32)
    node = _add_scalar_volume(array, geometry, volume_node.GetScene(), name, colors, (0.0, 1.0))
    node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
    return node


def _add_scalar_volume(
    array: np.ndarray,
    geometry: Geometry,
    scene: slicer.vtkMRMLScene,
    name: str,
    colors: str,
    window: tuple[float, float],
) -> slicer.vtkMRMLScalarVolumeNode:
    """A volume node whose display is settled before it sees a voxel: automatic windows read all of them, twice."""
    display = slicer.vtkMRMLScalarVolumeDisplayNode()
    display.SetAutoWindowLevel(False)
    display.SetAutoThreshold(False)
    display.SetWindowLevelMinMax(*window)
    display.SetAndObserveColorNodeID(colors if scene.GetNodeByID(colors) else GRAY)
    scene.AddNode(display)
    node = slicer.vtkMRMLScalarVolumeNode()
    node.SetName(_free_name(scene, name))
    set_geometry(node, geometry)
    node.SetAndObserveImageData(image_data(array))
    node.AddAndObserveDisplayNodeID(display.GetID())
    scene.AddNode(node)
    return node


def _free_name(scene: slicer.vtkMRMLScene, name: str) -> str:
    """The name if no node has it: the scene's own unique names remember those of nodes that are gone."""
    return name if scene.GetFirstNodeByName(name) is None else scene.GenerateUniqueName(name)


def _label_map(
    labels: np.ndarray,
    volume_node: slicer.vtkMRMLScalarVolumeNode,
    schema: LabelSchema,
    geometry: Geometry | None,
    with_background: bool,
) -> slicer.vtkOrientedImageData:
    """The label values of all segments as one image, cropped to what is painted."""
    check_scalar_volume(volume_node)
    grid = geometry_of(volume_node)
    own = grid if geometry is None else geometry
    check_fit(labels, own)
    table = _label_values(schema, with_background)
    start, stop = _painted_box(labels, table)
    painted = labels[tuple(slice(first, last) for first, last in zip(start, stop, strict=True))]
    offset = np.rint(own.index_map(grid)[:3, 3]).astype(int)
    lower, upper = offset + start[::-1], offset + stop[::-1] - 1
    image = slicer.vtkOrientedImageData()
    set_image_geometry(image, grid)
    image.SetExtent([int(bound) for pair in zip(lower, upper, strict=True) for bound in pair])
    if painted.size:
        values = painted.copy() if _is_identity(table, painted) else table[painted]
        image.GetPointData().SetScalars(vtk_array(values))
    return image


def _label_values(schema: LabelSchema, with_background: bool) -> np.ndarray:
    """Table from class index to label value, 0 for what belongs to no segment."""
    table = np.zeros(256, dtype=np.uint16)
    table[1 : schema.n_classes] = [each.value for each in schema.classes]
    if with_background:
        table[0] = min(set(range(1, schema.n_classes + 1)) - set(table.tolist()))
    return table.astype(np.uint8) if table.max() < 256 else table.astype(np.int16) if table.max() < 32768 else table


def _is_identity(table: np.ndarray, labels: np.ndarray) -> bool:
    return table.dtype == labels.dtype and bool((table[:IGNORE] == np.arange(IGNORE))[: int(labels.max()) + 1].all())


def _painted_box(labels: np.ndarray, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and one behind the last index along k, j, i of what some segment holds; of nothing: zeros."""
    is_plain = table[0] == 0 and table[labels.max()] != 0
    painted = labels if is_plain else table[labels] != 0
    in_plane = np.bitwise_or.reduce(painted, axis=0)
    bounds = [np.flatnonzero(in_plane.any(axis=axis)) for axis in (1, 0)]
    if not len(bounds[0]):
        return np.zeros(3, dtype=int), np.zeros(3, dtype=int)
    slices = np.flatnonzero([painted[k].any() for k in range(len(painted))])
    bounds.insert(0, slices)
    return np.array([each[0] for each in bounds]), np.array([each[-1] + 1 for each in bounds])


def _fill(
    segmentation: slicer.vtkSegmentation, image: slicer.vtkOrientedImageData, schema: LabelSchema, with_background: bool
) -> None:
    """Let all segments of the schema share an image; make those that aren't there."""
    values = _label_values(schema, with_background)
    for index, each in _ordered(schema, with_background):
        segment = _segment_of(each, segmentation)
        is_new = segment is None
        if is_new:
            segment = slicer.vtkSegment()
        _describe(segment, each)
        segment.SetLabelValue(int(values[index]))
        segment.AddRepresentation(BINARY_LABELMAP, image)
        if is_new:
            segmentation.AddSegment(segment, each.segment_id)


def _segment_of(each: SegmentClass, segmentation: slicer.vtkSegmentation) -> slicer.vtkSegment | None:
    """The segment of a class, by its ID, else by its name: a person's node may have numbered its segments."""
    return segmentation.GetSegment(each.segment_id) or segmentation.GetSegment(
        segmentation.GetSegmentIdBySegmentName(each.name)
    )


def _ordered(schema: LabelSchema, with_background: bool) -> Iterator[tuple[int, SegmentClass]]:
    yield from enumerate(schema.classes, start=1)
    if with_background:
        yield 0, schema.background


def _describe(segment: slicer.vtkSegment, each: SegmentClass) -> None:
    segment.SetName(each.name)
    segment.SetNameAutoGenerated(False)
    segment.SetColor(each.color or (0.5, 0.5, 0.5))
    segment.SetColorAutoGenerated(False)
    if each.terminology:
        segment.SetTerminology(each.terminology)


def _remember_state(node: slicer.vtkMRMLSegmentationNode) -> None:
    node.SetAttribute(RESULT_ATTRIBUTE, painted_state(node))


def check_fit(array: np.ndarray, geometry: Geometry) -> None:
    """Raise `VolumeError` (``BAD_GEOMETRY``) if an array (k, j, i) isn't as large as a grid."""
    if array.shape != geometry.shape:
        raise VolumeError(
            f"A result of shape {array.shape} (k, j, i) doesn't fit a volume of shape {geometry.shape}.",
            "Use the volume that it was made from.",
            code=ErrorCode.BAD_GEOMETRY,
        )
