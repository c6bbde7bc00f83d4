"""The table of scores, as rows and as a file."""

from __future__ import annotations

import csv

import pytest

from SemiSupSegLib.errors import ErrorCode, SemiSupSegError
from SemiSupSegLib.slicer_bridge.score_table import HEADER, score_rows, write_scores

pytest_plugins = ["slicer_fixture"]

SCORES = {
    "cases": {"a": {"liver, left": {"dice": 0.9126, "hd95": 2.0}, "tumor": {"dice": None}}},
    "classes": {"liver, left": {"dice": {"mean": 0.9126}, "hd95": {"mean": 2.0}}, "tumor": {}},
}


def test_means_come_last_and_what_is_not_defined_is_empty():
    rows = score_rows(SCORES)
    assert rows[:2] == [("a", "liver, left", "0.913", "2.000"), ("a", "tumor", "", "")]
    assert [row[1:] for row in rows[2:]] == [("liver, left", "0.913", "2.000"), ("tumor", "", "")]


def test_a_written_table_reads_back_with_commas_and_other_letters(tmp_path):
    path = tmp_path / "Übersicht.csv"
    write_scores(path, score_rows(SCORES))
    with path.open(encoding="utf-8", newline="") as file:
        assert [tuple(row) for row in csv.reader(file)] == [HEADER, *score_rows(SCORES)]


def test_a_table_that_cannot_be_written_is_an_error_with_a_remedy(tmp_path):
    with pytest.raises(SemiSupSegError) as caught:
        write_scores(tmp_path / "absent" / "scores.csv", [])
    assert caught.value.code == ErrorCode.MISSING_FILE
    assert caught.value.remedy
