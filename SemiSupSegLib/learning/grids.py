"""From one grid onto another whose axes run the same way: what `resampling` does, by a product with small matrices.

Smoothing and linear interpolation are separable there, and along each axis both together are one banded matrix. On one
core that takes a third to a sixth of the time of a filter and an interpolation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from .. import resampling
from ..volume import Geometry, Volume

_TOLERANCE = 1e-4
"""Voxels that grids may be off each other and still count as running the same way, or as the same."""

_ROWS = 128
"""Rows of a matrix that are multiplied at a time: as it is banded, they need few columns."""


def resample_image(volume: Volume, geometry: Geometry) -> Volume:
    """Bring an image onto another grid: linear, smoothed first along axes that become coarser.

    As `resampling.resample_image`, to rounding; only half a voxel beyond the outermost voxel centres this one still
    interpolates along the other axes, where that one takes the nearest voxel.
    """
    source = volume.geometry
    if source.same_grid(geometry):
        return resampling.resample_image(volume, geometry)
    matrices = _matrices(source, geometry, resampling.smoothing(source, geometry))
    if matrices is None:
        return resampling.resample_image(volume, geometry)
    image = torch.from_numpy(np.require(volume.array, np.float32, ["C", "W"]))
    return Volume(_multiplied(image, matrices).numpy(), geometry)


def resample_probabilities(probabilities: Tensor, source: Geometry, target: Geometry) -> Tensor:
    """Bring probabilities ``(C, k, j, i)`` onto another grid, as `resampling.resample_probabilities`.

    Sums over classes are kept. On the same grid: `probabilities` itself.
    """
    if source.same_grid(target):
        return probabilities
    matrices = _matrices(source, target, (0.0, 0.0, 0.0))
    if matrices is None:
        found = resampling.resample_probabilities(probabilities.cpu().numpy(), source, target)
        return torch.from_numpy(found).to(probabilities.device)
    return torch.stack([_multiplied(each, matrices) for each in probabilities])


def _matrices(source: Geometry, target: Geometry, sigmas: Sequence[float]) -> list[Tensor | None] | None:
    """What smoothing and interpolating do along each array axis (k, j, i), as matrices ``(target, source)``.

    None for an axis along which nothing changes; None instead of all of them if the axes don't run the same way.
    """
    mapping = target.index_map(source)
    scales, offsets = np.diag(mapping)[:3], mapping[:3, 3]
    skew = np.abs(mapping[:3, :3] - np.diag(scales)) @ np.asarray(target.size)
    if skew.max() > _TOLERANCE or scales.min() <= 0:
        return None
    matrices: list[Tensor | None] = []
    for axis, sigma in zip((2, 1, 0), sigmas, strict=True):
        n_source, numbers = source.size[axis], np.arange(target.size[axis])
        places = np.clip(scales[axis] * numbers + offsets[axis], 0, n_source - 1)
        if not sigma and n_source == len(numbers) and np.abs(places - numbers).max() <= _TOLERANCE:
            matrices.append(None)
            continue
        lower = np.minimum(places.astype(int), max(n_source - 2, 0))
        matrix = torch.zeros((len(numbers), n_source), dtype=torch.float64)
        matrix[numbers, lower] = torch.from_numpy(1 - (places - lower))
        if n_source > 1:
            matrix[numbers, lower + 1] = torch.from_numpy(places - lower)
        if sigma:
            unit = np.eye(n_source)
            smooth = ndimage.gaussian_filter1d(unit, sigma, axis=0, mode="nearest", truncate=resampling.TRUNCATE)
            matrix = matrix @ torch.from_numpy(smooth)
        matrices.append(matrix.float())
    return matrices


def _multiplied(image: Tensor, matrices: Sequence[Tensor | None]) -> Tensor:
    """An image ``(k, j, i)`` with a matrix along each axis, that along which it shrinks most first."""
    given = [(axis, matrix) for axis, matrix in enumerate(matrices) if matrix is not None]
    for axis, matrix in sorted(given, key=lambda each: each[1].shape[0] / each[1].shape[1]):
        image = _multiplied_along(image, axis, matrix.to(image.device))
    return image


def _multiplied_along(image: Tensor, axis: int, matrix: Tensor) -> Tensor:
    shape = [*image.shape]
    shape[axis] = len(matrix)
    result = image.new_empty(shape)
    for start in range(0, len(matrix), _ROWS):
        rows = matrix[start : start + _ROWS]
        columns = rows.any(dim=0).nonzero()
        first, size = int(columns[0]), int(columns[-1] - columns[0]) + 1
        part, rows = image.narrow(axis, first, size), rows.narrow(1, first, size)
        ours = result.narrow(axis, start, len(rows))
        if axis == 2:
            ours.copy_(part @ rows.T)
        elif axis == 1:
            ours.copy_(rows @ part)
        else:
            ours.copy_((rows @ part.reshape(size, -1)).view(ours.shape))
    return result
