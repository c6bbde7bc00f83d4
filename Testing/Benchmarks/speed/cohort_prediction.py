"""Predicting many scans in one process, against a process a scan, as extensions that start a program for each do it."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from SemiSupSegLib.labels import LabelSchema
from SemiSupSegLib.models import Model
from SemiSupSegLib.phantom import make_phantom
from SemiSupSegLib.segmentation_file import read_annotation
from SemiSupSegLib.volume import write_volume

from .measure import alternate
from .rows import Options, Row, attempt

_ROOT = Path(__file__).resolve().parents[3]
_PEER = "a process a scan"
_SMALL_AIM = 5.0
_SHARE_OF_POSSIBLE = 0.9
_SCHEMA = LabelSchema.from_names(["organ", "lesion", "vessel"])


def rows(options: Options) -> Iterator[Row]:
    """Small scans, where the start of a process costs most, and larger ones."""
    n_scans = options.pick(20, 20, 2)
    small, large = options.pick((35, 50, 35), (35, 50, 35), (16, 16, 16)), (88, 140, 183)
    for kind, shape in (("small", small), *options.pick([("larger", large)], [], [])):
        size = "x".join(map(str, shape))
        name = f"prediction of {n_scans} {kind} scans, {size}"
        if options.wants(name, _PEER):
            yield attempt(name, _PEER, partial(_row, options, name, n_scans, shape, kind == "small"))


def _row(options: Options, name: str, n_scans: int, shape: tuple[int, int, int], is_small: bool) -> Row:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = _model(folder / "model", shape, options.seed)
        scans = []
        for index in range(n_scans):
            scans.append(folder / f"scan{index}.nrrd")
            write_volume(scans[-1], make_phantom(shape, (options.seed, index)).image)
        together = partial(_predict, options, model, scans, folder / "together")
        one = partial(_predict, options, model, scans[:1], folder / "one")

        def apart() -> None:
            for scan in scans:
                _predict(options, model, [scan], folder / "apart")

        together()
        apart()
        equal = all(_labels(folder / "together", scan, folder / "apart") for scan in scans)
        ours, theirs, single = alternate((together, apart, one), options.pick(5, 5, 1))
    whole, first = statistics.median(ours), statistics.median(single)
    # s, what starting takes, and t, what a scan takes: the one process needs s + n t, the others n (s + t).
    scan_seconds = max(0.0, (whole - first) / max(1, n_scans - 1))
    start_seconds = first - scan_seconds
    possible = (start_seconds + scan_seconds) / (scan_seconds + start_seconds / n_scans)
    note = f"start {start_seconds:.2f} s, {scan_seconds:.3f} s a scan: {possible:.1f} is possible"
    aim = _SMALL_AIM if is_small else _SHARE_OF_POSSIBLE * possible
    values = {"ours": ours, "theirs": theirs, "one scan": single}
    return Row(name, _PEER, whole, statistics.median(theirs), aim=aim, equal=equal, note=note, values=values)


def _predict(options: Options, model: Path, scans: list[Path], out: Path) -> None:
    command = [sys.executable, "-m", "SemiSupSegLib", "predict", str(model), *map(str, scans), "--out", str(out)]
    settings = ["--device", options.device, "--set", f"threads={options.threads}"]
    done = subprocess.run([*command, *settings], capture_output=True, text=True, cwd=_ROOT)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().rpartition("\n")[2])


def _labels(ours: Path, scan: Path, theirs: Path) -> bool:
    """Whether a scan has the same labels in two folders."""
    name = f"{scan.stem}.seg.nrrd"
    return np.array_equal(*(read_annotation(folder / name, None, _SCHEMA)[0] for folder in (ours, theirs)))


def _model(folder: Path, shape: tuple[int, int, int], seed: int) -> Path:
    """A network of the default size with drawn weights, that wants its images as the phantoms are."""
    import torch

    from SemiSupSegLib.learning.checkpoints import save_tensors
    from SemiSupSegLib.learning.plan import Normalisation, Plan
    from SemiSupSegLib.learning.prediction import build_planned_network

    patch = tuple(min(40, size // 8 * 8) for size in shape[::-1])
    plan = Plan(3, (1.5, 1.5, 3.0), patch, 2, Normalisation(), "bfloat16", "unet", (16, 32, 64, 128),
                ((2, 2, 2),) * 3, "batch", 0.0, _SCHEMA.n_classes)  # fmt: skip
    torch.manual_seed(seed)
    folder.mkdir()
    save_tensors(folder / "teacher.safetensors", build_planned_network(plan).state_dict())
    Model(folder, "benchmark", _SCHEMA, "sp3", plan.to_json()).save_description()
    return folder
