"""Starts the process of a worker: its group, its streams, its environment."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import ErrorCode, SemiSupSegError
from .files import explained
from .processes import OWN_GROUP_VARIABLE
from .runs import RunFolder

BOOTSTRAP = Path(__file__).with_name("start_worker.py")
"""What a worker's Python is given to run."""


def launch(
    command: Sequence[str], folder: RunFolder, *, attached: bool, environment: Mapping[str, str]
) -> subprocess.Popen:
    """Starts a worker in a process group of its own, its log going to the run folder.

    Parameters
    ----------
    command : sequence of str
        Interpreter, bootstrap and arguments.
    folder : RunFolder
        The run.
    attached : bool
        With pipes to stdin and stdout, whose end the worker takes for the end of its owner; else without.
    environment : mapping
        Environment variables.

    Raises
    ------
    SemiSupSegError
        ``packages-missing`` if there is no such interpreter, ``not-writable`` if there can be no log.
    """
    with explained("write", folder.log_file):
        log = open(folder.log_file, "ab", buffering=0)  # noqa: SIM115 - closed below, kept by the worker
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE if attached else subprocess.DEVNULL,
            stdout=subprocess.PIPE if attached else log,
            stderr=log,
            bufsize=0,
            cwd=folder.path,
            env={**environment, "PYTHONUTF8": "1", OWN_GROUP_VARIABLE: "1"},
            **_own_group(),
        )
    except OSError as error:
        raise SemiSupSegError(
            f"The interpreter '{command[0]}' can't be started ({error.strerror}).",
            "Choose another Python to compute with, or install the software again.",
            code=ErrorCode.PACKAGES_MISSING,
        ) from error
    finally:
        log.close()


def _own_group() -> dict[str, Any]:
    """Arguments that put a process and its children into a group of their own, without a window."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    return {"start_new_session": True}
