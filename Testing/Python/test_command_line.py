"""The command line as people type it: real processes, real files, and the sentences that come back."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from SemiSupSegLib.commands import train
from SemiSupSegLib.runs import RunFolder, RunRequest
from SemiSupSegLib.training_settings import TrainingSettings
from SemiSupSegLib.volume import Geometry, Volume, write_volume

SMALL = ["--set", "plan.patch=16,16,8", "plan.features=4,8", "--device", "cpu"]
CASES = ("a1", "b 2", "ü3", "d4")


@pytest.fixture(scope="session")
def command(run_python, repository):
    """Runs the command line from the sources, in a folder of its own."""

    def run(*arguments: object, **options) -> subprocess.CompletedProcess:
        return run_python("-m", "SemiSupSegLib", *arguments, path=repository, **options)

    return run


@pytest.fixture(scope="session")
def scans(tmp_path_factory) -> Path:
    """Four scans of a bright ball, all labeled, two of them scribbled; the folder's name has a space and an umlaut."""
    folder = tmp_path_factory.mktemp("tücked away")
    geometry = Geometry(size=(24, 24, 12), spacing=(1.0, 1.0, 2.0))
    k, j, i = np.indices((12, 24, 24))
    for number, case in enumerate(CASES):
        ball = (2.0 * (k - 6)) ** 2 + (j - 12) ** 2 + (i - 11 - number) ** 2 < 36
        noise = np.random.default_rng(number).normal(0, 10, ball.shape)
        scribble = np.zeros(ball.shape, np.uint8)
        scribble[6, 12, 9 + number : 13 + number] = 2
        scribble[::5, 2, 2:22] = 1
        write_volume(folder / f"images/{case}.nrrd", Volume((100 * ball + noise).astype(np.int16), geometry))
        write_volume(folder / f"labels/{case}_label.nrrd", Volume(ball.astype(np.uint8), geometry))
        if number < 2:
            write_volume(folder / f"scribbles/{case}_scribble.nrrd", Volume(scribble, geometry))
    return folder


