from __future__ import annotations

import gzip

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from SemiSupSegLib.errors import CohortError, SemiSupSegError, VolumeError
from SemiSupSegLib.labels import IGNORE, LabelSchema, SegmentClass
from SemiSupSegLib.segmentation_file import (
    Segment,
    match_class,
    read_annotation,
    read_segment_names,
    read_segments,
    write_segmentation,
)
from SemiSupSegLib.volume import Geometry, Volume, write_volume

LIVER = (
    "Segmentation category and type - 3D Slicer General Anatomy list~SCT^123037004^Anatomical Structure"
    "~SCT^10200004^Liver~^^~Anatomic codes - DICOM master list~^^~^^"
)
SCHEMA = LabelSchema(
    (
        SegmentClass("left atrium", "la", (1, 0.5, 0), LIVER),
        SegmentClass("Träger wall", "Segment_2", (0.25, 0.75, 1), value=300),
        SegmentClass("never painted"),
    )
)
GEOMETRY = Geometry((5, 4, 3), (0.5, 0.75, 3), (-10, 20, 30), (0, -1, 0, 1, 0, 0, 0, 0, 1))


def label_maps(values):
    return arrays.arrays(np.uint8, GEOMETRY.shape, elements=st.sampled_from(values))


def layered(path, layers, segments, kinds="list domain domain domain"):
    """A .seg.nrrd of several layers as Slicer writes it for segments that overlap: the layer runs fastest."""
    array = np.stack(layers, axis=-1).astype(np.uint8)
    lines = [
        "NRRD0004",
        "type: unsigned char",
        "dimension: 4",
        "space: left-posterior-superior",
        f"sizes: {len(layers)} " + " ".join(map(str, layers[0].shape[::-1])),
        "space directions: none (1,0,0) (0,1,0) (0,0,1)",
        f"kinds: {kinds}",
        "encoding: gzip",
        "space origin: (0,0,0)",
    ]
    for index, fields in enumerate(segments):
        lines += [f"Segment{index}_{key}:={value}" for key, value in fields.items()]
    path.write_bytes(("\n".join(lines) + "\n\n").encode() + gzip.compress(array.tobytes()))


def test_segmentation_comes_back_with_its_names_and_grid(tmp_path):
    labels = np.zeros(GEOMETRY.shape, np.uint8)
    labels[1, 1:3, 2:4] = 1
    labels[2, 2, 2] = 2
    path = tmp_path / "größe 1.seg.nrrd"
    write_segmentation(path, labels, GEOMETRY, SCHEMA)
    found, geometry = read_annotation(path, None, SCHEMA, "label")
    np.testing.assert_array_equal(found, labels)
    assert geometry == GEOMETRY
    assert read_segment_names(path) == ["left atrium", "Träger wall", "never painted"]
    first, second, _ = read_segments(path)
    assert (first.segment_id, first.color, first.terminology, first.value) == ("la", (1, 0.5, 0), LIVER, 1)
    assert (second.segment_id, second.value, second.layer) == ("Segment_2", 300, 0)


@settings(max_examples=30, deadline=None)
@given(label_maps([IGNORE, 0, 1, 2, 3]))
def test_scribble_keeps_what_was_painted_and_what_was_not(tmp_path_factory, scribble):
    path = tmp_path_factory.mktemp("scribble") / "a.seg.nrrd"
    write_segmentation(path, scribble, GEOMETRY, SCHEMA, kind="scribble")
    np.testing.assert_array_equal(read_annotation(path, None, SCHEMA, "scribble")[0], scribble)


@settings(max_examples=30, deadline=None)
@given(label_maps([0, 1, 2, 3]))
def test_dense_label_stays_dense(tmp_path_factory, labels):
    path = tmp_path_factory.mktemp("label") / "a.seg.nrrd"
    write_segmentation(path, labels, GEOMETRY, SCHEMA)
    np.testing.assert_array_equal(read_annotation(path, None, SCHEMA, "label")[0], labels)


def test_overlapping_segments_of_several_layers(tmp_path):
    first, second = np.zeros((2, 3, 4, 4), np.uint8)
    first[1, 1, :3] = 1
    second[1, 1, 2:] = 1
    layered(
        tmp_path / "a.seg.nrrd",
        [first, second],
        [
            {"ID": "la", "Name": "left atrium", "LabelValue": 1, "Layer": 0},
            {"ID": "x", "Name": "Träger wall", "LabelValue": 1, "Layer": 1},
        ],
    )
    scribble, _ = read_annotation(tmp_path / "a.seg.nrrd", None, SCHEMA, "scribble")
    assert scribble[1, 1].tolist() == [1, 1, IGNORE, 2]  # a voxel painted as two classes says nothing
    assert (scribble[0] == IGNORE).all()
    label, _ = read_annotation(tmp_path / "a.seg.nrrd", None, SCHEMA, "label")
    assert label[1, 1].tolist() == [1, 1, 2, 2]  # the last one wins, as in Slicer's export
    assert (label[0] == 0).all()


