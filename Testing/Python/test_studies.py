"""A study from end to end on made-up scans that lie as the left atrium's do, and what may be claimed of its runs."""

from __future__ import annotations

import json
import math
import os

import numpy as np
import pytest
from matplotlib.figure import Figure

from SemiSupSegLib.cohort import Cohort, Role
from SemiSupSegLib.cohort_creation import create_cohort
from SemiSupSegLib.phantom import make_phantom
from SemiSupSegLib.segmentation_file import write_segmentation
from SemiSupSegLib.training_settings import TrainingSettings
from SemiSupSegLib.volume import Geometry, Volume, write_volume
from Testing.Benchmarks import ablation
from Testing.Benchmarks.__main__ import main as benchmarks
from Testing.Benchmarks.doubt import pointed_slices, ranking
from Testing.Benchmarks.picture import plot
from Testing.Benchmarks.protocols import FOLDS, la_splits, stratified_folds
from Testing.Benchmarks.report import BEGIN, END, markdown, updated
from Testing.Benchmarks.statistics import compare
from Testing.Benchmarks.study import _are_scores_of, main, unlike

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
        assert all(0 <= each["errors"] <= 1 for each in row["test teacher"]["slices"].values())
        assert row["seconds"] > 0
        assert row["versions"]["torch"]
    assert "| `mean_teacher` | 1 |" in markdown([study])
    assert study["labeled"] == 2

    trained = (tmp_path / "work/subset0-seed0-supervised/run/manifest.json").stat().st_mtime_ns
    # The same command again trains nothing, and predicts by a network that is new.
    assert main("la", [*arguments, "--networks", "teacher", "student"]) == 0
    assert all("test student" in row for row in json.loads(out.read_text())["rows"])
    assert (tmp_path / "work/subset0-seed0-supervised/run/manifest.json").stat().st_mtime_ns == trained
    assert "all runs are done" in capsys.readouterr().out


