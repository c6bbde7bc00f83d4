"""Two processes on this machine, as torchrun would start them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import distributed


def in_two_processes(work: Callable[[Path], object], folder: Path) -> list:
    """What a function of a module makes in each of two processes, through JSON.

    The store is this process's, as it is the agent's under torchrun: were it the leader's, it would go between two
    runs, and a follower ahead of the leader would still meet it and wait in vain.
    """
    store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    torch.multiprocessing.spawn(_work, (work, str(folder), store.port), nprocs=2)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def _work(rank: int, work: Callable, folder: str, port: int) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    (Path(folder) / f"{rank}.json").write_text(json.dumps(work(Path(folder))))
