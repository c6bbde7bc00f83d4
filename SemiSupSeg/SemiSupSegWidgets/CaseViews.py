"""A case in the slice views: its scan in the background, zoom and window kept from case to case."""

import slicer
import vtk

from SemiSupSegLib.slicer_bridge.cohort_nodes import hide, tagged_nodes

VIEWS = ("Red", "Green", "Yellow")


class CaseViews:
    """Puts cases into the slice views and keeps what the person adjusted."""

    def __init__(self):
        self._window = None
        self._hasShown = False

    def show(self, volumeNode, segmentationNode=None, window=None) -> None:
        """Show a scan and what is painted on it.

        Parameters
        ----------
        volumeNode : vtkMRMLScalarVolumeNode
        segmentationNode : vtkMRMLSegmentationNode, optional
        window : tuple of float, optional
            Window and level that the person chose on the case before, see `chosenWindow`.
        """
        fields = self._fieldsOfView() if self._hasShown else []
        slicer.util.setSliceViewerLayers(background=volumeNode, foreground=None, label=None, fit=True)
        for node, field in fields:
            node.SetFieldOfView(*field)
        self._hasShown = True
        display = volumeNode.GetDisplayNode()
        if window is not None and display is not None:
            display.SetAutoWindowLevel(False)
            display.SetWindowLevel(*window)
        self._window = None if display is None else (display.GetWindow(), display.GetLevel())
        if segmentationNode is not None and segmentationNode.GetDisplayNode() is not None:
            segmentationNode.GetDisplayNode().SetVisibility(True)

    def chosenWindow(self, volumeNode):
        """Window and level if the person changed them since the case was shown, else None."""
        display = volumeNode.GetDisplayNode()
        if display is None or self._window is None:
            return None
        now = display.GetWindow(), display.GetLevel()
        return None if now == self._window else now

    @staticmethod
    def hideSegmentations() -> None:
        """Hide what is painted on scans and what they were segmented into, since another scan is to be seen."""
        for node in tagged_nodes(slicer.mrmlScene):
            hide(node)

    def jumpToSlice(self, volumeNode, k: int) -> None:
        """Move the slice views to a slice of a scan, given by its index along the third axis; zoom and pan stay."""
        size = volumeNode.GetImageData().GetDimensions()
        toRAS = vtk.vtkMatrix4x4()
        volumeNode.GetIJKToRASMatrix(toRAS)
        position = toRAS.MultiplyPoint([(size[0] - 1) / 2, (size[1] - 1) / 2, k, 1])[:3]
        toWorld = vtk.vtkGeneralTransform()
        slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(volumeNode.GetParentTransformNode(), None, toWorld)
        for node in _sliceNodes():
            node.JumpSliceByOffsetting(*toWorld.TransformPoint(position))

    @staticmethod
    def _fieldsOfView() -> list:
        return [(node, node.GetFieldOfView()) for node in _sliceNodes()]


def _sliceNodes() -> list:
    return [node for node in slicer.util.getNodesByClass("vtkMRMLSliceNode") if node.GetLayoutName() in VIEWS]
