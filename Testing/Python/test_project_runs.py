"""A cohort in a scene: training, predictions, their correction (by real workers where it matters), and the logic."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import slicer
from scene_building import SHAPE, TERMINOLOGY, add_transform, add_volume, exported, rotation

from SemiSupSegLib.cohort import AnnotationFile, Cohort
from SemiSupSegLib.errors import CohortError, ErrorCode, SemiSupSegError, SettingsError
from SemiSupSegLib.labels import IGNORE, LabelSchema
from SemiSupSegLib.phantom import SCHEMA as PHANTOM
from SemiSupSegLib.phantom import make_phantom
from SemiSupSegLib.runs import RunFolder, State
from SemiSupSegLib.segmentation_file import write_segmentation
from SemiSupSegLib.slice_ranking import uncertain_slices
from SemiSupSegLib.slicer_bridge.nodes import geometry_of
from SemiSupSegLib.slicer_bridge.predictions import Prediction
from SemiSupSegLib.slicer_bridge.project import Project
from SemiSupSegLib.slicer_bridge.results import add_segmentation as show_labels
from SemiSupSegLib.slicer_bridge.results import add_volume as show_volume
from SemiSupSegLib.slicer_bridge.segments import read_segments

pytest_plugins = ["slicer_fixture", "project_fixture"]

TINY = {
    "plan.network": "unet",
    "plan.features": [4, 8],
    "plan.patch": [16, 16, 16],
    "augmentation.spatial_probability": 0,
    "schedule.unlabeled_start": 0.3,
    "threads": 1,
}
"""Settings of a network that learns next to nothing, fast."""


def test_training_without_annotation_or_with_an_impossible_setting_starts_nothing(project, volume_node):
    project.add_case(volume_node)
    with pytest.raises(CohortError, match="Nothing is annotated") as caught:
        project.train()
    assert caught.value.code is ErrorCode.NO_ANNOTATION
    with pytest.raises(SettingsError, match="no setting 'learning_rat'"):
        project.train(settings={"learning_rat": 1})
    with pytest.raises(SemiSupSegError, match="There is no model yet"):
        project.predict()
    assert not (project.folder / "runs").exists()


def test_interpreter_that_is_not_there_is_said_in_a_sentence(scene, tmp_path, volume_node, strokes):
    from SemiSupSegLib.slicer_bridge.compute import Compute

    project = Project(tmp_path / "cohort", scene, compute=Compute(str(tmp_path / "no python")))
    project.add_case(volume_node, strokes)
    with pytest.raises(SemiSupSegError, match=r"interpreter .*no python' can't be started"):
        project.train()


def predict_everywhere(project: Project, case_id: str) -> None:
    """A prediction of a case that says the first class everywhere."""
    path = project.folder / "predictions" / f"{case_id}.seg.nrrd"
    grid = project.cohort.read_geometry(project.cohort.case(case_id))
    write_segmentation(path, np.ones(grid.shape, np.uint8), grid, project.cohort.schema)
    project.predictions.put(Prediction(case_id, {"segmentation": path}))


def test_correction_lets_go_of_strokes_and_leaves_every_file(project, volume_node, strokes, scene):
    project.add_case(volume_node, strokes)
    case = project.cohort.case("scan")
    reference = project.folder / "labels" / "scan_label.seg.nrrd"
    reference.parent.mkdir()
    write_segmentation(reference, np.zeros(SHAPE, np.uint8), geometry_of(volume_node), project.cohort.schema)
    project.cohort = project.cohort.with_case(replace(case, label=AnnotationFile(reference), labeled=False))
    before = {path: path.read_bytes() for path in (reference, case.scribble.path)}
    predict_everywhere(project, "scan")

    correction = project.start_correction("scan")
    after = project.cohort.case("scan")
    assert after.label.path.name == "scan_label_2.seg.nrrd"
    assert (after.scribble, after.labeled) == (None, True)
    assert strokes.GetAttribute("SemiSupSeg.Case") is None
    assert not strokes.GetDisplayNode().GetVisibility()
    slicer.util.updateSegmentBinaryLabelmapFromArray(np.ones(SHAPE, np.uint8), strokes, "L", volume_node)
    assert project.save_edits() == []

    # The corrected label is the person's work, too, when another result is made the starting point.
    before[after.label.path] = after.label.path.read_bytes()
    assert project.start_correction("scan").annotation is correction.annotation
    assert project.cohort.case("scan").label.path.name == "scan_label_3.seg.nrrd"
    assert {path: path.read_bytes() for path in before} == before


def test_nodes_loaded_to_show_strokes_go_when_the_result_is_corrected(project, volume_node, strokes, scene):
    project.add_case(volume_node, strokes)
    for node in (strokes, volume_node):
        scene.RemoveNode(node)
    shown = project.show_case("scan")
    predict_everywhere(project, "scan")
    correction = project.start_correction("scan")
    assert shown.annotation.GetScene() is None
    assert correction.volume is shown.volume


def test_a_result_that_was_only_partly_shown_is_not_added_again(project, volume_node, strokes, scene):
    project.add_case(volume_node, strokes)
    predict_everywhere(project, "scan")
    before = scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")
    steps = project.results_steps("scan")
    while scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == before:
        next(steps)
    steps.close()
    project.results("scan")
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == before + 1


def test_uncertain_slices_are_far_apart_and_most_uncertain_first():
    doubt = np.zeros(20)
    doubt[[4, 5, 12]] = 3.6, 4.0, 2.0
    assert uncertain_slices(doubt, count=5, distance=3) == [(5, 4.0), (12, 2.0)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A project with three scribbled phantoms and one plain one, trained for a few steps by a real worker."""
    scene = slicer.vtkMRMLScene()
    folder = tmp_path_factory.mktemp("Ärzte und so") / "cohort"
    project = Project(folder, scene)
    for index in range(3):
        phantom = make_phantom((16, 24, 24), index)
        volume_node = show_volume(phantom.image.array, phantom.image.geometry, scene, f"phantom {index}")
        strokes = show_labels(phantom.scribbles, volume_node, PHANTOM, "strokes", with_background=True)
        for segment_id in strokes.GetSegmentation().GetSegmentIDs():
            strokes.GetSegmentation().GetSegment(segment_id).SetTerminology(TERMINOLOGY)
        project.add_case(volume_node, strokes if index < 2 else None)
    events = []
    job = project.train("sp3", iterations=6, settings=TINY, name="Übung", on_event=events.append, blocking=True)
    assert job.state is State.FINISHED
    names = [event.name for event in events]
    assert names[0] == "started"
    assert names[-1] == "finished"
    assert {"plan", "progress", "metric", "checkpoint"} <= set(names)
    assert {"loss", "pseudo"} <= set(job.metrics)
    assert "loss" in project.curves.plot.names
    project.close()
    return folder


