"""SGRS as its official code (GitHub ortonwang/SGRS-Net at c99025f) computes it, for comparison.

What differs from `sgrs`:

- D1: the inconsistent region's mask broadcasts, so that sample i's mask weighs sample j's losses;
- D2: the cross-entropy of the consistent region keeps undecided voxels, only Dice drops them;
- D3: the annotated patches' Dice lacks its factor 2, so that a perfect one costs 0.5;
- D4: the teacher is averaged twice a step, and 0.02 % is taken off the student's weights in between;
- D5: the teacher predicts with dropout and batch statistics, always;
- undecided is where the background's probability lies in (0.425, 0.575);
- SGD at a constant rate of 0.01, patches without changes of intensity, a ramp in iterations.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from ...labels import IGNORE
from ...training_settings import OptimizerSettings, TrainingSettings
from ..losses import cross_entropy_map, masked_soft_dice, ramp_sigmoid
from ..masked_mean import MaskedMean
from ..plan import Plan
from ..sampling import Batch
from .base import Losses, Step, softmax
from .sgrs import SGRS, Regions

_OPTIMIZER = OptimizerSettings(
    name="sgd", learning_rate=0.01, momentum=0.9, weight_decay=1e-4, schedule="constant", warmup=0.0, gradient_clip=0.0
)
_TAU = 0.425
_EPOCH_ITERATIONS, _RAMP_EPOCHS = 150, 40
_DECAY, _SHRINK = 0.99, 2e-4


class LegacySGRS(SGRS):
    """The same steps with the code's parts."""

    learns_beside_annotations = False

    def __init__(self, settings: TrainingSettings, plan: Plan):
        super().__init__(settings, plan)
        # teacher_dropout is D5.
        self.options = dataclasses.replace(self.options, teacher_dropout=True, strong_view=False)

    def adapted(self, settings: TrainingSettings) -> TrainingSettings:
        """With the code's optimiser, whatever was set."""
        return dataclasses.replace(settings, optimizer=_OPTIMIZER)

    def unlabeled_weight(self, fraction: float) -> float:
        """The unlabeled branch is there from the first step on; `ramp` weighs it."""
        return 1.0 if self.options.weight > 0 else 0.0

    def ramp(self, step: Step) -> float:
        """``exp(-5 (1 - min(e, 40)/40)^2)`` with e = iteration // 150."""
        epoch = step.iteration // _EPOCH_ITERATIONS
        return ramp_sigmoid(epoch / _RAMP_EPOCHS)

    def labeled_view(self, step: Step) -> Tensor:
        return step.labeled.image

    def annotated_losses(self, logits: Tensor, batch: Batch) -> Losses:
        """1/2 (CE + Dice') over the batch, Dice' = 1 - sum(p y) / (sum(p^2) + sum(y^2)), D3."""
        annotated = (batch.annotation != IGNORE).float()
        cross_entropy = MaskedMean(cross_entropy_map(logits, batch.annotation).sum(), annotated.sum()).value
        dice = []
        for label, p in enumerate(softmax(logits).unbind(dim=1)):
            p, y = p * annotated, (batch.annotation == label).float()
            dice.append(1 - (p * y).sum() / (p.square().sum() + y.sum() + 1e-10))
        supervised = cross_entropy + torch.stack(dice).mean()
        return Losses(0.5 * supervised, {"supervised": supervised})

    def is_uncertain(self, probabilities: Tensor) -> Tensor:
        return (probabilities[:, 0] > _TAU) & (probabilities[:, 0] < 1 - _TAU)

    def regional_cross_entropy(self, logits: Tensor, labels: Tensor, regions: Regions) -> MaskedMean:
        """D2: `same` where `consistent` is meant. D1: the mean over all pairs of a sample's mask and one's losses."""
        plain = cross_entropy_map(logits, labels) * regions.same
        smoothed = cross_entropy_map(logits, labels, self.options.label_smoothing)
        pairs = regions.inconsistent.unsqueeze(1) * smoothed  # (B, 1, *spatial) * (B, *spatial): (B, B, *spatial)
        return MaskedMean(plain.sum() + pairs.sum() / len(pairs), plain.new_tensor(float(plain.numel())))

    def regional_dice(self, probabilities: Tensor, labels: Tensor, regions: Regions) -> Tensor:
        """Smoothed by numbers of voxels that don't follow the patch."""
        options = self.options
        consistent = masked_soft_dice(probabilities, labels, regions.consistent, options.consistent_smooth).value
        inconsistent = masked_soft_dice(probabilities, labels, regions.inconsistent, options.inconsistent_smooth).value
        return (consistent + inconsistent) / 2

    @torch.no_grad()
    def update_teacher(self, student: nn.Module, teacher: nn.Module, decay: float, iteration: int) -> None:
        """D4: every float32 entry, buffers too, then the student shrinks, then the parameters once more."""
        theirs = teacher.state_dict()
        for name, ours in student.state_dict().items():
            if ours.dtype == torch.float32:
                theirs[name].mul_(_DECAY).add_(ours, alpha=1 - _DECAY)
                ours.mul_(1 - _SHRINK)
        share = 1 - min(1 - 1 / (iteration + 2), _DECAY)  # the code counts the step before it averages
        torch._foreach_lerp_(list(teacher.parameters()), [each.detach() for each in student.parameters()], share)
