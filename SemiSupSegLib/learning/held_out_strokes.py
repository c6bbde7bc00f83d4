"""Strokes kept out of training, so that a run without validation cases can tell whether it still gets better."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from ..errors import ModelError, RunError
from ..labels import IGNORE
from .cases import TrainingCase
from .checkpoints import load_tensors, save_tensors
from .losses import winners
from .prediction import Predictor

_FEWEST_STROKES = 3
_LARGEST_SHARE = 1 / 3


class HeldOutStrokes:
    """At most one stroke of each class and case; only where the class has several, and little of what it has.

    Parameters
    ----------
    seed : int
        Decides which.
    file : pathlib.Path, optional
        Remembers which from one part of a run to the next, if it was written by then. Drawn anew after a change of the
        annotations, a stroke could be held out that the network has been trained on.
    """

    def __init__(self, seed: int, file: Path | None = None):
        self.seed = seed
        self.of_case: dict[str, np.ndarray] = {} if file is None or not file.exists() else _read(file)

    def save(self, file: Path) -> None:
        """Remember which strokes are held out; raises `SemiSupSegError` where the file system refuses."""
        tensors = {}
        for case, held in self.of_case.items():
            voxels = np.flatnonzero(held != IGNORE)
            facts = {"shape": np.array(held.shape), "voxels": voxels, "classes": held.ravel()[voxels]}
            tensors |= {f"{case}/{name}": torch.from_numpy(fact) for name, fact in facts.items()}
        save_tensors(file, tensors)

    def take(self, case: TrainingCase) -> None:
        """Take strokes out of a case's annotation; one that was changed loses those again that are still in it."""
        if case.annotation is None or case.is_dense:
            return
        annotation = case.annotation.cpu().numpy()
        before = self.of_case.get(case.id)
        if before is not None and before.shape == annotation.shape:
            held = np.where(annotation == before, before, IGNORE).astype(np.uint8)
        else:
            numbers = np.random.default_rng((self.seed, zlib.crc32(case.id.encode())))
            held = choose_strokes(annotation, numbers)
        self.of_case[case.id] = held
        case.annotate(np.where(held == IGNORE, annotation, np.uint8(IGNORE)))

    def withhold(self, case_id: str, proposals: np.ndarray) -> np.ndarray:
        """Accepted proposals without those that grew from a held-out stroke, or may have: every piece that touches one.

        Parameters
        ----------
        case_id : str
            A case whose strokes were taken before.
        proposals : numpy.ndarray of uint8, shape (k, j, i)
            Class indices, 255 for voxels that aren't proposals.
        """
        held = self.of_case.get(case_id)
        if held is None:
            return proposals
        left = np.where(held == IGNORE, proposals, np.uint8(IGNORE))
        for label in np.unique(held[held != IGNORE]):
            pieces = ndimage.label((left == label) | (held == label), structure=np.ones((3,) * held.ndim))[0]
            left[(left == label) & np.isin(pieces, np.unique(pieces[held == label]))] = IGNORE
        return left

    @property
    def exist(self) -> bool:
        """Whether there is anything to measure."""
        return any((held != IGNORE).any() for held in self.of_case.values())

    def agreement(
        self, predictor: Predictor, images: Mapping[str, torch.Tensor], on_window: Callable[[float], None]
    ) -> float:
        """Share of held-out voxels that are predicted right, averaged over classes.

        Parameters
        ----------
        images : mapping of str to torch.Tensor
            The cases' images on the plan's grid.
        """
        right, total = np.zeros(IGNORE), np.zeros(IGNORE)
        for name, held in self.of_case.items():
            known = held != IGNORE
            if not known.any():
                continue
            labels = winners(predictor.on_plan_grid(images[name].to(predictor.device), on_window), dim=0).cpu().numpy()
            total += np.bincount(held[known], minlength=IGNORE)
            right += np.bincount(held[known & (labels == held)], minlength=IGNORE)
        return float((right[total > 0] / total[total > 0]).mean()) if total.any() else float("nan")


def _read(file: Path) -> dict[str, np.ndarray]:
    """What `HeldOutStrokes.save` wrote."""
    try:
        tensors = load_tensors(file)
        of_case = {}
        for case in {name.rpartition("/")[0] for name in tensors}:
            shape, voxels, classes = (tensors[f"{case}/{name}"].numpy() for name in ("shape", "voxels", "classes"))
            of_case[case] = np.full(shape, IGNORE, np.uint8)
            of_case[case].ravel()[voxels] = classes
        return of_case
    except (ModelError, KeyError, IndexError, ValueError) as error:
        raise RunError(f"Which strokes are held out can't be read in '{file}'.", "Start a new run.") from error


def choose_strokes(annotation: np.ndarray, numbers: np.random.Generator) -> np.ndarray:
    """The strokes to hold out, 255 elsewhere.

    A stroke is a component of a class, corners connect. A class of fewer than three strokes keeps all; else one of them
    is drawn that has at most a third of the class's voxels.
    """
    held = np.full_like(annotation, IGNORE)
    for label in np.flatnonzero(np.bincount(annotation.ravel(), minlength=256)[:IGNORE]):
        strokes, count = ndimage.label(annotation == label, structure=np.ones((3,) * annotation.ndim))
        if count >= _FEWEST_STROKES:
            sizes = np.bincount(strokes.ravel())[1:]
            small = np.flatnonzero(sizes <= sizes.sum() * _LARGEST_SHARE)
            held[strokes == 1 + numbers.choice(small)] = label
    return held
