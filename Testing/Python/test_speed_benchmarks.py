"""The command that measures speed: figures are right, results are compared first, one failure costs one row."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from Testing.Benchmarks.speed import command, measure, report
from Testing.Benchmarks.speed.measure import alternate, peak_memory, side_by_side
from Testing.Benchmarks.speed.rows import MissingPeer, Options, Row, attempt, require

ROOT = Path(__file__).parents[2]

FAKE_AREA = """
from Testing.Benchmarks.speed.rows import MissingPeer, Row, attempt

def fails():
    raise ValueError("no such file")

def lacks():
    raise MissingPeer("faiss isn't installed")

def rows(options):
    yield Row("sum", "numpy", ours=1.0, theirs=4.0, aim=3.0, equal=True, note=f"{options.pick(9, 5, 1)} voxels")
    yield attempt("product", "numpy", fails)
    yield attempt("search", "faiss", lacks)
"""
DYING_AREA = """
import os
from Testing.Benchmarks.speed.rows import Row

def rows(options):
    yield Row("first", "numpy", ours=2.0, theirs=2.0, equal=True)
    os._exit(9)
"""


@pytest.fixture
def fake_areas(tmp_path, monkeypatch):
    folder = tmp_path / "fake_areas"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "fake.py").write_text(FAKE_AREA)
    (folder / "dying.py").write_text(DYING_AREA)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(command, "PACKAGE", "fake_areas")
    monkeypatch.setattr(command, "AREAS", {"fake": "arithmetic", "dying": "an accident"})


def test_ratio_above_one_means_that_ours_costs_less():
    assert Row("work", "peer", ours=2.0, theirs=6.0).ratio == 3.0
    assert Row("work", "peer").ratio is None
    assert Row("work", "peer", ours=2.0, theirs=6.0, aim=3.0).reaches_aim
    assert not Row("work", "peer", ours=2.0, theirs=6.0, aim=3.0, equal=False).reaches_aim


def test_results_are_compared_before_any_timing():
    calls = []

    def check(ours, theirs):
        calls.append("check")
        return ours == theirs, "one digit apart"

    row = side_by_side(
        "work", "peer", lambda: calls.append("ours") or 1, lambda: calls.append("theirs") or 2, check=check
    )
    assert calls[:3] == ["ours", "theirs", "check"]
    assert calls[3:].count("ours") == calls[3:].count("theirs") == 5
    assert row.equal is False
    assert row.is_wrong
    assert row.note == "one digit apart"


def test_median_is_of_the_call_alone(monkeypatch):
    clock = [0.0]
    ours, theirs = iter([9.0, 0.01, 0.5, 0.01]), iter([9.0, 0.03, 0.03, 0.7])  # the first is that of the check

    def takes(seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock[0])
    row = side_by_side(
        "work",
        "peer",
        lambda: takes(next(ours)),
        lambda: takes(next(theirs)),
        check=lambda ours, theirs: True,
        unit="ms",
        repetitions=3,
        before=lambda: takes(0.05),
    )
    assert (row.ours, row.theirs) == (pytest.approx(10), pytest.approx(30))


def test_calls_take_turns_and_alternate_their_order():
    order = []
    alternate([lambda: order.append("a"), lambda: order.append("b")], repetitions=3)
    assert order == ["a", "b", "b", "a", "a", "b"]


def make_arrays(megabytes):
    return lambda: np.ones(megabytes * 2**20, np.uint8).sum()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how large a process was")
def test_peak_memory_is_what_the_work_adds():
    assert 64e6 <= peak_memory(make_arrays, 64) < 80e6


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how large a process was")
def test_failure_in_the_measured_process_is_told():
    with pytest.raises(RuntimeError, match="TypeError"):
        peak_memory(make_arrays, None)


def test_missing_peer_says_how_to_get_it():
    with pytest.raises(MissingPeer, match="pip install it"):
        require("no_such_peer", "pip install it")
    row = attempt("work", "peer", lambda: require("no_such_peer", "pip install it"))
    assert not row.is_wrong
    assert "no_such_peer isn't installed" in row.note


def test_rows_are_printed_and_stored(fake_areas, tmp_path, capsys):
    out = tmp_path / "speed.json"
    assert command.main(["--tiny", "--only", "fake", "--json", str(out)]) == 1
    stored = json.loads(out.read_text())
    assert {"device", "versions", "processor", "cores", "threads", "date", "seed"} <= set(stored)
    total, product, search = stored["rows"]
    assert (total["ours"], total["theirs"], total["ratio"], total["aim"], total["equal"]) == (1, 4, 4, 3, True)
    assert total["note"] == "1 voxels"
    assert product["error"] == "ValueError: no such file"
    assert (search["error"], search["note"]) == ("", "faiss isn't installed")
    printed = capsys.readouterr().out
    assert "FAILED: ValueError: no such file" in printed
    assert "1 of 1 rows with an aim reach it; 1 failed; 1 were not measured." in printed


def test_dying_process_costs_its_own_rows_only(fake_areas, tmp_path):
    out = tmp_path / "speed.json"
    assert command.main(["--tiny", "--json", str(out), "--only", "dying", "fake"]) == 1
    rows = json.loads(out.read_text())["rows"]
    assert [row["name"] for row in rows] == ["first", "an accident", "sum", "product", "search"]
    assert "exit code 9" in rows[1]["error"]


def test_rows_of_other_areas_stay(fake_areas, tmp_path):
    out = tmp_path / "speed.json"
    command.main(["--tiny", "--json", str(out)])
    command.main(["--tiny", "--json", str(out), "--only", "fake"])
    assert [row["area"] for row in json.loads(out.read_text())["rows"]] == ["dying"] * 2 + ["fake"] * 3
    with pytest.raises(SystemExit, match="other options"):
        command.main(["--quick", "--json", str(out), "--only", "fake"])


def test_only_rows_that_are_asked_for_are_measured_and_others_stay(fake_areas, tmp_path):
    out = tmp_path / "speed.json"
    command.main(["--tiny", "--json", str(out), "--only", "fake"])
    before = json.loads(out.read_text())["rows"]
    command.main(["--tiny", "--json", str(out), "--only", "fake", "--rows", "sum / numpy"])
    after = json.loads(out.read_text())["rows"]
    assert [row["name"] for row in after] == ["search", "sum", "product"]  # what failed is always told
    assert after[0] == before[2]


def test_sizes_follow_the_options():
    assert [Options(**each).pick(3, 2, 1) for each in ({}, {"quick": True}, {"tiny": True})] == [3, 2, 1]


REPORT = {
    "device": "abacus", "threads": 1, "cores": 2, "date": "2026-01-02", "versions": {"torch": "2.0"}, "size": "full",
    "rows": [
        {"area": "steps", **Row("sum", "numpy", ours=0.0123, theirs=0.5, aim=3.0, equal=True).to_json()},
        {"area": "steps", **Row("product", "numpy", error="no such file").to_json()},
        {"area": "steps", **Row("search", "faiss", ours=60.0, theirs=90.0, unit="ms", limit=50.0).to_json()},
        {"area": "scaling", **Row("sum / numbers", "linear growth", ours=2.0, theirs=4.0, unit="x",
            values={"work": "sum", "against": "numbers", "sizes": [1, 4], "seconds": [1, 2]}).to_json()},
    ],
}  # fmt: skip


def test_report_becomes_a_table_between_the_marks_and_nothing_else_changes():
    text = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
    once = report.updated(text, REPORT)
    assert "| sum | numpy | 0.0123 s | 0.5 s | **40.7** | 3 | yes |" in once
    assert "| product | numpy | – | – | – |  | failed |" in once
    assert "| search | faiss | 60 ms | 90 ms | 1.5 | under 50 ms | – |" in once
    assert "sum / numbers" not in once
    assert "old" not in once
    assert once.startswith("before\n")
    assert once.endswith("\nafter\n")
    assert report.updated(once, REPORT) == once


def test_figures_of_a_newer_report_take_the_place_of_older_ones():
    product = Row("product", "numpy", ours=1.0, theirs=3.0).to_json()
    failed = Row("sum", "numpy", error="no such file").to_json()
    row = Row("root", "numpy", ours=1.0, theirs=5.0).to_json()
    rows = [
        {"area": "steps", "size": size, **each} for size, each in (("full", product), ("full", failed), ("quick", row))
    ]
    merged = report.merged(REPORT, {**REPORT, "date": "2026-01-03", "rows": rows})
    assert [each["name"] for each in merged["rows"]] == ["sum", "product", "search", "root", "sum / numbers"]
    assert merged["rows"][0] == REPORT["rows"][0]
    assert merged["rows"][1] == rows[0]
    assert "| root (quick) | numpy | 1 s | 5 s | 5 |" in report.section(merged)
    assert "| product | numpy | 1 s | 3 s | 3 |" in report.section(merged)
    assert merged["date"] == "2026-01-03"
    with pytest.raises(SystemExit, match="another device"):
        report.merged(REPORT, {**REPORT, "device": "slide rule"})


def test_readme_shows_what_was_stored():
    stored = json.loads((ROOT / "Testing" / "Benchmarks" / "results" / "speed-cpu.json").read_text(encoding="utf-8"))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert report.updated(readme, stored) == readme


def test_report_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    report.plot(REPORT, tmp_path / "speed.png")
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("area", command.AREAS)
def test_every_area_measures_something_and_nothing_differs(area, tmp_path):
    out = tmp_path / "speed.json"
    command.main(["--tiny", "--json", str(out), "--only", area])
    rows = json.loads(out.read_text())["rows"]
    assert rows
    for row in rows:
        assert not row["error"], row
        # Which supervoxels cut a scan of a few thousand voxels better is chance.
        assert area == "supervoxels" or row["equal"] is not False, row
