"""Panel *Setup*: what this computer has, what it lacks, where to compute."""

import inspect
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

from SemiSupSegLib.errors import ErrorCode, SemiSupSegError
from SemiSupSegLib.slicer_bridge import computer_texts, panel_state
from SemiSupSegLib.slicer_bridge.compute import Compute
from SemiSupSegLib.slicer_bridge.console_tasks import ConsoleTask, install_steps, installation_error, probe_task

from .ErrorBox import showError
from .Panel import Panel, fitHeight


class SetupPanel(Panel):
    """Nothing is looked at, installed or imported before somebody asks for it."""

    def __init__(self, desk):
        super().__init__(desk)
        self._task: ConsoleTask | None = None
        self._steps: list[list[str]] = []
        self.ui.checkButton.connect("clicked(bool)", lambda checked=False: self.check())
        self.ui.installButton.connect("clicked(bool)", lambda checked=False: self.install())
        self.ui.cancelButton.connect("clicked(bool)", lambda checked=False: self.cancel())
        self.ui.pythonBrowseButton.connect("clicked(bool)", lambda checked=False: self.choosePython())
        self.ui.pythonDefaultButton.connect("clicked(bool)", lambda checked=False: self.setPython(""))
        self.ui.deviceComboBox.connect("activated(int)", self.onDeviceChosen)
        self.ui.packagesTable.horizontalHeader().setSectionResizeMode(qt.QHeaderView.Stretch)
        self.ui.packagesTable.verticalHeader().hide()
        self.ui.logTextEdit.hide()
        self._shownReport = False
        self._problem = ""

    # Looking ---------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Look at this computer, in a process of its own."""
        self._problem = _("This Python can't say what it has.")
        with self.desk.attempt(waitCursor=False):
            folder = self.logic.project.folder if self.logic.isOpen else Path.home()
            self._start(probe_task(Compute(self.desk.python), folder), checking=True)
            self._problem = ""

    @property
    def _isChecking(self) -> bool:
        return "computer" in self.desk.checking

    def _start(self, task: ConsoleTask, checking: bool) -> None:
        self._task = task
        self.desk.installing = not checking
        (self.desk.checking.add if checking else self.desk.checking.discard)("computer")
        self.desk.refreshNow()

    def onTick(self, events: list) -> None:
        self.pollTask()

    def pollTask(self) -> None:
        """Read what the running task says; also called while no cohort is open."""
        if self._task is None:
            return
        lines = self._task.poll()
        if self.desk.installing and lines:
            self.ui.logTextEdit.appendPlainText("\n".join(lines))
        if self._task.is_running:
            return
        task, self._task = self._task, None
        if self._isChecking:
            self._onChecked(task)
        else:
            self._onInstalled(task)

    def _onChecked(self, task: ConsoleTask) -> None:
        self.desk.checking.discard("computer")
        if task.answer is not None and "ready" in task.answer:
            self.desk.report = task.answer
        elif not task.was_cancelled:
            self.desk.report = None
            said = next((line for line in reversed(task.lines) if line.strip()), "")
            self._problem = _("This Python can't say what it has.") + f" {said}".rstrip()
            remedy = _("Choose another compute Python, or Slicer's own.")
            showError(SemiSupSegError(self._problem, remedy, code=ErrorCode.PACKAGES_MISSING), "\n".join(task.lines))
        self._shownReport = False
        self.desk.refresh()

    # Installing ------------------------------------------------------------------------------------------------------

    def install(self) -> None:
        """Install what is missing, then look again: only an import in a process of its own is a proof."""
        with self.desk.attempt(waitCursor=False):
            lacking = [each["name"] for each in self.desk.report["packages"] if each["problem"]]
            compute = Compute(self.desk.python)
            constraints = Path(slicer.app.temporaryPath) / "SemiSupSeg-constraints.txt"
            torchArguments = None
            if "torch" in lacking and compute.is_slicers_own:
                torchArguments = torchInstallArguments()
            self._steps = install_steps(compute, lacking, constraints, torchArguments)
            self.ui.logTextEdit.clear()
            self.ui.logTextEdit.show()
            self._next()

    def _next(self) -> None:
        step = self._steps.pop(0)
        self.ui.logTextEdit.appendPlainText("> " + " ".join(step))
        self._start(ConsoleTask(step, Compute(self.desk.python).environment), checking=False)

    def _onInstalled(self, task: ConsoleTask) -> None:
        self.desk.installing = False
        if task.was_cancelled:
            self._steps = []
            self.ui.logTextEdit.appendPlainText(_("Cancelled; what was installed before stays."))
        elif task.exit_code:
            self._steps = []
            showError(installation_error(task.lines), "\n".join(task.lines))
        elif self._steps:
            self._next()
            return
        self.check()

    def cancel(self) -> None:
        """End an installation, or a look at this computer."""
        self._steps = []
        if self._task is not None:
            self._task.cancel()

    # Choosing --------------------------------------------------------------------------------------------------------

    def choosePython(self) -> None:
        """Ask for another interpreter."""
        path = qt.QFileDialog.getOpenFileName(
            slicer.util.mainWindow(), _("Choose a Python with torch"), self.desk.python or str(Path.home())
        )
        if path:
            self.setPython(path)

    def setPython(self, path: str) -> None:
        """Compute with another interpreter; Slicer's own if empty."""
        self.desk.python = path
        self.check()

    def onDeviceChosen(self, index: int) -> None:
        self.desk.device = self.ui.deviceComboBox.itemData(index) or "auto"

    def refresh(self, now) -> None:
        report = self.desk.report
        self.enable(panel_state.setup_actions(now))
        self.ui.progressBar.visible = self._isChecking or self.desk.installing
        self.ui.stateLabel.text = (
            _("Looking…") if self._isChecking else self._problem or computer_texts.computer_text(report)
        )
        self.ui.cpuLabel.text = computer_texts.cpu_text(report)
        self.ui.cpuLabel.visible = bool(self.ui.cpuLabel.text)
        self.ui.adviceLabel.text = computer_texts.advice_text(report)
        self.ui.adviceLabel.visible = bool(self.ui.adviceLabel.text)
        self.ui.pythonLineEdit.text = self.desk.python or _("Slicer's own")
        self.ui.packagesTable.visible = report is not None
        if not self._shownReport:
            self._shownReport = True
            self._showReport(report)

    def _showReport(self, report) -> None:
        devices = [] if report is None else report["devices"]
        combo = self.ui.deviceComboBox
        combo.clear()
        combo.addItem(_("Automatic: the best that works"), "auto")
        for device in devices:
            combo.addItem(computer_texts.device_text(device), device["key"])
        combo.setCurrentIndex(max(0, combo.findData(self.desk.device)))
        cells = [] if report is None else computer_texts.package_cells(report)
        self.ui.packagesTable.setRowCount(len(cells))
        for row, texts in enumerate(cells):
            for column, text in enumerate(texts):
                self.ui.packagesTable.setItem(row, column, qt.QTableWidgetItem(text))
        self.ui.packagesTable.resizeRowsToContents()
        fitHeight(self.ui.packagesTable, least=60, most=300)

    def cleanup(self) -> None:
        self.cancel()


def torchInstallArguments():
    """Arguments of ``python -m`` with which the PyTorch extension would install torch.

    The extension's own call imports torch inside Slicer and blocks, so only its choice of arguments is taken. It is
    not a public function: whatever has become of it, there is an answer.
    """
    try:
        import PyTorchUtils
    except ImportError:
        raise SemiSupSegError(
            _("The extension PyTorch isn't installed, which knows the torch that fits this computer."),
            _("Install it in the Extensions Manager and restart Slicer, or choose another compute Python."),
            code=ErrorCode.PACKAGES_MISSING,
        ) from None
    method = getattr(PyTorchUtils.PyTorchUtilsLogic, "_getPipInstallArguments", None)
    if method is None:
        return None
    parameters = inspect.signature(method).parameters
    known = {"forceComputationBackend": None, "torchVersionRequirement": None, "torchvisionVersionRequirement": None}
    found = PyTorchUtils.PyTorchUtilsLogic()._getPipInstallArguments(
        **{name: value for name, value in known.items() if name in parameters}
    )
    return ["light_the_torch", *([found] if isinstance(found, str) else list(found))]
