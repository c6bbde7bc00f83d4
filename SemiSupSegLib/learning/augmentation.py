"""Random changes of patches: geometry drawn before cutting, intensity applied to batches on the device."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..training_settings import AugmentationSettings

_THICK_SLICES = 3.0
"""Where slices are this many times thicker than their pixels, patches turn in plane only (nnU-Net's rule)."""


def draw_matrix(
    settings: AugmentationSettings, spacing: Sequence[float], dimensions: int, numbers: np.random.Generator
) -> np.ndarray:
    """Rotation, scaling and mirroring of one patch.

    Parameters
    ----------
    spacing : sequence of float
        Voxel spacing (k, j, i) in mm: rotations are rotations of the body, not of the voxel grid.
    dimensions : {2, 3}
        In 2D, as with thick slices, only the in-plane rotation is drawn.

    Returns
    -------
    numpy.ndarray
        ``(3, 3)``, offsets in the patch to offsets in the case, in voxels (k, j, i).
    """
    spacing = np.array(spacing, dtype=float)
    in_plane = dimensions == 2 or spacing[0] > _THICK_SLICES * max(spacing[1], spacing[2])
    turned = np.eye(3)
    if numbers.random() < settings.spatial_probability:
        angles = np.deg2rad(numbers.uniform(-settings.rotation, settings.rotation, 3))
        scale = np.exp(numbers.uniform(-1, 1) * np.log1p(settings.scale))
        axes = (0,) if in_plane else (0, 1, 2)
        zoom = np.array([1.0 if in_plane else scale, scale, scale])
        turned = functools.reduce(np.matmul, (_rotation(axis, angles[axis]) for axis in axes)) * zoom
    if settings.right_angles:
        turned = turned @ _rotation(0, np.pi / 2 * numbers.integers(4)).round()
    flips = np.where((numbers.random(3) < 0.5) & np.array(settings.mirror[::-1]), -1.0, 1.0)
    return turned * (spacing[None, :] / spacing[:, None]) * flips


def _rotation(axis: int, angle: float) -> np.ndarray:
    """Rotation matrix about one of the axes (k, j, i)."""
    matrix = np.eye(3)
    first, second = [each for each in range(3) if each != axis]
    matrix[first, first] = matrix[second, second] = np.cos(angle)
    matrix[first, second], matrix[second, first] = -np.sin(angle), np.sin(angle)
    return matrix


def augment_intensity(image: Tensor, settings: AugmentationSettings, numbers: np.random.Generator) -> Tensor:
    """Each sample with noise, blur, low resolution, brightness, contrast and gamma, each with a small probability.

    Parameters
    ----------
    image : torch.Tensor
        ``(B, 1, *spatial)`` float32, normalised grey values.
    numbers : numpy.random.Generator
        Decides which changes and how strong; noise itself comes from torch's generator of the device.

    Returns
    -------
    torch.Tensor
        Of the same shape; `image` is left as it is.
    """
    return torch.stack([_augment_sample(sample, settings, numbers) for sample in image])


def _augment_sample(sample: Tensor, settings: AugmentationSettings, numbers: np.random.Generator) -> Tensor:
    chances = numbers.random(6) < settings.intensity_probability
    strength = numbers.random(6)
    sign = numbers.choice((-1.0, 1.0), 6)
    if chances[0] and settings.blur > 0:
        sample = _blurred(sample, 0.3 + strength[0] * max(0.0, settings.blur - 0.3))
    if chances[1] and settings.low_resolution < 1:
        sample = _low_resolution(sample, 1 - strength[1] * (1 - settings.low_resolution))
    if chances[2]:
        sample = sample * (1 + sign[2] * strength[2] * settings.brightness)
    if chances[3]:
        mean, low, high = sample.mean(), sample.min(), sample.max()
        sample = ((sample - mean) * (1 + sign[3] * strength[3] * settings.contrast) + mean).clamp(low, high)
    if chances[4]:
        low, high = sample.min(), sample.max()
        extent = (high - low).clamp_min(1e-6)
        sample = ((sample - low) / extent).pow(float(np.exp(sign[4] * strength[4] * settings.gamma))) * extent + low
    if chances[5]:
        sample = sample + torch.randn_like(sample) * (strength[5] * settings.noise)
    return sample


def _blurred(sample: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of ``(1, *spatial)``, axis by axis; single-voxel axes stay."""
    radius = max(1, int(np.ceil(3 * sigma)))
    offsets = torch.arange(-radius, radius + 1, device=sample.device, dtype=sample.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    n_axes = sample.dim() - 1
    convolve = functional.conv3d if n_axes == 3 else functional.conv2d
    blurred = sample[None]
    for axis in range(n_axes):
        if sample.shape[1 + axis] <= radius:
            continue
        shape = [1] * (n_axes + 2)
        shape[2 + axis] = -1
        padding = [0] * (2 * n_axes)
        padding[2 * (n_axes - 1 - axis)] = padding[2 * (n_axes - 1 - axis) + 1] = radius
        blurred = convolve(functional.pad(blurred, padding, mode="replicate"), kernel.reshape(shape))
    return blurred[0]


def _low_resolution(sample: Tensor, zoom: float) -> Tensor:
    """Sampled down by nearest neighbour and up again linearly, as a coarser scan would look."""
    size = sample.shape[1:]
    small = [max(1, round(length * zoom)) for length in size]
    coarse = functional.interpolate(sample[None], size=small, mode="nearest-exact")
    mode = "trilinear" if len(size) == 3 else "bilinear"
    return functional.interpolate(coarse, size=tuple(size), mode=mode, align_corners=False)[0]
