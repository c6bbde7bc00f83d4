"""Proposals on a real scene: strokes painted through the Segment Editor's own logic, undo included."""

from __future__ import annotations

import time

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core isn't installed")

from editor_desk import Desk  # noqa: E402

from SemiSupSegLib.errors import SettingsError, VolumeError  # noqa: E402
from SemiSupSegLib.labels import IGNORE, LabelSchema  # noqa: E402
from SemiSupSegLib.propagation import propagate  # noqa: E402
from SemiSupSegLib.slicer_bridge.accepted_proposals import (  # noqa: E402
    accepted_node,
    forget_accepted,
    note_accepted,
    split_annotation,
)
from SemiSupSegLib.slicer_bridge.held_voxels import NOBODY, SEVERAL, HeldVoxels  # noqa: E402
from SemiSupSegLib.slicer_bridge.nodes import image_data, set_geometry  # noqa: E402
from SemiSupSegLib.slicer_bridge.proposals import Proposals, source_of  # noqa: E402
from SemiSupSegLib.slicer_bridge.results import add_segmentation  # noqa: E402
from SemiSupSegLib.slicer_bridge.segments import read_annotation, uncropped  # noqa: E402
from SemiSupSegLib.slicer_bridge.superpixel_overlay import SuperpixelOverlay  # noqa: E402

pytest_plugins = ["slicer_fixture"]

EDGE = 5
SUPERPIXELS = (4, 6, 8)
LABELS = np.kron(np.arange(1, np.prod(SUPERPIXELS) + 1).reshape(SUPERPIXELS), np.ones((EDGE,) * 3)).astype(np.int32)
SCHEMA = LabelSchema.from_names(["tumor", "kidney"])


