"""The module as Slicer finds it: what it says about itself, its five panels, and its test."""

import importlib.util
import sys
from pathlib import Path

import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

if importlib.util.find_spec("SemiSupSegLib") is None:
    # In a source checkout Slicer knows this folder only; the library lies beside it.
    sys.path.append(str(Path(__file__).resolve().parent.parent))

from SemiSupSegModuleLib.logic import SemiSupSegLogic
from SemiSupSegModuleLib.parameters import rememberCohort

POLL_MILLISECONDS = 80

RELOADED = ("SemiSupSegLib", "SemiSupSegModuleLib", "SemiSupSegWidgets")
"""Packages of this extension; the effect isn't among them, since Slicer can't register one twice."""


class SemiSupSeg(ScriptedLoadableModule):
    """What Slicer shows about the module before it is opened."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("Semi-Supervised Segmentation")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = ["SegmentEditor", "Segmentations", "Plots"]
        self.parent.contributors = ["SemiSupSeg contributors"]
        self.parent.helpText = _(
            "Train a segmentation model of your own from scribbles on a few scans and from the scans that nobody "
            "annotated, on this computer. No scan leaves it. See the "
            '<a href="https://github.com/SemiSupSeg/SlicerSemiSupSeg#readme">documentation</a>.'
        )
        self.parent.acknowledgementText = _(
            "The methods follow SP3 (arXiv 2411.11636), SGRS (arXiv 2411.04493) and "
            "Embedding Matching (arXiv 2407.04638)."
        )
        slicer.app.connect("startupCompleted()", onStartupCompleted)


def onStartupCompleted() -> None:
    """What has to wait for Slicer's other modules."""
    from SemiSupSegWidgets.sampleCohort import registerSampleData
    from SemiSupSegWidgets.superpixelsEffect import registerSuperpixelsEffect

    registerSampleData()
    registerSuperpixelsEffect()
    slicer.app.connect("aboutToQuit()", closeCompanion)


def closeCompanion() -> None:
    """End the process that computes superpixels, whoever started it: it serves Slicer's own Segment Editor, too."""
    from SemiSupSegLib.slicer_bridge.shared_companion import close_shared_companion

    close_shared_companion()


class SemiSupSegWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Five panels in the order of the work, one open at a time."""

    def __init__(self, parent=None):
        self._isUnloading = False
        # Before the base class does: it calls `cleanup` then, as it does when the module is reloaded.
        slicer.app.moduleManager().connect("moduleAboutToBeUnloaded(QString)", self.onModuleAboutToBeUnloaded)
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)

    def setup(self) -> None:
        ScriptedLoadableModuleWidget.setup(self)
        from SemiSupSegWidgets.Accordion import Accordion
        from SemiSupSegWidgets.AnnotatePanel import AnnotatePanel
        from SemiSupSegWidgets.CloseGuard import CloseGuard
        from SemiSupSegWidgets.CohortPanel import CohortPanel
        from SemiSupSegWidgets.Desk import Desk
        from SemiSupSegWidgets.ResultsPanel import ResultsPanel
        from SemiSupSegWidgets.SetupPanel import SetupPanel
        from SemiSupSegWidgets.TrainPanel import TrainPanel

        self.logic = SemiSupSegLogic()
        self.desk = Desk(self.logic)
        self.accordion = Accordion(self.layout)
        self.desk.openPanel = self.accordion.open
        for title, kind in (
            (_("Setup"), SetupPanel),
            (_("Cohort"), CohortPanel),
            (_("Annotate"), AnnotatePanel),
            (_("Train"), TrainPanel),
            (_("Results"), ResultsPanel),
        ):
            panel = kind(self.desk)
            self.desk.panels.append(panel)
            self.accordion.add(title, panel)
        self.layout.addStretch(1)

        for event, slot in (
            (slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose),
            (slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose),
            (slicer.mrmlScene.StartImportEvent, self.onSceneStartImport),
            (slicer.mrmlScene.EndImportEvent, self.onSceneEndImport),
            (slicer.mrmlScene.StartSaveEvent, self.onSceneStartSave),
            (slicer.mrmlScene.NodeAddedEvent, self.onNodesChanged),
            (slicer.mrmlScene.NodeRemovedEvent, self.onNodesChanged),
        ):
            self.addObserver(slicer.mrmlScene, event, slot)
        self.closeGuard = CloseGuard(self.logic)
        if slicer.util.mainWindow() is not None:
            slicer.util.mainWindow().installEventFilter(self.closeGuard)
        slicer.app.connect("aboutToQuit()", self.onAboutToQuit)

        self.pollTimer = qt.QTimer()
        self.pollTimer.setInterval(POLL_MILLISECONDS)
        self.pollTimer.connect("timeout()", self.onPoll)
        self.pollTimer.start()
        self.accordion.open("CohortPanel")
        self.takeScene()
        self.desk.refresh()
        if self.parent.isEntered:  # after a reload nobody enters it again
            self.enter()

    def onPoll(self) -> None:
        """Take in what the jobs say."""
        self.desk.panel("SetupPanel").pollTask()
        self.desk.poll()

    # Coming and going ------------------------------------------------------------------------------------------------

    def enter(self) -> None:
        """The module is shown."""
        self.accordion.enter()
        self.desk.refresh(cards=True)

    def exit(self) -> None:
        """Another module is shown; jobs go on, and strokes are written."""
        self.accordion.exit()

    def onModuleAboutToBeUnloaded(self, name: str) -> None:
        self._isUnloading |= name == self.moduleName

    def cleanup(self) -> None:
        """Slicer quits, or the module is reloaded: then trainings go on, and are found again."""
        manager = slicer.app.moduleManager()
        manager.disconnect("moduleAboutToBeUnloaded(QString)", self.onModuleAboutToBeUnloaded)
        slicer.app.disconnect("aboutToQuit()", self.onAboutToQuit)
        self._leave(keepRunning=not self._isUnloading or self.closeGuard.keepRunning)
        self.accordion.cleanup()

    def onAboutToQuit(self) -> None:
        """Slicer quits: trainings go on if the person said so, else they stop with a checkpoint."""
        self._leave(keepRunning=self.closeGuard.keepRunning)

    def _leave(self, keepRunning: bool) -> None:
        self.pollTimer.stop()
        self.desk.close()
        self.removeObservers()
        if slicer.util.mainWindow() is not None:
            slicer.util.mainWindow().removeEventFilter(self.closeGuard)
        with self.desk.attempt(waitCursor=False):
            self.logic.closeCohort(keepRunning=keepRunning)
        while self.desk.panels:
            self.desk.panels.pop().cleanup()

    def onReload(self) -> None:
        """Reload all of the extension's Python, not only this file."""
        for name in [name for name in sys.modules if name.partition(".")[0] in RELOADED]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    # The scene -------------------------------------------------------------------------------------------------------

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def onNodesChanged(self, caller, event, node) -> None:
        isOurs = node.IsA("vtkMRMLScalarVolumeNode") or node.IsA("vtkMRMLSegmentationNode")
        if isOurs and not slicer.mrmlScene.IsBatchProcessing():  # curves come and go while something trains
            self.desk.refresh()

    def onSceneStartClose(self, caller=None, event=None) -> None:
        self.desk.steps.cancel()
        with self.desk.attempt(waitCursor=False):
            self.logic.onSceneStartClose()
        for panel in self.desk.panels:
            panel.onSceneStartClose()

    def onSceneEndClose(self, caller=None, event=None) -> None:
        self._rememberCohort()
        for panel in self.desk.panels:
            panel.onSceneEndClose()
        self.desk.refresh()

    def onSceneStartImport(self, caller=None, event=None) -> None:
        with self.desk.attempt(waitCursor=False):
            self.logic.onSceneStartImport()

    def onSceneEndImport(self, caller=None, event=None) -> None:
        for panel in self.desk.panels:
            panel.onSceneEndClose()
        qt.QTimer.singleShot(0, self.takeScene)

    def onSceneStartSave(self, caller=None, event=None) -> None:
        with self.desk.attempt(waitCursor=False):
            if self.logic.isOpen:
                self.logic.saveEdits()
        self._rememberCohort()

    def _rememberCohort(self) -> None:
        if self.logic.isOpen:
            rememberCohort(self.logic.getParameterNode(), self.logic.project.path)

    def takeScene(self) -> None:
        """Open the cohort that a loaded scene names, or put away what a scene added to a cohort at work brought."""
        from SemiSupSegWidgets.Conflicts import resolveConflicts

        panel = self.desk.panel("AnnotatePanel")
        with self.desk.attempt():
            added = self.logic.takeAddedScene()
            if added is not None:
                scene, shown = added
                resolveConflicts(self.desk, scene.conflicts(), isAdded=True)
                scene.put_away()
                panel.showAgain(shown)
            elif self.logic.openCohortOfScene() is not None:
                resolveConflicts(self.desk, self.logic.conflicts())
        panel.followScene()
        self.desk.refresh(cards=True)


class SemiSupSegTest(ScriptedLoadableModuleTest):
    """The straight road, as a person walks it; run by ctest and by the Reload and Test button.

    Training needs a Python with torch: the one chosen in the panel Setup, or that of the environment variable
    SEMISUPSEG_PYTHON. Without one, the test ends after the strokes.
    """

    def setUp(self):
        slicer.mrmlScene.Clear(0)

    def runTest(self):
        self.setUp()
        self.test_straightRoad()

    def test_straightRoad(self):
        from SemiSupSegWidgets.selfTest import StraightRoad
        from SemiSupSegWidgets.selfTestControls import ControlSteps

        with StraightRoad(self) as road:
            road.openSample()
            controls = ControlSteps(road)
            road.scribble()
            controls.editClasses()
            road.propose()
            controls.changeSettings()
            if road.canTrain():
                road.train()
                controls.interruptTraining()
                controls.changeCohort()
                road.predict()
                controls.chooseOverlay()
                controls.manageModels()
                controls.measure()
                road.correct()
                road.retrain()
            road.reloadScene()
            road.reloadModule()
        self.assertNotIn("torch", sys.modules)