def test_road_from_strokes_to_results_in_the_scene(trained, scene):
    project = Project(trained, scene)
    (card,) = project.shelf.cards()
    assert (card.name, card.method, card.state, card.iteration) == ("Übung", "sp3", State.FINISHED, 6)
    volume_node = project.image_node("phantom 2")
    transform = add_transform(rotation(20, (1, 2, 3)), volume_node)
    job = project.predict(["phantom 2", "phantom 0"], probability=True, blocking=True)
    assert job.state is State.FINISHED
    nodes = project.results("phantom 2")
    segments = read_segments(nodes.segmentation)
    assert [each.segment_id for each in segments] == [each.segment_id for each in PHANTOM.classes]
    assert [each.name for each in segments] == list(PHANTOM.names)
    assert [each.terminology for each in segments] == [TERMINOLOGY] * 3
    for each, expected in zip(segments, PHANTOM.classes, strict=True):
        assert each.color == pytest.approx(expected.color)
    assert list(nodes.probabilities) == list(PHANTOM.names)
    for node in (nodes.segmentation, nodes.uncertainty, *nodes.probabilities.values()):
        assert node.GetParentTransformNode() is transform
        assert node.GetAttribute("SemiSupSeg.Case") == "phantom 2"
    assert geometry_of(nodes.uncertainty) == geometry_of(volume_node)
    labels = project.predictions.get("phantom 2").labels()[0]
    for index, each in enumerate(segments, start=1):
        np.testing.assert_array_equal(exported(nodes.segmentation, each.segment_id, volume_node), labels == index)

    again = project.results("phantom 2")
    assert again.segmentation is nodes.segmentation
    assert {name for name, _ in project.ranking()} == {"phantom 0", "phantom 2"}
    assert len(project.uncertain_slices("phantom 2", 2)) <= 2
    assert [row.status for row in project.case_rows()] == ["annotated", "annotated", "predicted"]

    scene.RemoveNode(again.segmentation)
    correction = project.start_correction("phantom 0")
    strokes_win = project.cohort.read_label(project.cohort.case("phantom 0"))
    scribbles = make_phantom((16, 24, 24), 0).scribbles
    assert (strokes_win[scribbles != IGNORE] == scribbles[scribbles != IGNORE]).all()
    assert correction.annotation.GetAttribute("SemiSupSeg.Kind") == "label"
    project.close()


def test_renamed_model_leaves_its_run_finished(trained, scene, tmp_path):
    shutil.copytree(trained, tmp_path / "copy")
    shelf = Project(tmp_path / "copy", scene).shelf
    (card,) = shelf.cards()
    shelf.rename(card.path, "ein anderer Name")
    shelf.rename(card.model.folder, "noch ein Name")
    (again,) = shelf.cards()
    assert (again.name, again.state) == ("noch ein Name", State.FINISHED)
    assert RunFolder(card.path).verify_manifest()["outcome"] == "finished"


