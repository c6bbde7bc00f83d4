"""The baselines that every claim is measured against: dense labels, and annotated voxels only."""

from __future__ import annotations

from .base import Losses, Method, Step


class Partial(Method):
    """Cross-entropy and Dice on the annotated voxels, nothing else (unless ``far_background=on``).

    The strongest plain baseline known for scribbles across data sets (ScribbleBench, 2024).
    """

    name = "partial"

    def training_step(self, step: Step) -> Losses:
        return self.annotated_losses(step.student(step.strong(step.labeled.image)), step.labeled)


class Supervised(Partial):
    """The same on cases that are labeled densely; scribbles are left aside."""

    name = "supervised"
    trains_on = "dense"
