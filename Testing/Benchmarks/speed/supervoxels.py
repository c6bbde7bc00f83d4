"""SLIC supervoxels against scikit-image and SimpleITK: as many of them, as many iterations, in one piece each.

All three minimise the same distance, with the same compactness on intensities scaled to [0, 1], on voxels taken as
cubes. Ours gets the scan as it is; scaling and blur are in its time. The peers get it scaled, scikit-image blurs it
(that is in its time), for SimpleITK, whose filter doesn't blur, it is blurred beforehand.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

import numpy as np
from scipy import ndimage

from SemiSupSegLib.propagation import oracle_dice
from SemiSupSegLib.superpixels import SuperpixelSettings, compute_superpixels

from .measure import compare, threads
from .rows import Options, Row, attempt_all, require
from .scans import LabeledScan, ct_sized, left_atrium

AIM = 3.0
_GPU_AIM = 50.0
_SAME_NUMBER = 0.1  # relative: no library makes exactly as many as were asked for
_DICE_MARGIN, _RECALL_MARGIN = 0.001, 0.005  # a quality lower by no more than this counts as equal


def rows(options: Options) -> Iterator[Row]:
    """A left atrium and a CT, with one thread and with all."""
    for scan, edge in ((left_atrium, 4), (ct_sized, 5)):
        for count in sorted({1, options.threads}):
            name = f"supervoxels, {'CT' if edge == 5 else 'LA'}, {count} thread{'s' * (count != 1)}"
            yield from attempt_all(
                name,
                "SLIC",
                lambda: _rows(name, scan, edge, count, options),  # noqa: B023
                aim=AIM,
            )


def _rows(name: str, make_scan: Callable[[Options], LabeledScan], edge: int, count: int, options: Options) -> list[Row]:
    forms = {"SimpleITK SLIC": _simpleitk}
    if count == 1:  # scikit-image's knows no threads
        forms["scikit-image slic"] = _scikit_image
    forms = {peer: form for peer, form in forms.items() if options.wants(name, peer)}
    if not forms:
        return []
    settings = SuperpixelSettings(size_mm=float(edge))
    scan = make_scan(options)
    low, high = np.percentile(scan.image, (0.5, 99.5))
    scaled = np.clip((scan.image.astype(np.float32) - low) / (high - low), 0, 1).astype(np.float32)
    peers = {peer: form(scaled, edge, settings) for peer, form in forms.items()}
    ours = _ours(scan.image, settings, options.device)
    with threads(count), cores(count):
        return compare(
            name,
            ours,
            peers,
            check=lambda mine, other: _as_good(mine, other, scan.labels),
            aim=AIM if options.device == "cpu" else _GPU_AIM,
            note=scan.name,
        )


def _ours(image: np.ndarray, settings: SuperpixelSettings, device: str) -> Callable[[], np.ndarray]:
    if device == "cpu":
        return lambda: compute_superpixels(image, (1, 1, 1), settings)
    from SemiSupSegLib.learning.supervoxels import compute_supervoxels

    return lambda: compute_supervoxels(image, (1, 1, 1), settings, device=device)


def _scikit_image(scaled: np.ndarray, edge: int, settings: SuperpixelSettings) -> Callable[[], np.ndarray]:
    segmentation = require("skimage.segmentation", "pip install scikit-image")
    return lambda: segmentation.slic(
        scaled,
        n_segments=round(scaled.size / edge**3),
        compactness=settings.compactness,
        max_num_iter=settings.iterations,
        sigma=settings.sigma,
        enforce_connectivity=True,
        channel_axis=None,
        start_label=0,
    )


def _simpleitk(scaled: np.ndarray, edge: int, settings: SuperpixelSettings) -> Callable[[], np.ndarray]:
    itk = require("SimpleITK", "pip install SimpleITK")
    image = itk.GetImageFromArray(ndimage.gaussian_filter(scaled, settings.sigma))
    return lambda: itk.GetArrayFromImage(
        itk.SLIC(
            image,
            superGridSize=[edge] * 3,
            spatialProximityWeight=settings.compactness,
            maximumNumberOfIterations=settings.iterations,
            enforceConnectivity=True,
            initializationPerturbation=False,
        )
    )


def _as_good(ours: np.ndarray, theirs: np.ndarray, labels: np.ndarray) -> tuple[bool, str]:
    """Whether there are as many, and structures can be cut out of ours as well as out of theirs."""
    qualities = [quality(ids, labels) for ids in (ours, theirs)]
    mine, other = qualities
    equal = (
        abs(mine[0] / other[0] - 1) <= _SAME_NUMBER
        and mine[1] >= other[1] - _DICE_MARGIN
        and mine[2] >= other[2] - _RECALL_MARGIN
    )
    texts = (
        f"{count} supervoxels, oracle Dice {dice:.4f}, boundary recall {recall:.4f}"
        for count, dice, recall in qualities
    )
    return equal, " against ".join(texts)


def quality(ids: np.ndarray, labels: np.ndarray) -> tuple[int, float, float]:
    """Number of superpixels, mean oracle Dice over classes, and boundary recall.

    Boundary recall is taken strictly: the share of the faces between voxels of different classes at which superpixels
    end, too, without the usual tolerance of a voxel or two, within which supervoxels this small nearly always end.
    """
    found = end_together = 0
    for axis in range(3):
        low, high = ((slice(None),) * axis + (part,) for part in (slice(None, -1), slice(1, None)))
        differs = labels[low] != labels[high]
        found += np.count_nonzero(differs)
        end_together += np.count_nonzero(ids[low][differs] != ids[high][differs])
    number = len(np.flatnonzero(np.bincount(ids.reshape(-1))))
    dice = oracle_dice(ids.astype(np.int64, copy=False), labels, int(labels.max()) + 1)
    return number, float(np.nanmean(dice)), end_together / found


@contextlib.contextmanager
def cores(count: int) -> Iterator[None]:
    """Keep this thread, and those that it starts, on so many cores; nothing where the system can't."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, sorted(allowed)[:count])
        yield
    finally:
        os.sched_setaffinity(0, allowed)
