"""Losses on the coarser levels of the student, so that its depths learn from annotations directly too.

Whatever the method, the annotated patches are the first that its student sees in a step (`Step.split`); what
the student's coarser levels say of these is compared with the annotation on the same coarse grids.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ..labels import IGNORE
from .losses import partial_loss

_AVERAGE_POOL = {2: functional.avg_pool2d, 3: functional.avg_pool3d}


def deep_loss(coarser: Sequence[Tensor], annotation: Tensor) -> Tensor:
    """``sum_l 2^-l (CE + Dice)`` over the levels l = 1, 2, … below the finest (nnU-Net's weights).

    Parameters
    ----------
    coarser : sequence of torch.Tensor
        Logits ``(B', C, *spatial_l)`` of each coarser level; B' >= B, the annotated patches first.
    annotation : torch.Tensor
        ``(B, *spatial)`` uint8, 255 where not annotated.

    Returns
    -------
    torch.Tensor
        A number; 0 for networks without coarser decoder levels.
    """
    total = torch.zeros((), device=annotation.device)
    for level, logits in enumerate(coarser, start=1):
        target = pool_annotation(annotation, logits.shape[2:], logits.shape[1])
        total = total + 0.5**level * partial_loss(logits[: len(target)], target).value
    return total


def pool_annotation(annotation: Tensor, shape: Sequence[int], n_classes: int) -> Tensor:
    """An annotation on a coarser grid, without losing thin strokes.

    Each coarse voxel takes the annotated class with most voxels in it, however many around are not annotated; 255 only
    where there is none, or where the best classes are equally frequent (as `volume.resample_labels` does on disk).

    Parameters
    ----------
    annotation : torch.Tensor
        ``(B, *spatial)`` uint8, 255 where not annotated.
    shape : sequence of int
        The coarse grid; each size divides that of `annotation`.
    n_classes : int
        Background included.

    Returns
    -------
    torch.Tensor
        ``(B, *shape)`` uint8.
    """
    kernel = [fine // coarse for fine, coarse in zip(annotation.shape[1:], shape, strict=True)]
    classes = torch.arange(n_classes, device=annotation.device).view(-1, *(1,) * len(kernel))
    shares = _AVERAGE_POOL[len(kernel)]((annotation.unsqueeze(1) == classes).float(), kernel)
    most, winner = shares.max(dim=1)
    is_clear = (most > 0) & ((shares == most.unsqueeze(1)).sum(dim=1) == 1)
    return torch.where(is_clear, winner, IGNORE).to(torch.uint8)
