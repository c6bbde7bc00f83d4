"""The demo on a cohort small enough to take seconds."""

from __future__ import annotations

import json

import numpy as np
import pytest

from SemiSupSegLib.labels import IGNORE, LabelSchema
from SemiSupSegLib.learning.demo import run_demo
from SemiSupSegLib.learning.demo_picture import PictureRow, draw
from SemiSupSegLib.phantom import make_phantom_cohort
from SemiSupSegLib.training_settings import TrainingSettings

TINY = TrainingSettings(iterations=2, device="cpu", threads=1).with_overrides(
    ["plan.patch=16,16,8", "plan.features=4,8", "schedule.unlabeled_start=0.06"]
)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("demo out")


@pytest.fixture(scope="module")
def report(out):
    cohort = make_phantom_cohort(out / "phantom", n_cases=4, shape=(12, 24, 24), n_scribbled=2, n_test=1)
    return run_demo(out, TINY, cohort.path)


def test_report_is_written_as_it_is_returned(report, out):
    assert json.loads((out / "report.json").read_text(encoding="utf-8")) == report


def test_report_says_how_good_and_how_long(report):
    assert 0 <= report["mean_dice"] <= 1
    assert set(report["dice"]) == {"organ", "lesion", "vessel"}
    assert report["cases_predicted"] == report["cases_scored"] == 2
    assert report["device"] == "cpu"
    assert report["iterations"] == 2
    assert report["seconds"] == pytest.approx(sum(report["seconds_of"].values()), abs=0.5)


def test_results_lie_where_the_report_says(report, out):
    assert (out / report["run"] / "model/model.json").is_file()
    segmentations = list((out / report["segmentations"]).glob("*.seg.nrrd"))
    assert len(segmentations) == 3  # one annotated case is predicted too, for the picture
    assert (out / report["picture"]).read_bytes().startswith(b"\x89PNG")


def test_a_picture_is_drawn_of_a_case_of_which_little_is_known(tmp_path):
    image = np.zeros((1, 8, 8), np.int16)
    row = PictureRow("constant", image, (1.0, 2.0, 1.0), np.zeros_like(image), np.zeros_like(image))
    draw(tmp_path / "picture.png", [row], {}, LabelSchema.from_names(["liver"]), "title")
    assert (tmp_path / "picture.png").stat().st_size > 1000


def test_the_slice_with_most_strokes_is_shown():
    scribble = np.full((3, 4, 4), IGNORE, np.uint8)
    scribble[0] = 0  # background alone shows nothing
    scribble[2, 0, :2] = 1
    image = np.zeros((3, 4, 4))
    assert PictureRow("", image, (1, 1, 1), image, image, scribble=scribble).slice_index == 2
