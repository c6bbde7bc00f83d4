"""What the panels decide, without Qt: which button works, why another doesn't, and how things are said to people.

A `Situation` is what the panels know at one moment; `cohort_actions` and its like say of every button, by its name in
the panel's ``.ui`` file, whether it can work now and, if not, why.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..cohort_lint import Finding
from ..events import Event
from ..labels import LabelSchema
from ..progress import duration, size
from ..runs import State
from ..settings import SettingDescription
from ..training_settings import METHODS
from .case_table import CaseRow
from .shelf import Card

try:
    from slicer.i18n import tr as _
except ImportError:  # slicer-core has no translations

    def _(text: str) -> str:
        return text


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
    classes : int
        Classes of the cohort, without the background.
    class_row : int
        Row of the selected class, that of the background last; -1 if none is selected.
    volumes : int
        Volumes in the scene that are no case.
    training : State or None
        How the running training stands; None if none runs.
    predicting : bool
    cancelling : bool
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
    classes: int = 1
    class_row: int = -1
    volumes: int = 0
    training: State | None = None
    predicting: bool = False
    cancelling: bool = False
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
    ending = (now.cancelling, _("It is saving a checkpoint and ends then."))
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
    unpredicted = (row is not None and not row.has_prediction, _("The shown case isn't predicted yet."))
    return {
        "predictShownButton": _unless(*busy, unshown),
        "predictAllButton": _unless(*busy, (not now.rows, _("The cohort has no case yet."))),
        "predictVolumeButton": _unless(*busy, (not now.volumes, _("No volume in the scene that isn't a case."))),
        "cancelPredictionButton": _unless(
            (not now.predicting, _("No prediction is running.")), (now.cancelling, _("It is ending already."))
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
        ),
        "showResultButton": _unless(closed, unshown, unpredicted),
        "show3DButton": _unless(closed, unshown, unpredicted),
        "correctButton": _unless(closed, unshown, unpredicted),
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


# -- how things are said ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Preset:
    """A time budget by name."""

    name: str
    minutes: float


def presets() -> tuple[Preset, ...]:
    """Time budgets that a person may choose, the quickest first."""
    return Preset(_("Quick look"), 3.0), Preset(_("Balanced"), 20.0), Preset(_("Best"), 120.0)


def preset_of(minutes: float) -> int:
    """Index of the preset with this budget, -1 for another budget."""
    return next((index for index, each in enumerate(presets()) if abs(each.minutes - minutes) < 1e-6), -1)


def method_title(method: str) -> str:
    """A method as people call it."""
    return {
        "sp3": _("SP3: superpixels and pseudo-labels"),
        "sgrs": _("SGRS: mean teacher, region by region"),
        "embedding_matching": _("Embedding Matching"),
        "mean_teacher": _("Mean teacher"),
        "ua_mt": _("Mean teacher, uncertainty-aware"),
        "partial": _("Annotated voxels only"),
        "supervised": _("Dense labels only"),
    }.get(method, method)


def method_advice(method: str) -> str:
    """When to choose a method, in two lines."""
    return {
        "sp3": _(
            "Choose it when you have scribbles.\nStrokes spread over superpixels, then over the scans without any."
        ),
        "sgrs": _(
            "Choose it when some scans are labelled completely and many aren't.\n"
            "It trains where two views of a scan agree, and carefully where they don't."
        ),
        "embedding_matching": _(
            "Choose it when few complete labels are all you have, and borders matter.\n"
            "It compares doubtful voxels with sure ones; slower than the others."
        ),
        "mean_teacher": _("A classic to compare with.\nLearns to give the same answer under noise."),
        "ua_mt": _("A classic to compare with.\nAs mean teacher, but only where the teacher is sure."),
        "partial": _(
            "The quickest honest answer: learns from what is annotated and nothing else.\n"
            "The other methods have to beat it."
        ),
        "supervised": _(
            "Choose it when every training scan is labelled completely.\nScans without a label teach it nothing."
        ),
    }.get(method, "")


def methods() -> tuple[str, ...]:
    """All methods, the recommended one first."""
    return METHODS


CASE_COLUMNS = 6


def case_headers() -> tuple[str, ...]:
    """Headers of the case table."""
    return _("Case"), _("Voxels, mm"), _("Annotation"), _("Role"), _("Result"), _("Status")


def case_cells(row: CaseRow, findings: Iterable[Finding] = ()) -> tuple[str, ...]:
    """The texts of a row of the case table, under `case_headers`."""
    return (
        row.id,
        dimensions_text(row),
        annotation_text(row),
        role_text(row.role),
        prediction_text(row),
        status_text(row, findings),
    )


def dimensions_text(row: CaseRow) -> str:
    """Voxels and, below, millimetres."""
    if row.dimensions is None or row.spacing is None:
        return "?"
    return "×".join(map(str, row.dimensions)) + "\n" + "×".join(f"{each:.3g}" for each in row.spacing)


def annotation_text(row: CaseRow) -> str:
    """What is annotated of a case."""
    if row.annotation == "none":
        return _("none")
    if row.annotation == "dense":
        return _("dense") if row.labeled else _("dense,\nto measure")
    text = _("scribbles\n{percent}").format(percent=percent(row.annotated_fraction))
    return text + _(", + label") if row.has_reference else text


def prediction_text(row: CaseRow) -> str:
    """Whether a case is predicted and, below, how doubtful that is."""
    if not row.has_prediction:
        return ""
    return (
        _("yes") if row.uncertainty is None else _("yes") + "\n" + _("doubt {value:.3f}").format(value=row.uncertainty)
    )


def role_text(role: str) -> str:
    """A role for people."""
    return {"train": _("train"), "validation": _("validation"), "test": _("test")}.get(role, role)


def status_text(row: CaseRow, findings: Iterable[Finding] = ()) -> str:
    """How a case stands, in a word or the number of findings."""
    mine = [each for each in findings if each.case_id == row.id]
    if row.problem:
        return _("problem")
    if mine:
        return _("{count} to check").format(count=len(mine))
    return {"annotated": _("annotated"), "predicted": _("predicted"), "new": _("new")}.get(row.status, row.status)


def status_icon(row: CaseRow, findings: Iterable[Finding] = ()) -> str:
    """Which icon a case has: "error", "warning", "done" or ""."""
    mine = [each.severity for each in findings if each.case_id == row.id]
    if row.problem or "error" in mine:
        return "error"
    return "warning" if mine else "done" if row.status == "annotated" else ""


def status_tip(row: CaseRow, findings: Iterable[Finding] = ()) -> str:
    """What is wrong with a case and what to do, a line each."""
    mine = [finding_text(each) for each in findings if each.case_id == row.id]
    return "\n".join([row.problem] * bool(row.problem) + mine)


def finding_text(finding: Finding) -> str:
    """A finding with what to do about it."""
    where = f"{finding.case_id}: " if finding.case_id else ""
    return f"{where}{finding.message} {finding.remedy}".strip()


def short_path(path: Path) -> str:
    """The last parts of a path: whole ones don't wrap, and would make the panel wide.

    Examples
    --------
    >>> short_path(Path("/data/studies/liver"))
    '…/studies/liver'
    """
    return str(path) if len(path.parts) <= 2 else "…/" + "/".join(path.parts[-2:])


def percent(share: float) -> str:
    """A share with enough digits to tell it from nothing.

    Examples
    --------
    >>> percent(0.5), percent(0.0123), percent(0.00004), percent(0)
    ('50 %', '1.2 %', '< 0.1 %', '0 %')
    """
    if share <= 0:
        return "0 %"
    if share < 0.001:
        return "< 0.1 %"
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.1f} %"


def annotated_text(counts: Mapping[str, int], total: int, kind: str = "scribble") -> str:
    """How much of the shown case is annotated, in all and by class.

    Parameters
    ----------
    counts : mapping of str to int
        Voxels by the class's name.
    total : int
        Voxels of the scan.
    kind : {"scribble", "label"}
    """
    if total <= 0 or not sum(counts.values()):
        return _("Nothing is annotated on this case yet.")
    parts = ", ".join(f"{name} {percent(count / total)}" for name, count in counts.items() if count)
    missing = [name for name, count in counts.items() if not count]
    text = _("Annotated: {share} of the scan ({parts}).").format(
        share=percent(sum(counts.values()) / total), parts=parts
    )
    if missing:
        text += " " + _("Not painted yet: {names}.").format(names=", ".join(missing))
    return text


def progress_text(progress: Event | None, state: State, is_cancelled: bool = False) -> str:
    """Stage and time left of a job; of one that was asked to end, that it does."""
    if is_cancelled:
        return _("Stopping; what is done so far is kept…")
    if state == State.PAUSED:
        return _("Paused")
    if progress is None:
        return _("Starting")
    left = progress["seconds_left"]
    text = progress["stage"] or _("Working")
    if progress["iterations"]:
        text += ", " + _("iteration {done} of {all}").format(done=progress["iteration"], all=progress["iterations"])
    return text if left is None else text + ", " + _("{time} left").format(time=duration(left))


def progress_percent(progress: Event | None) -> int:
    """How far a job is, 0..100; -1 where nobody knows."""
    return -1 if progress is None or progress["fraction"] is None else round(100 * progress["fraction"])


def metrics_text(metrics: Mapping[str, float]) -> str:
    """The numbers a person wants to see while it trains: losses first, then Dice or agreement."""
    wanted = [name for name in metrics if any(word in name for word in ("dice", "agreement", "coverage"))]
    shown = (["loss"] if "loss" in metrics else []) + wanted
    return "   ".join(f"{name} {metrics[name]:.3f}" for name in shown)


def outcome_text(state: State, iteration: int, task: str) -> str:
    """How a job ended."""
    if task == "predict":
        return {
            State.FINISHED: _("Predicted."),
            State.CANCELLED: _("The prediction was cancelled; what was finished is kept."),
        }.get(state, _("The prediction failed."))
    if state == State.CANCELLED and not iteration:
        return _("Stopped before the first iteration; nothing is kept of it.")
    return {
        State.FINISHED: _("Trained. The panel Results segments the scans."),
        State.CANCELLED: _("Stopped at iteration {iteration}; the panel Results can go on with it.").format(
            iteration=iteration
        ),
    }.get(state, _("The training failed."))


def state_text(state: State) -> str:
    """How a run stands."""
    return {
        State.QUEUED: _("waiting"),
        State.RUNNING: _("running"),
        State.PAUSED: _("paused"),
        State.CANCELLED: _("stopped"),
        State.FINISHED: _("finished"),
        State.FAILED: _("failed"),
        State.LOST: _("ended without a word"),
    }[state]


def card_text(card: Card) -> str:
    """A run or model in two lines."""
    parts = [method_title(card.method).partition(":")[0], state_text(card.state)]
    if card.iteration:
        parts.append(_("{count} iterations").format(count=card.iteration))
    parts.append(size(card.bytes))
    if card.model is None:
        parts.append(_("no model yet"))
    return f"{card.name}\n" + "  ·  ".join(parts)


def card_tip(card: Card) -> str:
    """More about a run or model."""
    lines = [str(card.path), card.reason]
    if card.model is not None:
        lines.append(_("Classes: {names}").format(names=", ".join(card.model.schema.names)))
    return "\n".join(line for line in lines if line)


def device_text(device: Mapping[str, object]) -> str:
    """A device of the doctor's report, as the selector shows it."""
    memory = _("{free} of {total} free").format(free=size(device["free_bytes"]), total=size(device["total_bytes"]))
    problem = "  ({})".format(_("doesn't work")) if device["problem"] else ""
    return f"{device['name']} ({device['key']}), {memory}{problem}"


