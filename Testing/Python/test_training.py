"""Whole training runs on a phantom cohort in this process: to a model, through commands and stops."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scripted_session import ScriptedSession, sending
from tiny_runs import ITERATIONS, TINY, answers, assert_equal_weights, new_run, phantom_cohort, weights, work

from SemiSupSegLib.cohort import AnnotationFile, Cohort
from SemiSupSegLib.learning import looks, training, training_data
from SemiSupSegLib.learning.budget import Length
from SemiSupSegLib.learning.held_out_strokes import HeldOutStrokes
from SemiSupSegLib.learning.local_session import LocalSession
from SemiSupSegLib.learning.plan import Plan
from SemiSupSegLib.learning.prediction import load_network
from SemiSupSegLib.learning.session import StopReason
from SemiSupSegLib.learning.validation import dice_on_annotated, is_due
from SemiSupSegLib.learning.worker import TASKS, run
from SemiSupSegLib.models import Model
from SemiSupSegLib.phantom import SCHEMA, make_phantom_cohort
from SemiSupSegLib.runs import RunFolder, RunRequest, State
from SemiSupSegLib.segmentation_file import read_annotation
from SemiSupSegLib.training_settings import TrainingSettings
from SemiSupSegLib.volume import Volume, write_volume

pytestmark = pytest.mark.usefixtures("threads_as_before")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Cohort:
    return phantom_cohort(tmp_path_factory.mktemp("phantom"))


# The road to a model --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["partial", "sp3"])
def finished(request, cohort, tmp_path_factory) -> tuple[RunFolder, ScriptedSession]:
    folder = new_run(tmp_path_factory.mktemp("finished"), cohort, f"method={request.param}")
    code, session = work(folder)
    assert code == 0, session.error
    return folder, session


def test_a_run_leaves_a_model_that_predicts(finished, cohort):
    folder, _ = finished
    model = Model.load(folder.path)
    plan = Plan.from_json(model.plan)
    assert model.schema == cohort.schema
    assert model.name == "tiny"
    assert model.method == folder.request().settings["method"]
    for network in ("student", "teacher", "best"):
        load_network(plan, model.weights_file(network))
    assert model.recommended == "best"
    assert model.summary["iterations"] == model.summary["planned_iterations"] == ITERATIONS
    assert model.summary["annotated_cases"] == 2
    assert model.summary["unlabeled_cases"] == (1 if model.method == "sp3" else 0)
    assert model.summary["seconds"] > 0
    assert "phantom_0" not in json.dumps(json.loads((model.folder / "model.json").read_text()))
    folder.verify_manifest()
    assert folder.assess() is State.FINISHED


def test_a_run_says_its_plan_curves_and_progress(finished):
    folder, session = finished
    details = folder.details()
    assert session.fields_of("plan")[0]["plan"]["iterations"] == details["iterations"] == ITERATIONS
    assert details["device"] == "cpu"
    assert len(details["cohort_fingerprint"]) == 64
    curves = folder.metrics()
    assert [iteration for iteration, _ in curves["loss"]] == list(range(1, ITERATIONS + 1))
    assert [iteration for iteration, _ in curves["validation dice teacher"]] == [4, 8]
    assert details["best"]["dice"] == pytest.approx(
        max(value for name in ("teacher", "student") for _, value in curves[f"validation dice {name}"])
    )
    last = session.fields_of("progress")[-1]
    assert (last["iteration"], last["iterations"], last["fraction"]) == (ITERATIONS, ITERATIONS, 1.0)


def test_without_validation_cases_the_teacher_is_recommended(cohort, tmp_path):
    folder = new_run(tmp_path, cohort, "validations=0")
    assert work(folder)[0] == 0
    model = Model.load(folder.path)
    assert model.recommended == "teacher"
    assert not (model.folder / "best.safetensors").exists()


def test_a_finished_run_that_is_started_again_stays_what_it_is(cohort, tmp_path):
    folder = new_run(tmp_path, cohort)
    work(folder)
    before = weights(folder)
    assert work(folder)[0] == 0
    after = weights(folder)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_run_cleans_the_cache_of_what_nobody_uses(tmp_path):
    cohort = make_phantom_cohort(tmp_path / "c", n_cases=2, shape=(12, 24, 24), n_scribbled=1, n_test=0)
    folder = tmp_path / "c" / ".semisupseg-cache"
    folder.mkdir()
    for name in ("image-removed.npy", ".tmp-1-dead"):
        (folder / name).write_bytes(b"old")
        os.utime(folder / name, (0, 0))
    run_folder = new_run(tmp_path, cohort, "iterations=1", "validations=0")
    assert work(run_folder)[0] == 0
    assert all(each.name.endswith(".npy") and each.name != "image-removed.npy" for each in folder.iterdir())
    assert len(list(folder.iterdir())) > 1


def test_a_warm_start_begins_with_an_earlier_model(cohort, tmp_path, finished):
    earlier = finished[0]
    folder = new_run(tmp_path, cohort, f"warm_start={earlier.path}", "iterations=1", "optimizer.learning_rate=1e-6")
    assert work(folder)[0] == 0
    best = load_file(earlier.model / "best.safetensors")
    student = load_file(folder.model / "student.safetensors")
    weights = [name for name in best if "running" not in name and "batches" not in name]  # statistics follow the step
    assert all(torch.allclose(best[name], student[name], atol=1e-4) for name in weights)


def test_classes_that_are_one_piece_in_every_dense_label_are_cleaned_by_default(cohort, tmp_path):
    folder = new_run(tmp_path, cohort, "method=supervised", "iterations=1")
    assert work(folder)[0] == 0
    kept = Model.load(folder.path).largest_component
    assert 1 in kept  # the organ is one piece, coarser grid or not
    folder = new_run(tmp_path / "off", cohort, "largest_component=off", "iterations=1")
    assert work(folder)[0] == 0
    assert Model.load(folder.path).largest_component == ()


def test_what_strokes_show_as_one_piece_is_known_to_the_model_and_after_a_resume(cohort, tmp_path, monkeypatch):
    def look(cases, predict, n_classes, whereabouts):
        assert predict(cases[0].image).shape == cases[0].annotation.shape
        assert whereabouts.places
        assert whereabouts.orientations
        return (2,)

    monkeypatch.setattr(looks, "classes_that_strokes_show_as_one_piece", look)
    folder = new_run(tmp_path, cohort, "method=sp3", "validations=0")
    assert work(folder, {5: sending("cancel")})[0] == 3
    assert Model.load(folder.path).largest_component == (2,)
    monkeypatch.setattr(looks.Looks, "_look_at_pieces", lambda looks: None)  # the checkpoint alone knows
    assert work(folder)[0] == 0
    assert Model.load(folder.path).largest_component == (2,)


def test_accepted_proposals_are_no_strokes_that_show_what_is_one_piece(cohort, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        looks, "classes_that_strokes_show_as_one_piece", lambda cases, *rest: seen.append(list(cases)) or ()
    )
    case = cohort.case("phantom_01")
    strokes = cohort.read_scribble(case)
    proposals = np.where(strokes == 1, strokes, np.uint8(255))
    proposals[:, 0] = 0  # a guess where nobody painted
    volume = Volume(np.where(proposals == 255, 0, proposals + 1).astype(np.uint8), cohort.read_geometry(case))
    write_volume(tmp_path / "proposals.nrrd", volume)
    values = {name: index + 1 for index, name in enumerate(("background", *SCHEMA.names[:1]))}
    accepted = cohort.with_case(replace(case, proposals=AnnotationFile(tmp_path / "proposals.nrrd", values)))
    folder = new_run(tmp_path, accepted.save(tmp_path / "cohort.json"), "plan.spacing=1,1,1", "iterations=1")
    code, session = work(folder)
    assert code == 0, session.error
    shown = seen[0][0].annotation.numpy()
    trained = seen[0][0].voxels
    assert sum(map(len, trained.values())) > (shown != 255).sum() > 0


def test_a_look_that_a_stop_cut_short_is_taken_after_the_resume(cohort, tmp_path, monkeypatch):
    stopping, taken = [], []

    def look(cases, predict, n_classes, whereabouts):
        if stopping:
            stopping.pop().request_stop(StopReason.CANCEL)
        predict(cases[0].image)
        taken.append(cases)
        return (2,) if len(taken) == ITERATIONS else ()

    monkeypatch.setattr(looks, "classes_that_strokes_show_as_one_piece", look)
    folder = new_run(tmp_path, cohort, "method=sp3")
    assert work(folder, {ITERATIONS - 1: stopping.append})[0] == 3
    assert len(taken) == ITERATIONS - 1
    assert [iteration for iteration, _ in folder.metrics()["validation dice teacher"]] == [ITERATIONS // 2]
    assert work(folder)[0] == 0
    assert Model.load(folder.path).largest_component == (2,)
    assert [at for at, _ in folder.metrics()["validation dice teacher"]] == [ITERATIONS // 2, ITERATIONS]


# Stopping and going on ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stop", "code"), [(sending("cancel"), 3), (lambda session: session.request_stop(StopReason.OWNER_DIED), 4)]
)
def test_a_stopped_run_keeps_a_checkpoint_and_goes_on_with_the_same_numbers(finished, cohort, tmp_path, stop, code):
    whole = finished[0]
    folder = new_run(tmp_path, cohort, f"method={whole.request().settings['method']}")
    assert work(folder, {5: stop})[0] == code
    assert folder.last_checkpoint.name == "00000005"
    assert folder.assess() is State.CANCELLED
    assert Model.load(folder.path).summary["iterations"] == 5  # what there is can be used already
    assert work(folder)[0] == 0
    assert_equal_weights(folder, whole)
    curves, expected = folder.metrics(), whole.metrics()
    assert curves["loss"] == expected["loss"]
    assert curves["validation dice teacher"] == expected["validation dice teacher"]


def test_a_preparation_that_takes_much_of_the_minutes_is_told(cohort, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "planned_length", lambda *arguments, **options: Length(2))

    def warnings(minutes):
        folder = new_run(tmp_path / minutes, cohort, "method=partial", "iterations=null", f"minutes={minutes}")
        code, session = work(folder)
        assert code == 0, session.error
        return [each for each in session.fields_of("warning") if "Preparing the scans took" in each["message"]]

    assert not warnings("1000")
    monkeypatch.setattr(training, "_LARGE_SHARE", 0.0)
    (warning,) = warnings("10")
    assert "of 10 minutes, so less is left for training" in warning["message"]


def test_settings_that_an_older_version_did_not_know_are_named_when_its_run_goes_on(cohort, tmp_path):
    folder = new_run(tmp_path, cohort, "method=mean_teacher")
    assert work(folder, {5: sending("cancel")})[0] == 3
    settings = folder.details()["settings"]
    del settings["mean_teacher"]["noise"], settings["sgrs"]["noise"], settings["threads"]
    folder.update_request(settings=settings)
    code, session = work(folder)
    assert code == 0
    (warning,) = [each["message"] for each in session.events if each.name == "warning"]
    assert "threads, mean_teacher.noise: they have today's defaults" in warning


@pytest.mark.parametrize(
    ("changes", "is_told"),
    [
        (("schedule.unlabeled_start=null",), True),
        ((), False),
        (("method=partial", "schedule.unlabeled_start=null"), False),
    ],
)
def test_a_training_that_is_too_short_to_learn_from_the_rest_says_so(cohort, tmp_path, changes, is_told):
    code, session = work(new_run(tmp_path, cohort, "method=sp3", "validations=0", *changes))
    assert code == 0
    messages = [each["message"] for each in session.fields_of("warning")]
    assert any("learns from annotations only" in message for message in messages) == is_told


def test_a_warm_start_is_taught_from_the_first_step_on_and_no_such_thing_is_said(cohort, tmp_path, finished):
    earlier = finished[0]
    wishes = ("method=sp3", "validations=0", "schedule.unlabeled_start=null", f"warm_start={earlier.path}")
    code, session = work(new_run(tmp_path, cohort, *wishes))
    assert code == 0
    assert "pseudo" in session.fields_of("metric")[0]["values"]
    assert not any("annotations only" in each["message"] for each in session.fields_of("warning"))


def test_no_stroke_that_was_trained_on_is_held_out_after_a_resume(tmp_path, monkeypatch):
    taken = []
    original = HeldOutStrokes.take

    def take(self, case):
        original(self, case)
        taken.append(self.of_case[case.id])

    monkeypatch.setattr(HeldOutStrokes, "take", take)
    cohort = make_phantom_cohort(tmp_path / "c", n_cases=2, shape=(16, 24, 24), n_scribbled=1, n_test=0)
    folder = new_run(tmp_path, cohort, "held_out_strokes=true", "validations=4", "plan.spacing=1,1,1")
    assert work(folder, {3: sending("cancel")})[0] == 3
    case = cohort.case("phantom_01")
    painted = cohort.read_scribble(case)
    painted[::2, 0, ::3] = 0  # many strokes of the background before all others
    values = {"background": 1, **{name: index + 2 for index, name in enumerate(SCHEMA.names)}}
    voxels = np.where(painted == 255, 0, painted + 1).astype(np.uint8)
    write_volume(tmp_path / "more.nrrd", Volume(voxels, cohort.read_geometry(case)))
    cohort.with_case(replace(case, scribble=AnnotationFile(tmp_path / "more.nrrd", values))).save()
    assert work(folder)[0] == 0
    before, after = taken
    assert (before != 255).any()
    np.testing.assert_array_equal(after, before)


def test_a_run_that_is_stopped_while_it_prepares_leaves_no_model(cohort, tmp_path, monkeypatch):
    folder = new_run(tmp_path, cohort)
    original = training_data.load_training_cases

    def load(*arguments, on_progress, **options):
        session.request_stop(StopReason.CANCEL)
        return original(*arguments, on_progress=on_progress, **options)

    monkeypatch.setattr(training_data, "load_training_cases", load)
    with folder.lock(), ScriptedSession(folder, {}) as session:
        assert run(session, TASKS) == 3
    assert not folder.model.exists()
    monkeypatch.undo()
    assert work(folder)[0] == 0


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(finished, cohort, tmp_path):
    whole = finished[0]
    folder = new_run(tmp_path, cohort, f"method={whole.request().settings['method']}")
    work(folder, {3: sending("checkpoint"), 5: sending("cancel")})
    file = folder.checkpoints / "00000005" / "student.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    (folder.checkpoints / ".tmp-1-left").mkdir()  # of a worker that was killed while writing
    code, session = work(folder)
    assert code == 0
    assert "00000005" in session.fields_of("warning")[0]["message"]
    assert_equal_weights(folder, whole)
    assert not list(folder.checkpoints.glob(".tmp*"))


def test_minutes_become_iterations_once(cohort, tmp_path, monkeypatch):
    counted = []
    monkeypatch.setattr(
        training, "planned_length", lambda *arguments, looks, begun: counted.append(1) or Length(6, {"validations": 3})
    )
    settings = [each for each in TINY if not each.startswith("iterations")]
    wishes = TrainingSettings().with_overrides(["method=partial", *settings, "minutes=1"])
    request = RunRequest("train", cohort=str(cohort.path), settings=wishes.to_json(), exclusive=False)
    folder = RunFolder.create(tmp_path / "run", request)
    work(folder, {2: sending("cancel")})
    assert folder.details()["iterations"] == 6
    assert work(folder)[0] == 0
    assert len(counted) == 1
    assert Model.load(folder.path).summary["iterations"] == 6
    assert [iteration for iteration, _ in folder.metrics()["validation dice teacher"]] == [2, 4, 6]


# Commands -------------------------------------------------------------------------------------------------------------


def test_a_pause_is_answered_at_once_and_changes_no_number(finished, cohort, tmp_path):
    whole = finished[0]
    folder = new_run(tmp_path, cohort, f"method={whole.request().settings['method']}")
    code, session = work(folder, {2: sending("pause"), "paused": sending("resume")})
    assert code == 0
    order = [
        event.fields.get("state") or event.fields.get("command")
        for event in session.events
        if event.name in ("state", "answer")
    ]
    assert order == ["running", "pause", "paused", "resume", "running", "finished"]
    assert all(fields["ok"] for fields in answers(session).values())
    assert folder.last_checkpoint is not None
    assert_equal_weights(folder, whole)


def test_scans_that_a_gpu_had_no_room_for_stay_outside_after_a_pause(monkeypatch):
    monkeypatch.setattr(training, "empty_cache", lambda device: None)
    moved = []
    paused = object.__new__(training.TrainingRun)
    paused.device = torch.device("cuda")
    paused.trainer = SimpleNamespace(move_to=lambda device: moved.append(("networks", device.type)))
    paused.data = SimpleNamespace(
        device=torch.device("cpu"), move_to=lambda device: moved.append(("scans", device.type))
    )
    paused.move_to(torch.device("cpu"))
    paused.move_to(paused.device)
    assert moved == [("networks", "cpu"), ("scans", "cpu"), ("networks", "cuda"), ("scans", "cpu")]


def test_a_paused_run_can_be_cancelled(cohort, tmp_path):
    folder = new_run(tmp_path, cohort)
    assert work(folder, {2: sending("pause"), "paused": sending("cancel")})[0] == 3
    assert folder.last_checkpoint.name == "00000002"


def test_a_preview_is_written_while_training_goes_on(finished, cohort, tmp_path):
    whole = finished[0]
    folder = new_run(tmp_path, cohort, f"method={whole.request().settings['method']}")
    code, session = work(folder, {3: sending("preview", case="phantom_03")})
    assert code == 0
    preview = session.fields_of("preview")[0]
    _, grid = read_annotation(Path(preview["files"]["segmentation"]), None, SCHEMA)
    assert grid.same_grid(cohort.read_geometry(cohort.case("phantom_03")))
    assert answers(session)["preview"]["ok"]
    assert_equal_weights(folder, whole)


def test_commands_that_cannot_be_obeyed_are_answered_and_harmless(finished, cohort, tmp_path, monkeypatch):
    whole = finished[0]
    folder = new_run(tmp_path, cohort, f"method={whole.request().settings['method']}")

    def everything(session: LocalSession) -> None:
        sending("preview", case="nobody")(session)
        sending("update_annotations", case="phantom_04")(session)  # a validation case
        sending("resume")(session)
        sending("dance")(session)

    def explode(*arguments, **options) -> None:
        raise torch.OutOfMemoryError("no room for a preview")

    monkeypatch.setattr("SemiSupSegLib.learning.live_commands.write_prediction", explode)
    code, session = work(folder, {2: everything, 4: sending("preview", case="phantom_01")})
    assert code == 0
    found = session.fields_of("answer")
    assert [fields["command"] for fields in found] == ["preview", "update_annotations", "resume", "dance", "preview"]
    assert [fields["ok"] for fields in found] == [False, False, True, False, False]
    assert "no case 'nobody'" in found[0]["message"]
    assert "not a training case" in found[1]["message"]
    assert "OutOfMemoryError" in found[4]["message"]
    assert_equal_weights(folder, whole)


def test_new_annotations_are_used_from_the_next_step_on(tmp_path):
    cohort = make_phantom_cohort(tmp_path / "c", n_cases=3, shape=(12, 24, 24), n_scribbled=2, n_test=0)
    first = cohort.case("phantom_01").scribble.path
    second = cohort.case("phantom_02").scribble.path
    content = first.read_bytes()

    def paint(session: LocalSession) -> None:
        first.write_bytes(second.read_bytes())
        sending("update_annotations", case="phantom_01")(session)

    unchanged = new_run(tmp_path / "1", cohort, "method=sp3", "validations=0")
    work(unchanged)
    folder = new_run(tmp_path / "2", cohort, "method=sp3", "validations=0")
    code, session = work(folder, {4: paint})
    first.write_bytes(content)
    assert code == 0
    answer = answers(session)["update_annotations"]
    assert answer["ok"], answer["message"]
    assert "iteration 4" in answer["message"]
    before, after = unchanged.metrics()["loss"], folder.metrics()["loss"]
    assert before[:4] == after[:4]
    assert before[4] != after[4]


# Validation -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("iterations", "times"), [(7, 3), (8, 2), (10, 10), (5, 9), (1000, 7), (49, 49)])
def test_validations_are_spread_evenly_and_the_last_is_at_the_end(iterations, times):
    due = [iteration for iteration in range(1, iterations + 1) if is_due(iteration, iterations, times)]
    assert len(due) == min(times, iterations)
    assert due[-1] == iterations
    assert np.ptp(np.diff([0, *due])) <= 1
    assert not is_due(iterations, iterations, 0)


def test_dice_counts_annotated_voxels_and_shown_classes_only():
    truth = torch.tensor([[0, 1, 1, 255, 255, 0]], dtype=torch.uint8)
    labels = torch.tensor([[0, 1, 0, 1, 2, 2]])
    assert dice_on_annotated(labels, truth, 3) == pytest.approx(2 * 1 / (1 + 2))
    assert math.isnan(dice_on_annotated(labels, torch.full_like(truth, 255), 3))


def test_without_validation_cases_strokes_may_be_held_out_and_measured(tmp_path):
    cohort = make_phantom_cohort(tmp_path / "c", n_cases=3, shape=(16, 24, 24), n_scribbled=2, n_test=0)
    folder = new_run(tmp_path, cohort, "method=sp3", "held_out_strokes=true", "validations=4")
    assert work(folder, {5: sending("cancel")})[0] == 3
    assert work(folder)[0] == 0
    curve = folder.metrics()["held-out agreement"]
    assert [iteration for iteration, _ in curve] == [2, 4, 6, 8]
    assert all(0 <= value <= 1 for _, value in curve)
    whole = new_run(tmp_path / "whole", cohort, "method=sp3", "held_out_strokes=true", "validations=4")
    work(whole)
    assert_equal_weights(folder, whole)
    assert Model.load(folder.path).recommended == "teacher"
