"""A worker as its owner sees it: started, read, commanded and ended, directly and behind a launcher."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from slow_core import slowness

from SemiSupSegLib.errors import ErrorCode, SemiSupSegError
from SemiSupSegLib.processes import start_of
from SemiSupSegLib.runner import Runner
from SemiSupSegLib.runs import RunFolder, RunRequest, State
from Testing.Faults.fake_training import expected_weights

FAULTS = Path(__file__).parents[1] / "Faults"
FAKE_WORKER = FAULTS / "start_fake_worker.py"
POSIX_ONLY = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


@pytest.fixture(params=["python", "launcher"])
def python(request):
    """The interpreter, plain and behind a launcher that hides its pid and signals."""
    return [sys.executable] if request.param == "python" else [sys.executable, str(FAULTS / "launcher.py")]


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts fake workers, and leaves none behind."""
    monkeypatch.setenv("SEMISUPSEG_LOCKS", str(tmp_path / "locks"))
    runners = []

    def start(python=(sys.executable,), folder=None, bootstrap=FAKE_WORKER, task="train", **settings):
        attached = settings.pop("attached", True)
        if not isinstance(folder, RunFolder):
            request = RunRequest(task, settings=settings, attached=attached, label="a run")
            folder = RunFolder.create(folder or tmp_path / f"run {len(runners)} ü", request)
        runner = Runner(folder, python=python, bootstrap=bootstrap)
        runner.start()
        runners.append(runner)
        return runner

    yield start
    for runner in runners:
        runner.kill()
        runner.wait(10)
        runner.close()


def read_until(runner, condition, seconds=20.0):
    """Polls until an event fulfils a condition, and returns all events up to then, the rest of that poll's too."""
    events, deadline = [], time.monotonic() + seconds
    while time.monotonic() < deadline and runner.state is None:
        polled = runner.poll()
        events += polled
        if any(condition(event) for event in polled):
            return events
        time.sleep(0.005)
    pytest.fail(
        f"never happened; {[each.name for each in events][-20:]}, {runner.state}, {runner.error}, {runner.log_tail}"
    )


def at_iteration(number):
    return lambda event: event.name == "metric" and event["iteration"] >= number


def children_of(runner) -> list[int]:
    return [int(each) for each in (runner.folder.path / "children.txt").read_text().split()]


