"""Whole runs with two processes: to the model of one, through commands, signals, errors and a killed process."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scripted_session import Script, ScriptedSession, sending
from two_processes import in_two_processes

from SemiSupSegLib import torchrun
from SemiSupSegLib.cohort import Cohort
from SemiSupSegLib.events import Command, Event
from SemiSupSegLib.files import read_json
from SemiSupSegLib.learning.local_session import LocalSession
from SemiSupSegLib.learning.trainer import Trainer
from SemiSupSegLib.learning.worker import TASKS, run
from SemiSupSegLib.phantom import SCHEMA, make_phantom_cohort
from SemiSupSegLib.processes import descendants, end_tree
from SemiSupSegLib.runs import RunFolder, RunRequest, State
from SemiSupSegLib.segmentation_file import read_annotation
from SemiSupSegLib.training_settings import TrainingSettings

pytestmark = pytest.mark.usefixtures("threads_as_before")

ITERATIONS = 10
# With seed 0 an activation lies at its kink in step 2: rounding changes the gradient by 3 % there, but not the loss.
SETTINGS = (
    "method=sp3", "device=cpu", "threads=1", f"iterations={ITERATIONS}", "validations=2", "plan.features=4,8",
    "plan.patch=16,16,8", "plan.precision=float32", "schedule.unlabeled_start=0.3", "seed=1",
)  # fmt: skip


def new_run(folder: Path, *overrides: str) -> RunFolder:
    """A training of two scribbled cases, one without annotation, two for validation."""
    cohort = make_phantom_cohort(folder / "c", n_cases=5, shape=(12, 24, 24), n_scribbled=2, n_validation=2, n_test=0)
    settings = TrainingSettings().with_overrides([*SETTINGS, *overrides]).to_json()
    request = RunRequest("train", cohort=str(cohort.path), settings=settings, label="tiny", exclusive=False)
    return RunFolder.create(folder / "run", request)


def work(folder: RunFolder, script: Script = {}) -> list:  # noqa: B006
    """One start of a run in one of the processes: exit code, state, and how many events were told."""
    if not torchrun.is_leader():
        told = []
        with LocalSession(folder, told.append) as session:
            code = run(session, TASKS)
        return [code, "", len(told)]
    with folder.lock(), ScriptedSession(folder, script) as session:
        code = run(session, TASKS)
    return [code, str(folder.assess()), len(session.events)]


def repaint(session: LocalSession) -> None:
    """A person paints on, and says so."""
    cohort = Cohort.load(session.request.cohort)
    first, second = (cohort.case(f"phantom_0{number}").scribble.path for number in (1, 2))
    first.write_bytes(second.read_bytes())
    sending("update_annotations", case="phantom_01")(session)


def terminate_follower(session: LocalSession) -> None:
    """A batch system ends the run, and its signal reaches one process first."""
    if torchrun.world_size() == 1:
        session._take_signal(signal.SIGTERM, None)
    else:
        os.kill(int((session.folder.path / "follower").read_text()), signal.SIGTERM)
        time.sleep(0.5)


def whole_road(folder: Path) -> list[list]:
    """Three starts of one training: terminated, cancelled, finished."""
    training = RunFolder.open(folder / "run")
    if not torchrun.is_leader():
        (training.path / "follower").write_text(str(os.getpid()))
    scripts: list[Script] = [
        {2: repaint, 3: sending("preview", case="phantom_03"), 4: terminate_follower},
        {5: sending("pause"), "paused": sending("resume"), 6: sending("checkpoint"), 7: sending("cancel")},
        {},
    ]
    return [work(training, script) for script in scripts]


@pytest.fixture(scope="module")
def roads(tmp_path_factory) -> tuple[Path, list, Path, list]:
    """Folder and what came of it: by two processes, and by one."""
    shared, alone = tmp_path_factory.mktemp("shared"), tmp_path_factory.mktemp("alone")
    for each in (shared, alone):
        new_run(each)
    return shared, in_two_processes(whole_road, shared), alone, whole_road(alone)


def test_all_processes_stop_with_a_checkpoint_and_finish_together(roads):
    _, (leader, follower), _, alone = roads
    assert [code for code, _, _ in leader] == [code for code, _, _ in follower] == [3, 3, 0]
    assert [state for _, state, _ in leader] == [state for _, state, _ in alone]
    assert [state for _, state, _ in leader] == ["cancelled", "cancelled", "finished"]


def test_the_leader_alone_speaks(roads):
    folder, (leader, follower), _, _ = roads
    assert [told for _, _, told in follower] == [0, 0, 0]
    assert all(told > 0 for _, _, told in leader)
    events = list(RunFolder.open(folder / "run").events())
    assert [event["command"] for event in events if event.name == "answer"] == [
        "update_annotations", "preview", "pause", "resume", "checkpoint", "cancel",
    ]  # fmt: skip
    assert all(event["ok"] for event in events if event.name == "answer")
    assert len([event for event in events if event.name == "started"]) == 3


def test_the_run_has_the_numbers_of_one_process(roads):
    shared, alone = (RunFolder.open(folder / "run") for folder in (roads[0], roads[2]))
    curves, expected = shared.metrics(), alone.metrics()
    assert [iteration for iteration, _ in curves["loss"]] == list(range(1, ITERATIONS + 1))
    for name in ("loss", "pseudo", "validation dice teacher"):
        assert curves[name] == [pytest.approx(each, abs=1e-3) for each in expected[name]], name
    for name in ("student", "teacher"):
        ours, theirs = (load_file(each.model / f"{name}.safetensors") for each in (shared, alone))
        assert all(torch.allclose(ours[key], theirs[key], atol=1e-3) for key in ours)
    shared.verify_manifest()
    _, grid = read_annotation(shared.predictions / "preview" / "phantom_03.seg.nrrd", None, SCHEMA)
    assert grid.shape == (12, 24, 24)


# Predictions, and what goes wrong -------------------------------------------------------------------------------------


def predict_and_fail(folder: Path) -> list[list]:
    """A prediction, a batch too small to be shared, a loss that is no number, too little memory in one process."""
    results = [work(RunFolder.open(folder / name)) for name in ("prediction", "small/run")]
    step, spoilt = Trainer.step, []

    def no_number_once(trainer: Trainer) -> dict[str, float]:
        values = step(trainer)
        if trainer.iteration == 4 and not spoilt:
            spoilt.append(4)
            values["loss"] = math.nan
        return values

    def out_of_memory(trainer: Trainer) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    Trainer.step = no_number_once
    results.append(work(RunFolder.open(folder / "spoilt" / "run"), {3: sending("checkpoint")}))
    Trainer.step = step if torchrun.is_leader() else out_of_memory
    return [*results, work(RunFolder.open(folder / "short" / "run"))]


def new_prediction(folder: Path, trained: Path) -> RunFolder:
    settings = {"prediction": {"device": "cpu", "threads": 1}}
    cohort, model = str(trained / "c" / "cohort.json"), str(trained / "run")
    return RunFolder.create(
        folder, RunRequest("predict", cohort=cohort, model=model, settings=settings, exclusive=False)
    )


@pytest.fixture(scope="module")
def failures(roads, tmp_path_factory) -> tuple[Path, list]:
    folder = tmp_path_factory.mktemp("failures")
    new_prediction(folder / "prediction", roads[0])
    new_run(folder / "small", "plan.batch_size=1")
    new_run(folder / "spoilt", "optimizer.schedule=constant", "optimizer.warmup=0")
    new_run(folder / "short")
    return folder, in_two_processes(predict_and_fail, folder)


def test_a_prediction_is_shared_out(roads, failures, tmp_path):
    folder, (leader, follower) = failures
    alone = new_prediction(tmp_path / "alone", roads[0])
    assert work(alone)[0] == leader[0][0] == follower[0][0] == 0
    shared = RunFolder.open(folder / "prediction")
    summaries = [read_json(each.predictions / "predictions.json", "") for each in (shared, alone)]
    assert summaries[0] == summaries[1]
    cases = list(summaries[1]["uncertainty"])
    assert len(cases) == 5
    for case in cases:
        ours, theirs = (read_annotation(each.predictions / f"{case}.seg.nrrd", None, SCHEMA)[0]
                        for each in (shared, alone))  # fmt: skip
        np.testing.assert_array_equal(ours, theirs)
    assert sorted(event["case"] for event in shared.events() if event.name == "preview") == cases
    assert len(shared.verify_manifest()["files"]) == 6


def test_a_batch_too_small_to_be_shared_is_refused(failures):
    folder, (leader, follower) = failures
    assert leader[1][0] == follower[1][0] == 1
    assert error_of(folder / "small")["message"] == "A batch of 1 can't be shared by 2 processes."


def test_all_processes_roll_back_together(failures):
    folder, (leader, follower) = failures
    assert leader[2][0] == follower[2][0] == 0
    run_folder = RunFolder.open(folder / "spoilt" / "run")
    warning = next(event for event in run_folder.events() if event.name == "warning")
    assert "goes on from iteration 3 at half the learning rate" in warning["message"]
    rates = dict(run_folder.metrics()["learning rate"])
    assert rates[ITERATIONS] == pytest.approx(rates[3] / 2)


def test_the_leader_says_why_another_process_ended(failures):
    folder, (leader, follower) = failures
    assert leader[3][0] == follower[3][0] == 1
    message = error_of(folder / "short")["message"]
    assert message.startswith("Another process of this run ended. Process 1: A device has too little memory")


def error_of(folder: Path) -> Event:
    return next(event for event in RunFolder.open(folder / "run").events() if event.name == "error")


def test_without_a_batch_size_each_process_gets_a_patch_of_its_own(roads):
    assert RunFolder.open(roads[0] / "run").details()["plan"]["batch_size"] >= 2


# torchrun itself ------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes as Linux shows them")
def test_torchrun_restarts_what_was_killed_from_the_checkpoint_but_not_what_was_cancelled(tmp_path, repository):
    cohort = make_phantom_cohort(tmp_path / "c", n_cases=2, shape=(12, 24, 24), n_scribbled=2, n_test=0)
    folder = RunFolder(tmp_path / "run")
    command = [
        "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "3", "-m", "SemiSupSegLib",
        "train", cohort.path, "--method", "partial", "--out", folder.path, "--iterations", "1900", "--device", "cpu",
        "--set", "plan.features=2,4", "plan.patch=8,8,8", "plan.norm=instance", "checkpoint_minutes=0.01",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    started = subprocess.Popen([sys.executable, *map(str, command)], env=environment, cwd=tmp_path,
                               stderr=subprocess.PIPE, text=True)  # fmt: skip
    try:
        wait_for(lambda: folder.checkpoints.is_dir() and folder.last_checkpoint)
        leader = folder.read_status().process.pid
        for pid in descendants(started.pid):
            if pid != leader:
                os.kill(pid, signal.SIGKILL)
        wait_for(lambda: metrics_of_starts(folder)[1:] and metrics_of_starts(folder)[1])
        folder.put_command(Command("cancel", "1"))
        said = started.communicate(timeout=120)[1]
    finally:
        for pid in [started.pid, *descendants(started.pid)]:
            end_tree(pid, kill=True)
    assert started.returncode == 0, said
    assert folder.assess() is State.CANCELLED
    _, second = metrics_of_starts(folder)
    kept = [event["iteration"] for event in folder.events() if event.name == "checkpoint"]
    assert second[0] - 1 in kept
    assert folder.last_checkpoint.name == f"{second[-1]:08d}"
    assert "Another process of this run ended" in said
    with folder.lock():  # which nobody holds any more
        pass


def metrics_of_starts(folder: RunFolder) -> list[list[int]]:
    """The iterations that were told of, start by start."""
    starts: list[list[int]] = []
    for event in folder.events():
        if event.name == "started":
            starts.append([])
        elif event.name == "metric":
            starts[-1].append(event["iteration"])
    return starts


def wait_for(condition: Callable[[], object], seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
