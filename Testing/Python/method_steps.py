"""A step of a training with networks of a few weights, to look into methods with."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from hypothesis import strategies as st
from tiny_problem import tiny_plan, tiny_settings
from torch import Tensor, nn

from SemiSupSegLib.geometry import Geometry
from SemiSupSegLib.labels import IGNORE
from SemiSupSegLib.learning.cases import TrainingCase
from SemiSupSegLib.learning.methods import METHODS, Method, Step
from SemiSupSegLib.learning.sampling import Batch
from SemiSupSegLib.learning.segmentation_network import Features

SEEDS = st.integers(0, 2**16)
SIZE = 6


class TinyNetwork(nn.Module):
    """One convolution, dropout, and a classifier on its embedding."""

    def __init__(self, n_classes: int, dimensions: int, dropout: float = 0.0):
        super().__init__()
        convolution = {2: nn.Conv2d, 3: nn.Conv3d}[dimensions]
        self.body = convolution(1, 4, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = convolution(4, n_classes, 1)

    def forward_features(self, x: Tensor) -> Features:
        embedding = self.dropout(torch.tanh(self.body(x)))
        return Features(self.classifier(embedding), embedding)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_features(x).logits


@dataclass
class Bench:
    """A method, a step for it, and the networks behind the step."""

    method: Method
    step: Step
    student: TinyNetwork
    teacher: TinyNetwork

    def losses(self):
        """The step's losses; a second call gives the same ones."""
        torch.manual_seed(0)
        self.step.numbers = np.random.default_rng(0)
        return self.method.training_step(self.step)


def make_bench(
    method: str,
    *changes: str,
    n_classes: int = 2,
    dimensions: int = 3,
    batch: int = 2,
    dropout: float = 0.0,
    scribbled: bool = False,
    fraction: float = 0.7,
    seed: int = 0,
    one_piece: tuple[int, ...] = (),
) -> Bench:
    """A step at a share of the training, on random images; every class is annotated in every labeled patch."""
    torch.manual_seed(seed)
    settings = tiny_settings(method, seed, changes)
    plan = tiny_plan(n_classes, SIZE, dimensions=dimensions, features=(4,), strides=(), batch_size=batch)
    plan = replace(plan, largest_component=one_piece)
    student, teacher = (TinyNetwork(n_classes, dimensions, dropout) for _ in range(2))
    teacher.requires_grad_(False)
    spatial = (SIZE,) * dimensions

    def images() -> Tensor:
        return torch.randn(batch, 1, *spatial)

    annotation = torch.randint(n_classes, (batch, *spatial)).to(torch.uint8)
    if scribbled:
        annotation[torch.rand(annotation.shape) < 0.8] = IGNORE
    annotation.view(batch, -1)[:, :n_classes] = torch.arange(n_classes).to(torch.uint8)
    ids = torch.randint(8, (2, batch, *spatial)).to(torch.int32)
    nothing = torch.full_like(annotation, IGNORE)

    def by_teacher(x: Tensor, dropout: bool, features: bool):
        with torch.no_grad():
            teacher.train(dropout)
            return teacher.forward_features(x) if features else teacher(x)

    step = Step(
        labeled=of_scans("labeled", Batch(images(), annotation, ids[0], annotation)),
        unlabeled=of_scans("unlabeled", Batch(images(), nothing, ids[1], nothing)),
        student=student,
        teacher=lambda x, dropout=False: by_teacher(x, dropout, features=False),
        student_features=student.forward_features,
        teacher_features=lambda x, dropout=False: by_teacher(x, dropout, features=True),
        strong=lambda image: image,
        iteration=int(1000 * fraction),
        iterations=1000,
        fraction=fraction,
        numbers=np.random.default_rng(seed),
    )
    return Bench(METHODS[method].of(settings, plan), step, student, teacher)


def of_scans(name: str, batch: Batch) -> Batch:
    """The batch, as patches that each show a whole scan: annotated where the patch is."""
    cases = []
    for index, (image, known, ids) in enumerate(zip(batch.image, batch.annotation, batch.superpixels, strict=True)):
        cases.append(TrainingCase(f"{name} {index}", Geometry((SIZE,) * 3), image, superpixels=ids))
        cases[-1].annotate(known.numpy() if (known != IGNORE).any() else None)
    return replace(batch, cases=tuple(cases))


def probabilities(seed: int, n_classes: int, shape: tuple[int, ...], sharpness: float = 2.0) -> Tensor:
    """Random probabilities ``(B, C, *spatial)``."""
    generator = torch.Generator().manual_seed(seed)
    batch, *spatial = shape
    return torch.softmax(sharpness * torch.randn(batch, n_classes, *spatial, generator=generator), dim=1)


def logits_of(p: Tensor) -> Tensor:
    """Logits whose softmax is `p`."""
    return p.clamp_min(1e-30).log()
