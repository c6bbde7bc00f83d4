"""One training step after another: networks, optimiser, teacher, batches, and all of it as a checkpoint."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from ..settings import SettingsError
from ..training_settings import OptimizerSettings, TrainingSettings
from .augmentation import augment_intensity, draw_matrix
from .cases import TrainingCase
from .checkpoints import Checkpoint, load_optimizer_tensors, optimizer_tensors
from .deep_supervision import deep_loss
from .devices import autocast
from .distributed import ALONE, Processes
from .light_optimizers import light
from .methods import METHODS, Composition, Method, Step
from .networks import Features, SegmentationNetwork
from .plan import Plan
from .prediction import build_planned_network, load_weights, to_memory_format
from .sampling import Batch, Patch, choose_cases, cut_batch, draw_centre, random_numbers
from .whereabouts import Whereabouts

_LABELED, _UNLABELED, _STEP = range(3)
"""Streams of random numbers within one iteration."""

GRADIENT_NORM = "gradient norm"
"""Name of the curve of the gradient's length, before it is clipped."""

_DEFAULT_RATES = {"sgd": (1e-2, 1e-4), "adam": (1e-3, 0.0), "adamw": (1e-3, 1e-2)}
"""Learning rate and weight decay by optimiser."""


class Trainer:
    """A training in progress; knows nothing of files, events or time.

    Parameters
    ----------
    settings : TrainingSettings
        How to train.
    plan : Plan
        Grid, patch, network.
    device : torch.device
        Where.
    cases : sequence of TrainingCase
        At least one of them annotated.
    iterations : int
        How many steps the whole training has: every schedule is a function of the share that is done.
    processes : Processes
        Those that take each step together.
    """

    def __init__(
        self,
        settings: TrainingSettings,
        plan: Plan,
        device: torch.device,
        cases: Sequence[TrainingCase],
        iterations: int,
        processes: Processes = ALONE,
    ):
        self.processes = processes
        self.method: Method = METHODS[settings.method].of(settings, plan)
        self.method.iterations = iterations
        self.settings = settings = self.method.adapted(settings)
        self.plan = plan
        self.device = device
        self.replace_cases(cases)
        scribbled = [not case.is_dense for case in cases if case.annotation is not None]
        self.method.learns_from_strokes = 2 * sum(scribbled) >= len(scribbled)
        self.method.learns_from_labels = not all(scribbled)
        self.iterations = iterations
        self.iteration = 0
        self.rate_factor = 1.0
        self._coarser_logits: list[Tensor] = []
        torch.manual_seed(settings.seed)
        self.student, self.teacher = self._fresh_network(), self._fresh_network()
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher.requires_grad_(False)
        self.optimizer = make_optimizer(self.student, settings.optimizer, self.base_rate)

    def _fresh_network(self) -> SegmentationNetwork:
        network = self.processes.prepared(build_planned_network(self.plan))
        return to_memory_format(network.to(self.device)).train()

    @property
    def base_rate(self) -> float:
        """The initial learning rate; a warm start goes on at 30 % of it."""
        rate = self.settings.optimizer.learning_rate or _DEFAULT_RATES[self.settings.optimizer.name][0]
        return rate * (0.3 if self.settings.warm_start else 1.0)

    @property
    def one_piece(self) -> tuple[int, ...]:
        """Classes that are one piece, as far as is known by now: the plan's, until strokes tell."""
        return self.method.one_piece

    @one_piece.setter
    def one_piece(self, classes: tuple[int, ...]) -> None:
        self.method.one_piece = classes

    def replace_cases(self, cases: Sequence[TrainingCase]) -> None:
        """Train on with these cases, or with other annotations of the same ones."""
        self.cases = list(cases)
        self.__dict__.pop("whereabouts", None)

    @functools.cached_property
    def whereabouts(self) -> Whereabouts:
        """Where in their scans each class was painted."""
        painted = (case for case in self.cases if case.annotation is not None)
        return Whereabouts.of((case.strokes.cpu().numpy(), case.geometry) for case in painted)

    @property
    def fraction(self) -> float:
        """Share of the training that is done, 0..1."""
        return self.iteration / self.iterations

    def step(self) -> dict[str, float]:
        """One step; returns its losses and curves as numbers.

        All random numbers, torch's included, derive from the seed and the iteration, so a resumed training draws the
        same ones.
        """
        return self.step_at(self.fraction)

    def step_at(self, fraction: float) -> dict[str, float]:
        """One step as it is at a share of the training; for measuring what steps cost."""
        self.processes.seed(hash_of(self.settings.seed, self.iteration))
        rate = self._set_rate(fraction)
        step = self._prepare(fraction)
        losses = self.method.training_step(step)
        total, parts = losses.total, losses.parts
        if self.plan.deep_supervision:
            deep = deep_loss(self._coarser_logits, step.labeled.annotation)
            total, parts, self._coarser_logits = total + deep, {**parts, "deep supervision": deep}, []
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        self.processes.add_up_gradients(self.student.parameters())
        limit = self.settings.optimizer.gradient_clip or math.inf
        norm = nn.utils.clip_grad_norm_(self.student.parameters(), limit)
        self.optimizer.step()
        self.method.update_teacher(self.student, self.teacher, self._teacher_decay(), self.iteration)
        self.iteration += 1
        curves = {"loss": total, **parts, GRADIENT_NORM: norm}
        values = torch.stack([torch.as_tensor(value, dtype=torch.float32, device=self.device).detach()
                              for value in curves.values()])  # fmt: skip
        return {**dict(zip(curves, values.tolist(), strict=True)), "learning rate": rate}

    def warm_start(self, weights: dict[str, Tensor], source: str) -> None:
        """Begin with the weights of an earlier model."""
        for network in (self.student, self.teacher):
            load_weights(network, weights, source)

    def checkpoint(self) -> Checkpoint:
        """Everything that must be kept."""
        return Checkpoint(
            self.iteration,
            self.student.state_dict(),
            self.teacher.state_dict(),
            optimizer_tensors(self.optimizer),
            {
                "method": self.method.state(),
                "rate_factor": self.rate_factor,
                "one_piece": list(self.one_piece),
                "learns_from_strokes": self.method.learns_from_strokes,
                "unlabeled_start": self.method.unlabeled_start,
            },
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint, with the same numbers as if there had been no stop."""
        self.iteration = checkpoint.iteration
        load_weights(self.student, checkpoint.student, "the checkpoint")
        load_weights(self.teacher, checkpoint.teacher, "the checkpoint")
        load_optimizer_tensors(self.optimizer, checkpoint.optimizer)
        self.method.load_state(checkpoint.state["method"])
        self.rate_factor = float(checkpoint.state["rate_factor"])
        self.one_piece = tuple(checkpoint.state.get("one_piece", self.one_piece))
        if "unlabeled_start" in checkpoint.state:
            self.method.learns_from_strokes = bool(checkpoint.state["learns_from_strokes"])
            self.method.start_before_stop = float(checkpoint.state["unlabeled_start"])
        else:  # as the version before had it
            annotated = [case for case in self.cases if case.annotation is not None]
            self.method.learns_from_strokes = not all(case.is_dense for case in annotated)
            self.method.fewest_steps_alone = 0

    def move_to(self, device: torch.device) -> None:
        """Move networks and optimiser, to leave a GPU while paused and to come back."""
        for network in (self.student, self.teacher):
            network.to(device)
        for state in self.optimizer.state.values():
            for key, value in state.items():
                if isinstance(value, Tensor) and key != "step":
                    state[key] = value.to(device)

    # A step's parts -----------------------------------------------------------------------------------------------

    def composition(self, fraction: float) -> Composition:
        """What the batch of a step at this fraction of the training holds, of the cases that there are."""
        wanted = self.method.composition(fraction)
        is_enough = self.method.learns_beside_annotations and all(case.annotation is not None for case in self.cases)
        return replace(wanted, unlabeled=0) if is_enough else wanted

    def _prepare(self, fraction: float) -> Step:
        composition = self.composition(fraction)
        numbers = random_numbers(self.settings.seed, self.iteration, _STEP)
        annotated = [case for case in self.cases if case.annotation is not None]
        unlabeled = [case for case in self.cases if case.annotation is None] or annotated
        return Step(
            labeled=self._draw(annotated, composition.labeled, _LABELED),
            unlabeled=self._draw(unlabeled, composition.unlabeled, _UNLABELED) if composition.unlabeled else None,
            student=lambda x: self._forward_student(x)[0],
            teacher=lambda x, dropout=False: self._forward_teacher(x, dropout)[0],
            student_features=lambda x: Features(*self._forward_student(x, embedding=True)),
            teacher_features=lambda x, dropout=False: Features(*self._forward_teacher(x, dropout, embedding=True)),
            strong=lambda image: augment_intensity(image, self.settings.augmentation, numbers),
            iteration=self.iteration,
            iterations=self.iterations,
            fraction=fraction,
            numbers=numbers,
        )

    def _draw(self, cases: Sequence[TrainingCase], count: int, stream: int) -> Batch:
        chosen = choose_cases(len(cases), count, random_numbers(self.settings.seed, self.iteration, stream))
        patches = []
        for sample, index in enumerate(chosen):
            numbers = random_numbers(self.settings.seed, self.iteration, stream, sample + 1)
            case = cases[index]
            centre = draw_centre(
                case,
                self.plan.patch_shape,
                numbers,
                annotated=stream == _LABELED,
                foreground_fraction=self.settings.foreground_fraction,
            )
            spacing = case.geometry.spacing[::-1]
            matrix = draw_matrix(self.settings.augmentation, spacing, self.plan.dimensions, numbers)
            patches.append(Patch(int(index), centre, matrix))
        return cut_batch(cases, patches, self.plan.patch_shape).to(self.device)

    def _forward_student(self, x: Tensor, *, embedding: bool = False) -> list[Tensor]:
        """Logits of the whole batch and, where wanted, the embedding."""
        wanted = 1 + embedding

        def forward(share: Tensor) -> list[Tensor]:
            with autocast(self.device, self.plan.precision):
                features, coarser = self.student.forward_levels(to_memory_format(share))
            return [*features[:wanted], *coarser]

        outputs = self.processes.through(forward, x)
        # Deep supervision wants a step's first pass, which has the annotated patches.
        self._coarser_logits = self._coarser_logits or outputs[wanted:]
        return outputs[:wanted]

    @torch.no_grad()
    def _forward_teacher(self, x: Tensor, dropout: bool, *, embedding: bool = False) -> list[Tensor]:
        """The same of the teacher."""

        def forward(share: Tensor) -> list[Tensor]:
            with autocast(self.device, self.plan.precision):
                return list(self.teacher.forward_features(to_memory_format(share))[: 1 + embedding])

        self.teacher.train(dropout)
        try:
            return self.processes.through(forward, x)
        finally:
            self.teacher.train()

    def _set_rate(self, fraction: float) -> float:
        optimizer = self.settings.optimizer
        rate = self.base_rate * self.rate_factor
        if optimizer.schedule == "poly":
            rate *= (1 - min(fraction, 1 - 1e-6)) ** 0.9
        if optimizer.warmup > 0 and not self.settings.warm_start:
            rate *= min(1.0, (fraction + 1 / self.iterations) / optimizer.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _teacher_decay(self) -> float:
        """a = min(1 - 1/(t+1), decay, 1 - 10/N)."""
        decay = min(self.settings.teacher.decay, max(0.0, 1 - 10 / self.iterations))
        return decay if self.settings.warm_start else min(decay, 1 - 1 / (self.iteration + 1))


def make_optimizer(network: nn.Module, settings: OptimizerSettings, rate: float) -> torch.optim.Optimizer:
    """The optimiser that settings name; `rate` is its initial learning rate."""
    decay = _DEFAULT_RATES[settings.name][1] if settings.weight_decay is None else settings.weight_decay
    parameters = list(network.parameters())
    if settings.name == "sgd":
        return light(torch.optim.SGD)(parameters, rate, momentum=settings.momentum, weight_decay=decay)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}.get(settings.name)
    if kind is None:
        raise SettingsError(f"There is no optimiser '{settings.name}'.")
    return light(kind)(parameters, rate, betas=(settings.momentum, 0.999), weight_decay=decay)


def hash_of(seed: int, iteration: int) -> int:
    """A seed for torch from a run's seed and an iteration."""
    return int(np.random.SeedSequence((seed, iteration)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def is_finite(values: dict[str, float]) -> bool:
    """Whether a step's loss is a number, and its gradient too: one that isn't has just spoilt all weights."""
    return math.isfinite(values["loss"]) and math.isfinite(values[GRADIENT_NORM])
