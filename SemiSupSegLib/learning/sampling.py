"""Patches: where they lie, drawn from (seed, iteration, sample), and cut on the device.

Drawing is split from cutting, so that what happened can be replayed: a `Patch` holds everything random about one
sample's geometry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..labels import IGNORE
from .cases import TrainingCase

NO_SUPERPIXEL = -1
"""Superpixel id of voxels outside the image."""


@dataclass(frozen=True)
class Patch:
    """Where a patch lies in its case.

    Attributes
    ----------
    case : int
        Index into the list of cases.
    centre : numpy.ndarray
        Voxel coordinates (k, j, i) of the patch's centre.
    matrix : numpy.ndarray
        ``(3, 3)``: offsets from the patch's centre to offsets in the case, both in voxels (k, j, i).
    """

    case: int
    centre: np.ndarray
    matrix: np.ndarray

    def is_aligned(self, shape: Sequence[int]) -> bool:
        """Whether a patch of a shape (k, j, i) holds whole voxels of the case: a crop, perhaps turned or mirrored."""
        size = np.abs(self.matrix)
        first = self.centre - self.matrix @ ((np.array(shape) - 1) / 2)
        is_permutation = np.isin(size, (0, 1)).all() and (size.sum(axis=0) == 1).all() and (size.sum(axis=1) == 1).all()
        return bool(is_permutation and np.array_equal(first, np.rint(first)))

    def box(self, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest coordinates (k, j, i) in the case that a patch of a shape (k, j, i) has."""
        extent = np.abs(self.matrix) @ ((np.array(shape) - 1) / 2)
        return self.centre - extent, self.centre + extent


@dataclass(frozen=True)
class Batch:
    """Patches of several cases.

    Attributes
    ----------
    image : torch.Tensor
        ``(B, 1, *spatial)`` float32; spatial is (k, j, i) in 3D and (j, i) in 2D.
    annotation : torch.Tensor
        ``(B, *spatial)`` uint8, 255 where not annotated.
    superpixels : torch.Tensor or None
        ``(B, *spatial)`` int32, `NO_SUPERPIXEL` outside the image.
    expanded : torch.Tensor or None
        ``(B, *spatial)`` uint8: annotation and what follows from it, see `TrainingCase`; None where nothing does.
    cases : tuple of TrainingCase
        The case of each patch.
    """

    image: Tensor
    annotation: Tensor
    superpixels: Tensor | None = None
    expanded: Tensor | None = None
    cases: tuple[TrainingCase, ...] = ()

    def __len__(self) -> int:
        return len(self.image)

    def joined(self, other: Batch) -> Batch:
        """Both batches as one, this one first."""
        image = torch.cat([self.image, other.image])
        annotation = torch.cat([self.annotation, other.annotation])
        superpixels = None if self.superpixels is None else torch.cat([self.superpixels, other.superpixels])
        expanded = None
        if self.expanded is not None or other.expanded is not None:
            pairs = ((each.annotation, each.expanded) for each in (self, other))
            expanded = torch.cat([plain if more is None else more for plain, more in pairs])
        return Batch(image, annotation, superpixels, expanded, self.cases + other.cases)

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        parts = [getattr(self, each.name) for each in fields(self)]
        return Batch(*(each.to(device) if isinstance(each, Tensor) else each for each in parts))


def random_numbers(seed: int, iteration: int, stream: int, sample: int = 0) -> np.random.Generator:
    """The random numbers of one sample of one iteration: the same whatever happened before."""
    return np.random.default_rng((seed, iteration, stream, sample))


