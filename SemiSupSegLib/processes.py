"""Who a process is, whether it still lives, and how it dies with all its children: Linux, macOS, Windows.

A number alone doesn't name a process, since the system gives it to another one later; number and start time do.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class ProcessIdentity:
    """One process of one machine, never confused with a later one of the same number.

    Parameters
    ----------
    pid : int
        The process number.
    start : str
        When it started, in the system's own words (Linux: boot and clock ticks since, so that a change of the clock
        doesn't matter); empty if unknown.
    machine : str
        Name of the machine.
    """

    pid: int
    start: str
    machine: str

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity:
        """The process that has this number now."""
        return cls(pid, start_of(pid), this_machine())

    @property
    def is_local(self) -> bool:
        """Whether it belongs to this machine, so that `is_alive` is known."""
        return self.machine == this_machine()

    @property
    def is_alive(self) -> bool:
        """Whether exactly this process still runs here; a zombie doesn't."""
        return self.pid > 0 and self.is_local and bool(self.start) and start_of(self.pid) == self.start


def this_process() -> ProcessIdentity:
    """The identity of the calling process."""
    return ProcessIdentity.of(os.getpid())


def start_of(pid: int) -> str:
    """When the process of this number started; empty if there is none (or only its zombie)."""
    if pid <= 0:
        return ""
    if sys.platform == "win32":
        return _start_windows(pid)
    if sys.platform == "darwin":
        return _start_macos(pid)
    status = _linux_status(pid)
    return "" if status is None or status[0] in ("Z", "X") else f"{_linux_boot()}:{status[19]}"


@cache
def this_machine() -> str:
    """Name of this machine; on macOS its UUID, since the name there changes with the network."""
    if sys.platform == "darwin":
        uuid, patience = (ctypes.c_ubyte * 16)(), (ctypes.c_long * 2)(5, 0)
        if ctypes.CDLL(None).gethostuuid(uuid, patience) == 0:
            return bytes(uuid).hex()
    return socket.gethostname()


OWN_GROUP_VARIABLE = "SEMISUPSEG_OWN_GROUP"
"""Environment variable that tells a worker that its process group was made for it alone."""


def own_group() -> int:
    """The calling process's group if it was made for it (and its launcher) alone; else 0."""
    return group_of(os.getpid()) if os.environ.get(OWN_GROUP_VARIABLE) == "1" else 0


def descendants(pid: int, group: int = 0) -> list[int]:
    """Children, grandchildren … of a process, and who else is in a process group: children whose parents died.

    The process itself and those above it (a launcher in the same group) aren't among them.

    Parameters
    ----------
    pid : int
        The process.
    group : int
        A group that was made for it alone; 0 if there is none (always on Windows).
    """
    processes = _processes()
    found = {pid} | {each for each, (_, its) in processes.items() if group and its == group}
    while more := {each for each, (parent, _) in processes.items() if parent in found} - found:
        found |= more
    ancestor = pid
    while ancestor in processes and ancestor > 1:
        found.discard(ancestor)
        ancestor = processes[ancestor][0]
    return sorted(found - {os.getpid()})


def kill_descendants(pid: int, group: int = 0) -> None:
    """Kills everything that a process started, at once and without asking, but not the process itself."""
    for _ in range(3):  # who was just being started while we looked is found the next time
        left = descendants(pid, group)
        if not left:
            return
        for each in left:
            _signal(each, kill=True)


def end_tree(pid: int, group: int = 0, *, kill: bool) -> None:
    """Ends a process with everything that it started.

    Parameters
    ----------
    pid : int
        The process; it may be dead already, and its group not.
    group : int
        The process group that was made for it alone, 0 if there is none.
    kill : bool
        At once (`SIGKILL`), else by asking (`SIGTERM`). Windows knows no asking.
    """
    if sys.platform == "win32" and not kill:
        return
    if sys.platform != "win32" and group > 1 and group != os.getpgrp():
        with contextlib.suppress(OSError):
            os.killpg(group, signal.SIGKILL if kill else signal.SIGTERM)
    elif pid > 1 and pid != os.getpid():
        below = descendants(pid) if kill else []
        for each in (pid, *below):
            _signal(each, kill=kill)


