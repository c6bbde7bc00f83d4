"""Quitting Slicer, or opening another cohort, while something trains or predicts: ask first."""

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
        Whether the person wants what runs to go on. Obeyed when Slicer really quits: it may ask, too, and be told
        to stay.
    """

    def __init__(self, logic):
        qt.QObject.__init__(self)
        self.keepRunning = False
        self._logic = logic

    def eventFilter(self, watched, event) -> bool:
        """Ask before the main window closes; True keeps it open."""
        if event.type() != qt.QEvent.Close or not self._logic.isOpen:
            return False
        answer = askAboutRuns(self._logic, _("Don't quit"), inTests="stop")
        if answer == "stay":
            event.ignore()
            return True
        self.keepRunning = answer == "keep"
        return False


def askAboutRuns(logic, stay: str, inTests: str = "keep") -> str:
    """What is to become of a training or prediction, now that it would be let go of.

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
    job = next((job for job in (logic.training, logic.prediction) if job is not None and job.is_attached), None)
    if job is None:
        return "keep"
    if job.task == "train":
        text = _("A training is running.")
        details = _("It can go on by itself, and is found again when the cohort is opened; or stop, with a checkpoint.")
        answers = {_("Keep training"): "keep", _("Stop with a checkpoint"): "stop", stay: "stay"}
    elif job.is_of_cohort:
        text = _("A prediction is running.")
        details = _(
            "It can go on by itself, and its results are there when the cohort is opened; or stop: the cases that are "
            "done stay segmented."
        )
        answers = {_("Keep segmenting"): "keep", _("Stop"): "stop", stay: "stay"}
    else:
        text = _("A volume that is no case is being segmented.")
        details = _("Its result belongs to this scene, so it can't go on by itself.")
        answers = {stay: "stay", _("Stop"): "stop"}
    # The first answer loses nothing.
    return choose(text, details, answers, default=next(iter(answers)), escape=stay, inTests=inTests)
