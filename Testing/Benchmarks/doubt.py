"""What a model's uncertainty is worth: does it rank the cases, and does it point at the slices that are wrong?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from SemiSupSegLib.cohort import Cohort
from SemiSupSegLib.segmentation_file import read_annotation
from SemiSupSegLib.slice_ranking import uncertain_slices
from SemiSupSegLib.volume import read_volume

POINTED = 5
"""Slices of a case that are pointed at."""


def pointed_slices(folder: Path, cohort: Cohort, cases: Sequence[str]) -> dict[str, dict[str, float]]:
    """How many of each case's errors lie in the slices that its uncertainty points at.

    Parameters
    ----------
    folder : pathlib.Path
        Predictions with uncertainty, on the grids of their images.
    cohort : Cohort
        With the cases' dense labels.
    cases : sequence of str
        Which.

    Returns
    -------
    dict
        {case: {``errors``: share of the wrong voxels that lie in the slices pointed at, ``chance``: what slices drawn
        among those that show a structure, predicted or true, would hold on average}}, without cases that have no error.
    """
    found = {}
    for name in cases:
        truth = cohort.read_label(cohort.case(name))
        predicted, _ = read_annotation(folder / f"{name}.seg.nrrd", None, cohort.schema)
        doubt = read_volume(folder / f"{name}_uncertainty.nrrd").array
        errors = (predicted != truth).sum(axis=(1, 2))
        shown = ((predicted > 0) | (truth > 0)).any(axis=(1, 2)).sum()
        if not errors.any():
            continue
        pointed = [k for k, _ in uncertain_slices(doubt.sum(axis=(1, 2), dtype=np.float64), POINTED)]
        found[name] = {
            "errors": float(errors[pointed].sum() / errors.sum()),
            "chance": float(min(1.0, len(pointed) / shown)),
        }
    return found


def ranking(scores: Mapping[str, Any]) -> dict[str, Any]:
    """How well a run's uncertainty ranks its cases.

    Parameters
    ----------
    scores : mapping
        ``cases`` {case: {class: {``dice``}}} and ``uncertainty`` {case: score}, as a study stores them.

    Returns
    -------
    dict
        ``spearman`` of uncertainty and mean Dice (-1 is perfect), and three curves of mean Dice over what is left when
        the first 0, 1, 2 … cases are handed to a person: ``uncertainty`` (most uncertain first), ``oracle`` (worst
        first), ``random`` (its expectation, always the mean).
    """
    cases = [case for case in scores["cases"] if case in scores["uncertainty"]]
    dice = np.array([case_dice(scores["cases"][case]) for case in cases])
    doubt = np.array([scores["uncertainty"][case] for case in cases])
    return {
        "spearman": float(stats.spearmanr(doubt, dice).statistic),
        "uncertainty": _left(dice[np.argsort(-doubt, kind="stable")]),
        "oracle": _left(np.sort(dice)),
        "random": [float(dice.mean())] * len(dice),
    }


def case_dice(case: Mapping[str, Mapping[str, float | None]]) -> float:
    """Mean Dice of a case's classes."""
    return float(np.mean([each["dice"] for each in case.values()]))


def _left(dice: NDArray) -> list[float]:
    """Mean of all but the first 0, 1, 2 … values."""
    return [float(dice[first:].mean()) for first in range(len(dice))]
