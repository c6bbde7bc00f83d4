"""SGRS: mean teacher with synergy-guided regional supervision of pseudo-labels.

After Wang et al.: "Mean Teacher Based on Synergy-Guided Regional Supervision" (SGRS-Net; arXiv 2411.04493, MICCAI 2025)
and its official code. The student sees an unlabeled patch twice, plain and mixed with an annotated one. Where both
predictions agree, the teacher's pseudo-label trains it as it is; where they differ, with smoothed labels and a smoothed
Dice; where either is undecided, not at all.

This is what the code means to do; ``legacy=True`` is what it does (`sgrs_legacy`). The ramp as published, in fractions,
is ``schedule.unlabeled_start=0 schedule.unlabeled_ramp=0.4``. Two things are added: the grey values of the plain view
are changed as those of annotated patches are (``strong_view=False`` leaves them as they are), and what lies beyond
scribbles of background counts as background (``far_background=off`` leaves it open).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...labels import IGNORE
from ...method_settings import SGRSSettings
from ...training_settings import TrainingSettings
from ..losses import cross_entropy_map, entropy, masked_soft_dice, winners
from ..masked_mean import MaskedMean
from ..plan import Plan
from ..sampling import Batch
from .base import Losses, Method, Step, noisy, softmax

_REFERENCE_VOXELS = 1e6
"""Voxels of the published patch, 112 x 112 x 80, in which Dice was smoothed by 20 voxels."""


@dataclass(frozen=True)
class Regions:
    """Where the student's two views agree, differ, or are undecided.

    `consistent`, `inconsistent` and `uncertain` (which is disregarded) are disjoint and cover every voxel.

    Attributes
    ----------
    same : torch.Tensor
        ``(B, *spatial)`` bool: both views have the same argmax.
    uncertain : torch.Tensor
        ``(B, *spatial)`` bool: either view is undecided.
    """

    same: Tensor
    uncertain: Tensor

    @property
    def consistent(self) -> Tensor:
        return self.same & ~self.uncertain

    @property
    def inconsistent(self) -> Tensor:
        return ~self.same & ~self.uncertain


class SGRS(Method):
    """``L = 1/2 L_S + w(t) 1/2 (L_CE + L_Dice)``; L_S is that on annotations, L_CE and L_Dice are regional."""

    name = "sgrs"
    uses_unlabeled = True
    learns_beside_annotations = True

    def __init__(self, settings: TrainingSettings, plan: Plan):
        super().__init__(settings, plan)
        self.options = settings.sgrs

    @classmethod
    def of(cls, settings: TrainingSettings, plan: Plan) -> SGRS:
        from .sgrs_legacy import LegacySGRS

        return (LegacySGRS if settings.sgrs.legacy else SGRS)(settings, plan)

    @classmethod
    def looks_beyond(cls, settings: TrainingSettings, plan: Plan) -> bool:
        return not settings.sgrs.legacy and super().looks_beyond(settings, plan)

    def unlabeled_weight(self, fraction: float) -> float:
        return super().unlabeled_weight(fraction) if self.options.weight > 0 else 0.0

    def training_step(self, step: Step) -> Losses:
        weight = self.options.weight * self.ramp(step)
        if weight == 0:
            return self.annotated_losses(step.student(self.labeled_view(step)), step.labeled)

        noise = self.options.noise
        perturbed = noisy(step.rest.image, noise)
        pseudo_labels = self.pseudo_labels(step, perturbed)
        mixed = perturbed
        if self.options.mixing:
            partners, are_same = noisy(step.labeled.image, noise), step.unlabeled is None
            mixed, _ = mix(perturbed, partners, self.options.beta, step.numbers, are_same)

        is_plain_view_labeled = step.unlabeled is None and self.options.strong_view
        unlabeled = [] if is_plain_view_labeled else [self.plain_view(step)]
        logits = step.student(torch.cat([self.labeled_view(step), *unlabeled, mixed]))
        labeled = logits[: len(step.labeled)]
        views = labeled if is_plain_view_labeled else logits[len(labeled) : -len(mixed)], logits[-len(mixed) :]
        regions = self.regions(*(softmax(view.detach()) for view in views))
        cross_entropy = sum(self.regional_cross_entropy(view, pseudo_labels, regions).value for view in views) / 2
        dice = sum(self.regional_dice(softmax(view), pseudo_labels, regions) for view in views) / 2
        return self.annotated_losses(labeled, step.labeled).plus(
            weight * 0.5 * (cross_entropy + dice),
            {
                "regional cross-entropy": cross_entropy,
                "regional dice": dice,
                "inconsistent": regions.inconsistent.float().mean(),
                "disregarded": regions.uncertain.float().mean(),
            },
        )

    def ramp(self, step: Step) -> float:
        """w(t), 0..1."""
        return self.unlabeled_weight(step.fraction)

    def labeled_view(self, step: Step) -> Tensor:
        """The annotated patches as the student sees them: augmented like those of every method."""
        return step.strong(step.labeled.image)

    def plain_view(self, step: Step) -> Tensor:
        """The unlabeled patches that aren't mixed with others, as the student sees them."""
        return step.strong(step.rest.image) if self.options.strong_view else step.rest.image

    def annotated_losses(self, logits: Tensor, batch: Batch) -> Losses:
        """Half of what annotations ask for in other methods, ``1/2 (CE + Dice)``; its parts are whole."""
        losses = super().annotated_losses(logits, batch)
        return Losses(0.5 * losses.total, losses.parts)

    @torch.no_grad()
    def pseudo_labels(self, step: Step, perturbed: Tensor) -> Tensor:
        """yhat, ``(B, *spatial)``: the teacher's argmax on noisy patches; the annotation where there is one."""
        labels = winners(step.teacher(perturbed, dropout=self.options.teacher_dropout)).to(torch.uint8)
        known = step.rest.annotation
        return torch.where(known != IGNORE, known, labels)

    def regions(self, plain: Tensor, mixed: Tensor) -> Regions:
        """Regions of the student's predictions ``(B, C, *spatial)`` of both views."""
        same = winners(plain) == winners(mixed)
        if not self.options.regions:
            return Regions(torch.ones_like(same), torch.zeros_like(same))
        return Regions(same, self.is_uncertain(plain) | self.is_uncertain(mixed))

    def is_uncertain(self, probabilities: Tensor) -> Tensor:
        """Whether a prediction ``(B, C, *spatial)`` is nearly a draw, ``(B, *spatial)`` bool."""
        return is_nearly_a_draw(probabilities, self.options)

    def regional_cross_entropy(self, logits: Tensor, labels: Tensor, regions: Regions) -> MaskedMean:
        """Cross-entropy where views agree, label-smoothed where they differ, over the number of all voxels."""
        losses = cross_entropy_map(logits, labels) * regions.consistent
        if self.options.inconsistent_region:
            smoothed = cross_entropy_map(logits, labels, self.options.label_smoothing)
            losses = losses + smoothed * regions.inconsistent
        return MaskedMean(losses.sum(), losses.new_tensor(float(losses.numel())))

    def regional_dice(self, probabilities: Tensor, labels: Tensor, regions: Regions) -> Tensor:
        """Mean of the Dice losses of both regions, that of the inconsistent one more smoothed.

        The smoothing is a number of voxels and shrinks with the patch. Of many classes only those count that are there.
        """
        options, several = self.options, self.plan.n_classes > 2
        consistent = masked_soft_dice(
            probabilities, labels, regions.consistent, options.consistent_smooth, present_only=several
        ).value
        if not options.inconsistent_region:
            return consistent / 2
        smooth = max(options.consistent_smooth, options.inconsistent_smooth * labels[0].numel() / _REFERENCE_VOXELS)
        inconsistent = masked_soft_dice(probabilities, labels, regions.inconsistent, smooth, present_only=several).value
        return (consistent + inconsistent) / 2