def computer_text(report: Mapping[str, object] | None) -> str:
    """In a sentence, whether the computer can train."""
    if report is None:
        return _("Nobody has looked yet what this computer has.")
    if report["ready"]:
        names = {each["key"]: each["name"] for each in report["devices"]}
        return _("Ready: training runs on {device}.").format(device=names.get(report["best_device"], "?"))
    lines = _advice_lines(report, blocking=True)
    return _("Not ready to train.") + "\n" + "\n".join(lines)


def cpu_text(report: Mapping[str, object] | None) -> str:
    """A warning where a training would run on the processor, with an estimate; empty otherwise."""
    if report is None or not report["ready"] or report["best_device"] != "cpu":
        return ""
    return _(
        "No graphics processor can be used, so training runs on the {cores} cores of the processor, some 20 to 50 "
        "times slower. Small scans take minutes, large ones hours: begin with the preset Quick look."
    ).format(cores=report["cores"])


def advice_text(report: Mapping[str, object] | None) -> str:
    """What to know besides, a line each."""
    return "" if report is None else "\n".join(_advice_lines(report, blocking=False))


def package_cells(report: Mapping[str, object]) -> list[tuple[str, str, str]]:
    """Name, version and state of each package."""
    return [(each["name"], each["version"], each["problem"] or _("works")) for each in report["packages"]]


