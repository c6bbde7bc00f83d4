"""The owner's side of the companion: starts it when it is needed, asks it for superpixels, polls without blocking."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from .companion import SUPERSEDED, load_labels
from .errors import ErrorCode, RunError, SemiSupSegError
from .events import Command, Event, decode_line, encode_command
from .files import explained, temporary_beside
from .processes import OWN_GROUP_VARIABLE, end_tree
from .streams import PipeLines
from .superpixels import SuperpixelSettings

BOOTSTRAP = Path(__file__).with_name("start_companion.py")
"""What the companion's Python is given to run."""

_LOG_LINES = 200

_REMEMBERED = 8
"""Results that are given again at once, by their tags."""


class SuperpixelRequest:
    """Superpixels that were asked for, and how far they are.

    Attributes
    ----------
    fraction : float
        The share that is done, from 0 to 1.
    seconds_left : float or None
        An estimate, once there is one.
    is_over : bool
    error : SemiSupSegError or None
        Why there are none. A request that gave way to a newer one, or was cancelled, has the code ``cancelled``.
    superpixels : int
        How many there are.
    cached : bool
        Whether they had been made before.
    """

    def __init__(self, shape: tuple[int, int, int], image: Path | None = None, tag: Hashable = None):
        self.id = Command("").id
        self.shape = shape
        self.tag = tag
        self.fraction = 0.0
        self.seconds_left: float | None = None
        self.is_over = False
        self.error: SemiSupSegError | None = None
        self.superpixels = 0
        self.cached = False
        self._image = image
        self._path: str | None = None

    def labels(self) -> np.ndarray:
        """Superpixel of each voxel, from 1: int32 (k, j, i), mapped into memory (see `companion.load_labels`)."""
        if self._path is None:
            raise RunError("The superpixels aren't computed yet.", "Wait for them.")
        return load_labels(self._path, self.shape)

    def _end(self, error: SemiSupSegError | None) -> None:
        self.is_over, self.error = True, error
        if error is None:
            self.fraction = 1.0