@pytest.fixture(scope="session")
def cohort(command, scans) -> Path:
    result = command(
        "cohort", "create", scans / "cohort.json", "--images", scans / "images", "--labels", scans / "labels",
        "--scribbles", scans / "scribbles", "--scribble-values", "background=1,ball=2", "--labeled", *CASES[:2],
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "4 cases of ball" in result.stdout
    assert "2 with scribbles, 0 with dense labels, 2 without annotation" in result.stdout
    return scans / "cohort.json"


@pytest.fixture(scope="session")
def run_folder(command, cohort, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "first run"
    result = command("train", cohort, "--method", "partial", "--out", run, "--iterations", 6, "--seed", 1, *SMALL)
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"The model is in '{run / 'model'}'.\n"
    return run


def assert_fails(result: subprocess.CompletedProcess, code: int, *words: str) -> None:
    """The command failed with a sentence or two and no traceback."""
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    for word in words:
        assert word in result.stderr


# The road


def test_a_trained_run_records_what_was_asked(run_folder, cohort):
    request = json.loads((run_folder / "run.json").read_text(encoding="utf-8"))
    assert request["cohort"] == str(cohort)
    assert (request["settings"]["method"], request["settings"]["iterations"], request["settings"]["seed"]) == (
        "partial", 6, 1,
    )  # fmt: skip
    assert (run_folder / "model/model.json").is_file()


def test_predictions_are_evaluated(command, run_folder, cohort, tmp_path):
    out, scores = tmp_path / "out", tmp_path / "scores.json"
    result = command(
        "predict", run_folder, cohort, "--out", out, "--cases", *CASES[2:], "--probability", "--uncertainty"
    )
    assert result.returncode == 0, result.stderr
    assert {file.name for file in out.glob("*.nrrd")} == {
        f"{case}{kind}" for case in CASES[2:] for kind in (".seg.nrrd", "_probability_ball.nrrd", "_uncertainty.nrrd")
    }
    result = command("evaluate", out, cohort, "--json", scores)
    assert result.returncode == 0, result.stderr
    body = json.loads(scores.read_text(encoding="utf-8"))
    assert set(body["cases"]) == set(CASES[2:])
    assert f"Mean Dice of 2 cases: {body['mean_dice']:.3f}" in " ".join(result.stdout.split())


def test_loose_images_are_predicted(command, run_folder, scans, tmp_path):
    result = command("predict", run_folder / "model", scans / "images/a1.nrrd", "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "a1.seg.nrrd").is_file()


def test_json_makes_events_for_programs(command, cohort, tmp_path):
    result = command(
        "train", cohort, "--method", "partial", "--out", tmp_path / "run", "--iterations", 3, *SMALL, "--json"
    )
    assert result.returncode == 0, result.stderr
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert events[0]["event"] == "started"
    assert events[-1]["event"] == "finished"
    assert events[-1]["outcome"] == "finished"
    assert all(event["v"] == 1 for event in events)


def test_an_installed_extension_trains_from_any_folder(run_python, installed_extension, cohort, tmp_path):
    library = installed_extension / "SemiSupSegLib"
    result = run_python(
        library, "train", cohort, "--method", "partial", "--out", "run", "--iterations", 2, *SMALL, cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "run/model/model.json").is_file()
    assert run_python(library, "--version", cwd=library).returncode == 0


def test_the_path_of_an_installed_library_hides_no_package(run_python, installed_extension):
    code = (
        "import runpy, sys; sys.argv = ['x', '--version'];"
        f"\ntry: runpy.run_path({str(installed_extension / 'SemiSupSegLib')!r}, run_name='__main__')"
        f"\nexcept SystemExit: assert {str(installed_extension / 'SemiSupSegLib')!r} not in sys.path, sys.path"
    )
    result = run_python("-c", code)
    assert result.returncode == 0, result.stderr


# Stopping and going on


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends Ctrl+C to whole consoles only")
def test_ctrl_c_keeps_what_was_trained_and_resume_goes_on(command, repository, cohort, tmp_path):
    run = tmp_path / "run"
    settings = ["--method", "partial", "--iterations", "80", *SMALL]
    process = subprocess.Popen(
        [sys.executable, "-m", "SemiSupSegLib", "train", str(cohort), "--out", str(run), *settings, "--json"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(repository)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    for line in process.stdout:
        if json.loads(line)["event"] == "metric":
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 3, errors
    assert errors == "Cancelled. What was trained is kept; go on with --resume.\n"
    reached = json.loads((run / "manifest.json").read_text(encoding="utf-8"))["iteration"]
    assert 0 < reached < 80

    result = command("train", cohort, "--out", run, "--method", "sp3", "--resume")
    assert_fails(result, 2, "A resumed run keeps its settings")

    result = command("train", "--out", run, "--resume", "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    events = [json.loads(line) for line in result.stdout.splitlines()]
    iterations = [event["iteration"] for event in events if event["event"] == "metric"]
    assert min(iterations) > reached
    assert events[-1]["iteration"] == 80


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("--minutes", 2), "keeps its length"),
        (("--set", "minutes=2"), "keeps its length"),
        (("--iterations", 7), "keeps its length"),
        (("--seed", 2), "keeps its settings"),
    ],
)
def test_a_resumed_run_stays_as_long_as_it_was(command, run_folder, change, words):
    result = command("train", "--out", run_folder, "--resume", *change)
    assert_fails(result, 2, words, f"--set warm_start={run_folder}")


def test_a_run_may_be_resumed_with_the_length_that_it_has(command, run_folder):
    result = command("train", "--out", run_folder, "--resume", "--iterations", 6)
    assert result.returncode == 0, result.stderr


# What goes wrong, and what is said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "COMMAND"),
        (("dance",), "invalid choice: 'dance'"),
        (("cohort",), "COMMAND"),
        (("train", "cohort.json", "--method", "sp3"), "No folder for the run is given"),
        (("train", "cohort.json", "--out", "run"), "No method"),
        (("train", "cohort.json", "--out", "run", "--method", "sp4"), "Did you mean 'sp3'?"),
        (("train", "c", "--out", "r", "--method", "sp3", "--iterations", "1.5"), "a whole number"),
        (("train", "c", "--out", "r", "--method", "sp3", "--iterations", "0"), "at least 1"),
        (("train", "c", "--out", "r", "--method", "sp3", "--minutes", "1", "--iterations", "2"), "not allowed with"),
        (("train", "c", "--out", "r", "--method", "sp3", "--set", "plan.pach=1"), "Did you mean 'patch'?"),
        (("train", "c", "--out", "r", "--method", "sp3", "--set", "seed"), "KEY=VALUE"),
        (("predict", "run", "image.nrrd"), "--out"),
    ],
)
def test_wrong_usage_is_one_sentence_and_ends_with_2(command, arguments, words):
    assert_fails(command(*arguments), 2, words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train", "nothing.json", "--out", "run", "--method", "sp3"), "There is no cohort 'nothing.json'"),
        (("predict", "nothing", "nothing.json", "--out", "out"), "There is no 'nothing.json'"),
        (("evaluate", "nothing", "nothing.json"), "nothing.json"),
        (("train", "--out", "nothing", "--resume"), "There is no run in"),
        (("cohort", "create", "out.json", "--images", "nothing"), "nothing"),
    ],
)
def test_missing_files_are_named_and_end_with_1(command, arguments, words):
    assert_fails(command(*arguments), 1, words)


def test_a_folder_that_holds_a_run_is_not_overwritten(command, run_folder, cohort):
    assert_fails(command("train", cohort, "--method", "sp3", "--out", run_folder), 1, "already holds a run")


def test_a_folder_without_a_model_is_named(command, cohort, tmp_path):
    assert_fails(command("predict", tmp_path, cohort, "--out", tmp_path / "out"), 1, "There is no trained model in")


