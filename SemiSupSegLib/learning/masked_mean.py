"""Means over some of the voxels, as fractions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class MaskedMean(NamedTuple):
    """A loss as a fraction: a mean of such losses over parts of a batch isn't the loss of the whole, their sums are.

    Attributes
    ----------
    numerator : torch.Tensor
        Scalar sum of losses; carries the gradient.
    denominator : torch.Tensor
        Scalar count or sum of weights; carries none.
    """

    numerator: Tensor
    denominator: Tensor

    @property
    def value(self) -> Tensor:
        """The mean: a scalar with a gradient, exactly 0 when there was nothing to average."""
        something = self.denominator > 0
        return self.numerator / torch.where(something, self.denominator, torch.ones_like(self.denominator))


def masked_mean(values: Tensor, mask: Tensor) -> MaskedMean:
    """Mean of a map over a mask, or weighted by weights.

    Parameters
    ----------
    values, mask : torch.Tensor
        ``(B, *spatial)``, both of one shape. No gradient goes into the mask.

    Returns
    -------
    MaskedMean
        ``sum(mask * values) / sum(mask)``, in float32.

    Raises
    ------
    ValueError
        If the shapes differ, even where they would broadcast.
    """
    if values.shape != mask.shape:
        raise ValueError(f"The mask has shape {tuple(mask.shape)}, the map {tuple(values.shape)}.")
    weight = mask.detach().float()
    return MaskedMean((weight * values.float()).sum(), weight.sum())