class CompanionClient:
    """Keeps one companion process, started by the first request and again if it died.

    Nothing here needs a thread: call `poll` every 50 to 100 ms while a request isn't over.

    Parameters
    ----------
    cache : path
        Folder for results, outlives the companion; made if it doesn't exist.
    python : path or sequence of str, optional
        The interpreter; this one if not given (in Slicer: PythonSlicer).
    environment : mapping, optional
        Its environment variables; this process's if not given. In Slicer: `slicer.util.startupEnvironment()`.

    Examples
    --------
    ::

        client = CompanionClient("cache")
        request = client.compute_superpixels(image, spacing, SuperpixelSettings(size_mm=5))
        while not request.is_over:
            client.poll()
        labels = request.labels()
    """

    def __init__(
        self,
        cache: str | os.PathLike,
        *,
        python: str | os.PathLike | Sequence[str] | None = None,
        environment: Mapping[str, str] | None = None,
    ):
        self.cache = Path(cache)
        python = sys.executable if python is None else python
        self._python = [os.fspath(python)] if isinstance(python, str | os.PathLike) else [*python]
        self._environment = dict(os.environ if environment is None else environment)
        self._process: subprocess.Popen | None = None
        self._lines: PipeLines | None = None
        self._worker_pid = 0
        self._unsent = b""
        self._log: deque[str] = deque(maxlen=_LOG_LINES)
        self._request: SuperpixelRequest | None = None
        self._done: dict[Hashable, SuperpixelRequest] = {}
        self._exchange: Path | None = None

    def start(self) -> None:
        """Starts the companion if it doesn't run, so that the first request finds it warm.

        Raises
        ------
        SemiSupSegError
            ``packages-missing`` if the interpreter can't be started.
        """
        if self.is_running:
            return
        self._let_go()
        try:
            self._process = subprocess.Popen(
                [*self._python, "-u", str(BOOTSTRAP)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                bufsize=0,
                env={**self._environment, "PYTHONUTF8": "1", OWN_GROUP_VARIABLE: "1"},
                **_own_group(),
            )
        except OSError as error:
            raise SemiSupSegError(
                f"The interpreter '{self._python[0]}' can't be started ({error.strerror}).",
                "Install the software again.",
                code=ErrorCode.PACKAGES_MISSING,
            ) from error
        self._lines = PipeLines(self._process.stdout)
        if sys.platform != "win32":  # there a write of a few bytes to a pipe that a thread empties has to do
            os.set_blocking(self._process.stdin.fileno(), False)

    @property
    def is_running(self) -> bool:
        """Whether the companion lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def log_tail(self) -> str:
        """The last lines that it logged."""
        return "\n".join(self._log)

    def compute_superpixels(
        self,
        image: np.ndarray,
        spacing: Sequence[float],
        settings: SuperpixelSettings | None = None,
        *,
        tag: Hashable = None,
        file: str | os.PathLike | None = None,
    ) -> SuperpixelRequest:
        """Asks for the superpixels of an image; a request that isn't over yet gives way.

        The image goes through a file that only this user can read and that is deleted as soon as it is read.

        Parameters
        ----------
        image : numpy.ndarray, shape (k, j, i)
        spacing : sequence of float
            Size of a voxel along (i, j, k) in millimetres.
        settings : SuperpixelSettings, optional
        tag : hashable, optional
            Names the image's content and geometry. If the request that isn't over yet has the same tag and settings, it
            goes on and is returned, and so is one that was answered lately: asking for the same again loses no time.
        file : path, optional
            A file that holds this very image, so that it needn't be written.

        Raises
        ------
        SemiSupSegError
            If the image can't be written, or the companion can't be started.
        """
        tag = None if tag is None else (tag, settings)
        if tag is not None and self._request is not None and self._request.tag == tag and self.is_running:
            return self._request
        if tag is not None and tag in self._done and Path(self._done[tag]._path).is_file():
            self._give_way(f"{SUPERSEDED} by a newer request.")
            return self._done[tag]
        self.start()
        if file is not None:
            return self._ask(SuperpixelRequest(image.shape, tag=tag), {"image": os.path.abspath(file)}, settings)
        folder = self._exchange_folder()
        path = temporary_beside(folder / "image").with_suffix(".npy")
        with explained("write", path), open(path, "wb") as file:
            np.save(file, image, allow_pickle=False)
        fields = {"image": str(path), "spacing": [float(size) for size in spacing], "transient": True}
        return self._ask(SuperpixelRequest(image.shape, path, tag), fields, settings)

    def cancel(self) -> None:
        """Gives up the request that isn't over yet; the companion stays warm."""
        if self._request is not None:
            self._give_way("The superpixels were cancelled.")
            self._unsent += encode_command(Command("cancel"))
            self._send_pending()

    def poll(self, budget_ms: float = 20.0) -> SuperpixelRequest | None:
        """Brings the current request up to date; never blocks, and reads for about `budget_ms` at most.

        Returns
        -------
        SuperpixelRequest or None
            The request, if it has just come to its end or made progress.
        """
        if self._lines is None:
            return None
        request, news = self._request, False
        deadline = time.perf_counter() + budget_ms / 1000
        while time.perf_counter() < deadline and (line := self._lines.next_line(deadline)) is not None:
            event = decode_line(line)
            if event is None:
                self._log.append(line[:2000].decode("utf-8", "replace"))
            else:
                news |= self._note(event)
        self._send_pending()
        if self._lines.at_end and not self.is_running:
            news |= self._fail()
        return request if news else None

    def close(self, grace_seconds: float = 0.5) -> None:
        """Ends the companion; it ends at once by itself where stdin ends."""
        self._give_way("The companion was closed.")
        if self._process is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(grace_seconds)
        self._let_go()
        if self._exchange is not None:
            shutil.rmtree(self._exchange, ignore_errors=True)
            self._exchange = None

    def _ask(
        self, request: SuperpixelRequest, fields: Mapping[str, object], settings: SuperpixelSettings | None
    ) -> SuperpixelRequest:
        self._give_way(f"{SUPERSEDED} by a newer request.")
        self._request = request
        body = {**fields, "cache": str(self.cache), "settings": asdict(settings or SuperpixelSettings())}
        self._unsent += encode_command(Command("compute_superpixels", request.id, body))
        self._send_pending()
        return request

    def _note(self, event: Event) -> bool:
        """Takes in an event; whether it is news of the current request."""
        if event.name == "started":
            self._worker_pid = event["pid"]
        request = self._request
        if request is None or event.fields.get("id") != request.id:
            return False
        if event.name == "progress":
            request.fraction = event["fraction"] or 0.0
            request.seconds_left = event["seconds_left"]
        elif event.name == "answer":
            self._request = None
            fields = event.fields
            if event["ok"]:
                request._path = fields["path"]
                request.superpixels = int(fields["superpixels"])
                request.cached = bool(fields["cached"])
                request._end(None)
                self._done = dict([*self._done.items(), (request.tag, request)][-_REMEMBERED:])
            else:
                code = ErrorCode(fields.get("code", ErrorCode.CANCELLED))
                request._end(SemiSupSegError(event["message"], fields.get("remedy", ""), code=code))
        return True

    def _fail(self) -> bool:
        """The companion is dead: so is the request."""
        code = self._process.poll() if self._process is not None else None
        request, self._request = self._request, None
        self._let_go()
        if request is None:
            return False
        last = next((line.strip() for line in reversed(self._log) if line.strip()), "it said nothing")
        request._end(
            RunError(f"The process that computes superpixels ended (exit code {code}): {last[:300]}", "Try again.")
        )
        if request._image is not None:
            with contextlib.suppress(OSError):
                request._image.unlink(missing_ok=True)
        return True

    def _give_way(self, message: str) -> None:
        if self._request is not None:
            self._request._end(SemiSupSegError(message, code=ErrorCode.CANCELLED))
            self._request = None

    def _send_pending(self) -> None:
        if not self._unsent or self._process is None:
            return
        try:
            written = os.write(self._process.stdin.fileno(), self._unsent)
            self._unsent = self._unsent[written:]
        except BlockingIOError:
            pass  # the pipe is full: at the next poll
        except (OSError, ValueError):
            self._unsent = b""  # the companion is gone, which the poll will notice

    def _let_go(self) -> None:
        """Ends what is left of the process, also behind a launcher."""
        process, self._process = self._process, None
        if process is None:
            return
        group = 0 if sys.platform == "win32" else process.pid
        if process.poll() is None or self._worker_pid:
            end_tree(process.pid, group, kill=True)
        with contextlib.suppress(OSError):
            process.stdin.close()
        self._lines.close()
        self._lines, self._worker_pid, self._unsent = None, 0, b""
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)

    def _exchange_folder(self) -> Path:
        if self._exchange is None or not self._exchange.is_dir():
            with explained("write to the folder for temporary files"):
                self._exchange = Path(tempfile.mkdtemp(prefix="SemiSupSeg-"))  # its user's alone
        return self._exchange


def _own_group() -> dict:
    if sys.platform == "win32":
        flags = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW
        return {"creationflags": flags | subprocess.BELOW_NORMAL_PRIORITY_CLASS}
    return {"start_new_session": True}