def test_a_method_with_a_setting_of_its_own_is_a_method_beside_it(data, tmp_path, capsys):
    out, variant = tmp_path / "results.json", "supervised+foreground_fraction=1"
    arguments = ["--data", str(data), "--labeled", "2", "--seeds", "1", "--quick", "--device", "cpu", "--out", str(out)]
    arguments += [
        "--networks",
        "teacher",
        "--set",
        "threads=1",
        "--work",
        str(tmp_path / "work"),
        "--transductive",
        "0",
    ]
    assert main("la", [*arguments, "--methods", "supervised", variant, "--iterations", "supervised=2"]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [(row["method"], row["iterations"]) for row in rows] == [("supervised", 2), (variant, 2)]
    assert [row["settings"]["foreground_fraction"] for row in rows] == [0.5, 1]
    for refused, words in (
        ("partial+seed=7", "seed=7"),
        ("partial+method=sgrs", "method=sgrs"),
        ("supervised+far_background=on", "dense labels only"),
    ):
        with pytest.raises(SystemExit):
            main("la", [*arguments, "--methods", refused])
        assert words in capsys.readouterr().err
    for unknown in ("nothing", "supervised+nothing=1"):
        with pytest.raises(SystemExit):
            main("la", [*arguments, "--methods", unknown])
        assert "nothing" in capsys.readouterr().err


def test_a_run_with_other_settings_scans_or_defaults_is_no_part_of_a_study(data, tmp_path, capsys):
    arguments = ["la", "--data", str(data), "--seeds", "1", "--quick", "--device", "cpu", "--networks", "teacher"]
    arguments += ["--set", "threads=1", "--work", str(tmp_path / "work"), "--out", str(tmp_path / "results.json")]
    assert benchmarks([*arguments, "--labeled", "2", "--iterations", "1"]) == 0
    assert benchmarks([*arguments, "--labeled", "2", "--iterations", "2"]) == 1
    assert "other settings, or an older version's defaults: iterations" in capsys.readouterr().err
    assert benchmarks([*arguments, "--labeled", "3", "--iterations", "1"]) == 1
    assert "other labeled scans" in capsys.readouterr().err


def test_an_ablation_trains_each_variant_once_and_takes_no_run_of_other_settings(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(ablation.SWITCHES, "sgrs", {"without mixing": ("sgrs.mixing=false",)})
    cohort = la_splits(data, labeled=2, runs=1)[0].cohort.save(tmp_path / "cohort.json")
    out = tmp_path / "ablation.json"
    arguments = ["ablation", "--method", "sgrs", "--cohort", str(cohort.path), "--seeds", "1", "--device", "cpu"]
    arguments += ["--set", "threads=1", "--work", str(tmp_path / "work"), "--out", str(out), "--iterations"]
    assert benchmarks([*arguments, "1"]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [row["variant"] for row in rows] == ["full", "without mixing", "partial"]
    assert benchmarks([*arguments, "1"]) == 0
    assert json.loads(out.read_text())["rows"] == rows
    assert benchmarks([*arguments, "2"]) == 1
    assert "an older version's defaults: iterations" in capsys.readouterr().err


def test_settings_of_other_methods_and_of_the_machine_make_no_difference():
    stored = TrainingSettings(method="sgrs").to_json()
    wanted = TrainingSettings(method="sgrs", threads=3, device="cpu").with_overrides(["sp3.pseudo_weight=3"])
    assert unlike(wanted, stored) == []
    assert unlike(wanted.with_overrides(["sgrs.margin=0.2"]), stored) == ["sgrs.margin"]
    del stored["sgrs"]["noise"]
    assert unlike(wanted, stored) == ["sgrs.noise"]


def test_scores_of_a_former_model_are_not_those_of_the_next(tmp_path):
    stored, model = tmp_path / "test-teacher.json", tmp_path / "model.json"
    stored.write_text('{"cases": {"a": {}}}', encoding="utf-8")
    model.touch()
    os.utime(model, ns=(0, 1))
    assert _are_scores_of(stored, model, ["a"])
    assert not _are_scores_of(stored, model, ["a", "b"])
    os.utime(model, ns=(0, stored.stat().st_mtime_ns + 1))
    assert not _are_scores_of(stored, model, ["a"])


def test_a_round_of_correction_labels_the_scans_in_doubt_and_as_many_at_random(data, tmp_path, capsys):
    out = tmp_path / "correction.json"
    arguments = ["correction", "--data", str(data), "--labeled", "2", "--method", "sgrs", "--seeds", "1", "--add", "1"]
    arguments += ["--quick", "--iterations", "3", "--more", "2", "--device", "cpu"]
    arguments += ["--set", "threads=1", "--work", str(tmp_path / "work"), "--out", str(out)]
    assert benchmarks(arguments) == 0
    body = json.loads(out.read_text())
    (row,) = body["rows"]
    doubt = json.loads((tmp_path / "work/subset0-seed0-sgrs/pool-teacher/predictions.json").read_text())["uncertainty"]
    assert set(doubt) == {"LA_003", "LA_004"}
    assert list(row["uncertain"]["cases"]) == [max(doubt, key=doubt.get)]
    assert len(row["random"]["cases"]) == 1
    for choice in ("none", "uncertain", "random"):
        again = Cohort.load(tmp_path / f"work/subset0-seed0-1-{choice}-sgrs/cohort.json")
        trained = {case.id for case in again.cases_of(Role.TRAIN) if case.labeled}
        assert trained == {"LA_001", "LA_002", *row[choice]["cases"]}
        assert row[choice]["iterations"] == 2
    assert "| 1 that the model doubts most | 1 |" in capsys.readouterr().out
    assert benchmarks(["report", str(out)]) == 0
    assert "**One round of correction, left atrium, `sgrs`, 2 scans" in capsys.readouterr().out


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


def test_a_ranking_is_judged_against_the_best_and_a_random_one():
    dice = {"a": 0.9, "b": 0.5, "c": 0.7, "d": 0.8}
    scores = {
        "cases": {case: {"organ": {"dice": value}} for case, value in dice.items()},
        "uncertainty": {"a": 0.1, "b": 0.9, "c": 0.2, "d": 0.3},
    }
    found = ranking(scores)
    assert found["spearman"] == pytest.approx(-0.8)
    assert found["uncertainty"] == pytest.approx([0.725, 0.8, 0.8, 0.9])
    assert found["oracle"] == pytest.approx([0.725, 0.8, 0.85, 0.9])
    assert found["random"] == pytest.approx([0.725] * 4)


def test_the_slices_pointed_at_hold_a_share_of_the_errors(tmp_path):
    labels = np.zeros((12, 8, 8), dtype=np.uint8)
    labels[1:11, 2:6, 2:6] = 1
    geometry = Geometry((8, 8, 12))
    write_volume(tmp_path / "images/a.nrrd", Volume(labels.astype(np.float32), geometry))
    write_volume(tmp_path / "labels/a.nrrd", Volume(labels, geometry))
    cohort = create_cohort(tmp_path / "images", labels=tmp_path / "labels", label_values={"organ": 1})
    predicted, doubt = labels.copy(), np.zeros(labels.shape, dtype=np.float32)
    predicted[2, 2:6, 2:6] = 0  # 16 voxels, in a slice that is pointed at
    predicted[7, 2:4, 2:6] = 0  # 8 in one that isn't
    doubt[2] = 0.5
    write_segmentation(tmp_path / "out/a.seg.nrrd", predicted, geometry, cohort.schema)
    write_volume(tmp_path / "out/a_uncertainty.nrrd", Volume(doubt, geometry))
    (found,) = pointed_slices(tmp_path / "out", cohort, ["a"]).values()
    assert found == {"errors": pytest.approx(16 / 24), "chance": pytest.approx(1 / 10)}


def study_of(rows, labeled=4, **changes):
    body = {
        "protocol": "la",
        "form": "quick",
        "settings": [],
        "labeled": labeled,
        "annotation": "dense",
        "date": "2026-01-01",
        "budget": {key: ["--iterations", "9"] for key in ("supervised", "partial")},
    }
    cases = {f"case {number}": {"organ": {"dice": 0.5 + number / 10, "hd95": 2.0}} for number in range(3)}
    scores = {"cases": cases, "uncertainty": dict.fromkeys(cases, 0.1) | {"case 0": 0.2}}
    common = {"seconds": 60, "iterations": 9, "device": "cpu", "clean test": ["case 1"]}
    rows = [{**common, **row, "test teacher": scores | row["test teacher"]} for row in rows]
    return {**body, "rows": rows, **changes}


def test_a_report_says_what_was_gained_of_what_all_labels_add():
    rows = [row_of("supervised", "a", 0.80), row_of("supervised", "b", 0.82)]
    few = study_of(
        [
            *rows,
            row_of("sgrs", "a", 0.83),
            row_of("sgrs", "b", 0.84),
            row_of("sp3", "a", 0.81),
            row_of("sp3", "b", 0.80),
        ]
    )
    many = study_of([row_of("supervised", "a", 0.90)], labeled=80)
    tables = updated(f"before {BEGIN} old {END} after", markdown([few, many]))
    assert tables.startswith("before ")
    assert tables.endswith(" after")
    assert " old " not in tables
    (sgrs,) = (line for line in tables.splitlines() if line.startswith("| `sgrs`"))
    assert "**+0.025 [" in sgrs
    assert "2 of 2" in sgrs
    assert "| 28% |" in sgrs
    (sp3,) = (line for line in tables.splitlines() if line.startswith("| `sp3`"))
    assert "**" not in sp3
    assert "`supervised`, 80 dense labels" in tables
    assert tables.count("Left atrium, ") == 1


def test_studies_are_drawn(tmp_path, monkeypatch):
    rows = [row_of(method, split, 0.8) for method in ("supervised", "sgrs") for split in "ab"]
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **options: drawn.append(figure.axes))
    few, many = study_of(rows), study_of(rows[:1], labeled=80)
    plot([few, study_of(rows, annotation="scribbles"), many], tmp_path / "plot.png")
    plot([few, study_of(rows, labeled=8), many], tmp_path / "plot.png")
    first, second = drawn
    assert len(first) == 4
    assert [text.get_text() for text in first[0].texts] == ["80 labels"]
    assert len(second) == 6
    numbers = second[2]
    assert [text.get_text() for text in numbers.get_legend().get_texts()] == ["supervised", "sgrs"]
    assert list(numbers.get_xticks()) == [4, 8, 80]
