"""What dense labels and strokes tell about classes being one piece, and what a training makes of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from SemiSupSegLib.errors import SemiSupSegError
from SemiSupSegLib.geometry import Geometry
from SemiSupSegLib.labels import IGNORE, LabelSchema, SegmentClass
from SemiSupSegLib.learning.cases import TrainingCase
from SemiSupSegLib.learning.one_piece import classes_that_strokes_show_as_one_piece, one_piece_classes

SHAPE = (8, 24, 24)


class Scribbled:
    """A scan whose image is its truth, painted on every second slice."""

    def __init__(self, *boxes):
        truth = np.zeros(SHAPE, np.uint8)
        for box in boxes:
            truth[box] = 1
        strokes = np.full(SHAPE, IGNORE, np.uint8)
        for plane in range(0, SHAPE[0], 2):
            strokes[plane, 12, :] = truth[plane, 12, :]
        self.image, self.annotation = torch.from_numpy(truth), torch.from_numpy(strokes)
        self.geometry = Geometry(truth.shape[::-1])


ORGAN = np.s_[:, 8:16, 3:9]
LESION = np.s_[:, 8:16, 14:20]
SPECK = (np.s_[0, 0, :9], 1)


def classes(predict, *cases):
    return classes_that_strokes_show_as_one_piece(cases, predict, n_classes=2)


def labeled(*places: tuple[object, int], ties=None) -> TrainingCase:
    """A case with a dense label: classes at places, and perhaps voxels at which resampling found a tie."""
    label = np.zeros(SHAPE, np.uint8)
    for place, value in places:
        label[place] = value
    if ties is not None:
        label[ties] = IGNORE
    case = TrainingCase("a", Geometry(SHAPE[::-1]), torch.zeros(SHAPE, dtype=torch.float16))
    case.annotate(label, is_dense=True)
    return case


@pytest.mark.parametrize(
    ("cases", "expected"),
    [
        ([labeled((ORGAN, 1))], (1,)),
        ([labeled((ORGAN, 1), (LESION, 1))], ()),
        ([labeled((ORGAN, 1)), labeled((ORGAN, 1), (LESION, 1))], ()),
        ([labeled((ORGAN, 1)), labeled((ORGAN, 1), (np.s_[0, 0, :20], 1))], (1,)),  # 20 of 404 voxels
        ([labeled((ORGAN, 1)), labeled((ORGAN, 1), (np.s_[0, 0, :21], 1))], ()),
        ([labeled((ORGAN, 1), SPECK)] * 3 + [labeled((ORGAN, 1))] * 3, (1,)),
        ([labeled((ORGAN, 1), SPECK)] * 4 + [labeled((ORGAN, 1))] * 3, ()),  # more often a satellite than none
        ([labeled((ORGAN, 1), ties=np.s_[:, 12:14, :])], (1,)),
        ([labeled((ORGAN, 1)), labeled((LESION, 2))], (1, 2)),
    ],
)
def test_a_class_is_one_piece_if_dense_labels_show_it_so_but_for_specks(cases, expected):
    schema = LabelSchema((SegmentClass("organ"), SegmentClass("lesion")))
    assert one_piece_classes("auto", schema, cases) == expected


def test_classes_by_name_count_once_and_the_background_never():
    schema = LabelSchema((SegmentClass("organ"), SegmentClass("lesion")))
    assert one_piece_classes("lesion, organ,lesion", schema, ()) == (1, 2)
    assert one_piece_classes("background, organ", schema, ()) == (1,)
    with pytest.raises(SemiSupSegError, match="tube"):
        one_piece_classes("tube", schema, ())


@pytest.mark.parametrize(("n_wrong", "expected"), [(0, (1,)), (1, (1,)), (2, (1,)), (3, ())])
def test_an_organ_is_one_piece_if_it_is_the_largest_in_half_of_the_cases(n_wrong, expected):
    cases = [Scribbled(ORGAN) for _ in range(4)]
    wrong = [case.image for case in cases[:n_wrong]]

    def predict(image):
        predicted = image.clone()
        predicted[:, 0:3, :3] = 1  # a stray piece, in some cases larger than the organ
        if any(image is each for each in wrong):
            predicted[:, 0:7, :] = 1
        return predicted

    assert classes(predict, *cases) == expected


def test_lesions_are_several_pieces_if_one_case_shows_it():
    assert classes(lambda image: image, Scribbled(ORGAN), Scribbled(ORGAN, LESION)) == ()


def test_a_prediction_that_floods_the_background_says_nothing():
    assert classes(torch.ones_like, Scribbled(ORGAN, LESION)) == ()


def test_a_prediction_that_misses_strokes_says_nothing():
    assert classes(torch.zeros_like, Scribbled(ORGAN)) == ()


@pytest.mark.parametrize(("n_strokes", "expected"), [(3, ()), (4, (1,))])
def test_few_strokes_say_nothing(n_strokes, expected):
    case = Scribbled(ORGAN)
    case.annotation[2 * n_strokes :] = IGNORE
    assert classes(lambda image: image, case) == expected


def test_at_most_four_cases_are_predicted_the_first_and_the_last_among_them():
    looked = []

    def predict(image):
        looked.append(image)
        return image

    cases = [Scribbled(ORGAN) for _ in range(9)]
    unlabeled = Scribbled(ORGAN)
    unlabeled.annotation = None
    assert classes(predict, unlabeled, *cases) == (1,)
    assert len(looked) == 4
    assert looked[0] is cases[0].image
    assert looked[-1] is cases[-1].image
