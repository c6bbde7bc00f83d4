"""The run folder: what was asked for, how it stands, what came out; see "A run" in ARCHITECTURE.md."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .errors import ErrorCode, RunError, SemiSupSegError
from .events import Command, Event, decode_command, decode_line, encode_command
from .files import (
    LineAppender,
    explained,
    read_json,
    sha256_of,
    write_bytes_atomically,
    write_json_atomically,
)
from .locks import FileLock
from .run_records import HEARTBEAT_SECONDS, SCHEMA, RunRequest, State, Status, unreadable

__all__ = [
    "HEARTBEAT_SECONDS",
    "STALE_SECONDS",
    "RunFolder",
    "RunRequest",
    "State",
    "Status",
    "list_runs",
    "new_run_path",
]

STALE_SECONDS = 120.0
"""A worker on another machine, whose process can't be looked at, counts as dead after so long without heartbeat."""


@dataclass(frozen=True)
class RunFolder:
    """A run on disk; see `create` and `open`.

    Parameters
    ----------
    path : Path
        The folder.
    """

    path: Path

    @classmethod
    def create(cls, path: str | os.PathLike, request: RunRequest) -> RunFolder:
        """Makes the folder of a new run; refuses one that already holds a run."""
        folder = cls(Path(os.path.abspath(path)))
        if folder.request_file.exists():
            raise RunError(
                f"The folder '{folder.path}' already holds a run.",
                "Choose another folder, or resume that run.",
                code=ErrorCode.RUN_BUSY,
            )
        with explained("make the run's folder", folder.path):
            folder.path.mkdir(parents=True, exist_ok=True)
            for each in (folder.checkpoints, folder.commands, folder.predictions):
                each.mkdir(exist_ok=True)
        folder.write_status(Status(State.QUEUED))
        write_json_atomically(folder.request_file, {**request.to_json(), "created": _now_text()})
        return folder

    @classmethod
    def open(cls, path: str | os.PathLike) -> RunFolder:
        """The folder of an existing run."""
        folder = cls(Path(os.path.abspath(path)))
        if not folder.request_file.is_file():
            raise RunError(
                f"There is no run in '{folder.path}'.", "Check the path of the folder.", code=ErrorCode.MISSING_FILE
            )
        return folder

    request_file = property(lambda self: self.path / "run.json", doc="The request; after the start also its details.")
    status_file = property(lambda self: self.path / "status.json", doc="How the run stands.")
    events_file = property(lambda self: self.path / "events.jsonl", doc="Every event, one JSON object a line.")
    log_file = property(lambda self: self.path / "log.txt", doc="Everything else that the worker said.")
    metrics_file = property(lambda self: self.path / "metrics.csv", doc="Iteration, name, value.")
    manifest_file = property(lambda self: self.path / "manifest.json", doc="Written last: outcome and result files.")
    lock_file = property(lambda self: self.path / ".lock", doc="Locked while a worker lives.")
    checkpoints = property(lambda self: self.path / "checkpoints", doc="Folder of the checkpoints.")
    commands = property(lambda self: self.path / "commands", doc="Folder of commands, a JSON file each.")
    predictions = property(lambda self: self.path / "predictions", doc="Folder of results and previews.")
    model = property(lambda self: self.path / "model", doc="The trained model, as it is exported and shared.")

    # What was asked for ------------------------------------------------------------------------------------------

    def request(self) -> RunRequest:
        """What the run is asked to do."""
        return RunRequest.from_json(self.details())

    def details(self) -> dict[str, Any]:
        """All of run.json: the request and what was added since (plan, device, versions)."""
        body = read_json(self.request_file, "the request of the run")
        if not isinstance(body, dict):
            raise unreadable("The request of the run (run.json) isn't a JSON object.")
        return body

    def update_request(self, **details: Any) -> None:
        """Changes or adds details in run.json, such as ``plan``, ``device``, ``versions``, ``attached``."""
        write_json_atomically(self.request_file, {**self.details(), **details})

    # How it stands -----------------------------------------------------------------------------------------------

    def write_status(self, status: Status, *, durable: bool = True) -> None:
        """Replaces status.json; a mere heartbeat needn't be durable."""
        content = json.dumps(status.to_json(), indent=2).encode() + b"\n"
        write_bytes_atomically(self.status_file, content, durable=durable)

    def read_status(self) -> Status | None:
        """What status.json says, `None` if it's absent or damaged (a power cut may leave it empty)."""
        try:
            return Status.from_json(read_json(self.status_file, "the status of the run"))
        except (SemiSupSegError, ValueError, KeyError, TypeError, OverflowError):
            return None

    def assess(self, *, now: float | None = None) -> State:
        """How the run really stands: status.json, and whether the process that it names still lives.

        A worker of this machine is looked up by number and start time, so neither a reused number nor a changed
        clock nor a long sleep of the machine deceives; one on another machine counts as dead when its heartbeat
        is older than `STALE_SECONDS`.
        """
        status = self.read_status()
        if status is None:
            return self._state_without_worker(State.LOST)
        if status.state is State.QUEUED and not status.process.pid:
            return State.QUEUED  # nobody started it yet
        if status.state.is_over:
            return self._state_without_worker(status.state)
        if self.worker_lives(status, now=now):
            return status.state
        return self._state_without_worker(State.LOST)

    def worker_lives(self, status: Status | None = None, *, now: float | None = None) -> bool:
        """Whether the worker that status.json names is alive."""
        status = status or self.read_status()
        if status is None:
            return False
        if status.process.is_local:
            return status.process.is_alive
        return abs((time.time() if now is None else now) - status.heartbeat) < STALE_SECONDS

    def _state_without_worker(self, state: State) -> State:
        """The state when nobody runs: finished only with a valid manifest, which is written before the status."""
        if state not in (State.LOST, State.FINISHED):
            return state
        try:
            return State(self.verify_manifest(checksums=False)["outcome"])
        except SemiSupSegError:
            return state if state is State.LOST else State.FAILED

    @property
    def last_checkpoint(self) -> Path | None:
        """The newest checkpoint by its iteration, to be offered for resuming; it isn't verified here."""
        try:
            found = [each for each in self.checkpoints.iterdir() if each.name.isdigit() and each.is_dir()]
        except OSError:
            return None
        return max(found, key=lambda each: int(each.name), default=None)

    def lock(self, note: str = "", *, seconds: float = 1.0) -> FileLock:
        """Takes the lock of the one worker that may work here; raises ``run-busy`` if another has it.

        Use it as a context manager, or release it.
        """
        lock = FileLock(self.lock_file)
        if not lock.acquire(note, seconds=seconds):
            raise RunError(
                f"Another process is working in the run '{self.path.name}'.",
                "Wait until it has finished, or cancel it first.",
                code=ErrorCode.RUN_BUSY,
            )
        return lock

    # What happens meanwhile --------------------------------------------------------------------------------------

    @cached_property
    def _appenders(self) -> dict[Path, LineAppender]:
        return {}

    def append_event(self, line: bytes) -> int:
        """Appends a line to events.jsonl and returns where it ends, in bytes."""
        appender = self._appender(self.events_file)
        appender.append(line)
        return appender.size

    def append_metrics(self, iteration: int, values: Mapping[str, float]) -> None:
        """Appends to metrics.csv, a row for every value."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if not self.metrics_file.exists() or self.metrics_file.stat().st_size == 0:
            writer.writerow(("iteration", "name", "value"))
        writer.writerows((iteration, name, repr(float(value))) for name, value in values.items())
        self._appender(self.metrics_file).append(text.getvalue().encode())

    def flush(self) -> None:
        """Waits until events and metrics are on the disk."""
        for appender in self._appenders.values():
            appender.flush()

    def close(self) -> None:
        """Closes the files that are appended to; the next append opens them again."""
        for appender in self._appenders.values():
            appender.close()
        self._appenders.clear()

    def events(self, begin: int = 0) -> Iterator[Event]:
        """The events in events.jsonl from a byte offset on; damaged lines are left out."""
        try:
            with open(self.events_file, "rb") as file:
                file.seek(begin)
                yield from (event for line in file if line.endswith(b"\n") and (event := decode_line(line)))
        except FileNotFoundError:
            return

    def metrics(self) -> dict[str, list[tuple[int, float]]]:
        """The curves in metrics.csv by name, ordered by iteration.

        Where a resumed run went over an iteration again, its later value counts; damaged rows are left out.
        """
        return curves_of(self.metric_rows())

    def metric_rows(self) -> Iterator[tuple[int, str, float]]:
        """Iteration, name and value of each row of metrics.csv, as they were written; damaged rows are left out."""
        with (
            contextlib.suppress(FileNotFoundError),
            open(self.metrics_file, encoding="utf-8", errors="replace", newline="") as file,
        ):
            for line in file:
                row = next(csv.reader([line.replace("\0", "")], strict=False), [])
                if len(row) == 3 and line.endswith("\n") and re.fullmatch(r"\d{1,15}", row[0], re.ASCII):
                    try:
                        yield int(row[0]), row[1], float(row[2])
                    except ValueError:
                        continue

    # Commands as files -------------------------------------------------------------------------------------------

    def put_command(self, command: Command) -> None:
        """Leaves a command for a worker that has no owner on its stdin."""
        with explained("send a command to", self.path):
            self.commands.mkdir(exist_ok=True)
        name = f"{time.time_ns():020d}-{re.sub(r'[^0-9A-Za-z]', '', command.id)[:40]}.json"
        write_bytes_atomically(self.commands / name, encode_command(command), durable=False)

    def take_commands(self) -> list[Command]:
        """The commands that were left, oldest first; their files are deleted."""
        commands = []
        try:
            names = sorted(name for name in os.listdir(self.commands) if name.endswith(".json"))
        except OSError:
            return []
        for name in names:
            path = self.commands / name
            try:
                with open(path, "rb") as file:
                    content = file.read(1024 * 1024)
                path.unlink()
            except OSError:
                continue
            commands.append(decode_command(content))
        return commands

    # What came out -----------------------------------------------------------------------------------------------

    def write_manifest(self, outcome: State, files: Iterable[str | os.PathLike], *, iteration: int = 0, **more: Any):
        """Writes manifest.json: the last thing that a run does.

        Parameters
        ----------
        outcome : State
            How it ended.
        files : iterable of path
            The files of the result, complete on disk; folders stand for all the files in them.
        iteration : int
            Finished iterations.
        **more
            Further entries, such as ``seconds``.
        """
        body = {"schema": SCHEMA, "outcome": str(outcome), "iteration": iteration, "written": _now_text(), **more}
        body["files"] = [self._describe(each) for each in _all_files(self.path, files)]
        write_json_atomically(self.manifest_file, body)

    def verify_manifest(self, *, checksums: bool = True) -> dict[str, Any]:
        """The content of manifest.json, after a look at every file that it names.

        Parameters
        ----------
        checksums : bool
            Read every file and compare its checksum, else its size only.

        Raises
        ------
        SemiSupSegError
            ``missing-file``, ``unreadable-file``, or ``checkpoint-damaged`` where a file isn't what it was.
        """
        body = read_json(self.manifest_file, "the manifest of the run")
        try:
            if body["schema"] != SCHEMA:
                raise unreadable(f"The manifest of the run has the version {body['schema']!r}.")
            State(body["outcome"])
            entries = [(str(each["path"]), int(each["bytes"]), str(each["sha256"])) for each in body["files"]]
        except (KeyError, TypeError, ValueError) as error:
            raise unreadable("The manifest of the run is damaged.") from error
        for name, size, checksum in entries:
            path = os.path.join(self.path, name)  # which is `name` itself where it is absolute
            with explained("find a file of the result:", path):
                found = os.stat(path)
            is_same = stat.S_ISREG(found.st_mode) and found.st_size == size
            if not is_same or (checksums and sha256_of(path) != checksum):
                raise SemiSupSegError(
                    f"The file '{path}' isn't what the run wrote.",
                    "Run it again, or restore the file from a copy.",
                    code=ErrorCode.CHECKPOINT_DAMAGED,
                )
        return body

    def renew_manifest(self, file: str | os.PathLike) -> None:
        """Describe a file of the result anew, after somebody changed it on purpose; the others stay as they were."""
        body = read_json(self.manifest_file, "the manifest of the run")
        new = self._describe(Path(file))
        body["files"] = [new if each["path"] == new["path"] else each for each in body["files"]]
        write_json_atomically(self.manifest_file, body)

    def _describe(self, path: Path) -> dict[str, Any]:
        name = path.relative_to(self.path).as_posix() if path.is_relative_to(self.path) else str(path)
        with explained("read", path):
            size = path.stat().st_size
        return {"path": name, "bytes": size, "sha256": sha256_of(path)}

    def _appender(self, path: Path) -> LineAppender:
        if path not in self._appenders:
            self._appenders[path] = LineAppender(path)
        return self._appenders[path]


def list_runs(root: str | os.PathLike) -> list[RunFolder]:
    """The runs whose folders are in `root`, the newest first by their names."""
    with explained("list the runs in", root):
        folders = [each for each in Path(os.path.abspath(root)).iterdir() if (each / "run.json").is_file()]
    return [RunFolder(each) for each in sorted(folders, key=lambda each: each.name, reverse=True)]


def new_run_path(root: str | os.PathLike, method: str) -> Path:
    """A free folder ``<root>/<time>-<method>`` for a new run."""
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{re.sub(r'[^0-9A-Za-z_]+', '-', method)}"
    names = (stem if count == 1 else f"{stem}-{count}" for count in range(1, 10_000))
    return next(path for name in names if not (path := Path(os.path.abspath(root)) / name).exists())


def curves_of(rows: Iterable[tuple[int, str, float]]) -> dict[str, list[tuple[int, float]]]:
    """Curves by name, ordered by iteration, of rows (iteration, name, value); of several at one place the last counts.

    Examples
    --------
    >>> curves_of([(2, "loss", 0.5), (1, "loss", 0.9), (2, "loss", 0.4)])
    {'loss': [(1, 0.9), (2, 0.4)]}
    """
    curves: dict[str, dict[int, float]] = {}
    for iteration, name, value in rows:
        curves.setdefault(name, {})[iteration] = value
    return {name: sorted(curve.items()) for name, curve in curves.items()}


def _all_files(root: Path, files: Iterable[str | os.PathLike]) -> list[Path]:
    found: dict[Path, None] = {}
    for each in files:
        path = Path(os.path.abspath(root / each))
        below = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        found.update(dict.fromkeys(below))
    return list(found)


def _now_text() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
