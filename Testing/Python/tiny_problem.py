"""A problem small enough for a test: 24^3 volumes of one organ, trained in seconds.

Cases differ in contrast, and those that are annotated have a high one: the network must learn the others' contrasts
from images without annotation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from SemiSupSegLib.learning.cases import TrainingCase
from SemiSupSegLib.learning.methods import METHODS
from SemiSupSegLib.learning.plan import Normalisation, Plan
from SemiSupSegLib.learning.prediction import Predictor
from SemiSupSegLib.learning.trainer import Trainer
from SemiSupSegLib.phantom import scribble
from SemiSupSegLib.propagation import propagate
from SemiSupSegLib.superpixels import SuperpixelSettings, compute_superpixels
from SemiSupSegLib.training_settings import TrainingSettings
from SemiSupSegLib.volume import Geometry

SIZE = 24
CPU = torch.device("cpu")


@dataclass(frozen=True)
class TinyCase:
    """A volume and its truth, arrays (k, j, i)."""

    image: np.ndarray
    truth: np.ndarray


EVERY_CONTRAST = (0.4, 2.6)
HIGH_CONTRAST = (2.2, 2.6)
"""Contrast of the cases that get annotated."""


def draw_case(seed: int, contrast: tuple[float, float] = EVERY_CONTRAST, size: int = SIZE) -> TinyCase:
    """A bent ellipsoid of its own place, shape and contrast; a small ball of the same grey is not the organ."""
    numbers = np.random.default_rng((seed, 24))
    grid = np.indices((size,) * 3).astype(float)

    def ellipsoid(centre: np.ndarray, radii: np.ndarray, limit: np.ndarray | float = 1.0) -> np.ndarray:
        return sum(((grid[axis] - centre[axis]) / radii[axis]) ** 2 for axis in range(3)) <= limit

    def field(knots: int) -> np.ndarray:
        return ndimage.zoom(numbers.standard_normal((knots,) * 3), size / knots, order=3)

    bent = 1 + 0.2 * field(4)
    centre = size / 2 + numbers.uniform(-0.15, 0.15, 3) * size
    organ = ndimage.binary_opening(ellipsoid(centre, numbers.uniform(0.2, 0.34, 3) * size, bent))
    other = ellipsoid(numbers.choice((0.14, 0.86), 3) * size, np.full(3, 0.1 * size))
    other &= ~ndimage.binary_dilation(organ)
    image = numbers.uniform(*contrast) * ndimage.gaussian_filter((organ | other).astype(float), 0.6)
    image += 0.2 * field(3) + 0.25 * ndimage.gaussian_filter(numbers.standard_normal(image.shape), 0.5) - 0.5
    return TinyCase(image.astype(np.float32), organ.astype(np.uint8))


def scribbled(truth: np.ndarray, seed: int) -> np.ndarray:
    """Strokes on every fourth slice, as the phantom's."""
    return scribble(truth, np.random.default_rng((seed, 7)), slice_step=4)


def tiny_plan(n_classes: int = 2, size: int = 16, **changes: object) -> Plan:
    """A U-Net of three levels on patches of 16^3."""
    values = {
        "dimensions": 3,
        "spacing": (1.0, 1.0, 1.0),
        "patch": (size,) * 3,
        "batch_size": 2,
        "normalisation": Normalisation(),
        "precision": "float32",
        "network": "unet",
        "features": (8, 16, 32),
        "strides": ((2, 2, 2), (2, 2, 2)),
        "norm": "batch",
        "dropout": 0.0,
        "n_classes": n_classes,
    }
    return Plan(**{**values, **changes})


def training_case(
    name: str, image: np.ndarray, annotation: np.ndarray | None = None, *, superpixel_size: float | None = None
) -> TrainingCase:
    """A case as the engine holds it."""
    geometry = Geometry(image.shape[::-1])
    case = TrainingCase(name, geometry, torch.from_numpy(image).half())
    case.annotate(annotation)
    if superpixel_size is not None:
        ids = compute_superpixels(image, (1.0,) * 3, SuperpixelSettings(size_mm=superpixel_size))
        case.superpixels = torch.from_numpy(ids)
        if annotation is not None:
            case.expanded = torch.from_numpy(propagate(annotation, ids))
    return case


def tiny_settings(method: str, seed: int = 0, changes: Sequence[str] = ()) -> TrainingSettings:
    """Settings of a short run, whose augmentation doesn't give away the contrasts that only unlabeled cases have."""
    short = (
        "optimizer.learning_rate=0.003",
        "augmentation.spatial_probability=0",
        "augmentation.intensity_probability=0.2",
        "augmentation.brightness=0.2",
        "augmentation.contrast=0.25",
        "augmentation.gamma=0.3",
    )
    return TrainingSettings().with_overrides([f"method={method}", f"seed={seed}", *short, *changes])


def train_tiny(
    method: str,
    annotated: Sequence[tuple[TinyCase, np.ndarray]],
    unlabeled: Sequence[TinyCase],
    iterations: int,
    seed: int = 0,
    changes: Sequence[str] = (),
) -> Trainer:
    """A whole training of a method on cases with annotations and cases without."""
    kind, settings = METHODS[method], tiny_settings(method, seed, changes)
    superpixel_size = (settings.sp3.superpixel_size or 4.0) if kind.uses_superpixels else None
    cases = [
        training_case(f"annotated{index}", case.image, annotation, superpixel_size=superpixel_size)
        for index, (case, annotation) in enumerate(annotated)
    ]
    if kind.uses_unlabeled:
        cases += [
            training_case(f"unlabeled{index}", case.image, superpixel_size=superpixel_size)
            for index, case in enumerate(unlabeled)
        ]
    trainer = Trainer(settings, tiny_plan(**kind.network_needs(settings)), CPU, cases, iterations)
    for _ in range(iterations):
        trainer.step()
    return trainer


def dice(trainer: Trainer, cases: Sequence[TinyCase], network: str = "teacher") -> float:
    """Mean Dice of the organ; the teacher's, since every training has one."""
    chosen = getattr(trainer, network).eval()
    predictor = Predictor(chosen, trainer.plan, CPU)
    scores = []
    for case in cases:
        predicted = predictor.on_plan_grid(torch.from_numpy(case.image)).argmax(dim=0).numpy() == 1
        truth = case.truth == 1
        scores.append(2 * (predicted & truth).sum() / (predicted.sum() + truth.sum()))
    chosen.train()
    return float(np.mean(scores))
