"""Training scripts of other projects, run as they are, each in a process of its own, a step whenever we ask for one.

The user has checked their code out; nothing of it is changed. What a script imports and what doesn't take part in a
step (progress bars, TensorBoard, file readers) is stood in for where it isn't installed, ``.cuda()`` does nothing where
there is no GPU, and its volumes come from memory instead of compressed HDF5, which is in the script's favour. Its data
loader waits for us: a step is what happens between two batches that the script asks for.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import multiprocessing
import os
import runpy
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from .double import in_double
from .rows import MissingPeer
from .stand_ins import stand_in

SEED_OF_STUDENT, SEED_OF_TEACHER = 0, 1_000_000


@dataclass(frozen=True)
class Script:
    """A training script and what it expects.

    Attributes
    ----------
    repository : str
        Folder of the check-out, below the folder of all peers; `address` says where it comes from.
    path : str
        The script's path in it.
    arguments : tuple of str
        Its command line.
    loader : str
        The module that it takes its data set and ``RandomCrop`` from.
    lists : dict of str to int
        Text files that name its cases, below the folder from which it starts, and how many names each must have.
    losses : sequence of str
        The script's variables that are compared.
    """

    repository: str
    address: str
    path: str
    arguments: tuple[str, ...]
    loader: str
    lists: dict[str, int]
    losses: tuple[str, ...]

    def find(self, peers: Path | None) -> Path:
        """The script's file.

        Raises
        ------
        MissingPeer
            If there is no such check-out.
        """
        if peers is None or not (peers / self.repository / self.path).is_file():
            raise MissingPeer(f"{self.repository} isn't checked out: git clone {self.address}, then --peers FOLDER")
        return (peers / self.repository / self.path).resolve()


@dataclass(frozen=True)
class Replay:
    """A step of ours for a script to repeat: its batch, and what functions that draw random numbers returned.

    Attributes
    ----------
    image : numpy.ndarray
        ``(B, 1, *spatial)`` float32, the labeled patches first.
    label : numpy.ndarray
        ``(B, *spatial)`` int64.
    draws : dict of str to list
        Results by the name of the function ("torch.randn", …), in the order of its calls.
    """

    image: np.ndarray
    label: np.ndarray
    draws: dict[str, list[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Setup:
    """How a script is to run.

    Attributes
    ----------
    volumes : sequence of (numpy.ndarray, numpy.ndarray)
        Images float32 and labels uint8, (i, j, k) as these projects store them.
    patch : tuple of int
        Instead of the size that the script has.
    channels_last, autocast : bool
        Whether its networks run in our memory format, and under our autocast.
    double : bool
        Whether everything is computed in float64.
    replays : bool
        Whether batches come from us and its networks draw dropout from seeds that we know.
    """

    source: Script
    file: Path
    volumes: Sequence[tuple[np.ndarray, np.ndarray]]
    patch: tuple[int, int, int]
    threads: int
    device: str
    channels_last: bool = False
    autocast: bool = False
    double: bool = False
    replays: bool = False


class PeerTraining:
    """A running script.

    Attributes
    ----------
    weights : dict of str to list of numpy.ndarray
        The initial state of its "model" and "ema_model", in the order of the layers.
    """

    def __init__(self, setup: Setup):
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_run, args=(other, setup))
        self._process.start()
        other.close()
        self.weights: dict[str, list[np.ndarray]] = self._answer()

    def step(self, replay: Replay | None = None) -> list[float]:
        """Make one step, with its own batch or ours; returns the losses in the order of `Script.losses`."""
        self._connection.send(("step", replay))
        return self._answer()

    def __enter__(self) -> PeerTraining:
        return self

    def __exit__(self, *exception: object) -> None:
        self._connection.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.terminate()

    def _answer(self) -> Any:
        try:
            kind, value = self._connection.recv()
        except EOFError:
            kind, value = "error", "its process ended"
        if kind == "error":
            raise RuntimeError(f"The peer's script failed: {value}")
        return value


# In the script's process ----------------------------------------------------------------------------------------------


def _run(connection: Connection, setup: Setup) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # scripts report every iteration
    torch.set_num_threads(setup.threads)
    if "fork" in multiprocessing.get_all_start_methods():
        multiprocessing.set_start_method("fork", force=True)  # as loaders start their workers where these scripts ran
    gate = _Gate(connection, setup)
    stand_in(setup.volumes)
    _replace_draws(gate)
    _replace_cuda(setup)
    torch.utils.data.DataLoader = type("GatedLoader", (_GatedLoader,), {"gate": gate})
    logging.disable()
    warnings.simplefilter("ignore")
    code = setup.file.parent
    sys.path.insert(0, str(code))
    sys.argv = [setup.file.name, *setup.source.arguments]
    with tempfile.TemporaryDirectory() as folder:
        _write_lists(Path(folder), setup)
        (Path(folder) / "code").mkdir()
        os.chdir(Path(folder) / "code")
        try:
            _shrink_patches(setup.source.loader, setup.patch)
            with in_double() if setup.double else contextlib.nullcontext():
                runpy.run_path(str(setup.file), run_name="__main__")
        except _Closed:
            pass
        except BaseException as error:
            traceback.print_exc()
            connection.send(("error", f"{type(error).__name__}: {error}"))
        os.chdir("/")


class _Closed(Exception):
    """We have seen enough."""


class _Gate:
    """Holds a script up between two batches.

    Attributes
    ----------
    given : Replay or None
        The batch that the script is to use instead of its own.
    """

    def __init__(self, connection: Connection, setup: Setup):
        self.connection, self.setup = connection, setup
        self.given: Replay | None = None
        self._asked = self._begun = False

    def pause(self, variables: dict[str, Any]) -> None:
        """Report the step that has just ended, and wait until another one is wanted."""
        if self._asked:  # an epoch has ended instead of a step
            return
        self.connection.send(("done", self._losses(variables) if self._begun else self._begin(variables)))
        try:
            _, self.given = self.connection.recv()
        except EOFError:
            raise _Closed from None
        self._asked = True

    def open(self) -> None:
        """A batch goes out."""
        self._asked = False

    def _begin(self, variables: dict[str, Any]) -> dict[str, list[np.ndarray]]:
        self._begun = True
        networks = {name: variables[name] for name in ("model", "ema_model")}
        for network, seed in zip(networks.values(), (SEED_OF_STUDENT, SEED_OF_TEACHER), strict=True):
            network.forward = _formatted(network.forward, self.setup)
            if self.setup.replays:
                seed_forward_passes(network, seed)
        return {
            name: [value.cpu().numpy() for value in network.state_dict().values()] for name, network in networks.items()
        }

    def _losses(self, variables: dict[str, Any]) -> list[float]:
        if self.setup.device != "cpu":
            torch.cuda.synchronize()
        return [float(torch.as_tensor(variables[name]).detach()) for name in self.setup.source.losses]


class _GatedLoader(torch.utils.data.DataLoader):
    """The scripts' own loader, workers and all, behind a gate."""

    gate: _Gate

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        own = iter(()) if self.gate.setup.replays else super().__iter__()
        while True:
            self.gate.pause(sys._getframe(1).f_locals)  # the script's own variables
            replay = self.gate.given
            if replay is not None:
                batch = {"image": torch.from_numpy(replay.image), "label": torch.from_numpy(replay.label)}
            else:
                batch = next(own, None)
                if batch is None:
                    return
            self.gate.open()
            yield batch


