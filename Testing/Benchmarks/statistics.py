"""What may be claimed of paired runs: differences, their interval, Holm's correction over methods.

The unit is the run (same labeled scans, same seed), never the case: cases of one run share its luck.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

BASELINES = ("supervised", "partial")


def compare(rows: Sequence[dict[str, Any]], measure: str = "test teacher", level: float = 0.95) -> list[dict[str, Any]]:
    """Each method against each baseline that was run, over the splits that both have.

    Returns
    -------
    list of dict
        ``method, baseline, runs, better, difference, low, high, p, p_holm``; the interval is Student's t over runs.
    """
    dice = {(row["method"], row["split"]): row[measure]["mean_dice"] for row in rows}
    methods = list(dict.fromkeys(row["method"] for row in rows))
    found = []
    for baseline in (each for each in BASELINES if each in methods):
        for method in methods:
            if method in BASELINES and BASELINES.index(method) <= BASELINES.index(baseline):
                continue
            splits = [split for name, split in dice if name == method and (baseline, split) in dice]
            differences = np.array([dice[method, split] - dice[baseline, split] for split in splits])
            if len(differences) < 2:
                continue
            low, high = interval(differences, level)
            mean = float(differences.mean())
            p_value = float(stats.ttest_1samp(differences, 0).pvalue) if differences.std() > 0 else float(mean == 0)
            found.append({
                "method": method, "baseline": baseline, "runs": len(differences),
                "better": int((differences > 0).sum()), "difference": mean,
                "low": low, "high": high, "p": p_value,
            })  # fmt: skip
    for each, corrected in zip(found, holm([each["p"] for each in found]), strict=True):
        each["p_holm"] = corrected
    return found


def interval(differences: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Student's t interval of the mean of paired differences; nan of fewer than two."""
    mean, count = float(np.mean(differences)), len(differences)
    half = float(stats.t.ppf((1 + level) / 2, count - 1) * stats.sem(differences)) if count > 1 else float("nan")
    return mean - half, mean + half


def holm(p_values: Sequence[float]) -> list[float]:
    """P values corrected for their number by Holm's step-down procedure.

    Examples
    --------
    >>> holm([0.01, 0.04])
    [0.02, 0.04]
    """
    order = np.argsort(p_values)
    corrected = np.empty(len(p_values))
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected.tolist()