def _advice_lines(report: Mapping[str, object], *, blocking: bool) -> list[str]:
    """What the doctor says; a command for a terminal is no advice where there is a button."""
    here = {"packages": _("Install gets them.")}
    return [
        f"{each['message']} {here.get(each['topic'], each['remedy'])}"
        for each in report["advice"]
        if bool(each["blocks"]) == blocking and each["topic"] != "cpu"  # of which `cpu_text` says more
    ]


# -- classes ----------------------------------------------------------------------------------------------------------


def free_class_name(schema: LabelSchema) -> str:
    """A name for one more class."""
    taken = {name.casefold() for name in schema.names}
    number = len(schema.names) + 1
    while _("structure {number}").format(number=number).casefold() in taken:
        number += 1
    return _("structure {number}").format(number=number)


# -- the form of the settings ------------------------------------------------------------------------------------------

ON_THE_PANEL = ("method", "minutes", "device", "warm_start")
"""Settings that the panels ask for elsewhere."""


def form_groups(descriptions: Iterable[SettingDescription], method: str) -> dict[str, list[SettingDescription]]:
    """The settings of the *Advanced* form by group; of the methods' own groups, the chosen one's only."""
    groups: dict[str, list[SettingDescription]] = {}
    for each in descriptions:
        group = each.key.rpartition(".")[0]
        if each.key not in ON_THE_PANEL and (group not in METHODS or group == method):
            groups.setdefault(group, []).append(each)
    return groups


