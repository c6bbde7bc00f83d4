"""Which Python the worker runs with, and in which environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import slicer


def _environment() -> dict[str, str]:
    """This process's environment, without what Slicer's launcher put into it: that breaks any other Python.

    PythonSlicer is itself a launcher and puts it back.
    """
    if hasattr(getattr(slicer, "app", None), "startupEnvironment"):
        return slicer.util.startupEnvironment()
    return dict(os.environ)


@dataclass(frozen=True)
class Compute:
    """Where workers run.

    Parameters
    ----------
    python : str
        An interpreter with torch and the packages of ``Resources/requirements.txt``; Slicer's own (PythonSlicer, which
        is what `sys.executable` names inside Slicer) if not given.
    environment : mapping of str to str
        Environment variables of the worker.
    """

    python: str = ""
    environment: Mapping[str, str] = field(default_factory=_environment, repr=False)

    @property
    def interpreter(self) -> str:
        """Path of the interpreter."""
        return self.python or sys.executable

    @property
    def is_slicers_own(self) -> bool:
        """Whether it is the Python that runs here."""
        return not self.python or Path(self.python) == Path(sys.executable)
