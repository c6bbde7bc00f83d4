"""Hostile files are read in a child process with little memory, so that a crash, a hang or a hoard is seen and counted.

``python -m Testing.Faults.examiner`` is the child: a JSON list a line on stdin, a JSON object a line on stdout.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from SemiSupSegLib.cohort import Cohort
from SemiSupSegLib.errors import SemiSupSegError
from SemiSupSegLib.files import read_json
from SemiSupSegLib.labels import LabelSchema
from SemiSupSegLib.models import Model, import_zip
from SemiSupSegLib.segmentation_file import read_annotation
from SemiSupSegLib.training_settings import PredictionSettings, TrainingSettings
from SemiSupSegLib.volume import extension_of, read_geometry, read_volume

MEMORY_BYTES = 4 * 2**30
"""Address space that a child may use beyond what it has after its imports."""

PATIENCE_SECONDS = 5.0
"""A file that takes longer hangs the program; several times that counts as a hang on a loaded machine."""

SCHEMA = LabelSchema.from_names(("left atrium", "vein"))
_VALUES = {"left atrium": 1, "vein": 2}


@dataclass(frozen=True)
class Verdict:
    """What became of one hostile file: ``read``, ``refused`` with a sentence, or ``broken``."""

    outcome: str
    text: str = ""
    seconds: float = 0.0
    memory_bytes: int = 0


class Examiner:
    """Reads hostile files in a child process, and in another one when that died.

    Use it as a context manager.
    """

    def __init__(self):
        self._child: subprocess.Popen | None = None

    def __enter__(self) -> Examiner:
        return self

    def __exit__(self, *_) -> None:
        self._end()

    def look(self, way: str, *paths: Path, may_write: Path | None = None) -> Verdict:
        """Read files in one of the ways of `WAYS`; whatever is written elsewhere than in `may_write` is a failure."""
        if self._child is None:
            self._child = subprocess.Popen(
                (sys.executable, "-m", "Testing.Faults.examiner"), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[2],
            )  # fmt: skip
            self._child.stdout.readline()  # its imports are done
        began = time.monotonic()
        request = [way, [str(path) for path in paths], str(may_write or "")]
        with contextlib.suppress(OSError):
            self._child.stdin.write(json.dumps(request).encode() + b"\n")
            self._child.stdin.flush()
        answer = self._answer(4 * PATIENCE_SECONDS)
        if answer:
            verdict = Verdict(**json.loads(answer))
            slow = verdict.seconds > PATIENCE_SECONDS  # processor time: the machine may be busy with other things
            return Verdict("broken", f"took {verdict.seconds:.1f} s", verdict.seconds) if slow else verdict
        hangs = self._child.poll() is None and answer is None
        code = self._end()
        return Verdict("broken", "hangs" if hangs else f"the interpreter died ({code})", time.monotonic() - began)

    def _answer(self, seconds: float) -> bytes | None:
        """The child's line, empty if it died, None if it doesn't come."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._child.stdout, selectors.EVENT_READ)
            return self._child.stdout.readline() if selector.select(seconds) else None

    def _end(self) -> int | None:
        child, self._child = self._child, None
        if child is None:
            return None
        with contextlib.suppress(OSError):
            child.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(1.0)
        child.kill()
        child.stdout.close()
        return child.wait()


def _read_volume(path: Path) -> None:
    """As a scan; what the header alone says has to be the same grid, and the voxels have to be those of the grid."""
    geometry = read_geometry(path)
    volume = read_volume(path)
    assert volume.geometry == geometry, "the header alone gives another grid"
    assert volume.array.shape == volume.geometry.shape


def _read_cut(path: Path, whole: Path) -> None:
    """As a file that lost its end: what is read all the same has to be what the whole file holds."""
    assert (read_volume(path).array == read_volume(whole).array).all(), "other voxels"


def _read_annotation(path: Path) -> None:
    values = None if extension_of(path).lower() == ".seg.nrrd" else _VALUES
    for kind in ("label", "scribble"):
        labels, geometry = read_annotation(path, values, SCHEMA, kind)
        assert labels.dtype == "uint8"
        assert labels.shape == geometry.shape
        assert set(labels.ravel().tolist()) <= {0, 1, 2, 255}, "labels that are no class"


def _load_cohort(path: Path) -> None:
    cohort = Cohort.load(path)
    json.dumps(cohort.schema.to_json(), allow_nan=False)
    for case in cohort.cases:
        for look in (cohort.read_geometry, cohort.read_training_annotation, cohort.read_label):
            with contextlib.suppress(SemiSupSegError):  # as files that aren't there
                look(case)
    cohort.fingerprint()


