"""The losses that the methods are made of, on annotated, masked or weighted voxels.

Logits and probabilities are ``(B, C, *spatial)``, class labels ``(B, *spatial)`` with integers from
0 (background) to C - 1 and 255 where nothing is annotated; 2D and 3D alike. Everything is computed
in float32, also under autocast.

A loss over a part of the voxels is a fraction, and a mean of fractions over parts of a batch isn't the
fraction over all its voxels. So every loss here is a `MaskedMean`, of which ``value`` is minimised:
that of the whole batch also where processes share it (see `distributed`).
"""

from __future__ import annotations

from math import exp

import torch
from torch import Tensor

from ..labels import IGNORE
from .case_losses import case_cross_entropy, case_dice, check_shapes, cross_entropy_of, mean_over_cases
from .class_scores import entropy, log_softmax, softmax_entropy, winners
from .masked_mean import MaskedMean, masked_mean

__all__ = [
    "MaskedMean",
    "class_balanced",
    "consistency_mse",
    "cross_entropy_map",
    "entropy",
    "masked_mean",
    "masked_soft_dice",
    "partial_cross_entropy",
    "partial_dice",
    "partial_loss",
    "ramp_sigmoid",
    "softmax_entropy",
    "weighted_cross_entropy",
    "weighted_dice",
    "winners",
]

DICE_SMOOTH = 1e-5  # as in UA-MT and nnU-Net
_SGRS_EPSILON = 1e-8  # spec of SGRS-Net, section 2.6


def partial_loss(
    logits: Tensor,
    target: Tensor,
    *,
    class_weight: Tensor | None = None,
    present_only: bool = True,
    smooth: float = DICE_SMOOTH,
    ignore: int = IGNORE,
) -> MaskedMean:
    """Cross-entropy plus Dice on the annotated voxels of each case, averaged over cases.

    The supervised loss of every method (``L_scr`` of SP3). Averaging over cases last keeps one
    densely annotated case from outweighing many scribbled ones.

    Parameters
    ----------
    logits : torch.Tensor
        ``(B, C, *spatial)``.
    target : torch.Tensor
        ``(B, *spatial)`` class labels, `ignore` where nothing is annotated.
    class_weight : torch.Tensor, optional
        ``(C,)``, see `partial_cross_entropy`.
    present_only : bool
        Whether Dice is averaged only over the classes annotated in the case, rather than all. The
        Dice of an absent class is about 1 whatever the network does.
    smooth : float
        See `partial_dice`.
    ignore : int
        Label of voxels that don't count.

    Returns
    -------
    MaskedMean
        Over the cases that have annotated voxels.
    """
    check_shapes(logits, target)
    log_probabilities = log_softmax(logits)
    annotated = target != ignore
    cross_entropy = case_cross_entropy(log_probabilities, target, class_weight, 0.0, ignore)
    dice = case_dice(log_probabilities.exp(), target, annotated, smooth, present_only)
    return mean_over_cases(cross_entropy + dice, annotated)


def partial_cross_entropy(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    ignore: int = IGNORE,
) -> MaskedMean:
    """Mean cross-entropy over the annotated voxels of each case, averaged over cases.

    Parameters
    ----------
    logits : torch.Tensor
        ``(B, C, *spatial)``.
    target : torch.Tensor
        ``(B, *spatial)`` class labels, `ignore` where nothing is annotated.
    weight : torch.Tensor, optional
        ``(C,)`` weights of the classes; the mean over a case is weighted, as in torch. For a weight
        a voxel see `weighted_cross_entropy`.
    label_smoothing : float
        The label gets 1 - e + e/C, every other class e/C.
    ignore : int
        Label of voxels that don't count.

    Returns
    -------
    MaskedMean
        Over the cases that have annotated voxels.
    """
    check_shapes(logits, target)
    losses = case_cross_entropy(log_softmax(logits), target, weight, label_smoothing, ignore)
    return mean_over_cases(losses, target != ignore)


