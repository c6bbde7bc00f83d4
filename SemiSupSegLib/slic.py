"""SLIC on a lattice: k-means over intensity and place, in numpy alone.

Every voxel lies between the seeds at the corners of one *cell* (8 seeds in 3D, 4 in a slice) and is
compared with those seeds' clusters only, which is the search window of twice the grid step of
Achanta et al. Arrays are kept cell-innermost, so that each numpy call works on thousands of cells at
one offset within the cell. Distances are 32-bit fixed point numbers whose lowest three bits name the
candidate: one minimum yields the distance and the winner, ties always fall the same way, and
sums of integers don't depend on the number of threads.

References
----------
Achanta R. et al., "SLIC Superpixels Compared to State-of-the-Art Superpixel Methods", IEEE TPAMI
34(11), 2012. Subsampled centre updates: Hong I. et al., "A Real-time Energy-Efficient Superpixel
Hardware Accelerator for Mobile Computer Vision Applications", DAC 2016.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

INTENSITY_LEVELS = 1023  # 10 bits: finer than the noise of any scan once it is scaled to [0, 1]
CANDIDATE_BITS = 3
FARTHEST = 2**29  # the largest fixed-point distance: leaves room for sums below 2^31
SAMPLES_PER_AXIS = 8  # a centre is estimated from at most 8^3 voxels of each cell
_MOST_THREADS = 8
_CELLS_PER_CALL = 8192  # keeps one call's arrays within a level-2 cache


@dataclass(frozen=True)
class Lattice:
    """Where the seeds are: a regular grid of them, and the cells between them.

    Along an axis with two candidates, cell ``c`` lies between the seeds ``c - 1`` and ``c``. An axis
    that holds one seed, or one seed per voxel, has one candidate: cell ``c`` belongs to seed ``c``.
    All tuples are in (k, j, i) order.

    Attributes
    ----------
    shape : tuple of int
        Size of the image.
    step : tuple of int
        Distance of two seeds in voxels.
    seeds, cells, candidates : tuple of int
        Number of seeds, of cells, and of seeds that a cell's voxels choose from.
    start : tuple of int
        First voxel of the first cell, zero or negative: border cells reach out of the image.
    """

    shape: tuple[int, int, int]
    step: tuple[int, int, int]
    seeds: tuple[int, int, int]
    cells: tuple[int, int, int]
    candidates: tuple[int, int, int]
    start: tuple[int, int, int]

    @classmethod
    def over(cls, shape: tuple[int, int, int], ideal: tuple[float, float, float]) -> Lattice:
        """The lattice on an image of ``shape`` whose step comes closest to ``ideal`` voxels."""
        axes = [_lattice_axis(extent, step) for extent, step in zip(shape, _whole_steps(shape, ideal), strict=True)]
        return cls(tuple(shape), *zip(*axes, strict=True))

    @property
    def seed_count(self) -> int:
        return math.prod(self.seeds)

    @property
    def cell_volume(self) -> int:
        """Voxels per seed."""
        return math.prod(self.step)

    @property
    def axes(self) -> tuple[int, ...]:
        """Axes along which clusters extend: those with more than one voxel per seed."""
        return tuple(axis for axis, step in enumerate(self.step) if step > 1)

    def candidate_seeds(self) -> np.ndarray:
        """Numbers (C order) of the seeds that each cell's voxels choose from, (candidates, cells k, j, i).

        A candidate beyond the border of the volume is replaced by the last seed before it, which is
        a candidate already: naming it twice changes nothing.
        """
        seeds = []
        for corner in itertools.product(*(range(n) for n in self.candidates)):
            along = [
                np.arange(cells) + shift - (candidates - 1)
                for cells, shift, candidates in zip(self.cells, corner, self.candidates, strict=True)
            ]
            seeds.append(np.ravel_multi_index(np.meshgrid(*along, indexing="ij"), self.seeds, mode="clip"))
        return np.stack(seeds).astype(np.int32)

    def origins(self, axis: int) -> np.ndarray:
        """First voxel of each cell along ``axis``."""
        return self.start[axis] + self.step[axis] * np.arange(self.cells[axis])

    def origins_grid(self, axis: int) -> np.ndarray:
        """The same in a shape that broadcasts against (cells k, j, i)."""
        return self.origins(axis).reshape([-1 if a == axis else 1 for a in range(3)])

    def seed_positions(self, axis: int) -> np.ndarray:
        """Voxel coordinate of each seed along ``axis``: in the middle of what it stands for."""
        if self.candidates[axis] == 2:
            return self.origins(axis)[1:] - 0.5
        return self.origins(axis) + (self.step[axis] - 1) / 2

    def inside(self, axis: int) -> np.ndarray:
        """Whether offset ``t`` of cell ``c`` is in the image, (step, cells) along ``axis``."""
        place = np.arange(self.step[axis])[:, None] + self.origins(axis)
        return (place >= 0) & (place < self.shape[axis])

    def blocked(self, image: np.ndarray) -> np.ndarray:
        """``image`` (K, J, I) as (tk, tj, ti, cells k, j, i): offset in the cell, then cell."""
        margins = [
            (-start, cells * step - extent + start)
            for start, cells, step, extent in zip(self.start, self.cells, self.step, self.shape, strict=True)
        ]
        whole = np.pad(image, margins, mode="edge")
        (nk, nj, ni), (sk, sj, si) = self.cells, self.step
        whole = whole.reshape(nk, sk, nj, sj, ni, si).transpose(1, 3, 5, 0, 2, 4)
        return np.ascontiguousarray(whole)

    def unblocked(self, blocks: np.ndarray) -> np.ndarray:
        """The inverse of `blocked`, without the voxels outside the image."""
        whole = blocks.transpose(3, 0, 4, 1, 5, 2).reshape(
            [cells * step for cells, step in zip(self.cells, self.step, strict=True)]
        )
        inside = (slice(-start, extent - start) for start, extent in zip(self.start, self.shape, strict=True))
        return np.ascontiguousarray(whole[tuple(inside)])


def _whole_steps(shape: tuple[int, ...], ideal: tuple[float, ...]) -> tuple[int, ...]:
    """Rounds steps so that volume and proportions of a cell stay as close to ``ideal`` as possible."""
    wanted = [min(max(step, 1.0), extent) for step, extent in zip(ideal, shape, strict=True)]

    def misfit(steps: tuple[int, ...]) -> float:
        logs = [math.log(step / want) for step, want in zip(steps, wanted, strict=True)]
        return abs(sum(logs)) + 0.5 * sum(map(abs, logs))

    choices = [sorted({math.floor(want), math.ceil(want)}) for want in wanted]
    return min(itertools.product(*choices), key=misfit)


def _lattice_axis(extent: int, step: int) -> tuple[int, int, int, int, int]:
    """(step, seeds, cells, candidates, start) of one axis."""
    seeds = max(1, round(extent / step))
    if seeds == 1:
        return extent, 1, 1, 1, 0
    if step == 1:
        return 1, extent, extent, 1, 0
    start = (extent - seeds * step - step) // 2
    return step, seeds, seeds + 1, 2, start


def fixed_point_scales(
    lattice: Lattice, weights: tuple[float, float, float], compactness: float
) -> tuple[float, float]:
    """What squared offsets, and squared differences of levels, are multiplied by before rounding."""
    farthest = compactness**-2 + sum(
        (2 * step * weight) ** 2 for step, weight in zip(lattice.step, weights, strict=True)
    )
    scale = FARTHEST / 2**CANDIDATE_BITS / farthest
    return scale, scale / (compactness * INTENSITY_LEVELS) ** 2


class PackedSums:
    """How count, tj, ti and level of the voxels in a plane of a cell are summed in one 64-bit word."""

    def __init__(self, lattice: Lattice, samples: int):
        _, step_j, step_i = lattice.step
        self.tj_shift = samples.bit_length()
        self.ti_shift = self.tj_shift + (samples * step_j).bit_length()
        self.level_shift = self.ti_shift + (samples * step_i).bit_length()

    def word(self, tj: int, ti: int) -> int:
        """One voxel at an offset, level zero."""
        return 1 + (tj << self.tj_shift) + (ti << self.ti_shift)

    def unpack(self, packed, tk: int):
        """Count and sums of level, tk, tj, ti."""
        count = packed & ((1 << self.tj_shift) - 1)
        sum_tj = (packed >> self.tj_shift) & ((1 << (self.ti_shift - self.tj_shift)) - 1)
        sum_ti = (packed >> self.ti_shift) & ((1 << (self.level_shift - self.ti_shift)) - 1)
        return count, packed >> self.level_shift, count * tk, sum_tj, sum_ti


def slic(
    levels: np.ndarray,
    lattice: Lattice,
    weights: tuple[float, float, float],
    compactness: float,
    iterations: int,
    on_progress: Callable[[float], None] = lambda fraction: None,
) -> tuple[np.ndarray, np.ndarray]:
    """Clusters an image into at most one cluster per seed of the lattice.

    Parameters
    ----------
    levels : numpy.ndarray of int32, shape (K, J, I)
        Intensities from 0 to `INTENSITY_LEVELS`.
    lattice : Lattice
        Seeds of the clusters.
    weights : tuple of float
        What a step of one voxel along (k, j, i) adds to the distance: spacing / supervoxel size.
    compactness : float
        What intensities, scaled to [0, 1], are divided by before they are compared.
    iterations : int
        Number of centre updates.
    on_progress : callable
        Takes the share that is done, from 0 to 1, several times a second; what it raises ends the work.

    Returns
    -------
    labels : numpy.ndarray of int32, shape (K, J, I)
        Number of each voxel's seed in C order; clusters can be empty and in several pieces.
    centres : numpy.ndarray of float64, shape (4, seeds)
        Mean level and mean position k, j, i of each cluster.
    """
    clustering = _Clustering(levels, lattice, weights, compactness)
    parts = (iterations + 1) * len(clustering.layers)
    done = itertools.count(1)
    clustering.on_part_done = lambda: on_progress(next(done) / parts)
    for _ in range(iterations):
        clustering.update_centres()
    return clustering.assign(), clustering.centres


def initial_centres(levels: np.ndarray, lattice: Lattice) -> np.ndarray:
    """Level and position k, j, i of each seed, shape (4, seeds)."""
    positions = [lattice.seed_positions(axis) for axis in range(3)]
    nearest = [
        np.clip(np.rint(position).astype(int), 0, extent - 1)
        for position, extent in zip(positions, lattice.shape, strict=True)
    ]
    centres = [levels[np.ix_(*nearest)], *np.meshgrid(*positions, indexing="ij")]
    return np.stack(centres).reshape(4, -1).astype(np.float64)


class _Clustering:
    """The state of one run: the image in blocks, and the centres (level, k, j, i) of the clusters."""

    on_part_done: Callable[[], None] = staticmethod(lambda: None)

    def __init__(
        self,
        levels: np.ndarray,
        lattice: Lattice,
        weights: tuple[float, float, float],
        compactness: float,
    ):
        self.lattice = lattice
        self.weights = weights
        self.scale, self.level_scale = fixed_point_scales(lattice, weights, compactness)
        self.blocks = lattice.blocked(levels)
        self.centres = initial_centres(levels, lattice)
        self.seeds = lattice.candidate_seeds()
        self.inside_k, inside_j, inside_i = (lattice.inside(axis) for axis in range(3))
        self.inside_ji = (inside_j[:, None, :, None] & inside_i[None, :, None, :]).astype(np.int64)
        _, cells_j, cells_i = lattice.cells
        depth = max(1, round(_CELLS_PER_CALL / (cells_j * cells_i)))
        self.layers = [slice(low, low + depth) for low in range(0, lattice.cells[0], depth)]

    def update_centres(self) -> None:
        """One iteration: sampled voxels choose their cluster, centres move to the means."""
        sums = np.concatenate(_in_threads(self._sum_layers, self.layers, self.on_part_done), axis=2)
        count, *sums = (np.bincount(self.seeds.reshape(-1), part.reshape(-1), self.lattice.seed_count) for part in sums)
        for centre, total in zip(self.centres, sums, strict=True):
            np.divide(total, count, out=centre, where=count > 0)

    def _sum_layers(self, layers: slice) -> np.ndarray:
        """Count and sums of level, k, j, i of each candidate in ``layers``, (5, candidates, cells k, j, i)."""
        tks, tjs, tis = (sampled_offsets(step) for step in self.lattice.step)
        packing = PackedSums(self.lattice, len(tjs) * len(tis))
        distances = _Distances(self, layers)
        shape = self.seeds[:, layers].shape
        cells = distances.cells
        sums = np.zeros((5, shape[0] * cells), np.int64)
        packed = np.empty(shape[0] * cells, np.int64)
        words = np.empty(shape[1:], np.int64)
        numbers = np.arange(cells)
        for tk in tks:
            packed[:] = 0
            outside = ~self.inside_k[tk, layers]
            for tj, ti in itertools.product(tjs, tis):
                slots = distances.nearest(tk, tj, slice(ti, ti + 1))[0] * np.int64(cells)
                slots += numbers
                np.left_shift(self.blocks[tk, tj, ti, layers], packing.level_shift, out=words, dtype=np.int64)
                words += packing.word(tj, ti)
                words *= self.inside_ji[tj, ti]
                words[outside] = 0
                packed[slots] += words.reshape(-1)  # the slots of one offset are all different
            for total, part in zip(sums, packing.unpack(packed, tk), strict=True):
                total += part
        sums = sums.reshape(5, *shape)
        for axis in range(3):  # from offsets within the cell to voxel coordinates
            sums[2 + axis] += sums[0] * self.lattice.origins_grid(axis)[layers if axis == 0 else slice(None)]
        return sums

    def assign(self) -> np.ndarray:
        """The nearest cluster of every voxel."""
        blocks = np.empty(self.blocks.shape, np.int32)
        _in_threads(lambda layers: self._assign_layers(layers, blocks), self.layers, self.on_part_done)
        return self.lattice.unblocked(blocks)

    def _assign_layers(self, layers: slice, blocks: np.ndarray) -> None:
        distances = _Distances(self, layers)
        seeds = self.seeds[:, layers]
        shape, cells = seeds.shape[1:], distances.cells
        numbers = np.arange(cells)
        rows = max(1, _CELLS_PER_CALL // cells)
        for tk, tj in itertools.product(range(self.lattice.step[0]), range(self.lattice.step[1])):
            for ti in range(0, self.lattice.step[2], rows):
                part = slice(ti, ti + rows)
                slots = distances.nearest(tk, tj, part) * np.int64(cells) + numbers
                blocks[tk, tj, part, layers] = seeds.take(slots).reshape(-1, *shape)


class _Distances:
    """Fixed-point distances of the voxels of some layers of cells to their candidates.

    The distance (level - centre level)^2 + weighted squared offset is split into what depends on
    the cell only, on the offset along one axis only, and on the level: two additions and one
    multiplication per voxel and candidate. The voxel's own squared level is left out, since it
    changes no comparison.
    """

    def __init__(self, clustering: _Clustering, layers: slice):
        lattice = clustering.lattice
        seeds = clustering.seeds[:, layers]
        self.blocks = clustering.blocks
        self.layers = layers
        self.cells = seeds[0].size

        def fixed(distance: np.ndarray) -> np.ndarray:
            whole = np.rint(distance).astype(np.int32) << CANDIDATE_BITS
            return whole.reshape(*whole.shape[:-3], self.cells)

        level, *centre = clustering.centres[:, seeds]
        self.slope = fixed(-2 * clustering.level_scale * level)
        self.base = fixed(clustering.level_scale * level**2)
        self.base += np.arange(len(seeds), dtype=np.int32)[:, None]
        self.along = []  # per axis (step, candidates, cells)
        for axis in range(3):
            origins = lattice.origins_grid(axis)[layers if axis == 0 else slice(None)]
            offsets = np.arange(lattice.step[axis]).reshape(-1, 1, 1, 1, 1)
            apart = clustering.weights[axis] * (origins + offsets - centre[axis])
            self.along.append(fixed(clustering.scale * apart**2))
        self._row = self._in_row = None

    def nearest(self, tk: int, tj: int, ti: slice) -> np.ndarray:
        """Index of the nearest candidate at offsets (tk, tj, ti), shape (len(ti), cells)."""
        if self._row != (tk, tj):
            self._row = (tk, tj)
            self._in_row = self.base + self.along[0][tk] + self.along[1][tj]
        levels = self.blocks[self._row][ti, self.layers].reshape(-1, 1, self.cells)
        distance = self.slope * levels
        distance += self.along[2][ti]
        distance += self._in_row
        nearest = np.minimum.reduce(distance, axis=1)
        nearest &= 2**CANDIDATE_BITS - 1
        return nearest


def sampled_offsets(step: int) -> list[int]:
    """At most `SAMPLES_PER_AXIS` offsets, evenly spread over a cell's edge."""
    samples = min(step, SAMPLES_PER_AXIS)
    return [int((2 * n + 1) * step / (2 * samples)) for n in range(samples)]


def _in_threads(work: Callable, layers: list[slice], on_part_done: Callable[[], None]) -> list:
    """What ``work`` makes of each of the layers; numpy lets go of the interpreter while it computes."""
    results = []
    with ThreadPoolExecutor(min(len(layers), _usable_cores(), _MOST_THREADS)) as threads:
        for result in threads.map(work, layers):
            results.append(result)
            on_part_done()
    return results


def _usable_cores() -> int:
    """Cores that this process may use: fewer than there are in containers and under schedulers."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
