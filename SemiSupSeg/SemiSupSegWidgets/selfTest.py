"""The steps of the module's self-test, and the clock that measures how long they hold up Slicer's window."""

import shutil
import tempfile
import time
from pathlib import Path

import qt
import slicer

from SemiSupSegLib.slicer_bridge.class_segments import count_voxels
from SemiSupSegLib.slicer_bridge.nodes import KIND_ATTRIBUTE

from .sampleCohort import makeSampleCohort
from .superpixelsEffect import superpixelsEffectName, superpixelsEffectOf
from .TrainPanel import PLOT_VIEW_NAME

TINY = {"plan.patch": "32, 32, 16", "plan.features": "8, 16, 16", "plan.batch_size": "1", "threads": "1"}
"""A network that trains in seconds on one core of a processor."""

TRAIN_MINUTES = 0.5
RETRAIN_MINUTES = 0.1
LONGEST_SECONDS = 600
TICK_MILLISECONDS = 20


class HoldClock:
    """How long the window stood still at most: a timer of 20 ms, and when its ticks came.

    Attributes
    ----------
    longest : float
        Longest hold, in ms, by the wall clock: on a busy computer other programs count, too.
    longestComputing : float
        Longest time, in ms, that Slicer's main thread itself computed between two ticks.
    """

    def __init__(self):
        self.longest = self.longestComputing = 0.0
        self._last = None
        self._timer = qt.QTimer()
        self._timer.setTimerType(qt.Qt.PreciseTimer)
        self._timer.setInterval(TICK_MILLISECONDS)
        self._timer.connect("timeout()", self._tick)

    def start(self) -> None:
        self.longest = self.longestComputing = 0.0
        self._last = None
        self._timer.start()

    def stop(self) -> None:
        self._timer.stop()

    def _tick(self) -> None:
        now = time.perf_counter(), time.thread_time()
        if self._last is not None:
            self.longest = max(self.longest, 1000 * (now[0] - self._last[0]) - TICK_MILLISECONDS)
            self.longestComputing = max(self.longestComputing, 1000 * (now[1] - self._last[1]))
        self._last = now


