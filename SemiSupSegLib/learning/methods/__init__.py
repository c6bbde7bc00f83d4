"""The methods, one file each, by the names that ``--method`` takes."""

from __future__ import annotations

from .base import Composition, Losses, Method, Step
from .sp3 import SP3
from .supervised import Partial, Supervised

__all__ = ["METHODS", "Composition", "Losses", "Method", "Step"]

METHODS: dict[str, type[Method]] = {method.name: method for method in (SP3, Partial, Supervised)}
