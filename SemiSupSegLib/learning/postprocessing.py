"""What may be done to a label map after prediction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects, label, maximum_filter

_COUNTED_AT_ONCE = 8_000_000
_LEAST_WEIGHT = 0.05
"""A speck in the right place must not win over a structure that lies elsewhere for once."""

AxisWeights = tuple[NDArray, ...]
"""A vector an axis; a voxel's weight is the product of its numbers."""


def largest_component(mask: NDArray, weights: AxisWeights | None = None) -> NDArray:
    """The largest 6-connected (in 2D 4-connected) component of a mask.

    Parameters
    ----------
    mask : numpy.ndarray
        ``(k, j, i)`` or ``(j, i)``; whatever isn't 0 belongs to the mask.
    weights : tuple of numpy.ndarray, optional
        What voxels weigh, and no less than a twentieth; 1 if not given.

    Returns
    -------
    numpy.ndarray
        Bool, of the same shape. Of components of one size the first in array order; an empty mask
        stays empty.

    Examples
    --------
    >>> largest_component(np.array([[1, 0, 1, 1]])).astype(int)
    array([[0, 0, 1, 1]])
    """
    mask = np.asarray(mask).astype(bool, copy=False)
    components, n_components = label(mask)
    if n_components < 2:
        return mask.copy()
    sizes = _sizes(components, n_components) if weights is None else _weighted_sizes(components, n_components, weights)
    sizes[0] = -1
    return components == sizes.argmax()


def _sizes(components: NDArray, count: int) -> NDArray:
    sizes = np.zeros(count + 1, dtype=np.int64)
    flat = components.reshape(-1)
    for start in range(0, flat.size, _COUNTED_AT_ONCE):  # counting makes a copy of 8 bytes a voxel
        sizes += np.bincount(flat[start : start + _COUNTED_AT_ONCE], minlength=count + 1)
    return sizes


def _weighted_sizes(components: NDArray, count: int, weights: AxisWeights) -> NDArray:
    sizes = np.zeros(count + 1)
    first, *others = weights
    of_slice = np.outer(*others) if len(others) == 2 else others[0]
    for index, weight in enumerate(first):
        sizes += weight * np.bincount(components[index].ravel(), of_slice.ravel(), minlength=count + 1)
    return _LEAST_WEIGHT * _sizes(components, count) + (1 - _LEAST_WEIGHT) * sizes


def main_piece(mask: NDArray, reach: Sequence[int], weights: AxisWeights | None = None) -> NDArray:
    """The largest component of a mask, and what of the mask continues it beyond a gap.

    Parameters
    ----------
    mask : numpy.ndarray
        Bool, ``(k, j, i)`` or ``(j, i)``.
    reach : sequence of int
        Voxels, along each axis, by which components are widened: those that then touch are one piece. 0 widens none.
    weights : tuple of numpy.ndarray, optional
        See `largest_component`.

    Returns
    -------
    numpy.ndarray
        Bool, of the same shape.

    Examples
    --------
    >>> main_piece(np.array([[1, 1, 0, 0, 1, 0, 0, 0, 1]], dtype=bool), (0, 1)).astype(int)
    array([[1, 1, 0, 0, 1, 0, 0, 0, 0]])
    """
    largest = largest_component(mask, weights)
    if not any(reach) or np.array_equal(largest, mask):
        return largest
    place = largest.argmax()
    del largest  # what is left of memory is for the pieces, four bytes a voxel
    widened = maximum_filter(mask.view(np.uint8), size=[2 * each + 1 for each in reach], mode="constant")
    pieces, _ = label(widened)
    del widened
    kept = pieces == pieces.flat[place]
    kept &= mask
    return kept


def keep_largest_components(
    labels: NDArray,
    classes: Iterable[int],
    reach: Sequence[int] | None = None,
    weights: Callable[[int], AxisWeights | None] = lambda label: None,
) -> NDArray:
    """A label map in which each of some classes keeps only its largest component.

    Parameters
    ----------
    labels : numpy.ndarray
        ``(k, j, i)`` or ``(j, i)`` class indices; not changed.
    classes : iterable of int
        The classes to clean. What they lose becomes background (0).
    reach : sequence of int, optional
        See `main_piece`: gaps of up to twice as many voxels part nothing. None do if not given.
    weights : callable, optional
        Class to what its voxels weigh.

    Returns
    -------
    numpy.ndarray
        A new label map of the same type.
    """
    cleaned = np.array(labels)
    boxes = find_objects(cleaned)
    for index in set(classes):
        box = boxes[index - 1] if 0 < index <= len(boxes) else None
        if box is None:
            continue
        region = cleaned[box]
        mask = region == index
        of_class = weights(index)
        here = of_class and tuple(each[axis] for each, axis in zip(of_class, box, strict=True))
        region[mask & ~main_piece(mask, reach or (0,) * mask.ndim, here)] = 0
    return cleaned
