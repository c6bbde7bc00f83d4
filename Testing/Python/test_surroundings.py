"""What lies beyond strokes of background, against a plain search and on scans made for it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from SemiSupSegLib.errors import VolumeError
from SemiSupSegLib.labels import IGNORE
from SemiSupSegLib.superpixels import SuperpixelSettings, compute_superpixels
from SemiSupSegLib.surroundings import beyond_background

SPACING = (1.0, 2.0, 3.0)


def plainly(image, scribble, spacing, ratio, mm_per_deviation=33.0):
    """The same where every voxel is a superpixel: shortest ways by going over all neighbours until nothing changes."""
    image = image / (image.std() or 1.0)
    lengths = []
    for strokes in (scribble == 0, (scribble != 0) & (scribble != IGNORE)):
        if not strokes.any():
            return np.zeros(image.shape, bool)
        length = np.where(strokes, 0.0, np.inf)
        for _ in range(image.size):
            for axis, size in enumerate(spacing[::-1]):
                for shift in (-1, 1):
                    there, grey = (np.roll(each, shift, axis) for each in (length, image))
                    there[tuple([slice(None)] * axis + [0 if shift == 1 else -1])] = np.inf
                    length = np.minimum(length, there + np.abs(grey - image) + size / mm_per_deviation)
        lengths.append(length)
    return (scribble == IGNORE) & (lengths[1] >= ratio * lengths[0])


def made_up(seed, shape=(3, 4, 4), n_strokes=6):
    numbers = np.random.default_rng(seed)
    scribble = np.full(shape, IGNORE, np.uint8)
    scribble.reshape(-1)[numbers.choice(scribble.size, n_strokes, replace=False)] = numbers.integers(0, 3, n_strokes)
    return numbers.random(shape), scribble


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1.2, 1.5, 2.5]))
def test_it_is_what_a_plain_search_finds(seed, ratio):
    image, scribble = made_up(seed)
    ids = np.arange(image.size, dtype=np.int32).reshape(image.shape)
    found = beyond_background(image, scribble, ids, SPACING, ratio=ratio)
    np.testing.assert_array_equal(found, plainly(image, scribble, SPACING, ratio))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 100), st.floats(-1000, 1000))
def test_scale_of_grey_values_and_names_of_superpixels_change_nothing(seed, scale, offset):
    image, scribble = made_up(seed, (4, 6, 6))
    numbers = np.random.default_rng(seed)
    ids = numbers.integers(0, 30, image.shape).astype(np.int32)
    found = beyond_background(image, scribble, ids, SPACING, ratio=1.5001)
    renamed = numbers.permutation(40).astype(np.int32)[ids]
    np.testing.assert_array_equal(
        beyond_background(scale * image + offset, scribble, renamed, SPACING, ratio=1.5001), found
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_no_touched_superpixel_is_beyond_and_a_greater_ratio_finds_no_more(seed):
    image, scribble = made_up(seed, (4, 6, 6))
    ids = np.random.default_rng(seed).integers(-1, 30, image.shape).astype(np.int32)
    found, stricter = (beyond_background(image, scribble, ids, SPACING, ratio=ratio) for ratio in (1.5, 3))
    assert not np.isin(ids[found], ids[scribble != IGNORE]).any()
    assert not found[ids < 0].any()
    assert not (stricter & ~found).any()


@pytest.mark.parametrize("painted", [(), (0,), (1,), (1, 2)])
def test_nothing_is_beyond_where_one_side_is_unpainted(painted):
    image, scribble = made_up(3)
    scribble[~np.isin(scribble, painted)] = IGNORE
    assert not beyond_background(image, scribble, np.arange(image.size).reshape(image.shape), SPACING).any()


def test_an_image_of_one_grey_value_counts_millimetres():
    scribble = np.full((1, 1, 11), IGNORE, np.uint8)
    scribble[0, 0, 0], scribble[0, 0, 10] = 1, 0
    ids = np.arange(11, dtype=np.int32).reshape(1, 1, 11)
    assert np.flatnonzero(beyond_background(np.ones(ids.shape), scribble, ids, SPACING, ratio=1.49)).tolist() == [
        6,
        7,
        8,
        9,
    ]


def test_around_a_ball_painted_in_two_slices_only_the_surroundings_are_beyond():
    k, j, i = np.indices((24, 40, 40))
    truth = (k - 12) ** 2 + (j - 15) ** 2 + (i - 15) ** 2 < 64
    image = truth + np.random.default_rng(0).normal(0, 0.15, truth.shape)
    scribble = np.full(truth.shape, IGNORE, np.uint8)
    scribble[(10, 14), 15, 12:18] = 1
    scribble[(10, 14), 5, 5:25] = 0
    scribble[12, 5:25, 26] = 0
    ids = compute_superpixels(image, (1.0, 1.0, 1.0), SuperpixelSettings(size_mm=3))
    found = beyond_background(image, scribble, ids, (1.0, 1.0, 1.0))
    assert found.mean() > 0.5
    assert truth[found].mean() < 0.005
    assert found[:, 35:, 35:].mean() > 0.95


def test_other_grids_are_refused_in_words():
    with pytest.raises(VolumeError, match="shape"):
        beyond_background(np.zeros((2, 2, 2)), np.zeros((2, 2, 2), np.uint8), np.zeros((2, 2, 3), int), SPACING)
