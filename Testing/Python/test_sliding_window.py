"""The sliding window: every voxel covered, nothing shifted, probabilities that sum to one, slab by slab as at once."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from SemiSupSegLib.learning.sliding_window import SlidingWindow, _box, _even_batches, _gaussian, _padded, _starts

shapes = st.tuples(st.integers(1, 17), st.integers(1, 17), st.integers(1, 17))
windows = st.tuples(st.integers(1, 7), st.integers(2, 7), st.integers(2, 7))
overlaps = st.floats(0, 0.9)


def of_each_voxel(x: torch.Tensor) -> torch.Tensor:
    """Logits of three classes that depend on the voxel's own value alone."""
    return torch.cat([x, -2 * x, torch.sin(3 * x)], dim=1)


def lopsided(x: torch.Tensor) -> torch.Tensor:
    """Logits of three classes that depend on the voxel's place in the window too."""
    ramps = [torch.linspace(-1, 1, size).view(-1, *(1,) * (2 - axis)) for axis, size in enumerate(x.shape[-3:])]
    return torch.cat([x + ramps[0], x * ramps[1], x - ramps[2]], dim=1)


def plain(sliding: SlidingWindow, image: torch.Tensor) -> torch.Tensor:
    """All windows one by one, the sums of the whole image in memory: what `SlidingWindow` must equal."""
    padded, inside = _padded(image, sliding.window, tuple(slice(0, size) for size in image.shape))
    blend = _gaussian(sliding.window, image.device)
    total, weight = torch.zeros((sliding.n_classes, *padded.shape)), torch.zeros(padded.shape)
    starts = [_starts(*each, sliding.overlap) for each in zip(padded.shape, sliding.window, strict=True)]
    for corner in itertools.product(*starts):
        box = _box(corner, sliding.window)
        total[(slice(None), *box)] += sliding.network(padded[box][None, None]).softmax(1)[0] * blend
        weight[box] += blend
    return (total / weight)[(slice(None), *inside)]


@given(st.integers(1, 40), st.integers(1, 12), overlaps)
def test_windows_cover_an_axis_and_overlap_as_asked(length, size, overlap):
    length = max(length, size)
    starts = np.array(_starts(length, size, overlap))
    assert starts[0] == 0
    assert starts[-1] == length - size
    steps = np.diff(starts)
    assert (steps > 0).all()
    assert (steps <= max(1, np.ceil(size * (1 - overlap)))).all()


@settings(max_examples=60)
@given(shapes, windows, overlaps, st.integers(1, 5), st.sets(st.integers(0, 2)))
def test_a_function_of_the_voxel_is_the_same_through_the_window(shape, window, overlap, batch_size, mirrored):
    image = torch.from_numpy(np.random.default_rng(0).standard_normal(shape).astype(np.float32))
    found = SlidingWindow(window, of_each_voxel, 3, overlap, batch_size, sorted(mirrored))(image)
    direct = torch.softmax(of_each_voxel(image[None, None]), dim=1)[0]
    assert found.shape == (3, *shape)
    torch.testing.assert_close(found, direct, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.sum(dim=0), torch.ones(shape), atol=1e-5, rtol=0)


solid_windows = st.tuples(st.integers(2, 7), st.integers(2, 7), st.integers(2, 7))


@settings(max_examples=100)
@given(shapes, solid_windows, overlaps, st.integers(1, 9), st.integers(0, 2), st.integers(0, 3))
def test_slabs_along_any_axis_are_the_plain_sum_over_windows(shape, window, overlap, batch_size, axis, lead):
    image = torch.from_numpy(np.random.default_rng(1).standard_normal(shape).astype(np.float32))
    sliding = SlidingWindow(window, lopsided, 3, overlap, batch_size)
    wanted = plain(sliding, image)
    end = 0
    for start, slab in sliding.slabs(image, axis=axis, lead=lead):
        length = slab.shape[axis + 1]
        assert start == max(0, end - lead)
        assert start + length > end
        end = start + length
        torch.testing.assert_close(slab, wanted.narrow(axis + 1, start, length), atol=1e-5, rtol=0)
    assert end == shape[axis]


