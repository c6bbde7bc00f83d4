"""What a cohort's images look like: the grids and grey values that a plan is derived from."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..cohort import Case, Cohort, Role
from ..errors import CohortError, ErrorCode
from ..volume import check_image, read_geometry
from .array_cache import ArrayCache

_SAMPLED_CASES = 20
_CASES_TO_KNOW_CT = 3
_SAMPLED_VOXELS = 20_000
_AIR = -500
"""Hounsfield units below which there is only air: other scanners' images have no such values."""


@dataclass(frozen=True)
class Fingerprint:
    """What the plan is derived from: the training images' grids and grey values.

    Attributes
    ----------
    spacings, sizes : numpy.ndarray
        ``(cases, 3)``, in order (i, j, k), mm and voxels.
    intensities : numpy.ndarray
        A sample of grey values of all cases, float32.
    is_ct : bool
        Whether the grey values look like Hounsfield units.
    """

    spacings: np.ndarray
    sizes: np.ndarray
    intensities: np.ndarray
    is_ct: bool


def read_fingerprint(
    cohort: Cohort,
    on_progress: Callable[[float, str], None] = lambda fraction, text: None,
    cache: ArrayCache | None = None,
) -> Fingerprint:
    """The fingerprint of a cohort's training cases; grey values from at most twenty of them, annotated ones first.

    Only CT is normalised by the cohort's grey values: as soon as a few images show that it is none, no more are read.

    Parameters
    ----------
    cache : ArrayCache, optional
        Of the samples: images that are in it aren't read.

    Raises
    ------
    CohortError
        If there is no training case.
    """
    cases = list(cohort.cases_of(Role.TRAIN))
    if not cases:
        raise CohortError(
            "The cohort has no training case.",
            "Give at least one annotated case the role 'train'.",
            code=ErrorCode.NO_ANNOTATION,
        )
    cache = cache or ArrayCache()
    geometry_of = {case.id: read_geometry(case.image) for case in cases}
    cases.sort(key=lambda case: not case.annotated)
    sampled: list[np.ndarray] = []
    for index, case in enumerate(cases[:_SAMPLED_CASES]):
        if index == _CASES_TO_KNOW_CT and all(values.min() > _AIR for values in sampled):
            break
        on_progress(index / min(len(cases), _SAMPLED_CASES), "Looking at the images")
        count = min(math.prod(geometry_of[case.id].size), _SAMPLED_VOXELS)
        sampled.append(
            cache.get(
                case.image, "sample", count, partial(_sample, cohort, case, count), shape=(count,), dtype=np.float32
            )
        )
    intensities = np.concatenate(sampled)
    return Fingerprint(
        spacings=np.array([geometry.spacing for geometry in geometry_of.values()]),
        sizes=np.array([geometry.size for geometry in geometry_of.values()]),
        intensities=intensities,
        is_ct=bool(np.median([values.min() for values in sampled]) <= _AIR and np.ptp(intensities) > 1000),
    )


def _sample(cohort: Cohort, case: Case, count: int) -> np.ndarray:
    """So many of an image's grey values, float32."""
    volume = cohort.read_image(case)
    check_image(volume, case.id)
    values = volume.array.reshape(-1)
    # At uneven distances: a whole number of rows apart would always be the same columns.
    chosen = np.linspace(0, values.size - 1, count).astype(np.int64)
    return values[chosen].astype(np.float32)
