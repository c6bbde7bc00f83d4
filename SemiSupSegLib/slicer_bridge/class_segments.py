"""The segments of a shown case as the cohort's classes: how much is painted, how they look, and what they mean."""

from __future__ import annotations

import numpy as np
import slicer

from ..labels import LabelSchema
from .segments import read_layers, read_segments


def count_voxels(node: slicer.vtkMRMLSegmentationNode) -> dict[str, int]:
    """Painted voxels of each segment, by its name."""
    counts = {}
    for layer in read_layers(node):
        if layer.volume is None:
            counts |= {segment.name: 0 for segment in layer.segments}
            continue
        values = np.bincount(layer.volume.array.ravel().astype(np.uint16, copy=False))
        for segment in layer.segments:
            counts[segment.name] = int(values[segment.value]) if segment.value < len(values) else 0
    return counts


def looks_of(node: slicer.vtkMRMLSegmentationNode) -> dict[str, tuple]:
    """Name, color and terminology of each segment, by its ID."""
    return {each.segment_id: (each.name, each.color, each.terminology) for each in read_segments(node)}


def describe_segments(node: slicer.vtkMRMLSegmentationNode, before: LabelSchema, schema: LabelSchema) -> None:
    """Give segments of a shown case the names and colors of its cohort's classes; add those of new classes."""
    segmentation = node.GetSegmentation()
    old = (*before.classes, before.background)
    for index, each in enumerate((*schema.classes, schema.background)):
        is_background = each is schema.background
        was = before.background if is_background else old[index] if index < len(before.classes) else None
        segment = segmentation.GetSegment(each.segment_id)
        if segment is None and was is not None and segmentation.GetSegment(was.segment_id) is not None:
            segmentation.RemoveSegment(was.segment_id)
        if segment is None:
            segment = slicer.vtkSegment()
            segment.SetName(each.name)
            segment.SetColor(*each.color)
            segmentation.AddSegment(segment, each.segment_id)
            continue
        segment.SetName(each.name)
        segment.SetColor(*each.color)
        if each.terminology:
            segment.SetTerminology(each.terminology)
    known = {each.segment_id for each in (*schema.classes, schema.background)}
    gone = {each.segment_id for each in before.classes} - known
    for segment_id in gone:
        segmentation.RemoveSegment(segment_id)
    segmentation.ReorderSegments([each.segment_id for each in (*schema.classes, schema.background)])


def terminology_text(entry: str) -> str:
    """What a serialized terminology entry means, in a word."""
    # "context~category^...~type^scheme^meaning~modifier~..." (vtkSlicerTerminologiesModuleLogic)
    parts = entry.split("~")
    meanings = [part.split("^")[2] for part in parts[1:4] if part.count("^") == 2 and part.split("^")[2]]
    return " ".join(reversed(meanings[1:])) if len(meanings) > 1 else ""
