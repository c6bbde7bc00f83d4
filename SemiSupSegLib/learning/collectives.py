"""How processes meet, what they send each other, and what it means if one of them doesn't answer."""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Iterator

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable

from .memory import is_out_of_memory

_MEETING_SECONDS = 0.05
"""How often the leader looks who has come."""


class OtherProcessLost(Exception):
    """Raised where another process doesn't answer any more."""


@contextlib.contextmanager
def collective() -> Iterator[None]:
    """Around everything that needs the other processes: raises `OtherProcessLost` where one of them has ended."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise OtherProcessLost(str(error)) from error


def store_of_this_start(store: distributed.Store, rank: int, size: int) -> distributed.Store:
    """The part of a store that belongs to the processes which are alive now.

    After a restart torchrun hands out the same store, with addresses in it at which nobody lives any more; and its
    count of restarts may differ from machine to machine. So each process leaves a name of its own, and the leader
    answers to these names, until all have come, where they meet.
    """
    name = uuid.uuid4().hex
    store.set(f"name of {rank}", name)
    if rank:
        place = store.get(f"place for {name}").decode()
        store.set(f"{place} {rank}", "here")
        return distributed.PrefixStore(place, store)
    missing = set(range(1, size))
    while missing:
        for each in missing:
            store.set(f"place for {store.get(f'name of {each}').decode()}", name)
        time.sleep(_MEETING_SECONDS)
        missing = {each for each in missing if not store.check([f"{name} {each}"])}
    return distributed.PrefixStore(name, store)


class Gathered(torch.autograd.Function):
    """The shares ``(B_r, …)`` of all processes as one batch; what flows back is the own share's part of the gradient.

    Each process computes the loss of the whole batch, so its gradient is complete where the own share is concerned.
    """

    @staticmethod
    def forward(ctx, share: Tensor, counts: list[int], rank: int) -> Tensor:
        ctx.start, ctx.count = sum(counts[:rank]), counts[rank]
        padded = share.new_zeros((max(counts), *share.shape[1:]))
        padded[: len(share)] = share
        parts = [torch.empty_like(padded) for _ in counts]
        with collective():
            distributed.all_gather([as_bytes(part) for part in parts], as_bytes(padded))
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient[ctx.start : ctx.start + ctx.count], None, None


def as_bytes(tensor: Tensor) -> Tensor:
    """The memory of a contiguous tensor: not every number format travels with every backend."""
    return tensor.view(-1).view(torch.uint8)


def encoded(value: object) -> Tensor:
    """A value as JSON in a tensor of bytes; `None` as an empty one."""
    content = b"" if value is None else json.dumps(value).encode()
    return torch.tensor(list(content), dtype=torch.uint8)


def decoded(content: Tensor) -> object:
    """The value in a tensor of bytes."""
    return json.loads(bytes(content.tolist())) if len(content) else None
