"""Evaluation: medpy's numbers, honest about what was not predicted."""

from __future__ import annotations

import json

import numpy as np
import pytest
from medpy.metric import binary

from SemiSupSegLib.cohort import AnnotationFile, Case, Cohort
from SemiSupSegLib.errors import CohortError, ErrorCode
from SemiSupSegLib.labels import LabelSchema, SegmentClass
from SemiSupSegLib.learning.evaluation import evaluate_folder
from SemiSupSegLib.segmentation_file import write_segmentation
from SemiSupSegLib.volume import Geometry, Volume, write_volume

SCHEMA = LabelSchema((SegmentClass("organ", color=(1, 0, 0)), SegmentClass("lesion", color=(0, 1, 0))))
GEOMETRY = Geometry((20, 18, 12), (0.7, 0.9, 2.5), (3.0, 4.0, 5.0))


def box(*corners: tuple[int, slice, slice, slice]) -> np.ndarray:
    labels = np.zeros(GEOMETRY.shape, np.uint8)
    for index, *where in corners:
        labels[tuple(where)] = index
    return labels


TRUTH = box((1, slice(2, 9), slice(3, 14), slice(4, 15)), (2, slice(4, 6), slice(5, 8), slice(6, 9)))
GUESS = box((1, slice(3, 10), slice(2, 13), slice(5, 15)), (2, slice(4, 7), slice(5, 7), slice(6, 10)))


@pytest.fixture
def cohort(tmp_path) -> Cohort:
    cases = []
    for name in ("a", "b", "unlabeled"):
        image = tmp_path / f"{name}.nrrd"
        write_volume(image, Volume(np.random.default_rng(0).normal(size=GEOMETRY.shape).astype(np.float32), GEOMETRY))
        label = None
        if name != "unlabeled":
            write_segmentation(tmp_path / f"{name}_label.seg.nrrd", TRUTH, GEOMETRY, SCHEMA)
            label = AnnotationFile(tmp_path / f"{name}_label.seg.nrrd")
        cases.append(Case(name, image, label))
    return Cohort(SCHEMA, tuple(cases))


def predicted(folder, **predictions: np.ndarray):
    folder.mkdir(exist_ok=True)
    for name, labels in predictions.items():
        write_segmentation(folder / f"{name}.seg.nrrd", labels, GEOMETRY, SCHEMA)
    return folder


def test_scores_are_medpys(cohort, tmp_path):
    found = evaluate_folder(predicted(tmp_path / "out", a=GUESS), cohort)
    spacing = GEOMETRY.spacing[::-1]
    for index, name in enumerate(SCHEMA.names, start=1):
        guess, truth = index == GUESS, index == TRUTH
        scores = found["cases"]["a"][name]
        assert scores["dice"] == pytest.approx(binary.dc(guess, truth), abs=1e-9)
        assert scores["hd95"] == pytest.approx(binary.hd95(guess, truth, spacing), abs=1e-6)
        assert scores["assd"] == pytest.approx(binary.assd(guess, truth, spacing), abs=1e-6)
    dice = [binary.dc(index == GUESS, index == TRUTH) for index in (1, 2)]
    assert found["mean_dice"] == pytest.approx(np.mean(dice))
    json.dumps(found, allow_nan=False)


def test_a_perfect_prediction_scores_one(cohort, tmp_path):
    found = evaluate_folder(predicted(tmp_path / "out", a=TRUTH, b=TRUTH), cohort)
    assert found["mean_dice"] == 1.0
    assert found["n_cases"] == 2
    assert found["classes"]["organ"]["hd95"]["mean"] == 0.0


def test_an_empty_prediction_counts_as_zero_and_is_said_to_be_one(cohort, tmp_path):
    found = evaluate_folder(predicted(tmp_path / "out", a=np.zeros_like(TRUTH), b=TRUTH), cohort)
    assert found["cases"]["a"]["organ"]["dice"] == 0.0
    assert found["mean_dice"] == pytest.approx(0.5)
    assert found["classes"]["organ"]["dice"]["n_empty_predictions"] == 1
    json.dumps(found, allow_nan=False)


def test_a_prediction_on_another_grid_is_compared_where_it_lies(cohort, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    cropped = GEOMETRY.cropped((4, 3, 2), (11, 11, 7))
    write_segmentation(folder / "a.seg.nrrd", TRUTH[2:9, 3:14, 4:15], cropped, SCHEMA)
    assert evaluate_folder(folder, cohort)["mean_dice"] == 1.0


def test_the_largest_component_alone_may_be_scored(cohort, tmp_path):
    speck = TRUTH.copy()
    speck[11, 17, 19] = 1
    folder = predicted(tmp_path / "out", a=speck)
    assert evaluate_folder(folder, cohort)["mean_dice"] < 1.0
    assert evaluate_folder(folder, cohort, largest_component=True)["mean_dice"] == 1.0


@pytest.mark.parametrize(
    ("cases", "words", "code"),
    [
        (["b"], "no prediction of case 'b'", ErrorCode.MISSING_FILE),
        (["unlabeled"], "no dense label", ErrorCode.BAD_COHORT),
        (["z"], "no case 'z'", ErrorCode.BAD_COHORT),
    ],
)
def test_a_case_that_cannot_be_scored_is_named_before_anything_is(cohort, tmp_path, cases, words, code):
    told = []
    folder = predicted(tmp_path / "out", a=GUESS)
    with pytest.raises(CohortError, match=words) as caught:
        evaluate_folder(folder, cohort, ["a", *cases], on_progress=lambda fraction, text: told.append(text))
    assert caught.value.code is code
    assert not told


def test_an_empty_folder_says_so(cohort, tmp_path):
    with pytest.raises(CohortError, match="nothing to score"):
        evaluate_folder(predicted(tmp_path / "out"), cohort)
