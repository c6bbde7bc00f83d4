"""The companion's main: a small process beside Slicer that stays warm and computes supervoxels for what is shown.

It needs what a stock Slicer ships, no torch. It speaks the worker's line (see ARCHITECTURE.md) with one request of its
own, ``compute_superpixels``, answered by ``progress`` events and one ``answer``; each bears the request's ``id``.

=============  ========================================================================================================
field          of the request
=============  ========================================================================================================
``image``      path of the image: a ``.npy`` file (k, j, i), or whatever `read_volume` reads
``spacing``    size of a voxel along (i, j, k) in mm; of a ``.npy`` file, that knows none
``settings``   fields of `SuperpixelSettings`
``cache``      folder for the results, kept below `CACHE_BYTES`
``transient``  whether the image file was written for this request only, and is deleted once it is read
=============  ========================================================================================================

The answer names a ``.npy`` file, its ``superpixels`` (how many) and whether it was made before (``cached``). The file
holds *labels*: superpixel ids plus one, since where Slicer resamples a volume, 0 is what lies outside of it.

The newest request wins: an older one is answered "superseded" as soon as possible. Where standard input ends, the owner
is dead, and the companion ends at once.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import queue
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .errors import ErrorCode, SemiSupSegError, SettingsError
from .events import Command, decode_command, encode_event
from .files import TEMPORARY_PREFIX, explained
from .processes import this_process
from .superpixels import SuperpixelSettings, compute_superpixels, save_superpixels, superpixel_key
from .volume import read_volume

REQUESTS: Mapping[str, tuple[str, ...]] = {"compute_superpixels": ("image", "cache"), "cancel": ()}
"""What may be asked for, and the texts that each needs."""

SUPERSEDED = "superseded"
"""Begin of the message of an answer to a request that gave way to a newer one, or was cancelled."""

CACHE_BYTES = 4 * 1024**3
"""The oldest results are deleted when a cache folder grows beyond this; a CT's take 0.3 GB."""

_PROGRESS_SECONDS = 0.1
_YIELD = 5  # the views come first
_OWNER_DIED = 4


def main() -> int:
    """Serves requests on stdin until it ends; the exit code."""
    faulthandler.enable()
    if hasattr(os, "nice"):
        os.nice(_YIELD)
    output = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # whatever a library prints is log
    companion = Companion(output)
    threading.Thread(target=companion.listen, args=(sys.stdin.buffer,), daemon=True).start()
    companion.serve()
    return 0


