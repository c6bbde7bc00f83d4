"""Two processes on this machine, as torchrun would start them."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import torch


def in_two_processes(work: Callable[[Path], object], folder: Path) -> list:
    """What a function of a module makes in each of two processes, through JSON."""
    torch.multiprocessing.spawn(_work, (work, str(folder), free_port()), nprocs=2)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def free_port() -> int:
    """A port that nobody uses at the moment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _work(rank: int, work: Callable, folder: str, port: int) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    (Path(folder) / f"{rank}.json").write_text(json.dumps(work(Path(folder))))
