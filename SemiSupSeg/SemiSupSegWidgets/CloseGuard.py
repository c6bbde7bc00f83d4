"""Quitting Slicer while something trains: ask first."""

import qt
import slicer
from slicer.i18n import tr as _


class CloseGuard(qt.QObject):
    """Event filter of the main window.

    Parameters
    ----------
    logic : SemiSupSegLogic

    Attributes
    ----------
    keepRunning : bool
        Whether the person wants the training to go on. Obeyed when Slicer really quits: it may ask, too, and be told
        to stay.
    """

    def __init__(self, logic):
        qt.QObject.__init__(self)
        self.keepRunning = False
        self._logic = logic

    def eventFilter(self, watched, event) -> bool:
        """Ask before the main window closes; True keeps it open."""
        if event.type() != qt.QEvent.Close or not self._logic.isOpen or self._logic.training is None:
            return False
        answer = "stop" if slicer.app.testingEnabled() else self._ask()
        if answer == "stay":
            event.ignore()
            return True
        self.keepRunning = answer == "keep"
        return False

    @staticmethod
    def _ask() -> str:
        box = qt.QMessageBox(slicer.util.mainWindow())
        box.setIcon(qt.QMessageBox.Question)
        box.setWindowTitle(_("Semi-Supervised Segmentation"))
        box.setText(_("A training is running."))
        box.setInformativeText(
            _("It can go on without Slicer, and is found again when the cohort is opened; or stop, with a checkpoint.")
        )
        keep = box.addButton(_("Keep training"), qt.QMessageBox.AcceptRole)
        stop = box.addButton(_("Stop with a checkpoint"), qt.QMessageBox.DestructiveRole)
        box.addButton(_("Don't quit"), qt.QMessageBox.RejectRole)
        box.setDefaultButton(keep)
        box.exec_()
        clicked = box.clickedButton()
        return "keep" if clicked == keep else "stop" if clicked == stop else "stay"
