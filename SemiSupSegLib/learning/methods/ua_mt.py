"""UA-MT: mean teacher, but only where Monte Carlo dropout says that the teacher is sure.

After Yu, Wang, Li, Fu, Heng: "Uncertainty-aware self-ensembling model for semi-supervised 3D left atrium segmentation"
(MICCAI 2019) and its code, whose consistency loss is taken over unlabeled images.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from ...training_settings import TrainingSettings
from ..losses import consistency_mse, entropy, ramp_sigmoid
from ..plan import Plan
from .base import Losses, Method, Step, noisy, softmax


def uncertainty_threshold(progress: float) -> float:
    """``(3/4 + 1/4 ramp) ln 2`` nats: voxels of less entropy are certain. T/T_N is `progress`.

    ln 2 for any number of classes: with ln C hardly a voxel between two of several classes would count as uncertain.
    """
    return (0.75 + 0.25 * ramp_sigmoid(progress)) * math.log(2)


def monte_carlo_passes(step: Step, image: Tensor, passes: int, noise: float) -> Tensor:
    """The teacher's logits ``(M, B, C, *spatial)`` of as many noisy copies, all with dropout, in one forward pass."""
    copies = image.repeat(passes, *(1,) * (image.dim() - 1))
    logits = step.teacher(noisy(copies, noise), dropout=True)
    return logits.unflatten(0, (passes, len(image)))


class UncertaintyAwareMeanTeacher(Method):
    """``L = L_S + w(t) L_c``, ``L_c = sum_v 1[u_v < H] || f'_v - f_v ||^2 / sum_v 1[u_v < H]`` (equations 1 and 3)."""

    name = "ua_mt"
    uses_unlabeled = True
    learns_beside_annotations = True

    def __init__(self, settings: TrainingSettings, plan: Plan):
        super().__init__(settings, plan)
        self.options = settings.ua_mt

    @classmethod
    def network_needs(cls, settings: TrainingSettings) -> dict[str, Any]:
        """Dropout, without which passes would differ by noise alone; a V-Net has the paper's own of 0.5."""
        return {} if settings.plan.network == "vnet" else {"dropout": settings.ua_mt.dropout}

    def unlabeled_weight(self, fraction: float) -> float:
        return super().unlabeled_weight(fraction) if self.options.weight > 0 else 0.0

    def training_step(self, step: Step) -> Losses:
        weight = self.options.weight * self.unlabeled_weight(step.fraction)
        if weight == 0:
            return self.annotated_losses(step.student(step.strong(step.labeled.image)), step.labeled)
        unlabeled = step.rest.image
        teacher = softmax(step.teacher(noisy(unlabeled, self.options.noise), dropout=True))
        certain = self.certain(step, unlabeled)
        labeled, follower = step.split(step.student(step.strong(step.all.image)))
        consistency = consistency_mse(softmax(follower), teacher, certain).value
        return self.annotated_losses(labeled, step.labeled).plus(
            weight * consistency, {"consistency": consistency, "certain": certain.float().mean()}
        )

    def certain(self, step: Step, image: Tensor) -> Tensor:
        """``(B, *spatial)`` bool: u < H with ``u = - sum_c mu_c ln mu_c``, mu the mean of T passes (equation 2)."""
        logits = monte_carlo_passes(step, image, self.options.passes, self.options.noise)
        mean = softmax(logits.flatten(0, 1)).unflatten(0, logits.shape[:2]).mean(dim=0)
        return entropy(mean) < uncertainty_threshold(self.unlabeled_progress(step.fraction))
