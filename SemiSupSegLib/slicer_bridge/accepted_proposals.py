"""Which voxels of a segmentation were accepted from proposals: they look like painted ones, but a guess is no stroke.

They are noted in a second, hidden segmentation node with the same segments, which the first one refers to, and which is
saved with the scene. A voxel counts as accepted while the segment that it was accepted for holds it: erasing it, or
undoing the acceptance, ends that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import slicer
from vtk.util.numpy_support import vtk_to_numpy

from ..labels import IGNORE, LabelSchema
from ..volume import Geometry, Volume
from .nodes import image_geometry, set_image_geometry, vtk_array
from .results import add_segmentation
from .segments import BINARY_LABELMAP, read_annotation

ACCEPTED_ROLE = "SemiSupSeg.Accepted"
"""Role of the reference from a segmentation node to the hidden one."""

_ADD = slicer.vtkSlicerSegmentationsModuleLogic.MODE_MERGE_MASK
_TAKE_OUT = slicer.vtkSlicerSegmentationsModuleLogic.MODE_MERGE_MIN


def accepted_node(node: slicer.vtkMRMLSegmentationNode) -> slicer.vtkMRMLSegmentationNode | None:
    """The hidden node that notes what was accepted in a segmentation node; None if nothing ever was."""
    return node.GetNodeReference(ACCEPTED_ROLE)


def split_annotation(
    node: slicer.vtkMRMLSegmentationNode, volume_node: slicer.vtkMRMLScalarVolumeNode, schema: LabelSchema
) -> tuple[Volume, Volume]:
    """What is painted on a volume, strokes and accepted proposals apart, as `Case.scribble` and `Case.proposals` are.

    Parameters
    ----------
    node, volume_node, schema
        As in `segments.read_annotation`.

    Returns
    -------
    strokes, proposals : Volume
        Class indices (k, j, i) on voxels of the volume's grid, cropped, 255 elsewhere; both on the same box.

    Raises
    ------
    SemiSupSegError
        What `segments.read_annotation` raises.
    """
    painted = read_annotation(node, volume_node, schema, "scribble")
    hidden = accepted_node(node)
    nothing = np.full(painted.array.shape, IGNORE, np.uint8)
    if hidden is None:
        return painted, Volume(nothing, painted.geometry)
    # The hidden node knows segments by the IDs that they have in the other one; names there may have changed since.
    accepted = read_annotation(_renamed_as(node, hidden), volume_node, schema, "scribble")
    whole = _on_box(accepted, painted.geometry)
    is_accepted = (painted.array == whole) & (whole != IGNORE)
    strokes = np.where(is_accepted, np.uint8(IGNORE), painted.array)
    return Volume(strokes, painted.geometry), Volume(np.where(is_accepted, whole, nothing), painted.geometry)


def note_accepted(
    node: slicer.vtkMRMLSegmentationNode,
    proposals: np.ndarray,
    volume_node: slicer.vtkMRMLScalarVolumeNode,
    schema: LabelSchema,
    *,
    geometry: Geometry | None = None,
) -> None:
    """Note which voxels of a segmentation node are accepted proposals, as when a case is shown again.

    Parameters
    ----------
    node : vtkMRMLSegmentationNode
        Holds strokes and proposals, in segments with the IDs of the schema.
    proposals : numpy.ndarray of uint8, shape (k, j, i)
        Class indices, 255 for voxels that aren't proposals; what `Cohort.read_proposals` gives.
    volume_node : vtkMRMLScalarVolumeNode
    schema : LabelSchema
    geometry : Geometry, optional
        The grid of `proposals`; that of the volume if not given.
    """
    forget_accepted(node)
    name = f"{node.GetName()} accepted"
    hidden = add_segmentation(proposals, volume_node, schema, name, geometry=geometry, with_background=True)
    for index in reversed(range(hidden.GetNumberOfDisplayNodes())):
        hidden.GetScene().RemoveNode(hidden.GetNthDisplayNode(index))
    _hide(hidden, node)


def forget_accepted(node: slicer.vtkMRMLSegmentationNode) -> None:
    """From now on, whatever a segmentation node holds counts as painted."""
    hidden = accepted_node(node)
    node.SetNodeReferenceID(ACCEPTED_ROLE, None)
    if hidden is not None and hidden.GetScene() is not None:
        hidden.GetScene().RemoveNode(hidden)


def store_codes(
    node: slicer.vtkMRMLSegmentationNode, codes: np.ndarray, segments: tuple[str, ...], geometry: Geometry
) -> None:
    """Note accepted voxels given by the codes of their segments (see `held_voxels`).

    Parameters
    ----------
    node : vtkMRMLSegmentationNode
    codes : numpy.ndarray of uint8, shape (k, j, i)
        Code of the segment for which each voxel was accepted, 255 for none.
    segments : tuple of str
        ID of the segment of each code.
    geometry : Geometry
        The grid of `codes`, in the own coordinates of the node.
    """
    hidden = accepted_node(node)
    if hidden is None:
        hidden = slicer.vtkMRMLSegmentationNode()
        hidden.SetName(f"{node.GetName()} accepted")
        hidden.SetHideFromEditors(True)  # before anybody sees it
        node.GetScene().AddNode(hidden)
        _hide(hidden, node)
    image = slicer.vtkOrientedImageData()
    set_image_geometry(image, geometry)
    image.SetDimensions(codes.shape[::-1])
    image.GetPointData().SetScalars(vtk_array(codes + np.uint8(1)))  # 255 becomes 0: nobody's
    segmentation = slicer.vtkSegmentation()  # a new one: removing segments one by one takes Slicer a second
    segmentation.SetSourceRepresentationName(BINARY_LABELMAP)
    for code, segment_id in enumerate(segments):
        original = node.GetSegmentation().GetSegment(segment_id)
        if original is not None:
            segment = slicer.vtkSegment()
            segment.SetName(original.GetName())
            segment.SetColor(original.GetColor())
            segment.SetTerminology(original.GetTerminology())
            segment.SetLabelValue(code + 1)
            segment.AddRepresentation(BINARY_LABELMAP, image)
            segmentation.AddSegment(segment, segment_id)
    hidden.SetAndObserveSegmentation(segmentation)
    hidden.SetAndObserveTransformNodeID(node.GetTransformNodeID())


def take_back(node: slicer.vtkMRMLSegmentationNode, save_state: Callable[[], object]) -> int:
    """Takes all accepted proposals out of a segmentation node; strokes stay.

    Parameters
    ----------
    node : vtkMRMLSegmentationNode
    save_state : callable
        Saves the state for undo; called once, before anything is changed.

    Returns
    -------
    int
        How many voxels were taken back. The note of what was accepted stays, so that undoing restores it, too.
    """
    hidden = accepted_node(node)
    masks = {} if hidden is None else _held_and_accepted(node, hidden)
    count = sum(int(np.count_nonzero(mask)) for mask in masks.values())
    if count:
        save_state()
        for segment_id, mask in masks.items():
            held = _label_map(node, segment_id)
            kept = np.where(mask, np.uint8(0), np.uint8(255))
            _merge(node, segment_id, kept, held, held.GetExtent()[::2], _TAKE_OUT)
    return count


def add_voxels(
    node: slicer.vtkMRMLSegmentationNode,
    segment_id: str,
    mask: np.ndarray,
    geometry: Geometry,
    start: tuple[int, int, int],
) -> None:
    """Adds voxels to a segment; what other segments hold stays theirs.

    Parameters
    ----------
    node : vtkMRMLSegmentationNode
    segment_id : str
    mask : numpy.ndarray of bool, shape (k, j, i)
        What is added.
    geometry : Geometry
        The whole grid, in the own coordinates of the node.
    start : tuple of int
        Where on it the mask begins: i, j, k.
    """
    lattice = slicer.vtkOrientedImageData()
    set_image_geometry(lattice, geometry)
    _merge(node, segment_id, np.ascontiguousarray(mask).view(np.uint8), lattice, start, _ADD)


def _merge(
    node: slicer.vtkMRMLSegmentationNode,
    segment_id: str,
    values: np.ndarray,
    lattice: slicer.vtkOrientedImageData,
    start: tuple[int, int, int],
    mode: int,
) -> None:
    """Combines a box of voxels with a segment; on the segment's own lattice, so that Slicer needn't resample it."""
    image = slicer.vtkOrientedImageData()
    image.SetSpacing(lattice.GetSpacing())
    image.SetOrigin(lattice.GetOrigin())
    image.CopyDirections(lattice)
    extent = []
    for first, size in zip(start, values.shape[::-1], strict=True):
        extent += [int(first), int(first) + size - 1]
    image.SetExtent(extent)
    image.GetPointData().SetScalars(vtk_array(values))
    slicer.vtkSlicerSegmentationsModuleLogic.SetBinaryLabelmapToSegment(image, node, segment_id, mode)


def _held_and_accepted(
    node: slicer.vtkMRMLSegmentationNode, hidden: slicer.vtkMRMLSegmentationNode
) -> Mapping[str, np.ndarray]:
    """By segment, a mask of the voxels of its label map that were accepted for it and that it still holds."""
    masks = {}
    for segment_id in hidden.GetSegmentation().GetSegmentIDs():
        accepted, held = (_mask(each, segment_id) for each in (hidden, node))
        if accepted is not None and held is not None:
            both = held.array & _on_box(accepted, held.geometry, False)
            if both.any():
                masks[segment_id] = both
    return masks


def _mask(node: slicer.vtkMRMLSegmentationNode, segment_id: str) -> Volume | None:
    image = _label_map(node, segment_id)
    if image is None or image.IsEmpty() or image.GetPointData().GetScalars() is None:
        return None
    values = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])
    return Volume(values == node.GetSegmentation().GetSegment(segment_id).GetLabelValue(), image_geometry(image))


def _label_map(node: slicer.vtkMRMLSegmentationNode, segment_id: str) -> slicer.vtkOrientedImageData | None:
    segment = node.GetSegmentation().GetSegment(segment_id)
    return None if segment is None else segment.GetRepresentation(BINARY_LABELMAP)


def _on_box(volume: Volume, box: Geometry, nothing: int | bool = IGNORE) -> np.ndarray:
    """The voxels of a volume on another box of the same lattice."""
    result = np.full(box.shape, nothing, volume.array.dtype)
    start = np.rint(volume.geometry.index_map(box)[:3, 3]).astype(int)[::-1]
    low = np.maximum(start, 0)
    high = np.minimum(start + volume.array.shape, box.shape)
    if (low < high).all():
        target = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        source = tuple(slice(a, b) for a, b in zip(low - start, high - start, strict=True))
        result[target] = volume.array[source]
    return result


def _renamed_as(
    node: slicer.vtkMRMLSegmentationNode, hidden: slicer.vtkMRMLSegmentationNode
) -> slicer.vtkMRMLSegmentationNode:
    """The hidden node with the names that its segments have in the other node, and with its attributes."""
    for segment_id in hidden.GetSegmentation().GetSegmentIDs():
        original = node.GetSegmentation().GetSegment(segment_id)
        if original is not None:
            hidden.GetSegmentation().GetSegment(segment_id).SetName(original.GetName())
    hidden.SetAndObserveTransformNodeID(node.GetTransformNodeID())
    return hidden


def _hide(hidden: slicer.vtkMRMLSegmentationNode, node: slicer.vtkMRMLSegmentationNode) -> None:
    hidden.SetHideFromEditors(True)
    hidden.SetUndoEnabled(False)
    node.SetNodeReferenceID(ACCEPTED_ROLE, hidden.GetID())
