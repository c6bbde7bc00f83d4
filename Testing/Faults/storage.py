"""Disks that are full, read-only or emptied under a run, and clocks that jump."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from SemiSupSegLib.errors import ErrorCode
from SemiSupSegLib.runs import State

from .laboratory import PATIENCE_SECONDS, Laboratory, Result, family, orphans_of, poll_until


def disk_full(lab: Laboratory) -> Result:
    """Something else fills the disk (a small tmpfs) at a random moment; after it's freed, the run is resumed."""
    result = Result("disk full (ENOSPC, tmpfs)")
    if not _may_mount():
        result.note = "skipped: only root may mount a small disk"
        return result
    for index in lab.tries(20, 2):
        with _small_disk(lab.folder / f"disk {index}", "size=192m") as disk:
            folder = lab.run_folder(parent=disk, steps=300)
            runner = lab.start(folder)
            moment = time.monotonic() + lab.random.uniform(0.2, 0.7)
            poll_until(runner, lambda until=moment, its=runner: time.monotonic() > until or its.state is not None)
            numbers = family(folder)
            filled = time.monotonic()
            _fill(disk / "filler")
            state = runner.wait(PATIENCE_SECONDS)
            notice = time.monotonic() - filled
            problem = ""
            if state is not State.FINISHED and (runner.error is None or runner.error.code is not ErrorCode.DISK_FULL):
                problem = f"{state}: {runner.error}"
            (disk / "filler").unlink()
            orphans = orphans_of(folder, numbers)
            result.count(problem or lab.resume(folder), notice=notice, orphans=orphans)
    return result


def file_size_limit(lab: Laboratory) -> Result:
    """No file may grow beyond a limit (RLIMIT_FSIZE), as with a quota: checkpoints can't be written any more."""
    result = Result("files may not grow (RLIMIT_FSIZE)")
    if sys.platform == "win32":
        result.note = "skipped: not on Windows"
        return result
    limited = ("/bin/sh", "-c", 'ulimit -f 32; exec "$0" "$@"', sys.executable)
    for _ in lab.tries(5, 1):
        folder = lab.run_folder(checkpoint_bytes=10**6)
        runner = lab.start(folder, limited)
        state = runner.wait(PATIENCE_SECONDS)
        problem = "" if runner.error and runner.error.code is ErrorCode.DISK_FULL else f"{state}: {runner.error}"
        result.count(problem or lab.resume(folder), orphans=orphans_of(folder, family(folder)))
    return result


def read_only_disk(lab: Laboratory) -> Result:
    """The disk becomes read-only at a random moment, as Linux does it after an error."""
    result = Result("disk becomes read-only (EROFS)")
    if not _may_mount():
        result.note = "skipped: only root may mount"
        return result
    for index in lab.tries(5, 1):
        with _small_disk(lab.folder / f"read only {index}", "size=192m") as disk:
            folder = lab.run_folder(parent=disk, steps=400)
            runner = lab.start(folder)
            moment = time.monotonic() + lab.random.uniform(0.3, 0.7)
            poll_until(runner, lambda until=moment, its=runner: time.monotonic() > until or its.state is not None)
            numbers = family(folder)
            frozen = time.monotonic()
            _mount("--bind", str(disk), str(disk))  # a disk with open files can't be made read-only itself
            _mount("-o", "remount,bind,ro", str(disk))
            state = runner.wait(PATIENCE_SECONDS)
            notice = time.monotonic() - frozen
            problem = "" if runner.error or state is State.FINISHED else f"{state}: {runner.error}"
            subprocess.run(["umount", str(disk)], check=False, capture_output=True)
            orphans = orphans_of(folder, numbers)
            result.count(problem or lab.resume(folder), notice=notice, orphans=orphans)
    return result


