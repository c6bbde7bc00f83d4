"""Where in a scan a look pays most."""

from __future__ import annotations

import numpy as np


def uncertain_slices(doubt: np.ndarray, count: int = 5, distance: int = 3) -> list[tuple[int, float]]:
    """The slices of a scan where a look pays most.

    Parameters
    ----------
    doubt : numpy.ndarray, shape (k,)
        Sum of the uncertainty, 0..1 a voxel, over each slice.
    count : int
        At most so many slices.
    distance : int
        Slices that are no farther apart look alike; only the most uncertain of them counts.

    Returns
    -------
    list of (int, float)
        Index k and sum of the uncertainty over the slice in voxels, most uncertain first; none without uncertainty.

    Examples
    --------
    >>> uncertain_slices(np.array([0.0, 5.0, 6.0, 0.0, 0.0, 0.0, 2.0]), count=2)
    [(2, 6.0), (6, 2.0)]
    """
    chosen: list[tuple[int, float]] = []
    for k in np.argsort(-doubt, kind="stable"):
        if len(chosen) == count or doubt[k] <= 0:
            break
        if all(abs(int(k) - other) > distance for other, _ in chosen):
            chosen.append((int(k), float(doubt[k])))
    return chosen
