"""Largest components: what stays is connected, and nothing larger goes."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import binary_dilation, label

from SemiSupSegLib.geometry import Geometry
from SemiSupSegLib.labels import IGNORE
from SemiSupSegLib.learning.postprocessing import keep_largest_components, largest_component, main_piece
from SemiSupSegLib.learning.whereabouts import Whereabouts

SIZES = hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=6)


@settings(max_examples=100, deadline=None)
@given(SIZES.flatmap(lambda size: hnp.arrays(bool, size)))
def test_largest_component_is_one_component_that_none_exceeds(mask):
    largest = largest_component(mask)
    components, _ = label(mask)
    sizes = np.bincount(components.ravel())[1:]
    assert not (largest & ~mask).any()
    assert label(largest)[1] == min(len(sizes), 1)
    assert largest.sum() == max(sizes, default=0)
    assert np.array_equal(largest_component(largest), largest)


def test_voxels_that_touch_by_a_corner_are_not_connected():
    mask = np.array([[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]])
    assert np.array_equal(largest_component(mask), np.array([[0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]], dtype=bool))


def test_of_equal_components_the_first_stays():
    assert largest_component(np.array([[1, 0, 1]])).tolist() == [[True, False, False]]


def test_result_is_a_new_array():
    mask = np.ones((2, 2), dtype=bool)
    largest_component(mask)[0, 0] = False
    assert mask.all()


@settings(max_examples=60, deadline=None)
@given(
    SIZES.flatmap(lambda size: hnp.arrays(np.uint8, size, elements=st.integers(0, 3))),
    st.sets(st.integers(1, 4)),
)
def test_each_chosen_class_keeps_its_largest_component_and_the_others_all(labels, classes):
    before = labels.copy()
    cleaned = keep_largest_components(labels, classes)
    assert np.array_equal(labels, before)
    assert cleaned.dtype == labels.dtype
    for index in range(1, 4):
        wanted = largest_component(labels == index) if index in classes else labels == index
        assert np.array_equal(cleaned == index, wanted)


@settings(max_examples=100, deadline=None)
@given(SIZES.flatmap(lambda size: hnp.arrays(bool, size)), st.integers(0, 2))
def test_the_main_piece_is_what_widened_touches_the_largest_component(mask, reach):
    box = np.ones((2 * reach + 1,) * mask.ndim)
    pieces = label(binary_dilation(mask, box))[0]
    largest = largest_component(mask)
    wanted = mask & np.isin(pieces, np.unique(pieces[largest]))
    if mask.any():
        assert np.array_equal(main_piece(mask, (reach,) * mask.ndim), wanted)
    else:
        assert not main_piece(mask, (reach,) * mask.ndim).any()


@settings(max_examples=100, deadline=None)
@given(SIZES.flatmap(lambda size: hnp.arrays(bool, size)), st.integers(0, 2**32 - 1))
def test_weights_decide_what_is_largest(mask, seed):
    numbers = np.random.default_rng(seed)
    weights = tuple(numbers.random(length) for length in mask.shape)
    of_voxel = 0.05 + 0.95 * functools.reduce(np.multiply.outer, weights)
    components, count = label(mask)
    sums = [of_voxel[components == index].sum() for index in range(1, count + 1)]
    kept = largest_component(mask, weights)
    assert of_voxel[kept].sum() == pytest.approx(max(sums, default=0))
    assert label(kept)[1] == min(count, 1)
    uniform = tuple(np.ones(length) for length in mask.shape)
    assert np.array_equal(largest_component(mask, uniform), largest_component(mask))


@pytest.fixture
def two_pieces():
    """A piece in the usual place, a larger one elsewhere, and what strokes say of the place."""
    labels = np.zeros((4, 20, 20), dtype=np.uint8)
    labels[:, 9:12, 9:12] = 1
    labels[:, 0:4, 0:5] = 1
    annotation = np.full(labels.shape, IGNORE, dtype=np.uint8)
    annotation[1:3, 10, 8:13] = 1
    geometry = Geometry((20, 20, 4))
    return labels, Whereabouts.of([(annotation, geometry)]), geometry


def cleaned(labels, places, geometry):
    return keep_largest_components(labels, [1], weights=lambda label: places.weights(label, geometry))


def test_the_piece_in_the_usual_place_is_kept_though_another_is_larger(two_pieces):
    labels, places, geometry = two_pieces
    kept = cleaned(labels, places, geometry)
    assert kept[1, 10, 10] == 1
    assert kept[1, 0, 0] == 0
    assert cleaned(labels, Whereabouts({}), geometry)[1, 0, 0] == 1


def test_in_a_scan_that_lies_otherwise_size_decides(two_pieces):
    labels, places, geometry = two_pieces
    flipped = replace(geometry, direction=(-1, 0, 0, 0, 1, 0, 0, 0, 1))
    assert cleaned(labels, places, flipped)[1, 0, 0] == 1


def test_a_speck_in_the_usual_place_does_not_win_over_an_organ_elsewhere(two_pieces):
    labels, places, geometry = two_pieces
    labels[:, 8:20, 8:20] = 0
    labels[1, 10, 10] = 1
    assert cleaned(labels, places, geometry)[1, 0, 0] == 1


def test_background_is_never_cleaned():
    labels = np.array([[0, 1, 0]], dtype=np.uint8)
    assert np.array_equal(keep_largest_components(labels, [0, 1]), labels)
