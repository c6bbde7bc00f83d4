"""The bridge between Slicer's nodes and arrays, against `slicer.util`'s obvious calls, on a volume of a CT's size.

It runs on slicer-core, so it times data and not displays: in the application the obvious calls also pay for views.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from .measure import side_by_side
from .rows import MissingPeer, Options, Row, attempt, require

CLASSES = ("liver", "spleen", "kidney", "pancreas", "aorta")
_PEER = "slicer.util"


def rows(options: Options) -> Iterator[Row]:
    """Read a stroke, write a result, add a probability volume."""
    shape = options.pick((300, 512, 512), (75, 256, 256), (8, 24, 24))
    try:
        application = slicer_application()
    except MissingPeer as error:
        yield Row("bridge", _PEER, note=str(error))
        return
    with application() as scene:
        pairs = _Pairs(scene, shape, options.seed)
        for name, aim, slow, fast, same in (
            ("read one stroke", 100.0, pairs.obvious_stroke, pairs.stroke, pairs.same_stroke),
            ("write a result of 5 segments", 30.0, pairs.obvious_result, pairs.result, pairs.same_segments),
            ("add a probability volume", 10.0, pairs.obvious_probability, pairs.probability, pairs.same_volume),
        ):
            yield attempt(name, _PEER, lambda: pairs.row(name, aim, slow, fast, same), aim=aim)  # noqa: B023


def slicer_application() -> Callable[[], AbstractContextManager]:
    """What the tests run slicer-core in; from now on its neighbours can be imported, too."""
    require("slicer", "pip install slicer-core")
    require("pytest", "pip install pytest")
    sys.path.append(str(Path(__file__).parents[2] / "Python"))
    from slicer_fixture import application

    return application


class _Pairs:
    """Each piece of work in both ways, in one scene."""

    def __init__(self, scene: Any, shape: tuple[int, int, int], seed: int):
        import slicer

        from SemiSupSegLib.labels import LabelSchema
        from SemiSupSegLib.slicer_bridge import results, segments

        self.util, self.results, self.segments = slicer.util, results, segments
        self.scene, self.shape = scene, shape
        self.volume_node = slicer.util.addVolumeFromArray(np.zeros(shape, np.int16), name="ct")
        self.schema, self.labels = LabelSchema.from_names(CLASSES), _labels(shape)
        self.values = np.random.default_rng(seed).random(shape, dtype=np.float32)
        self.strokes = results.add_segmentation(_strokes(shape), self.volume_node, self.schema, "strokes")
        self.kept = len(self._nodes())

    def row(self, name: str, aim: float, slow: Callable, fast: Callable, same: Callable) -> Row:
        shape = "x".join(map(str, self.shape))
        return side_by_side(
            name, _PEER, fast, slow, check=same, aim=aim, unit="ms", before=self._tidy, note=f"{shape} (k, j, i)"
        )  # fmt: skip

    def obvious_stroke(self) -> np.ndarray:
        return self.util.arrayFromSegmentBinaryLabelmap(self.strokes, "liver", self.volume_node)

    def stroke(self) -> Any:
        return self.segments.read_segment(self.strokes, "liver")

    def same_stroke(self, fast: Any, slow: np.ndarray) -> bool:
        from SemiSupSegLib.slicer_bridge.nodes import geometry_of

        return np.array_equal(self.segments.uncropped(fast, geometry_of(self.volume_node), "strokes") > 0, slow > 0)

    def obvious_result(self) -> Any:
        node = self.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
        node.CreateDefaultDisplayNodes()
        node.SetReferenceImageGeometryParameterFromVolumeNode(self.volume_node)
        for index, name in enumerate(CLASSES, start=1):
            segment_id = node.GetSegmentation().AddEmptySegment(name, name)
            mask = (self.labels == index).view(np.uint8)
            self.util.updateSegmentBinaryLabelmapFromArray(mask, node, segment_id, self.volume_node)
        return node

    def result(self) -> Any:
        return self.results.add_segmentation(self.labels, self.volume_node, self.schema, "result")

    def same_segments(self, first: Any, second: Any) -> bool:
        from SemiSupSegLib.slicer_bridge.nodes import geometry_of
        from SemiSupSegLib.slicer_bridge.segments import read_annotation, uncropped

        grid = geometry_of(self.volume_node)
        arrays = [
            uncropped(read_annotation(node, self.volume_node, self.schema, "label"), grid, "label")
            for node in (first, second)
        ]
        return np.array_equal(*arrays)

    def obvious_probability(self) -> Any:
        return self.util.addVolumeFromArray(self.values, name="p")

    def probability(self) -> Any:
        return self.results.add_probability(self.values, self.volume_node, "p")

    def same_volume(self, first: Any, second: Any) -> bool:
        return np.array_equal(self.util.arrayFromVolume(first), self.util.arrayFromVolume(second))

    def _tidy(self) -> None:
        """Removes what earlier calls added: a CT a call would fill the memory."""
        for node in self._nodes()[self.kept :]:
            self.scene.RemoveNode(node)

    def _nodes(self) -> list[Any]:
        return [self.scene.GetNthNode(index) for index in range(self.scene.GetNumberOfNodes())]


def _labels(shape: tuple[int, int, int]) -> np.ndarray:
    """Five blocks, about a tenth of the volume together."""
    labels = np.zeros(shape, np.uint8)
    for index in range(len(CLASSES)):
        start = [size * (index + 1) // 8 for size in shape]
        labels[tuple(slice(first, first + size // 4) for first, size in zip(start, shape, strict=True))] = index + 1
    return labels


def _strokes(shape: tuple[int, int, int]) -> np.ndarray:
    """A stroke of each class on a few neighbouring slices, as somebody paints in a minute."""
    strokes = np.full(shape, 255, np.uint8)
    k = shape[0] // 2
    for index in range(len(CLASSES)):
        row = shape[1] * (index + 2) // 8
        strokes[k : k + 5, row : row + 6, shape[2] // 4 : shape[2] // 2] = index + 1
    return strokes
