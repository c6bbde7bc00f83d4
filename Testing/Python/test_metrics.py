"""Metrics: medpy's definitions to 1e-6, millimetres in the right order, and honest numbers for empty masks."""

from __future__ import annotations

from math import isnan, sqrt

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from SemiSupSegLib.errors import VolumeError
from SemiSupSegLib.learning.metrics import (
    MEASURES,
    CaseScore,
    ClassScore,
    SurfaceDistances,
    asd,
    assd,
    dice,
    hd95,
    jaccard,
    precision,
    recall,
    score_case,
    summarise,
    surface_distances,
)

SIZES = hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=7)
DISTANCES = [hd95, asd, assd]
OVERLAPS = [dice, jaccard, precision, recall]


@st.composite
def mask_pairs(draw, empty=False):
    """Two masks of one shape, as noise or as boxes, and a spacing in the order i, j, k."""
    size = draw(SIZES)
    masks = []
    for _ in range(2):
        mask = np.zeros(size, dtype=bool)
        mask[tuple(slice(*sorted((draw(st.integers(0, n)), draw(st.integers(0, n))))) for n in size)] = True
        if draw(st.booleans()):
            mask ^= draw(hnp.arrays(bool, size))
        masks.append(mask)
    assume(empty or all(mask.any() for mask in masks))
    spacing = [draw(st.floats(0.3, 5.0)) for _ in size]
    return *masks, spacing


def line(n):
    """A mask one voxel high and wide, all of which is border."""
    mask = np.zeros((1, 1, 150), dtype=bool)
    mask[..., :n] = True
    return mask


# medpy's definitions


@settings(max_examples=150, deadline=None)
@given(mask_pairs())
def test_measures_agree_with_medpy(pair):
    medpy = pytest.importorskip("medpy.metric.binary", reason="medpy, to compare with, isn't installed")
    prediction, truth, spacing = pair
    for ours, theirs in zip(OVERLAPS, (medpy.dc, medpy.jc, medpy.precision, medpy.recall), strict=True):
        assert ours(prediction, truth) == pytest.approx(theirs(prediction, truth), abs=1e-6)
    for ours, theirs in zip(DISTANCES, (medpy.hd95, medpy.asd, medpy.assd), strict=True):
        wanted = theirs(prediction, truth, voxelspacing=spacing[::-1])
        assert ours(prediction, truth, spacing) == pytest.approx(wanted, abs=1e-6)
        assert ours(prediction, truth) == pytest.approx(theirs(prediction, truth), abs=1e-6)


def test_two_voxels_apart_are_their_distance_apart():
    prediction, truth = np.zeros((2, 5, 6, 7), dtype=bool)
    prediction[1, 1, 1] = truth[3, 4, 5] = True
    for measure in DISTANCES:
        assert measure(prediction, truth) == pytest.approx(sqrt(4 + 9 + 16))
        assert measure(prediction, truth, (0.5, 1.0, 3.0)) == pytest.approx(sqrt(36 + 9 + 4))


def test_one_sided_distance_does_not_punish_what_is_missed():
    large, small = line(30), line(20)  # the 10 voxels that only one has are 1 to 10 away
    assert asd(large, small) == pytest.approx(55 / 30)
    assert asd(small, large) == 0
    assert assd(small, large) == assd(large, small) == pytest.approx(55 / 50)


def test_hd95_takes_the_percentile_of_both_directions_together():
    distances = [0.0] * 200 + [float(n) for n in range(1, 21)]
    assert hd95(line(120), line(100)) == pytest.approx(np.percentile(distances, 95))
    assert hd95(line(120), line(100)) < np.percentile(distances[100:], 95), "the larger of both directions"


def test_edge_of_the_volume_is_a_border():
    full = np.ones((3, 3, 3), dtype=bool)
    center = np.zeros_like(full)
    center[1, 1, 1] = True
    from_full, from_center = surface_distances(full, center)
    assert len(from_full) == 26
    assert from_center.tolist() == [1.0]


# Properties


@settings(max_examples=60, deadline=None)
@given(mask_pairs(), st.integers(1, 4))
def test_empty_space_around_an_object_changes_nothing(pair, margin):
    prediction, truth, spacing = pair
    wide = [np.pad(mask, margin) for mask in (prediction, truth)]
    assert SurfaceDistances.between(prediction, truth, spacing) == SurfaceDistances.between(*wide, spacing)


@settings(max_examples=60, deadline=None)
@given(mask_pairs())
def test_symmetric_measures_are_symmetric(pair):
    prediction, truth, spacing = pair
    assert dice(prediction, truth) == dice(truth, prediction)
    assert precision(prediction, truth) == recall(truth, prediction)
    for measure in (hd95, assd):
        assert measure(prediction, truth, spacing) == pytest.approx(measure(truth, prediction, spacing))


@settings(max_examples=60, deadline=None)
@given(mask_pairs(), st.floats(0.1, 10))
def test_distances_scale_with_the_spacing(pair, factor):
    prediction, truth, spacing = pair
    scaled = [factor * each for each in spacing]
    for measure in DISTANCES:
        assert measure(prediction, truth, scaled) == pytest.approx(factor * measure(prediction, truth, spacing))


@settings(max_examples=60, deadline=None)
@given(mask_pairs())
def test_turning_the_axes_with_their_spacing_changes_nothing(pair):
    prediction, truth, spacing = pair
    for measure in DISTANCES:
        turned = measure(prediction.T, truth.T, spacing[::-1])
        assert turned == pytest.approx(measure(prediction, truth, spacing))


@given(mask_pairs())
def test_mask_against_itself_is_perfect(pair):
    mask = pair[0]
    assert [measure(mask, mask) for measure in OVERLAPS] == [1.0] * 4
    assert [measure(mask, mask) for measure in DISTANCES] == [0.0] * 3


