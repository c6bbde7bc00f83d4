"""Superpixel proposals in Slicer's Segment Editor: strokes expand to superpixels, and people accept what is right.

This file is alone in its folder, since Slicer puts it into ``sys.modules`` under the name of its folder
(qSlicerSegmentEditorScriptedEffect.cxx).
"""

import os

import ctk
import qt
import slicer
import vtk
from SegmentEditorEffects import AbstractScriptedSegmentEditorEffect
from slicer.i18n import tr as _

from SemiSupSegLib.errors import ErrorCode, SemiSupSegError
from SemiSupSegLib.slicer_bridge.nodes import set_image_geometry
from SemiSupSegLib.slicer_bridge.proposals import Proposals, source_of
from SemiSupSegLib.slicer_bridge.shared_companion import proposal_settings, source_tag
from SemiSupSegLib.slicer_bridge.superpixel_overlay import SuperpixelOverlay

POLL_MILLISECONDS = 50


def companion():
    """The companion, also after the module was reloaded, which this file can't be."""
    from SemiSupSegLib.slicer_bridge.shared_companion import shared_companion

    return shared_companion()


class SegmentEditorSuperpixelsEffect(AbstractScriptedSegmentEditorEffect):
    """Initialize starts it; it goes on while Paint or any other effect is active, until Cancel."""

    def __init__(self, scriptedEffect):
        scriptedEffect.name = "Superpixels"  # no tr (internal name)
        scriptedEffect.title = _("Superpixels")
        scriptedEffect.perSegment = False  # works on all segments at once
        AbstractScriptedSegmentEditorEffect.__init__(self, scriptedEffect)
        self.request = None
        self.proposals = None
        self.overlay = None
        self.message = ""
        self.startedFor = None
        self.clickedImage = None
        self.timer = qt.QTimer()
        self.timer.interval = POLL_MILLISECONDS
        self.timer.connect("timeout()", self.onTimer)
        # Strokes are taken in as soon as Slicer has dealt with them, so that one drawing shows both.
        self.strokeTimer = qt.QTimer()
        self.strokeTimer.interval = 0
        self.strokeTimer.setSingleShot(True)
        self.strokeTimer.connect("timeout()", self.onTimer)
        self.observations = []

    def clone(self):
        import qSlicerSegmentationsEditorEffectsPythonQt as effects

        clonedEffect = effects.qSlicerSegmentEditorScriptedEffect(None)
        clonedEffect.setPythonSource(__file__.replace("\\", "/"))
        return clonedEffect

    def icon(self):
        return qt.QIcon(os.path.join(os.path.dirname(__file__), "SegmentEditorSuperpixelsEffect.png"))

    def helpText(self):
        return "<html>{}<br>{}<p><ul><li>{}<li>{}<li>{}<li>{}</ul></html>".format(
            _("Proposes what belongs to your strokes: superpixels, regions within which the image hardly changes."),
            _("Nothing is changed until you accept it, and never where you have painted."),
            _("Press Initialize, then switch to Paint and draw strokes with each segment, the background too."),
            _("Superpixels that strokes of one segment touch light up in its color; those touched by several don't."),
            _("Come back here: a click accepts one superpixel, Apply accepts all. Undo takes back the last step."),
            _("Where a proposal reaches too far, paint a stroke with the right segment, or choose a smaller size."),
        )

    def setupOptionsFrame(self):
        self.sizeSpinBox = qt.QDoubleSpinBox()
        self.sizeSpinBox.objectName = self.__class__.__name__ + "Size"
        self.sizeSpinBox.decimals = 1
        self.sizeSpinBox.minimum = 0.0
        self.sizeSpinBox.maximum = 100.0
        self.sizeSpinBox.singleStep = 0.5
        self.sizeSpinBox.suffix = _(" mm")
        self.sizeSpinBox.specialValueText = _("automatic")
        self.sizeSpinBox.setToolTip(_("Edge length of a superpixel. Automatic: about 256 voxels each."))
        self.withinSlicesCheckBox = qt.QCheckBox(_("within slices"))
        self.withinSlicesCheckBox.objectName = self.__class__.__name__ + "WithinSlices"
        self.withinSlicesCheckBox.setToolTip(_("Superpixels don't reach into the next slice: for thick slices."))
        sizeFrame = qt.QHBoxLayout()
        sizeFrame.addWidget(self.sizeSpinBox)
        sizeFrame.addWidget(self.withinSlicesCheckBox)
        self.scriptedEffect.addLabeledOptionsWidget(_("Size:"), sizeFrame)

        self.outlinesCheckBox = qt.QCheckBox(_("outlines"))
        self.outlinesCheckBox.objectName = self.__class__.__name__ + "Outlines"
        self.outlinesCheckBox.setToolTip(_("Show the borders of all superpixels in the slice views."))
        self.opacitySlider = ctk.ctkSliderWidget()
        self.opacitySlider.setToolTip(_("Opacity of the proposals."))
        self.opacitySlider.minimum = 0.0
        self.opacitySlider.maximum = 1.0
        self.opacitySlider.singleStep = 0.05
        self.opacitySlider.pageStep = 0.1
        self.opacitySlider.decimals = 2
        self.opacitySlider.spinBoxVisible = False
        displayFrame = qt.QHBoxLayout()
        displayFrame.addWidget(self.outlinesCheckBox)
        displayFrame.addWidget(qt.QLabel(_("proposals")))
        displayFrame.addWidget(self.opacitySlider)
        self.scriptedEffect.addLabeledOptionsWidget(_("Display:"), displayFrame)

        self.initializeButton = qt.QPushButton(_("Initialize"))
        self.initializeButton.objectName = self.__class__.__name__ + "Initialize"
        self.progressBar = qt.QProgressBar()
        self.progressBar.minimum = 0
        self.progressBar.maximum = 100
        self.progressBar.visible = False
        self.scriptedEffect.addOptionsWidget(self.initializeButton)
        self.scriptedEffect.addOptionsWidget(self.progressBar)
        self.statusLabel = qt.QLabel()
        self.statusLabel.objectName = self.__class__.__name__ + "Status"
        self.statusLabel.wordWrap = True
        self.scriptedEffect.addOptionsWidget(self.statusLabel)

        self.takeBackButton = qt.QPushButton(_("Take back"))
        self.takeBackButton.objectName = self.__class__.__name__ + "TakeBack"
        self.takeBackButton.setToolTip(_("Remove everything that was accepted here; strokes stay."))
        self.cancelButton = qt.QPushButton(_("Cancel"))
        self.cancelButton.objectName = self.__class__.__name__ + "Cancel"
        self.cancelButton.setToolTip(_("End the proposals; what was accepted stays."))
        self.applyButton = qt.QPushButton(_("Apply"))
        self.applyButton.objectName = self.__class__.__name__ + "Apply"
        self.applyButton.setToolTip(_("Accept all proposals, as one step for undo. Further strokes make new ones."))
        finishFrame = qt.QHBoxLayout()
        finishFrame.addWidget(self.takeBackButton)
        finishFrame.addWidget(self.cancelButton)
        finishFrame.addWidget(self.applyButton)
        self.scriptedEffect.addOptionsWidget(finishFrame)

        self.initializeButton.connect("clicked()", self.onInitialize)
        self.takeBackButton.connect("clicked()", self.onTakeBack)
        self.cancelButton.connect("clicked()", self.onCancel)
        self.applyButton.connect("clicked()", self.onApply)
        self.sizeSpinBox.connect("valueChanged(double)", self.updateMRMLFromGUI)
        self.withinSlicesCheckBox.connect("toggled(bool)", self.updateMRMLFromGUI)
        self.outlinesCheckBox.connect("toggled(bool)", self.updateMRMLFromGUI)
        self.opacitySlider.connect("valueChanged(double)", self.updateMRMLFromGUI)
        self.updateStatus()

    def createCursor(self, widget):
        return slicer.util.mainWindow().cursor

    def setMRMLDefaults(self):
        self.scriptedEffect.setParameterDefault("SizeMm", 0.0)
        self.scriptedEffect.setParameterDefault("WithinSlices", 0)
        self.scriptedEffect.setParameterDefault("Outlines", 1)
        self.scriptedEffect.setParameterDefault("Opacity", 0.5)

    def updateGUIFromMRML(self):
        for widget, name, value in (
            (self.sizeSpinBox, "value", self.scriptedEffect.doubleParameter("SizeMm")),
            (self.withinSlicesCheckBox, "checked", self.scriptedEffect.integerParameter("WithinSlices") != 0),
            (self.outlinesCheckBox, "checked", self.scriptedEffect.integerParameter("Outlines") != 0),
            (self.opacitySlider, "value", self.scriptedEffect.doubleParameter("Opacity")),
        ):
            wasBlocked = widget.blockSignals(True)
            setattr(widget, name, value)
            widget.blockSignals(wasBlocked)
        self.updateOverlay()
        self.updateStatus()

    def updateMRMLFromGUI(self):
        self.scriptedEffect.setParameter("SizeMm", self.sizeSpinBox.value)
        self.scriptedEffect.setParameter("WithinSlices", int(self.withinSlicesCheckBox.checked))
        self.scriptedEffect.setParameter("Outlines", int(self.outlinesCheckBox.checked))
        self.scriptedEffect.setParameter("Opacity", self.opacitySlider.value)
        self.updateOverlay()
        self.updateStatus()

    def updateOverlay(self):
        if self.overlay is not None:
            self.overlay.opacity = self.scriptedEffect.doubleParameter("Opacity")
            self.overlay.outlines_on = self.scriptedEffect.integerParameter("Outlines") != 0

    def layoutChanged(self):
        if self.overlay is not None:
            self.overlay.attach()

    def cleanup(self):
        for timer in (self.timer, self.strokeTimer):
            timer.disconnect("timeout()", self.onTimer)
        self.stop()

    # Settings and what they were computed for

    def settings(self, spacing):
        withinSlices = self.scriptedEffect.integerParameter("WithinSlices") != 0
        return proposal_settings(spacing, self.scriptedEffect.doubleParameter("SizeMm"), withinSlices)

    def currentInput(self):
        """Names what superpixels are made of, without their settings; None if there is nothing."""
        node = self.scriptedEffect.parameterSetNode()
        segmentationNode = node.GetSegmentationNode() if node else None
        volumeNode = node.GetSourceVolumeNode() if node else None
        if segmentationNode is None or volumeNode is None or volumeNode.GetImageData() is None:
            return None
        geometry = slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
        return (
            segmentationNode.GetID(),
            volumeNode.GetID(),
            volumeNode.GetImageData().GetMTime(),
            segmentationNode.GetSegmentation().GetConversionParameter(geometry),
            segmentationNode.GetTransformNodeID(),
            volumeNode.GetTransformNodeID(),
        )

    # From Initialize to Cancel

    def onInitialize(self):
        with slicer.util.tryWithErrorDisplay(_("The proposals can't be started."), waitCursor=True):
            self.start()

    def start(self):
        """Ask for the superpixels of the source volume; proposals begin when they are there."""
        self.stop()
        source = source_of(self.scriptedEffect.sourceVolumeImageData())
        volumeNode = self.scriptedEffect.parameterSetNode().GetSourceVolumeNode()
        spacing = source.geometry.spacing
        self.request = companion().compute_superpixels(
            source.array, spacing, self.settings(spacing), tag=source_tag(volumeNode, source.array.shape)
        )
        self.startedFor = self.currentInput()
        self.timer.start()
        self.updateStatus()

    def stop(self, message=""):
        """End the proposals; views are as they were, and what was accepted stays."""
        self.timer.stop()
        self.strokeTimer.stop()
        for observed, tag in self.observations:
            observed.RemoveObserver(tag)
        self.observations = []
        if self.request is not None and not self.request.is_over:
            companion().cancel()
        if self.overlay is not None:
            self.overlay.remove()
        self.request = self.proposals = self.overlay = self.startedFor = self.clickedImage = None
        self.message = message
        self.updateStatus()

    def onTimer(self):
        if self.currentInput() != self.startedFor or (self.overlay is not None and not self.overlay.is_shown):
            self.stop(_("Ended, since the segmentation or its source volume is another one now."))
        elif self.request is not None:
            self.waitForSuperpixels()
        elif self.proposals is not None and self.proposals.update():
            self.updateStatus()

    def waitForSuperpixels(self):
        companion().poll()
        if not self.request.is_over:
            self.updateStatus()
            return
        try:
            if self.request.error is not None:
                raise self.request.error
            self.begin()
        except SemiSupSegError as error:
            self.stop("" if error.code is ErrorCode.CANCELLED else str(error))

    def begin(self):
        """The superpixels are there: show them, and propose what the strokes that are there say."""
        request, self.request = self.request, None
        segmentationNode = self.scriptedEffect.parameterSetNode().GetSegmentationNode()
        with slicer.util.WaitCursor():
            geometry = source_of(self.scriptedEffect.sourceVolumeImageData()).geometry
            labels = request.labels()
            self.overlay = SuperpixelOverlay(
                slicer.mrmlScene, labels, geometry, request.superpixels, segmentationNode.GetTransformNodeID()
            )
            self.updateOverlay()
            self.proposals = Proposals(segmentationNode, labels, geometry, request.superpixels, self.overlay)
        self.clickedImage = slicer.vtkOrientedImageData()
        set_image_geometry(self.clickedImage, geometry)
        self.clickedImage.SetDimensions(geometry.size)
        segmentation = segmentationNode.GetSegmentation()
        for event in (segmentation.SourceRepresentationModified, segmentation.SegmentModified):
            tag = segmentation.AddObserver(event, lambda caller, name: self.strokeTimer.start())
            self.observations.append((segmentation, tag))
        self.updateStatus()

    @property
    def isOn(self):
        """Whether superpixels are proposed, or computed for that."""
        return self.request is not None or self.proposals is not None

    def onCancel(self):
        self.stop()

    def onApply(self):
        with slicer.util.tryWithErrorDisplay(_("The proposals can't be accepted."), waitCursor=True):
            self.accept()

    def accept(self, ijk=None):
        """Accept all proposals, or the one at a voxel; how many voxels."""
        if self.proposals is None:
            return 0
        source = source_of(self.scriptedEffect.sourceVolumeImageData())
        editorNode = self.scriptedEffect.parameterSetNode()
        count = self.proposals.accept(self.scriptedEffect.saveStateForUndo, ijk, editorNode, source.array)
        self.updateStatus()
        return count

    def onTakeBack(self):
        with slicer.util.tryWithErrorDisplay(_("The proposals can't be taken back."), waitCursor=True):
            self.proposals.take_back(self.scriptedEffect.saveStateForUndo)
            self.updateStatus()

    def processInteractionEvents(self, callerInteractor, eventId, viewWidget):
        isClick = eventId == vtk.vtkCommand.LeftButtonPressEvent and viewWidget.className() == "qMRMLSliceWidget"
        if not isClick or self.proposals is None or callerInteractor.GetShiftKey() or callerInteractor.GetControlKey():
            return False
        parent = self.proposals.node.GetParentTransformNode()
        ijk = self.xyToIjk(callerInteractor.GetEventPosition(), viewWidget, self.clickedImage, parent)
        if self.proposals.segment_at(ijk) is None:
            return False
        with slicer.util.tryWithErrorDisplay(_("The proposal can't be accepted."), waitCursor=True):
            self.accept(ijk)
        return True

    # What people see

    def updateStatus(self):
        if not hasattr(self, "applyButton"):
            return  # the instance that others are cloned from has no widgets
        isComputing = self.request is not None
        isProposing = self.proposals is not None
        self.progressBar.visible = isComputing
        proposed = self.proposals.proposed_superpixels if isProposing else 0
        accepted = self.proposals.accepted_voxels if isProposing else 0
        if isComputing:
            self.progressBar.value = round(100 * self.request.fraction)
            text = _("Computing superpixels. You can paint meanwhile.")
            if self.request.seconds_left is not None:
                text = _("Computing superpixels, {seconds} s left. You can paint meanwhile.").format(
                    seconds=max(1, round(self.request.seconds_left))
                )
        elif not isProposing:
            text = self.message or _("Press Initialize, then paint strokes with each segment.")
        elif proposed:
            text = _("{proposed} superpixels proposed. Click on one to accept it, or Apply to accept all.").format(
                proposed=proposed
            )
        else:
            text = _("Paint a stroke with any segment: the superpixels that it touches are proposed.")
        if accepted:
            text += " " + _("Accepted so far: {voxels} voxels.").format(voxels=accepted)
        self.statusLabel.text = text
        self.initializeButton.text = _("Update") if isProposing else _("Initialize")
        self.initializeButton.setToolTip(
            _("Compute the superpixels again, with the size above.")
            if isProposing
            else _("Compute the superpixels of the source volume; it takes seconds, in a process of its own.")
        )
        self.initializeButton.enabled = not isComputing
        self.cancelButton.enabled = isComputing or isProposing
        self.applyButton.enabled = proposed > 0
        self.takeBackButton.enabled = accepted > 0
