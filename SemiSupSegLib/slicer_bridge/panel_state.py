"""What the panels decide, without Qt: which button works, and why another doesn't.

A `Situation` is what the panels know at one moment; `cohort_actions` and its like say of every button, by its name in
the panel's ``.ui`` file, whether it can work now and, if not, why.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..runs import State
from .case_table import CaseRow
from .shelf import Card
from .translation import tr as _


@dataclass(frozen=True)
class Situation:
    """What the panels know at one moment.

    Parameters
    ----------
    is_open : bool
        Whether a cohort is open.
    rows : tuple of CaseRow
        The case table.
    selected : tuple of str
        IDs of the cases selected in the table.
    shown : str
        ID of the case in the views; empty if none is.
    outside : str
        Name of a volume that is no case, but whose result is in the views; empty if that of none is.
    classes : int
        Classes of the cohort, without the background.
    class_row : int
        Row of the selected class, that of the background last; -1 if none is selected.
    volumes : int
        Volumes in the scene that are no case.
    training : State or None
        How the running training stands; None if none runs.
    predicting : bool
    cancelling_training, cancelling_prediction : bool
        Whether the one that runs was asked to end.
    has_report : bool
        Whether a training was started or found since the cohort was opened.
    checking : frozenset of str
        What is being looked at: "computer", "cohort", "results".
    installing : bool
    python : str
        Which Python computes: "own" (Slicer's), "other", or "fixed" by an environment variable.
    ready : bool or None
        Whether the computer can train; None if nobody looked.
    cards : tuple of Card
        Runs and models.
    card : Card or None
        The selected one.
    """

    is_open: bool = False
    rows: tuple[CaseRow, ...] = ()
    selected: tuple[str, ...] = ()
    shown: str = ""
    outside: str = ""
    classes: int = 1
    class_row: int = -1
    volumes: int = 0
    training: State | None = None
    predicting: bool = False
    cancelling_training: bool = False
    cancelling_prediction: bool = False
    has_report: bool = False
    checking: frozenset[str] = frozenset()
    installing: bool = False
    python: str = "own"
    ready: bool | None = None
    cards: tuple[Card, ...] = ()
    card: Card | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a worker runs."""
        return self.training is not None or self.predicting

    @property
    def has_strokes(self) -> bool:
        """Whether a case that trains is annotated."""
        return any(row.role == "train" and row.labeled and row.annotation != "none" for row in self.rows)

    @property
    def has_annotation(self) -> bool:
        """Whether any case is annotated, so that the classes are settled."""
        return any(row.annotation != "none" for row in self.rows)

    @property
    def has_model(self) -> bool:
        """Whether anything can predict."""
        return any(card.model is not None for card in self.cards)

    def row(self, case_id: str) -> CaseRow | None:
        """The row of a case."""
        return next((row for row in self.rows if row.id == case_id), None)


@dataclass(frozen=True)
class Action:
    """Whether a button can work now; its tooltip if it can't."""

    enabled: bool
    why_not: str = ""


Actions = dict[str, Action]


def _unless(*reasons: tuple[bool, str]) -> Action:
    """Works unless a condition holds; the first that does is the reason."""
    return next((Action(False, text) for condition, text in reasons if condition), Action(True))


def setup_actions(now: Situation) -> Actions:
    """The buttons of the panel *Setup*."""
    at_work = (
        (now.installing, _("Packages are being installed.")),
        ("computer" in now.checking, _("This computer is being checked.")),
    )
    busy = (now.is_busy, _("A training or prediction is running."))
    fixed = (now.python == "fixed", _("The environment variable SEMISUPSEG_PYTHON chooses it."))
    return {
        "checkButton": _unless(*at_work),
        "installButton": _unless(
            *at_work,
            (now.is_busy, _("A training or prediction uses the packages; wait until it is over, or cancel it.")),
            (now.ready is None, _("Check this computer first.")),
            (now.ready is True, _("Everything that is needed is installed.")),
        ),
        "cancelButton": _unless(
            (not now.installing and "computer" not in now.checking, _("Nothing is being installed or checked."))
        ),
        "pythonBrowseButton": _unless(*at_work, busy, fixed),
        "pythonDefaultButton": _unless(
            *at_work, busy, fixed, (now.python == "own", _("Slicer's own Python is chosen already."))
        ),
    }


def cohort_actions(now: Situation) -> Actions:
    """The buttons of the panel *Cohort*."""
    closed = (not now.is_open, _("Open a cohort, or begin a new one."))
    busy = (now.predicting, _("A prediction of the open cohort runs; wait until it is over, or cancel it."))
    empty = (not now.rows, _("The cohort has no case yet."))
    unselected = (not now.selected, _("Select a case in the table."))
    return {
        "newButton": _unless(busy),
        "openButton": _unless(busy),
        "sampleButton": _unless(busy),
        "saveButton": _unless(closed),
        "addFromSceneButton": _unless(closed, (not now.volumes, _("No volume in the scene that isn't a case yet."))),
        "addFilesButton": _unless(closed),
        "addFolderButton": _unless(closed),
        "showButton": _unless(
            closed, empty, unselected, (len(now.selected) > 1, _("Select one case only; it is shown in the views."))
        ),
        "removeButton": _unless(closed, empty, unselected),
        "roleComboBox": _unless(closed, empty, unselected),
        "checkButton": _unless(closed, empty, ("cohort" in now.checking, _("The cohort is being checked."))),
    }


def annotate_actions(now: Situation) -> Actions:
    """The buttons of the panel *Annotate*."""
    closed = (not now.is_open, _("Open a cohort, or begin a new one."))
    empty = (not now.rows, _("The cohort has no case yet."))
    settled = (
        now.has_annotation,
        _("Something is annotated already, so classes can be added and colored, but not removed or renamed."),
    )
    unshown = (not now.shown, _("Choose a case first."))
    unselected = (now.class_row < 0, _("Select a class in the table."))
    order = [row.id for row in now.rows]
    return {
        "addClassButton": _unless(closed),
        "removeClassButton": _unless(
            closed,
            settled,
            unselected,
            (now.class_row >= now.classes, _("There is always a background.")),
            (now.classes == 1, _("A cohort needs at least one class.")),
        ),
        "colorClassButton": _unless(closed, unselected),
        "classesFromSegmentationButton": _unless(closed, settled, unshown),
        "caseComboBox": _unless(closed, empty),
        "previousCaseButton": _unless(closed, empty, (order[:1] == [now.shown], _("This is the first case."))),
        "nextCaseButton": _unless(closed, empty, (order[-1:] == [now.shown], _("This is the last case."))),
        "superpixelsButton": _unless(closed, unshown),
    }


def train_actions(now: Situation) -> Actions:
    """The buttons of the panel *Train*."""
    idle = (now.training is None, _("No training is running."))
    ending = (now.cancelling_training, _("It is saving a checkpoint and ends then."))
    paused = (now.training == State.PAUSED, _("The training is paused already."))
    return {
        "startButton": _unless(
            (not now.is_open, _("Open a cohort, or begin a new one.")),
            (not now.rows, _("Add scans to the cohort first.")),
            (not now.has_strokes, _("Scribble on a training case first, background included.")),
            (now.training is not None, _("A training is running.")),
            (now.predicting, _("A prediction is running; wait until it is over, or cancel it.")),
            (now.installing, _("Packages are being installed.")),
            (now.ready is False, _("This computer isn't ready to train; the panel Setup says what is missing.")),
        ),
        "pauseButton": _unless(idle, ending, paused),
        "continueButton": _unless(idle, ending, (now.training != State.PAUSED, _("The training isn't paused."))),
        "cancelButton": _unless(idle, ending),
        "previewButton": _unless(
            idle, ending, paused, (not now.shown, _("Show a case first; it is the one previewed."))
        ),
        "reportButton": _unless((not now.has_report, _("No training was started since the cohort was opened."))),
    }


def results_actions(now: Situation) -> Actions:
    """The buttons of the panel *Results*."""
    closed = (not now.is_open, _("Open a cohort, or begin a new one."))
    untrained = (not now.has_model, _("Train a model, or import one."))
    training = (now.training is not None, _("A training is running; pause doesn't free the device, cancel does."))
    predicting = (now.predicting, _("A prediction is running."))
    unready = (now.ready is False, _("This computer isn't ready; the panel Setup says what is missing."))
    busy = (closed, untrained, training, predicting, unready)
    unselected = (now.card is None, _("Select a run or model in the list."))
    modelless = (now.card is not None and now.card.model is None, _("This run has no model yet."))
    row = now.row(now.shown)
    unshown = (row is None, _("Show a case first, in the cohort's table or by the list below."))
    outside = (
        bool(now.outside),
        _("The views show the result of '{name}'; to correct it, add that volume to the cohort with it.").format(
            name=now.outside
        ),
    )
    unpredicted = (row is not None and not row.has_prediction, _("The shown case isn't predicted yet."))
    return {
        "predictShownButton": _unless(*busy, unshown),
        "predictAllButton": _unless(*busy, (not now.rows, _("The cohort has no case yet."))),
        "predictVolumeButton": _unless(*busy, (not now.volumes, _("No volume in the scene that isn't a case."))),
        "cancelPredictionButton": _unless(
            (not now.predicting, _("No prediction is running.")),
            (now.cancelling_prediction, _("It is ending already.")),
        ),
        "renameButton": _unless(closed, unselected, modelless),
        "exportButton": _unless(closed, unselected, modelless),
        "importButton": _unless(closed),
        "resumeButton": _unless(
            closed,
            unselected,
            training,
            predicting,
            (now.card is not None and not now.card.can_resume, _("Only a stopped run with a checkpoint goes on.")),
        ),
        "deleteButton": _unless(
            closed,
            unselected,
            (now.card is not None and not now.card.state.is_over, _("It is working; cancel it first.")),
            (now.predicting, _("A prediction is running, perhaps with it; wait until it is over, or cancel it.")),
        ),
        "showResultButton": _unless(closed, unshown, unpredicted),
        "show3DButton": _unless(closed, unshown, unpredicted),
        "correctButton": _unless(closed, outside, unshown, unpredicted),
        "measureButton": _unless(
            closed,
            ("results" in now.checking, _("The results are being measured.")),
            (not any(each.has_prediction for each in now.rows), _("Nothing is predicted yet.")),
            (
                not any(each.has_prediction and each.has_reference for each in now.rows),
                _("No segmented case has a complete label to be measured by; add one, or correct a result."),
            ),
        ),
    }
