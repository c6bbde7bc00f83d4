"""Volume nodes of a MRML scene as volumes of the hall, and back: RAS here, LPS there, the same voxels in both.

A node's *own* coordinates are those before its parent transform. Cases, results and annotations are exchanged in the
own coordinates of their volume node, so a transform on it neither resamples nor rounds anything; whatever lies under
another transform is brought there (`own_to_own`).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import get_vtk_array_type, numpy_to_vtk

from ..errors import ErrorCode, VolumeError
from ..volume import Geometry, Volume

CASE_ATTRIBUTE = "SemiSupSeg.Case"
"""Attribute of every node that shows something of a case: the case's ID."""

COHORT_ATTRIBUTE = "SemiSupSeg.Cohort"
"""Attribute beside it: the path of the cohort's file."""

KIND_ATTRIBUTE = "SemiSupSeg.Kind"
"""Attribute beside these: what of the case the node shows (`Kind`); a probability's names its class, too."""

Kind = Literal["image", "scribble", "label", "result", "probability", "uncertainty"]

_FLIP = np.array([-1.0, -1.0, 1.0])
"""RAS to LPS and back: a change of sign, so no bit of a coordinate is lost. (Adding 0.0 makes 0.0 of -0.0.)"""


def volume_of(node: slicer.vtkMRMLScalarVolumeNode) -> Volume:
    """The voxels of a volume node and where they are.

    Parameters
    ----------
    node : vtkMRMLScalarVolumeNode
        A scalar volume, under whatever transform.

    Returns
    -------
    Volume
        Array ``(k, j, i)``: a *view* of the node's voxels, so copy what shall outlive a change of the node. Geometry in
        LPS, mm, bit for bit the node's own (before its parent transform).

    Raises
    ------
    VolumeError
        ``BAD_IMAGE`` for a node that is no scalar volume (color, vector, time sequence) or holds no voxels;
        ``BAD_GEOMETRY`` where its axes lie in one plane.
    """
    check_scalar_volume(node)
    return Volume(slicer.util.arrayFromVolume(node), geometry_of(node))


def check_scalar_volume(node: slicer.vtkMRMLNode | None) -> None:
    """Raise `VolumeError` (``BAD_IMAGE``) if a node isn't a volume with one value a voxel."""
    if node is None:
        raise VolumeError("No volume is selected.", "Choose a scan.")
    name = node.GetName()
    if node.IsA("vtkMRMLSequenceNode") or (node.GetScene() is not None and _is_sequence_frame(node)):
        raise VolumeError(
            f"'{name}' is a time sequence (4D); a case is one 3D scan.",
            "Clone the volume at the time point that you want (Data module), and use the clone.",
        )
    if not node.IsA("vtkMRMLScalarVolumeNode"):
        raise VolumeError(f"'{name}' isn't a volume.", "Choose a scan.")
    image = node.GetImageData()
    if image is None or min(image.GetDimensions()) < 1 or image.GetPointData().GetScalars() is None:
        raise VolumeError(f"The volume '{name}' holds no voxels.", "Load it again.")
    n_values = image.GetNumberOfScalarComponents()
    if n_values != 1 or node.IsA("vtkMRMLTensorVolumeNode"):
        raise VolumeError(
            f"'{name}' is a color or vector volume ({n_values} values a voxel); a scan has one.",
            "Convert it with the module 'Vector to Scalar Volume', and use the result.",
        )


def geometry_of(node: slicer.vtkMRMLVolumeNode) -> Geometry:
    """The grid of a volume node in its own coordinates (LPS, mm): spacing, origin and axes bit for bit."""
    axes = vtk.vtkMatrix4x4()
    node.GetIJKToRASDirectionMatrix(axes)
    directions = slicer.util.arrayFromVTKMatrix(axes)[:3, :3] * _FLIP[:, None] + 0.0
    origin = node.GetOrigin() * _FLIP + 0.0
    return Geometry(node.GetImageData().GetDimensions(), node.GetSpacing(), origin, directions.ravel())


def set_geometry(node: slicer.vtkMRMLVolumeNode, geometry: Geometry) -> None:
    """Give a volume node a grid's spacing, origin and axes; the inverse of `geometry_of`."""
    was_modifying = node.StartModify()
    # MRML skips changes of the last bits only, so every number goes by way of another.
    node.SetSpacing(9.0, 9.0, 9.0)
    node.SetOrigin(9e9, 9e9, 9e9)
    node.SetIJKToRASDirections(*[9.0] * 9)
    node.SetSpacing(geometry.spacing)
    node.SetOrigin(geometry.origin * _FLIP)
    node.SetIJKToRASDirectionMatrix(_direction_matrix(geometry))
    node.EndModify(was_modifying)


