"""What the panels share: the logic, what is known at the moment, errors, and small jobs that run beside Slicer."""

import contextlib
import logging
import os
import traceback

import qt
import slicer
from slicer.i18n import tr as _

from SemiSupSegLib.errors import SemiSupSegError
from SemiSupSegLib.files import explain_os_error
from SemiSupSegLib.runs import State
from SemiSupSegLib.slicer_bridge.nodes import CASE_ATTRIBUTE, KIND_ATTRIBUTE
from SemiSupSegLib.slicer_bridge.panel_state import Situation

from .ErrorBox import showError
from .Steps import Steps

PYTHON_SETTING = "SemiSupSeg/ComputePython"
DEVICE_SETTING = "SemiSupSeg/Device"
PYTHON_VARIABLE = "SEMISUPSEG_PYTHON"
"""Environment variable that wins over the setting; for tests and for computers that many people use."""


class Desk:
    """What the panels share.

    Parameters
    ----------
    logic : SemiSupSegLogic

    Attributes
    ----------
    panels : list of Panel
    selected : tuple of str
        Cases selected in the table.
    classRow : int
        Row of the class selected in the table of classes, -1 if none is.
    outside : vtkMRMLScalarVolumeNode or None
        A volume that is no case, while its result is in the views.
    report : dict or None
        What the last look at this computer found (`doctor.Report.to_json`).
    steps : Steps
        What is being shown a little at a time.
    """

    def __init__(self, logic):
        self.logic = logic
        self.panels = []
        self.selected = ()
        self.classRow = -1
        self.outside = None
        self.card = None
        self.report = None
        self.checking = set()
        self.installing = False
        self._project = None
        self._cards = ()
        self._cardsAreStale = True
        self._running = []
        self._isPolling = False
        self._isClosing = False
        self._refreshTimer = qt.QTimer()
        self._refreshTimer.setSingleShot(True)
        self._refreshTimer.setInterval(0)
        self._refreshTimer.connect("timeout()", self.refreshNow)
        self.steps = Steps(self.attempt)
        self.logic.setComputePython(self.python)

    # Settings --------------------------------------------------------------------------------------------------------

    @property
    def python(self) -> str:
        """The interpreter that computes; empty for Slicer's own."""
        return os.environ.get(PYTHON_VARIABLE, "") or slicer.util.settingsValue(PYTHON_SETTING, "")

    @python.setter
    def python(self, path: str) -> None:
        slicer.app.settings().setValue(PYTHON_SETTING, path)
        self.logic.setComputePython(path)
        self.report = None
        self.refresh()

    @property
    def device(self) -> str:
        """Where jobs run: ``auto`` or a device's key."""
        return slicer.util.settingsValue(DEVICE_SETTING, "auto")

    @device.setter
    def device(self, key: str) -> None:
        slicer.app.settings().setValue(DEVICE_SETTING, key)

    # What is known ---------------------------------------------------------------------------------------------------

    @property
    def shown(self) -> str:
        """ID of the case in the views."""
        return self.logic.getParameterNode().currentCase if self.logic.isOpen else ""

    def situation(self) -> Situation:
        """What is known at the moment."""
        if not self.logic.isOpen:
            return Situation(
                volumes=len(self.otherVolumes()),
                checking=frozenset(self.checking),
                installing=self.installing,
                python=self._pythonKind,
                ready=self._ready,
            )
        if self._cardsAreStale:
            self._cards, self._cardsAreStale = tuple(self.logic.cards()), False
        rows = tuple(self.logic.caseRows())
        known = {row.id for row in rows}
        training = self.logic.training
        return Situation(
            is_open=True,
            rows=rows,
            selected=tuple(each for each in self.selected if each in known),
            shown=self.shown if self.shown in known else "",
            outside=self.outside.GetName() if self.outside is not None and self.outside.GetScene() else "",
            classes=len(self.logic.classes.classes),
            class_row=self.classRow,
            volumes=len(self.otherVolumes()),
            training=None if training is None else training.state,
            predicting=any(job.is_running and job.task == "predict" for job in self.logic.project.jobs),
            cancelling_training=self._isEnding("train"),
            cancelling_prediction=self._isEnding("predict"),
            checking=frozenset(self.checking),
            has_report=any(job.task == "train" for job in self.logic.project.jobs),
            installing=self.installing,
            python=self._pythonKind,
            ready=self._ready,
            cards=self._cards,
            card=next((card for card in self._cards if self.card is not None and card.path == self.card), None),
        )

    def _isEnding(self, task):
        return any(job.is_running and job.is_cancelled and job.task == task for job in self.logic.project.jobs)

    @property
    def _pythonKind(self) -> str:
        return "fixed" if os.environ.get(PYTHON_VARIABLE) else "other" if self.python else "own"

    @property
    def _ready(self):
        return None if self.report is None else bool(self.report["ready"])

    @staticmethod
    def otherVolumes() -> list:
        """Volumes of the scene that show no case and no result."""
        return [
            node
            for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
            if not node.GetAttribute(CASE_ATTRIBUTE)
            and not node.GetAttribute(KIND_ATTRIBUTE)
            and not node.GetHideFromEditors()
            and not node.IsA("vtkMRMLLabelMapVolumeNode")
        ]

    def refresh(self, cards: bool = False) -> None:
        """Let every panel show what is known, once, as soon as the current event is over."""
        self._cardsAreStale |= cards
        if not self._isClosing:
            self._refreshTimer.start()

    def refreshNow(self, cards: bool = False) -> None:
        """Let every panel show what is known, now."""
        self._cardsAreStale |= cards
        with self.attempt(waitCursor=False):
            project = self.logic.project if self.logic.isOpen else None
            if project is not self._project:
                self._project, self._running = project, []
                for panel in self.panels:
                    panel.onCohortChanged()
            now = self.situation()
            for panel in self.panels:
                panel.refresh(now)

    def panel(self, name: str):
        """The panel of a class name."""
        return next(panel for panel in self.panels if type(panel).__name__ == name)

    # Doing things ----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def attempt(self, waitCursor: bool = True):
        """What is done in it may fail: the error is shown to the person. With a wait cursor."""
        if waitCursor:
            slicer.app.setOverrideCursor(qt.Qt.WaitCursor)
        error = None
        details = ""
        try:
            yield
        except SemiSupSegError as caught:
            error = caught
            details = traceback.format_exc()
        except OSError as caught:
            error = explain_os_error(caught, _("use a file"))
            details = traceback.format_exc()
        except Exception as caught:
            error = SemiSupSegError(
                _("Something went wrong inside the software ({kind}).").format(kind=type(caught).__name__),
                _("Copy the report and send it to the developers; save your work."),
            )
            details = traceback.format_exc()
        finally:
            if waitCursor:
                slicer.app.restoreOverrideCursor()
        if error is not None:
            logging.error(details)
            showError(error, details)

    def poll(self) -> None:
        """Take in what happened since the last call; for the timer."""
        if self._isPolling or not self.logic.isOpen:  # a message box runs an event loop of its own
            return
        self._isPolling = True
        try:
            with self.attempt(waitCursor=False):
                before = self.logic.project.problem
                events = self.logic.poll(20)
                if self.logic.project.problem is not None and self.logic.project.problem is not before:
                    raise self.logic.project.problem
                for panel in self.panels:
                    panel.onTick(events)
                self._noticeEnds()
        finally:
            self._isPolling = False

    def _noticeEnds(self) -> None:
        running = [job for job in self.logic.project.jobs if job.is_running]
        states = [(job, job.state) for job in running]
        over = [job for job, state in self._running if not job.is_running]
        if states != self._running:
            self._running = states
            self.refresh(cards=bool(over))
        for job in over:
            for panel in self.panels:
                panel.onJobOver(job)
            if job.error is not None and job.state != State.CANCELLED:
                showError(job.error, job.report())

    def close(self) -> None:
        """Stop looking; the module goes."""
        self._isClosing = True
        self._refreshTimer.stop()
        self.steps.cancel()