def setting_text(value: object) -> str:
    """A setting's value as the form shows and reads it; empty for "automatic"."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple | list):
        return ", ".join(setting_text(each) for each in value)
    return str(value)


def setting_tip(description: SettingDescription) -> str:
    """What a setting means, its unit and range, and the name that scripts use."""
    low, high = description.minimum, description.maximum
    limits = "" if low is None else f"{low:.10g} – {high:.10g}" if high is not None else f"≥ {low:.10g}"
    details = ", ".join(part for part in (limits, description.unit) if part)
    default = setting_text(description.default) or _("automatic")
    return (
        f"{description.description}."
        + (f" ({details})" if details else "")
        + "\n"
        + _("Default: {value}").format(value=default)
        + f"\n{description.key}"
    )


def changed_settings(texts: Mapping[str, str], descriptions: Iterable[SettingDescription]) -> dict[str, str]:
    """Of the form's texts those that say something else than the default; an emptied one is the default."""
    defaults = {each.key: setting_text(each.default) for each in descriptions}
    return {key: text for key, text in texts.items() if key in defaults and text.strip() not in ("", defaults[key])}


def assignments(settings: Mapping[str, str], method: str) -> list[str]:
    """Changed settings as ``KEY=VALUE``, those of other methods left out; empty means automatic."""
    return [
        f"{key}={_json_list(text)}"
        for key, text in settings.items()
        if key.partition(".")[0] not in METHODS or key.partition(".")[0] == method
    ]


def _json_list(text: str) -> str:
    text = text.strip()
    return "null" if not text else f"[{text}]" if "," in text and not text.startswith("[") else text
