"""A training run: from the request in a run folder to a model, through commands, checkpoints and mishaps."""

from __future__ import annotations

import copy
import platform
import time
from collections import deque
from pathlib import Path

import numpy as np
import scipy.ndimage
import torch

from .. import __version__
from ..cohort import Case, Cohort, Role
from ..errors import CohortError, ErrorCode, SemiSupSegError
from ..labels import IGNORE
from ..models import Model
from ..propagation import propagate
from ..superpixels import SuperpixelSettings, cached_superpixels
from ..training_settings import TrainingSettings
from .budget import planned_iterations
from .cases import REFERENCE, TrainingCase, load_case, load_training_cases, read_annotation, superpixel_cache
from .checkpoints import load_newest_checkpoint, load_tensors, save_checkpoint, save_tensors
from .devices import choose_device, empty_cache, prepare_process
from .methods import METHODS
from .plan import Plan, derive_plan, read_fingerprint
from .prediction import Predictor, Stopped, write_prediction
from .session import Outcome, Session
from .trainer import Trainer, is_finite

_MOST_ROLLBACKS = 2
_MOST_SHRINKS = 2
_CURVE_POINTS = 1000
_TIMED_STEPS = 50


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
    return TrainingRun(session)()


class TrainingRun:
    """The state of one training run."""

    def __init__(self, session: Session):
        self.session = session
        self.settings = TrainingSettings.from_json(session.request.settings)
        self.cohort = Cohort.load(session.request.cohort)
        self.device = choose_device(self.settings.device)
        prepare_process(self.device, self.settings.threads)
        self.method_class = METHODS[self.settings.method]
        details = session.folder.details()
        self.plan = Plan.from_json(details["plan"]) if "plan" in details else None
        self.iterations: int | None = details.get("iterations")
        self.seconds_before = float(details.get("seconds_trained", 0.0))
        self.rollbacks = 0
        self.best: dict[str, float] | None = details.get("best")
        self.trainer: Trainer | None = None

    def __call__(self) -> Outcome:
        try:
            if not self.session.hold_device(str(self.device)):
                raise Stopped
            self.plan = self.plan or self._make_plan()
            cases = self._load_cases()
            self.validation = self._load_validation_cases()
        except Stopped:
            return Outcome()
        for attempt in range(_MOST_SHRINKS + 1):
            try:
                self._start(cases)
                self._loop()
                break
            except Stopped:
                return Outcome()
            except torch.OutOfMemoryError as error:
                self._shrink(attempt, error)
        return self._finish()

    # Before the first step ----------------------------------------------------------------------------------------

    def _make_plan(self) -> Plan:
        fingerprint = read_fingerprint(self.cohort, self._preparing)
        return derive_plan(
            fingerprint,
            self.settings,
            self.cohort.schema.n_classes,
            self.device,
            **self.method_class.network_needs(self.settings),
        )

    def _preparing(self, fraction: float, text: str) -> None:
        if self.session.stop is not None:
            raise Stopped
        self.session.emit("progress", stage=text, fraction=fraction, iteration=0, iterations=self.iterations or 0,
                          seconds_left=None)  # fmt: skip

    @property
    def annotations(self) -> str:
        """Which annotation trains where a case has both."""
        chosen = self.settings.annotations
        return self.method_class.trains_on if chosen == "auto" else chosen

    def _load_cases(self) -> list[TrainingCase]:
        cases = load_training_cases(
            self.cohort,
            self.plan,
            self.device,
            annotations=self.annotations,
            unlabeled=self.method_class.uses_unlabeled,
            on_progress=self._preparing,
        )
        if self.method_class.uses_superpixels:
            folder = superpixel_cache(self.cohort, self.session.folder.path)
            for index, case in enumerate(cases):
                self._preparing(index / len(cases), f"Supervoxels of {case.id}")
                self._add_superpixels(case, folder)
        return cases

    def _add_superpixels(self, case: TrainingCase, folder: Path) -> None:
        options = self.settings.sp3
        settings = SuperpixelSettings(
            size_mm=options.superpixel_size, compactness=options.compactness, dimensions=self.plan.dimensions
        )
        ids = cached_superpixels(folder, case.image.cpu().numpy(), case.geometry.spacing, settings)
        case.superpixels = torch.from_numpy(ids).to(self.device)
        self._expand(case)

    def _expand(self, case: TrainingCase) -> None:
        case.expanded = None
        if case.annotation is not None and case.superpixels is not None:
            options = self.settings.sp3
            expanded = propagate(
                case.annotation.cpu().numpy(),
                case.superpixels.cpu().numpy(),
                conflict=options.conflict,
                purity=options.purity,
            )
            case.expanded = torch.from_numpy(expanded).to(self.device)

    def _load_validation_cases(self) -> list[TrainingCase]:
        if self.settings.validations == 0:
            return []
        members = [case for case in self.cohort.cases if case.role == Role.VALIDATION]
        return [load_case(self.cohort, case, self.plan, self.device, annotations=REFERENCE) for case in members]

    def _start(self, cases: list[TrainingCase]) -> None:
        """Networks, iterations and checkpoint, ready to go on."""
        self.cases = cases
        if self.iterations is None:
            self.iterations = planned_iterations(self.settings, self.plan, self.device, cases, self._preparing)
        self.session.folder.update_request(
            plan=self.plan.to_json(),
            iterations=self.iterations,
            device=str(self.device),
            versions=versions(),
            cohort_fingerprint=self.cohort.fingerprint(),
        )
        self.session.emit("plan", plan={**self.plan.to_json(), "iterations": self.iterations})
        self.trainer = self._fresh_trainer()
        checkpoint = load_newest_checkpoint(self.session.folder.checkpoints, self.session.warn)
        if checkpoint is not None:
            self.trainer.restore(checkpoint)

    def _fresh_trainer(self) -> Trainer:
        trainer = Trainer(self.settings, self.plan, self.device, self.cases, self.iterations)
        if self.settings.warm_start:
            model = Model.load(self.settings.warm_start)
            file = model.weights_file()
            trainer.warm_start(load_tensors(file), str(file))
        return trainer

    # The loop -----------------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        trainer, session = self.trainer, self.session
        self.loop_started = saved = time.monotonic()
        self.step_seconds: deque[float] = deque(maxlen=_TIMED_STEPS)
        collected: list[dict[str, float]] = []
        every = max(1, self.iterations // _CURVE_POINTS)
        while trainer.iteration < self.iterations:
            self._obey_commands()
            if session.stop is not None:
                self._save_checkpoint()
                return
            begun = time.monotonic()
            values = trainer.step()
            if not is_finite(values):
                self._roll_back()
                collected = []
                continue
            self.step_seconds.append(time.monotonic() - begun)
            collected.append(values)
            session.heartbeat(trainer.iteration)
            if len(collected) >= every or trainer.iteration == self.iterations:
                session.emit("metric", iteration=trainer.iteration, values=_means(collected))
                collected = []
                self._report_progress()
            if self._validation_is_due():
                self._validate()
            if time.monotonic() - saved > self.settings.checkpoint_minutes * 60:
                self._save_checkpoint()
                saved = time.monotonic()
        self._save_checkpoint()

    def _report_progress(self) -> None:
        trainer = self.trainer
        alone = trainer.method.uses_unlabeled and trainer.method.composition(trainer.fraction).unlabeled == 0
        seconds = float(np.mean(self.step_seconds)) * (self.iterations - trainer.iteration)
        self.session.emit(
            "progress",
            stage="Training on annotations" if alone else "Training",
            fraction=trainer.fraction,
            iteration=trainer.iteration,
            iterations=self.iterations,
            seconds_left=round(seconds, 1),
        )

    def _save_checkpoint(self) -> Path:
        trainer = self.trainer
        tensors = 4 * sum(parameter.numel() * parameter.element_size() for parameter in trainer.student.parameters())
        self.session.check_disk(int(tensors * 1.5) + 2**20)
        path = save_checkpoint(self.session.folder.checkpoints, trainer.checkpoint())
        self.session.emit("checkpoint", iteration=trainer.iteration, path=str(path))
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
        checkpoint = load_newest_checkpoint(self.session.folder.checkpoints, self.session.warn)
        self.trainer = self._fresh_trainer() if checkpoint is None else self.trainer
        if checkpoint is not None:
            self.trainer.restore(checkpoint)
        self.trainer.rate_factor = factor
        self.session.warn(
            f"The loss was no longer a number; training goes on from iteration {self.trainer.iteration} "
            "at half the learning rate."
        )

    def _shrink(self, attempt: int, error: BaseException) -> None:
        """After running out of memory: a smaller batch, then a smaller patch, from the beginning or last checkpoint."""
        if attempt >= _MOST_SHRINKS:
            raise SemiSupSegError(
                "The device has too little memory for this training, even with smaller patches.",
                "Close other programs that use the GPU, or set a smaller patch.",
                code=ErrorCode.OUT_OF_MEMORY,
            ) from error
        self.trainer = None
        empty_cache(self.device)
        plan = copy.copy(self.plan).to_json()
        if plan["batch_size"] > 1:
            plan["batch_size"] = plan["batch_size"] // 2
            what = f"{plan['batch_size']} patches in a batch"
        else:
            axis = int(np.argmax(plan["patch"]))
            divisor = int(np.prod([stride[::-1][axis] for stride in plan["strides"]]))
            patch = list(plan["patch"])
            patch[axis] = max(divisor, patch[axis] // 2 // divisor * divisor)
            plan["patch"] = patch
            what = f"patches of {' x '.join(str(size) for size in patch)}"
        self.plan = Plan.from_json(plan)
        self.session.warn(f"The device ran out of memory; training goes on with {what}.")

    # Commands -----------------------------------------------------------------------------------------------------

    def _obey_commands(self) -> None:
        for command in self.session.commands():
            try:
                message = self._obey(command)
            except SemiSupSegError as error:
                self.session.answer(command, False, str(error))
            except Stopped:
                self.session.answer(command, False, "The run was stopped.")
            else:
                self.session.answer(command, True, message)

    def _obey(self, command) -> str:
        if command.name == "checkpoint":
            return f"Checkpoint of iteration {self.trainer.iteration} written to {self._save_checkpoint().name}."
        if command.name == "preview":
            return self._preview(self.cohort.case(command.fields["case"]))
        if command.name == "update_annotations":
            return self._update_annotations(command.fields["case"])
        if command.name == "pause":
            return self._pause()
        if command.name == "resume":
            return "The run is not paused."
        raise SemiSupSegError(f"A training run has no command '{command.name}'.")

    def _preview(self, case: Case) -> str:
        volume = self.cohort.read_image(case)
        prediction = self._predictor()(volume, self._stop_if_asked, case.id)
        folder = self.session.folder.predictions / "preview"
        files = write_prediction(folder, case.id, volume, prediction, self.cohort.schema, compress=False)
        self.session.emit("preview", case=case.id, files={kind: str(path) for kind, path in files.items()},
                          score=prediction.score)  # fmt: skip
        return f"Preview of {case.id} written."

    def _update_annotations(self, case_id: str) -> str:
        """Read a case's annotation again, in the cohort as it is on disk now; use it from the next batch on."""
        self.cohort = Cohort.load(self.session.request.cohort)
        member = self.cohort.case(case_id)
        if member.role != Role.TRAIN:
            raise CohortError(f"Case '{case_id}' is not a training case.", "Change its role first.")
        known = {case.id: case for case in self.cases}
        case = known.get(case_id)
        if case is None:
            case = load_case(self.cohort, member, self.plan, self.device, annotations=self.annotations)
            if self.method_class.uses_superpixels:
                self._add_superpixels(case, superpixel_cache(self.cohort, self.session.folder.path))
            self.cases.append(case)
            self.trainer.cases.append(case)
        else:
            others = any(each.annotation is not None for each in self.cases if each is not case)
            annotation = read_annotation(self.cohort, member, case.geometry, self.annotations)
            if annotation is None and not others:
                raise CohortError(
                    "No training case would have an annotated voxel.", "Keep at least one annotation.",
                    code=ErrorCode.NO_ANNOTATION,
                )  # fmt: skip
            case.annotate(annotation)
            self._expand(case)
        return f"Annotations of {case_id} are used from iteration {self.trainer.iteration} on."

    def _pause(self) -> str:
        """Leave the device until told to go on."""
        self._save_checkpoint()
        self._move_to(torch.device("cpu"))
        goes_on = self.session.wait_until_resumed()
        self._move_to(self.device)
        return "The run was paused and goes on." if goes_on else "The run was paused and stops."

    def _move_to(self, device: torch.device) -> None:
        self.trainer.move_to(device)
        for case in (*self.cases, *self.validation):
            for name in ("image", "annotation", "superpixels", "expanded"):
                tensor = getattr(case, name)
                setattr(case, name, None if tensor is None else tensor.to(device))
        empty_cache(self.device)

    def _stop_if_asked(self, fraction: float) -> None:
        if self.session.stop is not None:
            raise Stopped

    # Validation and the end ---------------------------------------------------------------------------------------

    def _predictor(self, network: str = "teacher") -> Predictor:
        network = copy.deepcopy(getattr(self.trainer, network)).eval()
        return Predictor(network, self.plan, self.device)

    def _validation_is_due(self) -> bool:
        interval = self.iterations / max(1, self.settings.validations)
        iteration = self.trainer.iteration
        return bool(self.validation) and int(iteration / interval) > int((iteration - 1) / interval)

    def _validate(self) -> None:
        """Dice of validation cases on the plan's grid; the better network is kept whenever it is the best so far."""
        values = {}
        for name in ("teacher", "student"):
            predictor = self._predictor(name)
            scores = []
            for case in self.validation:
                if self.session.stop is not None:
                    return
                labels = predictor.on_plan_grid(case.image).argmax(dim=0)
                scores.append(_dice(labels, case.annotation, self.plan.n_classes))
            values[f"validation dice {name}"] = float(np.nanmean(scores))
        self.session.emit("metric", iteration=self.trainer.iteration, values=values)
        winner = max(values, key=values.get)
        if self.best is None or values[winner] > self.best["dice"]:
            self.best = {"dice": values[winner], "iteration": self.trainer.iteration}
            network = getattr(self.trainer, winner.rsplit(" ", 1)[1])
            self.session.folder.model.mkdir(parents=True, exist_ok=True)
            save_tensors(self.session.folder.model / "best.safetensors", network.state_dict())
            self.session.folder.update_request(best=self.best)

    def _finish(self) -> Outcome:
        """The model as it stands, whether all iterations were done or the run was stopped."""
        trainer, folder = self.trainer, self.session.folder.model
        folder.mkdir(parents=True, exist_ok=True)
        seconds = self.seconds_before + time.monotonic() - self.loop_started
        self.session.folder.update_request(seconds_trained=seconds)
        for name in ("student", "teacher"):
            save_tensors(folder / f"{name}.safetensors", getattr(trainer, name).state_dict())
        model = Model(
            folder=folder,
            name=self.session.request.label or self.session.folder.path.name,
            schema=self.cohort.schema,
            method=self.settings.method,
            plan=self.plan.to_json(),
            largest_component=self._single_component_classes(),
            mirror=self.settings.augmentation.mirror,
            summary={
                "iterations": trainer.iteration,
                "planned_iterations": self.iterations,
                "seconds": round(seconds, 1),
                "annotated_cases": sum(case.annotation is not None for case in self.cases),
                "unlabeled_cases": sum(case.annotation is None for case in self.cases),
                "seed": self.settings.seed,
                "device": str(self.device),
                "versions": versions(),
                "best": self.best,
            },
        )
        model.save_description()
        files = [folder / "model.json", *sorted(folder.glob("*.safetensors"))]
        return Outcome(files=files, iteration=trainer.iteration)

    def _single_component_classes(self) -> tuple[int, ...]:
        """Classes of which predictions keep the largest component only."""
        everything = tuple(range(1, self.plan.n_classes))
        if self.settings.largest_component != "auto":
            return everything if self.settings.largest_component == "on" else ()
        dense = [case.annotation.cpu().numpy() for case in self.cases
                 if case.annotation is not None and not (case.annotation == IGNORE).any()]  # fmt: skip
        return tuple(
            label for label in everything
            if dense and all(scipy.ndimage.label(annotation == label)[1] <= 1 for annotation in dense)
        )  # fmt: skip


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    return {"SemiSupSeg": __version__, "python": platform.python_version(), "torch": torch.__version__,
            "numpy": np.__version__, "system": platform.system()}  # fmt: skip


def _means(collected: list[dict[str, float]]) -> dict[str, float]:
    names = {name for values in collected for name in values}
    return {name: float(np.mean([values[name] for values in collected if name in values])) for name in sorted(names)}


def _dice(labels: torch.Tensor, truth: torch.Tensor, n_classes: int) -> float:
    """Mean Dice over foreground classes on annotated voxels; NaN where truth has none of them."""
    known = truth != IGNORE
    labels, truth = labels[known], truth[known]
    scores = []
    for label in range(1, n_classes):
        ours, theirs = labels == label, truth == label
        if theirs.any():
            scores.append(float(2 * (ours & theirs).sum() / (ours.sum() + theirs.sum())))
    return float(np.mean(scores)) if scores else float("nan")
