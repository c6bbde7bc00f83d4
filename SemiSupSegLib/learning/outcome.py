"""How a task ends: what it leaves, and why it was stopped."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum


class StopReason(StrEnum):
    """Why a run is to stop at the next opportunity, with a checkpoint."""

    CANCEL = "cancel"
    OWNER_DIED = "owner-died"

    @property
    def exit_code(self) -> int:
        """Exit code of the worker."""
        return 3 if self is StopReason.CANCEL else 4

    @property
    def sentence(self) -> str:
        """The reason as it stands in status.json."""
        if self is StopReason.CANCEL:
            return "The run was cancelled."
        return "The run stopped because the program that started it was closed."


@dataclass(frozen=True)
class Outcome:
    """What a task leaves.

    Parameters
    ----------
    files : tuple of path
        The files (or folders) of the result, for the manifest.
    iteration : int
        Finished iterations.
    """

    files: tuple[str | os.PathLike, ...] = ()
    iteration: int = 0
