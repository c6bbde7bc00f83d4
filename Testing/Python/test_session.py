"""What a task may rely on, in the process of the command line and in a worker's."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from SemiSupSegLib.device_queue import DeviceQueue
from SemiSupSegLib.errors import ErrorCode, SemiSupSegError
from SemiSupSegLib.learning.session import Outcome
from SemiSupSegLib.learning.worker import run_locally
from SemiSupSegLib.runs import RunFolder, RunRequest, State
from Testing.Faults import fake_training

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a task in this process and gives back the exit code, the events and the folder."""
    monkeypatch.setenv("SEMISUPSEG_LOCKS", str(tmp_path / "locks"))

    def run(task, on_event=None, **settings):
        events = []
        folder = RunFolder.create(tmp_path / "run", RunRequest("train", settings=settings))
        code = run_locally(folder, on_event or events.append, {"train": task})
        return code, events, folder

    return run


def test_a_local_run_leaves_the_same_folder_as_a_worker(run):
    code, events, folder = run(fake_training.train, steps=40, step_seconds=0)
    assert code == 0
    assert (events[0].name, events[-1].name) == ("started", "finished")
    assert folder.assess() is State.FINISHED
    assert folder.verify_manifest()["iteration"] == 40
    assert (folder.model / "weights.bin").read_bytes() == fake_training.expected_weights(40)


def test_an_error_of_the_task_is_an_event_and_a_failed_run(run):
    def task(session):
        session.heartbeat(7)
        raise SemiSupSegError("No voxel is annotated.", "Paint some.", code=ErrorCode.NO_ANNOTATION)

    code, events, folder = run(task)
    assert code == 1
    error = next(event for event in events if event.name == "error")
    assert (error["code"], error["message"], error["remedy"]) == (
        "no-annotation",
        "No voxel is annotated.",
        "Paint some.",
    )
    assert folder.assess() is State.FAILED
    assert folder.read_status().iteration == 7
    assert "Traceback" in folder.log_file.read_text()


def test_a_result_that_isnt_there_is_no_success(run):
    code, events, folder = run(lambda session: Outcome((session.folder.model / "missing.bin",), 1))
    assert code == 1
    assert next(event for event in events if event.name == "error")["code"] == "missing-file"
    assert folder.assess() is State.FAILED


def test_a_progress_bar_that_fails_doesnt_lose_the_training(run):
    def broken(event):
        raise RuntimeError("no terminal")

    code, _, folder = run(fake_training.train, broken, steps=20, step_seconds=0)
    assert code == 0
    assert "no terminal" in folder.log_file.read_text()


def test_too_little_space_is_said_before_anything_is_written(run):
    code, events, _ = run(lambda session: session.check_disk(10**18))
    assert code == 1
    assert next(event for event in events if event.name == "error")["code"] == "disk-full"


def test_only_the_newest_progress_arrives_and_never_late(run):
    def task(session):
        for index in range(2000):
            session.emit("progress", stage=f"Case {index}", fraction=index / 2000)
        return Outcome()

    _, events, folder = run(task)
    stages = [event["stage"] for event in events if event.name == "progress"]
    assert len(stages) < 100
    assert stages[-1] == "Case 1999"
    assert [event["stage"] for event in folder.events() if event.name == "progress"] == stages


def test_every_metric_is_in_the_files(run):
    def task(session):
        for iteration in range(1, 501):
            session.emit("metric", iteration=iteration, values={"loss": 1 / iteration})
        session.emit("metric", iteration=500, values={"validation dice": 0.5})
        return Outcome(iteration=500)

    _, events, folder = run(task)
    assert len(folder.metrics()["loss"]) == 500
    assert sum(event.name == "metric" for event in folder.events()) == 501
    shown = [event for event in events if event.name == "metric"]
    assert len(shown) < 50
    assert {name for event in shown for name in event["values"]} == {"loss", "validation dice"}


def test_an_old_cancel_doesnt_end_a_new_run(run, tmp_path):
    from SemiSupSegLib.events import Command

    folder = RunFolder.create(tmp_path / "old", RunRequest("train", settings={"steps": 20, "step_seconds": 0}))
    folder.put_command(Command("cancel"))
    assert run_locally(folder, tasks={"train": fake_training.train}) == 0


def test_a_run_that_isnt_exclusive_doesnt_queue(tmp_path, monkeypatch):
    monkeypatch.setenv("SEMISUPSEG_LOCKS", str(tmp_path / "locks"))
    other = DeviceQueue("cpu")
    assert other.try_acquire()
    settings = {"steps": 5, "step_seconds": 0, "device": "cpu"}
    folder = RunFolder.create(tmp_path / "run", RunRequest("train", settings=settings, exclusive=False))
    assert run_locally(folder, tasks={"train": fake_training.train}) == 0
    other.release()


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_polite_signal_saves_a_checkpoint_and_says_cancelled(tmp_path, number):
    folder = RunFolder.create(tmp_path / "run", RunRequest("train", settings={"steps": 10**6}))
    code = (
        "import sys; from SemiSupSegLib.runs import RunFolder; from SemiSupSegLib.learning.worker import run_locally;"
        "sys.exit(run_locally(RunFolder.open(sys.argv[1]), tasks={'train': 'Testing.Faults.fake_training:train'}))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(folder.path)], cwd=ROOT)
    deadline = time.monotonic() + 20
    while not folder.metrics().get("loss") and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait(10) == 3
    assert folder.assess() is State.CANCELLED
    assert folder.last_checkpoint is not None


def test_a_worker_without_a_run_says_so_and_wrong_usage_is_2(tmp_path):
    start = [sys.executable, str(ROOT / "SemiSupSegLib" / "start_worker.py")]
    nothing = subprocess.run([*start, str(tmp_path)], capture_output=True, cwd="/", check=False)
    assert nothing.returncode == 1
    assert json.loads(nothing.stdout)["code"] == "missing-file"
    assert subprocess.run(start, capture_output=True, cwd="/", check=False).returncode == 2