def read_only_from_the_start(lab: Laboratory) -> Result:
    """A run folder that can't be written to is refused at once."""
    result = Result("read-only folder")
    for _ in lab.tries(3, 1):
        parent = lab.folder / "locked"
        parent.mkdir(exist_ok=True)
        with _unwritable(parent) as possible:
            if not possible:
                result.note = "skipped: root without mount may write everywhere"
                return result
            try:
                lab.run_folder(parent=parent)
                result.count("wasn't refused")
            except Exception as error:
                code = getattr(error, "code", None)
                result.count("" if code is ErrorCode.NOT_WRITABLE else f"{type(error).__name__}: {error}")
    return result


def files_deleted(lab: Laboratory) -> Result:
    """A file or folder of the run is deleted under it: it finishes, or says in a sentence why not; it never hangs."""
    result = Result("files deleted under the run")
    names = ["checkpoints", "commands", "run.json", "status.json", "events.jsonl", "metrics.csv", "log.txt", "."]
    finished = 0
    for index in lab.tries(3 * len(names), len(names) // 2):
        folder = lab.run_folder(steps=200)
        runner = lab.start(folder)
        moment = time.monotonic() + lab.random.uniform(0.2, 0.6)
        poll_until(runner, lambda until=moment, its=runner: time.monotonic() > until or its.state is not None)
        numbers = family(folder)
        deleted = time.monotonic()
        victim = folder.path / names[index % len(names)]
        if victim.is_dir():
            shutil.rmtree(victim, ignore_errors=True)
        else:
            victim.unlink(missing_ok=True)
        state = runner.wait(PATIENCE_SECONDS)
        finished += state is State.FINISHED
        problem = "" if state is State.FINISHED or runner.error else f"{victim.name}: {state}"
        if state is None:
            runner.kill()
        else:
            result.longest_notice = max(result.longest_notice, time.monotonic() - deleted)
        result.count(problem, orphans=orphans_of(folder, numbers))
    result.note = f"{finished} finished all the same, the others said why not"
    return result


def clock_jumps(lab: Laboratory) -> Result:
    """The worker's clock jumps by years, to and fro, in every step."""
    result = Result("clock jumps by years")
    for _ in lab.tries(5, 1):
        folder = lab.run_folder(fault="clock", at=20)
        runner = lab.start(folder)
        state = runner.wait(PATIENCE_SECONDS)
        problem = "" if state is State.FINISHED else f"{state}: {runner.error}"
        result.count(problem, orphans=orphans_of(folder, family(folder)))
    return result


def _may_mount() -> bool:
    return sys.platform == "linux" and os.geteuid() == 0 and shutil.which("mount") is not None and _mount_works()


def _mount_works() -> bool:
    probe = Path("/tmp") / f"semisupseg-mount-{os.getpid()}"
    probe.mkdir(exist_ok=True)
    works = (
        subprocess.run(["mount", "-t", "tmpfs", "none", str(probe)], capture_output=True, check=False).returncode == 0
    )
    if works:
        subprocess.run(["umount", str(probe)], check=False, capture_output=True)
    probe.rmdir()
    return works


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)


@contextlib.contextmanager
def _small_disk(path: Path, options: str) -> Iterator[Path]:
    path.mkdir()
    _mount("-t", "tmpfs", "-o", options, "none", str(path))
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=False, capture_output=True)


@contextlib.contextmanager
def _unwritable(path: Path) -> Iterator[bool]:
    if sys.platform == "win32":
        yield False
    elif os.geteuid() != 0:
        path.chmod(0o500)
        yield True
        path.chmod(0o700)
    elif _may_mount():
        _mount("-t", "tmpfs", "-o", "ro", "none", str(path))
        yield True
        subprocess.run(["umount", str(path)], check=False, capture_output=True)
    else:
        yield False


def _fill(path: Path) -> None:
    """Writes zeros until nothing more fits."""
    with open(path, "wb", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            with contextlib.suppress(OSError):
                while file.write(b"\0" * size) == size:
                    pass
