"""Prediction of an image of any size by overlapping windows, blended by a Gaussian."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

_LEAST_WEIGHT = 1e-3


def sliding_window(
    image: Tensor,
    window: Sequence[int],
    network: Callable[[Tensor], Tensor],
    n_classes: int,
    *,
    overlap: float = 0.5,
    batch_size: int = 2,
    mirror_axes: Sequence[int] = (),
    on_window: Callable[[float], None] = lambda fraction: None,
) -> Tensor:
    """Class probabilities of a whole image.

    Parameters
    ----------
    image : torch.Tensor
        ``(k, j, i)`` float32, normalised.
    window : sequence of int
        Window size (k, j, i); with 1 slice the network is two-dimensional.
    network : callable
        ``(B, 1, *spatial)`` to logits ``(B, C, *spatial)``.
    overlap : float
        Share of a window that its neighbour covers too, 0 to 0.9.
    mirror_axes : sequence of int
        Array axes (0 = k) along which predictions of mirrored windows are averaged in.
    on_window : callable
        Told the fraction that is done; may raise to stop.

    Returns
    -------
    torch.Tensor
        ``(C, k, j, i)`` float32, summing to 1 over classes.
    """
    padded, original = _padded(image, window)
    blend = _gaussian(window, image.device)
    total = torch.zeros((n_classes, *padded.shape), device=image.device)
    weight = torch.zeros(padded.shape, device=image.device)
    corners = list(_corners(padded.shape, window, overlap))
    flips = [axes for n in range(len(mirror_axes) + 1) for axes in itertools.combinations(mirror_axes, n)]
    for first in range(0, len(corners), batch_size):
        chosen = [tuple(slice(c, c + w) for c, w in zip(corner, window, strict=True))
                  for corner in corners[first : first + batch_size]]  # fmt: skip
        patches = torch.stack([padded[box] for box in chosen])
        probabilities = sum(_probabilities(patches, network, axes) for axes in flips) / len(flips)
        for box, each in zip(chosen, probabilities, strict=True):
            total[(slice(None), *box)] += each * blend
            weight[box] += blend
        on_window(min(1.0, (first + batch_size) / len(corners)))
    return total.div_(weight)[(slice(None), *original)]


def _probabilities(patches: Tensor, network: Callable[[Tensor], Tensor], axes: tuple[int, ...]) -> Tensor:
    """``(B, C, k, j, i)`` from ``(B, k, j, i)``, computed on patches mirrored along array axes."""
    mirrored = patches.flip([axis + 1 for axis in axes]) if axes else patches
    flat = mirrored.shape[1] == 1
    inputs = mirrored.unsqueeze(1)
    logits = network(inputs.squeeze(2)).unsqueeze(2) if flat else network(inputs)
    probabilities = torch.softmax(logits.float(), dim=1)
    return probabilities.flip([axis + 2 for axis in axes]) if axes else probabilities


def _padded(image: Tensor, window: Sequence[int]) -> tuple[Tensor, list[slice]]:
    """The image grown on all sides to at least one window, continued as at its edge, as training patches are.

    Beside it, where in it the image lies.
    """
    missing = [max(0, size - length) for size, length in zip(window, image.shape, strict=True)]
    original = [slice(lack // 2, lack // 2 + length) for lack, length in zip(missing, image.shape, strict=True)]
    if not any(missing):
        return image, original
    pad = [each for lack in reversed(missing) for each in (lack // 2, lack - lack // 2)]
    return torch.nn.functional.pad(image[None, None], pad, mode="replicate")[0, 0], original


def _corners(shape: Sequence[int], window: Sequence[int], overlap: float) -> Iterator[tuple[int, ...]]:
    """Evenly spread windows that cover the image, neighbours overlapping by at least the share asked for."""
    axes = []
    for length, size in zip(shape, window, strict=True):
        steps = math.ceil((length - size) / max(1.0, size * (1 - overlap))) if length > size else 0
        axes.append([round(index * (length - size) / steps) for index in range(steps + 1)] if steps else [0])
    return itertools.product(*axes)


def _gaussian(window: Sequence[int], device: torch.device) -> Tensor:
    """Weights of a window's voxels, 1 in the centre; standard deviation an eighth of each side (nnU-Net's)."""
    blend = torch.ones(tuple(window), device=device)
    for axis, size in enumerate(window):
        offsets = (torch.arange(size, device=device, dtype=torch.float32) - (size - 1) / 2) / max(1.0, size / 8)
        shape = [-1 if n == axis else 1 for n in range(len(window))]
        blend = blend * torch.exp(-0.5 * offsets**2).reshape(shape)
    return blend.clamp_min(_LEAST_WEIGHT)