def choose_cases(n_cases: int, count: int, numbers: np.random.Generator) -> np.ndarray:
    """Indices of cases for a batch: all different as long as there are enough."""
    rounds = [numbers.permutation(n_cases) for _ in range(-(-count // n_cases))]
    return np.concatenate(rounds)[:count]


def draw_centre(
    case: TrainingCase,
    patch_shape: Sequence[int],
    numbers: np.random.Generator,
    *,
    annotated: bool,
    foreground_fraction: float = 0.0,
) -> np.ndarray:
    """Centre (k, j, i) of a patch that stays within the image where the image is larger than it.

    Parameters
    ----------
    annotated : bool
        Whether the patch should show annotated voxels: it is then placed around one, of a foreground class with
        probability `foreground_fraction` (each class alike), else of any class (each voxel alike).
    """
    shape, size = np.array(case.shape), np.array(patch_shape)
    low, high = (size - 1) / 2, shape - 1 - (size - 1) / 2
    if annotated and case.voxels:
        voxel = np.array(np.unravel_index(_draw_voxel(case, numbers, foreground_fraction), case.shape))
        jitter = np.where(size > 1, (numbers.random(3) - 0.5) * size * 0.75, 0.0)
        centre = np.clip(voxel + jitter, np.minimum(low, high), np.maximum(low, high))
    else:
        centre = low + numbers.random(3) * (high - low)
    inside = np.where(high >= low, centre, (shape - 1) / 2)
    return np.where(size % 2 == 1, np.rint(inside), np.floor(inside) + 0.5)


def _draw_voxel(case: TrainingCase, numbers: np.random.Generator, foreground_fraction: float) -> int:
    foreground = [label for label in case.voxels if label != 0]
    if foreground and numbers.random() < foreground_fraction:
        label = foreground[numbers.integers(len(foreground))]
    else:
        labels = list(case.voxels)
        counts = np.array([case.counts[label] for label in labels], dtype=float)
        label = labels[numbers.choice(len(labels), p=counts / counts.sum())]
    return int(numbers.choice(case.voxels[label]))


def cut_batch(cases: Sequence[TrainingCase], patches: Sequence[Patch], patch_shape: Sequence[int]) -> Batch:
    """The patches' voxels.

    Images are interpolated linearly, everything else takes the nearest voxel. Beyond the image, images continue as at
    their edge (a step to black there would be an edge to learn), annotations with 255 and superpixels with
    `NO_SUPERPIXEL`. A patch of one slice comes out 2D.
    """
    cut = [_cut(cases[patch.case], patch, tuple(patch_shape)) for patch in patches]
    images, annotations, ids, expansions = zip(*cut, strict=True)
    image, annotation = torch.stack(images).unsqueeze(1), torch.stack(annotations)
    superpixels = None if any(each is None for each in ids) else torch.stack(ids)
    expanded = None
    if any(each is not None for each in expansions):
        pairs = zip(annotations, expansions, strict=True)
        expanded = torch.stack([plain if more is None else more for plain, more in pairs])
    if patch_shape[0] == 1:
        image = image.squeeze(2)
        annotation, superpixels, expanded = (
            None if each is None else each.squeeze(1) for each in (annotation, superpixels, expanded)
        )
    return Batch(image, annotation, superpixels, expanded, tuple(cases[patch.case] for patch in patches))


def _cut(case: TrainingCase, patch: Patch, shape: tuple[int, int, int]) -> tuple[Tensor | None, ...]:
    coordinates = _coordinates(patch, shape, case.image.device)
    index, inside = _nearest(coordinates, case.shape)
    annotation = case.annotation
    if annotation is None:
        labels = torch.full(shape, IGNORE, dtype=torch.uint8, device=case.image.device)
    else:
        labels = _taken(annotation, index, inside, IGNORE)
    is_aligned = patch.is_aligned(shape)
    image = case.image.reshape(-1)[index].float() if is_aligned else _interpolated(case, patch, coordinates)
    superpixels = None if case.superpixels is None else _taken(case.superpixels, index, inside, NO_SUPERPIXEL)
    expanded = None if case.expanded is None else _taken(case.expanded, index, inside, IGNORE)
    return image, labels, superpixels, expanded


def _coordinates(patch: Patch, shape: tuple[int, int, int], device: torch.device) -> Tensor:
    """Voxel coordinates (k, j, i) in the case of every voxel of the patch, ``(3, K, J, I)`` float32."""
    axes = (torch.arange(size, dtype=torch.float32, device=device) - (size - 1) / 2 for size in shape)
    k, j, i = torch.meshgrid(*axes, indexing="ij")
    rows = zip(patch.matrix.tolist(), patch.centre.tolist(), strict=True)
    return torch.stack([row[0] * k + row[1] * j + row[2] * i + centre for row, centre in rows])


def _nearest(coordinates: Tensor, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Flat index of the nearest voxel, and whether it lies inside, both ``(K, J, I)``.

    Half-way between two voxels the upper one is taken: rounding to even would take one twice and leave out the next.
    """
    limits = torch.tensor(shape, device=coordinates.device).view(3, 1, 1, 1)
    rounded = torch.floor(coordinates + 0.5).long()
    inside = ((rounded >= 0) & (rounded < limits)).all(dim=0)
    k, j, i = torch.minimum(rounded.clamp_min(0), limits - 1)
    return (k * shape[1] + j) * shape[2] + i, inside


def _taken(volume: Tensor, index: Tensor, inside: Tensor, fill: float) -> Tensor:
    return volume.reshape(-1)[index].masked_fill_(~inside, fill)


def _interpolated(case: TrainingCase, patch: Patch, coordinates: Tensor) -> Tensor:
    """Trilinear interpolation in the box that the patch touches, in float32 (bfloat16 is slower and coarser)."""
    limits = np.array(case.shape)
    low, high = patch.box(coordinates.shape[1:])  # not from the coordinates: a GPU would be waited for
    low = np.clip(np.floor(low).astype(int), 0, limits - 1)
    high = np.clip(np.ceil(high).astype(int) + 1, low + 1, limits)
    box = case.image[low[0] : high[0], low[1] : high[1], low[2] : high[2]].float()
    # grid_sample's coordinates are -1 and 1 at the outer faces of the box, and in the order (i, j, k).
    start, size = (torch.as_tensor(each, dtype=torch.float32, device=box.device) for each in (low, high - low))
    grid = ((2 * (coordinates.movedim(0, -1) - start) + 1) / size - 1).flip(-1)
    sampled = functional.grid_sample(
        box[None, None], grid[None], mode="bilinear", padding_mode="border", align_corners=False
    )
    return sampled[0, 0]