def group_of(pid: int) -> int:
    """Number of the process group of a process (on Windows: its own number); 0 if there is no such process."""
    if sys.platform == "win32":
        return pid
    try:
        return os.getpgid(pid)
    except OSError:
        return 0


def out_of_memory_kills() -> int | None:
    """How many processes Linux has killed since the boot because the memory was full; `None` if unknown."""
    try:
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    except (OSError, ValueError):
        pass
    return None


def _signal(pid: int, *, kill: bool) -> None:
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGKILL if kill and sys.platform != "win32" else signal.SIGTERM)


def _processes() -> dict[int, tuple[int, int]]:
    """(parent, process group) of every process by its number."""
    if sys.platform == "win32":
        return {pid: (parent, 0) for pid, parent in _windows_parents().items()}
    if sys.platform == "darwin":
        listing = subprocess.run(["ps", "-axo", "pid=,ppid=,pgid="], capture_output=True, text=True, check=False)
        rows = (line.split() for line in listing.stdout.splitlines())
        return {int(pid): (int(parent), int(group)) for pid, parent, group in rows}
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (status := _linux_status(int(name))) is not None and status[0] not in ("Z", "X"):
            found[int(name)] = (int(status[1]), int(status[2]))
    return found


def _linux_status(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the third on (state, parent, group, …, start is number 22)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()  # the name before it may hold anything


@cache
def _linux_boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _start_macos(pid: int) -> str:
    class Information(ctypes.Structure):  # struct proc_bsdinfo of <sys/proc_info.h>
        _fields_ = [
            ("head", ctypes.c_uint32 * 12),  # the second is the status, 5 is a zombie
            ("names", ctypes.c_char * 48),
            ("tail", ctypes.c_uint32 * 6),
            ("seconds", ctypes.c_uint64),
            ("microseconds", ctypes.c_uint64),
        ]

    library = ctypes.CDLL("/usr/lib/libproc.dylib", use_errno=True)
    information = Information()
    size = ctypes.sizeof(information)
    basic = 3  # PROC_PIDTBSDINFO
    if library.proc_pidinfo(pid, basic, ctypes.c_uint64(0), ctypes.byref(information), size) != size:
        return ""
    return "" if information.head[1] == 5 else f"{information.seconds}.{information.microseconds:06d}"


def _start_windows(pid: int) -> str:
    kernel = ctypes.WinDLL("kernel32", use_last_error=True)
    kernel.OpenProcess.restype = ctypes.c_void_p
    query_limited, still_active = 0x1000, 259
    handle = kernel.OpenProcess(query_limited, False, pid)
    if not handle:
        return ""
    handle = ctypes.c_void_p(handle)
    try:
        code = ctypes.c_uint32()
        times = [ctypes.c_uint64() for _ in range(4)]  # created, exited, kernel, user
        if not kernel.GetExitCodeProcess(handle, ctypes.byref(code)) or code.value != still_active:
            return ""
        kernel.GetProcessTimes(handle, *(ctypes.byref(each) for each in times))
        return str(times[0].value)
    finally:
        kernel.CloseHandle(handle)


def _windows_parents() -> dict[int, int]:
    class Entry(ctypes.Structure):  # PROCESSENTRY32W of <tlhelp32.h>
        _fields_ = [
            ("size", ctypes.c_uint32),
            ("usage", ctypes.c_uint32),
            ("pid", ctypes.c_uint32),
            ("heap", ctypes.c_size_t),
            ("module", ctypes.c_uint32),
            ("threads", ctypes.c_uint32),
            ("parent", ctypes.c_uint32),
            ("priority", ctypes.c_int32),
            ("flags", ctypes.c_uint32),
            ("name", ctypes.c_wchar * 260),
        ]

    kernel = ctypes.WinDLL("kernel32", use_last_error=True)
    kernel.CreateToolhelp32Snapshot.restype = ctypes.c_void_p
    processes_only = 0x2
    snapshot = ctypes.c_void_p(kernel.CreateToolhelp32Snapshot(processes_only, 0))
    entry = Entry(size=ctypes.sizeof(Entry))
    parents = {}
    try:
        more = kernel.Process32FirstW(snapshot, ctypes.byref(entry))
        while more:
            parents[entry.pid] = entry.parent
            more = kernel.Process32NextW(snapshot, ctypes.byref(entry))
    finally:
        kernel.CloseHandle(snapshot)
    return parents
