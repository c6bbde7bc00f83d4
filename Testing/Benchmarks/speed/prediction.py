"""Sliding-window prediction against MONAI's ``sliding_window_inference``: same network, windows, overlap and blending.

Windows are placed so that both sides place them alike. Each side has a process of its own, as its users have: ours
keeps freed memory, which is a good part of the difference in float32. The last comparison gives that to MONAI too, and
our precision and memory format.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .measure import peak_memory, side_by_side
from .own_process import OwnProcess
from .rows import Options, Row, attempt, require
from .scans import ct_sized

_PEER = "MONAI sliding_window_inference"
_NAME, _LIMIT = "sliding window, ", "the limit"
_OVERLAP = 0.5
_MONAI_BATCH = 4  # of its tutorials; there is no default
_STRUCTURES = 3  # the largest ones of the scan are classes, the others background
_COPIES = 3.0


@dataclass(frozen=True)
class _Task:
    """Inputs on disk, so that every process finds the same; sizes in array order (k, j, i)."""

    folder: Path
    window: tuple[int, int, int]
    n_classes: int
    threads: int
    device: str


def rows(options: Options) -> Iterator[Row]:
    """In float32, in bfloat16, at equal precision; and the memory of a whole prediction."""
    pairs: list[tuple[str, str, float, Callable, Callable]] = [
        ("float32", _PEER, 1.3, _check_probabilities, _defaults),
        ("bfloat16", f"{_PEER} in float32", 3.0, _check_labels, _defaults),
        ("bfloat16", f"{_PEER} in bfloat16, channels last", 1.0, _check_labels, _at_our_precision),
    ]
    wanted = [pair for pair in pairs if options.wants(_NAME + pair[0], pair[1])]
    with tempfile.TemporaryDirectory() as folder:
        task = _prepared(options, Path(folder)) if wanted else None
        for precision, peer, aim, check, theirs in wanted:
            name = _NAME + precision
            yield attempt(name, peer, partial(_compared, task, name, precision, peer, aim, check, theirs), aim=aim)
    for n_classes, extra in ((2, ""), (2, "largest component"), (40, ""), (5, "probabilities")):
        name = f"memory of a prediction, {n_classes} classes{', ' if extra else ''}{extra}"
        limit = float(n_classes + 2 if extra == "probabilities" else _COPIES)
        if options.wants(name, _LIMIT):
            yield attempt(name, _LIMIT, partial(_memory, options, n_classes, extra, name, limit), aim=1.0)


def _compared(task: _Task, name: str, precision: str, peer: str, aim: float, check: Callable, theirs: Callable) -> Row:
    require("monai", "pip install monai")
    shape = np.load(task.folder / "image.npy", mmap_mode="r").shape
    sizes = ", windows of ".join("x".join(map(str, each)) for each in (shape, task.window))
    with OwnProcess(_ours, task, precision) as our_work, OwnProcess(theirs, task) as their_work:

        def equal(*_: object) -> tuple[bool, str]:
            our_work()
            their_work()
            return check(task, our_work.result(), their_work.result())

        return side_by_side(name, peer, our_work, their_work, check=equal, aim=aim, note=f"{sizes} (k, j, i)")


def _check_probabilities(task: _Task, ours: str, theirs: str) -> tuple[bool, str]:
    difference = np.abs(np.load(ours, mmap_mode="r") - np.load(theirs, mmap_mode="r")).max()
    return bool(difference <= 1e-4), f"probabilities differ by {difference:.1g} at most"


def _check_labels(task: _Task, ours: str, theirs: str) -> tuple[bool, str]:
    found, wanted = (np.load(each, mmap_mode="r").argmax(axis=0) for each in (ours, theirs))
    truth = np.load(task.folder / "labels.npy")
    same = float((found == wanted).mean())
    dices = [
        [2 * np.sum((each == index) & (truth == index)) / max(1, np.sum(each == index) + np.sum(truth == index))
         for index in range(1, task.n_classes)]
        for each in (found, wanted)
    ]  # fmt: skip
    change = float(np.abs(np.subtract(*dices)).max())
    text = f"{100 * same:.3f} % of the labels equal, Dice {np.mean(dices[0]):.4f}, changed by {change:.1g} at most"
    return same >= 0.999 and change <= 0.002, text


# In processes of their own -------------------------------------------------------------------------------------------


def _ours(task: _Task, precision: str) -> Callable[[], str]:
    import torch

    from SemiSupSegLib.learning.devices import prefers_bfloat16, prepare_process
    from SemiSupSegLib.learning.prediction import Predictor
    from SemiSupSegLib.training_settings import PredictionSettings

    device = torch.device(task.device)
    prepare_process(device, task.threads)
    if precision == "bfloat16" and not prefers_bfloat16(device):
        raise RuntimeError("this processor isn't fast in bfloat16")
    settings = PredictionSettings(overlap=_OVERLAP, mirroring=False)
    predictor = Predictor(_network(task).to(device), _plan(task, precision), device, settings)
    image = torch.from_numpy(np.load(task.folder / "image.npy")).to(device)
    return partial(_saved, task, "ours", lambda: predictor.on_plan_grid(image))


def _defaults(task: _Task) -> Callable[[], str]:
    import torch

    torch.set_num_threads(task.threads)
    return _monai(task, _network(task), _MONAI_BATCH)


def _at_our_precision(task: _Task) -> Callable[[], str]:
    import torch

    from SemiSupSegLib.learning.devices import autocast, prepare_process
    from SemiSupSegLib.learning.prediction import to_memory_format

    device = torch.device(task.device)
    prepare_process(device, task.threads)
    network = to_memory_format(_network(task)).to(device)

    def in_bfloat16(x: torch.Tensor) -> torch.Tensor:
        with autocast(device, "bfloat16"):
            return network(to_memory_format(x)).float()

    return _monai(task, in_bfloat16, _MONAI_BATCH)


def _monai(task: _Task, network: Callable, batch_size: int) -> Callable[[], str]:
    import torch
    from monai.inferers import sliding_window_inference

    image = torch.from_numpy(np.load(task.folder / "image.npy")).to(task.device)[None, None]
    if isinstance(network, torch.nn.Module):
        network = network.to(task.device)

    def predict() -> torch.Tensor:
        with torch.inference_mode():
            return sliding_window_inference(
                image, task.window, batch_size, lambda x: network(x).softmax(1), overlap=_OVERLAP, mode="gaussian"
            )[0]

    return partial(_saved, task, "theirs", predict)


def _saved(task: _Task, side: str, predict: Callable[[], Any]) -> str:
    """Probabilities ``(C, k, j, i)`` in a file the first time; then they are only computed."""
    probabilities = predict()
    path = task.folder / f"{side}.npy"
    if task.device != "cpu":
        import torch

        torch.cuda.synchronize()
    if not getattr(_saved, "is_done", False):
        np.save(path, probabilities.cpu().numpy())
        _saved.is_done = True
    return str(path)


# Inputs --------------------------------------------------------------------------------------------------------------


def _plan(task: _Task, precision: str) -> Any:
    from SemiSupSegLib.learning.plan import Normalisation, Plan

    return Plan(
        dimensions=3,
        spacing=(1.0, 1.0, 1.0),
        patch=task.window[::-1],
        batch_size=2,
        normalisation=Normalisation(),
        precision=precision,
        network="unet",
        features=(16, 32, 64, 128),
        strides=((2, 2, 2),) * 3,
        norm="batch",
        dropout=0.0,
        n_classes=task.n_classes,
    )


def _network(task: _Task) -> Any:
    from SemiSupSegLib.learning.prediction import build_planned_network, load_tensors, load_weights

    network = build_planned_network(_plan(task, "float32"))
    load_weights(network, load_tensors(task.folder / "weights.safetensors"), "the benchmark")
    return network.eval()


def _prepared(options: Options, folder: Path) -> _Task:
    """A scan, its largest structures, and a network that has learned to find them on it."""
    import torch

    from SemiSupSegLib.learning.cases import TrainingCase
    from SemiSupSegLib.learning.checkpoints import save_tensors
    from SemiSupSegLib.learning.trainer import Trainer
    from SemiSupSegLib.training_settings import TrainingSettings
    from SemiSupSegLib.volume import Geometry

    # An overlap of a half that divides the shape evenly: there both sides have the same windows.
    shape = options.pick((200, 512, 512), (48, 128, 128), (24, 32, 32))
    window = options.pick((80, 128, 128), (32, 64, 64), (8, 16, 16))
    scan = ct_sized(options)
    inside = tuple(slice(0, size) for size in shape)
    task = _Task(folder, window, _STRUCTURES + 1, options.threads, options.device)
    plan = _plan(task, "float32")
    image = np.ascontiguousarray(plan.normalisation(scan.image[inside]))
    labels = _largest_structures(np.ascontiguousarray(scan.labels[inside]))
    case = TrainingCase("scan", Geometry(shape[::-1]), torch.from_numpy(image).half())
    case.annotate(labels, is_dense=True)
    torch.set_num_threads(options.threads)
    patch = options.pick((64, 64, 32), (64, 64, 32), (16, 16, 8))
    settings = TrainingSettings(method="supervised", seed=options.seed, iterations=options.pick(600, 600, 60))
    small = type(plan)(**{**plan.__dict__, "patch": patch, "precision": "bfloat16"})
    trainer = Trainer(settings, small, torch.device(options.device), [case], settings.iterations)
    for _ in range(settings.iterations):
        trainer.step()
    np.save(folder / "image.npy", image)
    np.save(folder / "labels.npy", labels)
    save_tensors(folder / "weights.safetensors", trainer.teacher.state_dict())
    return task


def _largest_structures(labels: np.ndarray) -> np.ndarray:
    """The largest classes as 1, 2, 3; all else becomes background."""
    sizes = np.bincount(labels.ravel(), minlength=_STRUCTURES + 1)
    table = np.zeros(len(sizes), dtype=np.uint8)
    for index, label in enumerate(np.argsort(-sizes[1:])[:_STRUCTURES]):
        table[label + 1] = index + 1
    return table[labels]


# Memory --------------------------------------------------------------------------------------------------------------


def _memory(options: Options, n_classes: int, extra: str, name: str, limit: float) -> Row:
    shape = (32, 64, 64) if options.tiny else (200, 512, 512)
    window = (8, 16, 16) if options.tiny else (40, 64, 64)
    n_bytes = peak_memory(_whole_prediction, shape, window, n_classes, extra, options.threads)
    copies = n_bytes / (4 * int(np.prod(shape)))
    size = "x".join(map(str, shape))
    note = f"float32 copies of {size} voxels beside the int16 image itself, the network's own maps included"
    return Row(name, _LIMIT, copies, limit, unit="x", aim=1.0, note=note)


def _whole_prediction(
    shape: tuple[int, int, int], window: tuple[int, int, int], n_classes: int, extra: str, threads: int
) -> Callable[[], Any]:
    """From an image to labels on its grid, by a small network on the image's own spacing; `extra` names what more."""
    import torch

    from SemiSupSegLib.learning.devices import prepare_process
    from SemiSupSegLib.learning.plan import Normalisation, Plan
    from SemiSupSegLib.learning.prediction import Predictor, build_planned_network
    from SemiSupSegLib.training_settings import PredictionSettings
    from SemiSupSegLib.volume import Geometry, Volume

    plan = Plan(3, (1.0,) * 3, window[::-1], 1, Normalisation(), "float32", "unet", (2, 4), ((2, 2, 2),), "batch", 0.0,
                n_classes)  # fmt: skip
    device = torch.device("cpu")
    prepare_process(device, threads)
    settings = PredictionSettings(probability=extra == "probabilities", overlap=0.25)
    one_piece = tuple(range(1, n_classes)) if extra == "largest component" else ()
    torch.manual_seed(0)
    predictor = Predictor(build_planned_network(plan).eval(), plan, device, settings, one_piece)
    predictor(Volume(np.arange(24**3, dtype=np.int16).reshape(24, 24, 24), Geometry((24, 24, 24))))  # warms up
    array = np.random.default_rng(0).integers(0, 2000, shape, dtype=np.int16)
    return partial(predictor, Volume(array, Geometry(shape[::-1])))
