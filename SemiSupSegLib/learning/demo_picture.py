"""The demo's one picture: the training's curves, and a slice of each shown case beside what was made of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..labels import IGNORE, LabelSchema

BACKGROUND_STROKE = (0.45, 0.75, 1.0)
"""Color of background scribbles: a schema's own background color is too dark to see on a scan."""


@dataclass(frozen=True)
class PictureRow:
    """A case as the picture shows it; all arrays are ``(k, j, i)`` on the image's grid.

    Parameters
    ----------
    title : str
        What stands at the left.
    image : numpy.ndarray
        Grey values.
    spacing : tuple of float
        Voxel size, (i, j, k), mm.
    superpixels : numpy.ndarray
        Superpixel ids.
    prediction : numpy.ndarray
        Class indices.
    scribble, truth : numpy.ndarray, optional
        Class indices, 255 where nothing is known; None where there is none.
    """

    title: str
    image: np.ndarray
    spacing: tuple[float, float, float]
    superpixels: np.ndarray
    prediction: np.ndarray
    scribble: np.ndarray | None = None
    truth: np.ndarray | None = None

    @property
    def slice_index(self) -> int:
        """The slice along k on which most can be seen: strokes, else structures."""
        for labels in (self.scribble, self.truth, self.prediction):
            if labels is not None:
                shown = ((labels > 0) & (labels != IGNORE)).sum(axis=(1, 2))
                if shown.any():
                    return int(shown.argmax())
        return len(self.image) // 2


def draw(
    file: Path,
    rows: Sequence[PictureRow],
    curves: Mapping[str, Iterable[tuple[int, float]]],
    schema: LabelSchema,
    title: str,
) -> None:
    """Write the picture as PNG.

    Parameters
    ----------
    file : Path
        Where to.
    rows : sequence of PictureRow
        The cases to show, one a row.
    curves : mapping of str to (iteration, value) pairs
        The training's metrics by name.
    schema : LabelSchema
        Names and colors of the classes.
    title : str
        What stands above everything.
    """
    from matplotlib.figure import Figure

    height = 2.6
    figure = Figure(figsize=(12.5, 2.6 + height * len(rows)), layout="constrained")
    figure.suptitle(title)
    above, below = figure.subfigures(2, 1, height_ratios=[2.4, height * len(rows)])
    _draw_curves(above, curves)
    axes = below.subplots(len(rows), 5, squeeze=False)
    for row, row_axes in zip(rows, axes, strict=True):
        _draw_row(row_axes, row, schema)
    for axis, name in zip(axes[0], ("image", "scribbles", "superpixels", "prediction", "truth"), strict=True):
        axis.set_title(name)
    _draw_legend(below, schema)
    figure.savefig(file, dpi=80)


def _draw_curves(figure, curves: Mapping[str, Iterable[tuple[int, float]]]) -> None:
    groups = {
        "losses": {name: curve for name, curve in curves.items() if "loss" in name},
        "Dice of validation cases": {name: curve for name, curve in curves.items() if "dice" in name.lower()},
    }
    shown = {title: group for title, group in groups.items() if group}
    for axis, (title, group) in zip(np.atleast_1d(figure.subplots(1, max(1, len(shown)))), shown.items(), strict=False):
        for name, curve in group.items():
            iterations, values = np.array(list(curve)).T
            axis.plot(iterations, _smoothed(values), linewidth=1.2, label=name)
        axis.set_title(title)
        axis.set_xlabel("iteration")
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize="x-small", frameon=False, ncols=2)


def _smoothed(values: np.ndarray) -> np.ndarray:
    """A running mean over a fiftieth of the curve: single batches jump."""
    width = max(1, len(values) // 50)
    sums = np.cumsum(np.concatenate([np.zeros(1), values]))
    last = np.arange(1, len(values) + 1)
    first = np.maximum(0, last - width)
    return (sums[last] - sums[first]) / (last - first)


def _draw_row(axes, row: PictureRow, schema: LabelSchema) -> None:
    k = row.slice_index
    low, high = np.percentile(row.image[k], (1, 99.5))
    window = np.clip((row.image[k] - low) / max(high - low, 1e-6), 0, 1)
    scan = np.repeat(window[..., None], 3, axis=2)
    strokes = _painted(scan, row.scribble, k, schema, opacity=1.0)
    pictures = (
        scan,
        strokes,
        _with_borders(scan if strokes is None else strokes, row.superpixels[k]),
        _painted(scan, row.prediction, k, schema, opacity=0.55),
        _painted(scan, row.truth, k, schema, opacity=0.55),
    )
    aspect = row.spacing[1] / row.spacing[0]
    for axis, picture in zip(axes, pictures, strict=True):
        axis.imshow(scan if picture is None else picture, aspect=aspect, interpolation="nearest")
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
        if picture is None:
            axis.images[0].set_alpha(0.25)
            axis.text(0.5, 0.5, "none", transform=axis.transAxes, ha="center", va="center", color="0.3")
    axes[0].set_ylabel(row.title)


def _painted(
    scan: np.ndarray, labels: np.ndarray | None, k: int, schema: LabelSchema, opacity: float
) -> np.ndarray | None:
    """The scan with labels in their classes' colors over it; None where there are no labels."""
    if labels is None:
        return None
    painted = scan.copy()
    for index, color in enumerate((BACKGROUND_STROKE, *(each.color for each in schema.classes))):
        # What is dense has background everywhere: only strokes of it are worth showing.
        if index or IGNORE in labels:
            here = labels[k] == index
            painted[here] = (1 - opacity) * painted[here] + opacity * np.array(color)
    return painted


def _with_borders(picture: np.ndarray, ids: np.ndarray) -> np.ndarray:
    picture = picture.copy()
    border = np.zeros(ids.shape, bool)
    border[:-1] |= ids[:-1] != ids[1:]
    border[:, :-1] |= ids[:, :-1] != ids[:, 1:]
    picture[border] = 0.5 * picture[border] + 0.5 * np.array((1.0, 0.9, 0.3))
    return picture


def _draw_legend(figure, schema: LabelSchema) -> None:
    from matplotlib.patches import Patch

    patches = [Patch(color=BACKGROUND_STROKE, label="background (strokes)")]
    patches += [Patch(color=each.color, label=each.name) for each in schema.classes]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False)
