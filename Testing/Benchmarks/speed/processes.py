"""Training steps of two processes, as torchrun starts them, against one process with both cores and with one of them.

All take the same steps on the same batches. Before anything is timed, the steps of a small training are compared, loss
by loss. Not those that are timed: with that network weights that differ by 1e-7 have losses that differ by 1e-4 after
seven steps in one process, too. And in float64: in float32 one voxel at which two classes tie, and falls to another
region, changes a loss of the small training by 3e-4.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection

import numpy as np
import torch

from SemiSupSegLib.geometry import Geometry
from SemiSupSegLib.learning.cases import TrainingCase
from SemiSupSegLib.learning.devices import prefers_bfloat16, prepare_process
from SemiSupSegLib.learning.distributed import ALONE, Processes, joined_processes
from SemiSupSegLib.learning.plan import Normalisation, Plan
from SemiSupSegLib.learning.trainer import Trainer
from SemiSupSegLib.phantom import make_phantom
from SemiSupSegLib.training_settings import TrainingSettings

from .double import in_double
from .measure import compare
from .rows import Options, Row, attempt_all

_SAME_LOSS = 1e-9
_STEPS_COMPARED, _STEPS_TIMED = 20, 3
_COMPARED, _ROUNDED = "compared", "compared in float32"
"""Stand for the small training, in float64 and in float32, where a precision names the one that is timed."""
_PEERS = {"one process, 2 threads": 2, "one process, 1 thread": 1}
_EVERYTHING_RUNS = 0.9
"""Share of a training at which the unlabeled branch has its full weight."""

Losses = Callable[[str, int], list[float]]
"""Takes so many further steps of the training in a precision, or of a small one; returns their losses."""


def rows(options: Options) -> Iterator[Row]:
    """In float32 and, where it is faster, in bfloat16."""
    name = "torchrun, two processes"
    if options.device == "cuda" and torch.cuda.device_count() < 2:
        yield Row(name, "one process", note="this computer has fewer than two GPUs")
        return
    yield from attempt_all(name, "one process", lambda: _rows(name, options))


def _rows(name: str, options: Options) -> list[Row]:
    with _two_processes(options) as ours:
        alone = _steps(options, ALONE)
        compared = options.pick(_STEPS_COMPARED, _STEPS_COMPARED, 3)
        apart, rounded = (
            max(abs(a - b) for a, b in zip(ours(what, compared), alone(what, compared), strict=True))
            for what in (_COMPARED, _ROUNDED)
        )

        def with_threads(count: int, precision: str) -> Callable[[], object]:
            def work() -> None:
                torch.set_num_threads(count)
                alone(precision, _STEPS_TIMED)

            return work

        found = []
        for precision in ["float32", *(["bfloat16"] if prefers_bfloat16(torch.device(options.device)) else [])]:
            found += compare(
                name if precision == "float32" else f"{name}, {precision}",
                lambda: ours(precision, _STEPS_TIMED),  # noqa: B023
                {peer: with_threads(count, precision) for peer, count in _PEERS.items()},
                check=lambda mine, theirs: apart <= _SAME_LOSS,
                note=f"{_STEPS_TIMED} steps of SGRS; {compared} losses of a small training differ by {apart:.0e} in "
                f"float64, {rounded:.0e} in float32",
            )
        return found


def _steps(options: Options, processes: Processes) -> Losses:
    """A training in each precision; all processes that take part must call what is returned alike."""
    edge = options.pick(64, 40, 16)
    device = processes.device(options.device)
    prepare_process(device)
    torch.set_num_threads(1)
    wishes = ("method=sgrs", "schedule.unlabeled_start=0.0", "optimizer.name=sgd", f"seed={options.seed}")
    settings = TrainingSettings().with_overrides(wishes)
    trainers: dict[str, Trainer] = {}

    def trainer(what: str) -> Trainer:
        is_small = what in (_COMPARED, _ROUNDED)
        plan = _plan(16, "float32", (8, 16)) if is_small else _plan(edge, what, (16, 32, 64, 128))
        cases = [_case(index, plan.patch[0]) for index in range(4)]
        for case in cases:
            case.move_to(device)
        return Trainer(settings, plan, device, cases, 1000, processes)

    def steps(what: str, count: int) -> list[float]:
        with in_double() if what == _COMPARED else contextlib.nullcontext():
            if what not in trainers:
                trainers[what] = trainer(what)
            return [trainers[what].step_at(_EVERYTHING_RUNS)["loss"] for _ in range(count)]

    return steps


def _case(index: int, edge: int) -> TrainingCase:
    """A made-up scan; every other one is scribbled."""
    phantom = make_phantom((edge + 16,) * 3, index)
    image = torch.from_numpy(phantom.image.array.astype(np.float32))
    case = TrainingCase(f"case{index}", Geometry(image.shape), ((image - image.mean()) / image.std()).half())
    case.annotate(phantom.scribbles if index % 2 == 0 else None)
    return case


def _plan(edge: int, precision: str, features: tuple[int, ...]) -> Plan:
    """What is planned for a CPU, but instance norm, which has no batch to share."""
    return Plan(3, (1.0, 1.0, 1.0), (edge,) * 3, 2, Normalisation(), precision, "unet", features,
                ((2, 2, 2),) * (len(features) - 1), "instance", 0.0, 4)  # fmt: skip


@contextlib.contextmanager
def _two_processes(options: Options) -> Iterator[Losses]:
    """Two processes that take steps when they are told."""
    context = multiprocessing.get_context("spawn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pipes = [context.Pipe() for _ in range(2)]
    started = [
        context.Process(target=_work, args=(rank, port, theirs, options), daemon=True)
        for rank, (_, theirs) in enumerate(pipes)
    ]
    for process in started:
        process.start()
    for _, theirs in pipes:
        theirs.close()

    def steps(precision: str, count: int) -> list[float]:
        for ours, _ in pipes:
            ours.send((precision, count))
        losses, _ = (ours.recv() for ours, _ in pipes)
        return losses

    try:
        yield steps
    finally:
        for (ours, _), process in zip(pipes, started, strict=True):
            ours.close()
            process.join()


def _work(rank: int, port: int, orders: Connection, options: Options) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with joined_processes() as processes, contextlib.suppress(EOFError):
        steps = _steps(options, processes)
        while True:
            orders.send(steps(*orders.recv()))
