"""Results as nodes: the user's segments and grid, in place updates, and nothing of the user's overwritten."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
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

from SemiSupSegLib.errors import ErrorCode, SemiSupSegError, VolumeError
from SemiSupSegLib.labels import IGNORE, LabelSchema, SegmentClass
from SemiSupSegLib.segmentation_file import read_segments as read_file_segments
from SemiSupSegLib.slicer_bridge import results
from SemiSupSegLib.slicer_bridge.nodes import geometry_of
from SemiSupSegLib.slicer_bridge.segments import read_annotation, read_layers, read_segments, uncropped

pytest_plugins = ["slicer_fixture"]

SCHEMA = LabelSchema(
    (
        SegmentClass("liver", "L_17", (0.25, 0.5, 0.75), TERMINOLOGY, 3),
        SegmentClass("tumor", "T", (1.0, 0.5, 0.0), value=1),
        SegmentClass("vessel", "V", (1.0, 0.0, 0.0), value=2),
    )
)


@pytest.fixture
def volume_node(scene):
    return add_volume(np.random.default_rng(0).integers(0, 900, SHAPE).astype(np.int16), SHEARED)


@pytest.fixture
def labels() -> np.ndarray:
    """Two classes side by side; the third has no voxel."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:8, 3:9, 4:12] = 1
    labels[4:6, 5:8, 6:9] = 2
    return labels


def test_result_has_the_users_segments_in_one_cropped_layer(volume_node, labels):
    node = results.add_segmentation(labels, volume_node, SCHEMA, "result")
    found = read_segments(node)
    assert [each.segment_id for each in found] == ["L_17", "T", "V"]
    assert [each.name for each in found] == ["liver", "tumor", "vessel"]
    assert [each.value for each in found] == [3, 1, 2]
    assert found[0].color == (0.25, 0.5, 0.75)
    assert found[0].terminology == TERMINOLOGY
    layers = read_layers(node)
    assert len(layers) == 1
    assert layers[0].volume.array.shape == (6, 6, 8)


def test_slicer_exports_the_same_voxels_that_went_in(volume_node, labels):
    node = results.add_segmentation(labels, volume_node, SCHEMA, "result")
    for index, each in enumerate(SCHEMA.classes, start=1):
        np.testing.assert_array_equal(exported(node, each.segment_id, volume_node), labels == index)


def test_result_lies_on_the_volumes_voxels_bit_for_bit(volume_node, labels):
    node = results.add_segmentation(labels, volume_node, SCHEMA, "result")
    image = node.GetBinaryLabelmapInternalRepresentation("T")
    assert image.GetSpacing() == volume_node.GetSpacing()
    assert image.GetOrigin() == volume_node.GetOrigin()
    assert image.GetExtent() == (4, 11, 3, 8, 2, 7)
    reference = node.GetNodeReference(slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole())
    assert reference is volume_node


def test_result_moves_with_the_volume_it_belongs_to(volume_node, labels):
    transform = add_transform(rotation(25, (3, 4, 5)), volume_node)
    node = results.add_segmentation(labels, volume_node, SCHEMA, "result")
    probability = results.add_probability(np.zeros(SHAPE, np.float32), volume_node, "p")
    assert node.GetParentTransformNode() is probability.GetParentTransformNode() is transform
    np.testing.assert_array_equal(exported(node, "T", volume_node), labels == 2)
    assert geometry_of(probability) == geometry_of(volume_node)


def test_slicer_saves_what_the_hall_reads(volume_node, labels, tmp_path):
    node = results.add_segmentation(labels, volume_node, SCHEMA, "result")
    storage = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    path = tmp_path / "Ergebnis für Ute.seg.nrrd"
    storage.SetFileName(str(path))
    assert storage.WriteData(node)
    liver = read_file_segments(path)[0]
    assert (liver.segment_id, liver.name, liver.terminology) == ("L_17", "liver", TERMINOLOGY)


@pytest.mark.parametrize("kind", ["scribble", "label"])
def test_what_is_shown_reads_back_the_same(volume_node, labels, kind):
    shown = labels.copy()
    if kind == "scribble":
        shown[8:] = IGNORE
    node = results.add_segmentation(shown, volume_node, SCHEMA, "strokes", with_background=kind == "scribble")
    read = uncropped(read_annotation(node, volume_node, SCHEMA, kind), geometry_of(volume_node), kind)
    np.testing.assert_array_equal(read, shown)


def test_unknown_voxels_belong_to_no_segment(volume_node, labels):
    labels[0, 0, 0] = labels[11, 13, 15] = IGNORE
    node = results.add_segmentation(labels, volume_node, SCHEMA, "result")
    assert read_layers(node)[0].volume.array.shape == (6, 6, 8)
    np.testing.assert_array_equal(exported(node, "L_17", volume_node), labels == 1)


def test_result_without_a_voxel_has_all_segments(volume_node):
    node = results.add_segmentation(np.zeros(SHAPE, np.uint8), volume_node, SCHEMA, "result")
    assert [each.name for each in read_segments(node)] == ["liver", "tumor", "vessel"]
    assert not exported(node, "T", volume_node).any()


def test_label_values_beyond_a_byte_are_kept(volume_node, labels):
    schema = LabelSchema((SegmentClass("liver", value=1000), SegmentClass("tumor", value=40000)))
    node = results.add_segmentation(labels, volume_node, schema, "result")
    assert [each.value for each in read_segments(node)] == [1000, 40000]
    np.testing.assert_array_equal(exported(node, "tumor", volume_node), labels == 2)