class Companion:
    """Takes requests one after the other and computes.

    Parameters
    ----------
    output : binary file
        Takes the events, a line each.
    """

    def __init__(self, output: BinaryIO):
        self._output = output
        self._requests: queue.Queue[Command] = queue.Queue()
        self._transient: set[Path] = set()
        self._exchange: set[Path] = set()
        self._last_progress = 0.0

    def listen(self, stream: BinaryIO) -> None:
        """Reads requests until the owner is gone, then ends the process, whatever it is computing."""
        for line in stream:
            command = decode_command(line, REQUESTS)
            if command.fields.get("transient"):
                self._transient.add(Path(command["image"]))
                self._exchange.add(Path(command["image"]).parent)
            self._requests.put(command)
        for path in self._transient.copy():  # scans of patients
            _delete(path)
        for folder in self._exchange:
            with contextlib.suppress(OSError):  # it isn't empty, so it isn't only ours
                folder.rmdir()
        os._exit(_OWNER_DIED)

    def serve(self) -> None:
        """Answers requests for ever."""
        me = this_process()
        self._send("started", pid=me.pid, process_start=me.start, task="companion", versions={"numpy": np.__version__})
        while True:
            self._answer(self._requests.get())

    def _answer(self, request: Command) -> None:
        answer: dict[str, Any] = {"command": request.name, "id": request.id, "ok": False}
        try:
            if request.problem:
                raise SettingsError(request.problem)
            if request.name == "compute_superpixels":
                answer |= self._compute(request)
            answer["ok"] = True
        except _Superseded:
            answer["message"] = f"{SUPERSEDED} by a newer request"
        except SemiSupSegError as error:
            answer |= error.to_json()
        except MemoryError:
            answer |= SemiSupSegError(
                "The computer's memory is too small for the superpixels of this image.",
                "Close other programs, or crop the volume.",
                code=ErrorCode.OUT_OF_MEMORY,
            ).to_json()
        except Exception as error:
            # Whatever it was: the owner waits for an answer, and the next image may be fine.
            faulthandler.dump_traceback()
            answer |= SemiSupSegError(
                f"The superpixels can't be computed: {type(error).__name__}: {error}.", "Read the log."
            ).to_json()
        self._send("answer", **answer)

    def _compute(self, request: Command) -> dict[str, Any]:
        begin = time.monotonic()

        def report(fraction: float) -> None:
            if not self._requests.empty():
                raise _Superseded
            if time.monotonic() - self._last_progress >= _PROGRESS_SECONDS:
                self._last_progress = time.monotonic()
                left = (self._last_progress - begin) * (1 / fraction - 1) if fraction > 0.05 else None
                self._send(
                    "progress", id=request.id, stage="Computing supervoxels", fraction=fraction, seconds_left=left
                )

        report(0.0)
        settings = _settings(request.fields.get("settings", {}))
        image, spacing = self._read(request)
        report(0.02)
        path = Path(request["cache"]) / f"{superpixel_key(image, spacing, settings)}-labels.npy"
        count = _count_in(path, image.shape)
        cached = count is not None
        if not cached:
            ids = compute_superpixels(image, spacing, settings, report)
            count = int(ids.max()) + 1
            ids += 1
            make_room(path.parent, ids.nbytes)
            save_superpixels(path, ids)
        else:
            os.utime(path)  # so that it's deleted last
        seconds = time.monotonic() - begin
        return {"path": str(path), "superpixels": count, "cached": cached, "seconds": seconds}

    def _read(self, request: Command) -> tuple[np.ndarray, tuple[float, float, float]]:
        path = Path(request["image"])
        try:
            if path.suffix != ".npy":
                volume = read_volume(path)
                return volume.array, volume.geometry.spacing
            spacing = request.fields.get("spacing")
            if not isinstance(spacing, list) or len(spacing) != 3:
                raise SettingsError("The request gives no spacing for an image without a geometry.")
            try:
                with explained("read the image", path):
                    return np.load(path, allow_pickle=False), tuple(spacing)
            except (ValueError, EOFError) as error:
                raise SemiSupSegError(
                    f"'{path}' isn't an image: {error}.", "Try again.", code=ErrorCode.UNREADABLE_FILE
                ) from error
        finally:
            if request.fields.get("transient"):
                _delete(path)
                self._transient.discard(path)

    def _send(self, name: str, **fields: Any) -> None:
        with contextlib.suppress(OSError):  # the owner is gone: the end of stdin says so, too
            self._output.write(encode_event(name, fields))


class _Superseded(Exception):
    """A newer request waits."""


def make_room(cache: Path, needed: int, limit: int = CACHE_BYTES) -> None:
    """Deletes the results that weren't used for longest until `needed` more bytes stay within the limit."""
    found = []
    for path in cache.glob("*.npy"):
        with contextlib.suppress(OSError):
            status = path.stat()
            found.append((status.st_mtime, status.st_size, path))
    total = sum(size for _, size, _ in found) + needed
    for _, size, path in sorted(found):
        if total <= limit:
            break
        _delete(path)
        total -= size
    for leftover in cache.glob(f"{TEMPORARY_PREFIX}*"):  # of a companion that died while writing
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime > 3600:
                _delete(leftover)


def load_labels(path: str | Path, shape: tuple[int, int, int]) -> np.ndarray:
    """The labels of an answer, mapped into memory rather than read: instant, whatever their size.

    Parameters
    ----------
    path : str or pathlib.Path
        As the answer says.
    shape : tuple of int
        Shape (k, j, i) of the image.

    Returns
    -------
    numpy.ndarray of int32, shape (k, j, i)
        Superpixels from 1; what is written to it stays in memory.

    Raises
    ------
    SemiSupSegError
        ``unreadable-file`` if the file is gone or damaged.
    """
    try:
        labels = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise SemiSupSegError(
            f"The superpixels in '{path}' can't be read: {error}.",
            "Press Initialize again.",
            code=ErrorCode.UNREADABLE_FILE,
        ) from error
    if labels.shape != tuple(shape) or labels.dtype != np.int32:
        raise SemiSupSegError(
            f"The superpixels in '{path}' belong to another image.",
            "Press Initialize again.",
            code=ErrorCode.UNREADABLE_FILE,
        )
    return labels


def _count_in(path: Path, shape: tuple[int, int, int]) -> int | None:
    """How many superpixels a result has; None if it isn't there, damaged or made for another image."""
    try:
        labels = load_labels(path, shape)
    except SemiSupSegError:
        return None
    lowest, highest = int(labels.min()), int(labels.max())
    return highest if lowest == 1 and highest <= labels.size else None


def _settings(fields: Any) -> SuperpixelSettings:
    try:
        return SuperpixelSettings(**fields)
    except TypeError as error:
        raise SettingsError(f"The settings {fields} aren't those of superpixels.") from error


def _delete(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
