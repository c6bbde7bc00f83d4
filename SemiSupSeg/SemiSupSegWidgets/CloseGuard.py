"""Quitting Slicer, or opening another cohort, while something trains: ask first."""

import qt
from slicer.i18n import tr as _

from .ErrorBox import choose


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
        answer = askAboutTraining(self._logic, _("Don't quit"), inTests="stop")
        if answer == "stay":
            event.ignore()
            return True
        self.keepRunning = answer == "keep"
        return False


def askAboutTraining(logic, stay: str, inTests: str = "keep") -> str:
    """What is to become of the training, now that it would be let go of.

    Parameters
    ----------
    logic : SemiSupSegLogic
    stay : str
        Text of the button that leaves everything as it is.
    inTests : {"keep", "stop"}
        The answer where nobody is there to give one.

    Returns
    -------
    str
        "keep" (also where none runs, or it goes on by itself), "stop" or "stay".
    """
    if logic.training is None or not logic.training.is_attached:
        return "keep"
    keep, stop = _("Keep training"), _("Stop with a checkpoint")
    return choose(
        _("A training is running."),
        _("It can go on by itself, and is found again when the cohort is opened; or stop, with a checkpoint."),
        {keep: "keep", stop: "stop", stay: "stay"},
        default=keep,
        escape=stay,
        inTests=inTests,
    )