def test_update_keeps_node_segments_and_what_a_person_set(volume_node, labels):
    node = results.add_segmentation(labels, volume_node, SCHEMA, "result")
    segment = node.GetSegmentation().GetSegment("T")
    node.GetDisplayNode().SetSegmentVisibility("T", False)
    seen = []
    node.AddObserver(slicer.vtkSegmentation.SourceRepresentationModified, lambda *_: seen.append(1))
    results.update_segmentation(node, np.roll(labels, 2, axis=0), volume_node, SCHEMA)
    assert node.GetSegmentation().GetSegment("T") is segment
    assert not node.GetDisplayNode().GetSegmentVisibility("T")
    assert seen == [1]
    np.testing.assert_array_equal(exported(node, "T", volume_node), np.roll(labels, 2, axis=0) == 2)


def test_surfaces_of_the_old_voxels_go_with_an_update(volume_node, labels):
    node = results.add_segmentation(labels, volume_node, SCHEMA, "result")
    node.CreateClosedSurfaceRepresentation()
    before = node.GetClosedSurfaceInternalRepresentation("L_17").GetBounds()
    results.update_segmentation(node, np.roll(labels, 2, axis=2), volume_node, SCHEMA)
    assert not node.GetSegmentation().ContainsRepresentation("Closed surface") or (
        node.GetClosedSurfaceInternalRepresentation("L_17").GetBounds() != before
    )


def test_users_node_is_not_overwritten_unless_told(volume_node, labels):
    (mask,) = boxes(SHAPE, (0, 0, 0))
    node = add_segmentation({"liver": mask, "mine": ~mask}, volume_node, ids={"liver": "Segment_1", "mine": "M"})
    with pytest.raises(SemiSupSegError, match="holds work that isn't a result") as caught:
        results.update_segmentation(node, labels, volume_node, SCHEMA)
    assert caught.value.code is ErrorCode.NOT_WRITABLE
    np.testing.assert_array_equal(exported(node, "Segment_1", volume_node), mask)
    results.update_segmentation(node, labels, volume_node, SCHEMA, overwrite=True)
    np.testing.assert_array_equal(exported(node, "Segment_1", volume_node), labels == 1)
    np.testing.assert_array_equal(exported(node, "M", volume_node), ~mask)
    assert list(node.GetSegmentation().GetSegmentIDs()) == ["Segment_1", "M", "T", "V"]


def test_result_that_somebody_edited_is_the_users(volume_node, labels):
    node = results.add_segmentation(labels, volume_node, SCHEMA, "result")
    assert results.is_untouched(node)
    slicer.util.updateSegmentBinaryLabelmapFromArray((labels == 1).astype(np.uint8), node, "V", volume_node)
    assert not results.is_untouched(node)
    with pytest.raises(SemiSupSegError, match="edited"):
        results.update_segmentation(node, labels, volume_node, SCHEMA)


def test_result_of_another_shape_is_refused(volume_node):
    with pytest.raises(VolumeError, match="doesn't fit a volume of shape"):
        results.add_segmentation(np.zeros((3, 4, 5), np.uint8), volume_node, SCHEMA, "result")
    with pytest.raises(VolumeError, match="doesn't fit a volume of shape"):
        results.add_uncertainty(np.zeros((3, 4, 5), np.float32), volume_node, "u")


@pytest.mark.parametrize("add", [results.add_probability, results.add_uncertainty])
def test_map_is_float_on_the_volumes_grid_with_a_fixed_window(volume_node, add):
    array = np.random.default_rng(1).random(SHAPE)
    node = add(array, volume_node, "map")
    shown = slicer.util.arrayFromVolume(node)
    assert shown.dtype == np.float32
    np.testing.assert_allclose(shown, array, rtol=1e-6)
    assert geometry_of(node) == geometry_of(volume_node)
    display = node.GetDisplayNode()
    assert not display.GetAutoWindowLevel()
    assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == (0.0, 1.0)
    assert display.GetColorNode() is not None
    assert node.GetNumberOfDisplayNodes() == 1


def test_map_can_be_updated_and_keeps_the_window_that_a_person_chose(volume_node):
    node = results.add_uncertainty(np.zeros(SHAPE, np.float32), volume_node, "u")
    node.GetDisplayNode().SetWindowLevelMinMax(0.2, 0.4)
    results.update_map(node, np.full(SHAPE, 0.5), volume_node)
    assert (slicer.util.arrayFromVolume(node) == 0.5).all()
    assert node.GetDisplayNode().GetWindowLevelMin() == pytest.approx(0.2)


def test_results_survive_saving_and_loading_the_scene(volume_node, labels, tmp_path):
    results.add_segmentation(labels, volume_node, SCHEMA, "result")
    results.add_uncertainty(np.full(SHAPE, 0.25, np.float32), volume_node, "uncertainty")
    bundle = tmp_path / "scene.mrb"
    assert slicer.mrmlScene.WriteToMRB(str(bundle))
    zipfile.ZipFile(bundle).extractall(tmp_path)
    loaded = slicer.vtkMRMLScene()
    loaded.SetURL(str(next(tmp_path.rglob("*.mrml"))))
    assert loaded.Connect()
    node = loaded.GetFirstNodeByName("result")
    assert [each.segment_id for each in read_segments(node)] == ["L_17", "T", "V"]
    assert not results.is_untouched(node), "nobody knows what happened to it meanwhile"
    uncertainty = loaded.GetFirstNodeByName("uncertainty")
    assert slicer.util.arrayFromVolume(uncertainty).max() == 0.25
