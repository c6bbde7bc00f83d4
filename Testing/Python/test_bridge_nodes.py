"""Volume nodes and segmentation nodes read: every geometry, every transform, strokes and their classes."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
from hypothesis import given, settings
from hypothesis import strategies as st
from scene_building import (
    SHAPE,
    SHEARED,
    TERMINOLOGY,
    add_bending_transform,
    add_segmentation,
    add_transform,
    add_volume,
    boxes,
    exported,
    rotation,
)

from SemiSupSegLib.errors import CohortError, ErrorCode, VolumeError
from SemiSupSegLib.labels import IGNORE, LabelSchema, SegmentClass
from SemiSupSegLib.slicer_bridge.nodes import CASE_ATTRIBUTE, geometry_of, image_data, set_geometry, volume_of
from SemiSupSegLib.slicer_bridge.segments import (
    read_annotation,
    read_segment,
    read_segments,
    schema_from_segmentation,
    uncropped,
)
from SemiSupSegLib.volume import Geometry, Volume

pytest_plugins = ["slicer_fixture"]

SCHEMA = LabelSchema.from_names(["liver", "tumor"])


@pytest.fixture
def volume_node(scene):
    return add_volume(np.random.default_rng(0).integers(0, 900, SHAPE).astype(np.int16), SHEARED)


# ---------------------------------------------------------------------------------------------------------------------
# Volumes


def test_volume_has_the_voxels_of_the_node_without_a_copy(volume_node):
    volume = volume_of(volume_node)
    assert np.shares_memory(volume.array, slicer.util.arrayFromVolume(volume_node))
    assert volume.array.shape == volume.geometry.shape == SHAPE


def test_geometry_maps_indices_where_slicer_does_sheared_axes_included(volume_node):
    lps = volume_of(volume_node).geometry.index_to_physical @ [3, 5, 7, 1]
    ras = SHEARED @ [3, 5, 7, 1]
    np.testing.assert_allclose(lps, ras * [-1, -1, 1, 1], atol=1e-12)


finite = st.floats(-500, 500, allow_nan=False)


@settings(max_examples=50, deadline=None)
@given(
    spacing=st.tuples(*[st.floats(0.05, 20)] * 3),
    origin=st.tuples(*[finite] * 3),
    angles=st.tuples(*[st.floats(-3, 3)] * 2),
    shear=st.floats(-0.4, 0.4),
)
def test_geometry_goes_to_a_node_and_back_bit_for_bit(spacing, origin, angles, shear):
    first, second = rotation(np.degrees(angles[0]))[:3, :3], rotation(np.degrees(angles[1]))[:3, :3]
    axes = first @ second[:, [2, 0, 1]]
    axes[:, 0] += shear * axes[:, 1]
    geometry = Geometry((4, 3, 2), spacing, origin, axes.ravel())
    node = slicer.vtkMRMLScalarVolumeNode()
    node.SetAndObserveImageData(image_data(np.zeros((2, 3, 4), np.uint8)))
    set_geometry(node, geometry)
    assert geometry_of(node) == geometry


def test_voxels_handed_to_a_node_live_on_when_python_forgets_them(scene):
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    expected = np.random.default_rng(1).random((40, 50, 60), dtype=np.float32)
    node.SetAndObserveImageData(image_data(expected.copy()))
    np.full((40, 50, 60), 7, dtype=np.float32)  # whoever took freed memory would write here
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(node), expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32, np.float64, np.int64, bool, ">i2"])
def test_every_type_of_voxel_arrives(scene, dtype):
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    array = np.random.default_rng(2).integers(0, 2, (2, 3, 4)).astype(dtype)
    node.SetAndObserveImageData(image_data(array))
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(node), array)


def test_color_volume_is_refused_in_a_sentence(scene):
    node = slicer.util.addVolumeFromArray(
        np.zeros((4, 5, 6, 3), np.uint8), name="photo", nodeClassName="vtkMRMLVectorVolumeNode"
    )
    with pytest.raises(VolumeError, match=r"'photo' is a color or vector volume \(\d values a voxel\)") as caught:
        volume_of(node)
    assert caught.value.code is ErrorCode.BAD_IMAGE
    assert caught.value.remedy


def test_sequence_and_its_frame_are_refused(scene):
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "beating")
    frame = add_volume(np.zeros((2, 3, 4), np.int16), name="frame")
    sequence.SetDataNodeAtValue(frame, "0")
    browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode")
    browser.AddSynchronizedSequenceNode(sequence)
    for node in (sequence, browser.GetProxyNode(sequence)):
        with pytest.raises(VolumeError, match="time sequence"):
            volume_of(node)


def test_what_is_no_volume_is_refused(scene):
    with pytest.raises(VolumeError, match="No volume is selected"):
        volume_of(None)
    with pytest.raises(VolumeError, match="isn't a volume"):
        volume_of(scene.AddNewNodeByClass("vtkMRMLModelNode", "bone"))
    with pytest.raises(VolumeError, match="holds no voxels"):
        volume_of(scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty"))


# ---------------------------------------------------------------------------------------------------------------------
# Segments


def test_schema_takes_ids_names_colors_and_terminology(volume_node):
    masks = dict(zip(["liver", "Background", "tumor"], boxes(SHAPE, (0, 0, 0), (4, 4, 4), (8, 8, 8)), strict=True))
    node = add_segmentation(
        masks, volume_node, ids={"liver": "L"}, colors={"liver": (0.25, 0.5, 0.75)}, terminology={"liver": TERMINOLOGY}
    )
    schema = schema_from_segmentation(node)
    assert schema.names == ("liver", "tumor")
    assert schema.classes[0] == SegmentClass("liver", "L", (0.25, 0.5, 0.75), TERMINOLOGY, 1)
    assert schema.background.name == "Background"
    assert schema.background.segment_id == node.GetSegmentation().GetSegmentIdBySegmentName("Background")


def test_schema_of_two_nodes_keeps_every_id_unique(volume_node):
    nothing = np.zeros(SHAPE, bool)
    nodes = [add_segmentation({name: nothing}, volume_node, ids={name: "Segment_1"}) for name in ("liver", "tumor")]
    assert [each.segment_id for each in schema_from_segmentation(nodes).classes] == ["Segment_1", "tumor"]


def test_schema_needs_a_structure_and_unique_names(volume_node):
    nothing = np.zeros(SHAPE, bool)
    with pytest.raises(CohortError, match="no structure"):
        schema_from_segmentation(add_segmentation({"background": nothing}, volume_node))
    node = add_segmentation({"liver": nothing, "tumor": nothing}, volume_node)
    node.GetSegmentation().GetNthSegment(1).SetName("liver")
    with pytest.raises(CohortError, match=r"Two segments .* are called 'liver'"):
        schema_from_segmentation(node)


def test_one_stroke_is_read_with_its_extent_only(volume_node):
    (mask,) = boxes(SHAPE, (2, 3, 4))
    node = add_segmentation({"liver": mask}, volume_node)
    segment_id = read_segments(node)[0].segment_id
    stroke = read_segment(node, segment_id)
    whole = uncropped(_as_classes(stroke), geometry_of(volume_node))
    np.testing.assert_array_equal(whole == 1, mask)
    empty = add_segmentation({"tumor": np.zeros(SHAPE, bool)}, volume_node)
    assert read_segment(empty, read_segments(empty)[0].segment_id) is None
    with pytest.raises(CohortError, match="no segment 'nobody's'"):
        read_segment(node, "nobody's")


def test_strokes_become_classes_and_the_rest_is_unknown(volume_node):
    liver, tumor, background = boxes(SHAPE, (0, 0, 0), (4, 4, 4), (8, 8, 8))
    node = add_segmentation({"liver": liver, "background": background, "tumor": tumor}, volume_node)
    expected = np.full(SHAPE, IGNORE, np.uint8)
    for index, mask in enumerate((background, liver, tumor)):
        expected[mask] = index
    np.testing.assert_array_equal(_scribbles(node, volume_node), expected)


def test_overlapping_strokes_of_two_classes_contradict_each_other(volume_node):
    first, second = np.zeros((2, *SHAPE), bool)
    first[2:6, 2:6, 2:6] = second[4:8, 4:8, 4:8] = True
    node = _overlapping(first, second, volume_node)
    scribbles = _scribbles(node, volume_node)
    assert (scribbles[first & second] == IGNORE).all()
    assert (scribbles[first & ~second] == 1).all()
    assert (scribbles[second & ~first] == 2).all()
    label = uncropped(read_annotation(node, volume_node, SCHEMA, "label"), geometry_of(volume_node), "label")
    assert (label[first & second] == 2).all()
    assert (label[~first & ~second] == 0).all()


def test_strokes_in_several_nodes_count_together(volume_node):
    liver, tumor = boxes(SHAPE, (0, 0, 0), (8, 8, 8))
    nodes = [add_segmentation({"liver": liver}, volume_node), add_segmentation({"tumor": tumor}, volume_node)]
    scribbles = uncropped(read_annotation(nodes, volume_node, SCHEMA), geometry_of(volume_node))
    np.testing.assert_array_equal(scribbles, np.where(liver, 1, np.where(tumor, 2, IGNORE)))


def test_painted_segment_that_is_no_class_is_an_error_an_empty_one_is_not(volume_node):
    (mask,) = boxes(SHAPE, (2, 2, 2))
    assert (_scribbles(add_segmentation({"spleen": ~mask & mask}, volume_node), volume_node) == IGNORE).all()
    with pytest.raises(CohortError, match="segment 'spleen' that is no class"):
        _scribbles(add_segmentation({"spleen": mask}, volume_node), volume_node)


def test_node_of_a_case_keeps_its_classes_when_a_segment_is_renamed(volume_node):
    (mask,) = boxes(SHAPE, (2, 2, 2))
    node = add_segmentation({"hepar": mask}, volume_node, ids={"hepar": "liver"})
    node.SetAttribute(CASE_ATTRIBUTE, "scan")
    np.testing.assert_array_equal(_scribbles(node, volume_node) == 1, mask)


def test_empty_segmentation_annotates_nothing(volume_node):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    assert (_scribbles(node, volume_node) == IGNORE).all()


def test_segmentation_on_a_finer_grid_loses_no_stroke(scene):
    coarse = add_volume(np.zeros((6, 7, 8), np.int16), np.diag([2.0, 2.0, 2.0, 1.0]))
    fine_matrix = np.diag([0.5, 0.5, 0.5, 1.0])
    fine_matrix[:3, 3] = -0.75
    fine = add_volume(np.zeros((24, 28, 32), np.int16), fine_matrix)
    line = np.zeros((24, 28, 32), bool)
    line[9, 10, 4:28] = True
    node = add_segmentation({"liver": line}, fine)
    scribbles = _scribbles(node, coarse)
    assert set(zip(*np.nonzero(scribbles == 1), strict=True)) == {(2, 2, i) for i in range(1, 7)}


# ---------------------------------------------------------------------------------------------------------------------
# Transforms


def test_both_under_one_transform_even_a_bending_one_are_read_as_without(volume_node):
    (mask,) = boxes(SHAPE, (2, 3, 4))
    node = add_segmentation({"liver": mask}, volume_node)
    geometry = geometry_of(volume_node)
    for add in (lambda *nodes: add_transform(rotation(30, (5, 6, 7)), *nodes), add_bending_transform):
        add(volume_node, node)
        assert volume_of(volume_node).geometry == geometry
        np.testing.assert_array_equal(_scribbles(node, volume_node) == 1, mask)


def test_segmentation_of_a_moved_volume_goes_where_the_views_show_it(scene):
    volume_node = add_volume(np.zeros(SHAPE, np.int16), np.diag([1.0, 1.0, 2.0, 1.0]))
    (mask,) = boxes(SHAPE, (2, 3, 4))
    node = add_segmentation({"liver": mask}, volume_node)
    add_transform(rotation(0, (2, 1, 4)), volume_node)  # the volume moves by 2, 1 and 2 voxels, the strokes don't
    expected = np.roll(mask, (-2, -1, -2), (0, 1, 2))
    np.testing.assert_array_equal(_scribbles(node, volume_node) == 1, expected)
    np.testing.assert_array_equal(exported(node, read_segments(node)[0].segment_id, volume_node), expected)


def test_turned_segmentation_lands_within_half_a_voxel(scene):
    volume_node = add_volume(np.zeros((10, 40, 40), np.int16), np.eye(4))
    mask = np.zeros((10, 40, 40), bool)
    mask[3:7, 15:25, 18:22] = True
    node = add_segmentation({"liver": mask}, volume_node)
    add_transform(rotation(90, (39, 0, 0)), node)  # about the corner: (i, j) comes to (39 - j, i)
    expected = np.rot90(mask, -1, axes=(1, 2))
    np.testing.assert_array_equal(_scribbles(node, volume_node) == 1, expected)
    label = uncropped(read_annotation(node, volume_node, SCHEMA, "label"), geometry_of(volume_node), "label")
    np.testing.assert_array_equal(label == 1, expected)


def test_bending_transform_between_them_is_refused_in_a_sentence(volume_node):
    (mask,) = boxes(SHAPE, (2, 3, 4))
    node = add_segmentation({"liver": mask}, volume_node)
    add_bending_transform(node)
    with pytest.raises(VolumeError, match="non-linear transform lies between 'strokes' and 'scan'") as caught:
        _scribbles(node, volume_node)
    assert caught.value.code is ErrorCode.BAD_GEOMETRY
    assert "harden" in caught.value.remedy


def test_strokes_beside_the_volume_are_an_error(volume_node):
    (mask,) = boxes(SHAPE, (2, 3, 4))
    node = add_segmentation({"liver": mask}, volume_node)
    add_transform(rotation(0, (500, 0, 0)), node)
    with pytest.raises(VolumeError, match="outside the volume 'scan'"):
        _scribbles(node, volume_node)


def _scribbles(node, volume_node) -> np.ndarray:
    return uncropped(read_annotation(node, volume_node, SCHEMA), geometry_of(volume_node))


def _as_classes(stroke):
    return Volume(np.where(stroke.array, 1, IGNORE).astype(np.uint8), stroke.geometry)


def _overlapping(first: np.ndarray, second: np.ndarray, volume_node):
    """A node whose segments share voxels, so Slicer holds them in two layers."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "strokes")
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume_node)
    for name, mask in (("liver", first), ("tumor", second)):
        label_node = slicer.util.addVolumeFromArray(
            mask.astype(np.uint8), SHEARED, name, nodeClassName="vtkMRMLLabelMapVolumeNode"
        )
        image = slicer.vtkSlicerSegmentationsModuleLogic.CreateOrientedImageDataFromVolumeNode(label_node)
        image.UnRegister(None)
        node.AddSegmentFromBinaryLabelmapRepresentation(image, name, (1.0, 0.0, 0.0), name)
    assert node.GetSegmentation().GetNumberOfLayers() == 2
    return node
