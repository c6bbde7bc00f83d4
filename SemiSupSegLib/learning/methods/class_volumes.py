"""How much of each class the teacher finds in every scan, and what annotated scans say about that."""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from ...labels import IGNORE
from ..cases import TrainingCase
from ..sampling import Batch

MOST = 4.0
"""By which a class's probability is raised at most, or lowered, before all are made to sum to 1; no other was tried."""
FEWEST = 3
"""Annotated scans that tell what is usual; from fewer nobody can say how much scans differ."""


@dataclass
class Scan:
    """What is remembered of a scan.

    Attributes
    ----------
    labels : torch.Tensor
        ``(n,)`` uint8: which class each superpixel was thought to be when a patch last showed it, 255 before.
    volumes : torch.Tensor
        ``(C + 1,)`` float64, on the CPU: cubic millimetres of each class, and of what no patch has shown yet.
    strokes : tuple of int
        The classes that are annotated in the scan; none where it isn't annotated.
    """

    labels: Tensor
    volumes: Tensor
    strokes: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """JSON values from which `from_json` makes the same."""
        packed = base64.b64encode(zlib.compress(self.labels.cpu().numpy().tobytes())).decode("ascii")
        return {"labels": packed, "volumes": self.volumes.tolist(), "strokes": list(self.strokes)}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Self:
        """The scan from JSON values."""
        labels = np.frombuffer(zlib.decompress(base64.b64decode(body["labels"])), dtype=np.uint8)
        volumes = torch.tensor(body["volumes"], dtype=torch.float64)
        return cls(torch.from_numpy(labels.copy()), volumes, tuple(body["strokes"]))


class ClassVolumes:
    """Remembers what the teacher found in each scan, and tells where that is less than usual, or more.

    In scans that differ from the annotated ones a teacher may find less and less of an object, or more and more, since
    its student learns from what it finds. In annotated scans strokes prevent that, so these tell what is usual: volumes
    in their range, widened to twice its length on a scale of logarithms (three normal numbers predict so where 76 % of
    all others lie, four 86 %, five 91 %). This is distribution alignment (Berthelot et al. 2020, arXiv 1911.09785) of
    each scan by itself, which demands nothing where a volume is usual.
    """

    def __init__(self, n_classes: int):
        self.n_classes = n_classes
        self.scans: dict[str, Scan] = {}
        self._sizes: dict[str, Tensor] = {}

    def update(self, batch: Batch, of_voxel: Tensor, label: Tensor) -> None:
        """Look at a batch.

        Parameters
        ----------
        batch : Batch
            With cases and superpixels.
        of_voxel : torch.Tensor
            ``(B, *spatial)``: the row of each voxel's superpixel, -1 outside the image.
        label : torch.Tensor
            ``(n,)``: the class of each row's superpixel.
        """
        for case, rows, ids in zip(batch.cases, of_voxel, batch.superpixels, strict=True):
            sizes, inside = self._sizes_of(case), rows >= 0
            labels = self._labels_of(case, len(sizes))
            labels[ids[inside].long().to(labels.device)] = label[rows[inside]].to(labels)
            voxels = sizes.new_zeros(IGNORE + 1).index_add_(0, labels.long(), sizes)
            volumes = torch.cat([voxels[: self.n_classes], voxels[IGNORE:]]).cpu().double() * _voxel(case)
            self.scans[case.id] = Scan(labels, volumes, tuple(case.counts))

    def factors(self, cases: Sequence[TrainingCase], classes: Sequence[int]) -> Tensor | None:
        """By what the probabilities of some classes should be multiplied in scans that were looked at.

        Parameters
        ----------
        cases : sequence of TrainingCase
            The scans.
        classes : sequence of int
            Objects that every scan holds one of.

        Returns
        -------
        torch.Tensor or None
            ``(B, C)`` float64, on the CPU: the nearest usual volume over that of the scan, between 1/4 and 4, and the
            nearer to 1 the less of the scan was seen so far. 1 in annotated scans, for other classes, and for those
            that an annotated scan has no strokes of. None where all are 1.
        """
        annotated = [self.scans[name] for name in sorted(self.scans) if self.scans[name].strokes]
        told = [label for label in classes if all(label in scan.strokes for scan in annotated)]
        if len(annotated) < FEWEST or not told:
            return None
        volumes = torch.stack([scan.volumes for scan in annotated])
        found, unseen = volumes[:, told], volumes[:, -1:]
        # What wasn't seen of an annotated scan may be of any class: in 2D, slices without strokes are never drawn.
        low, high = found.amin(dim=0), (found + unseen).amax(dim=0)
        factors = torch.ones(len(cases), self.n_classes, dtype=torch.float64)
        for row, case in zip(factors, cases, strict=True):
            own = self.scans[case.id].volumes
            if case.annotation is None:
                row[told] = _towards(low, high, own[told], _voxel(case)) ** (1 - own[-1] / own.sum())
        return None if (factors == 1).all() else factors

    def _labels_of(self, case: TrainingCase, n_superpixels: int) -> Tensor:
        """What is remembered of a case's superpixels; nothing where they aren't those of before."""
        known = self.scans.get(case.id)
        device = case.superpixels.device
        if known is not None and len(known.labels) == n_superpixels:
            return known.labels.to(device)
        return torch.full((n_superpixels,), IGNORE, dtype=torch.uint8, device=device)

    def _sizes_of(self, case: TrainingCase) -> Tensor:
        """How many voxels each superpixel of a case has, ``(n,)`` int64."""
        device = case.superpixels.device
        if case.id not in self._sizes:
            self._sizes[case.id] = torch.bincount(case.superpixels.reshape(-1))
        self._sizes[case.id] = self._sizes[case.id].to(device)
        return self._sizes[case.id]

    def state(self) -> dict[str, Any]:
        """What is remembered, as JSON values."""
        return {name: scan.to_json() for name, scan in self.scans.items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.scans = {name: Scan.from_json(body) for name, body in state.items()}


def _towards(low: Tensor, high: Tensor, found: Tensor, little: float) -> Tensor:
    """The nearest volume that is usual after a range of annotated scans, over what was found; `little` avoids zeros."""
    low, high, found = low + little, high + little, found + little
    margin = (high / low).sqrt()
    return (found.clamp(low / margin, high * margin) / found).clamp(1 / MOST, MOST)


def _voxel(case: TrainingCase) -> float:
    """A voxel's cubic millimetres."""
    return math.prod(case.geometry.spacing)