class StraightRoad:
    """The steps, in order.

    Parameters
    ----------
    test : unittest.TestCase
    """

    def __init__(self, test):
        self.test = test
        self.clock = HoldClock()
        self._report = []

    def __enter__(self):
        slicer.util.selectModule("SemiSupSeg")
        self.widget = slicer.util.getModuleWidget("SemiSupSeg")
        self.desk, self.logic = self.widget.desk, self.widget.logic
        self.folder = Path(tempfile.mkdtemp(prefix="SemiSupSeg-test-"))
        manager = slicer.app.layoutManager()
        if manager is not None:
            manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
        return self

    def __exit__(self, kind, error, trace):
        self.clock.stop()
        self.logic.closeCohort()
        slicer.mrmlScene.Clear(0)
        shutil.rmtree(self.folder, ignore_errors=True)
        print("\n".join(self._report))

    def say(self, text: str) -> None:
        """Note what was seen to work."""
        self._report.append(f"SemiSupSeg self-test: {text}")
        print(self._report[-1], flush=True)
        slicer.util.showStatusMessage(text)

    def openPanel(self, name: str):
        """Unfold a panel; the panel."""
        self.desk.openPanel(name)
        self.wait(0.3)
        return self.desk.panel(name)

    def wait(self, seconds: float, until=lambda: False) -> bool:
        """Let Slicer work until something is so, or the time is over; whether it is so."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not until():
            slicer.app.processEvents()
            time.sleep(0.002)
        return until()

    def openSample(self) -> None:
        """Load the sample and look at the table."""
        panel = self.openPanel("CohortPanel")
        panel.open(makeSampleCohort(self.folder / "sample"))
        self.wait(0.5)
        self.test.assertEqual(panel.ui.caseTable.rowCount, 10)
        self.test.assertTrue(panel.ui.checkButton.enabled)
        self.test.assertFalse(panel.ui.removeButton.enabled)
        panel.check()
        self.test.assertTrue(self.wait(120, lambda: not self.desk.checking), "the check of the cohort didn't end")
        self.say("sample opened and checked, 10 cases")

    def scribble(self) -> None:
        """Paint a stroke with the mouse on a case that nobody annotated, and wait until it is on disk."""
        annotate = self.openPanel("AnnotatePanel")
        annotate.showCase("phantom_04")
        self.wait(1)
        self.test.assertEqual(annotate.editor.activeEffect().name, "Paint")
        annotate.editor.setCurrentSegmentID(self.logic.classes.classes[0].segment_id)
        self._stroke()
        path = self.logic.project.folder / "scribbles" / "phantom_04_scribble.seg.nrrd"
        self.test.assertTrue(self.wait(20, path.is_file), "the stroke wasn't written")
        self.test.assertEqual(self.desk.situation().row("phantom_04").annotation, "scribbles")
        self.test.assertTrue(self.desk.situation().row("phantom_04").labeled, "whoever paints wants it to train")
        self.say("stroke painted and written")

    def _stroke(self, toRight: int = 0, until=lambda: True) -> float:
        """Paint a stroke; milliseconds until something has come of it."""
        widget = slicer.app.layoutManager().sliceWidget("Red")
        before = sum(self._counts().values())
        view = widget.sliceView()
        start = view.width // 2 + toRight, view.height // 2
        slicer.util.clickAndDrag(widget, start=start, end=(start[0] + 40, start[1] + 10), steps=8)
        begin = time.perf_counter()
        self.test.assertTrue(self.wait(5, until), "nothing came of the stroke")
        milliseconds = 1000 * (time.perf_counter() - begin)
        self.wait(0.5)
        self.test.assertGreater(sum(self._counts().values()), before, "the mouse painted nothing")
        return milliseconds

    def _counts(self) -> dict:
        return count_voxels(self.desk.panel("AnnotatePanel").nodes.annotation)

    def propose(self) -> None:
        """Switch the superpixel proposals on, paint a stroke, and see what is proposed; accept it and undo that."""
        if not superpixelsEffectName():
            self.say("no superpixel effect, skipped")
            return
        panel = self.openPanel("AnnotatePanel")
        panel.ui.superpixelsButton.click()
        effect = superpixelsEffectOf(panel.editor)
        self.test.assertTrue(self.wait(30, lambda: effect.proposals is not None), "superpixels didn't come")
        panel.ui.superpixelsButton.click()
        self.wait(0.5)
        self.test.assertEqual(panel.editor.activeEffect().name, "Paint")
        before = effect.proposals.proposed_superpixels
        panel.editor.setCurrentSegmentID(self.logic.classes.background.segment_id)
        milliseconds = self._stroke(toRight=-90, until=lambda: effect.proposals.proposed_superpixels > before)
        counts = self._counts()
        self.test.assertGreater(effect.accept(), 0)
        self.test.assertNotEqual(self._counts(), counts)
        panel.editor.undo()
        self.wait(0.3)
        self.test.assertEqual(self._counts(), counts)
        effect.stop()
        self.say(f"superpixels proposed {milliseconds:.0f} ms after a stroke, accepted, undone")

    def canTrain(self) -> bool:
        """Look at the computer as the panel Setup does; whether it can train."""
        panel = self.openPanel("SetupPanel")
        panel.check()
        self.test.assertTrue(self.wait(300, lambda: not self.desk.checking), "the check of the computer didn't end")
        ready = self.desk.report is not None and self.desk.report["ready"]
        self.say("computer checked" if ready else "no torch here: training is skipped")
        return ready

    def train(self) -> None:
        """Train half a minute, with curves and a live preview, and measure how long the window stands still."""
        self._train(TRAIN_MINUTES, warmStart=False)
        self.test.assertTrue(self.logic.plotCharts)
        self.say("trained; " + self._holds())

    def retrain(self) -> None:
        """Go on from the model with the corrected case."""
        self._train(RETRAIN_MINUTES, warmStart=True)
        self.say("retrained from the model; " + self._holds())

    def _train(self, minutes: float, warmStart: bool) -> None:
        self.logic.getParameterNode().settings = TINY
        panel = self.openPanel("TrainPanel")
        panel.ui.minutesSpinBox.value = minutes
        panel.ui.warmStartComboBox.setCurrentIndex(1 if warmStart else 0)
        self.wait(0.3)
        self.test.assertTrue(panel.ui.startButton.enabled, panel.ui.startButton.toolTip)
        before = len(self.logic.project.jobs)
        for _click in range(2):  # whoever double-clicks wants one training
            panel.ui.startButton.click()
        self.wait(0.5)
        self.test.assertEqual(len(self.logic.project.jobs), before + 1)
        self.test.assertFalse(panel.ui.startButton.enabled)
        self.test.assertTrue(panel.ui.cancelButton.enabled)
        self.clock.start()
        isOver = self.wait(LONGEST_SECONDS, lambda: self.logic.training is None)
        self.clock.stop()
        self.test.assertTrue(isOver, f"still at: {panel.ui.stageLabel.text}")
        self.test.assertEqual(panel.job.state, "finished", f"{panel.job.error}")
        self.wait(0.5)

    def predict(self) -> None:
        """Segment all cases; look at the most doubtful one."""
        panel = self.openPanel("ResultsPanel")
        self.test.assertEqual(panel.ui.modelList.count, 1)
        panel.ui.predictAllButton.click()
        self.clock.start()
        isOver = self.wait(LONGEST_SECONDS, lambda: panel.job is not None and not panel.job.is_running)
        self.clock.stop()
        self.test.assertTrue(isOver, f"still at: {panel.ui.stageLabel.text}")
        self.test.assertEqual(panel.job.state, "finished", f"{panel.job.error}")
        self.wait(0.5)
        self.test.assertEqual(panel.ui.rankingTable.rowCount, 10)
        panel.look("phantom_02")
        self.wait(0.5)
        self.test.assertEqual(self.desk.shown, "phantom_02")
        self.test.assertIsNotNone(panel.nodes.uncertainty)
        self.test.assertGreater(panel.ui.slicesList.count, 0)
        self.say("10 cases segmented and ranked; " + self._holds())

    def correct(self) -> None:
        """Copy the result into the annotation, and paint on it."""
        panel = self.desk.panel("ResultsPanel")
        self.test.assertTrue(panel.ui.correctButton.enabled)
        panel.correct(isSure=True)
        self.wait(0.5)
        annotate = self.desk.panel("AnnotatePanel")
        self.test.assertEqual(annotate.nodes.annotation.GetAttribute(KIND_ATTRIBUTE), "label")
        segment = min(self._counts().items(), key=lambda item: item[1])[0]
        segmentation = annotate.nodes.annotation.GetSegmentation()
        annotate.editor.setCurrentSegmentID(segmentation.GetSegmentIdBySegmentName(segment))
        annotate.editor.setActiveEffectByName("Paint")
        before = self._counts()
        self._paintIn(segment)
        self.test.assertNotEqual(self._counts(), before)
        self.logic.saveEdits()
        self.test.assertEqual(self.desk.situation().row("phantom_02").annotation, "dense")
        self.say("result corrected")

    def _paintIn(self, name: str) -> None:
        widget = slicer.app.layoutManager().sliceWidget("Red")
        view = widget.sliceView()
        for offset in (-60, 0, 60):
            start = view.width // 2 + offset, view.height // 2 + offset // 2
            slicer.util.clickAndDrag(widget, start=start, end=(start[0] + 30, start[1]), steps=6)
        self.wait(0.3)

    def reloadScene(self) -> None:
        """Save the scene, add it to itself: nothing is doubled. Close it, load it: the cohort and its case are back."""
        shown = self.desk.shown
        path = self.folder / "scene.mrb"
        self.test.assertTrue(slicer.util.saveScene(str(path)))
        count = slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLDisplayableNode")
        slicer.util.loadScene(str(path))
        self.wait(1)
        self.test.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLDisplayableNode"), count)
        annotate = self.desk.panel("AnnotatePanel")
        self.test.assertIs(annotate.editor.segmentationNode(), annotate.nodes.annotation)
        self.test.assertEqual(self.desk.shown, shown)
        slicer.mrmlScene.Clear(0)
        self.wait(0.5)
        self.test.assertEqual(self.desk.shown, "")
        self.test.assertIsNone(self.desk.panel("AnnotatePanel").nodes)
        self.logic.closeCohort()
        slicer.util.loadScene(str(path))
        self.wait(1)
        self.test.assertTrue(self.logic.isOpen)
        self.test.assertEqual(self.logic.project.folder, self.folder / "sample")
        self.test.assertEqual(self.desk.shown, shown)
        self.say("scene saved, added to itself, closed and loaded again")

    def reloadModule(self) -> None:
        """Reload the module: the cohort and its case are back, and nothing of the former panels is at work."""
        before, shown = self.widget, self.desk.shown
        slicer.util.reloadScriptedModule("SemiSupSeg")
        self.wait(1)
        self.widget = slicer.util.getModuleWidget("SemiSupSeg")
        self.desk, self.logic = self.widget.desk, self.widget.logic
        self.test.assertIsNot(self.widget, before)
        self.test.assertFalse(before.pollTimer.active)
        self.test.assertFalse(before.Observations)
        self.test.assertTrue(self.logic.isOpen)
        self.test.assertEqual(self.desk.shown, shown)
        plotView = slicer.mrmlScene.GetSingletonNode(PLOT_VIEW_NAME, "vtkMRMLPlotViewNode")
        self.openPanel("TrainPanel")
        self.test.assertIsNotNone(plotView.GetPlotChartNode(), "without a chart the view is black")
        self.openPanel("AnnotatePanel")
        self.test.assertEqual(self.desk.panel("AnnotatePanel").editor.activeEffect().name, "Paint")
        self.say("module reloaded")

    def _holds(self) -> str:
        return (
            f"longest hold {self.clock.longest:.0f} ms by the wall clock, "
            f"{self.clock.longestComputing:.0f} ms of computing between two ticks"
        )
