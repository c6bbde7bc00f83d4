"""A training in milliseconds: the same checkpoints, events and commands as the real one, but no torch.

Its weights are a chain of hashes, so that a resumed run that lost or repeated a step ends with other weights.
"""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from SemiSupSegLib.errors import ErrorCode, SemiSupSegError
from SemiSupSegLib.files import (
    delete_temporaries,
    read_json,
    replace_atomically,
    sha256_of,
    temporary_beside,
    write_bytes_atomically,
    write_json_atomically,
)
from SemiSupSegLib.learning.session import Outcome, Session

KEPT_CHECKPOINTS = 2


def train(session: Session) -> Outcome:
    """Does ``settings["steps"]`` steps and, at ``settings["at"]``, the fault ``settings["fault"]``."""
    settings = {"steps": 200, "step_seconds": 0.002, "checkpoint_every": 20, "checkpoint_bytes": 4096, "at": 50}
    settings |= session.request.settings
    if not session.hold_device(settings.get("device", f"fake-{os.getpid()}")):
        return Outcome()
    weights, iteration = _resume(session)
    if settings.get("child"):
        _start_child(session)
    while iteration < settings["steps"]:
        if session.stop is not None and settings.get("fault") != "deaf":
            _save(session, weights, iteration, settings)
            return Outcome(iteration=iteration)
        if not _obey(session, weights, iteration, settings):
            return Outcome(iteration=iteration)
        if iteration == settings["at"]:
            _do_fault(settings.get("fault", ""), session)
        weights = step(weights, iteration)
        iteration += 1
        time.sleep(settings["step_seconds"])
        session.heartbeat(iteration)
        session.emit("metric", iteration=iteration, values={"loss": 1 / iteration})
        session.emit("progress", stage="Training", fraction=iteration / settings["steps"], iteration=iteration)
        if iteration % settings["checkpoint_every"] == 0:
            _save(session, weights, iteration, settings)
    session.folder.model.mkdir(exist_ok=True)
    result = session.folder.model / "weights.bin"
    write_bytes_atomically(result, weights)
    return Outcome((result,), iteration)


def step(weights: bytes, iteration: int) -> bytes:
    """The weights after one more step."""
    return hashlib.sha256(weights + iteration.to_bytes(8, "little")).digest()


def expected_weights(steps: int) -> bytes:
    """The weights of a run that nothing interrupted."""
    weights = b"\0" * 32
    for iteration in range(steps):
        weights = step(weights, iteration)
    return weights


def _save(session: Session, weights: bytes, iteration: int, settings: dict) -> None:
    session.check_disk(settings["checkpoint_bytes"])
    final = session.folder.checkpoints / f"{iteration:06d}"
    if not final.exists():
        temporary = temporary_beside(final)
        temporary.mkdir()
        try:
            content = weights + b"\0" * (settings["checkpoint_bytes"] - len(weights))
            write_bytes_atomically(temporary / "weights.bin", content, durable=False)
            checksum = sha256_of(temporary / "weights.bin")
            write_json_atomically(temporary / "state.json", {"iteration": iteration, "sha256": checksum}, durable=False)
            replace_atomically(temporary, final)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    for old in _checkpoints(session)[KEPT_CHECKPOINTS:]:
        shutil.rmtree(old, ignore_errors=True)
    session.emit("checkpoint", iteration=iteration, path=str(final))


def _resume(session: Session) -> tuple[bytes, int]:
    delete_temporaries(session.folder.checkpoints)
    for checkpoint in _checkpoints(session):
        try:
            state = read_json(checkpoint / "state.json", "the checkpoint")
            if sha256_of(checkpoint / "weights.bin") != state["sha256"]:
                raise SemiSupSegError("The checkpoint is damaged.", code=ErrorCode.CHECKPOINT_DAMAGED)
            return (checkpoint / "weights.bin").read_bytes()[:32], int(state["iteration"])
        except (SemiSupSegError, KeyError, TypeError, ValueError) as error:
            session.warn(f"The checkpoint '{checkpoint.name}' is damaged ({error}); the one before is used.")
    return b"\0" * 32, 0


def _checkpoints(session: Session) -> list[Path]:
    return sorted((p for p in session.folder.checkpoints.iterdir() if p.name.isdigit()), reverse=True)


def _obey(session: Session, weights: bytes, iteration: int, settings: dict) -> bool:
    for command in session.commands():
        if command.name == "pause":
            _save(session, weights, iteration, settings)
            session.answer(command, ok=True)
            if not session.wait_until_resumed():
                return False
        elif command.name == "checkpoint":
            _save(session, weights, iteration, settings)
            session.answer(command, ok=True)
        elif command.name == "preview" and command["case"] != "known":
            session.answer(command, ok=False, message=f"There is no case '{command['case']}'.")
        else:
            session.answer(command, ok=True)
    return True


def _start_child(session: Session) -> None:
    """A child with a child of its own, as data loaders have; their numbers go where the laboratory finds them."""
    code = (
        "import subprocess, sys, time, os;"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)']);"
        "open(sys.argv[1] + '.tmp', 'w').write(f'{os.getpid()} {p.pid}');"
        "os.replace(sys.argv[1] + '.tmp', sys.argv[1]); time.sleep(300)"
    )
    note = session.folder.path / "children.txt"
    note.unlink(missing_ok=True)
    subprocess.Popen([sys.executable, "-c", code, str(note)])
    deadline = time.monotonic() + 10
    while not note.exists() and note.parent.exists() and time.monotonic() < deadline:
        time.sleep(0.01)


def _do_fault(fault: str, session: Session) -> None:
    if fault == "segfault":
        ctypes.string_at(0)
    elif fault == "abort":
        os.abort()
    elif fault == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault == "out-of-memory":
        raise MemoryError
    elif fault == "device-out-of-memory":
        raise type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory. Tried to allocate 2.00 GiB")
    elif fault == "missing-package":
        import a_package_that_nobody_has  # noqa: F401
    elif fault == "bug":
        raise ZeroDivisionError("division by zero in /data/Jane Doe/scan.nrrd")
    elif fault == "system-exit":
        sys.exit(0)
    elif fault == "sudden-exit":
        os._exit(0)
    elif fault == "hang":
        while True:
            time.sleep(60)
    elif fault == "clock":
        real, jumps = time.time, itertools.cycle((1e9, -1e9, 0))
        time.time = lambda: real() + next(jumps)
    elif fault == "noise":
        print("not an event")
        sys.stdout.flush()
        os.system('echo \'{"v": 1, "event": "finished"}\'')
        os.write(2, b"\xff\xfe\x00 not text\n")
    elif fault == "busy":
        for index in range(3000):
            session.emit("warning", message=f"{index:05d} " + "x" * 500)
