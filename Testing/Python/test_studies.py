"""A study from end to end on made-up scans that lie as the left atrium's do, and what may be claimed of its runs."""

from __future__ import annotations

import json
import math

import pytest

from SemiSupSegLib.phantom import make_phantom
from SemiSupSegLib.volume import Volume, write_volume
from Testing.Benchmarks.__main__ import main as benchmarks
from Testing.Benchmarks.protocols import FOLDS, stratified_folds
from Testing.Benchmarks.report import markdown
from Testing.Benchmarks.statistics import compare
from Testing.Benchmarks.study import main

N_TRAIN, N_TEST = 4, 2


@pytest.fixture
def data(tmp_path):
    rows = ["name,split,suspected_patient_group"]
    for number in range(N_TRAIN + N_TEST):
        split = "train" if number < N_TRAIN else "test"
        name = f"LA_{number + 1:03}"
        # The second test scan shows the first training scan's patient.
        rows.append(f"{name},{split},{'G01' if number in (0, N_TRAIN + 1) else ''}")
        phantom = make_phantom((16, 24, 24), seed=number)
        folder = tmp_path / "data/LA" / split
        write_volume(folder / f"images/{name}.nrrd", phantom.image)
        atrium = Volume((phantom.labels == 1).astype("uint8"), phantom.image.geometry)
        write_volume(folder / f"labels/{name}_label.nrrd", atrium)
    (tmp_path / "data/LA/manifest.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return tmp_path / "data"


def test_a_study_trains_scores_stores_and_never_does_a_run_twice(data, tmp_path, capsys):
    out = tmp_path / "results.json"
    arguments = ["--data", str(data), "--labeled", "2", "--methods", "supervised", "mean_teacher", "--seeds", "1"]
    arguments += ["--quick", "--iterations", "3", "mean_teacher=2", "--device", "cpu", "--networks", "teacher"]
    arguments += ["--set", "threads=1", "--work", str(tmp_path / "work"), "--out", str(out)]
    assert main("la", arguments) == 0
    study = json.loads(out.read_text())
    assert [(row["method"], row["iterations"]) for row in study["rows"]] == [("supervised", 3), ("mean_teacher", 2)]
    for row in study["rows"]:
        assert set(row["test teacher"]["cases"]) == {"LA_005", "LA_006"}
        assert row["clean test"] == ["LA_005"]
        assert set(row["unlabeled teacher"]["cases"]) == {"LA_003", "LA_004"}
        assert set(row["test teacher"]["uncertainty"]) == {"LA_005", "LA_006"}
        assert row["seconds"] > 0
        assert row["versions"]["torch"]
    assert "| mean_teacher | 1 |" in markdown([study])

    trained = (tmp_path / "work/subset0-seed0-supervised/run/manifest.json").stat().st_mtime_ns
    assert main("la", arguments) == 0
    assert (tmp_path / "work/subset0-seed0-supervised/run/manifest.json").stat().st_mtime_ns == trained
    assert "all runs are done" in capsys.readouterr().out


def test_folds_are_equally_large_and_mix_the_groups():
    groups = {f"patient{number:03}": "ABCDE"[number // 4] for number in range(20)}
    folds = stratified_folds(groups)
    for fold in range(FOLDS):
        tested = [patient for patient in groups if folds[patient] == fold]
        assert len(tested) == len({groups[patient] for patient in tested}) == 4


def row_of(method, split, dice):
    return {"method": method, "split": split, "test teacher": {"mean_dice": dice}}


def test_methods_are_compared_by_paired_runs():
    rows = [row_of("supervised", str(run), 0.80 + 0.02 * run) for run in range(5)]
    rows += [row_of("sgrs", str(run), 0.81 + 0.02 * run + 0.001 * (run % 2)) for run in range(5)]
    (found,) = compare(rows)
    assert (found["method"], found["baseline"], found["runs"], found["better"]) == ("sgrs", "supervised", 5, 5)
    assert found["difference"] == pytest.approx(0.0104)
    assert 0 < found["low"] < found["difference"] < found["high"]


def test_runs_without_a_partner_are_not_compared():
    rows = [row_of("supervised", "0", 0.8), row_of("supervised", "1", 0.7), row_of("sgrs", "0", 0.9)]
    assert compare(rows) == []


def test_equal_runs_are_no_difference():
    rows = [row_of(method, str(run), 0.8) for method in ("supervised", "sgrs") for run in range(3)]
    (found,) = compare(rows)
    assert found["difference"] == 0
    assert found["p"] == 1
    assert not math.isnan(found["p_holm"])


def test_what_is_missing_is_told_in_a_sentence(tmp_path, capsys):
    assert benchmarks(["la", "--data", str(tmp_path), "--out", str(tmp_path / "out.json")]) == 1
    assert "manifest.csv" in capsys.readouterr().err
    (tmp_path / "other.json").write_text('{"rows": [{"method": "sp3"}]}', encoding="utf-8")
    assert benchmarks(["report", str(tmp_path / "other.json")]) == 1
    assert "not stored by a study" in capsys.readouterr().err