def test_volume_outside_the_cohort_is_predicted_and_its_copy_deleted(trained, scene, tmp_path):
    shutil.copytree(trained, tmp_path / "copy")
    project = Project(tmp_path / "copy", scene)
    phantom = make_phantom((16, 20, 22), 77)
    volume_node = show_volume(phantom.image.array, phantom.image.geometry, scene, "a.new scan")
    job = project.predict(volumes=[volume_node], blocking=True)
    nodes = project.results(volume_node)
    assert geometry_of(nodes.uncertainty) == geometry_of(volume_node)
    assert not list((job.path / "inputs").glob("*"))
    assert "a_new scan" not in {case.id for case in project.cohort.cases}
    with pytest.raises(CohortError, match="no prediction of 'scan'"):
        project.results(add_volume(np.zeros(SHAPE, np.int16)))
    case = project.add_case(volume_node)
    assert project.results(volume_node).segmentation is nodes.segmentation, "its result stays, though it is a case now"
    with pytest.raises(CohortError, match=f"no prediction of '{case}'"):
        project.results(case)
    project.close()


def test_result_that_comes_after_the_scene_was_closed_is_no_other_volumes(trained, scene):
    project = Project(trained, scene)
    scan = make_phantom((16, 20, 22), 77).image
    before = show_volume(scan.array, scan.geometry, scene, "before").GetID()
    job = project.predict(volumes=[scene.GetNodeByID(before)])
    scene.Clear(0)
    project.forget_scene()
    other = show_volume(scan.array, scan.geometry, scene, "other")
    assert other.GetID() == before
    assert project.wait(job, timeout=240) is State.FINISHED
    with pytest.raises(CohortError, match="no prediction of 'other'"):
        project.results(other)
    project.close()


def test_prediction_that_goes_on_while_nobody_listens_is_known_afterwards(trained, scene, tmp_path):
    shutil.copytree(trained, tmp_path / "copy", ignore=shutil.ignore_patterns("predictions", "*-predict"))
    project = Project(tmp_path / "copy", scene)
    job = project.predict(uncertainty=False)
    project.close(keep_running=True)
    deadline = time.monotonic() + 240
    while not job.folder.assess().is_over:
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.1)
    assert job.folder.assess() is State.FINISHED
    project = Project(tmp_path / "copy", scene)
    assert project.reattach() == []
    assert {row.id for row in project.case_rows() if row.has_prediction} == {f"phantom {index}" for index in range(3)}
    project.results("phantom 1")

    project.predictions.forget("phantom 1")
    project = Project(tmp_path / "copy", scene)
    project.reattach()
    assert project.predictions.get("phantom 1") is None, "its file is gone"


def test_prediction_of_cases_is_found_again_and_that_of_a_volume_outside_ends(trained, scene):
    begun = time.time()
    project = Project(trained, scene)
    scan = make_phantom((64, 96, 96), 77).image
    jobs = [project.predict(volumes=[show_volume(scan.array, scan.geometry, scene, "outside")])]
    jobs += [project.predict(["phantom 0"])]
    assert [job.is_of_cohort for job in jobs] == [False, True]
    _poll_until(project, lambda: jobs[1].runner.worker)
    project.close(keep_running=True)
    assert [job.is_attached for job in jobs] == [True, False]
    again = Project(trained, scene)
    for job in again.reattach():
        again.wait(job, timeout=240)
    again.wait()
    assert again.predictions.get("phantom 0").time > begun
    assert again.predictions.get("outside") is None
    again.close()


def test_training_is_polled_previewed_paused_and_cancelled_without_blocking(trained, scene):
    project = Project(trained, scene)
    events = []
    job = project.train("partial", iterations=100_000, settings=TINY, on_event=events.append)
    assert project.training is job
    _poll_until(project, lambda: job.metrics)
    shown = project.show_case("phantom 1")
    segment = read_segments(shown.annotation)[0].segment_id
    painted = slicer.util.arrayFromSegmentBinaryLabelmap(shown.annotation, segment, shown.volume)
    slicer.util.updateSegmentBinaryLabelmapFromArray(painted, shown.annotation, segment, shown.volume)
    project.hide_case("phantom 1")
    _poll_until(project, lambda: any(each.fields.get("command") == "update_annotations" for each in events))
    asked = job.request_preview("phantom 1")
    longest = _poll_until(project, lambda: job.answer(asked) is not None)
    assert job.answer(asked)["ok"], job.answer(asked)["message"]
    assert project.show_preview("phantom 1").segmentation.GetScene() is scene
    assert longest < 1.0
    job.pause()
    _poll_until(project, lambda: job.state is State.PAUSED)
    job.resume()
    _poll_until(project, lambda: job.state is State.RUNNING)
    scene.Clear(0)
    project.forget_scene()
    points = len(job.folder.metrics()["loss"])
    _poll_until(project, lambda: project.curves is not None and project.curves.plot.names)
    project.curves.show()
    table = project.curves.plot.losses.GetNthPlotSeriesNode(0).GetTableNode()
    assert table.GetNumberOfRows() >= points, "curves of before the scene was closed are there again"
    project.cancel()
    assert project.wait(job, timeout=240) is State.CANCELLED
    assert project.training is None
    (card,) = [card for card in project.shelf.cards() if card.path == job.path]
    assert card.can_resume
    project.shelf.delete(card.path)
    assert not card.path.exists()
    (chart, _) = project.curves.plot.charts
    project.close()
    assert chart.GetScene() is None, "the curves go with the cohort"


