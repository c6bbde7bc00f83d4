"""More steps of the module's self-test: the controls beside the straight road."""

import slicer

from SemiSupSegLib.slicer_bridge.segments import read_segments

LONGEST_SECONDS = 120


class ControlSteps:
    """Steps on a road that is walked already.

    Parameters
    ----------
    road : selfTest.StraightRoad
    """

    def __init__(self, road):
        self.road, self.test = road, road.test
        self.desk, self.logic = road.desk, road.logic

    def editClasses(self) -> None:
        """Choose a color in the editor's own list, add a class: both reach the cohort and the segmentation."""
        panel = self.road.openPanel("AnnotatePanel")
        first = self.logic.classes.classes[0]
        panel.nodes.annotation.GetSegmentation().GetSegment(first.segment_id).SetColor(0.0, 1.0, 0.5)
        isTaken = self.road.wait(5, lambda: self.logic.classes.classes[0].color == (0.0, 1.0, 0.5))
        self.test.assertTrue(isTaken, "the class didn't take its segment's color")
        panel.ui.classesButton.checked = True
        rows = panel.ui.classTable.rowCount
        panel.ui.classTable.selectRow(0)
        self.road.wait(0.3)
        self.test.assertTrue(panel.ui.colorClassButton.enabled)
        self.test.assertFalse(panel.ui.removeClassButton.enabled, "something is annotated")
        names = [each.name for each in read_segments(panel.nodes.annotation)]
        self.test.assertEqual(len(names), rows)
        self.test.assertEqual(names[-1], self.logic.classes.background.name)
        panel.ui.classesButton.checked = False
        self.road.say("classes follow the editor's list")

    def changeSettings(self) -> None:
        """An impossible value stops Start and says why; Defaults brings the recommended values back."""
        panel = self.road.openPanel("TrainPanel")
        panel.ui.advancedButton.checked = True
        node = self.logic.getParameterNode()
        for settings, isPossible in (({"foreground_fraction": "7"}, False), ({"iterations": "5"}, True)):
            node.settings = settings
            panel.ui.advancedButton.checked = False
            panel.ui.advancedButton.checked = True
            self.road.wait(0.3)
            self.test.assertEqual(panel.ui.startButton.enabled, isPossible, panel.ui.startButton.toolTip)
            self.test.assertTrue(panel.ui.settingsLabel.text)
        self.test.assertFalse(panel.ui.minutesSpinBox.enabled, "iterations are counted")
        panel.ui.defaultsButton.click()
        self.road.wait(0.3)
        self.test.assertEqual(dict(node.settings), {})
        self.test.assertFalse(panel.ui.defaultsButton.enabled)
        panel.ui.advancedButton.checked = False
        self.road.say("impossible setting refused, defaults taken")

    def interruptTraining(self) -> None:
        """Pause a training, go on, cancel it, resume it from its card, cancel it for good and delete it."""
        ui = self.road.openPanel("TrainPanel").ui
        ui.startButton.click()
        self._await(lambda: (self.logic.training.progress or {"iteration": 0})["iteration"])
        ui.pauseButton.click()
        self._await(lambda: ui.continueButton.enabled)
        self.test.assertEqual(self.logic.training.state, "paused")
        ui.continueButton.click()
        self._await(lambda: ui.pauseButton.enabled)
        run = self._cancelTraining(ui).path
        self.desk.card = run
        self.desk.refresh(cards=True)
        results = self.road.openPanel("ResultsPanel")
        self._await(lambda: results.ui.resumeButton.enabled)
        before = len(self.logic.project.jobs)
        for _click in range(2):
            results.ui.resumeButton.click()
        self.test.assertEqual(len(self.logic.project.jobs), before + 1)
        self._await(lambda: ui.cancelButton.enabled and "iteration" in ui.stageLabel.text)
        self.test.assertEqual(self._cancelTraining(ui).path, run)
        self.logic.deleteRun(run)
        self.desk.refresh(cards=True)
        self.road.say("training paused, continued, cancelled, resumed")

    def _cancelTraining(self, ui):
        job = self.logic.training
        ui.cancelButton.click()
        self.road.wait(0.2)
        if job.is_running:
            self.test.assertTrue(ui.stageLabel.text.startswith("Stopping"), ui.stageLabel.text)
            self.test.assertFalse(ui.cancelButton.enabled)
        self._await(lambda: ui.startButton.enabled)
        self.test.assertEqual(job.state, "cancelled", f"{job.error}")
        return job

    def _await(self, isSo) -> None:
        self.test.assertTrue(self.road.wait(LONGEST_SECONDS, isSo), "the training didn't follow")

    def changeCohort(self) -> None:
        """Open another cohort: nothing is said of the one before. A folder that takes no file changes nothing."""
        project, shown = self.logic.project, self.desk.shown
        panel = self.road.openPanel("CohortPanel")
        panel.open(project.path / "inside a file")
        self.test.assertIs(self.logic.project, project)
        self.test.assertEqual(self.desk.shown, shown)
        panel.open(self.road.folder / "another")
        self.road.wait(0.5)
        ui = self.desk.panel("TrainPanel").ui
        self.test.assertEqual((ui.progressBar.value, ui.metricsLabel.text), (0, ""))
        self.test.assertFalse(ui.plotFrame.visible)
        self.test.assertEqual(self.desk.panel("ResultsPanel").ui.modelList.count, 0)
        panel.open(project.path)
        self.desk.panel("AnnotatePanel").showCase(shown)
        self.road.wait(0.5)
        self.road.say("cohorts changed")

    def chooseOverlay(self) -> None:
        """Lay the doubt over the scan, and take it off again."""
        panel = self.road.openPanel("ResultsPanel")
        layers = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceCompositeNode()
        self.test.assertTrue(panel.ui.overlayComboBox.enabled)
        for index, node in ((panel.ui.overlayComboBox.count - 1, None), (0, panel.nodes.uncertainty)):
            panel.ui.overlayComboBox.setCurrentIndex(index)
            panel.showOverlay()
            self.test.assertEqual(layers.GetForegroundVolumeID(), None if node is None else node.GetID())
        self.road.say("doubt shown and taken off")

    def manageModels(self) -> None:
        """Rename the model, export it, import it, delete the copy."""
        panel = self.road.openPanel("ResultsPanel")
        (card,) = self.logic.cards()
        self.logic.renameModel(card.path, "my model")
        zipPath = self.logic.exportModel(card.path, self.road.folder / "model.zip")
        model = self.logic.importModel(zipPath)
        self.desk.refresh(cards=True)
        self.test.assertTrue(self.road.wait(5, lambda: panel.ui.modelList.count == 2))
        self.test.assertEqual({(each.name, each.state) for each in self.logic.cards()}, {("my model", "finished")})
        self.desk.card = model.folder
        self.desk.refresh()
        self.test.assertTrue(self.road.wait(5, lambda: panel.ui.deleteButton.enabled))
        self.logic.deleteRun(model.folder)  # the button asks first, and nobody is there to answer
        self.desk.refresh(cards=True)
        self.test.assertTrue(self.road.wait(5, lambda: panel.ui.modelList.count == 1))
        self.test.assertFalse(model.folder.exists())
        self.road.say("model renamed, exported, imported, deleted")

    def measure(self) -> None:
        """Measure the results of cases that have a reference."""
        panel = self.road.openPanel("ResultsPanel")
        self.test.assertTrue(panel.ui.measureButton.enabled, panel.ui.measureButton.toolTip)
        self.test.assertFalse(panel.ui.exportScoresButton.enabled)
        panel.ui.measureButton.click()
        self.test.assertTrue(self.road.wait(120, lambda: not self.desk.checking), "measuring didn't end")
        self.road.wait(0.3)
        self.test.assertGreater(panel.ui.scoresTable.rowCount, 0)
        self.test.assertTrue(panel.ui.exportScoresButton.enabled)
        self.road.say(f"{panel.ui.scoresTable.rowCount} rows measured")
