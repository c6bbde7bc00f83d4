"""A scan, a segmentation and the Segment Editor's own logic on them: painting as in Slicer, without its widgets."""

from __future__ import annotations

import numpy as np
import slicer

from SemiSupSegLib.slicer_bridge.nodes import image_data, set_geometry
from SemiSupSegLib.slicer_bridge.proposals import Proposals, source_of
from SemiSupSegLib.volume import Geometry

SPACING = (0.7, 0.7, 2.5)
DIRECTION = (0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0)


class Desk:
    """A scan, a segmentation and the editor's logic, as in the Segment Editor without its widgets."""

    def __init__(self, scene: slicer.vtkMRMLScene, labels: np.ndarray):
        shape = labels.shape
        self.scene = scene
        self.geometry = Geometry(shape[::-1], SPACING, (10.0, -20.5, 3.0), DIRECTION)
        self.volume = slicer.vtkMRMLScalarVolumeNode()
        self.volume.SetName("scan")
        set_geometry(self.volume, self.geometry)
        scan = np.arange(np.prod(shape), dtype=np.int32).reshape(shape).astype(np.int16)
        self.volume.SetAndObserveImageData(image_data(scan))
        scene.AddNode(self.volume)
        self.node = slicer.vtkMRMLSegmentationNode()
        scene.AddNode(self.node)
        self.node.CreateDefaultDisplayNodes()
        self.node.SetReferenceImageGeometryParameterFromVolumeNode(self.volume)
        for name, color in (("tumor", (1, 0, 0)), ("kidney", (0, 0, 1)), ("background", (0.5, 0.5, 0.5))):
            self.node.GetSegmentation().AddEmptySegment(name, name, color)
        self.editor = slicer.vtkMRMLSegmentEditorNode()
        scene.AddNode(self.editor)
        self.logic = slicer.vtkSlicerSegmentEditorLogic()
        self.logic.SetMRMLScene(scene)
        self.logic.SetSegmentEditorNode(self.editor)
        self.logic.SetSegmentationNode(self.node)
        self.logic.SetSourceVolumeNode(self.volume)
        history = slicer.vtkSegmentationHistory()
        history.SetSegmentation(self.node.GetSegmentation())
        self.logic.SetSegmentationHistory(history)
        self.logic.SetMaximumNumberOfUndoStates(10)
        self.labels = labels
        self.states = 0

    def save_state(self) -> None:
        self.states += 1
        self.logic.SaveStateForUndo()

    def proposals(self, overlay=None) -> Proposals:
        assert self.logic.UpdateAlignedSourceVolume()
        source = source_of(self.logic.GetAlignedSourceVolume())
        return Proposals(self.node, self.labels, source.geometry, int(self.labels.max()), overlay)

    def paint(self, segment_id, where, mode="Add", save=True) -> None:
        """Paints voxels (k, j, i), as an effect of the Segment Editor does."""
        if save:
            self.logic.SaveStateForUndo()
        assert self.logic.ResetModifierLabelmapToDefault()
        modifier = self.logic.GetModifierLabelmap()
        box = tuple(each if isinstance(each, slice) else slice(each, each + 1) for each in where)
        extent = [bound for each in box[::-1] for bound in (each.start, each.stop - 1)]
        modifier.SetExtent(extent)
        modifier.AllocateScalars(3, 1)  # unsigned char
        slicer.vtkOrientedImageDataResample.FillImage(modifier, 1)
        mode = getattr(self.logic, f"ModificationMode{mode}")
        self.logic.ModifySegmentByLabelmap(self.node, segment_id, modifier, mode, True, False)

    def held(self, segment_id) -> np.ndarray:
        """Voxels of a segment, by Slicer's own export."""
        return slicer.util.arrayFromSegmentBinaryLabelmap(self.node, segment_id, self.volume).astype(bool)
