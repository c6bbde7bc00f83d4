"""Propagation: the expansion's rules, the table that follows strokes, and the quality guards."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from SemiSupSegLib.errors import SettingsError, VolumeError
from SemiSupSegLib.propagation import (
    SuperpixelTable,
    leave_one_stroke_out_agreement,
    oracle_dice,
    propagate,
)

NONE = 255
SHAPE = (3, 4, 5)

few_classes = st.sampled_from([NONE, NONE, NONE, 0, 1, 2])
scribbles = arrays.arrays(np.uint8, SHAPE, elements=few_classes)
superpixels = arrays.arrays(np.int32, SHAPE, elements=st.integers(-1, 9))
rules = st.builds(dict, conflict=st.sampled_from(["keep", "majority"]), purity=st.sampled_from([0.5, 0.7, 0.9, 1.0]))


def labels(*values: int) -> np.ndarray:
    return np.array(values, np.uint8)


def by_definition(scribble: np.ndarray, ids: np.ndarray, conflict: str, purity: float) -> np.ndarray:
    """The rule of the specification, one superpixel at a time."""
    result = scribble.copy()
    for number in set(ids[ids >= 0]):
        here = ids == number
        found = scribble[here & (scribble != NONE)]
        if not len(found):
            continue
        classes, counts = np.unique(found, return_counts=True)
        share = counts.max() / len(found)
        if len(classes) == 1 or (conflict == "majority" and share >= purity and share > 0.5):
            result[here & (scribble == NONE)] = classes[counts.argmax()]
    return result


@settings(max_examples=200, deadline=None)
@given(scribbles, superpixels, rules)
def test_expansion_follows_the_rule(scribble, ids, rule):
    np.testing.assert_array_equal(propagate(scribble, ids, **rule), by_definition(scribble, ids, **rule))


@given(superpixels)
def test_no_scribble_leaves_everything_unannotated(ids):
    assert (propagate(np.full(SHAPE, NONE, np.uint8), ids) == NONE).all()


def test_superpixel_without_scribble_stays_unannotated():
    np.testing.assert_array_equal(propagate(labels(1, NONE, NONE), np.array([0, 1, 1])), [1, NONE, NONE])


def test_background_is_a_class_like_any_other():
    np.testing.assert_array_equal(propagate(labels(0, NONE), np.array([3, 3])), [0, 0])


@given(scribbles, superpixels, rules)
def test_expansion_contains_the_scribble(scribble, ids, rule):
    painted = scribble != NONE
    np.testing.assert_array_equal(propagate(scribble, ids, **rule)[painted], scribble[painted])


@given(scribbles, superpixels, rules)
def test_expanding_twice_changes_nothing(scribble, ids, rule):
    once = propagate(scribble, ids, **rule)
    np.testing.assert_array_equal(propagate(once, ids, **rule), once)


@given(scribbles, rules)
def test_one_voxel_superpixels_expand_nothing(scribble, rule):
    ids = np.arange(scribble.size).reshape(SHAPE)
    np.testing.assert_array_equal(propagate(scribble, ids, **rule), scribble)


@given(scribbles, superpixels, st.permutations(range(10)), rules)
def test_renumbering_superpixels_changes_nothing(scribble, ids, numbers, rule):
    renumbered = np.where(ids >= 0, np.array(numbers)[ids], -1)
    np.testing.assert_array_equal(propagate(scribble, renumbered, **rule), propagate(scribble, ids, **rule))


def test_conflict_keeps_only_the_scribbled_voxels():
    scribble = labels(1, 1, 1, 1, 1, 1, 1, 1, 1, 2, NONE)
    np.testing.assert_array_equal(propagate(scribble, np.zeros(11, int)), scribble)


@pytest.mark.parametrize(("purity", "expected"), [(0.9, 1), (0.91, NONE)])
def test_majority_decides_from_its_purity_on(purity, expected):
    scribble = labels(1, 1, 1, 1, 1, 1, 1, 1, 1, 2, NONE)
    expanded = propagate(scribble, np.zeros(11, int), conflict="majority", purity=purity)
    np.testing.assert_array_equal(expanded, [*scribble[:10], expected])


def test_half_against_half_is_no_majority():
    expanded = propagate(labels(1, 2, NONE), np.zeros(3, int), conflict="majority", purity=0.5)
    np.testing.assert_array_equal(expanded, [1, 2, NONE])


@given(scribbles, superpixels, st.sampled_from([0, 1, 2]), st.integers(0, 3))
def test_expansion_commutes_with_flips_and_right_angles(scribble, ids, axis, turns):
    def move(volume: np.ndarray) -> np.ndarray:
        return np.rot90(np.flip(volume, axis), turns, axes=(1, 2))

    np.testing.assert_array_equal(propagate(move(scribble), move(ids)), move(propagate(scribble, ids)))


@pytest.mark.parametrize("wrong", [{"conflict": "vote"}, {"purity": 0.4}, {"purity": 1.1}, {"purity": np.nan}])
def test_unknown_rule_is_refused(wrong):
    with pytest.raises(SettingsError):
        propagate(labels(1), np.zeros(1, int), **wrong)


@pytest.mark.parametrize(
    ("scribble", "ids"),
    [
        (labels(1, 2), np.zeros(3, int)),
        (np.array([1, 2]), np.zeros(2, int)),
        (labels(1, 2), np.zeros(2)),
    ],
)
def test_scribble_on_another_grid_or_of_another_type_is_refused(scribble, ids):
    with pytest.raises(VolumeError):
        propagate(scribble, ids)


# --- stroke by stroke -------------------------------------------------------------------------


@st.composite
def strokes(draw):
    """A box, and what is painted into it (255 erases)."""
    corners = [sorted(draw(st.tuples(st.integers(0, n), st.integers(0, n)))) for n in SHAPE]
    box = tuple(slice(low, high) for low, high in corners)
    shape = tuple(part.stop - part.start for part in box)
    return box, draw(arrays.arrays(np.uint8, shape, elements=few_classes | st.just(7)))


@settings(max_examples=150, deadline=None)
@given(scribbles, superpixels, rules, st.lists(strokes(), max_size=6), st.data())
def test_table_equals_one_made_anew_after_any_strokes_and_their_undoing(scribble, ids, rule, sequence, data):
    table = SuperpixelTable(scribble, ids, **rule)
    states = [scribble.copy()]
    for box, painted in sequence:
        now = states[-1].copy()
        old, now[box] = now[box].copy(), painted
        shown = table.classes.copy()
        if data.draw(st.booleans(), label="by extent"):
            change = table.update(box, old, painted)
        else:
            flat = np.arange(now.size).reshape(SHAPE)[box].ravel()
            change = table.update(flat, old.ravel(), painted.ravel())
        assert_is_the_difference(change, shown, table.classes)
        np.testing.assert_array_equal(table.classes, SuperpixelTable(now, ids, **rule).classes)
        np.testing.assert_array_equal(table.expand(now), propagate(now, ids, **rule))
        states.append(now)
    while len(states) > 1:
        after, before = states.pop(), states[-1]
        table.update(tuple(slice(None) for _ in SHAPE), after, before)
        np.testing.assert_array_equal(table.classes, SuperpixelTable(before, ids, **rule).classes)


def assert_is_the_difference(change, before: np.ndarray, after: np.ndarray) -> None:
    np.testing.assert_array_equal(change.superpixels, np.flatnonzero(before != after))
    np.testing.assert_array_equal(change.classes, after[change.superpixels])


def test_stroke_of_one_class_may_be_given_as_a_number():
    table = SuperpixelTable(np.full(4, NONE, np.uint8), np.array([0, 0, 1, 2]))
    change = table.update([1, 2], old=NONE, new=3)
    np.testing.assert_array_equal(change.superpixels, [0, 1])
    np.testing.assert_array_equal(change.classes, [3, 3])
    assert change.classes.dtype == np.uint8


@pytest.mark.parametrize("unseen", [0, 1, 9])
def test_stroke_that_does_not_fit_the_table_is_refused_and_changes_nothing(unseen):
    scribble, ids = labels(2, NONE, NONE), np.array([0, 0, 1])
    table = SuperpixelTable(scribble, ids)
    with pytest.raises(VolumeError, match="don't know of"):
        table.update([1, 2], old=unseen, new=2)
    np.testing.assert_array_equal(table.classes, SuperpixelTable(scribble, ids).classes)
    table.update([0], old=2, new=NONE)
    assert (table.classes == NONE).all()


def test_a_stroke_on_a_large_ct_takes_milliseconds():
    shape, edge = (50, 512, 512), 5  # a quarter of the slices; 100,000 supervoxels
    grid = [np.arange(n) // edge for n in shape]
    ids = ((grid[0][:, None, None] * 103 + grid[1][:, None]) * 103 + grid[2]).astype(np.int32)
    table = SuperpixelTable(np.full(shape, NONE, np.uint8), ids)
    box = (slice(20, 25), slice(200, 260), slice(200, 260))
    seconds = []
    for painted in (1, NONE, 2):
        began = time.perf_counter()
        table.update(box, NONE if painted != NONE else 1, painted)
        seconds.append(time.perf_counter() - began)
    assert (table.classes == 2).sum() == 12 * 12
    assert min(seconds) < 0.05  # measured 0.001


# --- quality guards ---------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(np.uint8, SHAPE, elements=few_classes), superpixels)
def test_oracle_dice_is_the_dice_of_each_superpixel_taking_its_commonest_class(label, ids):
    best = np.full(SHAPE, NONE, np.uint8)
    counted = (label != NONE) & (ids >= 0)
    for number in set(ids[counted]):
        here = counted & (ids == number)
        best[here] = np.bincount(label[here]).argmax()
    truth = np.where(counted, label, NONE)
    for value, dice in enumerate(oracle_dice(ids, label, 4)):
        total = (best == value).sum() + (truth == value).sum()
        expected = 2 * ((best == value) & (truth == value)).sum() / total if total else np.nan
        np.testing.assert_allclose(dice, expected)


def test_oracle_dice_is_one_where_superpixels_respect_the_label():
    np.testing.assert_array_equal(oracle_dice(np.array([0, 0, 1, 2]), labels(0, 0, 1, 1), 3), [1, 1, np.nan])


def test_oracle_dice_refuses_a_class_beyond_the_schema():
    with pytest.raises(VolumeError, match="class 3"):
        oracle_dice(np.array([0, 0]), labels(0, 3), 3)


def test_agreement_by_hand():
    #                  stroke A  gap   B   gap     C     gap   D
    scribble = labels(1, 1, 1, NONE, 1, NONE, 2, 2, NONE, 2)
    ids = np.array([0, 0, 1, 1, 1, 2, 2, 3, 3, 3])
    # A: voxel in 1 foretold by B: right. B: by A: right. C: voxel in 3 by D: right. D: by C: right.
    np.testing.assert_array_equal(leave_one_stroke_out_agreement(scribble, ids), [np.nan, 1, 1])
    # all in one superpixel: leaving one stroke of class 1 out leaves a conflict, so nothing is foretold
    np.testing.assert_array_equal(leave_one_stroke_out_agreement(scribble, np.zeros(10, int)), [np.nan] * 3)
    # a superpixel with strokes of two classes foretells both wrongly
    leaking = np.array([0, 0, 1, 1, 1, 2, 9, 9, 9, 1])
    scribble[2] = NONE
    np.testing.assert_array_equal(leave_one_stroke_out_agreement(scribble, leaking), [np.nan, 0, 0])


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(np.uint8, (1, 6, 9), elements=few_classes), st.integers(0, 99))
def test_agreement_equals_leaving_strokes_out_one_by_one(scribble, seed):
    ids = np.random.default_rng(seed).integers(-1, 6, scribble.shape)
    right, reached = np.zeros(3), np.zeros(3)
    for value in range(3):
        pieces, found = ndimage.label(scribble == value, structure=np.ones((3, 3, 3)))
        for number in range(1, found + 1):
            stroke = pieces == number
            foretold = propagate(np.where(stroke, NONE, scribble).astype(np.uint8), ids)[stroke]
            right[value] += (foretold == value).sum()
            reached[value] += (foretold != NONE).sum()
    expected = [r / n if n else np.nan for r, n in zip(right, reached, strict=True)]
    np.testing.assert_allclose(leave_one_stroke_out_agreement(scribble, ids, n_classes=3), expected)


def test_agreement_of_an_empty_scribble_is_unknown():
    empty = np.full(SHAPE, NONE, np.uint8)
    assert np.isnan(leave_one_stroke_out_agreement(empty, np.zeros(SHAPE, int), n_classes=2)).all()