def dead_within(pids, seconds) -> bool:
    deadline = time.monotonic() + seconds
    while any(start_of(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_a_run_finishes_with_events_manifest_and_result(start, python):
    runner = start(python, steps=60)
    events = []
    assert runner.wait(30, events.append) is State.FINISHED, runner.log_tail
    assert runner.error is None
    assert runner.exit_code == 0
    names = [each.name for each in events]
    assert names[0] == "started"
    assert names[-1] == "finished"
    assert runner.worker.pid == events[0]["pid"]
    assert (runner.worker.pid == runner._process.pid) == (python == [sys.executable])
    assert (runner.folder.model / "weights.bin").read_bytes() == expected_weights(60)
    assert runner.folder.verify_manifest()["files"][0]["path"] == "model/weights.bin"
    assert [iteration for iteration, _ in runner.folder.metrics()["loss"]] == list(range(1, 61))
    assert runner.folder.assess() is State.FINISHED


def test_the_line_carries_few_metrics_and_the_last_one(start):
    runner = start(steps=300, step_seconds=0.001)
    metrics = []
    began = time.monotonic()
    runner.wait(30, lambda event: metrics.append(event) if event.name == "metric" else None)
    assert len(metrics) <= 10 * (time.monotonic() - began) + 2
    assert metrics[-1]["iteration"] == 300


def test_cancel_keeps_a_checkpoint_and_resume_gives_the_same_weights(start, python):
    runner = start(python, steps=150)
    read_until(runner, at_iteration(30))
    asked = time.monotonic()
    runner.cancel()
    assert runner.wait(10) is State.CANCELLED
    assert time.monotonic() - asked < 2
    assert runner.exit_code == 3
    assert runner.error.code is ErrorCode.CANCELLED
    assert 30 <= int(runner.folder.last_checkpoint.name) < 150
    again = start(python, folder=runner.folder)
    assert again.wait(20) is State.FINISHED
    assert (again.folder.model / "weights.bin").read_bytes() == expected_weights(150)


def test_a_worker_that_is_still_importing_obeys_at_once(start, python):
    runner = start(python, task="slow")
    read_until(runner, lambda event: event.name == "started")
    time.sleep(0.3)
    asked = time.monotonic()
    runner.cancel()
    assert runner.wait(10) is State.CANCELLED
    assert time.monotonic() - asked < 2
    assert runner.folder.assess() is State.CANCELLED


def test_a_deaf_worker_is_ended_with_its_children(start, python):
    runner = start(python, steps=10**6, fault="hang", at=5, child=True)
    read_until(runner, at_iteration(5))
    children = children_of(runner)
    runner.cancel(grace_seconds=0.3, terminate_seconds=0.3)
    assert runner.wait(10) is State.CANCELLED
    assert dead_within([*children, runner.worker.pid], 1)


@POSIX_ONLY
@pytest.mark.parametrize("way", ["finish", "cancel", "kill", "killed worker"])
def test_no_way_to_end_leaves_a_child(start, python, way):
    outcomes = {"finish": State.FINISHED, "killed worker": State.LOST}
    runner = start(python, steps=60, child=True, step_seconds=0.01)
    read_until(runner, at_iteration(20))
    children = children_of(runner)
    if way == "cancel":
        runner.cancel()
    elif way == "kill":
        runner.kill()
    elif way == "killed worker":
        os.kill(runner.worker.pid, signal.SIGKILL)
    assert runner.wait(20) is outcomes.get(way, State.CANCELLED)
    assert dead_within([*children, runner.worker.pid], 1)


@POSIX_ONLY
def test_a_launcher_that_dies_doesnt_hide_that_the_worker_lives(start):
    runner = start([sys.executable, str(FAULTS / "launcher.py")], steps=150, step_seconds=0.01)
    read_until(runner, at_iteration(5))
    os.kill(runner._process.pid, signal.SIGKILL)
    read_until(runner, at_iteration(40))
    assert runner.is_running
    runner.cancel()
    runner.wait(10)
    assert runner.state is State.CANCELLED
    assert not runner.worker.is_alive


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        ("out-of-memory", ErrorCode.OUT_OF_MEMORY, "memory"),
        ("device-out-of-memory", ErrorCode.OUT_OF_MEMORY, "CUDA"),
        ("missing-package", ErrorCode.PACKAGES_MISSING, "a_package_that_nobody_has"),
        ("bug", ErrorCode.INTERNAL, "ZeroDivisionError"),
        ("system-exit", ErrorCode.INTERNAL, "SystemExit"),
        pytest.param("segfault", ErrorCode.WORKER_LOST, "crashed", marks=POSIX_ONLY),
        pytest.param("abort", ErrorCode.WORKER_LOST, "crashed", marks=POSIX_ONLY),
        pytest.param("killed", ErrorCode.WORKER_LOST, "from outside", marks=POSIX_ONLY),
        ("sudden-exit", ErrorCode.WORKER_LOST, "iteration"),
    ],
)
def test_every_death_has_a_sentence_and_a_remedy(start, python, fault, code, words):
    runner = start(python, steps=100, fault=fault, at=30, checkpoint_every=10)
    assert runner.wait(20) in (State.FAILED, State.LOST)
    assert runner.error.code is code
    assert words in str(runner.error)
    assert runner.error.remedy
    assert runner.folder.assess() is runner.state
    assert runner.folder.last_checkpoint.name == "000030"


def test_an_interpreter_that_isnt_there_is_said_so(start):
    with pytest.raises(SemiSupSegError) as caught:
        start("/nowhere/python")
    assert caught.value.code is ErrorCode.PACKAGES_MISSING