def _load_training_settings(path: Path) -> None:
    settings = TrainingSettings.from_json(read_json(path, "the settings"))
    assert TrainingSettings.from_json(settings.to_json()) == settings


def _load_prediction_settings(path: Path) -> None:
    settings = PredictionSettings.from_json(read_json(path, "the settings"))
    assert PredictionSettings.from_json(settings.to_json()) == settings


def _override_settings(path: Path) -> None:
    assignments = path.read_bytes().decode("utf-8", "replace").splitlines()
    settings = TrainingSettings().with_overrides(assignments)
    assert TrainingSettings.from_json(settings.to_json()) == settings


def _load_model(path: Path) -> None:
    model = Model.load(path)
    model.schema.to_json()
    model.weights_file()
    json.dumps([model.plan, model.summary], allow_nan=False)


def _import_zip(path: Path, folder: Path) -> None:
    model = import_zip(path, folder)
    names = {file.name for file in folder.rglob("*")}
    assert names <= {"model.json", "student.safetensors", "teacher.safetensors", "best.safetensors"}, names
    assert not any(file.is_symlink() for file in folder.rglob("*")), "a link was unpacked"
    model.weights_file()


def _load_tensors(path: Path) -> None:
    from SemiSupSegLib.learning.checkpoints import load_tensors

    for tensor in load_tensors(path).values():
        tensor.sum()


def _load_checkpoint(path: Path) -> None:
    from SemiSupSegLib.learning.checkpoints import load_checkpoint

    load_checkpoint(path)


def _build_network(path: Path) -> None:
    """As prediction does: plan, network, weights."""
    from SemiSupSegLib.learning.prediction import Predictor

    Predictor.of_model(Model.load(path), PredictionSettings(device="cpu", threads=1))


WAYS: dict[str, Callable[..., None]] = {
    "volume": _read_volume,
    "cut volume": _read_cut,
    "annotation": _read_annotation,
    "cohort": _load_cohort,
    "training settings": _load_training_settings,
    "prediction settings": _load_prediction_settings,
    "overrides": _override_settings,
    "model": _load_model,
    "zip": _import_zip,
    "tensors": _load_tensors,
    "checkpoint": _load_checkpoint,
    "network": _build_network,
}
"""How a hostile file is looked at."""


class _Watch:
    """Sees every file that Python opens for writing, makes or links."""

    def __init__(self):
        self.allowed = ""
        self.seen: list[str] = []
        self.active = False
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple) -> None:
        if not self.active:
            return
        if event == "open":
            path, _, flags = arguments
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        elif event in ("os.mkdir", "os.symlink", "os.link", "os.rename", "os.remove", "os.rmdir"):
            path, writes = arguments[1 if event in ("os.symlink", "os.link") else 0], arguments[-1] == -1
        elif event in ("subprocess.Popen", "os.system", "pickle.find_class", "socket.connect"):
            self.seen.append(event)
            return
        else:
            return
        if writes and isinstance(path, str | bytes | os.PathLike):
            where = os.path.abspath(os.fsdecode(path))
            if not self.allowed or not where.startswith(self.allowed + os.sep):
                self.seen.append(f"{event} {where}")


def _examine(watch: _Watch, way: str, paths: list[str], may_write: str) -> Verdict:
    watch.allowed, watch.seen = may_write, []
    began = time.process_time()
    watch.active = True
    try:
        WAYS[way](*map(Path, paths))
        outcome, text = "read", ""
    except SemiSupSegError as error:
        sound = error.message.strip().endswith((".", "?")) and len(error.message) < 1000 and error.code != "internal"
        outcome, text = "refused" if sound else "broken", f"[{error.code}] {error.message}"
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        outcome, text = "broken", f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
    finally:
        watch.active = False
    if watch.seen:
        outcome, text = "broken", f"did {watch.seen[0]}"
    return Verdict(outcome, text[:500], time.process_time() - began, _most_memory())


def _most_memory() -> int:
    """Bytes of memory that this process has ever held."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _limit_memory() -> None:
    import resource

    with contextlib.suppress(OSError, ValueError):  # not on every system
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    """The child: answers one line after another until stdin ends."""
    line = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what C++ says is not for us
    watch = _Watch()
    _limit_memory()
    line.write(b"ready\n")
    for request in sys.stdin:
        way, paths, may_write = json.loads(request)
        verdict = _examine(watch, way, paths, may_write)
        line.write(json.dumps(_as_json(verdict)).encode() + b"\n")


def _as_json(verdict: Verdict) -> dict[str, Any]:
    return {name: getattr(verdict, name) for name in ("outcome", "text", "seconds", "memory_bytes")}


if __name__ == "__main__":
    main()
