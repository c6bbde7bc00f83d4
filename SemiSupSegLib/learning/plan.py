"""What the data and the device say about how to train: spacing, patch, normalisation, network, batch, precision.

The idea is nnU-Net's (Isensee et al., Nat Methods 2021): rules, not guesses, and nothing tuned to one data set. A plan
is plain data: it stands in ``run.json`` and ``model.json``, is shown to the user, and all of it can be overridden.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from ..errors import ModelError, SettingsError
from ..labels import MAXIMUM_CLASSES
from ..training_settings import TrainingSettings
from ..volume import Volume
from .devices import free_bytes, prefers_bfloat16
from .fingerprint import Fingerprint
from .grids import resample_image

_CPU_PATCH_VOXELS = 90_000
_CPU_PATCH_PIXELS = 160 * 160
_GPU_PATCH_VOXELS = 112 * 112 * 80
_GPU_PATCH_PIXELS = 512 * 512
_GPU_BYTES_PER_VOXEL = 6_000  # activations of two patches of the default network, a guess on the safe side
_FEWEST_PATCH_VOXELS = 32**3
_CPU_PATCHES_PER_IMAGE = 1.25
_PATCHES_PER_IMAGE = 2.5  # in 2D and on GPUs, which afford it
_LARGEST_SHARE = 0.8
"""Patches are at most this share of the image's axes. One that always shows the whole image tells the network by its
edges where it is; trained on scribbles, it then called everything far from them foreground (left atrium, four scribbled
scans: Dice 0.30 with whole images, 0.46 with patches)."""
_SHORT_AXIS = 24
"""Axes of fewer voxels may be covered whole."""
_MOST_COARSENING = 4.0
_SMALLEST_POOLED = 8
_FEWEST_SLICES = 8
_THIN_STACK = 24
_THICK_SLICES = 3.0
"""Volumes of fewer slices than either of the first two are trained slice by slice, the second only if the slices are so
many times thicker than pixels are wide. On ACDC (10 slices of 10 mm; experts' scribbles, `partial`) patients held out
of training had Dice 0.85 in 2D and 0.72 in 3D at 1.5 mm, and 0.15 in 3D on the coarse grid that a CPU affords."""
_LARGEST_PATCH = 65_536
_MOST_FEATURES = 1024
_MOST_LEVELS = 16


@dataclass(frozen=True)
class Normalisation:
    """How grey values become numbers around 0.

    ``kind`` is ``zscore`` (clip to the volume's own 0.1 and 99.9 percentiles, subtract its mean, divide by its standard
    deviation; magnetic resonance and everything without a scale) or ``fixed`` (clip to ``low`` and ``high``, subtract
    ``mean``, divide by ``std``, all taken from the cohort; computed tomography, whose values mean something).
    """

    kind: str = "zscore"
    low: float = 0.0
    high: float = 0.0
    mean: float = 0.0
    std: float = 1.0

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Normalised copy, float32, of an image of any shape."""
        return self.in_place(np.array(image, dtype=np.float32))

    def in_place(self, image: np.ndarray) -> np.ndarray:
        """A float32 image itself, normalised."""
        if self.kind == "fixed":
            low, high, mean, std = self.low, self.high, self.mean, self.std
        else:
            # Percentiles are float64, and what they clip would become so too.
            low, high = (float(each) for each in np.percentile(image, (0.1, 99.9)))
            mean = std = None
        if self.kind == "fixed" or high > low:
            image.clip(low, high, out=image)
        image -= image.mean() if mean is None else np.float32(mean)
        if std is None:
            std = math.sqrt(sum(float(np.vdot(each, each)) for each in image) / image.size)
        image /= np.float32(std or 1.0)
        return image


@dataclass(frozen=True)
class Plan:
    """How a cohort is trained and predicted.

    Attributes
    ----------
    dimensions : {2, 3}
        Whether the network sees slices or volumes.
    spacing : tuple of float
        Voxel spacing that images are resampled to, (i, j, k), mm. In 2D the k spacing stays each case's own: 0.
    patch : tuple of int
        Patch size, (i, j, k), voxels; k is 1 in 2D.
    batch_size : int
        Annotated patches in a batch; as many unlabeled ones join them.
    normalisation : Normalisation
        Grey values.
    precision : {"float32", "bfloat16"}
        Number format of forward passes.
    network, features, strides, norm, dropout, dropout_everywhere, deep_supervision
        What `networks.build_network` takes; strides in array order (k, j, i), or (j, i) in 2D.
    n_classes : int
        Background included.
    largest_component : tuple of int
        Classes that are one piece: predictions, and pseudo-labels that ask for it, keep their largest component.
    """

    dimensions: int
    spacing: tuple[float, float, float]
    patch: tuple[int, int, int]
    batch_size: int
    normalisation: Normalisation
    precision: str
    network: str
    features: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    norm: str
    dropout: float
    n_classes: int
    dropout_everywhere: bool = False
    deep_supervision: bool = False
    largest_component: tuple[int, ...] = ()

    @property
    def patch_shape(self) -> tuple[int, int, int]:
        """Patch shape in array order (k, j, i)."""
        return self.patch[::-1]

    @property
    def array_spacing(self) -> tuple[float, float, float]:
        """Spacing in array order (k, j, i); where 0 (2D), slices count as 1 mm apart."""
        return tuple(value or 1.0 for value in self.spacing[::-1])

    def training_spacing(self, own: tuple[float, float, float]) -> tuple[float, float, float]:
        """Spacing (i, j, k) that a case of a spacing of its own is resampled to."""
        return tuple(planned or mine for planned, mine in zip(self.spacing, own, strict=True))

    def shrunk(self) -> Plan | None:
        """A plan that needs about half the memory: a smaller batch or, of one patch, a smaller patch; None if none."""
        if self.batch_size > 1:
            return replace(self, batch_size=self.batch_size // 2)
        divisor = _divisor(self.strides)
        axis = max(range(self.dimensions), key=lambda each: self.patch[each] / divisor[each])
        patch = list(self.patch)
        step = int(divisor[axis])
        patch[axis] = max(1, patch[axis] // 2 // step) * step
        return replace(self, patch=tuple(patch)) if tuple(patch) != self.patch else None

    def to_json(self) -> dict[str, Any]:
        """The plan as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> Plan:
        """The plan read back; raises `ModelError` where the text isn't one."""
        try:
            values = dict(body)
            values["normalisation"] = Normalisation(**values["normalisation"])
            for key in ("spacing", "patch", "features", "largest_component"):
                values[key] = tuple(values.get(key, ()))
            values["strides"] = tuple(tuple(stride) for stride in values["strides"])
            plan = cls(**values)
            if not plan._is_possible():
                raise ValueError
            return plan
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelError("The plan of this run or model can't be read.", "Train again.") from error

    def _is_possible(self) -> bool:
        """Whether every value is of its kind and within reason, so that a network can be made of them."""
        levels = len(self.strides) + 1
        grey = self.normalisation
        return (
            self.dimensions in (2, 3)
            and _are_numbers(self.spacing, 3, 0, 1e6)
            and _are_whole(self.patch, 3, 1, _LARGEST_PATCH)
            and _are_whole((self.batch_size,), 1, 1, _LARGEST_PATCH)
            and _are_whole((self.n_classes,), 1, 2, MAXIMUM_CLASSES + 1)
            and 2 <= levels <= _MOST_LEVELS
            and _are_whole(self.features, levels, 1, _MOST_FEATURES)
            and all(_are_whole(stride, self.dimensions, 1, _LARGEST_PATCH) for stride in self.strides)
            and _are_whole(self.largest_component, len(self.largest_component), 0, MAXIMUM_CLASSES)
            and _are_numbers((self.dropout,), 1, 0, 1)
            and all(isinstance(each, str) for each in (self.precision, self.network, self.norm, grey.kind))
            and _are_numbers((grey.low, grey.high, grey.mean, grey.std), 4, -1e30, 1e30)
            and grey.std > 0
        )


def derive_plan(
    fingerprint: Fingerprint,
    settings: TrainingSettings,
    n_classes: int,
    device: torch.device,
    *,
    dropout: float = 0.0,
    dropout_everywhere: bool = False,
) -> Plan:
    """The plan for a cohort, settings and a device.

    Parameters
    ----------
    fingerprint : Fingerprint
        What the training images look like.
    settings : TrainingSettings
        Its ``plan`` overrides what is derived here.
    n_classes : int
        Background included.
    device : torch.device
        Where it will be trained: patches are small on a CPU, and as large as memory allows on a GPU.
    dropout, dropout_everywhere
        What the method asks of the network where the user does not say otherwise.

    Raises
    ------
    SettingsError
        If overrides contradict the data.
    """
    chosen = settings.plan
    native = np.median(fingerprint.spacings, axis=0)
    extent = np.median(fingerprint.sizes * fingerprint.spacings, axis=0)
    dimensions = chosen.dimensions or (2 if _is_a_thin_stack(fingerprint) else 3)
    budget = _patch_voxels(device, dimensions)
    most = budget * (_CPU_PATCHES_PER_IMAGE if device.type == "cpu" and dimensions == 3 else _PATCHES_PER_IMAGE)
    spacing = np.array(chosen.spacing) if chosen.spacing else _coarsened(native, extent, dimensions, most)
    size = np.maximum(1, np.rint(extent / spacing)).astype(int)
    network = "unet" if chosen.network == "auto" else chosen.network
    limit = np.where(size < _SHORT_AXIS, size, np.rint(_LARGEST_SHARE * size)).astype(int)
    patch = np.array(chosen.patch) if chosen.patch else _largest_patch(spacing, limit, dimensions, budget)
    if dimensions == 2:
        patch[2] = 1
    elif patch[2] == 1:
        raise SettingsError(
            "A volumetric network can't be trained on patches of one slice.",
            "Leave the setting plan.dimensions to the plan or set it to 2, or choose patches of more slices.",
        )
    features = chosen.features or _features(network, device)
    strides = _strides(patch, spacing, dimensions, network, len(features))
    patch = _rounded(patch, strides, budget, up=(size < _SHORT_AXIS) | (chosen.patch is not None))
    precision = chosen.precision
    if precision == "auto":
        precision = "bfloat16" if prefers_bfloat16(device) else "float32"
    norm = chosen.norm
    if norm == "auto":
        norm = "batch"
    return Plan(
        dimensions=dimensions,
        spacing=tuple(float(round(value, 4)) for value in (spacing if dimensions == 3 else (*spacing[:2], 0.0))),
        patch=tuple(int(value) for value in patch),
        batch_size=chosen.batch_size or (2 if dimensions == 3 else 8),
        normalisation=_normalisation(fingerprint),
        precision=precision,
        network=network,
        features=tuple(features[: len(strides) + 1]),
        strides=strides,
        norm=norm,
        dropout=chosen.dropout if chosen.dropout is not None else (dropout or (0.5 if network == "vnet" else 0.0)),
        n_classes=n_classes,
        dropout_everywhere=dropout_everywhere,
        deep_supervision=settings.deep_supervision,
    )


def prepare_image(volume: Volume, plan: Plan) -> Volume:
    """A case's image on the plan's grid, normalised, float32."""
    geometry = volume.geometry.with_spacing(plan.training_spacing(volume.geometry.spacing))
    array = resample_image(volume, geometry).array
    if np.may_share_memory(array, volume.array):
        array = array.copy()
    return Volume(plan.normalisation.in_place(array), geometry)


def _are_numbers(values: tuple, length: int, low: float, high: float) -> bool:
    return len(values) == length and all(
        isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high for value in values
    )


def _are_whole(values: tuple, length: int, low: int, high: int) -> bool:
    return _are_numbers(values, length, low, high) and all(isinstance(value, int) for value in values)


def _is_a_thin_stack(fingerprint: Fingerprint) -> bool:
    """Whether a typical image has too few slices for a volumetric network to learn across them."""
    slices = np.median(fingerprint.sizes[:, 2])
    width, height, thickness = np.median(fingerprint.spacings, axis=0)
    return slices < _FEWEST_SLICES or (slices < _THIN_STACK and thickness >= _THICK_SLICES * max(width, height))


def _patch_voxels(device: torch.device, dimensions: int) -> int:
    """How many voxels a patch may have so that a step is quick (CPU) or fits into memory (GPU)."""
    if device.type == "cpu":
        return _CPU_PATCH_VOXELS if dimensions == 3 else _CPU_PATCH_PIXELS
    if dimensions == 2:
        return _GPU_PATCH_PIXELS
    free = free_bytes(device)
    if free is None:
        return _GPU_PATCH_VOXELS
    return max(_FEWEST_PATCH_VOXELS, min(_GPU_PATCH_VOXELS, free // _GPU_BYTES_PER_VOXEL))


def _coarsened(native: np.ndarray, extent: np.ndarray, dimensions: int, most_voxels: float) -> np.ndarray:
    """Spacing at which a typical image has at most so many voxels, the finest axes coarsened first.

    At most four times coarser than the images: beyond that small structures vanish.
    """
    axes = slice(0, dimensions)
    finest = native[axes].min()
    for target in finest * np.geomspace(1.0, _MOST_COARSENING, 65):
        spacing = native.copy()
        spacing[axes] = np.maximum(native[axes], target)
        if np.prod((extent / spacing)[axes]) <= most_voxels:
            break
    return spacing


def _largest_patch(spacing: np.ndarray, size: np.ndarray, dimensions: int, voxels: int) -> np.ndarray:
    """The largest box within a size that is as long in each direction, in mm, as the budget allows."""
    axes = slice(0, dimensions)
    low, high = 0.0, float((size * spacing)[axes].max())
    for _ in range(40):
        side = (low + high) / 2
        if np.prod(np.minimum(size, side / spacing)[axes]) <= voxels:
            low = side
        else:
            high = side
    patch = np.ones(3, dtype=int)
    # The bisection ends just short of an image that fits as a whole.
    patch[axes] = np.maximum(1, np.minimum(size, low / spacing + 1e-6))[axes].astype(int)
    return patch


def _features(network: str, device: torch.device) -> tuple[int, ...]:
    if network == "vnet":
        return (16, 32, 64, 128, 256)
    return (16, 32, 64, 128) if device.type == "cpu" else (32, 64, 128, 256, 320)


def _strides(
    patch: np.ndarray, spacing: np.ndarray, dimensions: int, network: str, levels: int
) -> tuple[tuple[int, ...], ...]:
    """Halve the axes that are large enough and about as finely sampled as the finest (nnU-Net's rule)."""
    axes = (2, 1, 0) if dimensions == 3 else (1, 0)
    if network == "vnet":
        return ((2,) * dimensions,) * (levels - 1)
    left, current = patch.astype(float), spacing.copy()
    strides = []
    while len(strides) < levels - 1:
        large = [axis for axis in axes if left[axis] >= _SMALLEST_POOLED]
        if not large:
            break
        finest = min(current[axis] for axis in large)
        stride = tuple(2 if axis in large and current[axis] <= 2 * finest else 1 for axis in axes)
        for axis, step in zip(axes, stride, strict=True):
            left[axis], current[axis] = left[axis] / step, current[axis] * step
        strides.append(stride)
    return tuple(strides) or ((1,) * dimensions,)


def _rounded(patch: np.ndarray, strides: tuple[tuple[int, ...], ...], voxels: int, *, up: np.ndarray) -> np.ndarray:
    """The patch with every axis a multiple of what the network pools by.

    Axes that are to be rounded up are; of the others each takes the nearest multiple or, where the patch would have
    more than so many voxels, the one below: of all such patches the largest that fits.
    """
    divisor = _divisor(strides)
    below, nearest = (np.maximum(1, each(patch / divisor)).astype(int) for each in (np.floor, np.rint))
    above = np.ceil(patch / divisor).astype(int)
    choices = [(above[axis],) if up[axis] else (nearest[axis], below[axis]) for axis in range(3)]
    patches = [np.array(parts) * divisor for parts in itertools.product(*choices)]
    fitting = [each for each in patches if each.prod() <= voxels]
    return max(fitting, key=np.prod) if fitting else min(patches, key=np.prod)


def _divisor(strides: tuple[tuple[int, ...], ...]) -> np.ndarray:
    """What the network pools by along (i, j, k); 1 along k in 2D."""
    divisor = np.ones(3, dtype=int)
    product = np.prod(np.array(strides), axis=0)[::-1]
    divisor[: len(product)] = product
    return divisor


def _normalisation(fingerprint: Fingerprint) -> Normalisation:
    if not fingerprint.is_ct:
        return Normalisation()
    low, high = np.percentile(fingerprint.intensities, (0.5, 99.5))
    clipped = np.clip(fingerprint.intensities, low, high)
    return Normalisation("fixed", float(low), float(high), float(clipped.mean()), float(clipped.std()) or 1.0)