def test_background_segment_is_class_zero_in_scribbles(tmp_path):
    layer = np.zeros((3, 4, 4), np.uint8)
    layer[0, 0] = [1, 2, 0, 0]
    layered(
        tmp_path / "a.seg.nrrd",
        [layer, layer * 0],
        [
            {"ID": "Segment_1", "Name": "Background", "LabelValue": 1, "Layer": 0},
            {"ID": "la", "Name": "renamed since", "LabelValue": 2, "Layer": 0},
        ],
    )
    scribble, _ = read_annotation(tmp_path / "a.seg.nrrd", None, SCHEMA, "scribble")
    assert scribble[0, 0].tolist() == [0, 1, IGNORE, IGNORE]


def test_segment_that_is_no_class_is_named_unless_it_is_empty(tmp_path):
    layer = np.zeros((3, 4, 4), np.uint8)
    layer[0, 0, 0] = 1
    segments = [
        {"ID": "la", "Name": "left atrium", "LabelValue": 1, "Layer": 0},
        {"ID": "n", "Name": "notes", "LabelValue": 2, "Layer": 0},
    ]
    layered(tmp_path / "empty.seg.nrrd", [layer, layer * 0], segments)
    assert read_annotation(tmp_path / "empty.seg.nrrd", None, SCHEMA, "label")[0].sum() == 1
    layer[0, 0, 1] = 2
    layered(tmp_path / "used.seg.nrrd", [layer, layer * 0], segments)
    with pytest.raises(CohortError, match=r"segment 'notes' that is no class.*background, left atrium, Träger wall"):
        read_annotation(tmp_path / "used.seg.nrrd", None, SCHEMA, "label")


@pytest.mark.parametrize(
    "segment_id, name, expected",
    [
        ("anything", "left atrium", 1),
        ("anything", "Left Atrium", 1),
        ("la", "renamed", 1),
        ("Segment_2", "renamed", None),  # Slicer calls the second segment of every file so
        ("anything", "Background", 0),
        ("anything", "liver", None),
    ],
)
def test_names_decide_and_ids_that_slicer_made_up_do_not(segment_id, name, expected):
    assert match_class(Segment(segment_id, name, None, "", 1, 0), SCHEMA) == expected


# -- label maps -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_label_map_of_any_type(tmp_path, dtype):
    array = np.zeros(GEOMETRY.shape, dtype)
    array[0, 0, :3] = [3, 7, 200]
    write_volume(tmp_path / "a.nrrd", Volume(array, GEOMETRY))
    values = {"left atrium": 3, "Träger wall": 7, "background": 200}
    label, geometry = read_annotation(tmp_path / "a.nrrd", values, SCHEMA, "label")
    assert label[0, 0].tolist() == [1, 2, 0, 0, 0]
    assert geometry == GEOMETRY
    scribble, _ = read_annotation(tmp_path / "a.nrrd", values, SCHEMA, "scribble")
    assert scribble[0, 0].tolist() == [1, 2, 0, IGNORE, IGNORE]


@pytest.mark.parametrize("kind", ["label", "scribble"])
def test_unknown_value_is_named_and_255_is_not_annotated(tmp_path, kind):
    array = np.zeros(GEOMETRY.shape, np.uint8)
    array[0, 0, :3] = [1, 255, 0]
    write_volume(tmp_path / "a.nii.gz", Volume(array, GEOMETRY))
    found, _ = read_annotation(tmp_path / "a.nii.gz", {"left atrium": 1}, SCHEMA, kind)
    assert found[0, 0, :3].tolist() == [1, IGNORE, 0 if kind == "label" else IGNORE]
    array[0, 0, 3:] = [4, 9]
    write_volume(tmp_path / "a.nii.gz", Volume(array, GEOMETRY))
    with pytest.raises(CohortError, match=r"a\.nii\.gz' holds the values 4, 9, which no class has \(left atrium=1\)"):
        read_annotation(tmp_path / "a.nii.gz", {"left atrium": 1}, SCHEMA, kind)


def test_zero_of_a_scribble_can_not_be_background(tmp_path):
    write_volume(tmp_path / "a.nrrd", Volume(np.zeros(GEOMETRY.shape, np.uint8), GEOMETRY))
    with pytest.raises(CohortError, match="what nobody painted"):
        read_annotation(tmp_path / "a.nrrd", {"background": 0, "left atrium": 1}, SCHEMA, "scribble")


def test_image_in_the_place_of_a_label_is_recognised(tmp_path):
    write_volume(tmp_path / "a.nrrd", Volume(np.full(GEOMETRY.shape, 0.5, np.float32), GEOMETRY))
    with pytest.raises(VolumeError, match="isn't a label map"):
        read_annotation(tmp_path / "a.nrrd", {"left atrium": 1}, SCHEMA, "label")


def test_label_map_without_values_says_what_is_needed(tmp_path):
    write_volume(tmp_path / "a.seg.nrrd", Volume(np.zeros(GEOMETRY.shape, np.uint8), GEOMETRY))
    with pytest.raises(CohortError, match="names no segments"):
        read_annotation(tmp_path / "a.seg.nrrd", None, SCHEMA, "label")