def test_a_bootstrap_that_fails_is_explained_by_its_log(start, tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("import a_package_that_nobody_has")
    runner = start(bootstrap=broken)
    assert runner.wait(20) is State.FAILED
    assert runner.error.code is ErrorCode.PACKAGES_MISSING
    assert "a_package_that_nobody_has" in runner.error.message
    assert runner.folder.assess() is State.FAILED


def test_a_second_worker_is_refused_and_the_first_goes_on(start):
    first = start(steps=10**6)
    read_until(first, at_iteration(3))
    with pytest.raises(SemiSupSegError) as caught:
        Runner(first.folder, bootstrap=FAKE_WORKER).start()
    assert caught.value.code is ErrorCode.RUN_BUSY
    command = [sys.executable, str(FAKE_WORKER), str(first.folder.path)]
    second = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, check=False)
    assert second.returncode == 1
    assert json.loads(second.stdout)["code"] == "run-busy"
    read_until(first, at_iteration(first.folder.metrics()["loss"][-1][0] + 20))
    assert first.folder.assess() is State.RUNNING


def test_commands_are_answered_also_malformed_ones(start):
    runner = start(steps=10**6)
    read_until(runner, at_iteration(1))
    for name, fields, ok in [
        ("checkpoint", {}, True),
        ("preview", {"case": "known"}, True),
        ("preview", {"case": "unknown"}, False),
        ("preview", {}, False),
        ("dance", {}, False),
    ]:
        identifier = runner.send(name, **fields)
        answer = read_until(runner, lambda event, i=identifier: event.name == "answer" and event["id"] == i)[-1]
        assert answer["ok"] is ok, name
        assert ok or answer["message"]
    runner._unsent = b"{nonsense\n"
    assert not read_until(runner, lambda event: event.name == "answer")[-1]["ok"]


def test_pause_rests_and_resume_goes_on(start):
    runner = start(steps=10**6)
    read_until(runner, at_iteration(10))
    runner.send("pause")
    read_until(runner, lambda event: event.name == "state" and event["state"] == "paused")
    assert runner.folder.assess() is State.PAUSED
    before = runner.folder.metrics()["loss"][-1][0]
    time.sleep(0.3)
    assert runner.folder.metrics()["loss"][-1][0] == before
    runner.send("resume")
    read_until(runner, at_iteration(before + 5))
    assert runner.folder.assess() is State.RUNNING


def test_a_paused_run_can_be_cancelled(start):
    runner = start(steps=10**6)
    read_until(runner, at_iteration(10))
    runner.send("pause")
    read_until(runner, lambda event: event.name == "state" and event["state"] == "paused")
    runner.cancel()
    assert runner.wait(5) is State.CANCELLED


def test_a_run_is_attached_to_before_its_worker_has_said_anything(start):
    runner = start(steps=30, attached=False)
    again = Runner.attach(runner.folder)
    assert again.wait(20) is State.FINISHED
    assert runner.wait(20) is State.FINISHED


def test_a_detached_run_is_attached_to_again_and_commanded(start, python):
    runner = start(python, steps=10**6, attached=False)
    first = read_until(runner, at_iteration(20))
    offset = runner.offset
    again = Runner.attach(RunFolder.open(runner.folder.path), offset=offset)
    more = read_until(again, at_iteration(60))
    seen = [event["iteration"] for event in first + more if event.name == "metric"]
    assert seen == list(range(1, len(seen) + 1)), "nothing missed, nothing twice"
    again.cancel()
    assert again.wait(10) is State.CANCELLED
    assert runner.wait(10) is State.CANCELLED
    assert Runner.attach(runner.folder).wait(5) is State.CANCELLED


