"""A row of the table: one piece of work, what it costs here and what it costs elsewhere."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """What the command was asked for; every area reads its sizes from here.

    Attributes
    ----------
    quick : bool
        Smaller inputs, so that everything takes minutes.
    tiny : bool
        The smallest inputs that still run everything, for tests: their figures mean nothing.
    threads : int
        Threads that both sides may use.
    device : str
        ``"cpu"`` or ``"cuda"``.
    seed : int
        Of everything that is drawn.
    data : pathlib.Path, optional
        Folder of the data sets (see ``protocols.py``), for rows on real scans.
    peers : pathlib.Path, optional
        Folder that holds check-outs of other projects' code, each under its repository's name.
    rows : tuple of str
        Only rows are wanted in whose ``name / peer`` one of these texts occurs; without any, all.
    """

    quick: bool = False
    tiny: bool = False
    threads: int = 1
    device: str = "cpu"
    seed: int = 0
    data: Path | None = None
    peers: Path | None = None
    rows: tuple[str, ...] = ()

    def wants(self, name: str, peer: str = "") -> bool:
        """Whether a row was asked for."""
        return not self.rows or any(text in f"{name} / {peer}" for text in self.rows)

    def pick(self, full: T, quick: T, tiny: T) -> T:
        """The value for the size that was asked for."""
        return tiny if self.tiny else quick if self.quick else full


@dataclass(frozen=True)
class Row:
    """One comparison. Costs: less is better.

    Attributes
    ----------
    name, peer : str
        What is done, and who or what else does it.
    ours, theirs : float, optional
        The costs; None where nothing could be measured.
    unit : str
        Of both.
    aim : float, optional
        The ratio theirs / ours that is aimed at.
    limit : float, optional
        What ours may cost at most.
    equal : bool, optional
        Whether the results were found equal, or as good, before anything was timed; None where there are none.
    note : str
        Anything that a reader of the figures must know.
    error : str
        Why there are no figures although there should be.
    values : dict, optional
        Further figures: quality, samples, curves.
    """

    name: str
    peer: str
    ours: float | None = None
    theirs: float | None = None
    unit: str = "s"
    aim: float | None = None
    limit: float | None = None
    equal: bool | None = None
    note: str = ""
    error: str = ""
    values: dict[str, Any] | None = None

    @property
    def ratio(self) -> float | None:
        """How many times less ours costs; above 1 it is the better one."""
        return self.theirs / self.ours if self.ours and self.theirs is not None else None

    @property
    def is_wrong(self) -> bool:
        """Whether it failed, or its results differ."""
        return bool(self.error) or self.equal is False

    @property
    def reaches_aim(self) -> bool | None:
        """Whether results, ratio and limit are as they should be; None where there is no aim or no figure."""
        wanted = [self.ratio and self.ratio >= self.aim] if self.aim is not None else []
        wanted += [self.ours and self.ours <= self.limit] if self.limit is not None else []
        return None if not wanted or None in wanted else all(wanted) and not self.is_wrong

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "ratio": self.ratio}


class MissingPeer(Exception):
    """What we compare with isn't on this computer; the text says how to get it."""


def require(module: str, install: str) -> ModuleType:
    """Import an optional peer.

    Raises
    ------
    MissingPeer
        If it isn't installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingPeer(f"{module} isn't installed: {install}") from error


def attempt(name: str, peer: str, measure: Callable[[], Row], *, aim: float | None = None) -> Row:
    """What `measure` returns; where it raises, a row that says why, so that the others are still measured."""
    return attempt_all(name, peer, lambda: [measure()], aim=aim)[0]


def attempt_all(name: str, peer: str, measure: Callable[[], list[Row]], *, aim: float | None = None) -> list[Row]:
    """The rows that `measure` returns; where it raises, one that says why."""
    try:
        return measure()
    except MissingPeer as error:
        return [Row(name, peer, aim=aim, note=str(error))]
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        first_line = str(error).partition("\n")[0]
        return [Row(name, peer, aim=aim, error=f"{type(error).__name__}: {first_line}")]