def test_damaged_header_is_an_error_that_names_the_segment(tmp_path):
    layer = np.zeros((3, 4, 4), np.uint8)
    layered(tmp_path / "a.seg.nrrd", [layer, layer], [{"ID": "la", "Name": "left atrium", "LabelValue": "one"}])
    with pytest.raises(VolumeError, match="segment 'la'"):
        read_segments(tmp_path / "a.seg.nrrd")


@pytest.mark.parametrize(
    "name, labels",
    [
        ("a.nrrd", np.zeros(GEOMETRY.shape, np.uint8)),
        ("a.seg.nrrd", np.zeros((1, 2, 3), np.uint8)),
        ("a.seg.nrrd", np.zeros(GEOMETRY.shape, np.int64)),
        ("a.seg.nrrd", np.full(GEOMETRY.shape, 9, np.uint8)),
    ],
)
def test_what_can_not_be_a_segmentation_is_not_written(tmp_path, name, labels):
    with pytest.raises(SemiSupSegError):
        write_segmentation(tmp_path / name, labels, GEOMETRY, SCHEMA)
    assert not list(tmp_path.iterdir())


# -- Slicer itself ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def slicer():
    return pytest.importorskip("slicer", reason="needs slicer-core, which stands in for Slicer")


def opened_in_slicer(slicer, path):
    scene = slicer.vtkMRMLScene()
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    storage = scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(path))
    assert storage.ReadData(node) == 1
    node.scene = scene  # the scene owns the node
    return node


def test_slicer_reads_names_ids_colors_terminology_and_the_grid(slicer, tmp_path):
    import vtk

    labels = np.zeros(GEOMETRY.shape, np.uint8)
    labels[1, 1:3, 2:4] = 1
    labels[2, 2, 2] = 2
    write_segmentation(tmp_path / "ü 1.seg.nrrd", labels, GEOMETRY, SCHEMA)
    segmentation = opened_in_slicer(slicer, tmp_path / "ü 1.seg.nrrd").GetSegmentation()
    assert [segmentation.GetNthSegmentID(index) for index in range(3)] == ["la", "Segment_2", "never painted"]
    segments = [segmentation.GetNthSegment(index) for index in range(3)]
    assert [segment.GetName() for segment in segments] == list(SCHEMA.names)
    assert [segment.GetLabelValue() for segment in segments] == [1, 300, 3]
    np.testing.assert_allclose(segments[0].GetColor(), (1, 0.5, 0))
    entry = vtk.reference("")
    assert segments[0].GetTag(segments[0].GetTerminologyEntryTagName(), entry)
    assert str(entry) == LIVER
    shared = {segment.GetRepresentation("Binary labelmap").GetAddressAsString("") for segment in segments}
    assert len(shared) == 1, "one layer for all segments"
    geometry = slicer.vtkOrientedImageData()
    slicer.vtkSegmentationConverter.DeserializeImageGeometry(
        segmentation.GetConversionParameter("Reference image geometry"), geometry, False
    )
    assert geometry.GetDimensions() == GEOMETRY.size
    matrix = vtk.vtkMatrix4x4()
    geometry.GetImageToWorldMatrix(matrix)
    found = np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])
    np.testing.assert_allclose(np.diag([-1, -1, 1, 1]) @ found, GEOMETRY.index_to_physical, atol=1e-12)


@pytest.mark.parametrize("overlap", [False, True])
def test_what_slicer_writes_is_read(slicer, tmp_path, overlap):
    from vtk import VTK_UNSIGNED_CHAR
    from vtk.util.numpy_support import vtk_to_numpy

    scene = slicer.vtkMRMLScene()
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    for name, start in (("left atrium", 1), ("Träger wall", 2 if overlap else 3)):
        image = slicer.vtkOrientedImageData()
        image.SetDimensions(8, 7, 6)
        image.SetSpacing(1, 2, 3)
        image.AllocateScalars(VTK_UNSIGNED_CHAR, 1)
        voxels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(6, 7, 8)
        voxels[:] = 0
        voxels[2, 3, start : start + 2] = 1
        segment = slicer.vtkSegment()
        segment.SetName(name)
        segment.AddRepresentation("Binary labelmap", image)
        node.GetSegmentation().AddSegment(segment)
    if not overlap:
        node.GetSegmentation().CollapseBinaryLabelmaps()
    storage = scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(tmp_path / "slicer.seg.nrrd"))
    assert storage.WriteData(node)

    labels, geometry = read_annotation(tmp_path / "slicer.seg.nrrd", None, SCHEMA, "scribble")
    assert (labels == 1).sum() == (1 if overlap else 2)
    assert (labels == 2).sum() == (1 if overlap else 2)
    k, j, i = np.argwhere(labels == 1)[0]
    # Slicer's RAS (1, 6, 6) is LPS (-1, -6, 6), whatever part of the grid it wrote.
    np.testing.assert_allclose((geometry.index_to_physical @ [i, j, k, 1])[:3], (-1, -6, 6))
