"""The preview after one stroke in a scan of a CT's size whose supervoxels are known, against starting anew.

Two ways to look at it: the table of classes alone, and all that happens in Slicer between a stroke and colors on the
views: the stroke is found in the label maps, taken in, and its superpixels are colored.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from SemiSupSegLib.propagation import NOT_ANNOTATED, SuperpixelTable, propagate
from SemiSupSegLib.superpixels import SuperpixelSettings, compute_superpixels

from .bridge import slicer_application
from .measure import side_by_side
from .rows import Options, Row, attempt
from .scans import LabeledScan, ct_sized

LIMIT = 50.0  # ms
_PEER = "from scratch"
_SUPERPIXELS = SuperpixelSettings(size_mm=5.0)


def rows(options: Options) -> Iterator[Row]:
    """The table, and the whole way in a scene."""
    scan = ct_sized(options)
    ids = compute_superpixels(scan.image, (1, 1, 1), _SUPERPIXELS)
    note = f"{scan.name}, {ids.max() + 1} supervoxels"
    for name, measure in (
        ("supervoxels' classes after a stroke, CT", lambda name: _table(scan, ids, name, note)),
        ("preview in Slicer after a stroke, CT", lambda name: _scene(ids, name, note)),
    ):
        yield attempt(name, _PEER, lambda: measure(name))  # noqa: B023


def _table(scan: LabeledScan, ids: np.ndarray, name: str, note: str) -> Row:
    """One stroke more, where every eighth slice has some: the classes, and in the check every voxel's class."""
    scribble = np.full(scan.labels.shape, NOT_ANNOTATED, np.uint8)
    scribble[::8, ::16] = scan.labels[::8, ::16]
    where, old = _stroke(scribble.shape), NOT_ANNOTATED
    scribble[where] = old
    after = scribble.copy()
    after[where] = 1
    table = SuperpixelTable(scribble, ids)
    state = {"taken in": False}

    def take_in() -> np.ndarray:
        table.update(where, old, 1)
        state["taken in"] = True
        return table.classes

    def put_back() -> None:
        if state["taken in"]:
            table.update(where, 1, old)
            state["taken in"] = False

    def same(ours: np.ndarray, theirs: np.ndarray) -> bool:
        return np.array_equal(ours, theirs) and np.array_equal(table.expand(after), propagate(after, ids))

    return side_by_side(
        name,
        _PEER,
        take_in,
        lambda: SuperpixelTable(after, ids).classes,
        check=same,
        limit=LIMIT,
        unit="ms",
        note=note,
        before=put_back,
    )


def _stroke(shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Two slices thick, three voxels wide, forty long, somewhere in the middle."""
    k, j, i = (size // 2 for size in shape)
    return slice(k, k + 2), slice(j, j + 3), slice(max(0, i - 20), i + 20)


def _scene(ids: np.ndarray, name: str, note: str) -> Row:
    """Strokes painted by the Segment Editor's own logic in a segmentation that reaches over the whole scan."""
    application = slicer_application()
    from editor_desk import Desk

    from SemiSupSegLib.slicer_bridge.superpixel_overlay import SuperpixelOverlay

    labels = ids + np.int32(1)
    with application() as scene:
        desk = Desk(scene, labels)
        overlay = SuperpixelOverlay(scene, labels, desk.geometry, int(labels.max()))
        far = labels.shape[0] - 2
        desk.paint("tumor", (slice(1, 2), slice(2, -2 + labels.shape[1]), slice(2, 5)))
        desk.paint("background", (slice(far, far + 1), slice(2, 5), slice(2, labels.shape[2] - 2)))
        proposals = desk.proposals(overlay)
        strokes = _Strokes(desk, proposals)
        strokes.paint_next()
        row = side_by_side(
            name,
            _PEER,
            strokes.take_in,
            lambda: desk.proposals(overlay).classes,
            check=lambda ours, theirs: np.array_equal(ours, theirs) and ours[labels[strokes.last]].max() == 0,
            limit=LIMIT,
            unit="ms",
            note=note,
            before=strokes.paint_next,
        )
        overlay.remove()
    return row


class _Strokes:
    """Strokes side by side, one for every call, each of them taken in before the next is painted."""

    def __init__(self, desk: Any, proposals: Any):
        self.desk, self.proposals = desk, proposals
        self.count = 0
        self.last: tuple[slice, ...] = ()

    def paint_next(self) -> None:
        self.proposals.update()
        k, j, i = _stroke(self.desk.labels.shape)
        shift = 4 * (self.count % 20) - 40
        j = slice(max(0, j.start + shift), max(3, j.stop + shift))
        self.last = (k, j, i)
        self.count += 1
        self.desk.paint("tumor", self.last, save=False)

    def take_in(self) -> np.ndarray:
        self.proposals.update()
        return self.proposals.classes
