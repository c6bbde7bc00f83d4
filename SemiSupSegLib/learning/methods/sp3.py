"""SP3: superpixel-propagated pseudo-label learning for scribbles and unlabeled images.

After Li, Zhao, Liu, Dai, Zhang, Song: "Superpixel-propagated pseudo-label learning for weakly semi-supervised medical
image segmentation" (arXiv 2411.11636), of which only the abstract's three ideas were available: scribbles expanded over
superpixels, a dynamic threshold that selects beneficial superpixels, and superpixel-level uncertainty. How they are
worked out here is this project's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import scipy.ndimage
import torch
from torch import Tensor

from ...labels import BEYOND, IGNORE
from ...method_settings import SP3Settings
from ...training_settings import TrainingSettings
from ..losses import class_balanced, partial_loss, weighted_cross_entropy, weighted_dice, winners
from ..plan import Plan
from ..sampling import Batch
from ..supervoxels import superpixel_mean
from .base import Losses, Method, Step, softmax
from .class_volumes import ClassVolumes


@dataclass(frozen=True)
class Superpixels:
    """What the teacher thinks of a batch's superpixels.

    Attributes
    ----------
    probability : torch.Tensor
        ``(n, C)``: P_s, the mean of the teacher's probabilities over a superpixel.
    of_voxel : torch.Tensor
        ``(B, *spatial)``: row of each voxel's superpixel, -1 outside the image.
    """

    probability: Tensor
    of_voxel: Tensor

    @property
    def label(self) -> Tensor:
        """c_s = argmax P_s, ``(n,)``."""
        return self.probability.argmax(dim=1)

    @property
    def confidence(self) -> Tensor:
        """q_s = max P_s, ``(n,)``."""
        return self.probability.amax(dim=1)

    @property
    def uncertainty(self) -> Tensor:
        """u_s = min(1, H(P_s) / ln 2), ``(n,)``: 1 for a superpixel half one class, half another."""
        return (torch.special.entr(self.probability).sum(dim=1) / math.log(2)).clamp(0, 1)

    def on_voxels(self, values: Tensor, outside: float) -> Tensor:
        """A value of each superpixel ``(n,)`` spread over its voxels ``(B, *spatial)``."""
        spread = values[self.of_voxel.clamp_min(0)]
        return torch.where(self.of_voxel >= 0, spread, torch.full_like(spread, outside))

    def touched(self, voxels: Tensor) -> Tensor:
        """``(n,)`` bool: superpixels with at least one voxel of a mask ``(B, *spatial)``."""
        rows = self.of_voxel[voxels & (self.of_voxel >= 0)]
        found = torch.zeros(len(self.probability), dtype=torch.bool, device=rows.device)
        found[rows] = True
        return found


class PseudoLabels(NamedTuple):
    """What a student learns beside annotations.

    Attributes
    ----------
    labels : torch.Tensor
        ``(B, *spatial)`` uint8.
    certainty : torch.Tensor
        ``(B, *spatial)`` float32: 1 - u_s, and 1 on annotated and expanded voxels.
    counted : torch.Tensor
        ``(B, *spatial)`` bool: voxels of the image whose label isn't doubtful for other reasons than uncertainty.
    parts : dict
        Numbers for the curves.
    """

    labels: Tensor
    certainty: Tensor
    counted: Tensor
    parts: dict[str, Tensor | float]


class DynamicThreshold:
    """tau_c: how confident a superpixel of class c must be, following how confident the teacher is.

    ``tau_c <- m tau_c + (1 - m) mean{ q_s : c_s = c }`` over a batch's unscribbled superpixels, from 1/C on, clipped.
    A class that no superpixel is predicted as keeps its threshold.
    """

    def __init__(self, n_classes: int, settings: SP3Settings):
        self.settings = settings
        self.tau = torch.full((n_classes,), 1.0 / n_classes, dtype=torch.float64)

    def update(self, superpixels: Superpixels, counted: Tensor, momentum: float) -> None:
        """Follow a batch; `counted` ``(n,)`` marks the superpixels without scribble."""
        label, confidence = superpixels.label[counted], superpixels.confidence[counted].double()
        n_classes = len(self.tau)
        total = torch.zeros(n_classes, dtype=torch.float64, device=label.device).index_add_(0, label, confidence)
        count = torch.bincount(label, minlength=n_classes)
        mean = (total / count.clamp_min(1)).cpu()
        followed = momentum * self.tau + (1 - momentum) * mean
        self.tau = torch.where(count.cpu() > 0, followed, self.tau)

    @property
    def value(self) -> Tensor:
        """The thresholds in force, ``(C,)``."""
        if not self.settings.dynamic_threshold:
            return torch.full_like(self.tau, self.settings.fixed_threshold)
        return self.tau.clamp(self.settings.threshold_minimum, self.settings.threshold_maximum)

    def beneficial(self, superpixels: Superpixels) -> Tensor:
        """``(n,)`` bool: q_s >= tau_{c_s}."""
        tau = self.value.to(superpixels.probability)
        return superpixels.confidence >= tau[superpixels.label]


class MeanCertainty:
    """How certain pseudo-labels of each class are on average.

    Those of small classes are less certain. So weights by certainty would take share from them, the student would find
    too little, and so would its teacher in turn. Weights over their class's mean leave every class its share.
    """

    most = 4.0
    """How much a label weighs at most: where hardly anything of a class is certain, all of it should weigh little."""

    def __init__(self, n_classes: int):
        self.total = torch.zeros(n_classes, dtype=torch.float64)
        self.voxels = torch.zeros(n_classes, dtype=torch.float64)

    def update(self, found: PseudoLabels, momentum: float) -> None:
        """Follow the pseudo-labels of a batch."""
        labels, certainty = found.labels[found.counted].long(), found.certainty[found.counted].double()
        total = torch.zeros(len(self.total), dtype=torch.float64, device=labels.device)
        voxels = torch.bincount(labels, minlength=len(total))
        self.total = momentum * self.total + (1 - momentum) * total.index_add_(0, labels, certainty).cpu()
        self.voxels = momentum * self.voxels + (1 - momentum) * voxels.cpu()

    def relative(self, found: PseudoLabels) -> Tensor:
        """Certainty over the mean of its class, ``(B, *spatial)``."""
        scale = torch.where(self.total > 0, self.voxels / self.total.clamp_min(1e-12), 1.0).clamp_max(self.most)
        return found.certainty * scale.to(found.certainty)[found.labels.long()]


class SP3(Method):
    """Student and EMA teacher; expanded scribbles and refined, weighted pseudo-labels beside the scribbles.

    ``L = L_scr + l_e L_exp + lambda(t) L_pl``, where ``L_scr`` is exactly the loss of `partial`. After strokes,
    expanded scribbles are mostly background, so there their cross-entropy balances the classes a little. Pseudo-labels
    should neither grow nor shrink an object from teacher to student to teacher: their certainty takes nothing from a
    class's share (`MeanCertainty`), and annotated scans tell how much of a class other scans should have
    (`ClassVolumes`). After dense labels, which teach better than pseudo-labels do, these just weigh less.
    """

    name = "sp3"
    uses_unlabeled = True
    uses_superpixels = True
    learns_beside_annotations = True
    fewest_steps_alone = 250
    """A younger teacher is wrong nearly everywhere in scans without strokes, and stays so."""
    early_start, late_start = 0.06, 0.3
    """Shares of the training. Late after dense labels, and where nothing will be known of what surrounds strokes: there
    a young teacher may find the object where nobody painted. Of three trainings on the left atrium, with four scribbled
    scans, one did: Dice 0.45."""
    weight_after_strokes, weight_after_labels = 1.0, 0.3
    """Of pseudo-labels. After four dense labels of the left atrium, parts of it went missing at 1 (recall 0.3 to 0.6 in
    some scans); at 0.3 and 0.1 no scan had less than 0.67."""

    def __init__(self, settings: TrainingSettings, plan: Plan):
        super().__init__(settings, plan)
        self.options = settings.sp3
        self.threshold = DynamicThreshold(plan.n_classes, self.options)
        self.mean_certainty = MeanCertainty(plan.n_classes)
        self.volumes = ClassVolumes(plan.n_classes)

    @property
    def usual_start(self) -> float:
        is_known = len(self.plan.largest_component) == self.plan.n_classes - 1
        may_be_known = self.looks_beyond(self.settings, self.plan) and (is_known or not self.learns_from_labels)
        return self.early_start if self.learns_from_strokes and may_be_known else self.late_start

    @property
    def balance(self) -> float:
        """How much expanded scribbles balance classes: only where half of the annotated scans or more have strokes."""
        return self.options.class_balance if self.learns_from_strokes else 0.0

    @property
    def pseudo_weight(self) -> float:
        """How much pseudo-labels count after their ramp."""
        usual = self.weight_after_strokes if self.learns_from_strokes else self.weight_after_labels
        return usual if self.options.pseudo_weight is None else self.options.pseudo_weight

    def unlabeled_weight(self, fraction: float) -> float:
        return super().unlabeled_weight(fraction) if self.pseudo_weight > 0 else 0.0

    def training_step(self, step: Step) -> Losses:
        weight = self.pseudo_weight * self.unlabeled_weight(step.fraction)
        if weight == 0:
            logits = step.student(step.strong(step.labeled.image))
            return self.annotated_losses(logits, step.labeled)
        batch = step.all
        pseudo_labels = self.pseudo_labels(softmax(step.teacher(batch.image)), batch, step)
        logits = step.student(step.strong(batch.image))
        annotated = self.annotated_losses(step.split(logits)[0], step.labeled)
        pseudo = (
            weighted_cross_entropy(logits, pseudo_labels.labels, self.balanced(pseudo_labels, step)).value
            + weighted_dice(softmax(logits), pseudo_labels.labels, pseudo_labels.certainty).value
        )
        return annotated.plus(weight * pseudo, {"pseudo": pseudo, **pseudo_labels.parts})

    def balanced(self, pseudo_labels: PseudoLabels, step: Step) -> Tensor:
        """Weights of the cross-entropy on pseudo-labels, ``(B, *spatial)``."""
        if not self.learns_from_strokes:
            return pseudo_labels.certainty
        if self.options.pseudo_balance is None:
            self.mean_certainty.update(pseudo_labels, self._momentum(step.iterations))
            return self.mean_certainty.relative(pseudo_labels)
        balance, n_classes = self.options.pseudo_balance, self.plan.n_classes
        return class_balanced(pseudo_labels.certainty, pseudo_labels.labels, n_classes, balance)

    def annotated_losses(self, logits: Tensor, batch: Batch) -> Losses:
        """L_scr + l_e L_exp."""
        supervised = partial_loss(logits, batch.annotation).value
        losses = Losses(supervised, {"supervised": supervised})
        if self.options.expansion_weight == 0:
            return losses
        labels = self.expanded(batch)
        known = class_balanced(labels != IGNORE, labels, self.plan.n_classes, self.balance, per_case=True)
        expanded = weighted_cross_entropy(logits, labels, known).value
        return losses.plus(self.options.expansion_weight * expanded, {"expanded": expanded})

    def expanded(self, batch: Batch) -> Tensor:
        """The expanded scribbles of a batch, ``(B, *spatial)`` uint8."""
        if batch.expanded is None:
            return batch.annotation
        beyond = 0 if self.beyond_is_background else IGNORE
        return batch.expanded.masked_fill(batch.expanded == BEYOND, beyond)

    @torch.no_grad()
    def pseudo_labels(self, teacher: Tensor, batch: Batch, step: Step) -> PseudoLabels:
        """Refined pseudo-labels and their weights.

        In order of priority: scribble, expanded scribble, the class of a beneficial superpixel, the teacher's own,
        the teacher's probabilities being aligned before.

        Parameters
        ----------
        teacher : torch.Tensor
            ``(B, C, *spatial)`` probabilities.
        """
        teacher, superpixels = self.aligned(teacher, batch)
        expanded = self.expanded(batch)
        known = expanded != IGNORE
        self.threshold.update(superpixels, ~superpixels.touched(known), self._momentum(step.iterations))
        plain = winners(teacher).to(torch.uint8)
        doubtful = torch.zeros_like(plain, dtype=torch.bool)
        one_piece = self.one_piece if self.options.largest_component else ()
        if one_piece:
            plain, doubtful = largest_components(plain, one_piece)
        labels = plain
        beneficial = self.threshold.beneficial(superpixels)
        chosen = superpixels.on_voxels(beneficial, False)
        if self.options.refinement:
            agreed = superpixels.on_voxels(superpixels.label, 0).to(torch.uint8)
            if one_piece:
                agreed, cut = largest_components(torch.where(chosen, agreed, plain), one_piece)
                doubtful |= cut
            labels = torch.where(chosen, agreed, labels)
        certainty = torch.ones_like(teacher[:, 0])
        if self.options.uncertainty_weights:
            certain = 1 - superpixels.uncertainty
            if self.options.uncertainty_form == "exponential":
                certain = torch.exp(-superpixels.uncertainty)
            certainty = superpixels.on_voxels(certain, 0.0)
        certainty = torch.where(doubtful, torch.zeros_like(certainty), certainty)
        if self.options.discard_others:
            certainty = torch.where(chosen, certainty, torch.zeros_like(certainty))
        parts = {
            "beneficial": beneficial.float().mean(),
            "changed": (labels != plain).float().mean(),
            "certainty": certainty.mean(),
            **{f"tau {index}": float(tau) for index, tau in enumerate(self.threshold.value)},
        }
        labels = torch.where(known, expanded, labels)
        labels = torch.where(batch.annotation != IGNORE, batch.annotation, labels)
        certainty = torch.where(known, torch.ones_like(certainty), certainty)
        counted = (known | ~doubtful) & (superpixels.of_voxel >= 0)
        return PseudoLabels(labels, certainty, counted, parts)

    def aligned(self, teacher: Tensor, batch: Batch) -> tuple[Tensor, Superpixels]:
        """The teacher's probabilities and superpixels, where a scan has unusually much or little of an object changed.

        Objects are the classes that are one piece, as an organ is: of others, a scan may hold none.
        """
        superpixels = Superpixels(*superpixel_mean(teacher, batch.superpixels)[:2])
        if not (self.options.align_volumes and self.learns_from_strokes):
            return teacher, superpixels
        self.volumes.update(batch, superpixels.of_voxel, superpixels.label)
        factors = self.volumes.factors(batch.cases, self.one_piece)
        if factors is None:
            return teacher, superpixels
        changed = teacher * factors.to(teacher).view(*factors.shape, *[1] * (teacher.ndim - 2))
        changed = changed / changed.sum(dim=1, keepdim=True)
        return changed, Superpixels(*superpixel_mean(changed, batch.superpixels)[:2])

    @staticmethod
    def _momentum(iterations: int) -> float:
        """m = min(0.99, 1 - 1/(0.02 N)), so that tau follows within a fiftieth of the training."""
        return min(0.99, max(0.0, 1 - 1 / (0.02 * iterations)))

    def state(self) -> dict[str, Any]:
        return {
            "tau": self.threshold.tau.tolist(),
            "certainty": [self.mean_certainty.total.tolist(), self.mean_certainty.voxels.tolist()],
            "volumes": self.volumes.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.threshold.tau = torch.tensor(state["tau"], dtype=torch.float64)
        nothing = [0.0] * self.plan.n_classes  # of a version that knew thresholds only
        total, voxels = (torch.tensor(each, dtype=torch.float64) for each in state.get("certainty", [nothing] * 2))
        self.mean_certainty.total, self.mean_certainty.voxels = total, voxels
        self.volumes.load_state(state.get("volumes", {}))


def largest_components(labels: Tensor, classes: Iterable[int]) -> tuple[Tensor, Tensor]:
    """Pseudo-labels in which some classes keep their largest component in a patch.

    What else lies wholly inside the patch becomes background. What touches the patch's border may be connected outside,
    so nobody knows: it becomes background too, but is marked.

    Parameters
    ----------
    labels : torch.Tensor
        ``(B, *spatial)`` uint8.
    classes : iterable of int
        The classes that are one piece.

    Returns
    -------
    labels : torch.Tensor
        Of the same shape.
    doubtful : torch.Tensor
        ``(B, *spatial)`` bool: what was taken away at the border.
    """
    cleaned, doubtful = labels.cpu().numpy().copy(), np.zeros(labels.shape, dtype=bool)
    for sample, doubt in zip(cleaned, doubtful, strict=True):
        for label in classes:
            components, n_components = scipy.ndimage.label(sample == label)
            if n_components < 2:
                continue
            sizes = np.bincount(components.ravel())
            sizes[0] = 0
            others = (components > 0) & (components != sizes.argmax())
            at_border = np.zeros(n_components + 1, dtype=bool)
            for axis in range(components.ndim):
                at_border[components.take((0, -1), axis)] = True
            sample[others] = 0
            doubt |= others & at_border[components]
    return torch.from_numpy(cleaned).to(labels.device), torch.from_numpy(doubtful).to(labels.device)
