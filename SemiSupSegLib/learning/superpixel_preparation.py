"""Superpixels of training cases, and what they say about what nobody annotated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ..labels import BEYOND, IGNORE
from ..method_settings import SP3Settings
from ..propagation import propagate
from ..superpixels import SuperpixelSettings, cached_superpixels
from ..surroundings import beyond_background
from ..training_settings import TrainingSettings
from .cases import TrainingCase
from .methods import METHODS
from .plan import Plan


class SuperpixelPreparation:
    """Gives cases what a method needs of superpixels, which come from a cache where they have been made before.

    Parameters
    ----------
    settings : TrainingSettings
        The method. Size and compactness of superpixels are those of SP3 there, and the usual ones for other methods.
    plan : Plan
        Its dimensions say whether superpixels lie within slices; its classes, what a scan may hold.
    cache : pathlib.Path
        Where superpixels are kept from run to run.
    """

    def __init__(self, settings: TrainingSettings, plan: Plan, cache: Path):
        method = METHODS[settings.method]
        self.uses_superpixels = method.uses_superpixels
        self.looks_beyond = method.looks_beyond(settings, plan)
        self.options = settings.sp3 if method.uses_superpixels else SP3Settings()
        self.n_classes = plan.n_classes
        self.cache = cache
        self.superpixel_settings = SuperpixelSettings(
            size_mm=self.options.superpixel_size, compactness=self.options.compactness, dimensions=plan.dimensions
        )

    @staticmethod
    def is_wanted(settings: TrainingSettings, plan: Plan) -> bool:
        """Whether a training may want superpixels of any case."""
        method = METHODS[settings.method]
        return method.uses_superpixels or method.looks_beyond(settings, plan)

    def is_needed(self, case: TrainingCase) -> bool:
        """Whether the method wants anything of a case's superpixels."""
        return self.uses_superpixels or self._has_surroundings(case)

    def prepare(self, case: TrainingCase, accepted: np.ndarray | None = None) -> None:
        """Add superpixels and what follows from the annotation, anew after it was changed.

        Parameters
        ----------
        accepted : numpy.ndarray, optional
            Proposals that people accepted, 255 where there are none: they count where strokes say nothing.
        """
        case.expanded = None
        if not self.is_needed(case):
            return
        ids = self._superpixels(case)
        if case.annotation is None:
            return
        annotation = case.annotation.cpu().numpy()
        expanded = annotation.copy()
        if self.uses_superpixels:
            expanded = propagate(annotation, ids, conflict=self.options.conflict, purity=self.options.purity)
        if accepted is not None:
            annotation, expanded = (np.where(each == IGNORE, accepted, each) for each in (annotation, expanded))
        if self._has_surroundings(case):
            image = case.image.cpu().numpy()
            expanded[beyond_background(image, annotation, ids, case.geometry.spacing) & (expanded == IGNORE)] = BEYOND
        case.expanded = torch.from_numpy(expanded).to(case.image.device)

    def _superpixels(self, case: TrainingCase) -> np.ndarray:
        """A case's superpixels, which it keeps for methods that use them."""
        if case.superpixels is not None:
            return case.superpixels.cpu().numpy()
        ids = cached_superpixels(self.cache, case.image.cpu().numpy(), case.geometry.spacing, self.superpixel_settings)
        if self.uses_superpixels:
            case.superpixels = torch.from_numpy(ids).to(case.image.device)
        return ids

    def _has_surroundings(self, case: TrainingCase) -> bool:
        """Whether strokes may tell what lies beyond them: where a class has none, it may lie anywhere."""
        if not self.looks_beyond or case.is_dense or case.strokes is None:
            return False
        return bool((torch.bincount(case.strokes.flatten(), minlength=self.n_classes)[: self.n_classes] > 0).all())