# ---------------------------------------------------------------------------------------------------------------------
# The module's logic


def test_logic_remembers_cohort_and_case_in_the_scene(logic, scene, tmp_path, volume_node, strokes):
    logic.openCohort(tmp_path / "cohort")
    case = logic.addCase(volume_node, strokes)
    assert [row.id for row in logic.caseRows()] == [case]
    assert logic.showCase(case).annotation is strokes
    parameters = logic.getParameterNode()
    assert parameters.currentCase == case
    assert Path(parameters.cohortPath) == tmp_path / "cohort" / "cohort.json"
    logic.closeCohort()
    assert not logic.isOpen
    assert logic.openCohortOfScene().path == tmp_path / "cohort" / "cohort.json"
    assert logic.conflicts() == []


def test_training_goes_on_alone_while_another_cohort_is_open(trained, logic, tmp_path):
    logic.openCohort(trained)
    job = logic.train("partial", iterations=100_000, settings=TINY)
    _poll_until(logic.project, lambda: job.metrics)
    logic.openCohort(tmp_path / "other")
    assert logic.training is None
    logic.openCohort(trained)
    assert logic.training.path == job.path
    _poll_until(logic.project, lambda: logic.training.metrics)
    logic.openCohort(tmp_path / "other", keepRunning=False)  # a detached one isn't this Slicer's to end
    logic.openCohort(trained)
    found = logic.training
    found.cancel()
    assert logic.wait(found, timeout=240) is State.CANCELLED


def test_cohort_that_is_opened_again_keeps_what_was_just_painted(logic, scene, tmp_path, volume_node):
    logic.openCohort(tmp_path / "cohort", LabelSchema.from_names(["liver"]))
    case = logic.addCase(volume_node)
    annotation = logic.showCase(case).annotation
    stroke = np.zeros(SHAPE, np.uint8)
    stroke[2:4, 2:4, 2:4] = 1
    segment_id = logic.classes.classes[0].segment_id
    slicer.util.updateSegmentBinaryLabelmapFromArray(stroke, annotation, segment_id, volume_node)
    logic.openCohort(tmp_path / "cohort")
    logic.saveCohort()
    assert Cohort.load(tmp_path / "cohort" / "cohort.json").case(case).scribble is not None


def test_scene_and_cohort_that_were_moved_together_find_each_other(logic, scene, tmp_path, volume_node, strokes):
    scene.SetRootDirectory(str(tmp_path / "here"))
    logic.openCohort(tmp_path / "here" / "cohort")
    case = logic.addCase(volume_node, strokes)
    logic.closeCohort()
    (tmp_path / "here").rename(tmp_path / "there")
    scene.SetRootDirectory(str(tmp_path / "there"))
    assert logic.openCohortOfScene().folder == tmp_path / "there" / "cohort"
    assert logic.conflicts() == []
    assert logic.showCase(case).annotation is strokes


def test_logic_says_that_no_cohort_is_open(logic):
    with pytest.raises(CohortError, match="No cohort is open"):
        logic.caseRows()
    assert logic.poll() == []
    assert logic.openCohortOfScene() is None


def test_logic_offers_all_that_the_panels_need(logic):
    assert logic.methods()[0] == "sp3"
    assert {"minutes", "plan.patch", "optimizer.learning_rate"} <= {each.key for each in logic.trainingSettings()}
    assert "uncertainty" in {each.key for each in logic.predictionSettings()}


def _poll_until(project: Project, reached, seconds: float = 240.0) -> float:
    """Poll as a timer would; the seconds that the longest poll took."""
    deadline, longest = time.monotonic() + seconds, 0.0
    while not reached():
        assert time.monotonic() < deadline, "it took too long"
        assert project.is_busy, [job.runner.log_tail for job in project.jobs]
        begun = time.perf_counter()
        project.poll()
        longest = max(longest, time.perf_counter() - begun)
        time.sleep(0.02)
    return longest
