"""Starts a worker, reads its events without blocking, and ends it with everything that it started.

Nothing here needs a thread: whoever owns a `Runner` calls `poll` every 50 to 100 ms (in Slicer from a timer), or
`wait` in a script.
"""

from __future__ import annotations

import contextlib
import gc
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .death import explain_death
from .errors import ErrorCode, RunError, SemiSupSegError
from .event_source import EventSource, size_of
from .events import Command, Event, decode_line, encode_command
from .launch import BOOTSTRAP, launch
from .processes import ProcessIdentity, end_tree, out_of_memory_kills, this_machine
from .report import build_report
from .runs import RunFolder, State, Status
from .worker_log import WorkerLog

CANCEL_GRACE_SECONDS = 30.0
"""How long a cancelled worker may take to finish its step and save a checkpoint."""

TERMINATE_GRACE_SECONDS = 5.0
"""How long a worker may take after a polite signal, before it's killed."""

_DEATH_GRACE_SECONDS = 2.0
"""How long after the death of the started process its pipe is read, and its real worker (behind a launcher) awaited."""

_START_SECONDS = 10.0
"""How long a worker that somebody else started may take until it says who it is."""

_READING_SHARE = 0.3
"""Share of a poll's budget after which no further line is taken: the last one (up to 3 ms), what follows it, and a busy
machine that gives the core to somebody else for some milliseconds need the rest."""


