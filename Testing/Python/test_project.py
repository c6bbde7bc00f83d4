"""A cohort in a scene: cases in, strokes written back."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import SimpleITK
import slicer
from scene_building import (
    SHAPE,
    SHEARED,
    TERMINOLOGY,
    add_segmentation,
    add_transform,
    add_volume,
    boxes,
    exported,
    rotation,
)

from SemiSupSegLib.cohort import Cohort, Role
from SemiSupSegLib.errors import CohortError, SemiSupSegError, VolumeError
from SemiSupSegLib.labels import IGNORE, LabelSchema
from SemiSupSegLib.phantom import SCHEMA as PHANTOM
from SemiSupSegLib.slicer_bridge.accepted_proposals import accepted_node, note_accepted
from SemiSupSegLib.slicer_bridge.cohort_nodes import EditWatcher
from SemiSupSegLib.slicer_bridge.nodes import geometry_of
from SemiSupSegLib.slicer_bridge.project import Project
from SemiSupSegLib.slicer_bridge.segments import read_segments
from SemiSupSegLib.volume import Geometry, Volume, write_volume

pytest_plugins = ["slicer_fixture", "project_fixture"]


# ---------------------------------------------------------------------------------------------------------------------
# Cases


def test_case_is_on_disk_with_grid_strokes_and_classes_as_in_the_scene(project, volume_node, strokes):
    assert project.add_case(volume_node, strokes) == "scan"
    cohort = Cohort.load(project.path)
    image = cohort.read_image(cohort.case("scan"))
    np.testing.assert_array_equal(image.array, slicer.util.arrayFromVolume(volume_node))
    assert image.geometry.same_grid(geometry_of(volume_node), tolerance=1e-9)
    liver, background = boxes(SHAPE, (2, 3, 4), (8, 9, 10))
    expected = np.where(liver, 1, np.where(background, 0, IGNORE))
    np.testing.assert_array_equal(cohort.read_scribble(cohort.case("scan")), expected)
    (liver_class,) = cohort.schema.classes
    assert (liver_class.segment_id, liver_class.name, liver_class.terminology) == ("L", "liver", TERMINOLOGY)
    assert liver_class.color == pytest.approx((0.25, 0.5, 0.75))


def test_case_under_a_transform_is_taken_in_its_own_coordinates(project, volume_node, strokes):
    add_transform(rotation(30, (4, 5, 6)), volume_node, strokes)
    project.add_case(volume_node, strokes)
    case = project.cohort.case("scan")
    assert project.cohort.read_geometry(case).same_grid(geometry_of(volume_node), tolerance=1e-9)
    assert np.count_nonzero(project.cohort.read_scribble(case) == 1) == 60


def test_dense_label_says_background_where_nothing_is_painted(project, volume_node):
    (liver,) = boxes(SHAPE, (2, 3, 4))
    project.add_case(volume_node, label_segmentation_node=add_segmentation({"liver": liver}, volume_node), role="test")
    case = Cohort.load(project.path).case("scan")
    assert case.role is Role.TEST
    np.testing.assert_array_equal(project.cohort.read_label(case), liver)


def test_scans_can_come_first_and_the_first_strokes_say_what_to_segment(project, scene, strokes, volume_node):
    other = add_volume(np.random.default_rng(1).random(SHAPE), name="scan")
    assert project.add_case(other) == "scan"
    assert project.add_case(volume_node, strokes) == "scan_2"
    assert project.cohort.schema.names == ("liver",)
    assert [case.id for case in Cohort.load(project.path).cases] == ["scan", "scan_2"]


def test_segment_that_is_no_class_leaves_the_cohort_as_it_was(project, volume_node, strokes):
    project.add_case(volume_node, strokes)
    (mask,) = boxes(SHAPE, (2, 3, 4))
    other = add_volume(np.random.default_rng(1).random(SHAPE), name="other")
    with pytest.raises(CohortError, match="'spleen' that is no class"):
        project.add_case(other, add_segmentation({"spleen": mask}, other))
    assert [case.id for case in Cohort.load(project.path).cases] == ["scan"]
    assert not (project.folder / "images" / "other.nrrd").exists()


def test_constant_volume_and_second_case_of_an_id_are_refused(project, volume_node):
    with pytest.raises(VolumeError, match="'flat' is constant"):
        project.add_case(add_volume(np.zeros(SHAPE, np.int16), name="flat"))
    project.add_case(volume_node)
    with pytest.raises(CohortError, match="has a case 'SCAN' already"):
        project.add_case(volume_node, case_id="SCAN")


def test_files_of_a_folder_become_cases(project, tmp_path):
    from SemiSupSegLib.phantom import make_phantom_cohort

    make_phantom_cohort(tmp_path / "elsewhere", 3, (8, 12, 12), n_scribbled=1, n_test=0)
    folder = tmp_path / "elsewhere"
    assert len(project.add_files(folder / "images", scribbles=folder / "scribbles")) == 3
    assert project.cohort.schema.names == PHANTOM.names
    assert [row.annotation for row in project.case_rows()] == ["scribbles", "none", "none"]


def test_files_that_are_cases_already_gain_the_annotations_that_they_lacked(project, tmp_path):
    from SemiSupSegLib.phantom import make_phantom_cohort

    make_phantom_cohort(tmp_path / "elsewhere", 3, (8, 12, 12), n_scribbled=2, n_test=0)
    images, scribbles = tmp_path / "elsewhere" / "images", tmp_path / "elsewhere" / "scribbles"
    first, *_ = sorted(images.iterdir())
    project.add_files([first])
    assert len(project.add_files(images, scribbles=scribbles)) == 3
    assert [case.scribble is not None for case in project.cohort.cases] == [True, True, False]
    with pytest.raises(CohortError, match="all of these scans already"):
        project.add_files(images, scribbles=scribbles)
    shutil.copytree(images, tmp_path / "copies")
    with pytest.raises(CohortError, match=f"has a case '{first.stem}' already"):
        project.add_files(tmp_path / "copies")
    assert len(Cohort.load(project.path).cases) == 3


def test_removed_case_leaves_files_and_plain_nodes(project, volume_node, strokes):
    project.add_case(volume_node, strokes)
    project.remove_case("scan")
    assert Cohort.load(project.path).cases == ()
    assert (project.folder / "images" / "scan.nrrd").is_file()
    assert volume_node.GetAttribute("SemiSupSeg.Case") is None
    assert strokes.GetScene() is not None


def test_rows_say_what_is_known_of_each_case(project, volume_node, strokes, scene):
    project.add_case(volume_node, strokes)
    project.add_case(add_volume(np.random.default_rng(1).random(SHAPE), name="plain"), role="test")
    first, second = project.case_rows()
    assert first.dimensions == SHAPE[::-1]
    assert first.spacing == pytest.approx(np.linalg.norm(SHEARED[:3, :3], axis=0))
    assert (first.annotation, first.role, first.status) == ("scribbles", "train", "annotated")
    assert first.annotated_fraction == pytest.approx(120 / np.prod(SHAPE))
    assert (second.annotation, second.role, second.status, second.has_prediction) == ("none", "test", "new", False)
    (project.folder / "images" / "plain.nrrd").unlink()
    broken = project.case_rows()[1]
    assert broken.status == "error"
    assert "doesn't exist" in broken.problem


def test_classes_may_grow_but_not_lose_what_is_annotated(project, volume_node, strokes):
    project.add_case(volume_node, strokes)
    project.set_classes(LabelSchema.from_names(["liver", "tumor"]))
    with pytest.raises(CohortError, match="liver, tumor can't be renamed"):
        project.set_classes(LabelSchema.from_names(["tumor"]))


# ---------------------------------------------------------------------------------------------------------------------
# Strokes


def test_strokes_reach_the_file_two_seconds_after_the_last_one(project, volume_node, strokes):
    now = [100.0]
    project.edits = EditWatcher(now=lambda: now[0])
    project.add_case(volume_node, strokes)
    more = np.zeros(SHAPE, bool)
    more[0:2, 0:2, 0:2] = True
    slicer.util.updateSegmentBinaryLabelmapFromArray(more.astype(np.uint8), strokes, "L", volume_node)
    project.poll()
    now[0] += 1.9
    project.poll()
    assert not (_on_disk(project, "scan") == 1)[0, 0, 0]
    now[0] += 0.2
    project.poll()
    np.testing.assert_array_equal(_on_disk(project, "scan") == 1, more)
    file = project.cohort.case("scan").scribble.path
    written = file.stat().st_mtime_ns
    project.poll()
    assert file.stat().st_mtime_ns == written


def test_erasing_everything_leaves_a_case_without_annotation(project, volume_node, strokes):
    project.add_case(volume_node, strokes)
    for segment in read_segments(strokes):
        nothing = np.zeros(SHAPE, np.uint8)
        slicer.util.updateSegmentBinaryLabelmapFromArray(nothing, strokes, segment.segment_id, volume_node)
    assert project.save_edits() == ["scan"]
    assert Cohort.load(project.path).case("scan").scribble is None


def test_stroke_of_no_class_is_said_once_and_tried_again_after_the_next(project, volume_node, strokes):
    now = [100.0]
    project.edits = EditWatcher(now=lambda: now[0])
    project.add_case(volume_node, strokes)
    (mask,) = boxes(SHAPE, (2, 3, 4))
    strokes.GetSegmentation().AddEmptySegment("S", "spleen")
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask.astype(np.uint8), strokes, "S", volume_node)
    project.poll()
    now[0] += 3
    project.poll()
    assert "'spleen' that is no class" in str(project.problem)
    project.problem = None
    project.poll()
    assert project.problem is None
    strokes.GetSegmentation().RemoveSegment("S")
    project.poll()
    now[0] += 3
    project.poll()
    assert project.problem is None


def test_array_becomes_the_annotation_on_disk_and_in_the_node(project, volume_node, strokes):
    project.add_case(volume_node, strokes)
    array = np.full(SHAPE, IGNORE, np.uint8)
    array[5, 5:9, 5:9], array[0] = 1, 0
    project.annotate("scan", array)
    np.testing.assert_array_equal(_on_disk(project, "scan"), array)
    np.testing.assert_array_equal(exported(strokes, "L", volume_node), array == 1)
    assert project.save_edits() == []


def test_a_label_without_foreground_is_a_label(project, volume_node, strokes):
    project.add_case(volume_node, strokes)
    project.annotate("scan", np.zeros(SHAPE, np.uint8), "label")
    case = project.cohort.case("scan")
    assert case.trains_with("dense") == "label"
    np.testing.assert_array_equal(project.cohort.read_label(case), 0)


@pytest.mark.parametrize(
    "array, sentence",
    [(np.zeros((2, 3, 4), np.uint8), "has the shape"), (np.full(SHAPE, 9, np.uint8), r"holds \[9\]")],
)
def test_array_that_does_not_fit_is_refused(project, volume_node, strokes, array, sentence):
    project.add_case(volume_node, strokes)
    with pytest.raises(SemiSupSegError, match=sentence):
        project.annotate("scan", array)


def test_shown_case_is_painted_on_and_hidden_and_the_users_nodes_stay(project, volume_node, strokes, scene):
    project.add_case(volume_node, strokes)
    shown = project.show_case("scan")
    assert shown.volume is volume_node
    assert shown.annotation is strokes
    project.hide_case("scan")
    assert strokes.GetScene() is scene
    assert not strokes.GetDisplayNode().GetVisibility()
    for node in (strokes, volume_node):
        scene.RemoveNode(node)
    shown = project.show_case("scan")
    assert geometry_of(shown.volume).same_grid(project.cohort.read_geometry(project.cohort.case("scan")))
    assert [each.name for each in read_segments(shown.annotation)] == ["liver", "background"]
    slicer.util.updateSegmentBinaryLabelmapFromArray(np.ones(SHAPE, np.uint8), shown.annotation, "L", shown.volume)
    project.hide_case("scan")
    assert shown.annotation.GetScene() is None
    assert project.show_case("scan").volume.GetName() == shown.volume.GetName() == "scan"
    _, background = boxes(SHAPE, (2, 3, 4), (8, 9, 10))
    np.testing.assert_array_equal(_on_disk(project, "scan"), np.where(background, IGNORE, 1))


def test_strokes_on_a_case_whose_label_was_kept_for_evaluation_train(project, volume_node, strokes):
    project.add_case(volume_node, strokes)
    project.change_case("scan", labeled=False)
    more = np.zeros(SHAPE, np.uint8)
    more[0:2, 0:2, 0:2] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(more, strokes, "L", volume_node)
    project.save_edits()
    assert Cohort.load(project.path).case("scan").annotated


def test_label_kept_for_evaluation_is_kept_again_when_all_strokes_are_erased(project, volume_node):
    (liver,) = boxes(SHAPE, (2, 3, 4))
    project.add_case(volume_node, label_segmentation_node=add_segmentation({"liver": liver}, volume_node))
    project.change_case("scan", labeled=False)
    node = project.show_case("scan").annotation
    segment = read_segments(node)[0].segment_id
    for painted, labeled in ((liver, True), (np.zeros(SHAPE), False), (liver, True)):
        slicer.util.updateSegmentBinaryLabelmapFromArray(painted.astype(np.uint8), node, segment, volume_node)
        project.save_edits()
        case = Cohort.load(project.path).case("scan")
        assert (case.labeled, case.scribble is not None) == (labeled, labeled)
    assert [each.name for each in (project.folder / "scribbles").iterdir()] == ["scan_scribble.seg.nrrd"]


def test_files_that_somebody_else_wrote_are_never_written_over(project, volume_node, strokes, scene):
    project.add_case(volume_node, strokes)
    own = project.cohort.case("scan").scribble.path
    for folder, name in (("images", "other.nrrd"), ("scribbles", "other_scribble.seg.nrrd")):
        shutil.copy(own, project.folder / folder / name)
    before = {path: path.read_bytes() for path in project.folder.rglob("other*")}
    other = add_volume(np.random.default_rng(1).random(SHAPE), name="other")
    (liver,) = boxes(SHAPE, (2, 3, 4))
    project.add_case(other, add_segmentation({"liver": liver}, other))
    case = project.cohort.case("other")
    assert (case.image.name, case.scribble.path.name) == ("other_2.nrrd", "other_scribble_2.seg.nrrd")

    # The case's own file, saved by Slicer in the meantime, is somebody's, too.
    volume = SimpleITK.ReadImage(str(case.scribble.path))
    volume.EraseMetaData("SemiSupSeg_Painted")
    SimpleITK.WriteImage(volume, str(case.scribble.path))
    before[case.scribble.path] = case.scribble.path.read_bytes()
    project.annotate("other", np.ones(SHAPE, np.uint8))
    assert project.cohort.case("other").scribble.path.name == "other_scribble_3.seg.nrrd"
    assert {path: path.read_bytes() for path in before} == before
    project.annotate("other", np.zeros(SHAPE, np.uint8))
    assert project.cohort.case("other").scribble.path.name == "other_scribble_3.seg.nrrd"


def test_accepted_proposals_are_kept_apart_from_strokes_and_come_back_with_them(project, volume_node, strokes, scene):
    project.add_case(volume_node, strokes)
    before = _on_disk(project, "scan")
    proposals = np.full(SHAPE, IGNORE, np.uint8)
    proposals[0:2, 0:2, 0:2] = 1
    both = np.where(before == IGNORE, proposals, before)
    slicer.util.updateSegmentBinaryLabelmapFromArray((both == 1).astype(np.uint8), strokes, "L", volume_node)
    note_accepted(strokes, proposals, volume_node, project.cohort.schema)
    assert project.save_edits() == ["scan"]
    np.testing.assert_array_equal(_on_disk(project, "scan"), before)
    np.testing.assert_array_equal(project.cohort.read_proposals(project.cohort.case("scan")), proposals)
    assert Project(project.path, scene).conflicts() == []

    for node in (strokes, volume_node):
        scene.RemoveNode(node)
    shown = project.show_case("scan").annotation
    held = slicer.util.arrayFromSegmentBinaryLabelmap(shown, "L", project.image_node("scan"))
    np.testing.assert_array_equal(held, both == 1)
    assert accepted_node(shown) is not None
    project.annotate("scan", before)  # says what the annotation is: nothing is a proposal any more
    assert accepted_node(shown) is None
    assert Cohort.load(project.path).case("scan").proposals is None


def test_loaded_scene_that_differs_from_the_cohort_is_a_conflict_to_resolve(project, volume_node, strokes, scene):
    project.add_case(volume_node, strokes)
    again = Project(project.path, scene)
    assert again.conflicts() == []
    changed = np.full(SHAPE, IGNORE, np.uint8)
    changed[3] = 1
    third = Project(project.path, scene)
    project.edits.forget(strokes)
    strokes.SetAttribute("SemiSupSeg.Kind", "elsewhere")
    project.annotate("scan", changed)
    strokes.SetAttribute("SemiSupSeg.Kind", "scribble")
    third.cohort = Cohort.load(project.path)
    assert third.conflicts() == [strokes]
    third.resolve(strokes, "cohort")
    np.testing.assert_array_equal(exported(strokes, "L", volume_node), changed == 1)
    assert third.conflicts() == []


def test_label_map_smaller_than_the_scan_is_no_conflict(project, scene, tmp_path):
    path = tmp_path / "scan.nrrd"
    volume = Volume(np.random.default_rng(0).random(SHAPE).astype(np.float32), Geometry(SHAPE[::-1], (1.0, 1.0, 2.0)))
    write_volume(path, volume)
    part = Volume(np.ones((4, 5, 6), np.uint8), volume.geometry.cropped((2, 2, 2), (6, 5, 4)))
    write_volume(tmp_path / "labels" / "scan.nrrd", part)
    project.add_files([path], labels=tmp_path / "labels", label_values="liver=1")
    assert (project.cohort.read_label(project.cohort.case("scan")) == IGNORE).any()
    shown = project.show_case("scan", "label")
    again = Project(project.path, scene)
    assert again.conflicts() == []
    slicer.util.updateSegmentBinaryLabelmapFromArray(np.ones(SHAPE, np.uint8), shown.annotation, "liver", shown.volume)
    project.edits.forget_all()
    assert Project(project.path, scene).conflicts() == [shown.annotation]


def _on_disk(project: Project, case_id: str) -> np.ndarray:
    cohort = Cohort.load(project.path)
    return cohort.read_scribble(cohort.case(case_id))
