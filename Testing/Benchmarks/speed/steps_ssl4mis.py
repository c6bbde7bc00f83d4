"""The steps of SSL4MIS's mean teacher and UA-MT as methods of ours: the same losses, so that steps can be compared.

What differs from our own forms (`methods.mean_teacher`, `methods.ua_mt`): only unlabeled patches are compared with the
teacher, Dice has squares in its denominator and is taken over the batch, and ramps count iterations.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from SemiSupSegLib.learning.losses import ramp_sigmoid
from SemiSupSegLib.learning.methods import Composition, Losses, Method, Step
from SemiSupSegLib.learning.methods.base import noisy, softmax

_NOISE, _WEIGHT = 0.1, 0.1
_EPOCH_ITERATIONS, _RAMP_EPOCHS = 150, 200
_PASSES, _COPIES = 8, 2


class MeanTeacherOfSSL4MIS(Method):
    """``train_mean_teacher_3D.py``: ``1/2 (CE + Dice) + w mean((p - p')^2)``."""

    name = "mean_teacher"
    uses_unlabeled = True

    def composition(self, fraction: float) -> Composition:
        return Composition(self.plan.batch_size, self.plan.batch_size)

    def training_step(self, step: Step) -> Losses:
        teacher = step.teacher(noisy(step.unlabeled.image, _NOISE), dropout=True)
        weight = self.weight_of(step, step.unlabeled.image)
        logits = step.student(torch.cat([step.labeled.image, step.unlabeled.image]))
        labeled, follower = step.split(logits)
        target = step.labeled.annotation.long()
        supervised = 0.5 * (functional.cross_entropy(labeled, target) + _dice(softmax(labeled), target))
        consistency = self.consistency((softmax(follower) - softmax(teacher)).square(), weight)
        ramp = _WEIGHT * ramp_sigmoid(step.iteration // _EPOCH_ITERATIONS / _RAMP_EPOCHS)
        return Losses(supervised + ramp * consistency, {"supervised": supervised, "consistency": consistency})

    def weight_of(self, step: Step, image: Tensor) -> Tensor | None:
        """Weight of each voxel in the consistency."""
        return None

    def consistency(self, difference: Tensor, weight: Tensor | None) -> Tensor:
        return difference.mean()


class UncertaintyAwareOfSSL4MIS(MeanTeacherOfSSL4MIS):
    """``train_uncertainty_aware_mean_teacher_3D.py``: only where eight passes of the teacher agree."""

    name = "ua_mt"

    @torch.no_grad()
    def weight_of(self, step: Step, image: Tensor) -> Tensor:
        total = torch.zeros(())
        copies = torch.cat([image] * _COPIES)
        for _ in range(_PASSES // _COPIES):
            logits = step.teacher(noisy(copies, _NOISE), dropout=True)
            total = total + softmax(logits).unflatten(0, (_COPIES, len(image))).sum(dim=0)
        mean = total / _PASSES
        uncertainty = -(mean * torch.log(mean + 1e-6)).sum(dim=1, keepdim=True)
        return (uncertainty < (0.75 + 0.25 * ramp_sigmoid(step.fraction)) * math.log(2)).float()

    def consistency(self, difference: Tensor, weight: Tensor) -> Tensor:
        return (weight * difference).sum() / (2 * weight.sum() + 1e-16)


def _dice(probabilities: Tensor, target: Tensor) -> Tensor:
    losses = []
    for label, p in enumerate(probabilities.unbind(dim=1)):
        y = (target == label).float()
        losses.append(1 - (2 * (p * y).sum() + 1e-5) / (p.square().sum() + y.sum() + 1e-5))
    return torch.stack(losses).mean()