def at(k, j, i):
    """The middle voxel (k, j, i) of a superpixel given by its place."""
    return tuple(EDGE * each + EDGE // 2 for each in (k, j, i))


def whole(k, j, i):
    return tuple(slice(EDGE * each, EDGE * each + EDGE) for each in (k, j, i))


@pytest.fixture
def desk(scene):
    return Desk(scene, LABELS)


def test_a_stroke_proposes_the_whole_superpixel(desk):
    proposals = desk.proposals()
    assert proposals.is_empty
    desk.paint("tumor", at(1, 2, 3))
    assert proposals.update()
    assert proposals.segment_at(at(1, 2, 3)[::-1]) == "tumor"
    assert proposals.segment_at((EDGE * 3, EDGE * 2, EDGE * 1)) == "tumor"
    assert np.count_nonzero(proposals.classes != NOBODY) == 1
    assert proposals.accept(desk.save_state) == EDGE**3 - 1
    expected = np.zeros(LABELS.shape, bool)
    expected[whole(1, 2, 3)] = True
    np.testing.assert_array_equal(desk.held("tumor"), expected)
    assert proposals.is_empty


def test_nothing_to_take_in_is_said(desk):
    proposals = desk.proposals()
    assert not proposals.update()
    desk.paint("tumor", at(0, 0, 0))
    assert proposals.update()
    assert not proposals.update()


def test_accepting_several_segments_is_one_undo_step(desk):
    proposals = desk.proposals()
    desk.paint("tumor", at(0, 0, 0))
    desk.paint("kidney", at(1, 1, 1))
    desk.paint("background", at(3, 5, 7))
    proposals.update()
    before = {name: desk.held(name) for name in ("tumor", "kidney", "background")}
    assert proposals.accept(desk.save_state) == 3 * (EDGE**3 - 1)
    assert desk.states == 1
    after = {name: desk.held(name) for name in before}
    assert all(each.sum() == EDGE**3 for each in after.values())
    desk.logic.Undo()
    for name, each in before.items():
        np.testing.assert_array_equal(desk.held(name), each)
    proposals.update()
    assert proposals.accepted_voxels == 0
    assert not proposals.is_empty  # proposed again
    desk.logic.Redo()
    proposals.update()
    for name, each in after.items():
        np.testing.assert_array_equal(desk.held(name), each)
    assert proposals.accepted_voxels == 3 * (EDGE**3 - 1)
    assert proposals.is_empty


def test_a_second_class_does_not_cut_the_first(desk):
    """With the editor's default, overwriting, accepting a second class once cut the first from 1331 to 605 voxels."""
    assert desk.editor.GetOverwriteMode() == desk.editor.OverwriteAllSegments
    proposals = desk.proposals()
    desk.paint("tumor", at(1, 1, 1))
    desk.paint("tumor", at(1, 1, 2))
    proposals.accept(desk.save_state)
    desk.paint("kidney", at(1, 1, 3))
    desk.paint("kidney", at(1, 2, 2))
    proposals.accept(desk.save_state)
    assert desk.held("tumor").sum() == 2 * EDGE**3
    assert desk.held("kidney").sum() == 2 * EDGE**3
    assert not (desk.held("tumor") & desk.held("kidney")).any()


def test_acceptance_never_goes_over_a_stroke(desk):
    proposals = desk.proposals()
    desk.paint("tumor", (slice(7, 8), slice(7, 8), slice(5, 9)))  # in one superpixel
    desk.paint("kidney", (slice(5, 6), slice(0, 30), slice(12, 13)))  # elsewhere
    proposals.update()
    strokes = {name: desk.held(name) for name in ("tumor", "kidney")}
    proposals.accept(desk.save_state)
    for name, each in strokes.items():
        assert desk.held(name)[each].all()


def test_a_superpixel_with_strokes_of_two_segments_is_proposed_to_none(desk):
    proposals = desk.proposals()
    k, j, i = at(2, 2, 2)
    desk.paint("tumor", (k, j, i))
    desk.paint("kidney", (k, j, i + 1))
    proposals.update()
    assert proposals.segment_at((i, j, k)) is None
    assert proposals.accept(desk.save_state) == 0
    assert desk.states == 0
    desk.paint("kidney", (k, j, i + 1), mode="Remove")
    proposals.update()
    assert proposals.segment_at((i, j, k)) == "tumor"


def test_a_click_accepts_one_superpixel(desk):
    proposals = desk.proposals()
    desk.paint("tumor", at(0, 1, 1))
    desk.paint("tumor", at(2, 3, 4))
    proposals.update()
    i, j, k = at(2, 3, 4)[::-1]
    assert proposals.accept(desk.save_state, at=(i + 1, j, k)) == EDGE**3 - 1
    assert desk.held("tumor").sum() == EDGE**3 + 1
    assert proposals.segment_at(at(0, 1, 1)[::-1]) == "tumor"
    assert proposals.accept(desk.save_state, at=(i, j, k)) == 0  # done
    assert proposals.accept(desk.save_state, at=(0, 0, 0)) == 0  # nothing proposed
    assert proposals.accept(desk.save_state, at=(-1, 0, 0)) == 0  # beside the volume
    assert desk.states == 1


def test_what_is_erased_from_an_acceptance_stays_erased(desk):
    proposals = desk.proposals()
    desk.paint("tumor", at(1, 1, 1))
    proposals.accept(desk.save_state)
    corner = whole(1, 1, 1)
    desk.paint("tumor", (corner[0].start, corner[1].start, corner[2].start), mode="Remove")
    proposals.update()
    assert proposals.accept(desk.save_state) == 0
    assert desk.held("tumor").sum() == EDGE**3 - 1


def test_accepted_voxels_are_no_strokes(desk):
    proposals = desk.proposals()
    desk.paint("tumor", at(1, 1, 1))
    proposals.accept(desk.save_state)
    strokes, accepted = split_annotation(desk.node, desk.volume, SCHEMA)
    strokes, accepted = (uncropped(each, desk.geometry) for each in (strokes, accepted))
    assert np.argwhere(strokes != IGNORE).tolist() == [list(at(1, 1, 1))]
    assert strokes[at(1, 1, 1)] == 1
    assert (accepted != IGNORE).sum() == EDGE**3 - 1
    assert set(np.unique(accepted)) == {1, IGNORE}


def test_undone_acceptances_leave_strokes_only(desk):
    proposals = desk.proposals()
    desk.paint("tumor", at(1, 1, 1))
    proposals.accept(desk.save_state)
    desk.logic.Undo()
    proposals.update()
    strokes, accepted = split_annotation(desk.node, desk.volume, SCHEMA)
    assert (strokes.array != IGNORE).sum() == 1
    assert not (accepted.array != IGNORE).any()


def test_a_stroke_over_an_undone_acceptance_is_a_stroke(desk):
    proposals = desk.proposals()
    desk.paint("tumor", at(1, 1, 1))
    proposals.accept(desk.save_state)
    desk.logic.Undo()
    proposals.update()
    k, j, i = at(1, 1, 1)
    desk.paint("tumor", (k, slice(j, j + 2), slice(i - 1, i + 2)))
    proposals.update()
    strokes, accepted = split_annotation(desk.node, desk.volume, SCHEMA)
    assert (strokes.array != IGNORE).sum() == 6
    assert not (accepted.array != IGNORE).any()


def test_several_acceptances_undone_and_redone_at_once(desk):
    proposals = desk.proposals()
    for place in ((0, 0, 0), (1, 1, 1), (2, 2, 2)):
        desk.paint("tumor", at(*place))
        proposals.accept(desk.save_state)
    total = proposals.accepted_voxels
    assert total == 3 * (EDGE**3 - 1)
    for _ in range(6):
        desk.logic.Undo()
    proposals.update()
    assert proposals.accepted_voxels == 0
    for _ in range(6):
        desk.logic.Redo()
        proposals.update()
    assert proposals.accepted_voxels == total


def test_taking_back_leaves_the_strokes_and_is_one_undo_step(desk):
    proposals = desk.proposals()
    desk.paint("tumor", at(1, 1, 1))
    desk.paint("kidney", at(2, 2, 2))
    proposals.accept(desk.save_state)
    states = desk.states
    assert proposals.take_back(desk.save_state) == 2 * (EDGE**3 - 1)
    assert desk.states == states + 1
    assert desk.held("tumor").sum() == desk.held("kidney").sum() == 1
    assert not proposals.is_empty
    assert proposals.take_back(desk.save_state) == 0
    desk.logic.Undo()
    proposals.update()
    assert desk.held("tumor").sum() == EDGE**3
    assert proposals.accepted_voxels == 2 * (EDGE**3 - 1)


def test_acceptances_are_recalled_with_the_scene_and_by_a_new_session(desk):
    proposals = desk.proposals()
    desk.paint("tumor", at(1, 1, 1))
    proposals.accept(desk.save_state)
    again = desk.proposals()
    assert again.accepted_voxels == EDGE**3 - 1
    assert again.is_empty
    assert again.take_back(desk.save_state) == EDGE**3 - 1
    hidden = accepted_node(desk.node)
    assert hidden.GetHideFromEditors()
    assert hidden.GetSaveWithScene()
    assert hidden.GetNumberOfDisplayNodes() == 0


def test_a_case_that_is_shown_again_knows_its_proposals(desk):
    """What the module does with `Case.scribble` and `Case.proposals`."""
    strokes = np.full(LABELS.shape, IGNORE, np.uint8)
    strokes[at(1, 1, 1)] = 1
    strokes[at(3, 3, 3)] = 2
    accepted = np.full(LABELS.shape, IGNORE, np.uint8)
    accepted[whole(1, 1, 1)] = 1
    accepted[at(1, 1, 1)] = IGNORE
    shown = np.where(strokes != IGNORE, strokes, accepted)
    node = add_segmentation(shown, desk.volume, SCHEMA, "case scribble", with_background=True)
    note_accepted(node, accepted, desk.volume, SCHEMA)
    for expected, got in zip((strokes, accepted), split_annotation(node, desk.volume, SCHEMA), strict=True):
        np.testing.assert_array_equal(uncropped(got, desk.geometry), expected)
    proposals = Proposals(node, LABELS, desk.geometry, int(LABELS.max()))
    assert proposals.accepted_voxels == EDGE**3 - 1
    assert proposals.segment_at(at(3, 3, 3)[::-1]) == node.GetSegmentation().GetNthSegmentID(1)
    assert proposals.segment_at(at(1, 1, 1)[::-1]) is None
    forget_accepted(node)
    assert accepted_node(node) is None
    assert (split_annotation(node, desk.volume, SCHEMA)[0].array != IGNORE).sum() == EDGE**3 + 1


def test_split_and_read_agree_where_nothing_was_accepted(desk):
    desk.paint("kidney", at(1, 2, 3))
    strokes, accepted = split_annotation(desk.node, desk.volume, SCHEMA)
    np.testing.assert_array_equal(strokes.array, read_annotation(desk.node, desk.volume, SCHEMA).array)
    assert (accepted.array == IGNORE).all()


def test_renamed_and_removed_segments(desk):
    proposals = desk.proposals()
    desk.paint("tumor", at(1, 1, 1))
    desk.paint("kidney", at(2, 2, 2))
    proposals.accept(desk.save_state)
    desk.node.GetSegmentation().GetSegment("tumor").SetName("kidney")
    desk.node.GetSegmentation().GetSegment("kidney").SetName("tumor")
    _, accepted = split_annotation(desk.node, desk.volume, SCHEMA)
    assert uncropped(accepted, desk.geometry)[whole(1, 1, 1)].min() == 2
    desk.node.GetSegmentation().RemoveSegment("kidney")
    proposals.update()
    assert proposals.accepted_voxels == EDGE**3 - 1
    assert proposals.segment_at(at(2, 2, 2)[::-1]) is None


def test_a_segment_added_later_takes_part(desk):
    proposals = desk.proposals()
    desk.paint("tumor", at(0, 0, 0))
    proposals.update()
    desk.node.GetSegmentation().AddEmptySegment("cyst", "cyst", (0, 1, 0))
    desk.paint("cyst", at(2, 2, 2))
    proposals.update()
    assert proposals.segment_at(at(2, 2, 2)[::-1]) == "cyst"


def test_strokes_on_overlapping_segments_count_for_none(desk):
    desk.editor.SetOverwriteMode(desk.editor.OverwriteNone)
    proposals = desk.proposals()
    desk.paint("tumor", at(2, 2, 2))
    desk.paint("kidney", at(2, 2, 2))
    proposals.update()
    assert proposals.segment_at(at(2, 2, 2)[::-1]) is None
    held = HeldVoxels(desk.node, desk.geometry)
    held.update()
    assert held.codes[at(2, 2, 2)] == SEVERAL


def test_the_editable_intensity_range_is_respected(desk):
    proposals = desk.proposals()
    desk.paint("tumor", at(1, 1, 1))
    intensities = source_of(desk.logic.GetAlignedSourceVolume()).array
    desk.editor.SetSourceVolumeIntensityMask(True)
    middle = float(np.median(intensities[whole(1, 1, 1)]))
    desk.editor.SetSourceVolumeIntensityMaskRange(middle, 1e6)
    proposals.accept(desk.save_state, editor_node=desk.editor, intensities=intensities)
    added = desk.held("tumor")
    added[at(1, 1, 1)] = False
    assert added.any()
    assert intensities[added].min() >= middle


def test_an_editable_area_inside_segments_is_explained(desk):
    proposals = desk.proposals()
    desk.paint("tumor", at(1, 1, 1))
    desk.editor.SetMaskMode(slicer.vtkMRMLSegmentationNode.EditAllowedInsideAllSegments)
    with pytest.raises(SettingsError, match="inside of segments"):
        proposals.accept(desk.save_state, editor_node=desk.editor)
    desk.editor.SetMaskMode(slicer.vtkMRMLSegmentationNode.EditAllowedOutsideAllSegments)
    assert proposals.accept(desk.save_state, editor_node=desk.editor) == EDGE**3 - 1


def test_superpixels_of_another_volume_are_refused(desk):
    with pytest.raises(VolumeError, match="don't fit"):
        Proposals(desk.node, LABELS[1:], desk.geometry, int(LABELS.max()))


def test_any_sequence_equals_starting_anew(desk):
    """Painting, erasing, accepting and undoing in any order: the table is what the strokes say."""
    rng = np.random.default_rng(0)
    proposals = desk.proposals()
    for _ in range(60):
        action = rng.choice(["paint", "paint", "paint", "erase", "accept", "undo", "redo", "back"])
        if action in ("paint", "erase"):
            place = [int(rng.integers(0, n - 4)) for n in LABELS.shape]
            box = tuple(slice(each, each + int(rng.integers(1, 5))) for each in place)
            name = str(rng.choice(["tumor", "kidney", "background"]))
            desk.paint(name, box, mode="Add" if action == "paint" else "Remove")
        elif action == "accept":
            proposals.accept(desk.save_state)
        elif action == "undo" and desk.logic.CanUndo():
            desk.logic.Undo()
        elif action == "redo" and desk.logic.CanRedo():
            desk.logic.Redo()
        elif action == "back":
            proposals.take_back(desk.save_state)
        proposals.update()
    strokes, accepted = split_annotation(desk.node, desk.volume, SCHEMA)
    strokes, accepted = (uncropped(each, desk.geometry) for each in (strokes, accepted))
    expanded = propagate(strokes, LABELS)
    touched = np.unique(LABELS[accepted != IGNORE])
    names = ("background", "tumor", "kidney")
    for superpixel in range(1, LABELS.max() + 1):
        k, j, i = np.argwhere(superpixel == LABELS)[0]
        inside = expanded[superpixel == LABELS]
        free = strokes[superpixel == LABELS] == IGNORE
        clear = free.any() and (inside[free] != IGNORE).all() and superpixel not in touched
        expected = names[inside[free][0]] if clear else None
        if free.any():
            assert proposals.segment_at((i, j, k)) == expected


def test_the_preview_shows_what_would_be_accepted(desk):
    overlay = SuperpixelOverlay(desk.scene, LABELS, desk.geometry, int(LABELS.max()))
    proposals = desk.proposals(overlay)
    desk.paint("tumor", at(1, 1, 1))
    desk.paint("kidney", at(2, 2, 2))
    proposals.update()
    colors = overlay.colors
    assert colors[LABELS[at(1, 1, 1)]].tolist() == [255, 0, 0, 255]
    assert colors[LABELS[at(2, 2, 2)]].tolist() == [0, 0, 255, 255]
    assert np.count_nonzero(colors[:, 3]) == 2
    proposals.accept(desk.save_state, at=at(1, 1, 1)[::-1])
    assert overlay.colors[LABELS[at(1, 1, 1)]].tolist() == [0, 0, 0, 0]  # the segment shows it now
    desk.logic.Undo()
    proposals.update()
    assert overlay.colors[LABELS[at(1, 1, 1)]].tolist() == [255, 0, 0, 255]
    desk.node.GetSegmentation().GetSegment("tumor").SetColor(0, 1, 0)
    proposals.update()
    assert overlay.colors[LABELS[at(1, 1, 1)]].tolist() == [0, 255, 0, 255]
    overlay.remove()


def test_scan_and_segmentation_under_a_transform(desk):
    transform = slicer.vtkMRMLLinearTransformNode()
    desk.scene.AddNode(transform)
    matrix = np.eye(4)
    matrix[:3, 3] = 5.0, -7.0, 11.0
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    for node in (desk.volume, desk.node):
        node.SetAndObserveTransformNodeID(transform.GetID())
    proposals = desk.proposals()
    desk.paint("tumor", at(1, 1, 1))
    assert proposals.accept(desk.save_state) == EDGE**3 - 1
    assert (split_annotation(desk.node, desk.volume, SCHEMA)[1].array != IGNORE).sum() == EDGE**3 - 1


def test_a_segmentation_on_a_grid_of_its_own(desk):
    """The editor's reference geometry decides, not the source volume: superpixels are made of the aligned source."""
    own = slicer.vtkMRMLScalarVolumeNode()
    set_geometry(own, desk.geometry.cropped((5, 5, 5), (20, 15, 10)))
    own.SetAndObserveImageData(image_data(np.zeros((10, 15, 20), np.uint8)))
    desk.scene.AddNode(own)
    desk.node.SetReferenceImageGeometryParameterFromVolumeNode(own)
    desk.labels = np.ascontiguousarray(LABELS[5:15, 5:20, 5:25])
    proposals = desk.proposals()
    assert proposals.geometry.size == (20, 15, 10)
    desk.paint("tumor", (2, 2, 2))
    assert proposals.accept(desk.save_state) == EDGE**3 - 1


@pytest.mark.slow
def test_a_stroke_in_a_ct_is_previewed_within_a_fifth_of_a_second(scene):
    shape = (300, 512, 512)
    k, j, i = (np.arange(n) // 5 for n in shape)
    labels = (k[:, None, None] * (103 * 103) + j[None, :, None] * 103 + i[None, None, :] + 1).astype(np.int32)
    desk = Desk(scene, labels)
    desk.paint("background", (slice(2, 3), slice(5, 500), slice(5, 8)))
    desk.paint("background", (slice(297, 298), slice(5, 500), slice(500, 508)))  # the label map is as large as the scan
    overlay = SuperpixelOverlay(scene, labels, desk.geometry, int(labels.max()))
    begin = time.perf_counter()
    proposals = desk.proposals(overlay)
    print(f"\nbegin: {1000 * (time.perf_counter() - begin):.0f} ms")
    seconds = []
    for n in range(5):
        desk.paint("tumor", (slice(100 + n, 102 + n), slice(200, 203), slice(200 + 10 * n, 240 + 10 * n)))
        begin = time.perf_counter()
        proposals.update()
        seconds.append(time.perf_counter() - begin)
    print("stroke:", *(f"{1000 * each:.0f}" for each in seconds), "ms")
    begin = time.perf_counter()
    proposals.accept(desk.save_state, at=(201, 201, 101))
    print(f"accept one: {1000 * (time.perf_counter() - begin):.0f} ms")
    begin = time.perf_counter()
    assert proposals.accept(desk.save_state) > 10_000
    print(f"accept all: {1000 * (time.perf_counter() - begin):.0f} ms")
    desk.logic.Undo()
    begin = time.perf_counter()
    proposals.update()
    print(f"undo: {1000 * (time.perf_counter() - begin):.0f} ms")
    overlay.remove()
    assert min(seconds) < 0.2
