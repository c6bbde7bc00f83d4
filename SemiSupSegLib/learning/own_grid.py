"""A prediction on the plan's grid brought to an image's own grid, slab by slab, so that neither is held as a whole."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from torch import Tensor

from ..volume import Geometry
from .grids import resample_probabilities
from .memory import give_back_freed_memory
from .sliding_window import Box, SlidingWindow

_SLAB_NUMBERS = 1_000_000
"""Probabilities, of all classes together, that are made at a time."""
_MORE_STRIPS = 1.1
"""Where strips are needed a tenth more of them are made, for what a strip holds beside its windows' sums."""
_LARGE_IMAGE = 4_000_000
"""Voxels from which freed memory is worth more to the system than to the next image."""


def predicted_slabs(
    sliding: SlidingWindow,
    image: Tensor,
    source: Geometry,
    target: Geometry,
    *,
    most_numbers: float = math.inf,
    on_window: Callable[[float], None] = lambda fraction: None,
) -> Iterator[tuple[Box, Tensor]]:
    """Class probabilities of an image on its own grid, part by part.

    Parameters
    ----------
    sliding : SlidingWindow
        Predicts.
    image : torch.Tensor
        ``(k, j, i)`` float32, prepared, on the grid `source`.
    source, target : Geometry
        The plan's grid and the image's own; their axes have the same directions, as `plan.prepare_image` makes them.
    most_numbers : float
        How many numbers `sliding` may hold. Where they would be more, as with many classes, the image is predicted in
        strips; windows that reach two of them are computed twice.
    on_window : callable
        Told the fraction of the windows that is done, also between parts; may raise to stop.

    Yields
    ------
    box : tuple of slice
        Part of the target grid, (k, j, i). Together they cover it, once.
    probabilities : torch.Tensor
        ``(C, k, j, i)`` float32 of that part, on the CPU; good until the next one.
    """
    axes = [_Axis(source, target, axis) for axis in range(3)]
    # What is held is as thick as a window: along the axis of most windows it is the smallest part of the image.
    along, *others = sorted(axes, key=lambda each: sliding.window[each.axis] / each.source_length)
    across = max(others, key=lambda each: each.source_length)
    too_many = sliding.numbers_held(image.shape, along.axis) / most_numbers
    n_strips = 1 if too_many <= 1 else math.ceil(_MORE_STRIPS * too_many)
    strips = _even_parts(across.target_length, min(n_strips, across.target_length))
    finished, told = 0, 0.0

    def tell(fraction: float) -> None:
        nonlocal told
        told = (finished + fraction) / len(strips)
        on_window(told)

    for strip in strips:
        if math.prod(target.shape) > _LARGE_IMAGE:
            give_back_freed_memory()
        part = across.needed(strip)
        region = tuple(part if axis == across.axis else slice(0, length) for axis, length in enumerate(image.shape))
        done = 0
        for start, slab in sliding.slabs(image, axis=along.axis, region=region, lead=_LEAD, on_window=tell):
            stop = start + slab.shape[along.axis + 1]
            probabilities = slab.cpu()
            ready = along.ready(stop)
            thickness = max(1, _SLAB_NUMBERS // (sliding.n_classes * _area(target, along, across, strip)))
            for first in range(done, ready, thickness):
                on_window(told)
                wanted = slice(first, min(ready, first + thickness))
                have = along.needed(wanted)
                box = _box({along.axis: wanted, across.axis: strip}, target.shape)
                known = _box({along.axis: have, across.axis: part}, source.shape)
                inside = [slice(None)] * 4
                inside[along.axis + 1] = slice(have.start - start, have.stop - start)
                there = probabilities[tuple(inside)]
                yield box, resample_probabilities(there, _part(source, known), _part(target, box))
            done = ready
        del slab, probabilities, there  # parts of what the next strip needs room for
        finished += 1


_LEAD = 2
"""Slices of the slab before that interpolation between it and the next one may need."""
_ROUNDING = 1e-3


class _Axis:
    """How the voxels of two grids lie along one array axis (0 = k)."""

    def __init__(self, source: Geometry, target: Geometry, axis: int):
        mapping = target.index_map(source)
        scale, offset = mapping[2 - axis, 2 - axis], mapping[2 - axis, 3]
        self.axis = axis
        self.source_length, self.target_length = source.shape[axis], target.shape[axis]
        places = scale * np.arange(self.target_length) + offset
        self._first = np.floor(places - _ROUNDING).astype(int).clip(0, self.source_length - 1)
        self._behind = np.clip(np.ceil(places + _ROUNDING).astype(int) + 1, self._first + 1, self.source_length)

    def needed(self, part: slice) -> slice:
        """The source voxels between which a part of the target is interpolated."""
        return slice(int(self._first[part.start]), int(self._behind[part.stop - 1]))

    def ready(self, stop: int) -> int:
        """How many target voxels, from the first, need no source voxel from `stop` on."""
        return int(np.searchsorted(self._behind, stop, side="right"))


def _even_parts(length: int, count: int) -> list[slice]:
    bounds = [length * index // count for index in range(count + 1)]
    return [slice(*each) for each in itertools.pairwise(bounds)]


def _area(target: Geometry, along: _Axis, across: _Axis, strip: slice) -> int:
    """Voxels of a strip in one slice."""
    return math.prod(target.shape) // (along.target_length * across.target_length) * (strip.stop - strip.start)


def _box(parts: dict[int, slice], shape: Sequence[int]) -> Box:
    return tuple(parts.get(axis, slice(0, length)) for axis, length in enumerate(shape))


def _part(geometry: Geometry, box: Box) -> Geometry:
    """The grid of a part of a grid."""
    return geometry.cropped([each.start for each in box[::-1]], [each.stop - each.start for each in box[::-1]])
