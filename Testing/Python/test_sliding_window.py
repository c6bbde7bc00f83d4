"""The sliding window: every voxel covered, nothing shifted, probabilities that sum to one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from SemiSupSegLib.learning.sliding_window import _corners, sliding_window

shapes = st.tuples(st.integers(1, 17), st.integers(1, 17), st.integers(1, 17))
windows = st.tuples(st.integers(1, 7), st.integers(2, 7), st.integers(2, 7))
overlaps = st.floats(0, 0.9)


def of_each_voxel(x: torch.Tensor) -> torch.Tensor:
    """Logits of three classes that depend on the voxel's own value alone."""
    return torch.cat([x, -2 * x, torch.sin(3 * x)], dim=1)


@given(shapes, windows, overlaps)
def test_windows_cover_the_image_and_overlap_as_asked(shape, window, overlap):
    shape = tuple(max(length, size) for length, size in zip(shape, window, strict=True))
    corners = np.array(list(_corners(shape, window, overlap)))
    for axis, (length, size) in enumerate(zip(shape, window, strict=True)):
        starts = np.unique(corners[:, axis])
        assert starts[0] == 0
        assert starts[-1] == length - size
        steps = np.diff(starts)
        assert (steps <= max(1, np.ceil(size * (1 - overlap)))).all()


@settings(max_examples=60)
@given(shapes, windows, overlaps, st.integers(1, 5), st.sets(st.integers(0, 2)))
def test_a_function_of_the_voxel_is_the_same_through_the_window(shape, window, overlap, batch_size, mirrored):
    image = torch.from_numpy(np.random.default_rng(0).standard_normal(shape).astype(np.float32))
    found = sliding_window(
        image, window, of_each_voxel, 3, overlap=overlap, batch_size=batch_size, mirror_axes=sorted(mirrored)
    )
    direct = torch.softmax(of_each_voxel(image[None, None]), dim=1)[0]
    assert found.shape == (3, *shape)
    torch.testing.assert_close(found, direct, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.sum(dim=0), torch.ones(shape), atol=1e-5, rtol=0)


def test_an_image_smaller_than_the_window_lies_in_its_middle():
    seen = []

    def network(x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return torch.cat([x, -x], dim=1)

    image = torch.arange(1.0, 13.0).view(1, 3, 4)
    assert sliding_window(image, (4, 7, 4), network, 2).shape == (2, 1, 3, 4)
    window = seen[0][0, 0]
    assert torch.equal(window[1, 2:5], image[0])
    assert torch.equal(window[0], window[1])  # goes on as at the edge
    assert (window[:, :2] == window[:, 2:3]).all()


def test_windows_of_one_slice_go_to_a_flat_network():
    def network(x: torch.Tensor) -> torch.Tensor:
        assert x.shape[1:] == (1, 4, 5)
        return torch.cat([x, -x], dim=1)

    assert sliding_window(torch.randn(3, 6, 8), (1, 4, 5), network, 2).shape == (2, 3, 6, 8)


def test_mirroring_averages_what_a_lopsided_network_says():
    def network(x: torch.Tensor) -> torch.Tensor:
        ramp = torch.linspace(-3, 3, x.shape[-1]).expand_as(x)
        return torch.cat([ramp, -ramp], dim=1)

    image = torch.zeros(2, 4, 4)
    lopsided = sliding_window(image, (2, 4, 4), network, 2)
    assert lopsided[0, 0, 0, 0] < 0.1
    averaged = sliding_window(image, (2, 4, 4), network, 2, mirror_axes=(2,))
    torch.testing.assert_close(averaged, torch.full_like(averaged, 0.5))


def test_progress_ends_at_one_and_may_stop():
    told = []
    sliding_window(torch.zeros(1, 9, 9), (1, 4, 4), of_each_voxel, 3, on_window=told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0

    def stop(fraction: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sliding_window(torch.zeros(1, 9, 9), (1, 4, 4), of_each_voxel, 3, on_window=stop)
