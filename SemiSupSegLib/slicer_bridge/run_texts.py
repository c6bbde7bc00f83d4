"""What the panels say of methods, trainings, predictions and models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..events import Event
from ..progress import duration, size
from ..runs import State
from ..training_settings import METHODS
from .shelf import Card
from .translation import tr as _


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
            "An alternative to SP3 when most scans have no strokes.\n"
            "It compares doubtful voxels with those that somebody painted."
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