def mix(
    unlabeled: Tensor, labeled: Tensor, beta: float, numbers: np.random.Generator, are_same: bool = False
) -> tuple[Tensor, Tensor]:
    """``M_i = lam_i U_i + (1 - lam_i) X_j`` with j a random partner and ``lam = max(b, 1 - b)``, b ~ Beta(a, a).

    Parameters
    ----------
    unlabeled, labeled : torch.Tensor
        ``(B, 1, *spatial)`` images; the number of labeled ones may be another.
    are_same : bool
        Whether both are the same patches: then none is its own partner, if there are two or more.

    Returns
    -------
    mixed : torch.Tensor
        Of the shape of `unlabeled`, whose labels stay the labels of the mixture.
    lam : torch.Tensor
        ``(B,)``, 0.5 to 1.
    """
    if are_same:
        partners = (np.arange(len(labeled)) + numbers.integers(1, max(2, len(labeled)))) % len(labeled)
    else:
        partners = np.resize(numbers.permutation(len(labeled)), len(unlabeled))
    drawn = numbers.beta(beta, beta, len(unlabeled))
    lam = torch.as_tensor(np.maximum(drawn, 1 - drawn), dtype=unlabeled.dtype, device=unlabeled.device)
    share = lam.view(-1, *(1,) * (unlabeled.dim() - 1))
    return share * unlabeled + (1 - share) * labeled[torch.from_numpy(partners).to(labeled.device)], lam


def is_nearly_a_draw(probabilities: Tensor, options: SGRSSettings) -> Tensor:
    """Voxels ``(B, *spatial)`` at which the classes of a prediction ``(B, C, *spatial)`` are about equally probable.

    The margin between the two largest probabilities equals the code's band (tau, 1 - tau) at C = 2, and keeps its
    meaning for more classes, where hardly any voxel comes near the largest entropy.
    """
    if options.uncertain_rule == "none":
        return torch.zeros_like(probabilities[:, 0], dtype=torch.bool)
    if options.uncertain_rule == "entropy":
        return entropy(probabilities) > options.entropy * math.log(probabilities.shape[1])
    if probabilities.shape[1] == 2:  # the same in a quarter of topk's time
        return (probabilities[:, 0] - probabilities[:, 1]).abs() < options.margin
    first, second = probabilities.topk(2, dim=1).values.unbind(dim=1)
    return first - second < options.margin
