"""Panel *Annotate*: the classes, and Slicer's own Segment Editor on the shown case."""

import numpy as np
import qSlicerSegmentationsModuleWidgetsPythonQt
import qt
import slicer
from slicer.i18n import tr as _

from SemiSupSegLib.labels import LabelSchema, SegmentClass
from SemiSupSegLib.slicer_bridge import case_texts, panel_state
from SemiSupSegLib.slicer_bridge.class_segments import count_voxels, describe_segments, looks_of, terminology_text
from SemiSupSegLib.slicer_bridge.cohort_scene import LOADED_ATTRIBUTE
from SemiSupSegLib.slicer_bridge.nodes import CASE_ATTRIBUTE, KIND_ATTRIBUTE
from SemiSupSegLib.slicer_bridge.results import painted_state
from SemiSupSegLib.slicer_bridge.shared_companion import prepare_superpixels, shared_companion

from .CaseViews import CaseViews
from .Panel import Panel
from .superpixelsEffect import superpixelsEffectName, superpixelsEffectOf

EDITOR_TAG = "SemiSupSeg"
BRUSH_VOXELS = 4.0
"""Diameter of the first brush, in voxels of the scan's plane: thin enough for a stroke, thick enough to be seen."""


class AnnotatePanel(Panel):
    """Follows the life cycle of Slicer's own SegmentEditor.py."""

    def __init__(self, desk):
        super().__init__(desk)
        self.views = CaseViews()
        self.nodes = None
        self._editorNode = None
        self._prepared = None
        self._looks = {}
        self._filledClasses = None
        self._countedState = ""
        self._isFilling = False
        self._isEntered = False
        self.editor = qSlicerSegmentationsModuleWidgetsPythonQt.qMRMLSegmentEditorWidget()
        self.editor.setMaximumNumberOfUndoStates(10)
        self.editor.segmentationNodeSelectorVisible = False
        self.editor.sourceVolumeNodeSelectorVisible = False
        self.editor.addRemoveSegmentButtonsVisible = False
        self.editor.switchToSegmentationsButtonVisible = False
        self.editor.setMRMLScene(slicer.mrmlScene)
        self.selectEditorNode()
        self.ui.editorFrame.layout().addWidget(self.editor)
        self._factory = slicer.qSlicerSegmentEditorEffectFactory.instance()
        self._factory.connect("effectRegistered(QString)", self.onEffectRegistered)
        ui = self.ui
        ui.previousCaseButton.connect("clicked(bool)", lambda checked=False: self._step(-1))
        ui.nextCaseButton.connect("clicked(bool)", lambda checked=False: self._step(1))
        ui.caseComboBox.connect("activated(int)", lambda index: self.showCase(ui.caseComboBox.itemText(index)))
        ui.superpixelsButton.connect("clicked(bool)", self.onProposeClicked)
        ui.classesButton.connect("toggled(bool)", lambda on: ui.classesFrame.setVisible(on))
        ui.addClassButton.connect("clicked(bool)", lambda checked=False: self.addClass())
        ui.removeClassButton.connect("clicked(bool)", lambda checked=False: self.removeClass())
        ui.colorClassButton.connect("clicked(bool)", lambda checked=False: self.colorClass())
        ui.classesFromSegmentationButton.connect("clicked(bool)", lambda checked=False: self.takeClasses())
        ui.classTable.connect("itemChanged(QTableWidgetItem*)", self.onClassEdited)
        ui.classTable.connect("itemSelectionChanged()", self.onClassSelected)
        ui.classTable.horizontalHeader().setSectionResizeMode(qt.QHeaderView.Stretch)
        ui.classTable.verticalHeader().hide()
        ui.classesFrame.hide()
        self._countTimer = qt.QTimer()
        self._countTimer.setInterval(500)
        self._countTimer.connect("timeout()", self.onCountTimer)

    # The editor's life -----------------------------------------------------------------------------------------------

    def selectEditorNode(self) -> None:
        """Give the editor its own parameter node: Slicer's own editor goes on with another."""
        node = slicer.mrmlScene.GetSingletonNode(EDITOR_TAG, "vtkMRMLSegmentEditorNode")
        if node is None:
            node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLSegmentEditorNode")
            node.UnRegister(None)
            node.SetSingletonTag(EDITOR_TAG)
            node = slicer.mrmlScene.AddNode(node)
        if node is not self._editorNode:
            self._editorNode = node
            self.editor.setMRMLSegmentEditorNode(node)

    def onEffectRegistered(self, name="") -> None:
        self.editor.updateEffectList()
        self.desk.refresh()

    def onOpened(self) -> None:
        self._isEntered = True
        self.selectEditorNode()
        self.editor.installKeyboardShortcuts()
        self.editor.setupViewObservations()
        self.editor.updateWidgetFromMRML()
        self._countTimer.start()
        if self.nodes is None:
            self.followScene()
        elif self.desk.outside is not None:
            self._edit(None)
            self.desk.refresh()
        else:
            self._prepareBrush()

    def followScene(self) -> None:
        """Paint on the case that the scene shows, as after it was loaded."""
        if self._isEntered and self.nodes is None and self.logic.isOpen and self.desk.shown:
            self.showCase(self.desk.shown)

    def onClosed(self) -> None:
        self._isEntered = False
        self._countTimer.stop()
        self.editor.setActiveEffect(None)
        self.editor.uninstallKeyboardShortcuts()
        self.editor.removeViewObservations()

    def onSceneStartClose(self) -> None:
        self._editorNode = None
        self.nodes = None
        self.editor.setSegmentationNode(None)
        self.editor.removeViewObservations()

    def onSceneEndClose(self) -> None:
        self._countedState = ""
        if self._isEntered:
            self.selectEditorNode()
            self.editor.updateWidgetFromMRML()

    def cleanup(self) -> None:
        self._countTimer.stop()
        self._factory.disconnect("effectRegistered(QString)", self.onEffectRegistered)
        effect = superpixelsEffectOf(self.editor)
        if effect is not None:
            effect.stop()
        self.editor.setActiveEffect(None)
        self.editor.uninstallKeyboardShortcuts()
        self.editor.removeViewObservations()
        self.editor.setMRMLSegmentEditorNode(None)  # the next panel's editor goes on with it
        self.editor.setMRMLScene(None)
        # Deleted, it would leave observers of Slicer's Threshold effect behind, which then fail at every change.
        if slicer.util.mainWindow() is not None:
            self.editor.hide()
            self.editor.setParent(slicer.util.mainWindow())

    # The case --------------------------------------------------------------------------------------------------------

    def showCase(self, caseID: str) -> None:
        """Show a case to be painted on; what is painted on the one before is saved first."""
        self.desk.steps.cancel()
        effect = superpixelsEffectOf(self.editor)
        wasProposing = effect is not None and effect.isOn
        with self.desk.attempt():
            window = self.views.chosenWindow(self.nodes.volume) if self._nodesAreAlive() else None
            self.editor.setActiveEffect(None)
            self.editor.setSegmentationNode(None)
            self.nodes = None
            self.nodes = self.logic.showCase(caseID)
            self._edit(window)
            if wasProposing:
                effect.start()
        self.desk.refresh()

    def showNodes(self, nodes) -> None:
        """Paint on nodes that show the case already; what was painted on before is hidden."""
        display = self.nodes.annotation.GetDisplayNode() if self._nodesAreAlive() else None
        if display is not None and self.nodes.annotation is not nodes.annotation:
            display.SetVisibility(False)
        self.nodes = nodes
        self._edit(None)

    def showAgain(self, caseID: str) -> None:
        """Paint on after a scene was added, which has taken views and editor; on the case that it showed, if any."""
        self._leaveOutside()
        if caseID and caseID != self.desk.shown:
            self.showCase(caseID)
        elif self._nodesAreAlive():
            self._edit(None)

    def _leaveOutside(self) -> None:
        """No longer show the result of a volume that is no case."""
        if self.desk.outside is not None:
            self.views.hideSegmentations()
            self.desk.outside = None

    def _edit(self, window) -> None:
        self._leaveOutside()
        self.views.show(self.nodes.volume, self.nodes.annotation, window)
        self.selectEditorNode()
        self.editor.setSegmentationNode(self.nodes.annotation)
        self.editor.setSourceVolumeNode(self.nodes.volume)
        self._countedState = ""
        self._noteLooks()
        if self._isEntered:
            self._prepareBrush()
            self.countAnnotated()
        qt.QTimer.singleShot(0, self._prepareSuperpixels)  # once the case is seen

    def _prepareSuperpixels(self) -> None:
        """Let the companion compute them, so that proposals begin at once."""
        effect = superpixelsEffectOf(self.editor)
        if effect is None or not self._nodesAreAlive():
            return
        volume = self.nodes.volume
        with self.desk.attempt(waitCursor=False):
            case = self.logic.project.cohort.case(volume.GetAttribute(CASE_ATTRIBUTE))
            file = case.image if volume.GetAttribute(LOADED_ATTRIBUTE) else None
            self._prepared = prepare_superpixels(volume, effect.settings(volume.GetSpacing()), file)

    def onTick(self, events: list) -> None:
        if self._prepared is not None:
            shared_companion().poll(5)
            self._prepared = None if self._prepared.is_over else self._prepared

    def _nodesAreAlive(self) -> bool:
        return self.nodes is not None and self.nodes.volume.GetScene() is not None

    def _prepareBrush(self) -> None:
        """Paint is on, with a brush in millimetres, everywhere, over whatever is there: as one scribbles."""
        node = self._editorNode
        node.SetMaskMode(slicer.vtkMRMLSegmentationNode.EditAllowedEverywhere)
        node.SetSourceVolumeIntensityMask(False)
        node.SetOverwriteMode(node.OverwriteAllSegments)
        self.editor.setActiveEffectByName("Paint")
        effect = self.editor.activeEffect()
        if effect is not None and self._nodesAreAlive() and not node.GetAttribute("SemiSupSeg.Brush"):
            node.SetAttribute("SemiSupSeg.Brush", "1")  # from now on the brush is the person's
            spacing = sorted(self.nodes.volume.GetSpacing())
            effect.setCommonParameter("BrushDiameterIsRelative", 0)
            effect.setCommonParameter("BrushAbsoluteDiameter", BRUSH_VOXELS * spacing[1])

    def _step(self, offset: int) -> None:
        index = self.ui.caseComboBox.currentIndex + offset
        if 0 <= index < self.ui.caseComboBox.count:
            self.showCase(self.ui.caseComboBox.itemText(index))

    def onProposeClicked(self, on: bool) -> None:
        """Switch the superpixel effect on, or back to painting."""
        name = superpixelsEffectName()
        self.editor.setActiveEffectByName(name if on and name else "Paint")
        effect = superpixelsEffectOf(self.editor)
        if on and effect is not None and not effect.isOn:
            with self.desk.attempt():
                effect.start()
        self.desk.refresh()

    def onCountTimer(self) -> None:
        self.takeLooks()
        self.countAnnotated()

    def countAnnotated(self) -> None:
        """Say how much is annotated, when something was painted since the last time."""
        if not self._nodesAreAlive():
            return
        state = painted_state(self.nodes.annotation)
        if state != self._countedState:
            self._countedState = state
            total = int(np.prod(self.nodes.volume.GetImageData().GetDimensions()))
            counts = count_voxels(self.nodes.annotation)
            kind = self.nodes.annotation.GetAttribute(KIND_ATTRIBUTE)
            self.ui.annotatedLabel.text = case_texts.annotated_text(counts, total, kind)

    # The classes -----------------------------------------------------------------------------------------------------

    def addClass(self) -> None:
        schema = self.logic.classes
        name = case_texts.free_class_name(schema)
        self._setClasses(LabelSchema((*schema.classes, SegmentClass(name)), schema.background))

    def removeClass(self) -> None:
        index = self.ui.classTable.currentRow()
        with self.desk.attempt(waitCursor=False):
            classes = list(self.logic.classes.classes)
            if 0 <= index < len(classes):
                del classes[index]
                self._setClasses(LabelSchema(tuple(classes), self.logic.classes.background))

    def colorClass(self) -> None:
        classes = [*self.logic.classes.classes, self.logic.classes.background]
        index = self.ui.classTable.currentRow()
        if not 0 <= index < len(classes):
            return
        color = qt.QColorDialog.getColor(qt.QColor.fromRgbF(*classes[index].color), slicer.util.mainWindow())
        if color.isValid():
            self._change(index, color=(color.redF(), color.greenF(), color.blueF()))

    def takeClasses(self) -> None:
        """Let the shown segmentation's segments be the classes."""
        with self.desk.attempt():
            nodes = [self.nodes.annotation] if self._nodesAreAlive() else []
            self._setClasses(self.logic.classesFromSegmentation(*nodes))

    def onClassSelected(self) -> None:
        if not self._isFilling:
            rows = [index.row() for index in self.ui.classTable.selectionModel().selectedRows()]
            self.desk.classRow = rows[0] if rows else -1
            self.desk.refresh()

    def onClassEdited(self, item) -> None:
        if not self._isFilling and item.column() == 0:
            self._filledClasses = None  # a name that isn't taken is shown as it was
            self._change(item.row(), name=item.text().strip())

    def _change(self, index: int, **changes) -> None:
        schema = self.logic.classes
        with self.desk.attempt(waitCursor=False):
            classes = [*schema.classes, schema.background]
            old = classes[index]
            values = {"name": old.name, "color": old.color, "terminology": old.terminology, **changes}
            isBackground = index == len(classes) - 1
            # A class that is renamed before anything is annotated gets an ID that fits its name.
            segmentID = old.segment_id if isBackground or values["name"] == old.name else values["name"]
            classes[index] = SegmentClass(segment_id=segmentID, value=old.value, **values)
            self._setClasses(LabelSchema(tuple(classes[:-1]), classes[-1]))
        self.desk.refresh()

    def _setClasses(self, schema: LabelSchema) -> None:
        with self.desk.attempt():
            self.logic.saveEdits()
            before = self.logic.classes
            self.logic.setClasses(schema)
            if self._nodesAreAlive():
                describe_segments(self.nodes.annotation, before, schema)
                if not self.nodes.annotation.GetSegmentation().GetSegment(self.editor.currentSegmentID() or ""):
                    self.editor.setCurrentSegmentID(schema.classes[0].segment_id)
                    self.editor.setActiveEffectByName("Paint")  # it went with the segment
        self._noteLooks()
        self.desk.refresh()

    def _noteLooks(self) -> None:
        self._looks = looks_of(self.nodes.annotation) if self._nodesAreAlive() else {}

    def takeLooks(self) -> None:
        """Let the classes look as somebody chose in the editor's own list; once something is annotated, names stay."""
        if not self._nodesAreAlive() or not self._looks:
            return
        looks = looks_of(self.nodes.annotation)
        changed = {segmentID: look for segmentID, look in looks.items() if look != self._looks.get(segmentID)}
        if not changed:
            return
        if self.desk.situation().has_annotation:
            changed = {key: (self._looks[key][0], *look[1:]) for key, look in changed.items() if key in self._looks}
        self._looks = looks
        with self.desk.attempt(waitCursor=False):
            self._setClasses(self.logic.classes.with_looks(changed))

    # Showing ---------------------------------------------------------------------------------------------------------

    def refresh(self, now) -> None:
        actions = panel_state.annotate_actions(now)
        if not superpixelsEffectName():
            actions["superpixelsButton"] = panel_state.Action(False, _("The effect isn't there."))
        self.enable(actions)
        combo = self.ui.caseComboBox
        names = [row.id for row in now.rows]
        if [combo.itemText(index) for index in range(combo.count)] != names:
            combo.clear()
            combo.addItems(names)
        combo.setCurrentIndex(names.index(now.shown) if now.shown in names else -1)
        effect = self.editor.activeEffect()
        self.ui.superpixelsButton.checked = effect is not None and effect.name == superpixelsEffectName()
        if not self._nodesAreAlive():
            self.nodes = None
        self.editor.enabled = self.nodes is not None
        if not now.shown:
            self._countedState = ""
            self.ui.annotatedLabel.text = _("Choose a case to paint on.")
        self._fillClasses(now)

    def _fillClasses(self, now) -> None:
        schema = self.logic.classes if now.is_open else None
        classes = () if schema is None else (*schema.classes, schema.background)
        if self._filledClasses == (classes, now.has_annotation):
            return  # somebody may be writing in a cell
        self._filledClasses = classes, now.has_annotation
        self._isFilling = True
        table = self.ui.classTable
        table.setRowCount(len(classes))
        for index, each in enumerate(classes):
            name = qt.QTableWidgetItem(each.name)
            pixmap = qt.QPixmap(16, 16)
            pixmap.fill(qt.QColor.fromRgbF(*(each.color or (0.5, 0.5, 0.5))))
            name.setIcon(qt.QIcon(pixmap))
            if now.has_annotation:
                name.setFlags(qt.Qt.ItemIsSelectable | qt.Qt.ItemIsEnabled)
            meaning = qt.QTableWidgetItem(
                _("where there is nothing; paint it too") if each is classes[-1] else terminology_text(each.terminology)
            )
            meaning.setFlags(qt.Qt.ItemIsSelectable | qt.Qt.ItemIsEnabled)
            table.setItem(index, 0, name)
            table.setItem(index, 1, meaning)
        self._isFilling = False
        self.onClassSelected()
