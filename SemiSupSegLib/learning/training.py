"""A training run: from the request in a run folder to a model, through commands, checkpoints and mishaps."""

from __future__ import annotations

import contextlib
import copy
import functools
import time
import zlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch

from ..cache_cleaning import clean_cache
from ..cohort import Cohort
from ..errors import ErrorCode, SemiSupSegError, SettingsError
from ..files import delete_temporaries
from ..models import Model
from ..training_settings import TrainingSettings
from .array_cache import ArrayCache, cache_folder
from .budget import planned_length
from .cases import TrainingCase
from .checkpoints import load_newest_checkpoint, load_tensors, save_checkpoint
from .curves import Curves
from .devices import empty_cache, prepare_process
from .distributed import ALONE, Processes, joined_processes
from .fingerprint import read_fingerprint
from .live_commands import LiveCommands
from .looks import Looks
from .memory import is_out_of_memory
from .methods import METHODS
from .one_piece import one_piece_classes
from .plan import Plan, derive_plan
from .prediction import Predictor, Stopped
from .session import Outcome, Session, StopReason
from .superpixel_preparation import SuperpixelPreparation
from .trained_model import save_model, versions
from .trainer import Trainer, is_finite
from .training_data import TrainingData, held_out_file, load_training_data

_MOST_ROLLBACKS = 2
_MOST_SHRINKS = 2
_LARGE_SHARE = 0.2
"""Of the minutes: a preparation that takes more is worth a word."""


def train(session: Session) -> Outcome:
    """Do what a run of task *train* asks for; goes on from the last checkpoint where there is one.

    Returns
    -------
    session.Outcome
        The model's files, and the iteration reached: short of all where the session was told to stop.

    Raises
    ------
    SemiSupSegError
        If the cohort can't be trained, memory or disk run out, or training diverges three times.
    """
    with joined_processes() as processes:
        return TrainingRun(session, processes)()


