"""From one grid onto another, by physical coordinates: images, probabilities and labels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from .geometry import Geometry, Volume, bad_geometry, mapped, to_simpleitk
from .labels import IGNORE

# Voxel centres that lie on a face between two voxels, give or take rounding, belong to the upper one.
_ON_FACE = 1e-6

TRUNCATE = 3.0
"""How many standard deviations the smoothing of `resample_image` reaches."""


def resample_image(volume: Volume, geometry: Geometry) -> Volume:
    """Bring an image onto another grid, by physical coordinates.

    Linear interpolation. Along axes that become coarser the image is smoothed first, so that the profile of a target
    voxel has the width of a target voxel (Gaussian, full width at half maximum; Cardoso et al. 2015). Beyond the edge
    the image goes on with its outermost values.

    Parameters
    ----------
    volume : Volume
    geometry : Geometry
        The grid wanted.

    Returns
    -------
    Volume
        float32. On the same grid the values are unchanged.

    References
    ----------
    Cardoso et al., "Scale factor point spread function matching: beyond aliasing in image resampling", MICCAI 2015.
    """
    array = np.asarray(volume.array, dtype=np.float32)
    if volume.geometry.same_grid(geometry):
        return Volume(array, geometry)
    sigmas = smoothing(volume.geometry, geometry)
    if any(sigmas):
        array = ndimage.gaussian_filter(array, sigmas, mode="nearest", truncate=TRUNCATE)
    return Volume(_interpolated(array, volume.geometry, geometry), geometry)


def smoothing(source: Geometry, target: Geometry) -> list[float]:
    """Standard deviations in voxels, (k, j, i), with which `resample_image` smooths; 0 where nothing gets coarser."""
    steps = np.abs(target.index_map(source)[:3, :3]).max(axis=1)[::-1]
    half_width = 2 * math.sqrt(2 * math.log(2))
    return [math.sqrt(step * step - 1) / half_width if step > 1 + 1e-3 else 0.0 for step in steps]


def resample_probabilities(array: np.ndarray, source: Geometry, target: Geometry) -> np.ndarray:
    """Bring a network's probabilities onto another grid: linear, channel by channel.

    Parameters
    ----------
    array : numpy.ndarray of float32, shape (C, k, j, i)
    source : Geometry
        The grid of `array`.
    target : Geometry
        The grid wanted. Beyond the edge of `source` its outermost values go on: there is no border of zeros.

    Returns
    -------
    numpy.ndarray of float32, shape (C, k, j, i)
        Sums over the channels are kept. On the same grid: `array` itself.
    """
    if array.ndim != 4 or array.shape[1:] != source.shape:
        raise bad_geometry(f"Probabilities of shape {array.shape} don't fit a grid of shape {source.shape}.")
    array = np.asarray(array, dtype=np.float32)
    if source.same_grid(target):
        return array
    result = np.empty((len(array), *target.shape), dtype=np.float32)
    for channel, values in enumerate(array):
        result[channel] = _interpolated(values, source, target)
    return result


def resample_labels(labels: np.ndarray, source: Geometry, target: Geometry) -> np.ndarray:
    """Bring class indices onto another grid without losing thin strokes.

    Nearest-neighbour resampling asks for every target voxel "which source voxel is at your centre?" and so loses nearly
    all of a thin scribble. Here every annotated source voxel votes for the target voxel that contains its centre:

    - the class with most votes wins, however many voxels around it aren't annotated;
    - where the best classes have equally many votes, the target voxel is not annotated;
    - a target voxel that contains the centre of no source voxel, because its grid is finer, takes the class of the
      source voxel that contains *its* centre.

    Parameters
    ----------
    labels : numpy.ndarray of uint8, shape (k, j, i)
        Class indices; 255 (`IGNORE`) is "not annotated".
    source, target : Geometry
        Grid of `labels` and the grid wanted; any orientation.

    Returns
    -------
    numpy.ndarray of uint8, shape (k, j, i)
        255 where nothing was annotated, contradictory, or outside `source`.
    """
    labels = np.asarray(labels)
    if labels.shape != source.shape or labels.dtype != np.uint8:
        raise bad_geometry(f"Labels of shape {labels.shape}, {labels.dtype}, don't fit a uint8 grid of {source.shape}.")
    if source.same_grid(target):
        return labels.copy()
    present = np.flatnonzero(np.bincount(labels.ravel(), minlength=256)[:IGNORE])
    if not len(present):
        return np.full(target.shape, IGNORE, dtype=np.uint8)
    pairs = _axis_pairs(source, target)
    if pairs is not None:
        return _splat_aligned(labels, present, pairs, target)
    return _splat_oblique(labels, present, source, target)


def _interpolated(array: np.ndarray, source: Geometry, target: Geometry) -> np.ndarray:
    """Linear interpolation of float32 (k, j, i), clamped at the edges."""
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize(target.size)
    resampler.SetOutputSpacing(target.spacing)
    resampler.SetOutputOrigin(target.origin)
    resampler.SetOutputDirection(target.direction)
    resampler.SetInterpolator(sitk.sitkLinear)
    resampler.UseNearestNeighborExtrapolatorOn()
    return sitk.GetArrayFromImage(resampler.Execute(to_simpleitk(Volume(array, source))))


@dataclass(frozen=True)
class _AxisPairs:
    """Which voxels along one target axis meet which along the source axis that runs along it, sorted by target."""

    source_axis: int  # of the array (k, j, i)
    sources: np.ndarray
    targets: np.ndarray


def _axis_pairs(source: Geometry, target: Geometry) -> list[_AxisPairs] | None:
    """The pairs of each target axis in array order (k, j, i); None where the axes of the grids aren't parallel."""
    forward = source.index_map(target)
    matrix = forward[:3, :3]
    source_axes = np.abs(matrix).argmax(axis=1)
    # Parallel: whatever else an axis contributes stays below a thousandth of a voxel over the whole grid.
    rest = np.abs(matrix) * source.size
    rest[np.arange(3), source_axes] = 0
    if len(set(source_axes)) < 3 or rest.sum(axis=1).max() > 1e-3:
        return None
    pairs = []
    for axis in (2, 1, 0):
        along = int(source_axes[axis])
        scale, offset = matrix[axis, along], forward[axis, 3]
        sources = np.arange(source.size[along])
        targets = np.floor(sources * scale + offset + 0.5 + _ON_FACE).astype(np.int64)
        # Where the target is finer, its voxels between the hit ones ask back.
        missed = np.setdiff1d(np.arange(target.size[axis]), targets)
        asked = np.floor((missed - offset) / scale + 0.5 + _ON_FACE).astype(np.int64)
        sources, targets = np.concatenate([sources, asked]), np.concatenate([targets, missed])
        inside = (targets >= 0) & (targets < target.size[axis]) & (sources >= 0) & (sources < source.size[along])
        sources, targets = sources[inside], targets[inside]
        order = np.argsort(targets, kind="stable")
        pairs.append(_AxisPairs(2 - along, sources[order], targets[order]))
    return pairs