def test_detach_lets_the_worker_live_on_and_nothing_is_missed(start):
    runner = start(steps=10**6, step_seconds=0.005)
    events = read_until(runner, at_iteration(5))
    runner.detach()
    assert not runner.is_attached
    for _ in range(5):
        runner.send("checkpoint")
    time.sleep(0.5)
    assert runner.folder.assess() is State.RUNNING
    events += read_until(runner, at_iteration(200))
    kinds = [each.name for each in events if each.name in ("checkpoint", "answer")]
    assert (
        kinds == [each.name for each in runner.folder.events() if each.name in ("checkpoint", "answer")][: len(kinds)]
    )
    assert kinds.count("answer") == 6
    runner.cancel()
    assert runner.wait(10) is State.CANCELLED


def test_an_owner_that_detaches_and_leaves_at_once_ends_nothing(start, tmp_path):
    code = (
        "import sys; from SemiSupSegLib.runner import Runner; from SemiSupSegLib.runs import RunFolder;"
        "r = Runner(RunFolder.open(sys.argv[1]), bootstrap=sys.argv[2]); r.start(); r.detach()"
    )
    folder = RunFolder.create(tmp_path / "left alone", RunRequest("train", settings={"steps": 60}))
    subprocess.run([sys.executable, "-c", code, str(folder.path), str(FAKE_WORKER)], cwd=FAULTS.parents[1], check=True)
    assert Runner.attach(folder).wait(20) is State.FINISHED


@POSIX_ONLY
def test_a_dead_owner_is_noticed_and_the_run_can_be_resumed(start, python, tmp_path):
    code = (
        "import sys; from SemiSupSegLib.runner import Runner; from SemiSupSegLib.runs import RunFolder;"
        "r = Runner(RunFolder.open(sys.argv[1]), python=sys.argv[3:], bootstrap=sys.argv[2]); r.start(); r.wait(60)"
    )
    request = RunRequest("train", settings={"steps": 400, "step_seconds": 0.005, "child": True})
    folder = RunFolder.create(tmp_path / "orphan", request)
    command = [sys.executable, "-c", code, str(folder.path), str(FAKE_WORKER), *python]
    owner = subprocess.Popen(command, cwd=FAULTS.parents[1])
    deadline = time.monotonic() + 20
    while not folder.metrics().get("loss") and time.monotonic() < deadline:
        time.sleep(0.01)
    children = [int(each) for each in (folder.path / "children.txt").read_text().split()]
    worker = folder.read_status().process.pid
    owner.kill()
    owner.wait()
    assert dead_within([worker, *children], 2)
    assert folder.assess() is State.CANCELLED
    assert "closed" in folder.read_status().reason
    assert folder.last_checkpoint is not None
    assert start(folder=folder).wait(20) is State.FINISHED
    assert (folder.model / "weights.bin").read_bytes() == expected_weights(400)


def test_an_owner_that_doesnt_read_neither_holds_the_worker_up_nor_misses_anything(start):
    runner = start(steps=60, fault="busy", at=30)
    deadline = time.monotonic() + 20
    while not runner.folder.manifest_file.exists() and time.monotonic() < deadline:
        time.sleep(0.05)  # nobody polls, 1.5 MB of warnings don't fit into the pipe
    assert runner.folder.manifest_file.exists()
    events = []
    assert runner.wait(20, events.append) is State.FINISHED
    warnings = [event["message"][:5] for event in events if event.name == "warning"]
    assert warnings == [f"{index:05d}" for index in range(3000)]
    assert events[-1].name == "finished"


def test_a_burst_of_a_hundred_thousand_lines_keeps_every_poll_short(start, tmp_path):
    burst = tmp_path / "burst.py"
    burst.write_text(
        'import sys\nline = b\'{"v": 1, "event": "metric", "iteration": 7, "values": {"loss": 0.5}}\\n\'\n'
        "for _ in range(100): sys.stdout.buffer.write(line * 1000)\n"
    )
    runner = start(bootstrap=burst)
    count, work = polled_to_the_end(runner)
    assert count == 100_000
    assert_short(work)


