"""The methods, one file each, by the names that ``--method`` takes."""

from __future__ import annotations

from .base import Composition, Losses, Method, Step
from .embedding_matching import EmbeddingMatching
from .mean_teacher import MeanTeacher
from .sgrs import SGRS
from .sp3 import SP3
from .supervised import Partial, Supervised
from .ua_mt import UncertaintyAwareMeanTeacher

__all__ = ["METHODS", "Composition", "Losses", "Method", "Step"]

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (SP3, SGRS, EmbeddingMatching, MeanTeacher, UncertaintyAwareMeanTeacher, Partial, Supervised)
}
