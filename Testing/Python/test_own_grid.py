"""From the plan's grid to the image's own, slab by slab and in strips: the same as of the whole at once."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from SemiSupSegLib.learning import own_grid
from SemiSupSegLib.learning.grids import resample_probabilities
from SemiSupSegLib.learning.own_grid import predicted_slabs
from SemiSupSegLib.learning.sliding_window import SlidingWindow
from SemiSupSegLib.volume import Geometry

OBLIQUE = (0.0, 0.8, 0.6, -1.0, 0.0, 0.0, 0.0, -0.6, 0.8)


def network(x: torch.Tensor) -> torch.Tensor:
    ramp = torch.linspace(-1, 1, x.shape[-1])
    return torch.cat([x, 1 - x, x * ramp, ramp - x], dim=1)


def assembled(sliding, image, source, target, **options) -> np.ndarray:
    """The parts put together; each voxel must come once."""
    whole, times = np.zeros((sliding.n_classes, *target.shape), np.float32), np.zeros(target.shape, int)
    for box, probabilities in predicted_slabs(sliding, image, source, target, **options):
        whole[(slice(None), *box)] = probabilities
        times[box] += 1
    assert (times == 1).all()
    return whole


sizes = st.tuples(st.integers(1, 20), st.integers(1, 20), st.integers(1, 20))
spacings = st.tuples(*[st.sampled_from((0.4, 1.0, 1.3, 2.5))] * 3)


@settings(max_examples=100, deadline=None)
@given(sizes, spacings, st.tuples(*[st.integers(2, 6)] * 3), st.sampled_from((math.inf, 200, 40)), st.integers(1, 400))
def test_parts_together_are_the_whole(size, spacing, window, most_numbers, numbers_at_once):
    target = Geometry(size, (1.0, 1.0, 1.0), (3.0, -20.0, 7.7), OBLIQUE)
    source = target.with_spacing(spacing)
    image = torch.from_numpy(np.random.default_rng(0).standard_normal(source.shape).astype(np.float32))
    sliding = SlidingWindow(window, network, 4)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(own_grid, "_SLAB_NUMBERS", numbers_at_once)
        found = assembled(sliding, image, source, target, most_numbers=most_numbers)
    wanted = resample_probabilities(sliding(image), source, target).numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_progress_grows_to_one_over_all_strips():
    grid = Geometry((30, 12, 12))
    told = []
    sliding = SlidingWindow((4, 4, 4), network, 4)
    assembled(sliding, torch.zeros(grid.shape), grid, grid, most_numbers=400, on_window=told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert len([each for each in told if each <= 0.5]) > 3