def _splat_aligned(labels: np.ndarray, present: np.ndarray, pairs: list[_AxisPairs], target: Geometry) -> np.ndarray:
    """`resample_labels` for parallel axes: slab by slab of target slices, so that memory stays small."""
    slices, rows, columns = pairs
    labels = labels.transpose([each.source_axis for each in pairs])
    result = np.full(target.shape, IGNORE, dtype=np.uint8)
    if all((np.diff(each.targets) > 0).all() for each in pairs):
        # No target voxel gets two votes: nothing becomes coarser.
        chosen = labels[slices.sources][:, rows.sources][:, :, columns.sources]
        result[np.ix_(slices.targets, rows.targets, columns.targets)] = chosen
        return result
    codes = _codes(present)
    plane = target.shape[1] * target.shape[2]
    in_plane = rows.targets[:, None] * target.shape[2] + columns.targets[None, :]
    # At most some 2**23 counters (64 MB) and votes at a time.
    votes_a_slice = max(1, in_plane.size * len(slices.sources) // target.shape[0])
    thickness = max(1, 2**23 // max(plane * (len(present) + 1), votes_a_slice))
    for start in range(0, target.shape[0], thickness):
        stop = min(start + thickness, target.shape[0])
        chosen = slice(*np.searchsorted(slices.targets, (start, stop)))
        votes = labels[slices.sources[chosen]]
        n_annotated = np.count_nonzero(votes != IGNORE)
        if not n_annotated:
            continue
        votes = votes[:, rows.sources][:, :, columns.sources]
        in_slab = (slices.targets[chosen] - start) * plane
        if n_annotated < 0.1 * votes.size:
            k, j, i = np.nonzero(votes != IGNORE)
            voxels, votes = in_slab[k] + in_plane[j, i], votes[k, j, i]
        else:
            voxels = in_slab[:, None, None] + in_plane
        winners = _winners(voxels.ravel(), codes[votes.ravel()], (stop - start) * plane, present)
        result[start:stop] = winners.reshape(stop - start, *target.shape[1:])
    return result


def _splat_oblique(labels: np.ndarray, present: np.ndarray, source: Geometry, target: Geometry) -> np.ndarray:
    """`resample_labels` for grids at any angle to each other."""
    codes = _codes(present)
    n_voxels = math.prod(target.shape)
    hit = np.zeros(n_voxels, dtype=bool)
    tallies = []
    for k in range(source.shape[0]):
        inside, voxels = _containing(_slice_indices(source, k), source.index_map(target), target)
        hit[voxels] = True
        classes = labels[k].ravel()[inside]
        annotated = classes != IGNORE
        tallies.append(np.unique(voxels[annotated] * 256 + codes[classes[annotated]], return_counts=True))
    keys, votes = (np.concatenate(column) for column in zip(*tallies, strict=True))
    result = np.full(n_voxels, IGNORE, dtype=np.uint8)
    voted, positions = np.unique(keys // 256, return_inverse=True)
    result[voted] = _winners(positions, keys % 256, len(voted), present, votes)
    hit = hit.reshape(target.shape)
    result = result.reshape(target.shape)
    for k in range(target.shape[0]):
        missed = np.flatnonzero(~hit[k])
        if len(missed):
            inside, voxels = _containing(_slice_indices(target, k)[missed], target.index_map(source), source)
            result[k].flat[missed[inside]] = labels.ravel()[voxels]
    return result


def _codes(present: np.ndarray) -> np.ndarray:
    """Table from class index to its position in `present`; what isn't annotated goes behind."""
    codes = np.full(256, len(present), dtype=np.int64)
    codes[present] = np.arange(len(present))
    return codes


def _winners(
    voxels: np.ndarray, codes: np.ndarray, n_voxels: int, present: np.ndarray, votes: np.ndarray | None = None
) -> np.ndarray:
    """Class with most votes for each of `n_voxels` voxels; 255 without votes and where two are equal."""
    n_codes = len(present) + 1
    counts = np.bincount(codes * n_voxels + voxels, weights=votes, minlength=n_codes * n_voxels)
    counts = counts.reshape(n_codes, n_voxels)[:-1]
    most = counts.max(axis=0)
    clear = (most > 0) & ((counts == most).sum(axis=0, dtype=np.uint8) == 1)
    return np.where(clear, present[counts.argmax(axis=0)], IGNORE).astype(np.uint8)


def _containing(indices: np.ndarray, index_map: np.ndarray, grid: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Flat voxel of `grid` that contains each point: (which points are inside, their voxels)."""
    found = np.floor(mapped(index_map, indices) + 0.5 + _ON_FACE).astype(np.int64)
    inside = np.flatnonzero(((found >= 0) & (found < grid.size)).all(axis=1))
    i, j, k = found[inside].T
    return inside, (k * grid.size[1] + j) * grid.size[0] + i


def _slice_indices(grid: Geometry, k: int) -> np.ndarray:
    """Indices (n, 3) in order i, j, k of all voxels of slice `k`, as the array holds them."""
    j, i = np.indices(grid.shape[1:]).reshape(2, -1)
    return np.stack([i, j, np.full_like(i, k)], axis=1).astype(float)
