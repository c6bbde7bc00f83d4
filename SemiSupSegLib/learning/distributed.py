"""Several processes that train as one, step for step with the numbers of one process; alone, nothing of it happens.

Nearly all of a step's work is in the networks. So each process puts its share of the patches through them and receives
what the others made of theirs: all have the logits of the whole batch and compute its whole loss. Means over masks,
mixing and matching of patches, thresholds that follow a batch are then those of one process, whatever the method.
Backward each goes through its own share, and the gradients add up.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

from .. import torchrun
from ..errors import ErrorCode, RunError, SemiSupSegError, SettingsError
from ..events import Command, decode_command, encode_command
from .checkpoints import Checkpoint
from .collectives import Gathered, OtherProcessLost, as_bytes, collective, decoded, encoded, store_of_this_start
from .devices import choose_device
from .shared_batch_norm import share_batch_statistics

T = TypeVar("T")

_PATIENCE = timedelta(days=7)
"""How long a process waits for the others between steps: one of them may predict, prepare superpixels or pause."""

_LAST_WORDS_SECONDS = 3.0
"""How long a process that lost another waits for the reason."""


class Processes:
    """This process alone: everything stays as it is.

    Attributes
    ----------
    rank, size : int
        Which of how many processes this one is.
    """

    rank = 0
    size = 1

    @property
    def is_leader(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0

    def device(self, wanted: str) -> torch.device:
        """The device of this process for a text as given with ``--device``; see `choose_device`."""
        return choose_device(wanted)

    # Agreeing; every process must call these in the same order -----------------------------------------------------

    def any(self, flag: bool) -> bool:
        """Whether a flag is set in any process."""
        return flag

    def of_leader(self, compute: Callable[[], T]) -> T:
        """What the leader computes, a value that JSON can say; the others don't compute it."""
        return compute()

    def of_each(self, compute: Callable[[], T]) -> list[T]:
        """What each process computes, by rank."""
        return [compute()]

    def commands_of_leader(self, take: Callable[[], list[Command]]) -> list[Command]:
        """The commands that the leader was given."""
        return take()

    def checkpoint_of_leader(self, load: Callable[[], Checkpoint | None]) -> Checkpoint | None:
        """The checkpoint that the leader loads, so that all go on with the same numbers wherever its disk is."""
        return load()

    def must_agree(self, compute: Callable[[], T], problem: str, remedy: str) -> None:
        """Raise an error of these sentences where processes compute different values."""

    @contextlib.contextmanager
    def leader_first(self) -> Iterator[None]:
        """Inside, the others begin when the leader is through: they find in caches what it left there."""
        yield

    # Sharing work --------------------------------------------------------------------------------------------------

    def own(self, items: Sequence[T]) -> Sequence[T]:
        """This process's share of independent pieces of work."""
        return items

    def prepared(self, network: nn.Module) -> nn.Module:
        """A network whose layers see the whole batch, though each process holds a share of it."""
        return network

    def seed(self, seed: int) -> None:
        """Seed torch for a step: all processes draw the same numbers, but within their shares each its own."""
        torch.manual_seed(seed)

    def through(self, forward: Callable[[Tensor], list[Tensor]], batch: Tensor) -> list[Tensor]:
        """What a network makes of a batch.

        Parameters
        ----------
        forward : callable
            Maps ``(B, …)`` to tensors ``(B, …)``.
        batch : torch.Tensor
            The same in every process, at least as many samples as there are processes.
        """
        return forward(batch)

    def add_up_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """After a backward pass: the gradient of the whole batch, in every process."""


ALONE = Processes()