def partial_dice(
    scores: Tensor,
    target: Tensor,
    *,
    are_probabilities: bool = False,
    present_only: bool = True,
    smooth: float = DICE_SMOOTH,
    ignore: int = IGNORE,
) -> MaskedMean:
    """Soft Dice loss over the annotated voxels of each case, averaged over classes, then cases.

    For a class with probability p and label y in {0, 1}, over the annotated voxels,
    ``1 - (2 sum(p y) + smooth) / (sum(p) + sum(y) + smooth)``.

    Parameters
    ----------
    scores : torch.Tensor
        ``(B, C, *spatial)`` logits, or probabilities if `are_probabilities`.
    target : torch.Tensor
        ``(B, *spatial)`` class labels, `ignore` where nothing is annotated.
    are_probabilities : bool
        Whether a softmax has been taken already.
    present_only : bool
        Whether to average only over the classes annotated in the case.
    smooth : float
        Keeps the fraction defined; a number of voxels.
    ignore : int
        Label of voxels that don't count.

    Returns
    -------
    MaskedMean
        Over the cases that have annotated voxels.
    """
    check_shapes(scores, target)
    probabilities = scores.float() if are_probabilities else log_softmax(scores).exp()
    annotated = target != ignore
    return mean_over_cases(case_dice(probabilities, target, annotated, smooth, present_only), annotated)


def weighted_cross_entropy(
    logits: Tensor,
    target: Tensor,
    weight: Tensor,
    label_smoothing: float = 0.0,
    ignore: int = IGNORE,
) -> MaskedMean:
    """``sum(w CE) / sum(w)`` over all voxels of the batch (in ``L_pl`` of SP3).

    With a mask for `weight` this is the mean cross-entropy over the mask (``L_UA`` and ``L_NN`` of
    Embedding Matching).

    Parameters
    ----------
    logits : torch.Tensor
        ``(B, C, *spatial)``.
    target : torch.Tensor
        ``(B, *spatial)`` class labels; voxels labelled `ignore` weigh nothing.
    weight : torch.Tensor
        ``(B, *spatial)``, at least 0, or a mask. No gradient goes into it.
    label_smoothing : float
        See `partial_cross_entropy`.

    Returns
    -------
    MaskedMean
        Over the weights.
    """
    check_shapes(logits, target, weight)
    weight = weight.detach().float() * (target != ignore)
    losses = cross_entropy_map(logits, target, label_smoothing, ignore)
    return MaskedMean((weight * losses).sum(), weight.sum())


def class_balanced(
    weight: Tensor,
    target: Tensor,
    n_classes: int,
    balance: float,
    *,
    per_case: bool = False,
    ignore: int = IGNORE,
) -> Tensor:
    """Weights for `weighted_cross_entropy` under which small classes have a greater share of the mean.

    Parameters
    ----------
    weight : torch.Tensor
        ``(B, *spatial)``, at least 0, or a mask.
    target : torch.Tensor
        ``(B, *spatial)`` class labels, `ignore` where nothing counts.
    n_classes : int
        Background included.
    balance : float
        A class whose weights sum to n has a share in proportion to ``n^(1 - balance)``: at 0 weights stay as they are,
        at 1 all classes that occur have the same share.
    per_case : bool
        Balance each case by itself, and give all cases the same share.

    Returns
    -------
    torch.Tensor
        ``(B, *spatial)`` float32.
    """
    check_shapes(weight.unsqueeze(1), target)
    known = target != ignore
    weight, labels = (weight.detach().float() * known).flatten(1), torch.where(known, target, 0).long().flatten(1)
    totals = torch.stack([(weight * (labels == label)).sum(dim=1) for label in range(n_classes)], dim=1)
    if not per_case:
        totals = totals.sum(dim=0).expand_as(totals)
    weight = weight * torch.where(totals > 0, totals, 1.0).pow(-balance).gather(1, labels)
    if per_case:
        of_case = weight.sum(dim=1, keepdim=True)
        weight = weight / torch.where(of_case > 0, of_case, 1.0)
    return weight.view(target.shape)


