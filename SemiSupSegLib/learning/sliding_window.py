"""Prediction of an image of any size by overlapping windows, blended by a Gaussian, one slab of it after another."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

_LEAST_WEIGHT = 1e-3

Box = tuple[slice, slice, slice]
"""Part of an image, (k, j, i)."""


class Slab(NamedTuple):
    """Finished slices of a prediction.

    Attributes
    ----------
    start : int
        Its first slice, counted from where the predicted region begins.
    probabilities : torch.Tensor
        ``(C, k, j, i)`` float32, summing to 1 over classes. The next slab overwrites them.
    """

    start: int
    probabilities: Tensor


@dataclass(frozen=True)
class SlidingWindow:
    """How images are covered with windows, and what predicts each of them.

    Attributes
    ----------
    window : sequence of int
        Window size (k, j, i); with 1 slice the network is two-dimensional.
    network : callable
        ``(B, 1, *spatial)`` to logits ``(B, C, *spatial)``.
    n_classes : int
        C, background included.
    overlap : float
        Share of a window that its neighbour covers too, 0 to 0.9.
    batch_size : int
        How many windows the network sees at once, at most. With 3 or more it sees a single one only where there is no
        other: of single ones torch computes convolutions in float32 on a CPU at half the speed.
    mirror_axes : sequence of int
        Array axes (0 = k) along which predictions of mirrored windows are averaged in.
    """

    window: Sequence[int]
    network: Callable[[Tensor], Tensor]
    n_classes: int
    overlap: float = 0.5
    batch_size: int = 3
    mirror_axes: Sequence[int] = ()

    def __call__(self, image: Tensor, on_window: Callable[[float], None] = lambda fraction: None) -> Tensor:
        """Class probabilities of a whole image.

        Parameters
        ----------
        image : torch.Tensor
            ``(k, j, i)`` float32, normalised.
        on_window : callable
            Told the fraction that is done; may raise to stop.

        Returns
        -------
        torch.Tensor
            ``(C, k, j, i)`` float32, summing to 1 over classes.
        """
        whole = torch.empty((self.n_classes, *image.shape), device=image.device)
        for start, slab in self.slabs(image, on_window=on_window):
            whole[:, start : start + slab.shape[1]] = slab
        return whole

    def slabs(
        self,
        image: Tensor,
        *,
        axis: int = 0,
        region: Box | None = None,
        lead: int = 0,
        on_window: Callable[[float], None] = lambda fraction: None,
    ) -> Iterator[Slab]:
        """The prediction of an image, slab by slab: memory holds what is as thick as a window, not the whole.

        Parameters
        ----------
        image : torch.Tensor
            ``(k, j, i)`` float32, normalised.
        axis : int
            Array axis along which slabs follow each other.
        region : tuple of slice, optional
            Part of the image that is predicted, as if with the rest; windows elsewhere are left out.
        lead : int
            With how many slices of the slab before it a slab begins.
        on_window : callable
            Told the fraction of the region that is done; may raise to stop.

        Yields
        ------
        Slab
            Of the region's size across the axis.
        """
        padded, region = _padded(image, self.window, region or tuple(slice(0, size) for size in image.shape))
        starts = _starts_touching(region, padded.shape, self.window, self.overlap)
        across = [each for other, each in enumerate(starts) if other != axis]
        # Where a row has few windows several rows are added at once, so that batches are full.
        rows_at_once = -(-self.batch_size // math.prod(map(len, across)))
        groups = [starts[axis][first : first + rows_at_once] for first in range(0, len(starts[axis]), rows_at_once)]
        thickness = max(group[-1] - group[0] for group in groups) + self.window[axis]
        sums = _RunningSums(self, axis, region, thickness, lead, image.device)
        flips = [axes for n in range(len(self.mirror_axes) + 1) for axes in itertools.combinations(self.mirror_axes, n)]
        done, count = 0, math.prod(map(len, starts))
        for group, following in itertools.zip_longest(groups, groups[1:]):
            corners = list(itertools.product(*(group if other == axis else each for other, each in enumerate(starts))))
            for chosen in _even_batches(corners, self.batch_size):
                boxes = [_box(corner, self.window) for corner in chosen]
                patches = torch.stack([padded[box] for box in boxes])
                for axes in flips:
                    self._add(sums, boxes, patches, axes, 1 / len(flips))
                done += len(boxes)
                on_window(done / count)
            stop = region[axis].stop if following is None else following[0]
            if stop > sums.start:
                yield sums.finished(stop)
                sums.forget_before(stop)

    def numbers_held(self, shape: Sequence[int], axis: int) -> int:
        """About how many numbers `slabs` holds for an image or region of a shape."""
        return (self.n_classes + 1) * min(shape[axis], self.window[axis]) * (math.prod(shape) // shape[axis])

    def _add(
        self, sums: _RunningSums, boxes: Sequence[Box], patches: Tensor, axes: Sequence[int], share: float
    ) -> None:
        """Add what the network says of patches ``(B, k, j, i)`` that are mirrored along array axes.

        Of many classes a batch's logits are the largest thing there is, so probabilities are made window by window, and
        nothing of a batch is left when the network sees the next one.
        """
        inputs = patches.flip([axis + 1 for axis in axes]).unsqueeze(1) if axes else patches.unsqueeze(1)
        flat = inputs.shape[2] == 1
        logits = self.network(inputs.squeeze(2)).unsqueeze(2) if flat else self.network(inputs)
        for box, each in zip(boxes, logits, strict=True):
            probabilities = torch.softmax(each.float(), dim=0)
            sums.add(box, probabilities.flip([axis + 1 for axis in axes]) if axes else probabilities, share)


class _RunningSums:
    """Weighted sums of probabilities over windows, of those slices only that are not finished yet.

    Parameters
    ----------
    axis : int
        Array axis along which slices are finished one after another.
    region : tuple of slice
        Of the padded image: what is predicted.
    thickness : int
        How many unfinished slices windows reach at a time.
    lead : int
        How many finished slices are kept before the unfinished ones.

    Attributes
    ----------
    start : int
        The first unfinished slice, in the padded image.
    """

    def __init__(self, sliding: SlidingWindow, axis: int, region: Box, thickness: int, lead: int, device: torch.device):
        self.axis, self.region, self.lead = axis, region, lead
        shape = [each.stop - each.start for each in region]
        shape[axis] = lead + min(shape[axis], thickness)
        self.total = torch.zeros((sliding.n_classes, *shape), device=device)
        self.weight = torch.zeros(shape, device=device)
        self.blend = _gaussian(sliding.window, device)
        self.start = region[axis].start
        self.kept = 0  # slices of the lead that are there already

    def add(self, box: Box, probabilities: Tensor, share: float) -> None:
        """Add what a window at a box of the padded image says of the region, ``(C, k, j, i)``, as a share of it all."""
        ours, theirs = [], []
        for axis, (part, whole) in enumerate(zip(box, self.region, strict=True)):
            low, high = max(part.start, whole.start), min(part.stop, whole.stop)
            first = self.start - self.lead if axis == self.axis else whole.start
            ours.append(slice(low - first, high - first))
            theirs.append(slice(low - part.start, high - part.start))
        blend = self.blend[tuple(theirs)]
        self.total[(slice(None), *ours)].addcmul_(probabilities[(slice(None), *theirs)], blend, value=share)
        self.weight[tuple(ours)].add_(blend, alpha=share)

    def finished(self, stop: int) -> Slab:
        """The slices before one of the padded image that no window reaches any more, and the lead."""
        size = stop - self.start
        new = self.total.narrow(self.axis + 1, self.lead, size)
        new /= self.weight.narrow(self.axis, self.lead, size)
        slab = self.total.narrow(self.axis + 1, self.lead - self.kept, self.kept + size)
        return Slab(self.start - self.kept - self.region[self.axis].start, slab)

    def forget_before(self, stop: int) -> None:
        """Make room for slices that windows from one on reach."""
        size = stop - self.start
        _move_up(self.total, self.axis + 1, size)
        _move_up(self.weight, self.axis, size)
        self.kept = min(self.lead, self.kept + size)
        self.start = stop


def _move_up(tensor: Tensor, axis: int, step: int) -> None:
    """Move everything along an axis by a number of places towards the beginning, zeros following, in place."""
    length = tensor.shape[axis]
    for first in range(0, length - step, step):  # in pieces that don't overlap with where they come from
        size = min(step, length - step - first)
        tensor.narrow(axis, first, size).copy_(tensor.narrow(axis, first + step, size))
    tensor.narrow(axis, length - step, step).zero_()


def _padded(image: Tensor, window: Sequence[int], region: Box) -> tuple[Tensor, Box]:
    """The image grown on all sides to at least one window, continued as at its edge, as training patches are.

    Beside it, where in it the region lies.
    """
    missing = [max(0, size - length) for size, length in zip(window, image.shape, strict=True)]
    moved = tuple(
        slice(each.start + lack // 2, each.stop + lack // 2) for each, lack in zip(region, missing, strict=True)
    )
    if not any(missing):
        return image, moved
    pad = [each for lack in reversed(missing) for each in (lack // 2, lack - lack // 2)]
    return torch.nn.functional.pad(image[None, None], pad, mode="replicate")[0, 0], moved


def _starts_touching(region: Box, shape: Sequence[int], window: Sequence[int], overlap: float) -> list[list[int]]:
    """Where the windows begin that reach a region, along each axis."""
    return [
        [start for start in _starts(length, size, overlap) if start < part.stop and start + size > part.start]
        for part, length, size in zip(region, shape, window, strict=True)
    ]


def _starts(length: int, size: int, overlap: float) -> list[int]:
    """Evenly spread windows that cover an axis, neighbours overlapping by at least the share asked for."""
    steps = math.ceil((length - size) / max(1.0, size * (1 - overlap))) if length > size else 0
    return [round(index * (length - size) / steps) for index in range(steps + 1)] if steps else [0]


def _even_batches(corners: Sequence, most: int) -> Iterator[Sequence]:
    """As few batches as possible, whose sizes differ by one at most."""
    count = -(-len(corners) // most)
    for index in range(count):
        yield corners[len(corners) * index // count : len(corners) * (index + 1) // count]


def _box(corner: Sequence[int], window: Sequence[int]) -> Box:
    return tuple(slice(start, start + size) for start, size in zip(corner, window, strict=True))


def _gaussian(window: Sequence[int], device: torch.device) -> Tensor:
    """Weights of a window's voxels, 1 in the centre; standard deviation an eighth of each side (nnU-Net's)."""
    blend = torch.ones(tuple(window), device=device)
    for axis, size in enumerate(window):
        offsets = (torch.arange(size, device=device, dtype=torch.float32) - (size - 1) / 2) / max(1.0, size / 8)
        shape = [-1 if n == axis else 1 for n in range(len(window))]
        blend = blend * torch.exp(-0.5 * offsets**2).reshape(shape)
    return blend.clamp_min(_LEAST_WEIGHT)