class Runner:
    """The owner's side of one run.

    Parameters
    ----------
    folder : RunFolder
        The run.
    python : path, optional
        The interpreter of the worker: this one if not given (in Slicer: PythonSlicer), or another that has torch.
    environment : mapping, optional
        Environment variables of the worker; this process's if not given. In Slicer, an interpreter that isn't
        Slicer's needs `slicer.util.startupEnvironment()`.
    bootstrap : path, optional
        The script that the interpreter runs.

    Examples
    --------
    ::

        runner = Runner(RunFolder.create("runs/first", RunRequest("train", cohort="cohort.json")))
        runner.start()
        state = runner.wait(on_event=print)
    """

    def __init__(
        self,
        folder: RunFolder,
        *,
        python: str | os.PathLike | Sequence[str] | None = None,
        environment: Mapping[str, str] | None = None,
        bootstrap: str | os.PathLike = BOOTSTRAP,
    ):
        self.folder = folder
        python = sys.executable if python is None else python
        self._python = [os.fspath(python)] if isinstance(python, str | os.PathLike) else [*python]
        self._environment = dict(os.environ if environment is None else environment)
        self._bootstrap = Path(bootstrap)
        self._process: subprocess.Popen | None = None
        self._worker: ProcessIdentity | None = None
        self._group = 0
        self._source = EventSource(folder.events_file)
        self._log = WorkerLog(folder.log_file)
        self._unsent = b""
        self._memory_kills: int | None = None
        self._iteration = 0
        self._error_event: Event | None = None
        self._dead_since: float | None = None
        self._awaited_until = 0.0
        self._detach_id = ""
        self._detach_begin = 0
        self._was_cancelled = False
        self._escalation: deque[tuple[float, bool]] = deque()
        self._state: State | None = None
        self._error: SemiSupSegError | None = None

    @classmethod
    def attach(cls, folder: RunFolder, *, offset: int = 0) -> Runner:
        """A runner for a worker that runs already, detached.

        Parameters
        ----------
        folder : RunFolder
            Its run folder.
        offset : int
            Where to go on in events.jsonl, in bytes; see `offset`.
        """
        runner = cls(folder)
        runner._adopt()
        runner._awaited_until = time.monotonic() + _START_SECONDS
        runner._source.read_file(offset)
        runner._memory_kills = out_of_memory_kills()
        return runner

    # Starting ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts the worker, attached or detached as the request says; also to resume a run that is over.

        Raises
        ------
        SemiSupSegError
            ``run-busy`` if a worker is at it already; ``packages-missing`` if the interpreter can't be started.
        """
        if self._process is not None or self._source.has_begun:
            raise RunError("This run was started already.", "Make a new runner.", code=ErrorCode.RUN_BUSY)
        attached = self.folder.request().attached
        with self.folder.lock(seconds=0.2):
            self.folder.take_commands()  # what was meant for a worker that is dead now
            self.folder.write_status(Status(State.QUEUED))
            begin = self._source.offset
        self._memory_kills = out_of_memory_kills()
        self._log.start()
        command = [*self._python, "-u", str(self._bootstrap), str(self.folder.path)]
        self._process = launch(command, self.folder, attached=attached, environment=self._environment)
        self._group = 0 if sys.platform == "win32" else self._process.pid
        if attached:
            self._source.read_pipe(self._process.stdout)
            if sys.platform != "win32":  # there a write of a few bytes to a pipe that a thread empties has to do
                os.set_blocking(self._process.stdin.fileno(), False)
        else:
            self._source.read_file(begin)

    # Listening ---------------------------------------------------------------------------------------------------

    def poll(self, budget_ms: float = 20.0) -> list[Event]:
        """The events that came since the last call; never blocks, and takes `budget_ms` at most.

        What doesn't fit the budget, even a part of a very long line, comes with the next call. After the worker's
        death, this also finds out how the run ended: see `state` and `error`.
        """
        if self._state is not None:
            return []
        deadline = time.perf_counter() + _READING_SHARE * budget_ms / 1000
        is_collecting = gc.isenabled()
        gc.disable()  # see `_take_events`
        try:
            return self._take_events(deadline)
        finally:
            if is_collecting:
                gc.enable()

    def wait(self, timeout: float | None = None, on_event: Callable[[Event], None] | None = None) -> State | None:
        """Polls until the run is over, for scripts.

        Parameters
        ----------
        timeout : float, optional
            Give up after so many seconds; the run goes on.
        on_event : callable, optional
            Takes every event.

        Returns
        -------
        State or None
            How it ended, `None` after the timeout.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            events = self.poll()
            for event in events:
                if on_event is not None:
                    on_event(event)
            if self._state is not None or (deadline is not None and time.monotonic() >= deadline):
                return self._state
            if not events:
                time.sleep(0.02)

    @property
    def is_running(self) -> bool:
        """Whether there is a worker, as far as the last `poll` knows."""
        return self._state is None and (self._process is not None or self._source.has_begun)

    @property
    def is_attached(self) -> bool:
        """Whether the worker ends with this process."""
        return self.is_running and self._source.has_pipe and not self._detach_id

    @property
    def was_cancelled(self) -> bool:
        """Whether the worker was asked, or made, to end before it had finished."""
        return self._was_cancelled

    @property
    def state(self) -> State | None:
        """How the run ended; `None` while it runs. Finished only with exit code 0 and a valid manifest."""
        return self._state

    @property
    def error(self) -> SemiSupSegError | None:
        """Why it didn't finish, in a sentence with a remedy."""
        return self._error

    @property
    def exit_code(self) -> int | None:
        """Exit code of the started process; `None` while it runs, and for a worker that somebody else started."""
        return None if self._process is None else self._process.poll()

    @property
    def worker(self) -> ProcessIdentity | None:
        """The worker itself, once it has said so; behind a launcher another one than the started process."""
        return self._worker

    @property
    def offset(self) -> int:
        """Where a detached run's events were read up to, for a later `attach`."""
        return self._source.offset

    @property
    def log_tail(self) -> str:
        """The last lines of the log."""
        return self._log.tail()

    # Speaking ----------------------------------------------------------------------------------------------------

    def send(self, name: str, **fields: Any) -> str:
        """Sends a command, such as ``send("preview", case="LA_001")``; never blocks.

        Returns
        -------
        str
            Its id, which the ``answer`` event carries.
        """
        command = Command(name, fields=fields)
        if self.is_attached:
            self._unsent += encode_command(command)
            self._send_pending()
        elif self.is_running:
            self.folder.put_command(command)
        return command.id

    def cancel(
        self, grace_seconds: float = CANCEL_GRACE_SECONDS, terminate_seconds: float = TERMINATE_GRACE_SECONDS
    ) -> None:
        """Asks the worker to save a checkpoint and end; if it doesn't, `poll` ends it: politely, then by force."""
        if not self.is_running or self._was_cancelled:
            return
        self._was_cancelled = True
        now = time.monotonic()
        self._escalation.extend([(now + grace_seconds, False), (now + grace_seconds + terminate_seconds, True)])
        try:
            self.send("cancel")
        except SemiSupSegError:  # the command can't be written: the polite signal at once
            self._escalation[0] = (now, False)

    def kill(self) -> None:
        """Ends the worker and everything that it started, at once; what it did since its checkpoint is lost."""
        if self.is_running:
            self._was_cancelled = True
            self._end(kill=True)

    def detach(self) -> None:
        """Lets the worker go on when this process ends; from now on it's commanded, and soon read, through files."""
        if not self.is_attached:
            return
        self._detach_begin = size_of(self.folder.events_file)
        self._detach_id = self.send("detach")
        deadline = time.monotonic() + 2.0
        while self._unsent and time.monotonic() < deadline:
            self._send_pending()

    def close(self) -> None:
        """Lets go of the worker: an attached one notices and ends, a detached one goes on."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.stdin = None
        self._source.close()

    def report(self, *, include_names: bool = False) -> str:
        """What to send to somebody who helps: outcome, settings, versions, the last of the log.

        Parameters
        ----------
        include_names : bool
            Leave names of files, folders and cases in; else they're replaced, since they may name patients.
        """
        return build_report(self.folder, self._state or self.folder.assess(), self._error, self.log_tail, include_names)

    # What poll does ----------------------------------------------------------------------------------------------

    def _take_events(self, deadline: float) -> list[Event]:
        """Takes lines up to a deadline, then does what else is to be done.

        Events of a burst die young, but a thousand at once make Python look for garbage in all that the owner holds:
        that took 110 ms of a poll in a process with a million objects. So `poll` keeps it from looking meanwhile.
        """
        events: list[Event] = []
        for line in self._source.lines(deadline):
            event = decode_line(line)
            if event is None:
                self._log.keep(line, write=not self._source.is_in_file)
            elif event.name == "skipped":
                self._source.read_between(event["begin"], event["end"])
            else:
                self._note(event)
                events.append(event)
        self._log.flush()
        self._send_pending()
        self._escalate()
        if time.perf_counter() < deadline:
            self._look_for_death()
        return events

    def _note(self, event: Event) -> None:
        self._iteration = event.fields.get("iteration", self._iteration)
        if event.name == "started":
            self._worker = ProcessIdentity(event["pid"], event["process_start"], this_machine())
            self._error_event = None
        elif event.name == "error":
            self._error_event = event
        elif event.name == "answer" and self._detach_id and event["id"] == self._detach_id:
            self._leave_line()

    def _leave_line(self) -> None:
        """Goes on in events.jsonl behind the answer to `detach`: the last that the worker said on the line."""
        self.close()
        self._source.leave_pipe(self._detach_begin, f'"id": "{self._detach_id}"'.encode())
        self._detach_id = ""

    def _send_pending(self) -> None:
        if not self._unsent or self._process is None or self._process.stdin is None:
            return
        try:
            written = os.write(self._process.stdin.fileno(), self._unsent)
            self._unsent = self._unsent[written:]
        except BlockingIOError:
            pass  # the pipe is full: at the next poll
        except OSError:
            self._unsent = b""  # the worker is gone, which the poll will notice

    def _escalate(self) -> None:
        if self._escalation and time.monotonic() >= self._escalation[0][0]:
            _, kill = self._escalation.popleft()
            self._end(kill=kill)

    def _end(self, *, kill: bool) -> None:
        """Ends the started process and, where a launcher let go of it, the worker."""
        if self._process is not None:
            end_tree(self._process.pid, self._group, kill=kill)
        if self._worker is not None and self._worker.is_alive:
            end_tree(self._worker.pid, self._group, kill=kill)

    def _look_for_death(self) -> None:
        """Once process and worker are dead and everything is read, finds out how the run ended."""
        if (self._process is not None and self._process.poll() is None) or self._worker_lives():
            self._dead_since = None
            return
        now = time.monotonic()
        if self._dead_since is None:
            self._dead_since = now  # what it wrote between our last look and its death comes with the next poll
            return
        if self._source.at_end or now - self._dead_since > _DEATH_GRACE_SECONDS:
            if self._group:
                end_tree(0, self._group, kill=True)  # children that outlived their parents
            self._conclude()
            self.close()

    def _worker_lives(self) -> bool:
        if self._worker is None and self._process is None:
            self._adopt()
        if self._worker is None:
            return time.monotonic() < self._awaited_until
        return self._worker.is_alive if self._worker.is_local else self.folder.worker_lives()

    def _adopt(self) -> None:
        """Learns from status.json who the worker is that somebody else started."""
        status = self.folder.read_status()
        if status is not None and status.process.pid:
            self._worker = status.process
            self._group = status.group if status.process.is_alive else 0
        elif status is None or status.state.is_over:
            self._awaited_until = 0.0

    def _conclude(self) -> None:
        code = self.exit_code
        status = self.folder.read_status()
        state = self.folder.assess()
        if state is State.FINISHED and code in (0, None):
            self._state = state
            return
        self._error = explain_death(
            code,
            status,
            iteration=self._iteration,
            error_event=self._error_event,
            was_started=self._worker is not None,
            was_cancelled=self._was_cancelled,
            memory_kills_before=self._memory_kills,
            log_tail=self._log.tail(since_start=True),
            checkpoint=self.folder.last_checkpoint,
        )
        if self._error.code is ErrorCode.CANCELLED:
            self._state = State.CANCELLED
        elif self._error_event is not None or self._worker is None or state is State.FAILED:
            self._state = State.FAILED
        else:
            self._state = State.LOST
        if not state.is_over and status is not None and not self.folder.worker_lives(status):
            # So that others needn't find out again; they could, so nobody waits for the disk.
            with contextlib.suppress(SemiSupSegError):
                self.folder.write_status(replace(status, state=self._state, reason=self._error.message), durable=False)
