"""How good a segmentation is: overlap and surface distances, by medpy's definitions.

Arrays are ``(k, j, i)`` (or ``(j, i)``), spacing is ``(i, j, k)`` (or ``(i, j)``) in millimetres.
Without a spacing distances are in voxels, as the published Left Atrium results are.

The border of a mask is what a 6-connected (in 2D 4-connected) erosion takes away; the edge of the
volume is outside. Distances run between the centers of border voxels.

Where medpy raises or divides by zero, these conventions hold:

========== =========== ========================== ==================
prediction truth       Dice, Jaccard and the like distances
========== =========== ========================== ==================
empty      empty       1                          0
empty      not empty   0                          the volume's diagonal
not empty  empty       0                          NaN
========== =========== ========================== ==================

An empty prediction thus costs what it deserves, and a false alarm, for which there is no surface
to be far from, shows in Dice and in `ClassScore.empty`, not in the mean of the distances.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from ..errors import VolumeError
from ..labels import IGNORE
from .surfaces import Box, SurfaceDistances, as_masks, check_same_shape, surface_distances

__all__ = [
    "MEASURES",
    "CaseScore",
    "ClassScore",
    "Summary",
    "SurfaceDistances",
    "asd",
    "assd",
    "dice",
    "hd95",
    "jaccard",
    "precision",
    "recall",
    "score_case",
    "summarise",
    "surface_distances",
]


def dice(prediction: NDArray, truth: NDArray) -> float:
    """``2 |P and T| / (|P| + |T|)`` of two masks ``(k, j, i)``.

    Parameters
    ----------
    prediction, truth : numpy.ndarray
        Masks of one shape; whatever isn't 0 belongs to the mask.

    Returns
    -------
    float
        From 0 to 1; 1 if both are empty.

    Raises
    ------
    VolumeError
        If the shapes differ.

    Examples
    --------
    >>> dice(np.array([[1, 1, 0]]), np.array([[0, 1, 0]]))
    0.6666666666666666
    """
    return _Overlap.of_masks(prediction, truth).dice


def jaccard(prediction: NDArray, truth: NDArray) -> float:
    """``|P and T| / |P or T|`` of two masks; 1 if both are empty. See `dice`."""
    return _Overlap.of_masks(prediction, truth).jaccard


def precision(prediction: NDArray, truth: NDArray) -> float:
    """``|P and T| / |P|`` of two masks; 0 if only the prediction is empty. See `dice`."""
    return _Overlap.of_masks(prediction, truth).precision


def recall(prediction: NDArray, truth: NDArray) -> float:
    """``|P and T| / |T|`` of two masks; 0 if only the truth is empty. See `dice`."""
    return _Overlap.of_masks(prediction, truth).recall


def hd95(prediction: NDArray, truth: NDArray, spacing: Sequence[float] | None = None) -> float:
    """95 % Hausdorff distance: the 95th percentile of both directed distance sets put together.

    Parameters
    ----------
    prediction, truth : numpy.ndarray
        Masks ``(k, j, i)`` of one shape.
    spacing : sequence of float, optional
        ``(i, j, k)`` in millimetres; without, distances are in voxels.

    Returns
    -------
    float
        Millimetres or voxels; for empty masks see the module.

    Raises
    ------
    VolumeError
        If shapes or spacing don't fit.

    References
    ----------
    The definition is that of ``medpy.metric.binary.hd95``, which most publications of the field
    report; the larger one of two directed percentiles is another measure.
    """
    return SurfaceDistances.between(prediction, truth, spacing).hd95


def asd(prediction: NDArray, truth: NDArray, spacing: Sequence[float] | None = None) -> float:
    """Average distance of the prediction's border to the truth's: one-sided, as medpy's ``asd``.

    It hardly punishes what the prediction misses: a truth twice as large can have a low ASD.
    Report `assd` beside it. Parameters and errors as of `hd95`.
    """
    return SurfaceDistances.between(prediction, truth, spacing).asd


def assd(prediction: NDArray, truth: NDArray, spacing: Sequence[float] | None = None) -> float:
    """Average symmetric surface distance: the mean of both directed distance sets put together.

    So medpy has it since 0.5; before, it was the mean of the two sets' means. Parameters and errors
    as of `hd95`.
    """
    return SurfaceDistances.between(prediction, truth, spacing).assd


@dataclass(frozen=True)
class ClassScore:
    """How well one class of one case was segmented.

    Attributes
    ----------
    dice, jaccard, precision, recall : float
        From 0 to 1.
    hd95, asd, assd : float
        Millimetres, or voxels if no spacing was given; NaN where they mean nothing.
    empty : str
        "" or which of the masks had no voxel: "prediction", "truth", "both".
    """

    dice: float
    jaccard: float
    precision: float
    recall: float
    hd95: float
    asd: float
    assd: float
    empty: str = ""


MEASURES = tuple(field.name for field in fields(ClassScore) if field.name != "empty")
"""Names of the numbers in a `ClassScore`."""


def score_case(
    prediction: NDArray,
    truth: NDArray,
    classes: int | Sequence[str],
    spacing: Sequence[float] | None = None,
    *,
    distances: bool = True,
) -> dict[str, ClassScore]:
    """Score every foreground class of one case.

    Parameters
    ----------
    prediction, truth : numpy.ndarray
        Label maps ``(k, j, i)`` of class indices, 0 for background. Voxels where `truth` is 255
        (not annotated) count for neither; a truth that has any has no known surfaces, so its
        distances are NaN.
    classes : int or sequence of str
        The number of classes, background included; or the foreground classes' names in the order of
        their indices 1, 2, ... (``LabelSchema.names``).
    spacing : sequence of float, optional
        ``(i, j, k)`` in millimetres; without, distances are in voxels.
    distances : bool
        Whether to measure surface distances too; they take most of the time.

    Returns
    -------
    dict of str to ClassScore
        By class name; "1", "2", ... if only a number was given.

    Raises
    ------
    VolumeError
        If shapes or spacing don't fit, or a map holds anything but class indices.

    Examples
    --------
    >>> truth = np.array([[0, 1, 1, 2]])
    >>> scores = score_case(np.array([[0, 0, 1, 2]]), truth, ["liver", "tumor"])
    >>> scores["liver"].dice, scores["tumor"].dice
    (0.6666666666666666, 1.0)
    """
    names = [str(index) for index in range(1, classes)] if isinstance(classes, int) else list(classes)
    prediction, truth = np.asarray(prediction), np.asarray(truth)
    check_same_shape(prediction, truth)
    confusion = _confusion(prediction, truth, len(names) + 1)
    annotated = confusion[:-1]
    with_surfaces = distances and annotated.sum() == truth.size
    boxes = _class_boxes(prediction, truth, len(names)) if with_surfaces else ()

    scores = {}
    for index, name in enumerate(names, start=1):
        overlap = _Overlap(
            both=int(annotated[index, index]),
            prediction=int(annotated[:, index].sum()),
            truth=int(annotated[index].sum()),
        )
        surface = SurfaceDistances.unknown()
        if with_surfaces:
            box = boxes[index - 1]
            surface = SurfaceDistances.between(
                prediction[box] == index, truth[box] == index, spacing, volume_shape=truth.shape
            )
        scores[name] = ClassScore(
            dice=overlap.dice,
            jaccard=overlap.jaccard,
            precision=overlap.precision,
            recall=overlap.recall,
            **asdict(surface),
            empty=overlap.empty,
        )
    return scores


@dataclass(frozen=True)
class CaseScore:
    """The scores of one case.

    Attributes
    ----------
    case : str
        The case's id.
    classes : mapping of str to ClassScore
        What `score_case` returns.
    """

    case: str
    classes: Mapping[str, ClassScore]

    def mean(self, measure: str = "dice") -> float:
        """Mean of a measure over classes, without those where it is NaN; NaN if it is everywhere."""
        return _mean([getattr(score, measure) for score in self.classes.values()])


@dataclass(frozen=True)
class Summary:
    """One measure of one class over cases.

    Attributes
    ----------
    mean, sd, median : float
        Over the cases where the measure isn't NaN; the standard deviation is that of a sample
        (n - 1), NaN for a single case.
    n : int
        Number of those cases.
    n_undefined : int
        Number of cases left out, where it is NaN.
    n_empty_predictions : int
        Number of cases where the class was there, but nothing was predicted.
    """

    mean: float
    sd: float
    median: float
    n: int
    n_undefined: int
    n_empty_predictions: int


def summarise(scores: Iterable[CaseScore]) -> dict[str, dict[str, Summary]]:
    """Summaries by class name and measure.

    Parameters
    ----------
    scores : iterable of CaseScore
        Cases may lack classes.

    Returns
    -------
    dict of str to dict of str to Summary
        ``summarise(scores)["liver"]["dice"].mean``.
    """
    by_class: dict[str, list[ClassScore]] = {}
    for case in scores:
        for name, score in case.classes.items():
            by_class.setdefault(name, []).append(score)
    return {
        name: {measure: _summary(class_scores, measure) for measure in MEASURES}
        for name, class_scores in by_class.items()
    }


def _summary(scores: list[ClassScore], measure: str) -> Summary:
    values = np.array([getattr(score, measure) for score in scores], dtype=np.float64)
    known = values[~np.isnan(values)]
    return Summary(
        mean=_mean(known),
        sd=float(known.std(ddof=1)) if known.size > 1 else np.nan,
        median=float(np.median(known)) if known.size else np.nan,
        n=known.size,
        n_undefined=values.size - known.size,
        n_empty_predictions=sum(score.empty == "prediction" for score in scores),
    )


def _mean(values: Sequence[float] | NDArray) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else np.nan


@dataclass(frozen=True)
class _Overlap:
    """Voxel counts of two masks, and what follows from them."""

    both: int
    prediction: int
    truth: int

    @classmethod
    def of_masks(cls, prediction: NDArray, truth: NDArray) -> _Overlap:
        prediction, truth = as_masks(prediction, truth)
        return cls(*(int(np.count_nonzero(mask)) for mask in (prediction & truth, prediction, truth)))

    @property
    def dice(self) -> float:
        return self._share(2 * self.both, self.prediction + self.truth)

    @property
    def jaccard(self) -> float:
        return self._share(self.both, self.prediction + self.truth - self.both)

    @property
    def precision(self) -> float:
        return self._share(self.both, self.prediction)

    @property
    def recall(self) -> float:
        return self._share(self.both, self.truth)

    @property
    def empty(self) -> str:
        if self.prediction:
            return "" if self.truth else "truth"
        return "prediction" if self.truth else "both"

    def _share(self, part: int, whole: int) -> float:
        if self.empty == "both":
            return 1.0
        return part / whole if whole else 0.0


def _confusion(prediction: NDArray, truth: NDArray, n_classes: int) -> NDArray:
    """Voxel counts by truth (rows; one more for 255) and prediction (columns)."""
    for what, labels, strange in (
        ("prediction", prediction, prediction >= n_classes),
        ("truth", truth, (truth >= n_classes) & (truth != IGNORE)),
    ):
        if not np.issubdtype(labels.dtype, np.integer) or strange.any() or labels.min(initial=0) < 0:
            raise VolumeError(
                f"The {what} holds more than the indices of the {n_classes} classes.",
                "Map its label values to class indices first.",
            )
    counts = np.zeros((n_classes + 1) * n_classes, dtype=np.int64)
    for predicted, true in zip(prediction, truth, strict=True):  # by slices, to stay in the cache
        rows = np.where(true == IGNORE, n_classes, true).astype(np.int64)
        counts += np.bincount((rows * n_classes + predicted.astype(np.int64)).ravel(), minlength=counts.size)
    return counts.reshape(n_classes + 1, n_classes)


def _class_boxes(prediction: NDArray, truth: NDArray, n_foreground: int) -> list[Box]:
    """For each foreground class the smallest box that holds it in both label maps."""
    nothing = (slice(0, 0),) * truth.ndim
    boxes = []
    for one, other in zip(*(find_objects(labels, n_foreground) for labels in (prediction, truth)), strict=True):
        one, other = one or other or nothing, other or one or nothing
        pairs = zip(one, other, strict=True)
        boxes.append(tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in pairs))
    return boxes
