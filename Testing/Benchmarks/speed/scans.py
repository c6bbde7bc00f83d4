"""The scans that are measured on: a real left atrium, and a body on a grid of a CT's size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from SemiSupSegLib.phantom import make_phantom

from .rows import Options

_NOISE = 0.02  # of the intensities' range: enlarging makes a scan smoother than scanners do


@dataclass(frozen=True)
class LabeledScan:
    """A scan and what is seen on it.

    Attributes
    ----------
    name : str
        For people.
    image : numpy.ndarray, shape (k, j, i)
        Intensities.
    labels : numpy.ndarray of uint8, shape (k, j, i)
        Class of each voxel, from 0 without gaps.
    """

    name: str
    image: np.ndarray
    labels: np.ndarray


def left_atrium(options: Options) -> LabeledScan:
    """LA_001 of the left atrium challenge (2.3 million voxels), or a phantom where the data aren't there."""
    shape = options.pick((88, 140, 183), (44, 70, 90), (32, 48, 48))
    if options.data is None or options.tiny:
        phantom = make_phantom(shape, options.seed)
        return LabeledScan(f"phantom {_size(shape)}", phantom.image.array, phantom.labels)
    folder = options.data / "LA" / "train"
    return _cropped(
        "left atrium",
        _read(folder / "images" / "LA_001.nrrd"),
        _read(folder / "labels" / "LA_001_label.nrrd"),
        shape,
    )


def ct_sized(options: Options) -> LabeledScan:
    """The abdominal CT of the data sets, or a phantom, enlarged to 200 slices of 512 x 512, with noise."""
    shape = options.pick((200, 512, 512), (50, 128, 128), (30, 50, 65))
    if options.data is None or options.tiny:
        phantom = make_phantom((15, 25, 32) if options.tiny else (50, 128, 128), options.seed)
        name, image, labels = "phantom", phantom.image.array, phantom.labels
    else:
        folder = options.data / "abdomen_ct"
        name = "abdominal CT"
        image, labels = (_read(folder / f"ts_example_ct{suffix}.nrrd") for suffix in ("", "_label"))
    zoom = [wanted / size for wanted, size in zip(shape, image.shape, strict=True)]
    enlarged = ndimage.zoom(image.astype(np.float32), zoom, order=1, grid_mode=True, mode="nearest")
    spread = _NOISE * float(np.ptp(np.percentile(image, (0.5, 99.5))))
    enlarged += spread * np.random.default_rng(options.seed).standard_normal(shape, dtype=np.float32)
    labels = ndimage.zoom(_without_gaps(labels), zoom, order=0, grid_mode=True, mode="nearest")
    return LabeledScan(f"{name} enlarged to {_size(shape)}", np.rint(enlarged).astype(np.int16), labels)


def _read(path) -> np.ndarray:
    from SemiSupSegLib.volume import read_volume

    return read_volume(path).array


def _cropped(name: str, image: np.ndarray, labels: np.ndarray, shape: tuple[int, int, int]) -> LabeledScan:
    """The middle of a scan."""
    shape = tuple(min(wanted, size) for wanted, size in zip(shape, image.shape, strict=True))
    middle = tuple(
        slice((size - wanted) // 2, (size + wanted) // 2) for wanted, size in zip(shape, image.shape, strict=True)
    )
    return LabeledScan(
        f"{name} {_size(shape)}", np.ascontiguousarray(image[middle]), np.ascontiguousarray(labels[middle])
    )


def _without_gaps(labels: np.ndarray) -> np.ndarray:
    return np.unique(labels, return_inverse=True)[1].reshape(labels.shape).astype(np.uint8)


def _size(shape: tuple[int, int, int]) -> str:
    return "x".join(map(str, shape[::-1]))
