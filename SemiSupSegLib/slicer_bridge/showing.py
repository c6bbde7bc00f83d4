"""A prediction comes into a scene a little at a time, so that the window never waits for it.

Whoever has an event loop takes a step whenever it has time for one; scripts take all of them `at_once`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import TypeVar

import numpy as np
import slicer

from ..labels import LabelSchema
from ..slabs import Slabs
from ..volume import read_volume
from .nodes import KIND_ATTRIBUTE, geometry_of
from .predictions import Prediction, PredictionNodes
from .results import (
    add_probability,
    add_segmentation,
    add_uncertainty,
    check_fit,
    is_untouched,
    update_map,
    update_segmentation,
)

Result = TypeVar("Result")
Steps = Generator[None, None, Result]
"""Work in steps of milliseconds; between them Slicer may do what it likes."""

AddMap = Callable[[np.ndarray, slicer.vtkMRMLScalarVolumeNode, str], slicer.vtkMRMLScalarVolumeNode]


def at_once(steps: Steps[Result]) -> Result:
    """Take all steps; what comes out at the end."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def prediction_steps(
    prediction: Prediction,
    volume_node: slicer.vtkMRMLScalarVolumeNode,
    shown: list[slicer.vtkMRMLNode],
    classes: LabelSchema,
    own: Callable[[slicer.vtkMRMLNode], object] = lambda node: None,
) -> Steps[PredictionNodes]:
    """Show a prediction beside its scan: files are read slab by slab, and each node is a step of its own.

    Parameters
    ----------
    prediction : Prediction
    volume_node : vtkMRMLScalarVolumeNode
        The scan; its scene and its parent transform are the results', too.
    shown : list of vtkMRMLNode
        Nodes that show an earlier prediction of this scan: updated, if nobody edited them; else new ones are made.
    classes : LabelSchema
        Classes of these names keep the IDs, colors and terminology that they have here, whoever made the model.
    own : callable
        Takes each node as soon as it is there, so that it is known as a result's also if the steps aren't all taken.

    Returns
    -------
    PredictionNodes
        Their attributes `nodes.KIND_ATTRIBUTE` are set.
    """
    by_kind = {node.GetAttribute(KIND_ATTRIBUTE): node for node in shown}
    segmentation = yield from _segmentation_steps(prediction, volume_node, by_kind.get("result"), classes)
    own(segmentation)
    yield
    maps, doubt = {}, None
    for kind, path in prediction.files.items():
        if kind == "segmentation":
            continue
        add = add_uncertainty if kind == "uncertainty" else add_probability
        array, sums = yield from _map_steps(path)
        doubt = sums if kind == "uncertainty" else doubt
        maps[kind] = _show_map(by_kind.get(kind), array, volume_node, f"{prediction.case_id} {kind}", add)
        maps[kind].SetAttribute(KIND_ATTRIBUTE, kind)
        own(maps[kind])
        yield
    probabilities = {kind.removeprefix("probability "): node for kind, node in maps.items() if kind != "uncertainty"}
    return PredictionNodes(segmentation, probabilities, maps.get("uncertainty"), doubt)


def _segmentation_steps(
    prediction: Prediction,
    volume_node: slicer.vtkMRMLScalarVolumeNode,
    node: slicer.vtkMRMLSegmentationNode | None,
    classes: LabelSchema,
) -> Steps[slicer.vtkMRMLSegmentationNode]:
    schema = prediction.schema()
    labels, box = yield from _label_steps(prediction, schema)
    grid = geometry_of(volume_node)
    check_fit(labels, grid)
    schema = schema.looking_as_in(classes)
    start, size = [each.start for each in box][::-1], [each.stop - each.start for each in box][::-1]
    where = grid.cropped(start, size)
    if node is not None and node.GetScene() is not None and is_untouched(node):
        update_segmentation(node, labels[box], volume_node, schema, geometry=where)
    else:
        name = f"{prediction.case_id} segmentation"
        node = add_segmentation(labels[box], volume_node, schema, name, geometry=where)
        node.SetAttribute(KIND_ATTRIBUTE, "result")
    return node


def _label_steps(prediction: Prediction, schema: LabelSchema) -> Steps[tuple[np.ndarray, tuple[slice, slice, slice]]]:
    """Class indices, uint8 (k, j, i), and a box that holds everything that isn't background."""
    path = prediction.files["segmentation"]
    slabs = Slabs.of(path)
    if slabs is None:  # a file that somebody put there
        labels = prediction.labels()[0]
        return labels, tuple(slice(0, size) for size in labels.shape)
    values = slabs.array
    table = np.zeros(np.iinfo(values.dtype).max + 1, np.uint8)
    for index, each in enumerate(schema.classes, start=1):
        table[each.value] = index
    labels = values if values.dtype == np.uint8 else np.empty(values.shape, np.uint8)
    rows, plane = np.zeros(len(values), bool), np.zeros(values.shape[1:], bool)
    for slab in slabs:
        labels[slab] = table[values[slab]]
        rows[slab] = labels[slab].any(axis=(1, 2))
        plane |= labels[slab].any(axis=0)
        yield
    used = [np.flatnonzero(each) for each in (rows, plane.any(axis=1), plane.any(axis=0))]
    if not len(used[0]):
        return labels, (slice(0, 1),) * 3
    return labels, tuple(slice(int(each[0]), int(each[-1]) + 1) for each in used)


def _map_steps(path: Path) -> Steps[tuple[np.ndarray, np.ndarray]]:
    """A map (k, j, i) and its sum over each slice."""
    slabs = Slabs.of(path)
    if slabs is None:
        array = read_volume(path).array
        return array, array.sum(axis=(1, 2), dtype=np.float64)
    sums = np.zeros(len(slabs.array))
    for slab in slabs:
        sums[slab] = slabs.array[slab].sum(axis=(1, 2), dtype=np.float64)
        yield
    return slabs.array, sums


def _show_map(
    node: slicer.vtkMRMLScalarVolumeNode | None,
    array: np.ndarray,
    volume_node: slicer.vtkMRMLScalarVolumeNode,
    name: str,
    add: AddMap,
) -> slicer.vtkMRMLScalarVolumeNode:
    if node is None or node.GetScene() is None:
        return add(array, volume_node, name)
    update_map(node, array, volume_node)
    return node