@pytest.mark.parametrize(
    "talk",
    [
        "write(b'x' * 10_000_000 + b'\\n')",
        "write(b'{' + b'[],' * 3_000_000 + b'\\n')",
        "write(b'\\n' * 1_000_000)",
        "write(b'not an event\\n' * 300_000)",
        'long = b\'{"v": 1, "event": "plan", "plan": {"x": [\' + b\'[],\' * 20_000 + b\'0]}}\\n\'\n'
        "for _ in range(100): write(long)",
    ],
    ids=["one long line", "one long object", "empty lines", "log lines", "long events"],
)
def test_whatever_comes_no_poll_takes_longer_than_its_budget(start, tmp_path, talk):
    talker = tmp_path / "talker.py"
    talker.write_text(f"import sys\nwrite = sys.stdout.buffer.write\n{talk}\n")
    _, work = polled_to_the_end(start(bootstrap=talker))
    assert_short(work)


def assert_short(work: list[float]) -> None:
    """Polls keep their budget of 20 ms, on a slow core so much more."""
    assert max(work) < 0.02 * slowness()


def polled_to_the_end(runner) -> tuple[int, list[float]]:
    """Number of events, and the seconds on a core of every poll; not those that a busy machine takes from it."""
    count, work = 0, []
    while runner.state is None:
        began = time.thread_time()
        count += len(runner.poll(20))
        work.append(time.thread_time() - began)
    return count, work


def test_prints_and_garbage_are_log_not_events(start):
    runner = start(steps=60, fault="noise", at=30)
    events = []
    assert runner.wait(20, events.append) is State.FINISHED
    assert [each.name for each in events].count("finished") == 1
    assert "not an event" in runner.log_tail
    assert "not text" in runner.log_tail


@pytest.mark.parametrize("name", ["with spaces and 'quotes'", "größe-µ-脳-🧠", "long/" + "/".join(["x" * 60] * 5)])
def test_folders_of_any_name_work(start, python, tmp_path, name):
    runner = start(python, folder=tmp_path / name, steps=5)
    assert runner.wait(20) is State.FINISHED, runner.log_tail


def test_two_runs_on_one_device_go_one_after_the_other(start):
    first = start(steps=10**6, device="cuda:0")
    read_until(first, at_iteration(3))
    second = start(steps=30, device="cuda:0")
    read_until(second, lambda event: event.name == "progress" and "a run" in event["stage"])
    assert second.folder.assess() is State.QUEUED
    first.kill()  # a crash frees the device too
    assert second.wait(20) is State.FINISHED
    first.wait(5)


def test_a_queued_run_can_be_cancelled(start):
    first = start(steps=10**6, device="cuda:0")
    read_until(first, at_iteration(3))
    second = start(steps=30, device="cuda:0")
    read_until(second, lambda event: event.name == "state" and event["state"] == "queued")
    second.cancel()
    assert second.wait(5) is State.CANCELLED
    assert first.is_running


def test_the_report_names_no_file_and_no_case_unless_asked(start, tmp_path):
    cohort = tmp_path / "Jane Doe cohort.json"
    cohort.write_text(json.dumps({"cases": [{"id": "DOE_JANE_1962", "image": "images/DOE_JANE_1962.nrrd"}]}))
    request = RunRequest(
        "train", cohort=str(cohort), label="Jane's liver", settings={"steps": 40, "fault": "bug", "at": 5}
    )
    runner = start(folder=RunFolder.create(tmp_path / "run of Jane", request))
    runner.wait(20)
    with open(runner.folder.log_file, "a") as log:
        log.write("case doe_jane_1962: read /mnt/scans/Jane Doe/image 1.nii.gz, took 3.1 s\n")
        log.write(r"reading C:\Users\Jane Doe\scan.nrrd" + "\n")
    report = runner.report()
    for secret in ("Jane", "DOE", "1962", "liver", "image 1", str(tmp_path)):
        assert secret.lower() not in report.lower()
    for useful in ("ZeroDivisionError", "learning/worker.py", '"steps": 40', "took 3.1 s", "numpy", "internal"):
        assert useful in report
    assert "Jane" in runner.report(include_names=True)
