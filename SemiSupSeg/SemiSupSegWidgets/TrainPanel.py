"""Panel *Train*: what to train, how long, and how it goes."""

import time

import slicer
from slicer.i18n import tr as _

from SemiSupSegLib.errors import SemiSupSegError
from SemiSupSegLib.slicer_bridge import advanced_form, panel_state, run_texts
from SemiSupSegLib.slicer_bridge.plots import empty_chart, singleton_node
from SemiSupSegLib.training_settings import TrainingSettings

from .Panel import Panel
from .SettingsForm import SettingsForm

PREVIEW_SECONDS = 20.0
"""How long after a preview the next is asked for."""

FIT_SECONDS = 0.5
"""How often the axes of the plot follow the curves: each time costs a repaint of 20 ms."""

PLOT_VIEW_NAME = "SemiSupSegCurves"


class TrainPanel(Panel):
    """Starts trainings and follows the newest."""

    def __init__(self, desk):
        super().__init__(desk)
        self.job = None
        self._plotWidget = None
        self._isFitDue = False
        self._fitted = 0.0
        self._previewAsked = 0.0
        self._isWaitingForPreview = False
        self._isOpen = False
        self._isFilling = False
        self._form = SettingsForm(self.ui.advancedContents.layout(), self.onSettingsChanged)
        self._formOf = None
        ui = self.ui
        for method in run_texts.methods():
            ui.methodComboBox.addItem(run_texts.method_title(method), method)
        for preset in run_texts.presets():
            ui.presetComboBox.addItem(f"{preset.name} ({preset.minutes:g} min)", preset.minutes)
        ui.presetComboBox.addItem(_("Other"), None)
        for title in (_("Losses"), _("Dice and shares")):
            ui.chartComboBox.addItem(title)
        ui.chartComboBox.setCurrentIndex(0)
        ui.methodComboBox.connect("activated(int)", self.onMethodChosen)
        ui.presetComboBox.connect("activated(int)", self.onPresetChosen)
        ui.minutesSpinBox.connect("valueChanged(double)", self.onMinutesChanged)
        ui.advancedButton.connect("toggled(bool)", self.onAdvancedToggled)
        ui.defaultsButton.connect("clicked(bool)", lambda checked=False: self.takeDefaults())
        ui.startButton.connect("clicked(bool)", lambda checked=False: self.start())
        ui.pauseButton.connect("clicked(bool)", lambda checked=False: self.logic.pause())
        ui.continueButton.connect("clicked(bool)", lambda checked=False: self.logic.resume())
        ui.cancelButton.connect("clicked(bool)", lambda checked=False: self.cancel())
        ui.previewButton.connect("clicked(bool)", lambda checked=False: self.askForPreview())
        ui.reportButton.connect("clicked(bool)", lambda checked=False: self.copyReport())
        ui.chartComboBox.connect("currentIndexChanged(int)", lambda index: self.logic.plotCharts and self.showPlot())
        ui.advancedArea.hide()
        ui.settingsLabel.hide()
        ui.plotFrame.hide()
        ui.warningsLabel.hide()

    # What to train ---------------------------------------------------------------------------------------------------

    @property
    def method(self) -> str:
        """The chosen method."""
        return self.ui.methodComboBox.itemData(self.ui.methodComboBox.currentIndex) or run_texts.methods()[0]

    def onMethodChosen(self, index: int) -> None:
        self.logic.getParameterNode().method = self.method
        self._buildForm()
        self.desk.refresh()

    def onPresetChosen(self, index: int) -> None:
        minutes = self.ui.presetComboBox.itemData(index)
        if minutes is not None:
            self.ui.minutesSpinBox.value = minutes

    def onMinutesChanged(self, minutes: float) -> None:
        if not self._isFilling:
            self.logic.getParameterNode().minutes = minutes
            self._showPreset(minutes)

    def _showPreset(self, minutes: float) -> None:
        preset = run_texts.preset_of(minutes)
        self.ui.presetComboBox.setCurrentIndex(preset if preset >= 0 else self.ui.presetComboBox.count - 1)

    def onAdvancedToggled(self, on: bool) -> None:
        self.ui.advancedArea.setVisible(on)
        if on:
            self._buildForm()

    def _buildForm(self) -> None:
        if self.ui.advancedButton.checked:
            values = dict(self.logic.getParameterNode().settings)
            self._form.build(self.logic.trainingSettings(), self.method, values)
            self.onSettingsChanged()

    def onSettingsChanged(self) -> None:
        descriptions = self.logic.trainingSettings()
        node = self.logic.getParameterNode()
        texts = {**dict(node.settings), **self._form.texts()}
        node.settings = advanced_form.changed_settings(texts, descriptions)
        self.desk.refresh()

    def takeDefaults(self) -> None:
        """Set every setting of the form back to its default."""
        self.logic.getParameterNode().settings = {}
        self._form.build(self.logic.trainingSettings(), self.method, {})
        self.onSettingsChanged()

    def _changedText(self) -> str:
        changed = dict(self.logic.getParameterNode().settings)
        return _("Changed: {names}").format(names=", ".join(changed)) if changed else ""

    def _assignments(self) -> list:
        settings = advanced_form.assignments(
            dict(self.logic.getParameterNode().settings), self.method, self.logic.trainingSettings()
        )
        return [*settings, f"device={self.desk.device}"]

    @property
    def _countsIterations(self) -> bool:
        """Whether the form says how many iterations, so that the minutes don't count."""
        return "iterations" in dict(self.logic.getParameterNode().settings)

    def _settingsProblem(self) -> str:
        try:
            TrainingSettings().with_overrides([*self._assignments(), f"method={self.method}"])
        except SemiSupSegError as error:
            return f"{error.message} {error.remedy}"
        return ""

    # Running ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Train as the panel says."""
        with self.desk.attempt():
            self.job = self.logic.train(
                self.method,
                minutes=None if self._countsIterations else self.ui.minutesSpinBox.value,
                settings=self._assignments(),
                warmStart=self.ui.warmStartComboBox.itemData(self.ui.warmStartComboBox.currentIndex) or None,
                name=self.ui.nameLineEdit.text.strip(),
                keepRunning=self.ui.keepRunningCheckBox.checked,
            )
            self.showPlot()  # now, and not with the first curve: its first drawing takes 70 ms
        self._previewAsked = time.monotonic()
        self._isWaitingForPreview = False
        self.desk.refreshNow(cards=True)  # before the second click of a double-click starts another

    def resume(self, run) -> None:
        """Go on with a training that stopped."""
        with self.desk.attempt():
            self.job = self.logic.resumeTraining(run)
        self.desk.refreshNow(cards=True)

    def cancel(self) -> None:
        training = self.logic.training
        if training is not None:
            training.cancel()
            self._showJob(training)
        self.desk.refresh()

    def askForPreview(self) -> None:
        """Ask the training for the shown case."""
        if self.logic.training is not None and self.desk.shown:
            self.logic.requestPreview(self.desk.shown)
            self._previewAsked = time.monotonic()
            self._isWaitingForPreview = True

    def copyReport(self) -> None:
        """Copy the newest training's report."""
        with self.desk.attempt():
            job = self._newestJob()
            if job is not None:
                slicer.app.clipboard().setText(job.report())
                slicer.util.showStatusMessage(_("The report was copied."), 3000)

    def _newestJob(self):
        if self.logic.training is not None:
            self.job = self.logic.training
        elif self.job is None and self.logic.isOpen:
            self.job = next((job for job in reversed(self.logic.project.jobs) if job.task == "train"), None)
        return self.job

    def onTick(self, events: list) -> None:
        job = self._newestJob()
        if job is None or not job.is_running:
            return
        names = {event.name for event in events}
        if self._isOpen and names & {"progress", "state", "metric", "warning", "started"}:
            self._showJob(job)
        if "metric" in names:
            self._isFitDue = True
        if any(event.name == "preview" for event in events):
            self._isWaitingForPreview = False
            self.showPreview()
        if self._isFitDue and self._isOpen and time.monotonic() - self._fitted > FIT_SECONDS:
            self.showPlot()
        self._askNowAndThen()

    def _askNowAndThen(self) -> None:
        isDue = time.monotonic() - self._previewAsked > PREVIEW_SECONDS
        if self.ui.livePreviewCheckBox.checked and isDue and not self._isWaitingForPreview:
            self.askForPreview()

    def showPreview(self) -> None:
        """Show what the network says of the shown case, if it said something."""
        if self.logic.isOpen and self.desk.shown in self.logic.project.previews:
            with self.desk.attempt(waitCursor=False):
                self.desk.steps.start(self.logic.previewSteps(self.desk.shown), self._onPreviewShown)

    @staticmethod
    def _onPreviewShown(nodes) -> None:
        nodes.segmentation.GetDisplayNode().SetVisibility2DFill(False)  # the strokes stay visible below

    def onJobOver(self, job) -> None:
        if job.task == "train":
            if self.logic.training is None:
                self._showJob(job)
            if self._isOpen:
                self.showPlot()

    def _showJob(self, job) -> None:
        ui = self.ui
        percent = run_texts.progress_percent(job.progress)
        if job.is_running:
            ui.progressBar.setMaximum(0 if percent < 0 else 100)
            ui.progressBar.setValue(max(0, percent))
            ui.stageLabel.text = run_texts.progress_text(job.progress, job.state, job.is_cancelled)
        else:
            status = job.folder.read_status()
            ui.progressBar.setMaximum(100)
            ui.progressBar.setValue(100 if job.state == "finished" else max(0, percent))
            ui.stageLabel.text = run_texts.outcome_text(job.state, status.iteration if status else 0, job.task)
        ui.metricsLabel.text = run_texts.metrics_text(job.metrics)
        ui.warningsLabel.text = "\n".join(dict.fromkeys(job.warnings))
        ui.warningsLabel.visible = bool(job.warnings)

    # Curves ----------------------------------------------------------------------------------------------------------

    def showPlot(self) -> None:
        """Show the chosen chart, and let its axes follow the curves."""
        self._isFitDue = False
        self._fitted = time.monotonic()
        self._makePlotWidget()
        self.ui.plotFrame.show()
        node = self._plotViewNode()
        if self._plotWidget.mrmlPlotViewNode() is not node:
            self._plotWidget.setMRMLPlotViewNode(node)
        index = max(0, self.ui.chartComboBox.currentIndex)
        chart = self.logic.plotCharts[index] if self.logic.plotCharts else None
        if chart is None or not chart.GetNumberOfPlotSeriesNodes():
            node.SetPlotChartNodeID(self._emptyChart().GetID())
            return
        if node.GetPlotChartNodeID() != chart.GetID():
            node.SetPlotChartNodeID(chart.GetID())
        view = self._plotWidget.plotView()
        legend = view.chart().GetLegend()
        legend.SetVerticalAlignment(legend.CENTER if index else legend.TOP)  # losses fall below it, Dice rises above
        view.fitToContent()
        self.logic.project.curves.plot.hold_axes()

    def _makePlotWidget(self) -> None:
        """Make it when the panel is opened: it takes 100 ms, too long for while something trains."""
        if self._plotWidget is not None:
            return
        self._plotWidget = slicer.qMRMLPlotWidget()
        self._plotWidget.setMRMLScene(slicer.mrmlScene)
        self._plotWidget.setMRMLPlotViewNode(self._plotViewNode())
        self._plotWidget.controllerWidget().hide()
        self.ui.plotFrame.layout().addWidget(self._plotWidget)

    def _plotViewNode(self):
        node = singleton_node(slicer.mrmlScene, "vtkMRMLPlotViewNode", PLOT_VIEW_NAME)
        node.SetLayoutName(PLOT_VIEW_NAME)
        if node.GetPlotChartNode() is None:  # its ID outlives the chart of a cohort that was left
            node.SetPlotChartNodeID(self._emptyChart().GetID())
        return node

    @staticmethod
    def _emptyChart():
        return empty_chart(slicer.mrmlScene, PLOT_VIEW_NAME, _("Curves come with the first iterations"))

    # Showing ---------------------------------------------------------------------------------------------------------

    def onCohortChanged(self) -> None:
        self.job = None
        ui = self.ui
        ui.progressBar.setMaximum(100)
        ui.progressBar.setValue(0)
        ui.metricsLabel.text = ""
        ui.warningsLabel.hide()
        ui.plotFrame.hide()

    def onOpened(self) -> None:
        self._isOpen = True
        self._makePlotWidget()
        if self._newestJob() is not None:
            self._showJob(self.job)
            self.showPlot()

    def onClosed(self) -> None:
        self._isOpen = False

    def refresh(self, now) -> None:
        actions = panel_state.train_actions(now)
        problem = self._settingsProblem()
        self.ui.settingsLabel.text = problem or self._changedText()
        self.ui.settingsLabel.visible = bool(self.ui.settingsLabel.text)
        if problem and actions["startButton"].enabled:
            actions["startButton"] = panel_state.Action(False, problem)
        node = self.logic.getParameterNode()
        isChanged = bool(dict(node.settings))
        actions["defaultsButton"] = panel_state.Action(isChanged, "" if isChanged else _("All of them are already."))
        counted = "" if not self._countsIterations else _("The setting 'iterations' under Advanced decides.")
        actions |= {name: panel_state.Action(not counted, counted) for name in ("presetComboBox", "minutesSpinBox")}
        self.enable(actions)
        self._isFilling = True
        ui = self.ui
        ui.methodComboBox.setCurrentIndex(max(0, ui.methodComboBox.findData(node.method)))
        ui.methodLabel.text = run_texts.method_advice(self.method)
        if ui.minutesSpinBox.value != node.minutes:
            ui.minutesSpinBox.value = node.minutes
        self._showPreset(node.minutes)
        self._fillWarmStarts(now)
        self._isFilling = False
        if self._newestJob() is None:
            ui.stageLabel.text = "" if actions["startButton"].enabled else actions["startButton"].why_not

    def _fillWarmStarts(self, now) -> None:
        combo = self.ui.warmStartComboBox
        wanted = [("", _("nothing: train anew"))]
        wanted += [(str(card.path), card.name) for card in now.cards if card.model is not None]
        if [(combo.itemData(index), combo.itemText(index)) for index in range(combo.count)] != wanted:
            chosen = combo.itemData(combo.currentIndex)
            combo.clear()
            for path, name in wanted:
                combo.addItem(name, path)
            combo.setCurrentIndex(max(0, combo.findData(chosen)))

    def onSceneEndClose(self) -> None:
        if self._plotWidget is not None:
            self._plotWidget.setMRMLPlotViewNode(self._plotViewNode())
        self._isFitDue = True

    def cleanup(self) -> None:
        if self._plotWidget is not None:
            self._plotWidget.setMRMLPlotViewNode(None)
            self._plotWidget.setMRMLScene(None)
