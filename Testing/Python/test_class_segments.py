"""Segments of a shown case as classes of its cohort."""

from __future__ import annotations

import pytest

from SemiSupSegLib.labels import LabelSchema, SegmentClass
from SemiSupSegLib.slicer_bridge.class_segments import count_voxels, describe_segments, looks_of, terminology_text

pytest_plugins = ["slicer_fixture"]

LIVER = SegmentClass("liver", segment_id="liver", color=(0.8, 0.5, 0.3))
TUMOR = SegmentClass("tumor", segment_id="tumor", color=(0.1, 0.9, 0.1))


@pytest.fixture
def node(scene):
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    empty = LabelSchema((LIVER,))
    describe_segments(node, empty, empty)
    return node


def names(node) -> list[str]:
    segmentation = node.GetSegmentation()
    return [segmentation.GetNthSegment(n).GetName() for n in range(segmentation.GetNumberOfSegments())]


def test_a_new_class_becomes_a_segment_before_the_background(node):
    describe_segments(node, LabelSchema((LIVER,)), LabelSchema((LIVER, TUMOR)))
    assert names(node) == ["liver", "tumor", "background"]
    assert looks_of(node)[TUMOR.segment_id][1] == pytest.approx(TUMOR.color)


def test_a_renamed_class_leaves_no_segment_behind(node):
    describe_segments(node, LabelSchema((LIVER,)), LabelSchema((TUMOR,)))
    assert names(node) == ["tumor", "background"]


def test_a_segment_without_voxels_counts_none(node):
    assert count_voxels(node) == {"liver": 0, "background": 0}


def test_a_terminology_is_said_in_a_word():
    entry = (
        "Segmentation category and type - 3D Slicer General Anatomy list~SCT^123037004^Anatomical Structure~"
        "SCT^10200004^Liver~^^~Anatomic codes - DICOM master list~^^~^^"
    )
    assert terminology_text(entry) == "Liver"
    assert terminology_text("") == ""
