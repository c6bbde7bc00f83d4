"""From scribbles to superpixels: a superpixel touched by one class takes that class as a whole.

This is the expansion of SP3 (Li S. et al., "Superpixel-Propagated Pseudo-label learning", arXiv
2411.11636), and whether superpixels are fine enough for it. Everything is counted with ``bincount``
over (superpixel, class) pairs, in time proportional to the number of voxels.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from scipy import ndimage

from .errors import SettingsError, VolumeError

NOT_ANNOTATED = 255
Conflict = Literal["keep", "majority"]


class Change(NamedTuple):
    """Superpixels whose class a stroke changed.

    Attributes
    ----------
    superpixels : numpy.ndarray of int64, shape (N,)
        Ids, ascending.
    classes : numpy.ndarray of uint8, shape (N,)
        The new class of each; 255 for none.
    """

    superpixels: np.ndarray
    classes: np.ndarray


def propagate(scribble: np.ndarray, ids: np.ndarray, *, conflict: Conflict = "keep", purity: float = 0.9) -> np.ndarray:
    """Expands scribbles to the superpixels that they touch.

    A superpixel without a scribbled voxel stays unannotated. With voxels of one class it takes that
    class. With several, only its scribbled voxels are annotated, unless ``conflict`` is
    ``"majority"`` and one class has at least a share of ``purity``. A scribbled voxel always keeps
    its own class, so expanding twice is the same as expanding once.

    Parameters
    ----------
    scribble : numpy.ndarray of uint8
        Class of each voxel, 255 where nothing is annotated; background is a class of its own.
    ids : numpy.ndarray of integers, same shape
        Superpixel of each voxel; -1 for none.
    conflict : {"keep", "majority"}
        What becomes of a superpixel scribbled in several classes.
    purity : float
        Share, from 0.5 to 1, that makes a majority. Half against half is none.

    Returns
    -------
    numpy.ndarray of uint8, same shape
        Class of each voxel, 255 where nothing is known.

    Raises
    ------
    VolumeError
        If scribble and superpixels aren't on one grid or have other types.
    SettingsError
        If ``conflict`` or ``purity`` is out of its range.

    Examples
    --------
    >>> import numpy as np
    >>> scribble = np.array([255, 1, 255, 0, 1, 255], np.uint8)
    >>> propagate(scribble, np.array([0, 0, 0, 1, 1, 1]))
    array([  1,   1,   1,   0,   1, 255], dtype=uint8)
    """
    return SuperpixelTable(scribble, ids, conflict=conflict, purity=purity).expand(scribble)


class SuperpixelTable:
    """The class of every superpixel, kept up to date stroke by stroke.

    What a stroke changes is found from the stroke's voxels alone, so that a live preview needs
    milliseconds whatever the size of the volume. Undoing a stroke is updating with ``old`` and
    ``new`` swapped. After any sequence of updates the table equals one made from the scribble anew.

    Parameters
    ----------
    scribble, ids, conflict, purity
        As in `propagate`. ``ids`` isn't copied and must not change.

    Attributes
    ----------
    classes : numpy.ndarray of uint8, shape (superpixels,)
        Class of each superpixel, 255 for none: the color table of a preview. Read only.

    Examples
    --------
    >>> import numpy as np
    >>> ids = np.array([[[0, 0, 1, 1]]])
    >>> table = SuperpixelTable(np.full(ids.shape, 255, np.uint8), ids)
    >>> table.update([2], old=255, new=1)
    Change(superpixels=array([1]), classes=array([1], dtype=uint8))
    >>> table.classes
    array([255,   1], dtype=uint8)
    """

    def __init__(
        self,
        scribble: np.ndarray,
        ids: np.ndarray,
        *,
        conflict: Conflict = "keep",
        purity: float = 0.9,
    ):
        if conflict not in ("keep", "majority"):
            raise SettingsError(
                f'There is no rule "{conflict}" for superpixels scribbled in several classes.',
                'Choose "keep" or "majority".',
            )
        if not 0.5 <= purity <= 1:
            raise SettingsError(
                f"The purity that makes a majority is {purity}.",
                "Give a number from 0.5 to 1.",
            )
        check_grid(scribble, ids)
        self._ids = ids.reshape(-1)
        self._shape = ids.shape
        self._purity = purity if conflict == "majority" else 1.0
        superpixels, classes = _annotated_pairs(scribble, ids)
        self._counts = _count(superpixels, classes, _superpixel_count(ids))
        self.classes = self._winners(self._counts)

    def expand(self, scribble: np.ndarray) -> np.ndarray:
        """Every voxel's class: its own where ``scribble`` has one, otherwise its superpixel's.

        Parameters
        ----------
        scribble : numpy.ndarray of uint8, shape of the ids
            The scribble that the table stands for.
        """
        lookup = np.append(self.classes, np.uint8(NOT_ANNOTATED))  # found by id -1
        return np.where(scribble != NOT_ANNOTATED, scribble, lookup[self._ids].reshape(self._shape))

    def update(
        self,
        where: np.ndarray | tuple[slice, ...],
        old: np.ndarray | int,
        new: np.ndarray | int,
    ) -> Change:
        """Takes in that voxels of the scribble changed.

        Parameters
        ----------
        where : array of integers, shape (N,), or tuple of slices
            Flat (C order) indices of different voxels, or the extent (k, j, i) that contains them.
        old, new : array of uint8 or int
            Classes before and after, 255 for not annotated: as many as indices, or of the shape of
            the extent; one number stands for all.

        Returns
        -------
        Change
            Superpixels whose class is another now.

        Raises
        ------
        VolumeError
            If the table never saw the ``old`` classes there. The table stays as it was.
        """
        if isinstance(where, tuple):
            superpixels = self._ids.reshape(self._shape)[where]
        else:
            superpixels = self._ids[np.asarray(where, np.intp)]
        old, new = (np.broadcast_to(np.asarray(c, np.uint8), superpixels.shape) for c in (old, new))
        changed = (old != new) & (superpixels >= 0)
        superpixels, old, new = superpixels[changed], old[changed], new[changed]
        self._make_room_for(new)

        touched, row = _unique_inverse(superpixels)
        lost, won = old != NOT_ANNOTATED, new != NOT_ANNOTATED
        width = self._counts.shape[1]
        if np.any(old[lost] >= width):
            raise _out_of_step()
        counts = self._counts[touched]
        counts -= _count(row[lost], old[lost], len(touched), width)
        if counts.min(initial=0) < 0:
            raise _out_of_step()
        counts += _count(row[won], new[won], len(touched), width)

        self._counts[touched] = counts
        before, after = self.classes[touched], self._winners(counts)
        self.classes[touched] = after
        other = before != after
        return Change(touched[other].astype(np.int64), after[other])

    def _make_room_for(self, classes: np.ndarray) -> None:
        annotated = classes[classes != NOT_ANNOTATED]
        missing = int(annotated.max(initial=0)) + 1 - self._counts.shape[1]
        if missing > 0:
            self._counts = np.pad(self._counts, ((0, 0), (0, missing)))

    def _winners(self, counts: np.ndarray) -> np.ndarray:
        """The class that each row of counts speaks for, 255 for none."""
        winners = counts.argmax(axis=1)
        most = np.take_along_axis(counts, winners[:, None], axis=1)[:, 0]
        total = counts.sum(axis=1)
        clear = (2 * most > total) & (most / np.maximum(total, 1) >= self._purity)
        return np.where(clear, winners, NOT_ANNOTATED).astype(np.uint8)


def oracle_dice(ids: np.ndarray, dense_label: np.ndarray, n_classes: int) -> np.ndarray:
    """Best Dice that superpixels allow: each takes the class that most of its voxels have.

    Below about 0.95 for a class, superpixel methods can't do well on it: make superpixels smaller.

    Parameters
    ----------
    ids : numpy.ndarray of integers
        Superpixel of each voxel; -1 for none.
    dense_label : numpy.ndarray of uint8, same shape
        True class of each voxel; voxels of 255 count nowhere.
    n_classes : int
        Number of classes, background included.

    Returns
    -------
    numpy.ndarray of float64, shape (n_classes,)
        Dice of each class, NaN for a class that doesn't occur.
    """
    check_grid(dense_label, ids)
    superpixels, classes = _annotated_pairs(dense_label, ids)
    if classes.max(initial=0) >= n_classes:
        raise VolumeError(
            f"The label holds class {classes.max()}, but there are {n_classes} classes.",
            "Check the label schema of the cohort.",
        )
    counts = _count(superpixels, classes, _superpixel_count(ids), n_classes)
    winners = counts.argmax(axis=1)
    most = np.take_along_axis(counts, winners[:, None], axis=1)[:, 0]
    right = np.bincount(winners, most, n_classes)
    labeled = np.bincount(winners, counts.sum(axis=1), n_classes)
    with np.errstate(invalid="ignore"):
        return 2 * right / (labeled + counts.sum(axis=0))


def leave_one_stroke_out_agreement(scribble: np.ndarray, ids: np.ndarray, n_classes: int | None = None) -> np.ndarray:
    """How well the expansion of all other strokes foretells each stroke.

    A stroke is a connected piece (corners included) of one class. Where the expansion of all other
    strokes reaches one of its voxels, it is right or wrong there. Below about 0.9, superpixels leak:
    make them smaller, or don't train on the expansion.

    Parameters
    ----------
    scribble : numpy.ndarray of uint8
        Class of each voxel, 255 where nothing is annotated.
    ids : numpy.ndarray of integers, same shape
        Superpixel of each voxel; -1 for none.
    n_classes : int, optional
        Number of classes; by default as many as the scribble shows.

    Returns
    -------
    numpy.ndarray of float64, shape (n_classes,)
        Share of right voxels among those of the class that are reached; NaN where none is, which
        says nothing about the superpixels.
    """
    check_grid(scribble, ids)
    annotated = (scribble != NOT_ANNOTATED) & (ids >= 0)
    strokes, classes = _strokes(scribble)[annotated], scribble[annotated]
    present = int(classes.max(initial=0)) + 1
    n_classes = max(n_classes or 0, present)
    superpixels, row = _unique_inverse(ids[annotated])
    counts = _count(row, classes, len(superpixels), n_classes)

    # One entry for each superpixel that a stroke touches.
    n_strokes = int(strokes.max(initial=0)) + 1
    pairs, entry = _unique_inverse(row * np.int64(n_strokes) + strokes)
    own = np.bincount(entry, minlength=len(pairs))
    own_class = np.zeros(len(pairs), np.int64)
    own_class[entry] = classes
    others = counts[pairs // n_strokes]
    others[np.arange(len(pairs)), own_class] -= own

    total = others.sum(axis=1)
    foretold = others.argmax(axis=1)
    clear = (total > 0) & (others.max(axis=1, initial=0) == total)
    right = clear & (foretold == own_class)
    reached = np.bincount(own_class[clear], own[clear], n_classes)
    with np.errstate(invalid="ignore"):
        return np.bincount(own_class[right], own[right], n_classes) / reached


def _strokes(scribble: np.ndarray) -> np.ndarray:
    """Number of the stroke of each voxel, from 1; 0 where nothing is annotated."""
    strokes = np.zeros(scribble.shape, np.int64)
    everywhere = np.ones((3,) * scribble.ndim)
    total = 0
    for label in np.flatnonzero(np.bincount(scribble.reshape(-1), minlength=256)[:NOT_ANNOTATED]):
        pieces, found = ndimage.label(scribble == label, structure=everywhere)
        strokes = np.where(pieces > 0, pieces + total, strokes)
        total += found
    return strokes


def check_grid(labels: np.ndarray, ids: np.ndarray) -> None:
    """Refuse labels and superpixels of different shapes or other types."""
    if labels.shape != ids.shape:
        raise VolumeError(
            f"The annotation's shape is {labels.shape}, that of the superpixels {ids.shape}.",
            "Bring the annotation onto the image's grid first.",
        )
    if labels.dtype != np.uint8 or ids.dtype.kind not in "iu":
        raise VolumeError(
            f"The annotation's type is {labels.dtype}, that of the superpixels {ids.dtype}.",
            "Annotations are uint8 (255: not annotated), superpixels whole numbers.",
        )


def _superpixel_count(ids: np.ndarray) -> int:
    return int(ids.max(initial=-1)) + 1


def _annotated_pairs(labels: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Superpixel and class of each annotated voxel."""
    annotated = np.flatnonzero(labels != NOT_ANNOTATED)
    superpixels, classes = ids.reshape(-1)[annotated], labels.reshape(-1)[annotated]
    inside = superpixels >= 0
    if not inside.all():
        superpixels, classes = superpixels[inside], classes[inside]
    return superpixels, classes


def _count(rows: np.ndarray, classes: np.ndarray, n_rows: int, n_classes: int | None = None) -> np.ndarray:
    """Number of occurrences of each (row, class) pair, (n_rows, n_classes) of int32."""
    if n_classes is None:
        n_classes = int(classes.max(initial=0)) + 1
    keys = rows * np.int64(n_classes) + classes
    counts = np.bincount(keys, minlength=n_rows * n_classes)
    return counts.astype(np.int32).reshape(n_rows, n_classes)


def _unique_inverse(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    unique, inverse = np.unique(values, return_inverse=True)
    return unique, inverse.reshape(-1)  # its shape differs between releases of numpy


def _out_of_step() -> VolumeError:
    return VolumeError(
        "A stroke replaces annotations that the superpixel proposals don't know of.",
        "Make the proposals anew from the current scribble.",
    )
