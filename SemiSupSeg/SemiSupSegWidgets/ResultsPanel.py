"""Panel *Results*: runs and models, segmenting with them, and where a look pays most."""

from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

from SemiSupSegLib.files import as_file_name
from SemiSupSegLib.progress import size
from SemiSupSegLib.slice_ranking import uncertain_slices
from SemiSupSegLib.slicer_bridge import panel_state, run_texts
from SemiSupSegLib.slicer_bridge.nodes import CASE_ATTRIBUTE

from .ErrorBox import ask, askWhereToSave
from .Panel import Panel, fitHeight
from .Scores import Scores

OVERLAY_OPACITY = 0.35


class ResultsPanel(Panel):
    """Cards of runs and models, predictions, and the ranking by uncertainty."""

    def __init__(self, desk):
        super().__init__(desk)
        self.job = None
        self.nodes = None
        self._overlays = {}
        self._volumeToShow = None
        self._slicesOf = None
        self._ranked = []
        self._isFilling = False
        ui = self.ui
        ui.renameButton.connect("clicked(bool)", lambda checked=False: self.rename())
        ui.exportButton.connect("clicked(bool)", lambda checked=False: self.export())
        ui.importButton.connect("clicked(bool)", lambda checked=False: self.importModel())
        ui.deleteButton.connect("clicked(bool)", lambda checked=False: self.delete())
        ui.resumeButton.connect("clicked(bool)", lambda checked=False: self.resume())
        ui.predictShownButton.connect("clicked(bool)", lambda checked=False: self.predict([self.desk.shown]))
        ui.predictAllButton.connect("clicked(bool)", lambda checked=False: self.predict(None))
        ui.cancelPredictionButton.connect("clicked(bool)", lambda checked=False: self.cancel())
        ui.showResultButton.connect("clicked(bool)", lambda checked=False: self.showResult(self.desk.shown))
        ui.show3DButton.connect("clicked(bool)", self.show3D)
        ui.overlayComboBox.connect("activated(int)", lambda index: self.showOverlay())
        ui.correctButton.connect("clicked(bool)", lambda checked=False: self.correct())
        ui.modelList.connect("itemSelectionChanged()", self.onModelSelected)
        ui.rankingTable.connect(
            "cellClicked(int,int)", lambda row, column: self.look(ui.rankingTable.item(row, 0).text())
        )
        ui.slicesList.connect("itemClicked(QListWidgetItem*)", lambda item: self.jump(item.data(qt.Qt.UserRole)))
        ui.rankingTable.verticalHeader().hide()
        ui.rankingTable.horizontalHeader().setSectionResizeMode(qt.QHeaderView.Stretch)
        self.scores = Scores(desk, ui)
        ui.progressBar.hide()
        self._menu = qt.QMenu(ui.predictVolumeButton)
        ui.predictVolumeButton.setMenu(self._menu)
        self._menu.connect("aboutToShow()", self._fillMenu)

    # Runs and models -------------------------------------------------------------------------------------------------

    def onModelSelected(self) -> None:
        if not self._isFilling:
            items = self.ui.modelList.selectedItems()
            self.desk.card = Path(items[0].data(qt.Qt.UserRole)) if items else None
            self.desk.refresh()

    def _selectedCard(self):
        return self.desk.situation().card

    def rename(self) -> None:
        """Ask for another name of the selected model."""
        card = self._selectedCard()
        name = qt.QInputDialog.getText(
            slicer.util.mainWindow(), _("Rename"), _("Name of the model:"), qt.QLineEdit.Normal, card.name
        )
        if name:
            with self.desk.attempt():
                self.logic.renameModel(card.path, name)
            self.desk.refresh(cards=True)

    def export(self) -> None:
        """Ask for a file, and write the selected model to it."""
        card = self._selectedCard()
        name = as_file_name(card.name, otherwise="model")
        path = askWhereToSave(_("Export the model"), str(Path.home() / f"{name}.zip"), "Zip (*.zip)", "zip")
        if path:
            with self.desk.attempt():
                self.logic.exportModel(card.path, path)

    def importModel(self) -> None:
        """Ask for a file, and take in the model in it."""
        path = qt.QFileDialog.getOpenFileName(
            slicer.util.mainWindow(), _("Import a model"), str(Path.home()), "Zip (*.zip)"
        )
        if path:
            with self.desk.attempt():
                model = self.logic.importModel(path)
                self.desk.card = model.folder
            self.desk.refresh(cards=True)

    def delete(self) -> None:
        """Delete the selected run or model, after a question."""
        card = self._selectedCard()
        text = _("Delete '{name}' with all its files ({size})? This can't be undone.")
        if ask(text.format(name=card.name, size=size(card.bytes)), str(card.path), isHarmful=True):
            with self.desk.attempt():
                self.logic.deleteRun(card.path)
            self.desk.card = None
            self.desk.refresh(cards=True)

    def resume(self) -> None:
        self.desk.panel("TrainPanel").resume(self._selectedCard().path)
        self.desk.openPanel("TrainPanel")

    # Segmenting ------------------------------------------------------------------------------------------------------

    def _fillMenu(self) -> None:
        self._menu.clear()
        for node in self.desk.otherVolumes():
            self._menu.addAction(node.GetName()).connect("triggered()", lambda node=node: self.predictVolume(node))

    def predict(self, cases) -> None:
        """Segment cases, all if None."""
        self._volumeToShow = None
        self._start(cases=cases)

    def predictVolume(self, node) -> None:
        """Segment a volume that is no case."""
        self._volumeToShow = node
        self._start(volumes=[node])

    def _start(self, **what) -> None:
        card = self._selectedCard()
        with self.desk.attempt():
            self.job = self.logic.predict(
                model=card.path if card is not None and card.model is not None else None,
                probability=self.ui.probabilityCheckBox.checked,
                uncertainty=self.ui.uncertaintyCheckBox.checked,
                settings=self._settings(),
                **what,
            )
        self.desk.refreshNow()  # before the second click of a double-click starts another

    def _settings(self) -> list:
        """Device and threads are chosen once, for trainings and predictions."""
        threads = dict(self.logic.getParameterNode().settings).get("threads", "")
        return [f"device={self.desk.device}"] + [f"threads={threads}"] * bool(threads)

    def cancel(self) -> None:
        if self.job is not None:
            self.job.cancel()
            self._showJob()
        self.desk.refresh()

    def onTick(self, events: list) -> None:
        self.scores.poll()
        self.job = self.logic.prediction or self.job  # one from before Slicer was closed, too
        if self.job is None or not self.job.is_running or not events:
            return
        self._showJob()
        came = [event["case"] for event in events if event.name == "preview"]
        if came:
            self.desk.refresh()
            if self.desk.shown in came:
                self.desk.steps.start(self.logic.resultsSteps(self.desk.shown), self._onResultShown)

    def _showJob(self) -> None:
        percent = run_texts.progress_percent(self.job.progress)
        self.ui.progressBar.setMaximum(0 if percent < 0 else 100)
        self.ui.progressBar.setValue(max(0, percent))
        self.ui.stageLabel.text = run_texts.progress_text(self.job.progress, self.job.state, self.job.is_cancelled)

    def onJobOver(self, job) -> None:
        if job.task != "predict":
            return
        self.ui.progressBar.setMaximum(100)
        self.ui.progressBar.setValue(100 if job.state == "finished" else 0)
        self.ui.stageLabel.text = run_texts.outcome_text(job.state, 0, job.task)
        if self._volumeToShow is not None and self._volumeToShow.GetScene() is not None and job.state == "finished":
            with self.desk.attempt():
                self._showOutside(self._volumeToShow)
        self._volumeToShow = None

    # Looking ---------------------------------------------------------------------------------------------------------

    def look(self, caseID: str) -> None:
        """Show a case with its result, at its most doubtful slice."""
        if caseID != self.desk.shown:
            self.desk.panel("AnnotatePanel").showCase(caseID)
        self.showResult(caseID)
        if self.ui.slicesList.count:
            self.jump(self.ui.slicesList.item(0).data(qt.Qt.UserRole))

    def showResult(self, caseID: str) -> None:
        """Show segmentation and uncertainty of the shown case."""
        if not self.logic.isOpen or not caseID or caseID != self.desk.shown:
            return
        self.desk.steps.cancel()  # they may be showing the same, and would add it once more
        with self.desk.attempt():
            self._onResultShown(self.logic.results(caseID))

    def _showOutside(self, volumeNode) -> None:
        """Show the result of a volume that was no case when it was asked for, and nothing of the shown case."""
        nodes = self.logic.results(volumeNode)
        caseID = volumeNode.GetAttribute(CASE_ATTRIBUTE)
        if caseID:  # it was added meanwhile
            if caseID != self.desk.shown:
                self.desk.panel("AnnotatePanel").showCase(caseID)
            self._onResultShown(nodes)
            return
        self.desk.panel("AnnotatePanel").views.hideSegmentations()
        self._showNodes(nodes, volumeNode)
        slicer.util.resetSliceViews()
        self.ui.slicesList.clear()
        self.desk.outside = volumeNode
        self.desk.refresh()

    def _onResultShown(self, nodes) -> None:
        if self.desk.outside is not None:
            self.desk.panel("AnnotatePanel").showAgain("")
        self._showNodes(nodes, self.logic.project.image_node(self.desk.shown))
        self._fillSlices(self.desk.shown)
        self.desk.refresh()

    def _showNodes(self, nodes, volumeNode) -> None:
        self.nodes = nodes
        slicer.util.setSliceViewerLayers(background=volumeNode)
        self._fillOverlays()
        self.showOverlay()
        display = nodes.segmentation.GetDisplayNode()
        display.SetVisibility(True)
        display.SetVisibility2DFill(False)  # the strokes stay visible below
        self.ui.show3DButton.checked = nodes.segmentation.GetSegmentation().ContainsRepresentation("Closed surface")

    def _fillOverlays(self) -> None:
        """Offer the maps that the shown result has; the kind that was chosen stays."""
        maps = {} if self.nodes.uncertainty is None else {_("Doubt"): self.nodes.uncertainty}
        for name, node in self.nodes.probabilities.items():
            maps[_("Probability of {name}").format(name=name)] = node
        self._overlays = {**maps, _("Scan alone"): None}
        combo = self.ui.overlayComboBox
        chosen = combo.currentText
        combo.clear()
        combo.addItems(list(self._overlays))
        combo.setCurrentIndex(max(0, combo.findText(chosen)))

    def showOverlay(self) -> None:
        """Lay the chosen map over the scan."""
        node = self._overlays.get(self.ui.overlayComboBox.currentText)
        if node is None or node.GetScene() is None:
            slicer.util.setSliceViewerLayers(foreground=None)
        else:
            slicer.util.setSliceViewerLayers(foreground=node, foregroundOpacity=OVERLAY_OPACITY)

    def _fillSlices(self, caseID: str) -> None:
        self._slicesOf = caseID
        items = self.ui.slicesList
        items.clear()
        if self.nodes.doubt is None:
            return
        for k, voxels in uncertain_slices(self.nodes.doubt):
            item = qt.QListWidgetItem(
                _("slice {index}: {count} doubtful voxels").format(index=k + 1, count=round(voxels))
            )
            item.setData(qt.Qt.UserRole, k)
            items.addItem(item)

    def jump(self, k) -> None:
        """Move the views to a slice of the shown case."""
        with self.desk.attempt(waitCursor=False):
            views = self.desk.panel("AnnotatePanel").views
            views.jumpToSlice(self.logic.project.image_node(self.desk.shown), int(k))

    def show3D(self, on: bool) -> None:
        """Show the shown result in 3D, or hide it."""
        if self.nodes is None or self.nodes.segmentation.GetScene() is None:
            self.showResult(self.desk.shown)
        with self.desk.attempt():
            segmentation = self.nodes.segmentation
            if on:
                segmentation.CreateClosedSurfaceRepresentation()
                segmentation.GetDisplayNode().SetVisibility3D(True)
                slicer.util.resetThreeDViews()
            else:
                segmentation.RemoveClosedSurfaceRepresentation()

    def correct(self, isSure: bool = False) -> None:
        """Copy the shown result into the annotation, and open the panel to paint on it; asks where a label is."""
        caseID = self.desk.shown
        question = _("'{name}' has a complete label already. Put the result in its place? The label's file stays.")
        hasLabel = self.desk.situation().row(caseID).has_reference
        if hasLabel and not isSure and not ask(question.format(name=caseID)):
            return
        with self.desk.attempt():
            panel = self.desk.panel("AnnotatePanel")
            panel.editor.saveStateForUndo()
            nodes = self.logic.startCorrection(caseID)
            if self.nodes is not None and self.nodes.segmentation.GetDisplayNode() is not None:
                self.nodes.segmentation.GetDisplayNode().SetVisibility(False)
            panel.showNodes(nodes)
            self.desk.openPanel("AnnotatePanel")
        self.desk.refresh()

    # Showing ---------------------------------------------------------------------------------------------------------

    def refresh(self, now) -> None:
        actions = panel_state.results_actions(now)
        actions["exportScoresButton"] = panel_state.Action(bool(self.scores.rows), _("Measure first."))
        isShown = self.nodes is not None and self.nodes.segmentation.GetScene() is not None
        actions["overlayComboBox"] = panel_state.Action(isShown, "" if isShown else _("Show a result first."))
        if isShown:  # that of a volume outside the cohort, too
            actions["show3DButton"] = panel_state.Action(True)
        self.ui.progressBar.visible = now.predicting
        self.enable(actions)
        self._isFilling = True
        self._fillModels(now)
        self._fillRanking(now)
        self._isFilling = False
        if self._slicesOf != now.shown:
            self.ui.slicesList.clear()
            self._slicesOf = None

    def _fillModels(self, now) -> None:
        items = self.ui.modelList
        wanted = [(str(card.path), run_texts.card_text(card)) for card in now.cards]
        shown = [(items.item(row).data(qt.Qt.UserRole), items.item(row).text()) for row in range(items.count)]
        if wanted != shown:
            items.clear()
            for card, (path, text) in zip(now.cards, wanted, strict=True):
                item = qt.QListWidgetItem(text)
                item.setData(qt.Qt.UserRole, path)
                item.setToolTip(run_texts.card_tip(card))
                items.addItem(item)
            fitHeight(items, least=50, most=170)
        for row, card in enumerate(now.cards):
            items.item(row).setSelected(now.card is not None and card.path == now.card.path)

    def _fillRanking(self, now) -> None:
        ranking = self.logic.ranking() if now.is_open else []
        if ranking == self._ranked:
            return
        self._ranked = ranking
        table = self.ui.rankingTable
        table.setRowCount(len(ranking))
        for row, (caseID, score) in enumerate(ranking):
            table.setItem(row, 0, qt.QTableWidgetItem(caseID))
            table.setItem(row, 1, qt.QTableWidgetItem(f"{score:.3f}"))
            table.resizeRowToContents(row)

    def onCohortChanged(self) -> None:
        self.scores.forget()
        self.desk.outside = None
        self.job = self.nodes = self._volumeToShow = None
        self.ui.slicesList.clear()
        self.ui.stageLabel.text = ""

    def onSceneStartClose(self) -> None:
        self.nodes = self._volumeToShow = None

    def cleanup(self) -> None:
        self.scores.forget()