@settings(max_examples=60)
@given(shapes, solid_windows, overlaps, st.data())
def test_a_strip_is_predicted_as_it_is_with_the_rest(shape, window, overlap, data):
    image = torch.from_numpy(np.random.default_rng(2).standard_normal(shape).astype(np.float32))
    sliding = SlidingWindow(window, lopsided, 3, overlap)
    axis, across = data.draw(st.permutations([0, 1, 2]))[:2]
    begin = data.draw(st.integers(0, shape[across] - 1))
    strip = slice(begin, data.draw(st.integers(begin + 1, shape[across])))
    region = tuple(strip if each == across else slice(0, size) for each, size in enumerate(shape))
    slabs = [slab.clone() for _, slab in sliding.slabs(image, axis=axis, region=region)]
    wanted = plain(sliding, image)[(slice(None), *region)]
    torch.testing.assert_close(torch.cat(slabs, dim=axis + 1), wanted, atol=1e-5, rtol=0)


@given(st.integers(1, 50), st.integers(3, 20))
def test_no_window_is_computed_alone_where_there_are_others(count, most):
    sizes = [len(batch) for batch in _even_batches(list(range(count)), most)]
    assert sum(sizes) == count
    assert max(sizes) <= most
    assert len(sizes) == -(-count // most)
    assert min(sizes) > 1 or count == 1


def test_windows_that_do_not_touch_a_region_are_not_computed():
    seen = []

    def network(x: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        return of_each_voxel(x)

    sliding = SlidingWindow((4, 4, 4), network, 3)
    whole, strip = torch.zeros(4, 4, 40), (slice(0, 4), slice(0, 4), slice(0, 4))
    list(sliding.slabs(whole, axis=0, region=strip))
    assert sum(seen) == 2
    seen.clear()
    sliding(whole)
    assert sum(seen) == 19


def test_an_image_smaller_than_the_window_lies_in_its_middle():
    seen = []

    def network(x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return torch.cat([x, -x], dim=1)

    image = torch.arange(1.0, 13.0).view(1, 3, 4)
    assert SlidingWindow((4, 7, 4), network, 2)(image).shape == (2, 1, 3, 4)
    window = seen[0][0, 0]
    assert torch.equal(window[1, 2:5], image[0])
    assert torch.equal(window[0], window[1])  # goes on as at the edge
    assert (window[:, :2] == window[:, 2:3]).all()


def test_windows_of_one_slice_go_to_a_flat_network():
    def network(x: torch.Tensor) -> torch.Tensor:
        assert x.shape[1:] == (1, 4, 5)
        return torch.cat([x, -x], dim=1)

    assert SlidingWindow((1, 4, 5), network, 2)(torch.randn(3, 6, 8)).shape == (2, 3, 6, 8)


def test_mirroring_averages_what_a_lopsided_network_says():
    def network(x: torch.Tensor) -> torch.Tensor:
        ramp = torch.linspace(-3, 3, x.shape[-1]).expand_as(x)
        return torch.cat([ramp, -ramp], dim=1)

    image = torch.zeros(2, 4, 4)
    assert SlidingWindow((2, 4, 4), network, 2)(image)[0, 0, 0, 0] < 0.1
    averaged = SlidingWindow((2, 4, 4), network, 2, mirror_axes=(2,))(image)
    torch.testing.assert_close(averaged, torch.full_like(averaged, 0.5))


def test_progress_ends_at_one_and_may_stop():
    told = []
    SlidingWindow((1, 4, 4), of_each_voxel, 3)(torch.zeros(1, 9, 9), told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0

    def stop(fraction: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        SlidingWindow((1, 4, 4), of_each_voxel, 3)(torch.zeros(1, 9, 9), stop)