class TrainingRun:
    """The state of one training run.

    Attributes
    ----------
    plan : Plan or None
        None until the images were looked at.
    data : TrainingData or None
        The cases, once they are loaded.
    trainer : Trainer or None
        None until everything is loaded.
    """

    def __init__(self, session: Session, processes: Processes = ALONE):
        self.session = session
        self.processes = processes
        details = processes.of_leader(session.folder.details)
        self._said = TrainingSettings.translated(details["settings"])
        self.settings = TrainingSettings.from_json(self._said)
        self.cohort = Cohort.load(session.request.cohort)
        self.device = processes.device(self.settings.device)
        prepare_process(self.device, self.settings.threads)
        self.method_class = METHODS[self.settings.method]
        self.plan = Plan.from_json(details["plan"]) if "plan" in details else None
        self.iterations: int | None = details.get("iterations")
        self._times_of_looks: dict[str, int] = details.get("looks", {})
        self._joined_seconds: float | None = details.get("joined_seconds")
        self.best: dict[str, float] | None = details.get("best")
        self.seconds = 0.0
        self.rollbacks = 0
        self.data: TrainingData | None = None
        self.looks: Looks | None = None
        self.trainer: Trainer | None = None
        self.commands = LiveCommands(self)

    def __call__(self) -> Outcome:
        try:
            if not self.processes.of_leader(lambda: self.session.hold_device(str(self.device))):
                return Outcome()
            self._begun = time.monotonic()
            if self.processes.is_leader:
                delete_temporaries(self.session.folder.checkpoints)
            self.plan = self.plan or self._make_plan()
            self._check_batch()
            with self.processes.leader_first() if self._needs_superpixels() else contextlib.nullcontext():
                self.data = load_training_data(
                    self.cohort, self.settings, self.plan, self.device, self.session.folder.path,
                    on_progress=self._preparing, warn=self.session.warn,
                )  # fmt: skip
            self.check_agreement()
            if self.processes.is_leader:
                clean_cache(self.data.cache.folder)
            if self._is_to_stop():
                return Outcome()
            if self.iterations is None:
                self.plan = replace(self.plan, largest_component=self._one_piece_classes())
            self.looks = Looks(self)
            self.looks.times |= self._times_of_looks
            self._train()
        except Stopped:
            return Outcome()
        return self._finish()

    # Before the first step ----------------------------------------------------------------------------------------

    def _make_plan(self) -> Plan:
        one_piece = one_piece_classes(self.settings.largest_component, self.cohort.schema, ())
        is_part = self.settings.largest_component != "auto" and len(one_piece) < self.cohort.schema.n_classes - 1
        if self.settings.far_background == "on" and is_part:
            raise SettingsError(
                "far_background=on wants every class to be one piece, and "
                f"largest_component={self.settings.largest_component} names only some.",
                "Name all of them, or change far_background.",
            )
        plan = Plan.from_json(self.processes.of_leader(lambda: self._plan_of_leader().to_json()))
        plan = replace(plan, largest_component=one_piece)  # as far as settings say
        if self.settings.plan.batch_size is None:  # each process needs a patch of its own
            plan = replace(plan, batch_size=max(plan.batch_size, self.processes.size))
        return plan

    def _plan_of_leader(self) -> Plan:
        return derive_plan(
            read_fingerprint(self.cohort, self._preparing, self._cache()),
            self.settings,
            self.cohort.schema.n_classes,
            self.device,
            **self.method_class.network_needs(self.settings),
        )

    def _cache(self) -> ArrayCache:
        return ArrayCache(cache_folder(self.cohort, self.session.folder.path))

    def _check_batch(self) -> None:
        if self.plan.batch_size < self.processes.size:
            raise SettingsError(
                f"A batch of {self.plan.batch_size} can't be shared by {self.processes.size} processes.",
                f"Start {self.plan.batch_size} at most, or a new run with --set plan.batch_size={self.processes.size}.",
            )

    def check_agreement(self) -> None:
        """Raise `SemiSupSegError` where processes on several machines read different annotations."""
        self.processes.must_agree(
            lambda: _checksum(self.data.cases),
            "The processes of this training read different annotations.",
            "Put cohort and run into a folder that all machines share, then resume.",
        )

    def _needs_superpixels(self) -> bool:
        return SuperpixelPreparation.is_wanted(self.settings, self.plan)

    def _one_piece_classes(self) -> tuple[int, ...]:
        return one_piece_classes(self.settings.largest_component, self.cohort.schema, self.data.dense_cases)

    def _preparing(self, fraction: float, text: str) -> None:
        self.stop_if_asked()
        self.session.emit("progress", stage=text, fraction=fraction, iteration=0, iterations=self.iterations or 0,
                          seconds_left=None)  # fmt: skip

    def stop_if_asked(self, fraction: float = 0.0) -> None:
        """Raise `Stopped` where the session is to stop; several processes stop together, between two steps."""
        if self.processes.size == 1 and self.session.stop is not None:
            raise Stopped

    def _is_to_stop(self) -> bool:
        """Whether any process is to stop, for then all do."""
        stop = self.processes.any(self.session.stop is not None)
        if stop:
            self.session.request_stop(StopReason.CANCEL)
        return stop

    def _train(self) -> None:
        """All iterations, with a smaller batch or patch where memory runs out."""
        fingerprint = self.cohort.fingerprint()
        for attempt in range(_MOST_SHRINKS + 1):
            error = self._until_out_of_memory(fingerprint)
            if error is None:
                return
            self._shrink(attempt, error)

    def _until_out_of_memory(self, fingerprint: str) -> BaseException | None:
        try:
            self._start(fingerprint)
            self._loop()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return error.with_traceback(None)  # whose frames hold the activations
        return None

    def _start(self, fingerprint: str) -> None:
        """Networks, iterations and checkpoint, ready to go on."""
        if self.iterations is None:
            wanted = self.looks.wanted()
            self._say_how_long_preparing_took()
            length = planned_length(
                self.settings, self.plan, self.device, self.data.cases, self._preparing, self.processes,
                looks=wanted, begun=self._begun,
            )  # fmt: skip
            self.iterations = length.iterations
            self.looks.times |= length.looks
            self._joined_seconds = length.joined_seconds
            self._say_what_was_left_out(wanted["validations"].times)
        if self.processes.is_leader:
            self.session.folder.update_request(
                plan=self.plan.to_json(),
                iterations=self.iterations,
                looks=dict(self.looks.times),
                joined_seconds=self._joined_seconds,
                device=str(self.device),
                versions=versions(),
                cohort_fingerprint=fingerprint,
            )
        self.session.emit("plan", plan={**self.plan.to_json(), "iterations": self.iterations})
        self._restore()
        self._say_if_nobody_teaches()

    def _say_what_was_left_out(self, wanted: int) -> None:
        times = self.looks.times["validations"]
        if times < wanted and self.looks.validation.is_possible:
            self.session.warn(
                f"{wanted} validations would take too much of {self.settings.budget_minutes:g} minutes: there are "
                f"{times}.",
                "Train longer, or with fewer validation cases.",
            )

    def _say_how_long_preparing_took(self) -> None:
        minutes, taken = self.settings.budget_minutes, (time.monotonic() - self._begun) / 60
        if minutes is not None and taken > _LARGE_SHARE * minutes:
            self.session.warn(
                f"Preparing the scans took {taken:.1f} of {minutes:g} minutes, so less is left for training.",
                "What is prepared is kept: another training with these scans begins sooner.",
            )

    def _say_if_nobody_teaches(self) -> None:
        method = self.trainer.method
        if self.settings.warm_start or self.trainer.iteration > 0:
            return
        if self.iterations <= method.fewest_steps_alone and method.unlabeled_start >= 1:
            self.session.warn(
                f"A training of {self.iterations} steps learns from annotations only: '{method.name}' spends "
                f"{method.fewest_steps_alone} on them before it learns from the rest.",
                "Train longer, or set schedule.unlabeled_start.",
            )

    def _restore(self) -> None:
        """A trainer as the last good checkpoint has it, or at the beginning."""
        checkpoint = self.processes.checkpoint_of_leader(
            functools.partial(load_newest_checkpoint, self.session.folder.checkpoints, self.session.warn)
        )
        if checkpoint is not None and self.trainer is None:
            self._say_which_settings_are_new()
        if checkpoint is None or self.trainer is None:
            self.trainer = self._fresh_trainer()
            self.seconds, self.looks.are_owed = 0.0, False
        if checkpoint is not None:
            self.trainer.restore(checkpoint)
            self.seconds = float(checkpoint.state.get("seconds", 0.0))
            self.looks.are_owed = bool(checkpoint.state.get("is_look_owed", False))

    def _say_which_settings_are_new(self) -> None:
        """A run that an older version began goes on with today's value of what that one didn't know."""
        others = tuple(f"{method}." for method in METHODS if method != self.settings.method)
        new = [key for key in TrainingSettings.unsaid(self._said) if not key.startswith(others)]
        if new:
            self.session.warn(
                "This run was begun by an older version, which did not know the settings "
                f"{', '.join(new)}: they have today's defaults from here on.",
                "Start a new run if its results are to be compared with others.",
            )

    def _fresh_trainer(self) -> Trainer:
        trainer = Trainer(self.settings, self.plan, self.device, self.data.cases, self.iterations, self.processes)
        if self.settings.warm_start:
            file = Model.load(self.settings.warm_start).weights_file()
            trainer.warm_start(load_tensors(file), str(file))
        return trainer

    # The loop -----------------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        session, curves = self.session, Curves(self.session, self.iterations, self._joined_seconds)
        saved = time.monotonic()
        while self.looks.are_owed or self.trainer.iteration < self.iterations:
            self.commands.obey()
            if self._is_to_stop():
                break
            if self.looks.are_owed:
                self.looks.take()
                continue
            begun = time.monotonic()
            values = self.trainer.step()
            seconds = time.monotonic() - begun
            self.seconds += seconds
            if not is_finite(values):
                curves.forget()
                self._roll_back()
                continue
            session.heartbeat(self.trainer.iteration)
            curves.add(self.trainer, values, seconds)
            self.looks.take()
            curves.add_look(time.monotonic() - begun - seconds)
            if self.processes.is_leader and time.monotonic() - saved > self.settings.checkpoint_minutes * 60:
                self.save_checkpoint()
                saved = time.monotonic()
        if self.processes.is_leader:
            self.save_checkpoint()

    def save_checkpoint(self) -> Path:
        """Write everything down that going on needs; raises `SemiSupSegError` where the disk is full."""
        checkpoint = self.trainer.checkpoint()
        checkpoint.state.update(seconds=self.seconds, is_look_owed=self.looks.are_owed)
        self.session.check_disk(checkpoint.size_bytes)
        if self.data.held_out is not None:
            self.data.held_out.save(held_out_file(self.session.folder.path))
        path = save_checkpoint(self.session.folder.checkpoints, checkpoint)
        self.session.emit("checkpoint", iteration=checkpoint.iteration, path=str(path))
        return path

    def _roll_back(self) -> None:
        """After a loss that is no number: the last good checkpoint, at half the rate."""
        self.rollbacks += 1
        if self.rollbacks > _MOST_ROLLBACKS:
            raise SemiSupSegError(
                "Training diverged three times: the loss is no longer a number.",
                "Lower the learning rate, or check the images for extreme values.",
                code=ErrorCode.DIVERGED,
            )
        factor = self.trainer.rate_factor / 2
        self._restore()
        self.trainer.rate_factor = factor
        self.session.warn(
            f"The loss was no longer a number; training goes on from iteration {self.trainer.iteration} "
            "at half the learning rate."
        )

    def _shrink(self, attempt: int, error: BaseException) -> None:
        """After running out of memory: a smaller batch, then a smaller patch, from the beginning or last checkpoint."""
        self.trainer = None
        empty_cache(self.device)
        if self.processes.size > 1:
            raise SemiSupSegError(
                "A device has too little memory for its share of the batch.",
                "Start a new run with more processes, or with a smaller plan.patch or plan.batch_size.",
                code=ErrorCode.OUT_OF_MEMORY,
            ) from error
        smaller = self.plan.shrunk() if attempt < _MOST_SHRINKS else None
        if smaller is None:
            raise SemiSupSegError(
                "The device has too little memory for this training, even with smaller patches.",
                "Close other programs that use the GPU, or set a smaller patch.",
                code=ErrorCode.OUT_OF_MEMORY,
            ) from error
        what = f"{smaller.batch_size} patch{'es' if smaller.batch_size > 1 else ''} in a batch"
        if smaller.patch != self.plan.patch:
            what = f"patches of {' x '.join(str(size) for size in smaller.patch)} voxels"
        self.plan = smaller
        self.session.warn(f"The device ran out of memory; training goes on with {what}.")

    def move_to(self, device: torch.device) -> None:
        """Leave a device for another with all that lies on it; scans that a GPU had no room for stay outside."""
        self.trainer.move_to(device)
        self.data.move_to(device if device.type == "cpu" else self.data.device)
        empty_cache(self.device)

    # Validation and the end ---------------------------------------------------------------------------------------

    def predictor(self, network: str) -> Predictor:
        """The student or the teacher as it is now, for predicting."""
        return Predictor(copy.deepcopy(getattr(self.trainer, network)).eval(), self.plan, self.device,
                         largest_component=self.trainer.one_piece, whereabouts=self.trainer.whereabouts)  # fmt: skip

    def _finish(self) -> Outcome:
        """The model as it stands, whether all iterations were done or the run was stopped."""
        if not self.processes.is_leader:
            return Outcome(iteration=self.trainer.iteration)
        files = save_model(
            self.session.folder.model,
            self.trainer,
            name=self.session.request.label or self.session.folder.path.name,
            schema=self.cohort.schema,
            seconds=self.seconds,
            best=self.best,
        )
        return Outcome(files=files, iteration=self.trainer.iteration)


def _checksum(cases: Iterable[TrainingCase]) -> int:
    """A number that tells other cases or annotations from these."""
    number = 0
    for case in cases:
        number = zlib.crc32(f"{case.id} {case.shape}".encode(), number)
        if case.annotation is not None:
            number = zlib.crc32(case.annotation.cpu().numpy(), number)
    return number