def seed_forward_passes(network: nn.Module, first: int) -> None:
    """Let each forward pass of a network draw its dropout from a seed of its own: `first`, then one more each time."""
    passes = iter(range(first, first + 1_000_000))
    network.register_forward_pre_hook(lambda *_: torch.manual_seed(next(passes)) and None)


def _replace_cuda(setup: Setup) -> None:
    """``.cuda()`` stays on the CPU where there is nothing else, and is where networks take our memory format.

    Later would be too late: optimisers and averages have taken hold of the weights.
    """
    move = nn.Module.cuda if setup.device == "cuda" else lambda network, *_: network
    if setup.device == "cpu":
        torch.Tensor.cuda = lambda self, *_, **__: self

    def cuda(network: nn.Module, *device: Any) -> nn.Module:
        moved = move(network, *device)
        return moved.to(memory_format=torch.channels_last_3d) if setup.channels_last else moved

    nn.Module.cuda = cuda


def _formatted(forward: Callable[[torch.Tensor], torch.Tensor], setup: Setup) -> Callable[[torch.Tensor], torch.Tensor]:
    """A forward pass as `SemiSupSegLib.learning` does it: channels last, in bfloat16, but with float32 outside."""

    def formatted(x: torch.Tensor) -> torch.Tensor:
        if setup.channels_last:
            x = x.to(memory_format=torch.channels_last_3d)
        if not setup.autocast:
            return forward(x)
        with torch.autocast(setup.device, dtype=torch.bfloat16):
            return forward(x).float()

    return formatted


def _replace_draws(gate: _Gate) -> None:
    """Functions that draw random numbers return what a replay holds for them."""
    for module, names in ((torch, ("randn", "randn_like")), (np.random, ("permutation", "beta"))):
        for name in names:
            setattr(module, name, _served(gate, f"{module.__name__}.{name}", getattr(module, name)))


def _served(gate: _Gate, name: str, own: Any) -> Any:
    def draw(*arguments: Any, **options: Any) -> Any:
        left = gate.given.draws.get(name) if gate.given is not None else None
        if not left:
            return own(*arguments, **options)
        value = left.pop(0)
        return torch.from_numpy(value) if name.startswith("torch") else value

    return draw


def _shrink_patches(loader: str, patch: tuple[int, int, int]) -> None:
    """Their sizes are written into the scripts: let the cropping that they import cut ours."""
    crop = importlib.import_module(loader).RandomCrop
    whole = crop.__init__
    crop.__init__ = lambda self, size, *rest: whole(self, patch, *rest)


def _write_lists(folder: Path, setup: Setup) -> None:
    for name, length in setup.source.lists.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"case{index}\n" for index in range(length)), encoding="utf-8")
