"""What trainings are given that they can't use, one sentence each, and what they can use though it is unusual."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scripted_session import ScriptedSession, sending
from tiny_runs import new_run, phantom_cohort, work

from SemiSupSegLib.cohort import AnnotationFile, Case, Cohort, Role
from SemiSupSegLib.errors import ErrorCode, SemiSupSegError
from SemiSupSegLib.labels import LabelSchema, SegmentClass
from SemiSupSegLib.learning import training
from SemiSupSegLib.learning.plan import Plan
from SemiSupSegLib.models import Model
from SemiSupSegLib.runs import RunFolder, RunRequest, State
from SemiSupSegLib.segmentation_file import read_annotation
from SemiSupSegLib.volume import Geometry, Volume, write_volume

pytestmark = pytest.mark.usefixtures("threads_as_before")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Cohort:
    return phantom_cohort(tmp_path_factory.mktemp("phantom"))


ORGAN = LabelSchema((SegmentClass("organ"),))


def simple_cohort(
    folder: Path, shape=(12, 24, 24), spacing=(1.0, 1.0, 1.0), *, image=None, scribble=None, n_cases: int = 2
) -> Cohort:
    """A bright ball in noise with a stroke in it and one beside it; `image` and `scribble` change the first case."""
    cases = []
    for index in range(n_cases):
        numbers = np.random.default_rng(index)
        grid = np.indices(shape)
        ball = sum(((grid[axis] - shape[axis] / 2) / (shape[axis] / 3)) ** 2 for axis in (1, 2)) < 1
        array = (numbers.normal(100, 10, shape) + 60 * ball).astype(np.float32)
        strokes = np.zeros(shape, np.uint8)
        middle = shape[0] // 2
        strokes[middle, shape[1] // 2, shape[2] // 3 : 2 * shape[2] // 3] = 2
        strokes[middle, 1, 1:-1] = 1
        geometry = Geometry(shape[::-1], spacing)
        if index == 0 and image is not None:
            array = image(array)
        if index == 0 and scribble is not None:
            strokes, geometry_of_strokes = scribble(strokes, geometry)
        else:
            geometry_of_strokes = geometry
        paths = folder / f"scan {index}.nrrd", folder / f"scan {index}_scribble.nrrd"
        write_volume(paths[0], Volume(array, geometry))
        write_volume(paths[1], Volume(strokes, geometry_of_strokes))
        cases.append(Case(f"scan {index}", paths[0], scribble=AnnotationFile(paths[1], {"background": 1, "organ": 2})))
    return Cohort(ORGAN, tuple(cases)).save(folder / "cohort.json")


def outcome(folder: Path, cohort: Cohort, *overrides: str) -> tuple[int, ScriptedSession, RunFolder]:
    run_folder = new_run(folder, cohort, "iterations=2", "plan.patch=None", *overrides)
    return *work(run_folder), run_folder


def all_nan(array):
    array[3] = np.nan
    return array


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"image": lambda array: array * 0 + 7}, "bad-image", "constant"),
        ({"image": all_nan}, "bad-image", "aren't numbers"),
        ({"scribble": lambda a, g: (a * 0, g), "n_cases": 1}, "no-annotation", "No training case has an annotated"),
        ({"scribble": lambda a, g: (np.where(a == 2, 2, 0), g), "n_cases": 1}, "no-annotation", "Only one class"),
        (
            {"scribble": lambda a, g: (a, Geometry(g.size, g.spacing, (999.0, 0, 0)))},
            "bad-geometry",
            "lies outside its image",
        ),
    ],
)
def test_data_that_cannot_train_end_in_one_sentence(tmp_path, changes, code, words):
    exit_code, session, folder = outcome(tmp_path, simple_cohort(tmp_path, **changes))
    assert exit_code == 1
    assert session.error["code"] == code
    assert words in session.error["message"]
    assert session.error["remedy"]
    assert folder.assess() is State.FAILED


def test_strokes_on_another_grid_train_where_they_lie(tmp_path):
    def shifted(strokes, geometry):
        return strokes[2:10], geometry.cropped((0, 0, 2), (24, 24, 8))

    code, session, _ = outcome(tmp_path, simple_cohort(tmp_path, scribble=shifted))
    assert code == 0, session.error


def test_missing_files_are_named(tmp_path):
    cohort = simple_cohort(tmp_path)
    (tmp_path / "scan 1_scribble.nrrd").unlink()
    code, session, _ = outcome(tmp_path, cohort)
    assert (code, session.error["code"]) == (1, "missing-file")
    assert "scan 1_scribble.nrrd" in session.error["message"]


@pytest.mark.parametrize("kind", ["4D", "color"])
def test_images_of_several_values_a_voxel_are_refused(tmp_path, kind):
    import SimpleITK as sitk

    cohort = simple_cohort(tmp_path)
    array = np.zeros((3, 12, 24, 24) if kind == "4D" else (12, 24, 24, 3), np.float32)
    image = sitk.GetImageFromArray(array, isVector=kind == "color")
    sitk.WriteImage(image, str(tmp_path / "scan 0.nrrd"))
    code, session, _ = outcome(tmp_path, cohort)
    assert (code, session.error["code"]) == (1, "bad-image")


@pytest.mark.parametrize(
    ("shape", "spacing"), [((1, 32, 32), (1.0, 1.0, 1.0)), ((9, 32, 32), (0.5, 0.5, 5.0)), ((9, 9, 9), (3.0, 3.0, 3.0))]
)
@pytest.mark.parametrize("method", ["partial", "sp3"])
def test_single_slices_thick_slices_and_tiny_volumes_train_and_predict(tmp_path, shape, spacing, method):
    cohort = simple_cohort(tmp_path, shape, spacing)
    code, session, folder = outcome(tmp_path, cohort, f"method={method}")
    assert code == 0, session.error
    assert folder.details()["plan"]["dimensions"] == (2 if shape[0] == 1 or spacing[2] == 5.0 else 3)
    request = RunRequest(
        "predict", cohort=str(cohort.path), model=str(folder.path), exclusive=False,
        settings={"prediction": {"device": "cpu", "threads": 1}},
    )  # fmt: skip
    prediction = RunFolder.create(tmp_path / "prediction", request)
    assert work(prediction)[0] == 0
    labels, grid = read_annotation(prediction.predictions / "scan 0.seg.nrrd", None, ORGAN)
    assert labels.shape == shape
    assert grid.same_grid(cohort.read_geometry(cohort.case("scan 0")))


def test_paths_may_hold_spaces_and_any_letters(tmp_path):
    folder = tmp_path / "Vorhöfe links" / "心臓 é"
    folder.mkdir(parents=True)
    code, session, run_folder = outcome(folder, simple_cohort(folder), "method=sp3")
    assert code == 0, session.error
    assert Model.load(run_folder.path).schema == ORGAN


def test_an_output_that_cannot_be_written_is_named(tmp_path):
    cohort = simple_cohort(tmp_path)
    (tmp_path / "run").write_text("in the way")
    with pytest.raises(SemiSupSegError) as caught:
        new_run(tmp_path, cohort)
    assert caught.value.code in (ErrorCode.NOT_WRITABLE, ErrorCode.MISSING_FILE)
    (tmp_path / "run").unlink()
    folder = new_run(tmp_path, cohort, "plan.patch=None", "iterations=2")
    folder.model.write_text("in the way")
    code, session = work(folder)
    assert code == 1
    assert "write the model" in session.error["message"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"method": "sp4"}, "sp4"), ({"sede": 1}, "no setting 'sede'"), ({"plan": {"patch": [1]}}, "patch")],
)
def test_unknown_methods_and_settings_are_refused(tmp_path, settings, words):
    cohort = simple_cohort(tmp_path)
    folder = RunFolder.create(tmp_path / "run", RunRequest("train", cohort=str(cohort.path), settings=settings))
    code, session = work(folder)
    assert (code, session.error["code"]) == (1, "bad-setting")
    assert words in session.error["message"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (("largest_component=organ, kidney",), "bad-cohort: There is no class 'kidney'."),
        (
            ("largest_component=organ", "far_background=on"),
            "bad-setting: far_background=on wants every class to be one piece, and largest_component=organ names",
        ),
    ],
)
def test_classes_that_are_one_piece_by_wish_are_checked_before_anything_is_loaded(
    cohort, tmp_path, monkeypatch, changes, words
):
    monkeypatch.setattr(training, "load_training_data", lambda *told, **more: pytest.fail("loaded"))
    code, session = work(new_run(tmp_path, cohort, *changes))
    assert code == 1
    assert words in f"{session.error['code']}: {session.error['message']}"


def test_a_run_goes_on_when_a_class_has_been_renamed_that_is_one_piece_by_wish(cohort, tmp_path):
    folder = new_run(tmp_path, cohort, "largest_component=organ,background")
    assert work(folder, {5: sending("cancel")})[0] == 3
    plan = Plan.from_json(folder.details()["plan"])
    assert plan.largest_component == (1,)
    classes = tuple(replace(each, name=f"new {each.name}") for each in cohort.schema.classes)
    renamed = replace(cohort, schema=replace(cohort.schema, classes=classes)).save(tmp_path / "renamed.json")
    folder.update_request(cohort=str(renamed.path))
    code, session = work(folder)
    assert code == 0, session.error


def test_a_cohort_that_only_tests_has_nothing_to_train(tmp_path):
    cohort = simple_cohort(tmp_path)
    cases = tuple(Case(case.id, case.image, scribble=case.scribble, role=Role.TEST) for case in cohort.cases)
    code, session, _ = outcome(tmp_path, Cohort(ORGAN, cases).save(tmp_path / "test.json"))
    assert (code, session.error["code"]) == (1, "no-annotation")
