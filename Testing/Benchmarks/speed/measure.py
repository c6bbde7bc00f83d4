"""Measuring: two ways of doing the same work, alternately and warmed up, and how much memory a piece of work takes."""

from __future__ import annotations

import contextlib
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .rows import Row

REPETITIONS = 5
"""Of each side, after one that warms up; the median counts."""


def side_by_side(name: str, peer: str, ours: Callable[[], Any], theirs: Callable[[], Any], **how: Any) -> Row:
    """Compare the results of two calls, then their time: `compare` with one peer."""
    return compare(name, ours, {peer: theirs}, **how)[0]


def compare(
    name: str,
    ours: Callable[[], Any],
    peers: Mapping[str, Callable[[], Any]],
    *,
    check: Callable[[Any, Any], bool | tuple[bool, str]],
    aim: float | None = None,
    limit: float | None = None,
    unit: str = "s",
    repetitions: int = REPETITIONS,
    before: Callable[[], object] = lambda: None,
    wait: Callable[[], object] = lambda: None,
    note: str = "",
) -> list[Row]:
    """Compare the results of a call with those of its peers, then their time; a row for each peer.

    Parameters
    ----------
    ours, peers : callable, and callables by the peers' names
        Do the same work on the same inputs.
    check : callable
        Takes our result and a peer's and says whether they are equal, or ours as good; may add a text for the row's
        note. It is called once a peer, before anything is timed.
    unit : {"s", "ms"}
        What the rows' figures are in.
    before : callable
        Called before every timed call, outside the timing: puts back what calls change.
    wait : callable
        Called after every call, within the timing: returns once a device has done what was asked of it.
    """
    mine = ours()
    wait()
    verdicts = []
    for theirs in peers.values():
        result = theirs()
        wait()
        verdict = check(mine, result)
        verdicts.append(verdict if isinstance(verdict, tuple) else (verdict, ""))
        del result
    del mine
    scale = {"s": 1.0, "ms": 1000.0}[unit]
    seconds = alternate([ours, *peers.values()], repetitions, before=before, wait=wait)
    samples, *others = [[scale * each for each in side] for side in seconds]
    return [
        Row(
            name,
            peer,
            statistics.median(samples),
            statistics.median(theirs),
            unit=unit,
            aim=aim,
            limit=limit,
            equal=bool(equal),
            note="; ".join(text for text in (note, remark) if text),
            values={"ours": samples, "theirs": theirs},
        )
        for peer, theirs, (equal, remark) in zip(peers, others, verdicts, strict=True)
    ]


def alternate(
    calls: Sequence[Callable[[], Any]],
    repetitions: int = REPETITIONS,
    *,
    before: Callable[[], object] = lambda: None,
    wait: Callable[[], object] = lambda: None,
) -> list[list[float]]:
    """Seconds of every repetition of every call.

    They take turns, so that whatever else the machine does meets all of them alike; every other round goes backwards,
    so that none always runs in the heat of the same other. Nothing is warmed up here: call each once before.
    """
    seconds: list[list[float]] = [[] for _ in calls]
    for repetition in range(repetitions):
        order = list(enumerate(calls))
        for index, call in order if repetition % 2 == 0 else reversed(order):
            before()
            begun = time.perf_counter()
            result = call()
            wait()
            seconds[index].append(time.perf_counter() - begun)
            del result  # its memory is given back outside the timing
    return seconds


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch and SimpleITK, as far as they are loaded, compute with so many threads."""
    torch, itk = sys.modules.get("torch"), sys.modules.get("SimpleITK")
    before = torch and torch.get_num_threads(), itk and itk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    try:
        if torch:
            torch.set_num_threads(count)
        if itk:
            itk.ProcessObject.SetGlobalDefaultNumberOfThreads(count)
        yield
    finally:
        if torch:
            torch.set_num_threads(before[0])
        if itk:
            itk.ProcessObject.SetGlobalDefaultNumberOfThreads(before[1])


def peak_memory(prepare: Callable[..., Callable[[], Any]], *arguments: Any) -> int:
    """Bytes by which a process grows at most while it does a piece of work.

    Parameters
    ----------
    prepare : callable
        A function of a module (a fresh process imports it). It takes `arguments`, makes the inputs, and returns the
        work as a function; the inputs don't count. Import in it what the work needs.

    Raises
    ------
    OSError
        On systems that don't tell the largest size of a process: it needs Linux.
    RuntimeError
        If the process failed.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure_peak, args=(sender, prepare, arguments))
    process.start()
    sender.close()
    try:
        answer = receiver.recv()
    except EOFError:
        answer = None
    process.join()
    if isinstance(answer, int):
        return answer
    raise RuntimeError(answer or f"the process that measures memory ended with exit code {process.exitcode}")


def _measure_peak(sender, prepare: Callable[..., Callable[[], Any]], arguments: tuple) -> None:
    try:
        work = prepare(*arguments)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the largest size so far is forgotten
        size, mapped = _status_bytes("VmRSS"), _status_bytes("RssFile")
        result = work()
        loaded = max(0, _status_bytes("RssFile") - mapped)  # code that ran for the first time
        answer: int | str = max(0, _status_bytes("VmHWM") - size - loaded)
        del result
    except Exception as error:
        answer = f"{type(error).__name__}: {error}"
    sender.send(answer)
    sender.close()


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"this system doesn't tell {field}")
