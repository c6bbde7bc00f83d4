"""The runs and models of a cohort as a person sees them: cards to rename, export, import and delete."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ErrorCode, RunError, SemiSupSegError
from ..files import explained
from ..models import Model, import_zip
from ..runs import RunFolder, State, list_runs

_TELLING = ("run.json", "status.json", "manifest.json", "model/model.json", "checkpoints")
"""Files of a run that say all that its card says."""


@dataclass(frozen=True)
class Card:
    """A training run or an imported model.

    Parameters
    ----------
    path : Path
        Folder of the run or model.
    name : str
    method : str
    state : State
        How the run stands; an imported model is finished.
    iteration : int
        Iterations done.
    model : Model or None
        What it predicts with, once there is one.
    bytes : int
        Size on disk.
    can_resume : bool
        Whether it stopped before its end, with a checkpoint.
    reason : str
        Why it stopped, for people.
    """

    path: Path
    name: str
    method: str
    state: State
    iteration: int
    model: Model | None
    bytes: int
    can_resume: bool = False
    reason: str = ""


class Shelf:
    """All runs and models of a cohort.

    Parameters
    ----------
    folder : Path
        The cohort's folder: runs are in ``runs/``, imported models in ``models/``.
    """

    def __init__(self, folder: Path):
        self.runs = folder / "runs"
        self.models = folder / "models"
        self._tasks: dict[Path, str] = {}
        self._known: dict[Path, tuple[tuple[int, ...], Card]] = {}

    def cards(self) -> list[Card]:
        """Training runs, the newest first, then imported models."""
        runs = [run for run in self._runs() if self._task_of(run) == "train"]
        imported = sorted(self.models.glob("*/model.json")) if self.models.is_dir() else []
        return [self._card_of(run) for run in runs] + [_card_of_model(each.parent) for each in imported]

    def newest_model(self) -> Model:
        """The model of the newest run that has one; raises `RunError` if nothing was trained yet."""
        for card in self.cards():
            if card.model is not None:
                return card.model
        raise RunError("There is no model yet.", "Train one, or import one.", code=ErrorCode.MISSING_FILE)

    def rename(self, path: Path | str, name: str) -> Model:
        """Give the model of a run or a model folder another name; the run's manifest goes along."""
        model = Model.load(path).renamed(name)
        run = RunFolder(model.folder.parent)
        if run.manifest_file.is_file():
            run.renew_manifest(model.folder / "model.json")
        return model

    def import_model(self, path: Path | str) -> Model:
        """Take a model that somebody exported into the cohort's folder."""
        stem = Path(path).stem
        taken = (self.models / name for name in (stem, *(f"{stem}_{count}" for count in range(2, 1000))))
        return import_zip(path, next(each for each in taken if not each.exists()))

    def delete(self, path: Path | str) -> None:
        """Delete a run or an imported model with all its files; raises `RunError` (``run-busy``) while it works."""
        path = Path(path)
        if path.name == ".." or path.parent not in (self.runs, self.models):
            raise RunError(f"'{path}' is no run or model of this cohort.", "Delete it in the file manager.")
        if (path / "run.json").is_file() and RunFolder(path).worker_lives():
            raise RunError(f"The run '{path.name}' is still working.", "Cancel it first.", code=ErrorCode.RUN_BUSY)
        with explained("delete", path):
            shutil.rmtree(path)

    def _runs(self) -> list[RunFolder]:
        return list_runs(self.runs) if self.runs.is_dir() else []

    def _task_of(self, run: RunFolder) -> str:
        if not self._tasks.get(run.path):
            try:
                self._tasks[run.path] = run.request().task
            except SemiSupSegError:
                self._tasks[run.path] = ""
        return self._tasks[run.path]

    def _card_of(self, run: RunFolder) -> Card:
        """The card of a run; of one that is over the card from before, unless its files say something else now."""
        stamps = tuple(_modified(run.path / name) for name in _TELLING)
        known = self._known.get(run.path)
        if known is None or known[0] != stamps or not known[1].state.is_over:
            self._known[run.path] = stamps, _card_of_run(run)
        return self._known[run.path][1]


def _modified(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0


def _card_of_run(run: RunFolder) -> Card:
    details: dict[str, Any] = run.details()
    status, state = run.read_status(), run.assess()
    model = _model_in(run.path)
    return Card(
        path=run.path,
        name=(model.name if model else "") or details.get("label") or run.path.name,
        method=str(details.get("settings", {}).get("method", "")),
        state=state,
        iteration=status.iteration if status else 0,
        model=model,
        bytes=_size_of(run.path),
        can_resume=state in (State.CANCELLED, State.FAILED, State.LOST) and run.last_checkpoint is not None,
        reason=status.reason if status else "",
    )


def _card_of_model(folder: Path) -> Card:
    model = _model_in(folder)
    iterations = int(model.summary.get("iterations", 0)) if model else 0
    method = model.method if model else ""
    state = State.FINISHED if model else State.FAILED
    return Card(folder, model.name if model else folder.name, method, state, iterations, model, _size_of(folder))


def _model_in(folder: Path) -> Model | None:
    try:
        return Model.load(folder)
    except SemiSupSegError:
        return None


def _size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
