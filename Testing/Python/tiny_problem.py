"""A problem small enough for a test: 24^3 volumes of one organ, a few of them annotated, trained in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from SemiSupSegLib.labels import IGNORE
from SemiSupSegLib.learning.cases import TrainingCase
from SemiSupSegLib.learning.methods import METHODS
from SemiSupSegLib.learning.plan import Normalisation, Plan
from SemiSupSegLib.learning.prediction import Predictor
from SemiSupSegLib.learning.trainer import Trainer
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


def draw_case(seed: int, noise: float = 0.9, size: int = SIZE) -> TinyCase:
    """An ellipsoid of its own place, shape and contrast in noise; a smaller ball of the same grey is not the organ."""
    numbers = np.random.default_rng((seed, 24))
    grid = np.indices((size,) * 3).astype(float)

    def ball(centre, radii):
        return sum(((grid[axis] - centre[axis]) / radii[axis]) ** 2 for axis in range(3)) <= 1

    wobble = 1 + 0.25 * ndimage.zoom(numbers.standard_normal((4, 4, 4)), size / 4, order=3)
    centre = size / 2 + numbers.uniform(-0.15, 0.15, 3) * size
    radii = numbers.uniform(0.2, 0.34, 3) * size
    organ = sum(((grid[axis] - centre[axis]) / radii[axis]) ** 2 for axis in range(3)) <= wobble
    organ = ndimage.binary_opening(organ) if organ.any() else organ
    other = ball(numbers.choice([0.14, 0.86], 3) * size, [0.1 * size] * 3) & ~ndimage.binary_dilation(organ)
    contrast = numbers.uniform(1.0, 2.2)
    image = contrast * ndimage.gaussian_filter((organ | other).astype(float), 0.6)
    image += 0.8 * ndimage.zoom(numbers.standard_normal((3, 3, 3)), size / 3, order=3)
    image += noise * ndimage.gaussian_filter(numbers.standard_normal(image.shape), 0.5)
    return TinyCase(((image - image.mean()) / image.std()).astype(np.float32), organ.astype(np.uint8))


def scribbled(truth: np.ndarray, seed: int) -> np.ndarray:
    """Short strokes in a few slices: one inside the organ, two outside."""
    numbers = np.random.default_rng((seed, 7))
    scribble = np.full(truth.shape, IGNORE, np.uint8)
    inside = np.flatnonzero(truth.any(axis=(1, 2)))
    for k in inside[np.linspace(1, len(inside) - 2, 3).astype(int)]:
        for label, region in ((1, truth[k] == 1), (0, truth[k] == 0), (0, truth[k] == 0)):
            core = np.argwhere(ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1] >= 1.5)
            if len(core):
                j, i = core[numbers.integers(len(core))]
                stroke = np.zeros_like(region)
                stroke[j, max(0, i - 2) : i + 3] = True
                scribble[k][stroke & region] = label
    return scribble


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
        "norm": "instance",
        "dropout": 0.0,
        "n_classes": n_classes,
    }
    return Plan(**{**values, **changes})


def training_case(
    name: str, image: np.ndarray, annotation: np.ndarray | None = None, *, superpixels: bool = False
) -> TrainingCase:
    """A case as the engine holds it."""
    geometry = Geometry(image.shape[::-1])
    case = TrainingCase(name, geometry, torch.from_numpy(image).half())
    case.annotate(annotation)
    if superpixels:
        ids = compute_superpixels(image, (1.0,) * 3, SuperpixelSettings(size_mm=3.0))
        case.superpixels = torch.from_numpy(ids)
        if annotation is not None:
            case.expanded = torch.from_numpy(propagate(annotation, ids))
    return case


def tiny_settings(method: str, seed: int = 0, changes: Sequence[str] = ()) -> TrainingSettings:
    """Settings of a short run; spatial augmentation takes more time than it is worth here."""
    return TrainingSettings().with_overrides(
        [f"method={method}", f"seed={seed}", "augmentation.spatial_probability=0", *changes]
    )


def train_tiny(
    method: str,
    annotated: Sequence[tuple[TinyCase, np.ndarray]],
    unlabeled: Sequence[TinyCase],
    iterations: int,
    seed: int = 0,
    changes: Sequence[str] = (),
) -> Trainer:
    """A whole training of a method on cases with annotations and cases without."""
    kind = METHODS[method]
    settings = tiny_settings(method, seed, changes)
    cases = [
        training_case(f"annotated{index}", case.image, annotation, superpixels=kind.uses_superpixels)
        for index, (case, annotation) in enumerate(annotated)
    ]
    if kind.uses_unlabeled:
        cases += [
            training_case(f"unlabeled{index}", case.image, superpixels=kind.uses_superpixels)
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
