"""Validation along a training: student and teacher on the validation cases, and which of them was the best so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..labels import IGNORE
from .cases import TrainingCase
from .prediction import Predictor

NETWORKS = ("teacher", "student")
"""Networks that are validated; of equally good ones the first counts."""


@dataclass(frozen=True)
class Validation:
    """The validation cases and how often they are predicted.

    Parameters
    ----------
    cases : sequence of TrainingCase
        On the plan's grid, with their dense labels.
    times : int
        How often in a whole training, at equal distances, the last time after its last iteration.
    """

    cases: Sequence[TrainingCase]
    times: int

    def is_due(self, iteration: int, iterations: int) -> bool:
        """Whether to validate after this iteration of so many."""
        return bool(self.cases) and iteration * self.times // iterations > (iteration - 1) * self.times // iterations

    def dice(self, predictor: Predictor, on_window: Callable[[float], None]) -> float:
        """Mean over the cases of their mean Dice, on the plan's grid; NaN where no case shows any structure."""
        n_classes = predictor.plan.n_classes
        scores = []
        for case in self.cases:
            probabilities = predictor.on_plan_grid(case.image.to(predictor.device), on_window)
            labels = probabilities.argmax(dim=0).to(case.annotation.device)
            scores.append(dice_on_annotated(labels, case.annotation, n_classes))
        known = [score for score in scores if not np.isnan(score)]
        return float(np.mean(known)) if known else float("nan")


def dice_on_annotated(labels: Tensor, truth: Tensor, n_classes: int) -> float:
    """Mean Dice over the foreground classes that `truth` shows, on its annotated voxels.

    Parameters
    ----------
    labels, truth : torch.Tensor
        Class indices of one shape; 255 in `truth` where not annotated.

    Returns
    -------
    float
        NaN where `truth` shows no foreground class.
    """
    codes = (truth.long() * n_classes + labels.long())[truth != IGNORE]
    confusion = torch.bincount(codes, minlength=n_classes**2).view(n_classes, n_classes).cpu().double()
    both, theirs, ours = confusion.diagonal(), confusion.sum(dim=1), confusion.sum(dim=0)
    scores = (2 * both / (ours + theirs))[1:][theirs[1:] > 0]
    return float(scores.mean()) if len(scores) else float("nan")