# Empty masks


def test_both_empty_is_perfect():
    nothing = np.zeros((3, 4, 5), dtype=bool)
    assert [measure(nothing, nothing) for measure in OVERLAPS] == [1.0] * 4
    assert [measure(nothing, nothing) for measure in DISTANCES] == [0.0] * 3


def test_empty_prediction_is_a_whole_volume_away():
    nothing, something = np.zeros((2, 3, 4, 5), dtype=bool)
    something[1, 2, 3] = True
    assert [measure(nothing, something) for measure in OVERLAPS] == [0.0] * 4
    diagonal = sqrt((5 * 0.5) ** 2 + (4 * 1.0) ** 2 + (3 * 2.0) ** 2)
    for measure in DISTANCES:
        assert measure(nothing, something, (0.5, 1.0, 2.0)) == pytest.approx(diagonal)


def test_false_alarm_has_no_distance():
    something, nothing = np.zeros((2, 3, 4), dtype=bool)
    something[1, 2] = True
    assert [measure(something, nothing) for measure in OVERLAPS] == [0.0] * 4
    assert all(isnan(measure(something, nothing)) for measure in DISTANCES)
    with pytest.raises(VolumeError, match="no surface"):
        surface_distances(something, nothing)


# Wrong input


def test_masks_on_different_grids_are_refused():
    for measure in (*OVERLAPS, *DISTANCES):
        with pytest.raises(VolumeError, match=r"\(2, 3\).*\(3, 2\)"):
            measure(np.ones((2, 3)), np.ones((3, 2)))


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 0.0, 1.0), (1.0, float("nan"), 1.0)])
def test_spacing_that_means_nothing_is_refused(spacing):
    with pytest.raises(VolumeError, match="spacing"):
        hd95(np.ones((2, 2, 2)), np.ones((2, 2, 2)), spacing)


@pytest.mark.parametrize("strange", [3, 255, -1])
def test_label_that_is_no_class_is_refused(strange):
    labels = np.zeros((2, 3), dtype=np.int16)
    labels[0, 1] = strange
    with pytest.raises(VolumeError, match="prediction holds"):
        score_case(labels, np.zeros_like(labels), 3)
    if strange != 255:
        with pytest.raises(VolumeError, match="truth holds"):
            score_case(np.zeros_like(labels), labels, 3)


# Cases


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_scores_of_a_case_are_those_of_its_masks(data):
    size = data.draw(SIZES)
    prediction, truth = (data.draw(hnp.arrays(np.uint8, size, elements=st.integers(0, 3))) for _ in range(2))
    spacing = [1.0, 2.5, 0.7][: len(size)]
    scores = score_case(prediction, truth, ["one", "two", "three"], spacing)
    assert list(scores) == ["one", "two", "three"]
    for index, score in enumerate(scores.values(), start=1):
        masks = prediction == index, truth == index
        for name, measure in zip(MEASURES, (*OVERLAPS, *DISTANCES), strict=True):
            wanted = measure(*masks, spacing) if measure in DISTANCES else measure(*masks)
            assert getattr(score, name) == pytest.approx(wanted, nan_ok=True), name
        wanted = {(True, True): "", (False, True): "prediction", (True, False): "truth", (False, False): "both"}
        assert score.empty == wanted[tuple(bool(mask.any()) for mask in masks)]


def test_number_of_classes_names_them_by_their_index():
    labels = np.array([[0, 1], [2, 2]], dtype=np.uint8)
    assert list(score_case(labels, labels, 3)) == ["1", "2"]


def test_voxels_not_annotated_count_for_neither_and_hide_the_surface():
    truth = np.array([[1, 1, 255, 0]], dtype=np.uint8)
    score = score_case(np.array([[1, 0, 1, 0]], dtype=np.uint8), truth, 2)["1"]
    assert score.dice == pytest.approx(2 / 3)
    assert score.precision == 1.0
    assert isnan(score.hd95)


def test_distances_can_be_left_out():
    labels = np.array([[0, 1]], dtype=np.uint8)
    score = score_case(labels, labels, 2, distances=False)["1"]
    assert score.dice == 1.0
    assert isnan(score.assd)


def score_of(value, hd95=1.0, empty=""):
    return ClassScore(dice=value, jaccard=value, precision=value, recall=value, hd95=hd95, asd=1, assd=1, empty=empty)


def test_mean_of_a_case_leaves_out_what_is_undefined():
    case = CaseScore("a", {"liver": score_of(0.5, hd95=4.0), "tumor": score_of(0.0, hd95=float("nan"))})
    assert case.mean() == 0.25
    assert case.mean("hd95") == 4.0


def test_summary_counts_what_it_leaves_out():
    nan = float("nan")
    cases = [
        CaseScore("a", {"liver": score_of(0.5, hd95=4.0)}),
        CaseScore("b", {"liver": score_of(1.0, hd95=2.0)}),
        CaseScore("c", {"liver": score_of(0.0, hd95=90.0, empty="prediction")}),
        CaseScore("d", {"liver": score_of(0.0, hd95=nan, empty="truth"), "tumor": score_of(0.0, hd95=nan)}),
    ]
    summary = summarise(cases)
    distance = summary["liver"]["hd95"]
    assert (distance.mean, distance.median, distance.n, distance.n_undefined) == (32.0, 4.0, 3, 1)
    assert distance.sd == pytest.approx(np.std([4, 2, 90], ddof=1))
    assert distance.n_empty_predictions == 1
    assert summary["liver"]["dice"].mean == 0.375
    assert summary["tumor"]["hd95"].n == 0
    assert isnan(summary["tumor"]["hd95"].mean)
    assert isnan(summary["tumor"]["dice"].sd)