def weighted_dice(
    probabilities: Tensor,
    target: Tensor,
    weight: Tensor,
    *,
    present_only: bool = False,
    smooth: float = DICE_SMOOTH,
    ignore: int = IGNORE,
) -> MaskedMean:
    """Soft Dice loss with a weight a voxel in all sums, averaged over classes, then cases.

    ``1 - (2 sum(w p y) + smooth) / (sum(w p) + sum(w y) + smooth)`` (in ``L_pl`` of SP3).

    Parameters
    ----------
    probabilities : torch.Tensor
        ``(B, C, *spatial)``.
    target : torch.Tensor
        ``(B, *spatial)`` class labels; voxels labelled `ignore` weigh nothing.
    weight : torch.Tensor
        ``(B, *spatial)``, at least 0, or a mask. No gradient goes into it.
    present_only, smooth, ignore
        See `partial_dice`.

    Returns
    -------
    MaskedMean
        Over the cases that have weight.
    """
    check_shapes(probabilities, target, weight)
    weight = weight.detach().float() * (target != ignore)
    losses = case_dice(probabilities.float(), target, weight, smooth, present_only)
    return mean_over_cases(losses, weight > 0)


def masked_soft_dice(
    probabilities: Tensor, target: Tensor, mask: Tensor, smooth: float, *, present_only: bool = False
) -> MaskedMean:
    """SGRS-Net's Dice loss over a region, averaged over all cases and classes.

    ``1 - (2 TP + smooth) / (2 TP + FP + FN + smooth + 1e-8)`` for each case and class, background
    included, with soft counts inside the mask. A case with an empty mask counts as 0.

    Parameters
    ----------
    probabilities : torch.Tensor
        ``(B, C, *spatial)``.
    target : torch.Tensor
        ``(B, *spatial)`` (pseudo-)labels.
    mask : torch.Tensor
        ``(B, *spatial)`` bool.
    smooth : float
        A number of voxels; the larger, the less a wrong region costs.
    present_only : bool
        Whether to average only over the classes that have a label or win a voxel in the mask; for
        many classes.

    Returns
    -------
    MaskedMean
        Over all cases.
    """
    check_shapes(probabilities, target, mask)
    probabilities = probabilities.float()
    losses = case_dice(probabilities, target, mask, smooth, present_only, epsilon=_SGRS_EPSILON, count_predicted=True)
    return MaskedMean(losses.sum(), losses.new_tensor(float(len(losses))))


def consistency_mse(probabilities: Tensor, reference: Tensor, mask: Tensor | None = None) -> MaskedMean:
    """Mean squared difference of two predictions over classes and the voxels of a mask.

    Parameters
    ----------
    probabilities : torch.Tensor
        ``(B, C, *spatial)``, the student's.
    reference : torch.Tensor
        ``(B, C, *spatial)``, the teacher's; no gradient goes into it.
    mask : torch.Tensor, optional
        ``(B, *spatial)`` bool, or weights.

    Returns
    -------
    MaskedMean
        Over the mask.
    """
    if probabilities.shape != reference.shape:
        raise ValueError(
            f"The predictions must have one shape, not {tuple(probabilities.shape)} and {tuple(reference.shape)}."
        )
    difference = (probabilities.float() - reference.detach().float()).square().mean(dim=1)
    return masked_mean(difference, torch.ones_like(difference) if mask is None else mask)


def cross_entropy_map(logits: Tensor, target: Tensor, label_smoothing: float = 0.0, ignore: int = IGNORE) -> Tensor:
    """Cross-entropy of every voxel, ``(B, *spatial)`` float32, 0 where the label is `ignore`."""
    check_shapes(logits, target)
    return cross_entropy_of(log_softmax(logits), target, label_smoothing, ignore)


def ramp_sigmoid(t: float) -> float:
    """``exp(-5 (1 - t)^2)``, from 0.0067 at t = 0 to 1 at t = 1 and constant outside.

    Parameters
    ----------
    t : float
        Fraction of the ramp that is over.

    References
    ----------
    Laine S., Aila T., "Temporal Ensembling for Semi-Supervised Learning", ICLR 2017.

    Examples
    --------
    >>> round(ramp_sigmoid(0.5), 4)
    0.2865
    """
    return exp(-5.0 * (1.0 - min(max(t, 0.0), 1.0)) ** 2)
