"""Which classes are one piece, so that everything else that is predicted of them is a mistake.

A network that learned from strokes has seen little of the background, and finds structures where nobody painted.
Without the stray pieces, Dice with ACDC's expert scribbles rose from 0.56 to 0.85 (`partial` in 2D, 1,200 iterations).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray
from torch import Tensor

from ..labels import IGNORE, LabelSchema
from .cases import TrainingCase
from .postprocessing import largest_component
from .whereabouts import Whereabouts

_FEWEST_STROKES = 4
_SHARE_OF_STROKES = 0.95
_SHARE_OF_LABEL = 0.95
"""Of a class's voxels in its largest piece, in every label. Experts' labels have specks: of 40 in ACDC, 32, 38 and 39
show the three classes as one component, and in the others it has 97 % or more; of 80 of the left atrium, 74, and
99.8 %. Where more than half of the labels show several, as with a tumor and its satellites, they aren't specks."""
MOST_CASES = 4
"""Cases that are predicted to ask their strokes."""


def one_piece_classes(wish: str, schema: LabelSchema, references: Sequence[TrainingCase]) -> tuple[int, ...]:
    """Classes of which the largest component only is kept, in ascending order, as far as settings and labels say.

    Parameters
    ----------
    wish : str
        ``auto`` (the classes that are one piece in half of the dense labels or more, and in the others but for
        specks), ``on``, ``off``, or classes by name.
    references : sequence of TrainingCase
        Training cases with dense labels. What a validation case shows must not decide how a model is made.
    """
    classes = tuple(range(1, schema.n_classes))
    if wish in ("on", "off"):
        return classes if wish == "on" else ()
    if wish != "auto":
        return tuple(sorted({schema.index_of(name.strip()) for name in wish.split(",")} - {0}))
    labels = [case.annotation.cpu().numpy() for case in references]
    return tuple(label for label in classes if _show_one_piece(labels, label))


def _show_one_piece(labels: Iterable[NDArray], label: int) -> bool:
    """Whether those of the labels that show a class show it as one piece, specks aside."""
    shares = [_share_of_largest(each, label) for each in labels if (each == label).any()]
    return bool(shares) and min(shares) >= _SHARE_OF_LABEL and 2 * shares.count(1.0) >= len(shares)


def _share_of_largest(labels: NDArray, label: int) -> float:
    """Share of a class that lies in its largest component; voxels at which resampling found a tie connect."""
    own = labels == label
    sizes = np.bincount(scipy.ndimage.label(own | (labels == IGNORE))[0][own])
    return float(sizes.max() / sizes.sum())


def classes_that_strokes_show_as_one_piece(
    cases: Iterable[TrainingCase],
    predict: Callable[[Tensor], Tensor],
    n_classes: int,
    whereabouts: Whereabouts = Whereabouts({}),  # noqa: B008 (frozen)
) -> tuple[int, ...]:
    """Classes whose strokes lie together in one component of what is predicted of them.

    Whoever has several lesions to show paints several; whoever paints one organ on many slices paints what a fair
    prediction joins. So a class is one piece if it has at least four strokes, 95 % of their voxels lie in one component
    of the class in each case's prediction, that is the one that will be kept in half of the cases or more (the largest,
    or the one in the class's usual place), and at most 5 % of the other strokes are predicted as the class. A poor
    prediction says nothing: then no class is.

    Parameters
    ----------
    cases : iterable of TrainingCase
        With strokes; at most four of them are predicted.
    predict : callable
        Image ``(k, j, i)`` on the plan's grid to class indices of that shape.
    n_classes : int
        Background included.
    whereabouts : Whereabouts
        Where the classes lie.
    """
    strokes, painted, together, others, wrong, shown_in, kept_in = np.zeros((7, n_classes), dtype=np.int64)
    for case in _spread([case for case in cases if case.annotation is not None]):
        annotation, predicted = case.annotation.cpu().numpy(), predict(case.image).cpu().numpy()
        for label in range(1, n_classes):
            own, other = annotation == label, (annotation != label) & (annotation != IGNORE)
            pieces = scipy.ndimage.label(predicted == label)[0]
            strokes[label] += scipy.ndimage.label(own, structure=np.ones((3,) * own.ndim))[1]
            painted[label] += own.sum()
            of_strokes = np.bincount(pieces[own], minlength=2)[1:]
            together[label] += of_strokes.max()
            shown_in[label] += own.any()
            kept = largest_component(pieces, whereabouts.weights(label, case.geometry))
            kept_in[label] += of_strokes.any() and kept[pieces == of_strokes.argmax() + 1].any()
            others[label] += other.sum()
            wrong[label] += (other & (pieces > 0)).sum()
    shown = (strokes >= _FEWEST_STROKES) & (together >= _SHARE_OF_STROKES * painted)
    shown &= wrong <= (1 - _SHARE_OF_STROKES) * others
    shown &= 2 * kept_in >= shown_in
    return tuple(int(label) for label in np.flatnonzero(shown))


def _spread(cases: list[TrainingCase]) -> list[TrainingCase]:
    """The cases, or as many of them as are predicted, from the whole list."""
    if len(cases) <= MOST_CASES:
        return cases
    return [cases[index] for index in np.linspace(0, len(cases) - 1, MOST_CASES).round().astype(int)]
