"""What a method is: what it needs, what it draws into a batch, its losses, and its state."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...labels import BEYOND
from ...training_settings import TrainingSettings
from ..losses import partial_loss, ramp_sigmoid, weighted_cross_entropy
from ..plan import Plan
from ..sampling import Batch

_FAR_WEIGHT = 0.5
"""Of what lies beyond strokes of background, beside the loss on strokes; other weights weren't tried."""


@dataclass(frozen=True)
class Composition:
    """How many patches of annotated cases and of any case a batch has."""

    labeled: int
    unlabeled: int = 0


@dataclass
class Step:
    """Everything that one training step of a method works with.

    Attributes
    ----------
    labeled, unlabeled : Batch
        Patches with annotation, and patches of unlabeled cases (None where the method asked for none, or learns from
        annotated ones what it would from them and there are no unlabeled cases).
    student, teacher : callable
        Image ``(B, 1, *spatial)`` to logits ``(B, C, *spatial)`` float32, in the planned precision. The teacher's
        carry no gradient.
    student_features, teacher_features : callable
        The same, to (logits, embedding).
    strong : callable
        Image to image: random changes of intensity. Geometry was changed before, alike for student and teacher.
    iteration, iterations : int
        Steps done, and planned.
    fraction : float
        Share of the training that is done, 0..1.
    numbers : numpy.random.Generator
        This step's random numbers; torch's own generators are seeded for this step too.
    """

    labeled: Batch
    unlabeled: Batch | None
    student: Callable[[Tensor], Tensor]
    teacher: Callable[..., Tensor]
    student_features: Callable[[Tensor], tuple[Tensor, Tensor]]
    teacher_features: Callable[..., tuple[Tensor, Tensor]]
    strong: Callable[[Tensor], Tensor]
    iteration: int
    iterations: int
    fraction: float
    numbers: np.random.Generator

    @property
    def all(self) -> Batch:
        """All patches, the annotated ones first."""
        return self.labeled if self.unlabeled is None else self.labeled.joined(self.unlabeled)

    @property
    def rest(self) -> Batch:
        """The patches to learn from beside annotations: the annotated ones themselves where there are no others."""
        return self.labeled if self.unlabeled is None else self.unlabeled

    def split(self, tensor: Tensor) -> tuple[Tensor, Tensor]:
        """Of what a network makes of `all`, the parts that belong to `labeled` and to `rest`."""
        n_labeled = len(self.labeled)
        return tensor[:n_labeled], tensor if self.unlabeled is None else tensor[n_labeled:]


@dataclass
class Losses:
    """A step's loss, and its parts as numbers for the curves."""

    total: Tensor
    parts: dict[str, Tensor | float]

    def plus(self, term: Tensor, parts: dict[str, Tensor | float]) -> Losses:
        """With a further term, and numbers about it."""
        return Losses(self.total + term, {**self.parts, **parts})