def test_a_folder_is_no_scan_and_that_is_said_once(command, run_folder, scans, tmp_path):
    result = command("predict", run_folder, scans / "images", "--out", tmp_path)
    assert_fails(result, 1, "is a folder, not an image file", "DICOM")


def test_an_unknown_case_and_device_are_named(command, run_folder, cohort, tmp_path):
    arguments = ("predict", run_folder, cohort, "--out", tmp_path)
    assert_fails(command(*arguments, "--cases", "b2"), 1, "There is no case 'b2'", "b 2")
    assert_fails(command(*arguments, "--device", "cuda:7"), 1, "There is no device 'cuda:7'")


def test_a_wrong_device_is_noticed_before_anything_is_written(command, run_folder, cohort, tmp_path):
    new = tmp_path / "new"
    result = command("train", cohort, "--method", "partial", "--out", new, "--device", "cuda:7")
    assert_fails(result, 1, "There is no device 'cuda:7'")
    assert_fails(command("predict", run_folder, cohort, "--out", new, "--device", "cuda:7"), 1, "'cuda:7'")
    assert not new.exists()
    before = (run_folder / "run.json").read_bytes()
    assert_fails(command("train", "--out", run_folder, "--resume", "--device", "cuda:7"), 1, "'cuda:7'")
    assert (run_folder / "run.json").read_bytes() == before


def test_another_device_changes_nothing_else_of_a_run_that_goes_on(tmp_path):
    settings = TrainingSettings(device="auto").to_json()
    del settings["sgrs"]["noise"]  # what an older version didn't know must stay unsaid, so that it is noticed
    folder = RunFolder.create(tmp_path / "run", RunRequest("train", cohort="cohort.json", settings=settings))
    chosen = dict.fromkeys(("cohort", "method", "minutes", "iterations", "seed"))
    train._resumed(argparse.Namespace(out=folder.path, device="cpu", set=[], **chosen))
    assert folder.details()["settings"] == {**settings, "device": "cpu"}


def test_an_error_in_the_program_shows_its_place_only_when_asked(run_python, repository):
    code = (
        "import sys; from SemiSupSegLib import command_line; from SemiSupSegLib.commands import doctor\n"
        "def broken(options): raise ZeroDivisionError('a bug')\n"
        "doctor.run = broken\n"
        "sys.exit(command_line.main(sys.argv[1:]))"
    )
    result = run_python("-c", code, "doctor", path=repository)
    assert_fails(result, 1, "ZeroDivisionError: a bug", "--debug")
    result = run_python("-c", code, "doctor", "--debug", path=repository)
    assert result.returncode == 1
    assert "Traceback" in result.stderr


@pytest.mark.parametrize(
    ("name", "key", "takes"),
    [
        ("train", "plan.patch", "Patch size, (i, j, k) (3 whole numbers in voxels from 1 to 512, or null)"),
        ("train", "deep_supervision", "Losses on coarser levels of the network too (true or false; default false)"),
        ("predict", "overlap", "Overlap of neighbouring windows (a number from 0 to 0.9; default 0.5)"),
    ],
)
def test_settings_are_listed(command, name, key, takes):
    result = command(name, "--set", "help")
    assert result.returncode == 0
    assert f"{key}\n    {takes}\n" in result.stdout
    assert not result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="a closed pipe of POSIX")
@pytest.mark.parametrize("arguments", [("train", "--set", "help"), ("doctor", "--json")])
def test_a_reader_that_has_seen_enough_ends_a_command_quietly(repository, arguments):
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as closed:
        result = subprocess.run(
            [sys.executable, "-m", "SemiSupSegLib", *arguments],
            stdout=closed, stderr=subprocess.PIPE, cwd=repository, check=False, timeout=120,
        )  # fmt: skip
    assert result.stderr == b""
    assert result.returncode == 1


def test_a_new_cohort_is_checked(command, scans, tmp_path):
    image = Volume(np.zeros((4, 8, 8), np.int16), Geometry(size=(8, 8, 4)))
    write_volume(tmp_path / "images/empty.nrrd", image)
    write_volume(tmp_path / "labels/empty.nrrd", image)
    arguments = ["--images", tmp_path / "images", "--labels", tmp_path / "labels", "--label-values", "ball=1"]
    result = command("cohort", "create", tmp_path / "cohort.json", *arguments)
    assert result.returncode == 1, result.stderr
    assert "Error in case 'empty': " in result.stderr
    assert "The cohort is written" in result.stderr
    assert (tmp_path / "cohort.json").is_file()
    result = command("cohort", "create", tmp_path / "cohort.json", *arguments, "--json")
    assert any("empty" in finding["message"] for finding in json.loads(result.stdout)["findings"])


def test_doctor_speaks_json(command):
    result = command("doctor", "--json")
    assert result.returncode == 0, result.stdout
    report = json.loads(result.stdout)
    assert report["ready"]
    assert report["devices"][-1]["key"] == "cpu"
