"""Small volumes, segmentations and transforms in a scene, made by Slicer's own calls, not by the bridge under test."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import slicer
import vtk

SHAPE = (12, 14, 16)
"""Of a small scan, (k, j, i)."""

SHEARED = np.array([[-0.9, 0.1, 0.3, 12.5], [0.05, -0.8, 0.2, -7.25], [0.1, 0.15, 2.4, 3.125], [0, 0, 0, 1]])
"""An IJK to RAS matrix of an oblique, sheared grid."""

TERMINOLOGY = (
    "Segmentation category and type - 3D Slicer General Anatomy list~SCT^123037004^Anatomical Structure~"
    "SCT^10200004^Liver~^^~Anatomic codes - DICOM master list~^^~^^"
)


def add_volume(array: np.ndarray, ijk_to_ras: np.ndarray | None = None, name: str = "scan"):
    """A scalar volume node by `slicer.util`."""
    return slicer.util.addVolumeFromArray(array, ijk_to_ras, name)


def add_transform(matrix: np.ndarray, *nodes) -> slicer.vtkMRMLLinearTransformNode:
    """A linear transform node with `nodes` under it."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    for each in nodes:
        each.SetAndObserveTransformNodeID(node.GetID())
    return node


def add_bending_transform(*nodes) -> slicer.vtkMRMLTransformNode:
    """A non-linear (thin plate spline) transform node with `nodes` under it."""
    spline = vtk.vtkThinPlateSplineTransform()
    points = np.array([[0, 0, 0], [30, 0, 0], [0, 30, 0], [0, 0, 30], [30, 30, 30]], dtype=float)
    for set_landmarks, moved in ((spline.SetSourceLandmarks, 0), (spline.SetTargetLandmarks, 5)):
        landmarks = vtk.vtkPoints()
        for index, point in enumerate(points):
            landmarks.InsertNextPoint(*(point + (moved if index == 4 else 0)))
        set_landmarks(landmarks)
    spline.SetBasisToR()
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode")
    node.SetAndObserveTransformToParent(spline)
    for each in nodes:
        each.SetAndObserveTransformNodeID(node.GetID())
    return node


def rotation(degrees: float, shift: Iterable[float] = (0, 0, 0)) -> np.ndarray:
    """A 4x4 matrix that turns about the third axis and shifts."""
    angle = np.radians(degrees)
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    matrix[:3, 3] = list(shift)
    return matrix


def add_segmentation(
    masks: Mapping[str, np.ndarray],
    volume_node,
    *,
    ids: Mapping[str, str] | None = None,
    colors: Mapping[str, tuple[float, float, float]] | None = None,
    terminology: Mapping[str, str] | None = None,
    name: str = "strokes",
):
    """A segmentation node with a segment of each mask (k, j, i), painted by Slicer's own slow and sure calls."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume_node)
    node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
    for segment_name, mask in masks.items():
        color = (colors or {}).get(segment_name, (1.0, 0.0, 0.0))
        segment_id = node.GetSegmentation().AddEmptySegment((ids or {}).get(segment_name, ""), segment_name, color)
        if segment_name in (terminology or {}):
            node.GetSegmentation().GetSegment(segment_id).SetTerminology(terminology[segment_name])
        if mask.any():
            slicer.util.updateSegmentBinaryLabelmapFromArray(mask.astype(np.uint8), node, segment_id, volume_node)
    return node


def exported(node, segment_id: str, volume_node) -> np.ndarray:
    """A segment on a volume's grid, by Slicer's own slow and sure call."""
    return slicer.util.arrayFromSegmentBinaryLabelmap(node, segment_id, volume_node) > 0


def boxes(shape: tuple[int, int, int], *corners: tuple[int, int, int]) -> Iterable[np.ndarray]:
    """Masks with a box of 3 x 4 x 5 voxels at each corner (k, j, i)."""
    for k, j, i in corners:
        mask = np.zeros(shape, dtype=bool)
        mask[k : k + 3, j : j + 4, i : i + 5] = True
        yield mask
