"""What lies beyond the strokes of background, as seen from the object.

People paint background beside the object, so that a network trained on strokes has seen nothing of what is far away and
finds the object there, too. Measured on eight scans of the left atrium, at 2.5 mm: 65 % of the voxels lie beyond the
strokes, and 99 % of these are background.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import dijkstra

from .propagation import NOT_ANNOTATED, check_grid

_MM_PER_DEVIATION = 33.0
"""A way of so many millimetres is as long as a step of one standard deviation in grey value. From 10 mm to 100 mm, and
without such a term, between 64 and 65 % of the voxels lay beyond the strokes, and 99 % of these were background."""


def beyond_background(
    image: NDArray, scribble: NDArray, ids: NDArray, spacing: tuple[float, float, float], *, ratio: float = 1.5
) -> NDArray:
    """Superpixels that are much nearer to a stroke of background than to any other.

    How near is the length of the shortest way over adjacent superpixels; a step is the longer the more their mean grey
    values differ, and the farther apart their centres lie. Time is that of two runs of Dijkstra's algorithm, and of
    finding the neighbours.

    Parameters
    ----------
    image : numpy.ndarray, shape (K, J, I)
        Grey values, of any scale.
    scribble : numpy.ndarray of uint8, same shape
        Class of each voxel, 255 where nothing is annotated, 0 for background.
    ids : numpy.ndarray of integers, same shape
        Superpixel of each voxel; -1 for none.
    spacing : tuple of float
        Size of a voxel along (i, j, k) in millimetres.
    ratio : float
        How many times as long the way from a stroke of another class must be.

    Returns
    -------
    numpy.ndarray of bool, same shape
        Voxels of such superpixels, of which no stroke touches any. None where background or everything else is
        unpainted: then nobody knows what is far from what.
    """
    check_grid(scribble, ids)
    background, others = scribble == 0, (scribble != 0) & (scribble != NOT_ANNOTATED)
    touched = [np.unique(ids[strokes & (ids >= 0)]) for strokes in (background, others)]
    if not all(len(each) for each in touched):
        return np.zeros(ids.shape, dtype=bool)
    ways = _ways(image, ids, spacing)
    from_background, from_others = (dijkstra(ways, directed=False, indices=each, min_only=True) for each in touched)
    is_beyond = np.isfinite(from_background) & (from_others >= ratio * from_background)
    is_beyond[np.concatenate(touched)] = False
    return is_beyond[ids] & (ids >= 0)


def _ways(image: NDArray, ids: NDArray, spacing: tuple[float, float, float]) -> csr_array:
    """Lengths of the steps between adjacent superpixels, each once, ``(superpixels, superpixels)``."""
    inside = ids >= 0
    own, n_superpixels = ids[inside], int(ids.max()) + 1
    voxels = np.maximum(np.bincount(own, minlength=n_superpixels), 1)

    def mean(values: NDArray) -> NDArray:
        return np.bincount(own, values, n_superpixels) / voxels

    grey = mean(image[inside]) / (float(image[inside].std(dtype=np.float64)) or 1.0)
    first, second = _neighbours(ids, n_superpixels)
    indices = np.ogrid[tuple(slice(size) for size in ids.shape)]
    centres = [
        size * mean(np.broadcast_to(each, ids.shape)[inside]) for each, size in zip(indices, spacing[::-1], strict=True)
    ]
    apart = np.linalg.norm([centre[first] - centre[second] for centre in centres], axis=0)
    length = np.abs(grey[first] - grey[second]) + apart / _MM_PER_DEVIATION
    return coo_array((length, (first, second)), shape=(n_superpixels, n_superpixels)).tocsr()


def _neighbours(ids: NDArray, n_superpixels: int) -> tuple[NDArray, NDArray]:
    """Every pair of superpixels that share a face of a voxel, the smaller id first."""
    pairs = []
    for axis in range(ids.ndim):
        along = np.moveaxis(ids, axis, 0)
        below, above = along[:-1], along[1:]
        differ = (below != above) & (below >= 0) & (above >= 0)
        below, above = below[differ].astype(np.int64), above[differ]
        pairs.append(np.unique(np.minimum(below, above) * n_superpixels + np.maximum(below, above)))
    return np.divmod(np.unique(np.concatenate(pairs)), n_superpixels)