def set_image_geometry(image: slicer.vtkOrientedImageData, geometry: Geometry) -> None:
    """Give the label map of a segment a grid's spacing, origin and axes."""
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(geometry.origin * _FLIP)
    image.SetDirectionMatrix(_direction_matrix(geometry))


def image_geometry(image: slicer.vtkOrientedImageData) -> Geometry:
    """The grid of a segment's label map (LPS, mm): of its extent, which rarely begins at 0."""
    matrix = vtk.vtkMatrix4x4()
    image.GetDirectionMatrix(matrix)
    directions = slicer.util.arrayFromVTKMatrix(matrix)[:3, :3] * _FLIP[:, None] + 0.0
    extent = image.GetExtent()
    whole = Geometry((1, 1, 1), image.GetSpacing(), image.GetOrigin() * _FLIP + 0.0, directions.ravel())
    return whole.cropped(extent[::2], image.GetDimensions())


def own_to_own(
    source: slicer.vtkMRMLTransformableNode, target: slicer.vtkMRMLTransformableNode, geometry: Geometry
) -> Geometry:
    """A grid in the own coordinates of one node, said in those of another, so that both are where the views show them.

    Parameters
    ----------
    source, target : vtkMRMLTransformableNode
        Nodes with or without parent transforms.
    geometry : Geometry
        A grid in the own coordinates of `source`.

    Returns
    -------
    Geometry
        `geometry` itself where both nodes have the same parent.

    Raises
    ------
    VolumeError
        ``BAD_GEOMETRY`` where a non-linear transform lies between them.
    """
    parents = source.GetParentTransformNode(), target.GetParentTransformNode()
    if parents[0] is parents[1]:
        return geometry
    between = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(*parents, between)
    if not slicer.vtkMRMLTransformNode.IsGeneralTransformLinear(between):
        raise VolumeError(
            f"A non-linear transform lies between '{source.GetName()}' and '{target.GetName()}', which bends voxels.",
            "Put both under the same transform, or harden the transform (Transforms module).",
            code=ErrorCode.BAD_GEOMETRY,
        )
    matrix = vtk.vtkMatrix4x4()
    slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(*parents, matrix)
    return _moved(geometry, slicer.util.arrayFromVTKMatrix(matrix))


def image_data(array: np.ndarray) -> vtk.vtkImageData:
    """An array as VTK image with extent from 0; voxels are shared with the array wherever VTK can show them.

    Parameters
    ----------
    array : numpy.ndarray, shape (k, j, i)
        64-bit integers become float64 (Slicer can't show them), booleans uint8.
    """
    image = vtk.vtkImageData()
    image.SetDimensions(array.shape[::-1])
    image.GetPointData().SetScalars(vtk_array(array))
    return image


def vtk_array(array: np.ndarray) -> vtk.vtkDataArray:
    """The voxels of an array (k, j, i) as VTK array that shares its memory, and keeps it alive."""
    if array.dtype == bool:
        array = array.view(np.uint8)
    elif array.dtype.kind in "iu" and array.dtype.itemsize == 8:
        array = array.astype(np.float64)
    elif array.dtype == np.float16:
        array = array.astype(np.float32)
    native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    # A writeable array of its own: VTK writes into it when somebody edits the node.
    if not native.flags.writeable:
        native = native.copy()
    return numpy_to_vtk(native.ravel(), deep=False, array_type=get_vtk_array_type(native.dtype))


def _is_sequence_frame(node: slicer.vtkMRMLNode) -> bool:
    browsers = node.GetScene().GetNodesByClass("vtkMRMLSequenceBrowserNode")
    browsers.UnRegister(None)
    return any(
        browsers.GetItemAsObject(index).IsProxyNodeID(node.GetID()) for index in range(browsers.GetNumberOfItems())
    )


def _direction_matrix(geometry: Geometry) -> vtk.vtkMatrix4x4:
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(geometry.direction, (3, 3)) * _FLIP[:, None]
    return slicer.util.vtkMatrixFromArray(matrix)


def _moved(geometry: Geometry, ras_to_ras: np.ndarray) -> Geometry:
    """A grid after a 4x4 matrix from RAS to RAS."""
    flip = np.append(_FLIP, 1.0)
    matrix = flip[:, None] * ras_to_ras * flip @ geometry.index_to_physical
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    if not spacing.all():
        raise VolumeError(
            "A transform in the scene flattens space: its matrix can't be inverted.",
            "Correct the transform (Transforms module).",
            code=ErrorCode.BAD_GEOMETRY,
        )
    return Geometry(geometry.size, spacing, matrix[:3, 3], (matrix[:3, :3] / spacing).ravel())
