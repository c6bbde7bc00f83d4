"""How much of each class the teacher finds in every scan, and how far that is from what annotated scans have of it."""

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
"""By which the odds of a class are raised at most, or lowered."""

_LITTLE = 1.0
"""Cubic millimetres that are added to volumes, so that nothing is divided by 0."""


@dataclass
class Scan:
    """What is remembered of a scan.

    Attributes
    ----------
    labels : torch.Tensor
        ``(n,)`` uint8: which class each superpixel was thought to be when a patch last showed it, 255 before.
    volumes : torch.Tensor
        ``(C + 1,)`` float64: cubic millimetres of each class, and of what no patch has shown yet.
    is_annotated : bool
        Whether the scan has strokes or a dense label.
    """

    labels: Tensor
    volumes: Tensor
    is_annotated: bool

    def to_json(self) -> dict[str, Any]:
        """JSON values from which `from_json` makes the same."""
        packed = base64.b64encode(zlib.compress(self.labels.cpu().numpy().tobytes())).decode("ascii")
        return {"labels": packed, "volumes": self.volumes.tolist(), "is_annotated": self.is_annotated}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Self:
        """The scan from JSON values."""
        labels = np.frombuffer(zlib.decompress(base64.b64decode(body["labels"])), dtype=np.uint8)
        volumes = torch.tensor(body["volumes"], dtype=torch.float64)
        return cls(torch.from_numpy(labels.copy()), volumes, bool(body["is_annotated"]))


class ClassVolumes:
    """Remembers what the teacher found in each scan, and tells where that is less than in any annotated one, or more.

    In scans that differ from the annotated ones a teacher may find less and less of an object, or more and more, since
    its student learns from what it finds. In annotated scans strokes prevent that, so these tell how much there should
    be. Of distribution alignment (Berthelot et al. 2020, arXiv 1911.09785) this is a variant for each scan that
    demands nothing of usual volumes: those in the annotated scans' range, widened to twice its length on a scale of
    logarithms (for four normal numbers, that is where 86 % of all others lie). Some objects are always about as large,
    others aren't.
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
            sizes = self._sizes_of(case, label.device)
            if case.id in self.scans:
                labels = self.scans[case.id].labels.to(label.device)
            else:
                labels = torch.full((len(sizes),), IGNORE, dtype=torch.uint8, device=label.device)
            inside = rows >= 0
            labels[ids[inside].long()] = label[rows[inside]].to(torch.uint8)
            voxels = sizes.new_zeros(IGNORE + 1).index_add_(0, labels.long(), sizes)
            voxel = math.prod(case.geometry.spacing)
            volumes = torch.cat([voxels[: self.n_classes], voxels[IGNORE:]]).double() * voxel
            self.scans[case.id] = Scan(labels, volumes, case.annotation is not None)

    def odds(self, cases: Sequence[TrainingCase]) -> Tensor | None:
        """By what the odds of each class should be multiplied in scans that were looked at.

        Returns
        -------
        torch.Tensor or None
            ``(B, C)`` float64: the smallest usual volume over that of the scan where that is smaller still, or the
            largest where it is larger; the nearer to 1 the less of the scan was seen so far; 1 for background and in
            annotated scans. None where that is all.
        """
        annotated = [self.scans[name].volumes for name in sorted(self.scans) if self.scans[name].is_annotated]
        unlabeled = [case for case in cases if case.annotation is None]
        if not annotated or not unlabeled:
            return None
        device = self.scans[unlabeled[0].id].volumes.device
        low, high = torch.stack([volumes.to(device) for volumes in annotated]).aminmax(dim=0)
        margin = ((high + _LITTLE) / (low + _LITTLE)).sqrt()
        odds = low.new_ones(len(cases), self.n_classes)
        for row, case in zip(odds, cases, strict=True):
            if case.annotation is None:
                found = self.scans[case.id].volumes
                seen = 1 - found[-1] / found.sum()
                usual = found.clamp(low / margin, high * margin)
                ratio = (usual + _LITTLE) / (found + _LITTLE)
                row[1:] = ratio[1:-1].pow(seen).clamp(1 / MOST, MOST)
        return odds

    def _sizes_of(self, case: TrainingCase, device: torch.device) -> Tensor:
        """How many voxels each superpixel of a case has, ``(n,)`` int64."""
        if case.id not in self._sizes:
            self._sizes[case.id] = torch.bincount(case.superpixels.reshape(-1)).to(device)
        return self._sizes[case.id]

    def state(self) -> dict[str, Any]:
        """What is remembered, as JSON values."""
        return {name: scan.to_json() for name, scan in self.scans.items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.scans = {name: Scan.from_json(body) for name, body in state.items()}
