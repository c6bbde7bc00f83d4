"""Checkpoints: safetensors and JSON in a folder that appears whole, rotated, verified by checksum.

Nothing is ever unpickled. A checkpoint that is truncated or altered is passed over for the one before.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load, save
from torch import Tensor

from ..errors import ErrorCode, ModelError, SemiSupSegError
from ..files import (
    explained,
    read_json,
    replace_atomically,
    sha256_of,
    temporary_beside,
    write_bytes_atomically,
    write_json_atomically,
)

KEPT = 2
"""Newest checkpoints that are kept."""

_WEIGHT_FILES = ("student", "teacher", "optimizer")


@dataclass
class Checkpoint:
    """Everything that makes a run go on as if it had never stopped.

    Attributes
    ----------
    iteration : int
        Steps done.
    student, teacher, optimizer : mapping of str to torch.Tensor
        Tensors by name.
    state : dict
        The rest, as plain JSON values.
    """

    iteration: int
    student: Mapping[str, Tensor]
    teacher: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    state: dict[str, Any]

    @property
    def size_bytes(self) -> int:
        """Space that its tensors take on disk."""
        tensors = (*self.student.values(), *self.teacher.values(), *self.optimizer.values())
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, kept: int = KEPT) -> Path:
    """Write a checkpoint as ``folder/<iteration>`` and delete all but the newest ones.

    Parameters
    ----------
    folder : pathlib.Path
        A run's ``checkpoints`` folder.
    kept : int
        How many to keep, at least 1.

    Returns
    -------
    pathlib.Path
        The checkpoint's folder.

    Raises
    ------
    SemiSupSegError
        If the file system refuses; older checkpoints are then untouched.
    """
    final = folder / f"{checkpoint.iteration:08d}"
    with explained("write a checkpoint to", folder):
        folder.mkdir(parents=True, exist_ok=True)
        temporary = temporary_beside(final)
        temporary.mkdir()
        try:
            checksums = {}
            for name in _WEIGHT_FILES:
                file = temporary / f"{name}.safetensors"
                save_tensors(file, getattr(checkpoint, name))
                checksums[file.name] = sha256_of(file)
            body = {"iteration": checkpoint.iteration, "state": checkpoint.state}
            checksums["state.json"] = _checksum(body)
            write_json_atomically(temporary / "state.json", {**body, "checksums": checksums})
            _replace_folder(temporary, final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    for old in _checkpoint_folders(folder)[kept:]:
        if old != final:  # newer ones may be damaged, and have been passed over
            shutil.rmtree(old, ignore_errors=True)
    return final


def load_newest_checkpoint(folder: Path, warn: Callable[[str], None] = lambda message: None) -> Checkpoint | None:
    """The newest checkpoint that is whole; None where there is none at all.

    Parameters
    ----------
    folder : pathlib.Path
        A run's ``checkpoints`` folder.
    warn : callable
        Told about each checkpoint that had to be passed over.

    Raises
    ------
    ModelError
        With code ``checkpoint-damaged`` if there are checkpoints, but none is whole.
    """
    folders = _checkpoint_folders(folder)
    for each in folders:
        try:
            return load_checkpoint(each)
        except ModelError as error:
            warn(error.message)
    if folders:
        raise ModelError("No checkpoint of this run is whole.", "Start a new run.", code=ErrorCode.CHECKPOINT_DAMAGED)
    return None


def load_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in a folder, verified; raises `ModelError` with code ``checkpoint-damaged``."""
    try:
        body = read_json(folder / "state.json", "the checkpoint")
        checksums = body.pop("checksums")
        if _checksum(body) != checksums["state.json"]:
            raise ValueError("altered")
        tensors = {
            name: load_tensors(folder / f"{name}.safetensors", checksums[f"{name}.safetensors"])
            for name in _WEIGHT_FILES
        }
        return Checkpoint(int(body["iteration"]), state=dict(body["state"]), **tensors)
    except (SemiSupSegError, AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise ModelError(
            f"The checkpoint '{folder.name}' is damaged or incomplete.",
            "An earlier checkpoint is used where there is one.",
            code=ErrorCode.CHECKPOINT_DAMAGED,
        ) from error


def save_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors by name, whole or not at all; shared and strided ones are written out.

    Raises
    ------
    SemiSupSegError
        With codes ``disk-full``, ``not-writable``, …: safetensors' own writer would say it in words of its own.
    """
    content = save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})
    write_bytes_atomically(file, content)


def load_tensors(file: Path, checksum: str | None = None) -> dict[str, Tensor]:
    """Read tensors by name onto the CPU.

    They are copies in memory: `safetensors.torch.load_file` maps the file, and what trains on with mapped tensors
    could neither delete the file on Windows nor be sure of what it holds.

    Parameters
    ----------
    file : pathlib.Path
        A safetensors file.
    checksum : str, optional
        SHA-256 that its content must have.

    Raises
    ------
    ModelError
        If it can't be read, isn't a file of tensors, or was altered.
    """
    try:
        content = file.read_bytes()
        if checksum is not None and hashlib.sha256(content).hexdigest() != checksum:
            raise ValueError("altered")
        return load(content)
    except (OSError, safetensors.SafetensorError, ValueError, KeyError) as error:
        raise ModelError(
            f"The weights in '{file.name}' can't be read.", "Use another checkpoint or model.", code=ErrorCode.BAD_MODEL
        ) from error


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state by name ``<parameter>.<key>``."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{key}": torch.as_tensor(value) for index, each in state.items() for key, value in each.items()
            if value is not None}  # fmt: skip


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _checksum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _replace_folder(temporary: Path, final: Path) -> None:
    """Give a written checkpoint its name; one that has it already is moved out of the way, and back on failure."""
    if not final.exists():
        replace_atomically(temporary, final)
        return
    aside = temporary_beside(final)
    final.rename(aside)
    try:
        replace_atomically(temporary, final)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.rename(final)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _checkpoint_folders(folder: Path) -> list[Path]:
    """Checkpoints by iteration, newest first."""
    if not folder.is_dir():
        return []
    return sorted((each for each in folder.iterdir() if each.is_dir() and each.name.isdigit()), reverse=True)
