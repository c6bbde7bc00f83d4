"""How fast the bridge is against `slicer.util`'s obvious calls, on a volume of a CT's size.

    python Testing/Benchmarks/bridge.py [--shape 300 512 512] [--out bridge.json]

Runs on slicer-core, so it times data and not displays: in the application the obvious calls also pay for views. Every
figure is the best of a few repetitions, and every pair is checked to give the same voxels.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
AIMS = {"read one stroke": 100.0, "write a result of 5 segments": 30.0, "add a probability volume": 10.0}
CLASSES = ("liver", "spleen", "kidney", "pancreas", "aorta")


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints a table, and writes JSON; 1 if an aim is missed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--shape", type=int, nargs=3, metavar=("K", "J", "I"), default=(300, 512, 512))
    parser.add_argument("--repetitions", type=int, default=3, help="of the bridge's calls; the obvious ones run twice")
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args(argv)
    report = measure(tuple(options.shape), options.repetitions)
    print(table(report))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0 if all(row["ratio"] >= row["aim"] for row in report["rows"]) else 1


def measure(shape: tuple[int, int, int], repetitions: int = 3) -> dict[str, Any]:
    """Times the three pairs of calls.

    Parameters
    ----------
    shape : tuple of int
        Voxels along k, j, i.
    repetitions : int
        How often each of the bridge's calls is timed.

    Returns
    -------
    dict
        ``rows`` with the milliseconds of both ways, their ratio and its aim; ``shape`` and what it ran on.
    """
    sys.path[:0] = [str(ROOT), str(ROOT / "Testing" / "Python")]
    import slicer
    from slicer_fixture import application

    from SemiSupSegLib.labels import LabelSchema
    from SemiSupSegLib.slicer_bridge import results, segments

    with application() as scene:
        volume_node = slicer.util.addVolumeFromArray(np.zeros(shape, np.int16), name="ct")
        schema, labels = LabelSchema.from_names(CLASSES), _labels(shape)
        probability = np.random.default_rng(0).random(shape, dtype=np.float32)
        strokes = results.add_segmentation(_strokes(shape), volume_node, schema, "strokes")

        def obvious_result():
            node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
            node.CreateDefaultDisplayNodes()
            node.SetReferenceImageGeometryParameterFromVolumeNode(volume_node)
            for index, name in enumerate(CLASSES, start=1):
                segment_id = node.GetSegmentation().AddEmptySegment(name, name)
                slicer.util.updateSegmentBinaryLabelmapFromArray(
                    (labels == index).view(np.uint8), node, segment_id, volume_node
                )
            return node

        pairs = {
            "read one stroke": (
                lambda: slicer.util.arrayFromSegmentBinaryLabelmap(strokes, "liver", volume_node),
                lambda: segments.read_segment(strokes, "liver"),
                lambda slow, fast: int(slow.sum()) == int(fast.array.sum()),
            ),
            "write a result of 5 segments": (
                obvious_result,
                lambda: results.add_segmentation(labels, volume_node, schema, "result"),
                lambda slow, fast: _same_segments(slow, fast, volume_node, schema),
            ),
            "add a probability volume": (
                lambda: slicer.util.addVolumeFromArray(probability, name="p"),
                lambda: results.add_probability(probability, volume_node, "p"),
                lambda slow, fast: np.array_equal(slicer.util.arrayFromVolume(slow), slicer.util.arrayFromVolume(fast)),
            ),
        }
        rows = []
        for what, (slow, fast, same) in pairs.items():
            slow_ms, slow_result = _timed(slow, 2, scene)
            fast_ms, fast_result = _timed(fast, repetitions, scene)
            if not same(slow_result, fast_result):
                raise AssertionError(f"{what}: the two ways differ")
            rows.append(
                {
                    "what": what,
                    "slicer_util_ms": round(slow_ms, 1),
                    "bridge_ms": round(fast_ms, 2),
                    "ratio": round(slow_ms / fast_ms, 1),
                    "aim": AIMS[what],
                }
            )
    system = {"python": platform.python_version(), "machine": platform.machine(), "system": platform.system()}
    return {"shape": list(shape), "rows": rows, **system}


def table(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = [f"{'x'.join(map(str, report['shape']))} voxels (k, j, i)", ""]
    lines.append(f"{'':30}{'slicer.util':>12}{'bridge':>10}{'ratio':>8}{'aim':>6}")
    for row in report["rows"]:
        times = f"{row['slicer_util_ms']:>9.0f} ms{row['bridge_ms']:>7.1f} ms"
        lines.append(f"{row['what']:30}{times}{row['ratio']:>8.0f}{row['aim']:>6.0f}")
    return "\n".join(lines)


def _timed(call: Callable[[], Any], repetitions: int, scene) -> tuple[float, Any]:
    """Milliseconds of the fastest call, and what it returned; nodes of the others are removed."""
    best, kept = float("inf"), None
    for _ in range(repetitions):
        if hasattr(kept, "GetID"):
            scene.RemoveNode(kept)
        begun = time.perf_counter()
        kept = call()
        best = min(best, time.perf_counter() - begun)
    return best * 1000, kept


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


def _same_segments(first, second, volume_node, schema) -> bool:
    from SemiSupSegLib.slicer_bridge.nodes import geometry_of
    from SemiSupSegLib.slicer_bridge.segments import read_annotation, uncropped

    grid = geometry_of(volume_node)
    arrays = [uncropped(read_annotation(node, volume_node, schema, "label"), grid, "label") for node in (first, second)]
    return np.array_equal(*arrays)


if __name__ == "__main__":
    sys.exit(main())
