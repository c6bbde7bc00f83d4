"""What grows with what: cost against voxels, cases, classes and labeled cases, which shouldn't be worse than linear.

A row says how many times more the largest size costs than the smallest, and how many times larger it is; its values
hold the whole curve. Work that needn't depend on a size at all, such as a training step on the number of cases, is
expected to grow by 1.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from SemiSupSegLib.phantom import make_phantom, make_phantom_cohort
from SemiSupSegLib.propagation import NOT_ANNOTATED, SuperpixelTable
from SemiSupSegLib.superpixels import SuperpixelSettings, compute_superpixels
from SemiSupSegLib.volume import Geometry, Volume

from .measure import REPETITIONS, alternate, threads
from .rows import Options, Row, attempt

_WINDOW = 16  # voxels along each axis
AIM = 0.9  # of linear growth: a tenth is left to caches and noise
_PEER = "linear growth"

Work = Callable[[], Any]


@dataclass(frozen=True)
class Curve:
    """Work of several sizes: `prepare` takes a size and returns the work on it."""

    work: str
    against: str
    sizes: Sequence[float]
    prepare: Callable[[Any], Work]
    note: str = ""

    def row(self) -> Row:
        """Every size's median, all sizes in turns."""
        calls = [self.prepare(size) for size in self.sizes]
        for call in calls:
            call()
        seconds = [statistics.median(each) for each in alternate(calls, REPETITIONS)]
        return Row(
            f"{self.work} / {self.against}",
            _PEER,
            seconds[-1] / seconds[0],
            self.sizes[-1] / self.sizes[0],
            unit="x",
            aim=AIM,
            note=self.note,
            values={"work": self.work, "against": self.against, "sizes": list(self.sizes), "seconds": seconds},
        )


def rows(options: Options) -> Iterator[Row]:
    """All curves, one row each."""
    with threads(options.threads), tempfile.TemporaryDirectory() as folder:
        for curve in _curves(options, Path(folder)):
            name = f"{curve.work} / {curve.against}"
            if options.wants(name, _PEER):
                yield attempt(name, _PEER, curve.row, aim=AIM)


def _curves(options: Options, folder: Path) -> Iterator[Curve]:
    edges = options.pick((64, 80, 100, 128, 160), (32, 40, 50, 64, 80), (16, 20))
    voxels = [edge**3 for edge in edges]
    yield Curve("supervoxels", "voxels", voxels, lambda size: _supervoxels(size, options.seed))
    yield Curve("preview after a stroke", "voxels", voxels, lambda size: _stroke(size, options.seed))
    windows = [(-(-edge // (_WINDOW // 2)) - 1) ** 3 for edge in edges]
    note = f"{windows[-1] / windows[0]:.1f} times as many windows, since those at the border overlap on one side only"
    yield Curve("prediction", "voxels", voxels, lambda size: _prediction(size, 2, options.seed), note)

    counts = options.pick((4, 8, 16, 32), (4, 8, 16), (4, 8))
    shape = options.pick((48, 64, 64), (32, 48, 48), (16, 24, 24))
    yield Curve("loading cases", "cases", counts, lambda count: _loading(count, shape, folder, options.seed))
    yield Curve("training step", "cases", counts, lambda count: _training_step(count, count // 2, 2, shape, options))

    classes = options.pick((2, 4, 8, 16, 32), (2, 4, 8, 16), (2, 4))
    size = options.pick(80, 48, 16) ** 3
    yield Curve("prediction", "classes", classes, lambda count: _prediction(size, count, options.seed))
    yield Curve("training step", "classes", classes, lambda count: _training_step(4, 2, count, shape, options))

    labeled = options.pick((1, 2, 4, 8, 16), (1, 2, 4, 8), (1, 2))
    cases = labeled[-1]
    yield Curve(
        "training step",
        "labeled share",
        [count / cases for count in labeled],
        lambda share: _training_step(cases, round(share * cases), 2, shape, options),
    )


def _cube(voxels: float) -> tuple[int, int, int]:
    return (round(voxels ** (1 / 3)),) * 3


def _supervoxels(voxels: float, seed: int) -> Work:
    image = make_phantom(_cube(voxels), seed).image.array
    return lambda: compute_superpixels(image, (1, 1, 1), SuperpixelSettings(size_mm=4.0))


def _stroke(voxels: float, seed: int) -> Work:
    """A stroke is taken in and taken back, so that the next one finds the same."""
    phantom = make_phantom(_cube(voxels), seed)
    ids = compute_superpixels(phantom.image.array, (1, 1, 1), SuperpixelSettings(size_mm=4.0))
    table = SuperpixelTable(phantom.scribbles, ids)
    stroke = (slice(4, 6), slice(4, 7), slice(0, 16))
    old = phantom.scribbles[stroke]

    def paint() -> None:
        table.update(stroke, old, 1)
        table.update(stroke, 1, old)

    return paint


def _plan(n_classes: int, patch: tuple[int, int, int]) -> Any:
    from SemiSupSegLib.learning.plan import Normalisation, Plan

    return Plan(3, (1.0, 1.0, 1.0), patch[::-1], 2, Normalisation(), "float32", "unet", (8, 16, 32),
                ((2, 2, 2), (2, 2, 2)), "batch", 0.0, n_classes)  # fmt: skip


def _prediction(voxels: float, n_classes: int, seed: int) -> Work:
    import torch

    from SemiSupSegLib.learning.prediction import Predictor, build_planned_network

    torch.manual_seed(seed)
    shape = _cube(voxels)
    plan = _plan(n_classes, (_WINDOW,) * 3)
    predictor = Predictor(build_planned_network(plan).eval(), plan, torch.device("cpu"))
    image = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    volume = Volume(image, Geometry(shape[::-1], (1.0, 1.0, 1.0)))
    return lambda: predictor(volume)


def _loading(count: int, shape: tuple[int, int, int], folder: Path, seed: int) -> Work:
    import torch

    from SemiSupSegLib.learning.cases import load_training_cases

    cohort = make_phantom_cohort(folder / str(count), count, shape, seed, n_scribbled=2, n_test=0)
    plan = _plan(cohort.schema.n_classes, (16, 16, 16))
    return lambda: load_training_cases(cohort, plan, torch.device("cpu"), annotations="auto", unlabeled=True)


def _training_step(count: int, labeled: int, n_classes: int, shape: tuple[int, int, int], options: Options) -> Work:
    """A step of a mean teacher in its last part, with cases that stay in memory."""
    import torch

    from SemiSupSegLib.learning.cases import TrainingCase
    from SemiSupSegLib.learning.trainer import Trainer
    from SemiSupSegLib.training_settings import TrainingSettings

    numbers = np.random.default_rng(options.seed)
    cases = []
    for index in range(count):
        image = torch.from_numpy(numbers.standard_normal(shape, dtype=np.float32)).half()
        case = TrainingCase(f"case{index}", Geometry(shape[::-1], (1.0, 1.0, 1.0)), image)
        if index < labeled:
            annotation = numbers.integers(n_classes, size=shape, dtype=np.uint8)
            annotation[::2] = NOT_ANNOTATED
            case.annotate(annotation)
        cases.append(case)
    edge = options.pick(32, 32, 16)
    settings = TrainingSettings(method="mean_teacher", seed=options.seed)
    trainer = Trainer(settings, _plan(n_classes, (edge,) * 3), torch.device("cpu"), cases, 10**6)
    return lambda: trainer.step_at(0.9)
