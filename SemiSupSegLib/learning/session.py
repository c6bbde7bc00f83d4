"""What training and prediction see of the process that they run in: events out, commands in, and when to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

from ..device_queue import DeviceQueue
from ..errors import ErrorCode, SemiSupSegError
from ..events import Command, decode_command
from ..files import free_disk_bytes
from ..processes import kill_descendants, own_group, this_process
from ..runs import HEARTBEAT_SECONDS, RunFolder, State, Status
from .line import LineReader, LineWriter
from .outcome import Outcome, StopReason
from .recorder import Recorder

__all__ = ["OWNER_GRACE_SECONDS", "Outcome", "Session", "StopReason"]

OWNER_GRACE_SECONDS = 20.0
"""How long a worker whose owner died may take to save a checkpoint, before it's ended whatever it does."""

_LINE_GRACE_SECONDS = 2.0
"""How long a worker waits at its end for an owner to read the last lines."""

_DISK_RESERVE_BYTES = 64 * 1024**2
"""Stays free beside what is about to be written: events, metrics and the log."""

_KEEPER_SECONDS = 0.25
"""How often the keeper thread looks at commands in files and at what is due."""


class Session:
    """A task's connection to whoever wants its results.

    Use it as a context manager: inside, a thread keeps status.json alive, looks for commands and ends the process
    when its owner died and the task doesn't react.

    Parameters
    ----------
    folder : RunFolder
        The run; its lock is held by the caller.
    output, input : int, optional
        Descriptors of the line to an owner (see `take_over_streams`); a detached run has no input.
    is_leader : bool
        Whether this process speaks for the run: under torchrun only that of rank 0 does.
    """

    def __init__(
        self, folder: RunFolder, *, output: int | None = None, input: int | None = None, is_leader: bool = True
    ):
        self.folder = folder
        self.request = folder.request()
        self.is_leader = is_leader
        self._process = this_process()
        self._began = time.monotonic()
        self._state = State.RUNNING
        self._iteration = 0
        self._stop: StopReason | None = None
        self._stop_since = 0.0
        self._commands: list[Command] = []
        self._device: DeviceQueue | None = None
        self._recorder = Recorder(folder, self._send)
        self._output, self._input = output, input
        self._writer: LineWriter | None = None
        self._detached = False
        self._interruptible = False
        self._is_over = False
        self._mutex = threading.RLock()  # guards everything above against the reader's and the keeper's threads
        self._wake = threading.Event()
        self._handlers: dict[int, Any] = {}

    # For the task ------------------------------------------------------------------------------------------------

    def emit(self, event: str, **fields: Any) -> None:
        """Tells the owner and the run folder that something happened.

        Every event goes into events.jsonl, and every metric into metrics.csv; on the line to the owner metrics are
        thinned to ten a second, and so is progress, everywhere. Never fails and never waits for anybody.

        Examples
        --------
        ``session.emit("metric", iteration=20, values={"loss": 0.31})``
        """
        if self.is_leader:
            self._recorder.record(event, fields)

    def warn(self, message: str, remedy: str = "") -> None:
        """Tells a person about something that the run goes on with."""
        self.log(f"Warning: {message} {remedy}")
        self.emit("warning", message=message, remedy=remedy)

    def log(self, text: str) -> None:
        """Appends to log.txt; never fails."""
        if self.is_leader:
            self._recorder.log(text)

    def heartbeat(self, iteration: int) -> None:
        """Says how far the task is, once a step; costs nothing (a thread writes it down every two seconds)."""
        self._iteration = int(iteration)

    def commands(self) -> list[Command]:
        """The commands that came since the last call; ask once a step, and answer each.

        Never `cancel` and `detach`: the first sets `stop`, the second needs nobody's help.
        """
        with self._mutex:
            commands, self._commands = self._commands, []
        return commands

    def answer(self, command: Command, ok: bool, message: str = "") -> None:
        """Says what became of a command."""
        self.emit("answer", command=command.name, id=command.id, ok=bool(ok), message=message)

    @property
    def stop(self) -> StopReason | None:
        """Why the task is to save a checkpoint and return, `None` while it's to go on; look once a step."""
        return self._stop

    def check_disk(self, needed_bytes: int) -> None:
        """Raises ``disk-full`` if so many bytes (and a reserve) don't fit beside the run any more."""
        free = free_disk_bytes(self.folder.path)
        if free < needed_bytes + _DISK_RESERVE_BYTES:
            raise SemiSupSegError(
                f"The disk of '{self.folder.path}' has {free / 1024**2:.0f} MB left, and "
                f"{(needed_bytes + _DISK_RESERVE_BYTES) / 1024**2:.0f} MB are needed.",
                "Free some disk space, then resume.",
                code=ErrorCode.DISK_FULL,
            )

    def set_state(self, state: State) -> None:
        """Makes known that the run is queued, running or paused."""
        with self._mutex:
            self._state = state
            self._write_status(durable=True)
            self.emit("state", state=str(state), iteration=self._iteration)

    def hold_device(self, device: str) -> bool:
        """Waits until no other run uses this device; returns at once where the request isn't `exclusive`.

        Parameters
        ----------
        device : str
            Its name as torch writes it, "cuda:0"; the same for all runs.

        Returns
        -------
        bool
            Whether the device is this run's; `False` if the run is to stop instead.
        """
        if not self.request.exclusive or not self.is_leader:
            return self.stop is None
        self.release_device()
        self._device = DeviceQueue(device, self.request.label or self.folder.path.name)
        try:
            if self._device.try_acquire():
                return self.stop is None
        except SemiSupSegError as error:
            self.warn(f"It's unknown whether another run uses {device}: {error.message}")
            return self.stop is None
        self.set_state(State.QUEUED)
        self.emit("progress", stage=f"Waiting until '{self._device.holder()}' no longer uses {device}.")
        held = self._device.acquire(give_up=lambda: self.stop is not None)
        if held:
            self.set_state(State.RUNNING)
        return held

    def release_device(self) -> None:
        """Lets the next run have the device; happens by itself when this one is over."""
        if self._device is not None:
            self._device.release()

    def wait_until_resumed(self) -> bool:
        """Sleeps in the state `paused`, without the device, until the command `resume` comes.

        Save a checkpoint and free the device's memory before. Other commands wait for the next `commands()`.

        Returns
        -------
        bool
            Whether to go on; `False` if the run is to stop.
        """
        self.set_state(State.PAUSED)
        device = self._device.device if self._device is not None and self._device.is_held else ""
        self.release_device()
        while self.stop is None:
            with self._mutex:
                resumes = [each for each in self._commands if each.name == "resume"]
                self._commands = [each for each in self._commands if each.name not in ("resume", "pause")]
            for each in resumes:
                self.answer(each, ok=True)
            if resumes:
                if device and not self.hold_device(device):
                    return False
                self.set_state(State.RUNNING)
                return True
            self._wake.wait(_KEEPER_SECONDS)
        return False

    # For the worker's main ---------------------------------------------------------------------------------------

    def __enter__(self) -> Session:
        self._catch_signals()
        if self.is_leader:
            self._wake.clear()
            if self._output is not None:
                self._writer = LineWriter(self._output)
            if self._input is not None:
                LineReader(self._input, self._take_line, self._owner_gone)
            threading.Thread(target=self._keep, name="keeper", daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        with self._mutex:
            self._is_over = True
        self._wake.set()
        self.release_device()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()
        if self._writer is not None:
            self._writer.close(_LINE_GRACE_SECONDS)
        self.folder.close()

    @contextlib.contextmanager
    def nothing_to_lose(self) -> Iterator[None]:
        """Inside, as long as nothing is computed yet, a cancel or the owner's death ends the process at once."""
        with self._mutex:
            self._interruptible = True
        try:
            if self._stop is not None:
                self._leave_now()
            yield
        finally:
            with self._mutex:
                self._interruptible = False

    def begin(self, versions: dict[str, str]) -> None:
        """Announces the worker: its process and what it works with."""
        if not self.is_leader:
            return
        self.folder.manifest_file.unlink(missing_ok=True)  # of an earlier part of the run
        self._write_status(durable=True)
        self.emit(
            "started",
            pid=self._process.pid,
            process_start=self._process.start,
            task=self.request.task,
            device="",
            versions=versions,
        )
        self.emit("state", state=str(State.RUNNING), iteration=self._iteration)

    def conclude(self, state: State, outcome: Outcome | None = None, error: SemiSupSegError | None = None) -> State:
        """Writes down how the run ended, manifest first; the last event is ``finished``.

        Returns
        -------
        State
            `State.FAILED` where a result couldn't be written down, else what was given.
        """
        if not self.is_leader:
            return state
        with self._mutex:
            if self._is_over:
                return self._state
            outcome = outcome or Outcome()
            self._iteration = iteration = outcome.iteration or self._iteration
            seconds = round(time.monotonic() - self._began, 3)
            try:
                self.folder.write_manifest(state, outcome.files, iteration=iteration, seconds=seconds)
            except (SemiSupSegError, ValueError) as problem:
                if state is State.FINISHED:
                    state = State.FAILED
                    error = problem if isinstance(problem, SemiSupSegError) else SemiSupSegError(str(problem))
            self._recorder.pass_on_held()
            if error is not None:
                self.emit("error", **error.to_json())
            reason = error.message if error is not None else self._stop.sentence if self._stop is not None else ""
            self._state = state
            self._write_status(durable=True, reason="" if state is State.FINISHED else reason)
            self.emit("state", state=str(state), iteration=iteration)
            manifest = str(self.folder.manifest_file)
            self.emit("finished", outcome=str(state), iteration=iteration, seconds=seconds, manifest=manifest)
            self._is_over = True
        return state

    # The owner's side --------------------------------------------------------------------------------------------

    def request_stop(self, reason: StopReason) -> None:
        """Sets `stop`; the first reason counts."""
        if self._stop is None:
            self._stop_since = time.monotonic()
            self._stop = reason
        self._wake.set()

    def _take_line(self, line: bytes) -> None:
        self._take(decode_command(line))

    def _take(self, command: Command) -> None:
        if command.problem:
            self.answer(command, ok=False, message=command.problem)
        elif command.name == "cancel":
            self.answer(command, ok=True)
            self.request_stop(StopReason.CANCEL)
            self._leave_if_nothing_to_lose()
        elif command.name == "detach":
            self._detached = True
            self.answer(command, ok=True)
        else:
            with self._mutex:
                self._commands.append(command)
            self._wake.set()

    def _owner_gone(self) -> None:
        if not self._detached:
            self.request_stop(StopReason.OWNER_DIED)
            self._leave_if_nothing_to_lose()

    def _keep(self) -> None:
        """The keeper thread: heartbeat, commands in files, held back metrics, and the end of a worker that hangs."""
        beat = time.monotonic()
        while True:
            time.sleep(_KEEPER_SECONDS)
            with self._mutex:
                if self._is_over:
                    return
                self._recorder.pass_on_due()
                if time.monotonic() - beat >= HEARTBEAT_SECONDS:
                    beat = time.monotonic()
                    self._write_status(durable=False)
            for command in self.folder.take_commands():
                self._take(command)
            if self._stop is not None:
                self._leave_if_nothing_to_lose()
                overdue = time.monotonic() - self._stop_since > OWNER_GRACE_SECONDS
                if overdue and self._stop is StopReason.OWNER_DIED and not self._detached:
                    self._leave_now()

    def _leave_if_nothing_to_lose(self) -> None:
        with self._mutex:
            if self._interruptible:
                self._leave_now()

    def _leave_now(self) -> None:
        """Ends the process with all its children, from whatever thread, whatever the others do."""
        reason = self._stop or StopReason.CANCEL
        if self._mutex.acquire(timeout=_LINE_GRACE_SECONDS):
            self.conclude(State.CANCELLED)
        if self._writer is not None:
            self._writer.close(_LINE_GRACE_SECONDS)
        kill_descendants(os.getpid(), own_group())
        os._exit(reason.exit_code)

    def _catch_signals(self) -> None:
        """A polite end from outside (Ctrl-C, a batch system, a closed terminal) is a cancel; a second Ctrl-C is not."""
        if threading.current_thread() is not threading.main_thread():
            return
        for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):
            number = getattr(signal, name, None)
            if number is not None:
                self._handlers[number] = signal.signal(number, self._take_signal)

    def _take_signal(self, number: int, _frame: Any) -> None:
        if number == signal.SIGINT and self._stop is not None:
            raise KeyboardInterrupt
        self.request_stop(StopReason.CANCEL)

    def _write_status(self, *, durable: bool, reason: str = "") -> None:
        status = Status(self._state, self._process, self._iteration, time.time(), reason, own_group())
        self._recorder.write_status(status, durable=durable)

    def _send(self, line: bytes, begin: int | None, end: int | None) -> None:
        if self._writer is not None:
            self._writer.send(line, begin, end)
