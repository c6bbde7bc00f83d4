"""Where classes lie: mean and spread of annotated voxels, in whatever grid."""

from __future__ import annotations

import numpy as np
import pytest

from SemiSupSegLib.errors import ModelError
from SemiSupSegLib.geometry import Geometry
from SemiSupSegLib.labels import IGNORE
from SemiSupSegLib.learning.whereabouts import Whereabouts


def places_of(*annotations):
    return Whereabouts.of([(each, Geometry(each.shape[::-1])) for each in annotations])


def strokes(shape, box, label=1):
    annotation = np.full(shape, IGNORE, dtype=np.uint8)
    annotation[0, 0, 0] = 0  # background has no place
    annotation[box] = label
    return annotation


def test_places_are_mean_and_deviation_of_all_annotated_voxels_as_shares():
    first, second = strokes((10, 20, 20), np.s_[4:6, 5:10, 3]), strokes((20, 20, 40), np.s_[2, 0:4, 6:8], label=2)
    places = places_of(first, first.copy(), second).places
    assert sorted(places) == [1, 2]
    positions = (np.argwhere(first == 1) + 0.5) / first.shape
    np.testing.assert_allclose(places[1], (positions.mean(axis=0), positions.std(axis=0)), atol=1e-9)
    positions = (np.argwhere(second == 2) + 0.5) / second.shape
    np.testing.assert_allclose(places[2], (positions.mean(axis=0), positions.std(axis=0)), atol=1e-9)


def test_a_place_is_the_same_on_a_finer_grid():
    coarse = strokes((10, 20, 20), np.s_[4:6, 5:10, 3:4])
    fine = coarse.repeat(3, axis=0).repeat(2, axis=1).repeat(2, axis=2)
    (mean, spread), (finer_mean, finer_spread) = (places_of(each).places[1] for each in (coarse, fine))
    assert finer_mean == pytest.approx(mean)
    assert finer_spread == pytest.approx(spread, abs=0.03)


def test_weights_are_largest_in_the_place_and_never_nothing_beside_it():
    weights = places_of(strokes((10, 20, 20), np.s_[4:6, 5:10, 3:4])).weights(1, Geometry((50, 40, 30)))
    assert [len(each) for each in weights] == [30, 40, 50]
    assert [int(each.argmax()) for each in weights] == pytest.approx([14.5, 14.5, 8.25], abs=1)
    assert all((each > 0).all() for each in weights)


def test_a_class_that_nobody_annotated_may_be_anywhere():
    assert places_of(np.full((2, 3, 4), IGNORE, dtype=np.uint8)).weights(1, Geometry((4, 3, 2))) is None


def test_places_survive_json():
    places = places_of(strokes((10, 20, 20), np.s_[4:6, 5:10, 3]))
    assert Whereabouts.from_json(places.to_json()) == places


@pytest.mark.parametrize("body", [{"1": [[0.5, 0.5], [1, 1]]}, {"1": "here"}, {"one": [[0.5] * 3] * 2},
                                  {"1": [[float("nan")] * 3] * 2}])  # fmt: skip
def test_what_is_no_place_is_refused(body):
    with pytest.raises(ModelError, match="where its classes lie"):
        Whereabouts.from_json({"places": body, "orientations": ["LPS"]})


def test_a_model_of_before_knows_no_places():
    assert Whereabouts.from_json({}).places == {}
