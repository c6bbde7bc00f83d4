"""The table of scores: how well the results agree with the labels that there are."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ..files import write_text_atomically
from .translation import tr as _

SCORES = ("dice", "hd95")
HEADER = ("case", "class", "dice", "hd95_mm")


def score_rows(scores: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Case, class, Dice and HD95 as texts, the means over cases last.

    Parameters
    ----------
    scores : mapping
        What ``evaluate --json`` says; a score that isn't defined becomes an empty text.
    """
    rows = []
    for case, classes in scores["cases"].items():
        for name, numbers in classes.items():
            rows.append((case, name, *(_number(numbers.get(key)) for key in SCORES)))
    for name, summaries in scores["classes"].items():
        rows.append((_("all cases"), name, *(_number(summaries.get(key, {}).get("mean")) for key in SCORES)))
    return rows


def write_scores(path: str | os.PathLike, rows: Sequence[Sequence[str]]) -> None:
    """Write the rows as a CSV file, whole or not at all.

    Raises
    ------
    SemiSupSegError
        ``not-writable``, ``disk-full``, ``missing-file``.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([HEADER, *rows])
    write_text_atomically(path, text.getvalue())


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
