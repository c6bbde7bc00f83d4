"""Superpixels in training: SLIC on any torch device, and what a network thinks of each superpixel."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..connectivity import connect
from ..slic import (
    CANDIDATE_BITS,
    Lattice,
    PackedSums,
    fixed_point_scales,
    initial_centres,
    sampled_offsets,
)
from ..superpixels import (
    SuperpixelSettings,
    checked_spacing,
    lattice_for,
    prepared_levels,
)


class SuperpixelMean(NamedTuple):
    """Means over the superpixels that occur in a batch.

    Attributes
    ----------
    mean : torch.Tensor, shape (N, C)
        Mean of each superpixel, in the order of images and, within an image, of ids.
    index : torch.Tensor of int64, shape (B, *spatial)
        Row of each voxel's superpixel; -1 where there is none.
    count : torch.Tensor of int64, shape (N,)
        Number of voxels of each superpixel.
    """

    mean: Tensor
    index: Tensor
    count: Tensor


@torch.no_grad()
def superpixel_mean(values: Tensor, ids: Tensor) -> SuperpixelMean:
    """Averages values over superpixels: P_s of SP3, with a teacher's probabilities as values.

    Superpixels of different images never mix, also where their ids are equal. Time and memory are
    linear in the number of voxels. No gradient flows.

    Parameters
    ----------
    values : torch.Tensor, shape (B, C, *spatial)
        Values of each voxel, for instance softmax probabilities.
    ids : torch.Tensor of integers, shape (B, *spatial)
        Superpixel of each voxel; negative for none, as in the border fill of an augmentation.

    Returns
    -------
    SuperpixelMean
        In float64 for float64 values, otherwise in float32.

    Examples
    --------
    >>> probabilities = torch.tensor([[[0.0, 1.0, 0.5]]])  # one image, one class, three voxels
    >>> mean, index, count = superpixel_mean(probabilities, torch.tensor([[7, 7, -1]]))
    >>> mean, index, count
    (tensor([[0.5000]]), tensor([[ 0,  0, -1]]), tensor([2]))
    """
    batch, channels = values.shape[:2]
    if ids.shape != (batch, *values.shape[2:]):
        raise ValueError(f"ids of shape {tuple(ids.shape)} don't fit values of shape {tuple(values.shape)}")
    per_image = int(ids.max()) + 1 if ids.numel() else 0
    none = batch * per_image  # one key beyond the last superpixel's
    offsets = per_image * torch.arange(batch, device=ids.device).view(-1, *[1] * (ids.ndim - 1))
    keys = torch.where(ids >= 0, ids + offsets, none).reshape(-1)
    occurring = torch.zeros(none + 1, dtype=torch.bool, device=ids.device)
    occurring[keys] = True
    occurring[none] = False
    number = torch.where(occurring, occurring.cumsum(0) - 1, -1)
    rows = int(occurring.sum())

    index = number[keys]
    target = torch.where(index >= 0, index, rows)
    count = torch.bincount(target, minlength=rows + 1)
    voxels = values.movedim(1, -1).reshape(-1, channels)
    voxels = voxels.to(torch.float64 if values.dtype == torch.float64 else torch.float32)
    sums = voxels.new_zeros(rows + 1, channels).index_add_(0, target, voxels)
    return SuperpixelMean(sums[:rows] / count[:rows, None], index.view(ids.shape), count[:rows])


def compute_supervoxels(
    image: np.ndarray,
    spacing: tuple[float, float, float],
    settings: SuperpixelSettings | None = None,
    *,
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """Cuts an image into superpixels with SLIC on a torch device.

    Computes what `SemiSupSegLib.superpixels.compute_superpixels` computes, in the same whole
    numbers, so that both give the same ids. Connectivity is enforced on the CPU.

    Parameters
    ----------
    image : numpy.ndarray, shape (K, J, I)
        Intensities, of any integer or floating type.
    spacing : tuple of float
        Size of a voxel along (i, j, k) in millimetres.
    settings : SuperpixelSettings, optional
        Size and shape of the superpixels.
    device : torch.device or str
        Where distances are compared.

    Returns
    -------
    ids : numpy.ndarray of int32, shape (K, J, I)
        Superpixel of each voxel, contiguous from 0, each one face-connected piece.

    Raises
    ------
    VolumeError
        If the image isn't a volume, holds no voxels, or holds NaN or infinite values.

    References
    ----------
    Achanta R. et al., "SLIC Superpixels Compared to State-of-the-Art Superpixel Methods", IEEE TPAMI
    34(11), 2012.
    """
    settings = settings or SuperpixelSettings()
    size_kji = checked_spacing(image, spacing)
    levels = prepared_levels(image, size_kji, settings)
    lattice, weights = lattice_for(image.shape, size_kji, settings)
    clustering = _Clustering(levels, lattice, weights, settings.compactness, torch.device(device))
    for _ in range(settings.iterations):
        clustering.update_centres()
    centres = clustering.centres.cpu().numpy()
    return connect(clustering.assign(), levels, centres, lattice.cell_volume, lattice.axes)


class _Clustering:
    """`SemiSupSegLib.slic` on a device: the same integers, summed in any order."""

    def __init__(
        self,
        levels: np.ndarray,
        lattice: Lattice,
        weights: tuple[float, float, float],
        compactness: float,
        device: torch.device,
    ):
        self.lattice = lattice
        self.weights = weights
        self.scale, self.level_scale = fixed_point_scales(lattice, weights, compactness)
        self.device = device
        seeds = lattice.candidate_seeds()
        self.cells = seeds[0].size
        self.seeds = self._upload(seeds).view(-1, self.cells)  # (candidates, cells)
        self.blocks = self._upload(lattice.blocked(levels)).view(*lattice.step, self.cells)
        self.centres = self._upload(initial_centres(levels, lattice))
        self.numbers = torch.arange(self.cells, device=device)

        grid = [np.broadcast_to(lattice.origins_grid(axis), lattice.cells) for axis in range(3)]
        self.origins = [self._upload(np.ascontiguousarray(origins)).view(-1) for origins in grid]
        inside = [self._upload(lattice.inside(axis)) for axis in range(3)]
        self.inside = [  # (step, cells) along each axis
            along.view(-1, *(n if a == axis else 1 for a, n in enumerate(lattice.cells)))
            .expand(-1, *lattice.cells)
            .reshape(-1, self.cells)
            for axis, along in enumerate(inside)
        ]

    def _upload(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def update_centres(self) -> None:
        """One iteration: sampled voxels choose their cluster, centres move to the means."""
        tks, tjs, tis = (sampled_offsets(step) for step in self.lattice.step)
        packing = PackedSums(self.lattice, len(tjs) * len(tis))
        self._prepare_distances()
        sums = torch.zeros((5, *self.seeds.shape), dtype=torch.int64, device=self.device)
        for tk in tks:
            packed = torch.zeros(self.seeds.numel(), dtype=torch.int64, device=self.device)
            for tj in tjs:
                words = self.blocks[tk, tj, tis].long() << packing.level_shift
                words += torch.tensor([packing.word(tj, ti) for ti in tis], device=self.device)[:, None]
                words *= self.inside[0][tk] & self.inside[1][tj] & self.inside[2][tis]
                slots = self._nearest(tk, tj)[tis] * self.cells + self.numbers
                packed.scatter_add_(0, slots.view(-1), words.view(-1))
            for total, part in zip(sums, packing.unpack(packed, tk), strict=True):
                total += part.view(total.shape)
        for axis in range(3):  # from offsets within the cell to voxel coordinates
            sums[2 + axis] += sums[0] * self.origins[axis]
        totals = sums.new_zeros(5, self.lattice.seed_count)
        totals.index_add_(1, self.seeds.view(-1), sums.view(5, -1))
        self.centres = torch.where(totals[0] > 0, totals[1:].double() / totals[0], self.centres)

    def assign(self) -> np.ndarray:
        """The nearest cluster of every voxel, (K, J, I) of int32."""
        self._prepare_distances()
        blocks = torch.empty_like(self.blocks)
        for tk, tj in itertools.product(range(self.lattice.step[0]), range(self.lattice.step[1])):
            slots = self._nearest(tk, tj) * self.cells + self.numbers
            blocks[tk, tj] = self.seeds.view(-1)[slots]
        return self.lattice.unblocked(blocks.cpu().numpy().reshape(*self.lattice.step, *self.lattice.cells))

    def _prepare_distances(self) -> None:
        """The distance's parts: per cell, per offset along one axis, and per level."""
        level, *centre = self.centres[:, self.seeds]
        candidates = torch.arange(len(self.seeds), dtype=torch.int32, device=self.device)[:, None]
        self.slope = _fixed(-2 * self.level_scale * level)
        self.base = _fixed(self.level_scale * level**2) + candidates
        self.along = []  # per axis (step, candidates, cells)
        for axis in range(3):
            offsets = torch.arange(self.lattice.step[axis], device=self.device).view(-1, 1, 1)
            apart = self.weights[axis] * (self.origins[axis] + offsets - centre[axis])
            self.along.append(_fixed(self.scale * apart**2))

    def _nearest(self, tk: int, tj: int) -> Tensor:
        """Index of the nearest candidate at offsets (tk, tj, all ti), (step i, cells) of int64."""
        distance = self.slope * self.blocks[tk, tj][:, None]  # (step i, candidates, cells)
        distance += self.along[2]
        distance += self.base + self.along[0][tk] + self.along[1][tj]
        return distance.amin(1).bitwise_and_(2**CANDIDATE_BITS - 1).long()


def _fixed(distance: Tensor) -> Tensor:
    return distance.round().int() << CANDIDATE_BITS
