"""What torchrun says in the environment: which of how many processes this one is, and how often it was restarted.

The process of rank 0 leads: it alone speaks, makes the run's folder and writes into it.
"""

from __future__ import annotations

import os


def rank() -> int:
    """Number of this process among all; 0 without torchrun."""
    return _number("RANK", 0)


def local_rank() -> int:
    """Number of this process among those of this machine; 0 without torchrun."""
    return _number("LOCAL_RANK", 0)


def world_size() -> int:
    """How many processes there are; 1 without torchrun."""
    return _number("WORLD_SIZE", 1)


def restarts() -> int:
    """How often torchrun has started all processes again after one of them died; 0 without torchrun."""
    return _number("TORCHELASTIC_RESTART_COUNT", 0)


def is_used() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def is_leader() -> bool:
    """Whether this process speaks and writes for all."""
    return rank() == 0


def _number(name: str, otherwise: int) -> int:
    try:
        return int(os.environ.get(name, otherwise))
    except ValueError:
        return otherwise
