"""Validation along a training: student and teacher on the validation cases, and which of them was the best so far."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..labels import IGNORE
from .cases import TrainingCase
from .distributed import ALONE, Processes
from .losses import winners
from .prediction import Predictor
from .training_data import TrainingData

NETWORKS = ("teacher", "student")
"""Networks that are validated; of equally good ones the first counts."""


class Validation:
    """Measures a training on its validation cases or, where it has none, on strokes that are held out.

    Parameters
    ----------
    data : TrainingData
        Its validation cases lie on the plan's grid with their dense labels.
    processes : Processes
        Those that share the cases.
    """

    def __init__(self, data: TrainingData, processes: Processes = ALONE):
        self.data = data
        self.processes = processes

    @property
    def is_possible(self) -> bool:
        """Whether there is anything to measure on."""
        return bool(self.data.validation) or self.data.held_out is not None

    def voxels(self) -> int:
        """How many voxels this process predicts each time."""
        if self.data.validation:
            return len(NETWORKS) * sum(case.image.numel() for case in self.processes.own(self.data.validation))
        held = self.data.held_out.of_case.values() if self.data.held_out is not None else ()
        return sum(each.size for each in held if (each != IGNORE).any())

    def dice(self, predictor_of: Callable[[str], Predictor], on_window: Callable[[float], None]) -> dict[str, float]:
        """Mean Dice over the cases by network; empty where no case shows any structure."""
        scores = {name: self._dice(predictor_of(name), on_window) for name in NETWORKS if self.data.validation}
        return {name: score for name, score in scores.items() if np.isfinite(score)}

    def agreement(self, predictor_of: Callable[[str], Predictor], on_window: Callable[[float], None]) -> float | None:
        """Agreement of the teacher with held-out strokes; None where there are none."""
        held_out = self.data.held_out
        if held_out is None or not held_out.exist:
            return None
        images = {case.id: case.image for case in self.data.cases}
        return held_out.agreement(predictor_of("teacher"), images, on_window)

    def _dice(self, predictor: Predictor, on_window: Callable[[float], None]) -> float:
        own = [self._dice_of(case, predictor, on_window) for case in self.processes.own(self.data.validation)]
        known = [score for scores in self.processes.of_each(lambda: own) for score in scores if not np.isnan(score)]
        return float(np.mean(known)) if known else float("nan")

    @staticmethod
    def _dice_of(case: TrainingCase, predictor: Predictor, on_window: Callable[[float], None]) -> float:
        probabilities = predictor.on_plan_grid(case.image.to(predictor.device), on_window)
        labels = winners(probabilities, dim=0).to(case.annotation.device)
        return dice_on_annotated(labels, case.annotation, predictor.plan.n_classes)


def is_due(iteration: int, iterations: int, times: int) -> bool:
    """Whether it is time for what happens so often in a training, at equal distances and at the end."""
    return iteration * times // iterations > (iteration - 1) * times // iterations


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
