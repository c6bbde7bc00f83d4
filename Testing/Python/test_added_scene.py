"""A saved scene is added to one in which a cohort is at work: nothing is doubled, and nothing painted is lost."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import slicer
from scene_building import SHAPE, add_segmentation, add_volume, boxes, exported

from SemiSupSegLib.cohort import Cohort
from SemiSupSegLib.errors import SemiSupSegError
from SemiSupSegLib.labels import LabelSchema
from SemiSupSegLib.slicer_bridge.cohort_nodes import tag, tagged_nodes

pytest_plugins = ["slicer_fixture"]


@pytest.fixture
def work(logic, scene, tmp_path):
    """A cohort of two cases, of which "first" is shown."""
    logic.openCohort(tmp_path / "cohort", LabelSchema.from_names(["liver"]))
    for name in ("first", "second"):
        volume_node = add_volume(np.random.default_rng(0).integers(0, 900, SHAPE).astype(np.int16), name=name)
        liver, background = boxes(SHAPE, (2, 3, 4), (8, 9, 10))
        strokes = add_segmentation({"liver": liver, "background": background}, volume_node)
        logic.addCase(volume_node, strokes)
        for node in (volume_node, strokes):
            scene.RemoveNode(node)
    logic.showCase("first")
    return logic


def saved(scene, folder: Path) -> Path:
    """The scene with everything in it as a scene file."""
    folder.mkdir()
    for node_class, extension in (("vtkMRMLScalarVolumeNode", ".nrrd"), ("vtkMRMLSegmentationNode", ".seg.nrrd")):
        for node in slicer.util.getNodesByClass(node_class):
            node.AddDefaultStorageNode()
            node.GetStorageNode().SetFileName(str(folder / f"{node.GetID()}{extension}"))
            assert node.GetStorageNode().WriteData(node)
    scene.SetRootDirectory(str(folder))
    assert scene.Commit(str(folder / "scene.mrml"))
    return folder / "scene.mrml"


def add(logic, scene, path: Path):
    """What the module does when a scene is added."""
    logic.onSceneStartImport()
    scene.SetURL(str(path))
    assert scene.Import()
    return logic.takeAddedScene()


def paint(logic, k: int) -> None:
    nodes = logic.project.show_case("first")
    stroke = np.zeros(SHAPE, np.uint8)
    stroke[k] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(stroke, nodes.annotation, "liver", nodes.volume)


def liver(logic) -> np.ndarray:
    cohort = Cohort.load(logic.project.path)
    return cohort.read_scribble(cohort.case("first")) == 1


def node_ids(scene) -> set[str]:
    classes = ("vtkMRMLScalarVolumeNode", "vtkMRMLSegmentationNode", "vtkMRMLScriptedModuleNode")
    return {node.GetID() for each in classes for node in slicer.util.getNodesByClass(each, scene)}


def test_the_scene_of_the_shown_case_adds_nothing(work, scene, tmp_path):
    path = saved(scene, tmp_path / "saved")
    before, nodes = node_ids(scene), work.project.show_case("first")
    work.getParameterNode().minutes = 7.0
    added, shown = add(work, scene, path)
    assert added.conflicts() == []
    added.put_away()
    assert node_ids(scene) == before
    assert (shown, work.getParameterNode().currentCase, work.getParameterNode().minutes) == ("first", "first", 7.0)
    assert work.project.show_case("first").annotation is nodes.annotation
    paint(work, 5)
    assert work.saveEdits() == ["first"]


def test_another_case_of_the_cohort_is_told_and_shown_from_its_files(work, scene, tmp_path):
    work.showCase("second")
    path = saved(scene, tmp_path / "saved")
    work.showCase("first")
    before = node_ids(scene)
    added, shown = add(work, scene, path)
    assert added.conflicts() == []
    added.put_away()
    assert (shown, work.getParameterNode().currentCase) == ("second", "first")
    assert {node.GetAttribute("SemiSupSeg.Case") for node in tagged_nodes(scene)} == {"first"}
    assert node_ids(scene) == before


@pytest.mark.parametrize("keep", ["scene", "cohort", "both"])
def test_strokes_painted_since_the_scene_was_saved_are_asked_about(work, scene, tmp_path, monkeypatch, keep):
    old = liver(work)
    path = saved(scene, tmp_path / "saved")
    paint(work, 5)
    added, _ = add(work, scene, path)
    new = liver(work)
    assert (new != old).any(), "what was painted is written before the scene comes"
    (conflict,) = added.conflicts()
    told = []
    training = SimpleNamespace(update_annotations=told.append)
    monkeypatch.setattr(type(work.project), "training", training)
    work.resolveConflict(conflict, keep)
    assert told == (["first"] if keep == "scene" else []), "what is on disk changed for a running training"
    added.put_away()

    nodes = work.showCase("first")
    expected = old if keep == "scene" else new
    np.testing.assert_array_equal(liver(work), expected)
    np.testing.assert_array_equal(exported(nodes.annotation, "liver", nodes.volume), expected)
    others = [node for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if node is not nodes.annotation]
    if keep == "both":
        assert others == [conflict]
        np.testing.assert_array_equal(exported(conflict, "liver", nodes.volume), old)
        paint(work, 6)
        assert work.saveEdits() == ["first"]
        assert work.conflicts() == []
    else:
        assert others == []


def test_keeping_the_files_version_leaves_strokes_that_could_not_be_written_yet(work, scene, tmp_path):
    path = saved(scene, tmp_path / "saved")
    paint(work, 5)
    work.saveEdits()
    paint(work, 6)
    nodes = work.project.show_case("first")
    spleen = nodes.annotation.GetSegmentation().AddEmptySegment("spleen", "spleen")
    stroke = np.zeros(SHAPE, np.uint8)
    stroke[8] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(stroke, nodes.annotation, spleen, nodes.volume)
    with pytest.raises(SemiSupSegError, match="'spleen' that is no class"):
        work.onSceneStartImport()
    scene.SetURL(str(path))
    assert scene.Import()
    added, _ = work.takeAddedScene()
    (conflict,) = added.conflicts()
    work.resolveConflict(conflict, "cohort")
    added.put_away()
    assert liver(work)[5].all()
    nodes.annotation.GetSegmentation().RemoveSegment(spleen)
    assert work.saveEdits() == ["first"]
    assert liver(work)[6].all()


def test_keeping_both_in_a_scene_that_is_loaded_alone_shows_the_file_beside_it(work, scene, tmp_path):
    old = liver(work)
    path = saved(scene, tmp_path / "saved")
    paint(work, 5)
    work.onSceneStartClose()
    new = liver(work)
    scene.Clear(0)
    assert add(work, scene, path) is None, "no cohort is at work in an empty scene"
    assert work.openCohortOfScene() is work.project
    (conflict,) = work.conflicts()
    work.resolveConflict(conflict, "both")
    nodes = work.showCase("first")
    assert nodes.annotation is not conflict
    np.testing.assert_array_equal(exported(nodes.annotation, "liver", nodes.volume), new)
    np.testing.assert_array_equal(exported(conflict, "liver", nodes.volume), old)


def test_a_version_that_cannot_be_written_is_kept_beside_the_file_and_the_next_is_resolved(
    work, scene, tmp_path, desk, caplog
):
    from SemiSupSegWidgets.Conflicts import resolveConflicts

    paint(work, 5)
    label = np.zeros(SHAPE, np.uint8)
    label[2:4] = 1
    work.annotate("first", label, "label")
    work.project.show_case("first", "label")
    shown = work.project.show_case("first", "scribble")
    spleen = shown.annotation.GetSegmentation().AddEmptySegment("spleen", "spleen")
    slicer.util.updateSegmentBinaryLabelmapFromArray(label, shown.annotation, spleen, shown.volume)
    path = saved(scene, tmp_path / "saved")
    shown.annotation.GetSegmentation().RemoveSegment(spleen)
    work.annotate("first", label[::-1], "label")

    added, _ = add(work, scene, path)
    strokes = liver(work)
    unreadable, other = added.conflicts()
    resolveConflicts(desk, [unreadable, other], isAdded=True)
    added.put_away()
    assert "'spleen' that is no class" in caplog.text
    work.hideCurrentCase()
    assert unreadable.GetScene() is scene
    assert unreadable.GetAttribute("SemiSupSeg.Case") is None
    np.testing.assert_array_equal(liver(work), strokes)
    cohort = Cohort.load(work.project.path)
    np.testing.assert_array_equal(cohort.read_label(cohort.case("first")), label)


def test_a_version_that_nobody_was_asked_about_is_not_painted_on(work, scene, tmp_path):
    old = liver(work)
    path = saved(scene, tmp_path / "saved")
    paint(work, 5)
    work.onSceneStartClose()
    scene.Clear(0)
    add(work, scene, path)
    work.openCohortOfScene()
    (conflict,) = work.conflicts()
    new = liver(work)
    nodes = work.showCase("first")
    assert nodes.annotation is not conflict
    np.testing.assert_array_equal(exported(nodes.annotation, "liver", nodes.volume), new)
    np.testing.assert_array_equal(exported(conflict, "liver", nodes.volume), old)


@pytest.mark.parametrize("is_added", [False, True])
def test_the_question_says_which_scene_is_meant_and_is_asked_without_a_wait_cursor(
    work, scene, desk, monkeypatch, is_added
):
    import qt
    from SemiSupSegWidgets.Conflicts import resolveConflicts

    cursors, during = [], []
    monkeypatch.setattr(slicer.app, "testingEnabled", lambda: False)
    monkeypatch.setattr(slicer.app, "setOverrideCursor", cursors.append)
    monkeypatch.setattr(slicer.app, "restoreOverrideCursor", lambda: cursors.pop())
    monkeypatch.setattr(slicer.util, "mainWindow", lambda: None)
    box = qt.QMessageBox.return_value
    box.exec_.side_effect = lambda: during.append(cursors[-1])
    with desk.attempt():
        resolveConflicts(desk, [work.project.show_case("first").annotation], is_added)
    assert during == [qt.Qt.ArrowCursor]
    assert cursors == []
    said = [box.setText.call_args.args[0], *(call.args[0] for call in box.addButton.call_args_list)]
    assert [each for each in said if "added" in each] == ([said[0], said[2]] if is_added else [])


def test_nodes_of_another_cohort_and_a_persons_own_become_plain(work, scene, tmp_path, desk):
    here = work.project.path
    work.hideCurrentCase()
    work.openCohort(tmp_path / "other", LabelSchema.from_names(["liver"]))
    volume_node = add_volume(np.random.default_rng(0).random(SHAPE).astype(np.float32), name="own")
    work.showCase(work.addCase(volume_node))
    doubt = add_volume(np.random.default_rng(0).random(SHAPE).astype(np.float32), name="own uncertainty")
    tag(doubt, work.project.path, "own", "uncertainty")
    path = saved(scene, tmp_path / "saved")
    scene.Clear(0)
    work.openCohort(here)
    work.showCase("first")
    before = node_ids(scene)
    added, shown = add(work, scene, path)
    assert added.conflicts() == []
    added.put_away()
    assert (shown, work.project.path, Path(work.getParameterNode().cohortPath)) == ("", here, here)
    came = [scene.GetNodeByID(each) for each in node_ids(scene) - before]
    assert {"own", "own scribble"} <= {node.GetName() for node in came}
    assert not any(node.GetAttribute("SemiSupSeg.Cohort") for node in came)
    assert [node.GetName() for node in came if node.GetAttribute("SemiSupSeg.Kind")] == ["own uncertainty"]
    assert [node.GetName() for node in desk.otherVolumes()] == ["own"], "no result is offered as a scan"


def test_own_strokes_of_a_cohort_that_was_left_are_written_again_when_it_is_back(work, scene, tmp_path):
    volume_node = add_volume(np.random.default_rng(0).integers(0, 900, SHAPE).astype(np.int16), name="own")
    case = work.addCase(volume_node, add_segmentation({"liver": next(iter(boxes(SHAPE, (2, 3, 4))))}, volume_node))
    here = work.project.path
    work.openCohort(tmp_path / "other")
    work.openCohort(here)
    assert work.conflicts() == []
    nodes = work.showCase(case)
    stroke = np.ones(SHAPE, np.uint8)
    segment_id = nodes.annotation.GetSegmentation().GetNthSegmentID(0)
    slicer.util.updateSegmentBinaryLabelmapFromArray(stroke, nodes.annotation, segment_id, nodes.volume)
    assert work.saveEdits() == [case]


@pytest.mark.parametrize("is_same", [True, False])
def test_a_scene_in_place_of_another_keeps_its_nodes_though_a_job_is_running(
    work, scene, tmp_path, monkeypatch, is_same
):
    volume_node = add_volume(np.random.default_rng(0).integers(0, 900, SHAPE).astype(np.int16), name="own")
    case = work.addCase(volume_node, add_segmentation({"liver": next(iter(boxes(SHAPE, (2, 3, 4))))}, volume_node))
    work.showCase(case)
    path, cohort = saved(scene, tmp_path / "saved"), work.project.path
    if not is_same:
        work.openCohort(tmp_path / "other", LabelSchema.from_names(["liver"]))
    monkeypatch.setattr(type(work.project), "is_busy", True)
    here = work.project.path
    work.onSceneStartClose()
    scene.Clear(0)
    work.getParameterNode().cohortPath = str(here)  # as the module does when the scene is closed
    came = add(work, scene, path)
    if is_same:
        assert came is None
        assert work.openCohortOfScene() is work.project
        assert work.conflicts() == []
    else:
        added, shown = came
        assert (shown, added.conflicts()) == ("", [])
        added.put_away()
        assert Path(work.getParameterNode().cohortPath) == work.project.path == here
    assert {node.GetName() for node in tagged_nodes(scene, cohort, case)} == {"own", "strokes"}
    (strokes,) = tagged_nodes(scene, cohort, case, "scribble")
    assert strokes.GetDisplayNode().GetVisibility()
