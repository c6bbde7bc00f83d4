"""Superpixels of training cases and annotations expanded over them, for methods that use them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ..labels import BEYOND, IGNORE
from ..method_settings import SP3Settings
from ..propagation import propagate
from ..superpixels import SuperpixelSettings, cached_superpixels
from ..surroundings import beyond_background
from .cases import TrainingCase
from .plan import Plan


class SuperpixelPreparation:
    """Gives cases their superpixels, from a cache where they have been made before.

    Parameters
    ----------
    options : SP3Settings
        Size, compactness, and what becomes of superpixels with strokes of several classes.
    plan : Plan
        Its dimensions say whether superpixels lie within slices; its classes, what a scan may hold.
    cache : pathlib.Path
        Where superpixels are kept from run to run.
    """

    def __init__(self, options: SP3Settings, plan: Plan, cache: Path):
        self.options = options
        self.n_classes = plan.n_classes
        self.cache = cache
        self.settings = SuperpixelSettings(
            size_mm=options.superpixel_size, compactness=options.compactness, dimensions=plan.dimensions
        )

    def prepare(self, case: TrainingCase) -> None:
        """Add superpixels, and the expanded annotation where there is one."""
        ids = cached_superpixels(self.cache, case.image.cpu().numpy(), case.geometry.spacing, self.settings)
        case.superpixels = torch.from_numpy(ids).to(case.image.device)
        self.expand(case)

    def expand(self, case: TrainingCase, accepted: np.ndarray | None = None) -> None:
        """Expand a case's annotation anew, after it was changed.

        Parameters
        ----------
        accepted : numpy.ndarray, optional
            Proposals that people accepted, 255 where there are none: they count where strokes say nothing.
        """
        case.expanded = None
        if case.annotation is None or case.superpixels is None:
            return
        annotation, ids = case.annotation.cpu().numpy(), case.superpixels.cpu().numpy()
        expanded = propagate(annotation, ids, conflict=self.options.conflict, purity=self.options.purity)
        if accepted is not None:
            annotation, expanded = (np.where(each == IGNORE, accepted, each) for each in (annotation, expanded))
        if self.options.far_background and not case.is_dense and self._shows_every_class(case):
            image = case.image.cpu().numpy()
            expanded[beyond_background(image, annotation, ids, case.geometry.spacing) & (expanded == IGNORE)] = BEYOND
        case.expanded = torch.from_numpy(expanded).to(case.image.device)

    def _shows_every_class(self, case: TrainingCase) -> bool:
        """Whether each class has a stroke: one without may lie anywhere."""
        return all(label in case.voxels for label in range(self.n_classes))