class SeveralProcesses(Processes):
    """One of the processes that torchrun started; joins the others when it is made.

    Tensors travel between GPUs by NCCL, all else by Gloo.
    """

    def __init__(self):
        store, self.rank, self.size = next(distributed.rendezvous("env://"))
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        with collective():
            self._store = store_of_this_start(store, self.rank, self.size)
            distributed.init_process_group(backend, store=self._store, rank=self.rank, world_size=self.size)
            self._agreement = distributed.new_group(backend="gloo", timeout=_PATIENCE)

    def device(self, wanted: str) -> torch.device:
        """``cpu``, or the GPU of this process's number on its machine."""
        if wanted not in ("auto", "cuda", "cpu"):
            raise SettingsError(
                f"Under torchrun each process has a GPU of its own, and the device '{wanted}' is one.",
                "Choose auto, cuda or cpu.",
            )
        n_devices = torch.cuda.device_count() if torch.cuda.is_available() and wanted != "cpu" else 0
        if n_devices == 0:
            return choose_device("cpu" if wanted == "auto" else wanted)
        if torchrun.local_rank() >= n_devices:
            raise SemiSupSegError(
                f"This computer has {n_devices} GPU(s), and torchrun started more processes.",
                f"Start it with --nproc-per-node {n_devices} at most, or choose --device cpu.",
                code=ErrorCode.DEVICE_UNAVAILABLE,
            )
        return torch.device("cuda", torchrun.local_rank())

    # Agreeing ------------------------------------------------------------------------------------------------------

    def any(self, flag: bool) -> bool:
        found = torch.tensor([int(flag)])
        with collective():
            distributed.all_reduce(found, distributed.ReduceOp.MAX, group=self._agreement)
        return bool(found.item())

    def of_leader(self, compute: Callable[[], T]) -> T:
        content = encoded(compute()) if self.is_leader else torch.empty(0, dtype=torch.uint8)
        length = torch.tensor([len(content)])
        self._broadcast(length)
        if not length.item():
            return None
        content = content if self.is_leader else torch.empty(int(length), dtype=torch.uint8)
        self._broadcast(content)
        return decoded(content)

    def of_each(self, compute: Callable[[], T]) -> list[T]:
        content = encoded(compute())
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        with collective():
            distributed.all_gather(lengths, torch.tensor([len(content)]), group=self._agreement)
        padded = torch.zeros(int(max(lengths)), dtype=torch.uint8)
        padded[: len(content)] = content
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        with collective():
            distributed.all_gather(parts, padded, group=self._agreement)
        return [decoded(part[: int(length)]) for part, length in zip(parts, lengths, strict=True)]

    def commands_of_leader(self, take: Callable[[], list[Command]]) -> list[Command]:
        lines = self.of_leader(lambda: [encode_command(each).decode() for each in take()] or None)
        return [decode_command(line.encode()) for line in lines or ()]

    def checkpoint_of_leader(self, load: Callable[[], Checkpoint | None]) -> Checkpoint | None:
        checkpoint = load() if self.is_leader else None
        known = self.of_leader(lambda: checkpoint and [checkpoint.iteration, checkpoint.state])
        if known is None:
            return None
        iteration, state = known
        names = ("student", "teacher", "optimizer")
        return Checkpoint(iteration, *(self._tensors_of_leader(getattr(checkpoint, each, {})) for each in names), state)

    def must_agree(self, compute: Callable[[], T], problem: str, remedy: str) -> None:
        values = self.of_each(compute)
        if any(value != values[0] for value in values):
            raise SemiSupSegError(problem, remedy, code=ErrorCode.UNREADABLE_FILE)

    @contextlib.contextmanager
    def leader_first(self) -> Iterator[None]:
        if not self.is_leader:
            self.any(False)
        yield
        if self.is_leader:
            self.any(False)

    # Sharing work --------------------------------------------------------------------------------------------------

    def own(self, items: Sequence[T]) -> Sequence[T]:
        return items[self.rank :: self.size]

    def prepared(self, network: nn.Module) -> nn.Module:
        return share_batch_statistics(network)

    def seed(self, seed: int) -> None:
        super().seed(seed)
        self._own_seeds = itertools.count(seed + self.rank + 1, self.size)

    def through(self, forward: Callable[[Tensor], list[Tensor]], batch: Tensor) -> list[Tensor]:
        counts = [len(share) for share in batch.tensor_split(self.size)]
        devices = [batch.device] if batch.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(next(self._own_seeds))  # of dropout
            outputs = forward(batch.tensor_split(self.size)[self.rank])
        return [Gathered.apply(output, counts, self.rank) for output in outputs]

    def add_up_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        gradients = [each.grad for each in parameters if each.grad is not None]
        together = torch.cat([each.flatten() for each in gradients])
        with collective():
            distributed.all_reduce(together)
        for gradient, part in zip(gradients, together.split([each.numel() for each in gradients]), strict=True):
            gradient.copy_(part.view(gradient.shape))

    # The end -------------------------------------------------------------------------------------------------------

    def explained(self, error: BaseException) -> BaseException:
        """An error as a person should hear it from this process: one that another one's end caused gives its reason."""
        if not isinstance(error, OtherProcessLost):
            with contextlib.suppress(RuntimeError):  # the store ends with torchrun
                self._store.compare_set("last words", "", f"Process {self.rank}: {error}")
            return error
        return RunError(
            f"Another process of this run ended. {self._last_words()}".rstrip(),
            "Resume the run; torchrun does so by itself with --max-restarts.",
        )

    def _last_words(self) -> str:
        """What the process said that ended first; empty if it had no time to."""
        deadline = time.monotonic() + _LAST_WORDS_SECONDS
        with contextlib.suppress(RuntimeError):
            while time.monotonic() < deadline:
                if self._store.check(["last words"]):
                    return self._store.get("last words").decode()
                time.sleep(0.1)
        return ""

    def _broadcast(self, tensor: Tensor) -> None:
        with collective():
            distributed.broadcast(tensor, 0, group=self._agreement)

    def _tensors_of_leader(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        kinds = self.of_leader(
            lambda: {name: (str(each.dtype).removeprefix("torch."), list(each.shape)) for name, each in tensors.items()}
        )
        received = {}
        for name, (kind, shape) in kinds.items():
            tensor = tensors[name].contiguous() if self.is_leader else torch.empty(shape, dtype=getattr(torch, kind))
            self._broadcast(as_bytes(tensor))
            received[name] = tensor
        return received


@contextlib.contextmanager
def joined_processes() -> Iterator[Processes]:
    """The processes that torchrun started, this one among them; alone where it wasn't torchrun, or only one."""
    if torchrun.world_size() == 1:
        yield ALONE
        return
    processes = SeveralProcesses()
    try:
        yield processes
    except BaseException as error:
        explained = processes.explained(error)
        if explained is error:
            raise
        raise explained from error
    finally:
        distributed.destroy_process_group()