class Method(ABC):
    """Base of all methods.

    A subclass says what it needs in class attributes and writes `training_step`; the training loop owns the networks,
    the optimiser, the teacher's average and the files.
    """

    name = ""
    uses_unlabeled = False
    uses_superpixels = False
    learns_beside_annotations = False
    """Whether annotated patches serve as unlabeled ones, too, where there are no others. Then none are drawn a second
    time where every case is annotated, as often with scribbles, and a step costs less."""
    usual_start = 0.4
    """Share of the training that is spent on annotations alone, unless settings say otherwise."""
    fewest_steps_alone = 0
    """How many steps that are at least, unless settings say otherwise."""
    trains_on = "auto"
    """Which annotation of a case that has both: "auto" (its scribbles) or "dense"."""

    def __init__(self, settings: TrainingSettings, plan: Plan):
        self.settings = settings
        self.plan = plan
        self.iterations = math.inf
        """Of the whole training, once they are known."""
        self.start_before_stop: float | None = None
        """`unlabeled_start` of a resumed training, which keeps it."""
        self.one_piece = plan.largest_component
        """Classes that are one piece, as far as is known by now."""
        self.learns_from_strokes = True
        """Whether half of the annotated cases or more had strokes, not dense labels, when the training began."""
        self.learns_from_labels = False
        """Whether any of them had a dense label then, so that strokes aren't asked what is one piece."""

    @classmethod
    def looks_beyond(cls, settings: TrainingSettings, plan: Plan) -> bool:
        """Whether scribbled cases are asked what lies beyond their strokes of background.

        The answer counts once every class is known to be one piece.
        """
        is_wanted = cls.uses_unlabeled if settings.far_background == "auto" else settings.far_background == "on"
        may_be_known = settings.largest_component == "auto" or len(plan.largest_component) == plan.n_classes - 1
        return is_wanted and may_be_known

    @property
    def unlabeled_start(self) -> float:
        """Share of the training after which the unlabeled branch joins."""
        if self.start_before_stop is not None:
            return self.start_before_stop
        chosen = self.settings.schedule.unlabeled_start
        return max(self.usual_start, min(1.0, self.fewest_steps_alone / self.iterations)) if chosen is None else chosen

    @classmethod
    def of(cls, settings: TrainingSettings, plan: Plan) -> Method:
        """The method, or that variant of it which settings ask for."""
        return cls(settings, plan)

    def adapted(self, settings: TrainingSettings) -> TrainingSettings:
        """The settings to train with: as they are, unless the method reproduces code that had its own."""
        return settings

    @classmethod
    def network_needs(cls, settings: TrainingSettings) -> dict[str, Any]:
        """What the method asks of the network: ``dropout`` and ``dropout_everywhere``, where it does."""
        return {}

    def composition(self, fraction: float) -> Composition:
        """What the batch of a step at this fraction of the training holds."""
        size = self.plan.batch_size
        return Composition(size, size if self.uses_unlabeled and self.unlabeled_weight(fraction) > 0 else 0)

    def unlabeled_weight(self, fraction: float) -> float:
        """Weight 0..1 of the unlabeled branch: none until it starts, then a sigmoid ramp up to 1.

        While it would be below 0.01 it is 0, and nothing is computed for it.
        """
        schedule = self.settings.schedule
        if self.settings.warm_start:
            return 1.0
        start = self.unlabeled_start
        if fraction < start or start >= 1:
            return 0.0
        if schedule.unlabeled_ramp == 0:
            return 1.0
        weight = ramp_sigmoid((fraction - start) / schedule.unlabeled_ramp)
        return weight if weight >= 0.01 else 0.0

    def unlabeled_progress(self, fraction: float) -> float:
        """Share 0..1 of the training with the unlabeled branch that is done: T/T_N for thresholds that follow it."""
        start = 0.0 if self.settings.warm_start else self.unlabeled_start
        return min(max((fraction - start) / (1 - start), 0.0), 1.0) if start < 1 else 0.0

    @abstractmethod
    def training_step(self, step: Step) -> Losses:
        """The losses of one step."""

    def annotated_losses(self, logits: Tensor, batch: Batch) -> Losses:
        """What annotations ask for: cross-entropy and Dice on annotated voxels, a case at a time.

        To it comes half the batch's mean cross-entropy of what lies beyond the strokes of background, where that is
        known. SP3 has a part of its own for that.
        """
        supervised = partial_loss(logits, batch.annotation).value
        losses = Losses(supervised, {"supervised": supervised})
        if batch.expanded is None or not self.beyond_is_background:
            return losses
        is_far = batch.expanded == BEYOND
        beyond = weighted_cross_entropy(logits, torch.zeros_like(batch.expanded), is_far).value
        return losses.plus(_FAR_WEIGHT * beyond, {"beyond": beyond})

    @property
    def beyond_is_background(self) -> bool:
        """Whether every class is one piece: then nothing is left to be found beyond the strokes of background."""
        return len(self.one_piece) == self.plan.n_classes - 1

    @torch.no_grad()
    def update_teacher(self, student: nn.Module, teacher: nn.Module, decay: float, iteration: int) -> None:
        """After the optimiser's step: ``theta' <- a theta' + (1 - a) theta``; buffers are copied.

        Parameters
        ----------
        decay : float
            a, as the settings and the length of the training have it.
        iteration : int
            Steps done before this one.
        """
        theirs, ours = list(teacher.parameters()), [each.detach() for each in student.parameters()]
        torch._foreach_lerp_(theirs, ours, 1 - decay)
        for theirs, ours in zip(teacher.buffers(), student.buffers(), strict=True):
            theirs.copy_(ours)

    def state(self) -> dict[str, Any]:
        """What must be kept from step to step, as plain JSON values."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:  # noqa: B027 (most methods keep nothing)
        """Go on from a state."""


def softmax(logits: Tensor) -> Tensor:
    """Probabilities ``(B, C, *spatial)`` float32."""
    return torch.softmax(logits.float(), dim=1)


def noisy(image: Tensor, deviation: float) -> Tensor:
    """The image with Gaussian noise, clipped at two standard deviations as in UA-MT's code."""
    if deviation == 0:
        return image
    limit = 2 * deviation
    return image + (torch.randn_like(image) * deviation).clamp_(-limit, limit)
