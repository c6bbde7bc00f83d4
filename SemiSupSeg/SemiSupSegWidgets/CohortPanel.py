"""Panel *Cohort*: the scans, what is annotated on them and what is wrong with them."""

from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

from SemiSupSegLib.cohort_lint import Finding
from SemiSupSegLib.errors import SemiSupSegError
from SemiSupSegLib.slicer_bridge import case_texts, panel_state
from SemiSupSegLib.slicer_bridge.console_tasks import lint_task

from .AddFolderDialog import AddFolderDialog
from .CloseGuard import askAboutRuns
from .Conflicts import resolveConflicts
from .DropFilter import DropFilter
from .ErrorBox import ask, choose, showError
from .Panel import Panel, fitHeight
from .sampleCohort import makeSampleCohort

ROLES = ("train", "validation", "test")

ICONS = {
    "error": qt.QStyle.SP_MessageBoxCritical,
    "warning": qt.QStyle.SP_MessageBoxWarning,
    "done": qt.QStyle.SP_DialogApplyButton,
}


class CohortPanel(Panel):
    """The case table and what changes it."""

    def __init__(self, desk):
        super().__init__(desk)
        self._findings: tuple[Finding, ...] = ()
        self._findingsOf = None
        self._task = None
        self._isFilling = False
        self._filled = []
        ui = self.ui
        ui.newButton.connect("clicked(bool)", lambda checked=False: self.begin())
        ui.openButton.connect("clicked(bool)", lambda checked=False: self.choose())
        ui.saveButton.connect("clicked(bool)", lambda checked=False: self.save())
        ui.sampleButton.connect("clicked(bool)", lambda checked=False: self.chooseSample())
        ui.addFilesButton.connect("clicked(bool)", lambda checked=False: self.chooseFiles())
        ui.addFolderButton.connect("clicked(bool)", lambda checked=False: self.chooseFolder())
        ui.showButton.connect("clicked(bool)", lambda checked=False: self.showSelected())
        ui.removeButton.connect("clicked(bool)", lambda checked=False: self.removeSelected())
        ui.checkButton.connect("clicked(bool)", lambda checked=False: self.check())
        self._menu = qt.QMenu(ui.addFromSceneButton)
        ui.addFromSceneButton.setMenu(self._menu)
        self._menu.connect("aboutToShow()", self._fillMenu)
        ui.roleComboBox.addItem(_("Role…"))
        for role in ROLES:
            ui.roleComboBox.addItem(case_texts.role_text(role), role)
        ui.roleComboBox.connect("activated(int)", self.onRoleChosen)
        ui.progressBar.hide()
        ui.findingsList.hide()
        ui.findingsList.connect("itemDoubleClicked(QListWidgetItem*)", self.onFindingDoubleClicked)
        table = ui.caseTable
        table.setColumnCount(case_texts.CASE_COLUMNS)
        table.setHorizontalHeaderLabels(case_texts.case_headers())
        table.verticalHeader().hide()
        table.setTextElideMode(qt.Qt.ElideMiddle)  # names mostly differ at their ends
        header = table.horizontalHeader()
        header.setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        header.setSectionResizeMode(0, qt.QHeaderView.Stretch)
        header.setResizeContentsPrecision(0)  # widths follow the rows that are seen
        header.setMinimumSectionSize(40)
        header.setDefaultAlignment(qt.Qt.AlignLeft)
        table.connect("itemSelectionChanged()", self.onSelectionChanged)
        table.connect("cellDoubleClicked(int,int)", lambda row, column: self.show(table.item(row, 0).text()))
        self._dropFilter = DropFilter(self.onFilesDropped)
        table.viewport().installEventFilter(self._dropFilter)
        table.viewport().setAcceptDrops(True)

    # A cohort --------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Ask for a folder, and begin a cohort in it."""
        folder = qt.QFileDialog.getExistingDirectory(
            slicer.util.mainWindow(), _("Choose an empty folder for the cohort"), self._lastFolder()
        )
        if not folder:
            return
        if (Path(folder) / "cohort.json").is_file() and not ask(
            _("There is a cohort in this folder already. Open it?")
        ):
            return
        self.open(folder)

    def choose(self) -> None:
        """Ask for a cohort, and open it."""
        path = qt.QFileDialog.getOpenFileName(
            slicer.util.mainWindow(), _("Choose a cohort"), self._lastFolder(), "Cohort (cohort.json *.json)"
        )
        if path:
            self.open(path)

    def open(self, path) -> None:
        """Open a cohort, or begin one; asks what is to become of what runs for the one that is open."""
        answer = askAboutRuns(self.logic, _("Don't open"))
        if answer == "stay":
            return
        self.desk.steps.cancel()  # a result of the cohort before isn't one of the next
        before, shown = self.logic.isOpen and self.logic.project, self.desk.shown
        with self.desk.attempt():
            if before:
                self.logic.hideCurrentCase()
            project = self.logic.openCohort(path, keepRunning=answer == "keep")
            resolveConflicts(self.desk, self.logic.conflicts())  # a person's own nodes stay when a cohort is left
            slicer.app.settings().setValue("SemiSupSeg/LastFolder", str(project.folder))
        if before and self.logic.project is before:  # it couldn't be opened
            if shown:
                self.show(shown)
            return
        self.desk.selected, self.desk.card = (), None
        self.desk.refresh(cards=True)

    def save(self) -> None:
        """Write everything now."""
        with self.desk.attempt():
            self.logic.saveCohort()
        self.desk.refresh()

    def chooseSample(self) -> None:
        """Ask for a folder, and make the sample cohort in it."""
        folder = qt.QFileDialog.getExistingDirectory(
            slicer.util.mainWindow(), _("Choose a folder for the sample"), self._lastFolder()
        )
        if folder:
            with self.desk.attempt():
                path = makeSampleCohort(Path(folder) / "SemiSupSeg-sample")
                self.open(path)

    def _lastFolder(self) -> str:
        return slicer.util.settingsValue("SemiSupSeg/LastFolder", str(Path.home()))

    # Cases -----------------------------------------------------------------------------------------------------------

    def _fillMenu(self) -> None:
        self._menu.clear()
        volumes = self.desk.otherVolumes()
        for node in volumes:
            action = self._menu.addAction(node.GetName())
            action.connect("triggered()", lambda node=node: self.addNodes([node]))
        if len(volumes) > 1:
            self._menu.addSeparator()
            self._menu.addAction(_("All of them")).connect("triggered()", lambda: self.addNodes(volumes))

    def addNodes(self, volumeNodes) -> None:
        """Copy volumes into the cohort, each with the segmentation that was made on it."""
        segmentations = {node.GetID(): segmentationOf(node) for node in volumeNodes}
        painted = [node.GetName() for node in segmentations.values() if node is not None]
        kind = askWhatIsPainted(painted) if painted else "none"
        if not kind:
            return
        with self.desk.attempt():
            for node in volumeNodes:
                segmentation = segmentations[node.GetID()]
                caseID = self.logic.addCase(
                    node,
                    scribbleSegmentationNode=segmentation if kind == "scribble" else None,
                    labelSegmentationNode=segmentation if kind == "label" else None,
                )
                if node is self.desk.outside:  # the views show it already, and the buttons are to mean it now
                    self.show(caseID)
        self.desk.refresh()

    def chooseFiles(self) -> None:
        """Ask for files, and add them."""
        paths = qt.QFileDialog.getOpenFileNames(
            slicer.util.mainWindow(),
            _("Choose scans"),
            self._lastFolder(),
            "Volumes (*.nrrd *.nhdr *.nii *.nii.gz *.mha *.mhd *.mgz *.gipl)",
        )
        if paths:
            self.addFiles(list(paths))

    def chooseFolder(self) -> None:
        """Ask for a folder, and for those of its labels and scribbles."""
        dialog = AddFolderDialog(self._lastFolder())
        if dialog.exec_():
            values = {"label_values": dialog.labelValues, "scribble_values": dialog.scribbleValues}
            self.addFiles(dialog.images, dialog.labels, dialog.scribbles, **values)

    def addFiles(self, images, labels=None, scribbles=None, **values) -> None:
        """Add scans from files, and annotations to those that lack them."""
        with self.desk.attempt():
            self.logic.addFiles(images, labels, scribbles, **values)
        self.desk.refresh()

    def onFilesDropped(self, paths) -> None:
        """Files and folders were dropped on the table."""
        if not self.logic.isOpen:
            self._openDropped(paths)
            return
        for path in [path for path in paths if Path(path).is_dir()]:
            self.addFiles(path)
        files = [path for path in paths if Path(path).is_file()]
        if files:
            self.addFiles(files)

    def _openDropped(self, paths) -> None:
        """Without a cohort, one may be dropped, or the folder to begin one in."""
        with self.desk.attempt():
            path = Path(paths[0])
            if len(paths) > 1 or not (path.is_dir() or path.suffix == ".json"):
                raise SemiSupSegError(
                    _("No cohort is open that could take these files."), _("Begin a cohort, then drop them again.")
                )
            isNew = path.is_dir() and not (path / "cohort.json").is_file()
            if not isNew or ask(_("Begin a cohort in the folder '{folder}'?").format(folder=path)):
                self.open(path)

    def removeSelected(self) -> None:
        """Take the selected cases out of the cohort."""
        chosen = self.desk.selected
        text = _("Take {names} out of the cohort? The files stay where they are.").format(names=", ".join(chosen))
        if ask(text):
            with self.desk.attempt():
                for caseID in chosen:
                    if caseID == self.desk.shown:
                        self.logic.hideCurrentCase()
                    self.logic.removeCase(caseID)
            self.desk.selected = ()
            self.desk.refresh()

    def onRoleChosen(self, index: int) -> None:
        role = self.ui.roleComboBox.itemData(index)
        self.ui.roleComboBox.setCurrentIndex(0)
        if role:
            with self.desk.attempt():
                for caseID in self.desk.selected:
                    self.logic.setCaseRole(caseID, role)
            self.desk.refresh()

    def showSelected(self) -> None:
        if len(self.desk.selected) == 1:
            self.show(self.desk.selected[0])

    def show(self, caseID: str) -> None:
        """Show a case in the views."""
        self.desk.panel("AnnotatePanel").showCase(caseID)

    def onSelectionChanged(self) -> None:
        if not self._isFilling:
            rows = sorted({index.row() for index in self.ui.caseTable.selectionModel().selectedRows()})
            self.desk.selected = tuple(self.ui.caseTable.item(row, 0).text() for row in rows)
            self.desk.refresh()

    # Checking --------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Let a process of its own read every file of the cohort."""
        with self.desk.attempt(waitCursor=False):
            self.logic.saveCohort()
            self._task = lint_task(self.logic.project.path)
            self.desk.checking.add("cohort")
            self.ui.progressBar.setValue(0)
            self.ui.progressBar.show()
        self.desk.refreshNow()

    def onTick(self, events: list) -> None:
        if self._task is None:
            return
        self._task.poll()
        answer = self._task.answer or {}
        self.ui.progressBar.setValue(round(100 * answer.get("fraction", 0.0)))
        if self._task.is_running:
            return
        task, self._task = self._task, None
        self.desk.checking.discard("cohort")
        self.ui.progressBar.hide()
        if "findings" in answer:
            self._findings = tuple(
                Finding(each["case"], each["severity"], each["message"], each["remedy"]) for each in answer["findings"]
            )
            self._findingsOf = self.logic.project.path
            self._showFindings()
        elif not task.was_cancelled:
            error = task.error or SemiSupSegError(_("The cohort couldn't be checked."), _("The details say why."))
            showError(error, "\n".join(task.lines))
        self.desk.refresh()

    def _showFindings(self) -> None:
        items = self.ui.findingsList
        items.clear()
        for finding in self._findings:
            item = qt.QListWidgetItem(case_texts.finding_text(finding))
            item.setIcon(self._icon(finding.severity))
            item.setData(qt.Qt.UserRole, finding.case_id)
            items.addItem(item)
        if not self._findings:
            items.addItem(qt.QListWidgetItem(self._icon("done"), _("No problem was found.")))
        fitHeight(items, least=30, most=180)
        items.show()

    def onFindingDoubleClicked(self, item) -> None:
        caseID = item.data(qt.Qt.UserRole)
        if caseID:
            self.show(caseID)

    # Showing ---------------------------------------------------------------------------------------------------------

    def _icon(self, name: str):
        return slicer.app.style().standardIcon(ICONS[name]) if name in ICONS else qt.QIcon()

    def refresh(self, now) -> None:
        self.enable(panel_state.cohort_actions(now))
        if now.is_open:
            folder = self.logic.project.folder
            self.ui.cohortLabel.text = _("{name}: {count} cases, in {folder}").format(
                name=self.logic.project.cohort.name, count=len(now.rows), folder=case_texts.short_path(folder)
            )
            self.ui.cohortLabel.toolTip = str(folder)
        else:
            self.ui.cohortLabel.text = _("No cohort is open.")
        if not now.is_open or self._findingsOf != self.logic.project.path:
            self._findings = ()
            self.ui.findingsList.hide()
        self._isFilling = True
        table = self.ui.caseTable
        table.setRowCount(len(now.rows))
        wanted = [(row, row.id == now.shown, self._findings) for row in now.rows]
        for index, each in enumerate(wanted):
            # Filling all of a large table takes a third of a second, and a run says something of a case at a time.
            if index >= len(self._filled) or each != self._filled[index]:
                self._fillRow(index, *each)
        if len(wanted) != len(self._filled):
            fitHeight(table, least=120, most=330)
        self._filled = wanted
        self._isFilling = False

    def _fillRow(self, index: int, row, isShown: bool, findings) -> None:
        table = self.ui.caseTable
        tip = case_texts.status_tip(row, findings)
        for column, text in enumerate(case_texts.case_cells(row, findings)):
            item = table.item(index, column)
            if item is None:
                item = qt.QTableWidgetItem()
                table.setItem(index, column, item)
            item.setText(text)
            item.setToolTip(tip)
        name = table.item(index, 0)
        font = name.font()
        font.setBold(isShown)
        name.setFont(font)
        name.setIcon(self._icon(case_texts.status_icon(row, findings)))
        table.resizeRowToContents(index)

    def onCohortChanged(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
            self.desk.checking.discard("cohort")
            self.ui.progressBar.hide()

    def onSceneEndClose(self) -> None:
        self.desk.refresh(cards=True)

    def cleanup(self) -> None:
        self.ui.caseTable.viewport().removeEventFilter(self._dropFilter)
        if self._task is not None:
            self._task.cancel()


def askWhatIsPainted(names) -> str:
    """What segmentations that come in with their volumes are: "scribble", "label" or "none"; empty if cancelled."""
    strokes = _("Strokes")
    return choose(
        _("What is painted in {names}?").format(names=", ".join(f"'{name}'" for name in names)),
        _("In strokes, what isn't painted is unknown; in a complete label it is background."),
        {strokes: "scribble", _("A complete label"): "label", _("Leave it out"): "none", qt.QMessageBox.Cancel: ""},
        default=strokes,
        escape=qt.QMessageBox.Cancel,
        inTests="scribble",
    )


def segmentationOf(volumeNode):
    """The segmentation that was painted on a volume, None if none or several were."""
    role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
    made = [
        node
        for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
        if node.GetNodeReference(role) is volumeNode and node.GetSegmentation().GetNumberOfSegments()
    ]
    return made[0] if len(made) == 1 else None
