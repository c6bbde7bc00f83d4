"""Superpixels of training cases and annotations expanded over them, for methods that use them."""

from __future__ import annotations

from pathlib import Path

import torch

from ..method_settings import SP3Settings
from ..propagation import propagate
from ..superpixels import SuperpixelSettings, cached_superpixels
from ..surroundings import beyond_background
from .cases import TrainingCase

BEYOND = 254
"""In an expanded annotation: background, if every class is one piece. No class has so high an index."""


class SuperpixelPreparation:
    """Gives cases their superpixels, from a cache where they have been made before.

    Parameters
    ----------
    options : SP3Settings
        Size, compactness, and what becomes of superpixels with strokes of several classes.
    dimensions : {2, 3}
        Superpixels within slices, or supervoxels.
    cache : pathlib.Path
        Where superpixels are kept from run to run.
    """

    def __init__(self, options: SP3Settings, dimensions: int, cache: Path):
        self.options = options
        self.cache = cache
        self.settings = SuperpixelSettings(
            size_mm=options.superpixel_size, compactness=options.compactness, dimensions=dimensions
        )

    def prepare(self, case: TrainingCase) -> None:
        """Add superpixels, and the expanded annotation where there is one."""
        ids = cached_superpixels(self.cache, case.image.cpu().numpy(), case.geometry.spacing, self.settings)
        case.superpixels = torch.from_numpy(ids).to(case.image.device)
        self.expand(case)

    def expand(self, case: TrainingCase) -> None:
        """Expand a case's annotation anew, after it was changed."""
        case.expanded = None
        if case.annotation is None or case.superpixels is None:
            return
        annotation, ids = case.annotation.cpu().numpy(), case.superpixels.cpu().numpy()
        expanded = propagate(annotation, ids, conflict=self.options.conflict, purity=self.options.purity)
        if self.options.far_background and not case.is_dense:
            image = case.image.cpu().numpy()
            expanded[beyond_background(image, annotation, ids, case.geometry.spacing)] = BEYOND
        case.expanded = torch.from_numpy(expanded).to(case.image.device)
