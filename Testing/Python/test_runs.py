"""The run folder says what was asked for and how it stands, also after a crash, a reboot or another's mistake."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from SemiSupSegLib.errors import ErrorCode, SemiSupSegError
from SemiSupSegLib.events import Command, encode_event
from SemiSupSegLib.processes import ProcessIdentity, this_process
from SemiSupSegLib.runs import STALE_SECONDS, RunFolder, RunRequest, State, Status, list_runs, new_run_path


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path / "Lauf 1 ü", RunRequest("train", cohort="cohort.json", settings={"rate": 0.1}))


def test_the_request_comes_back_with_absolute_paths(folder):
    request = RunFolder.open(folder.path).request()
    assert request.cohort == os.path.abspath("cohort.json")
    assert request.settings == {"rate": 0.1}
    assert request.attached


def test_details_are_added_to_the_request(folder):
    folder.update_request(plan={"spacing": [1, 1, 1]}, device="cpu")
    assert folder.details()["plan"] == {"spacing": [1, 1, 1]}
    assert folder.request().settings == {"rate": 0.1}


def test_a_folder_holds_one_run(folder):
    with pytest.raises(SemiSupSegError) as caught:
        RunFolder.create(folder.path, RunRequest("train"))
    assert caught.value.code is ErrorCode.RUN_BUSY


def test_no_run_is_said_so(tmp_path):
    with pytest.raises(SemiSupSegError) as caught:
        RunFolder.open(tmp_path)
    assert caught.value.code is ErrorCode.MISSING_FILE


@pytest.mark.parametrize(
    "change",
    [{"schema": 2}, {"task": ""}, {"task": 3}, {"settings": []}, {"images": [1]}, {"images": "x"}, {"attached": "no"}],
)
def test_an_impossible_request_is_refused(folder, change):
    folder.update_request(**change)
    with pytest.raises(SemiSupSegError) as caught:
        folder.request()
    assert caught.value.code is ErrorCode.UNREADABLE_FILE


def running(process: ProcessIdentity) -> Status:
    return Status(State.RUNNING, process, iteration=7, heartbeat=time.time())


def test_a_run_that_nobody_started_is_queued(folder):
    assert folder.assess() is State.QUEUED


def test_a_living_worker_is_running_however_old_its_heartbeat(folder):
    folder.write_status(replace(running(this_process()), heartbeat=time.time() - 1e6))
    assert folder.assess() is State.RUNNING


@pytest.mark.parametrize("jump", [-1e8, 1e8])
def test_a_changed_clock_deceives_nobody(folder, jump):
    folder.write_status(running(this_process()))
    assert folder.assess(now=time.time() + jump) is State.RUNNING


def test_a_dead_worker_is_lost(folder):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    folder.write_status(running(ProcessIdentity.of(child.pid)))
    assert folder.assess() is State.RUNNING
    child.communicate(b"\n")
    assert folder.assess() is State.LOST


def test_a_zombie_is_dead(folder):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    folder.write_status(running(ProcessIdentity.of(child.pid)))
    child.stdin.close()
    deadline = time.monotonic() + 10
    while folder.assess() is State.RUNNING and time.monotonic() < deadline:
        time.sleep(0.01)  # nobody waits for the child, so its number stays taken
    assert folder.assess() is State.LOST
    child.wait()


def test_a_reused_number_deceives_nobody(folder):
    folder.write_status(running(replace(this_process(), start="another start")))
    assert folder.assess() is State.LOST


def test_a_worker_on_another_machine_counts_by_its_heartbeat(folder):
    status = running(ProcessIdentity(1, "whenever", "another machine"))
    folder.write_status(status)
    assert folder.assess() is State.RUNNING
    assert folder.assess(now=status.heartbeat + STALE_SECONDS + 1) is State.LOST


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 200, b"{}", b"[]", b'{"state": "dancing", "pid": 1}', b'{"pid": 1e999}']
)
def test_a_damaged_status_is_a_lost_run(folder, content):
    folder.status_file.write_bytes(content)
    assert folder.read_status() is None
    assert folder.assess() is State.LOST


def test_finished_needs_a_valid_manifest(folder):
    (folder.model).mkdir()
    (folder.model / "weights.bin").write_bytes(b"12345")
    folder.write_status(Status(State.FINISHED, this_process()))
    assert folder.assess() is State.FAILED
    folder.write_manifest(State.FINISHED, ["model"], iteration=9)
    assert folder.assess() is State.FINISHED
    (folder.model / "weights.bin").write_bytes(b"1234")
    assert folder.assess() is State.FAILED


def test_a_worker_that_died_after_its_manifest_has_finished(folder):
    folder.write_status(running(replace(this_process(), start="dead")))
    folder.write_manifest(State.FINISHED, [])
    assert folder.assess() is State.FINISHED


def test_a_changed_file_of_the_result_is_found_by_its_checksum(folder):
    result = folder.predictions / "größe.nrrd"
    result.write_bytes(b"12345")
    folder.write_manifest(State.FINISHED, [result])
    assert folder.verify_manifest()["files"][0]["path"] == "predictions/größe.nrrd"
    result.write_bytes(b"12344")
    with pytest.raises(SemiSupSegError) as caught:
        folder.verify_manifest()
    assert caught.value.code is ErrorCode.CHECKPOINT_DAMAGED
    result.unlink()
    with pytest.raises(SemiSupSegError) as caught:
        folder.verify_manifest()
    assert caught.value.code is ErrorCode.MISSING_FILE


@pytest.mark.parametrize("body", [[], {}, {"schema": 1}, {"schema": 1, "outcome": "finished", "files": [{"path": 1}]}])
def test_a_damaged_manifest_is_said_so(folder, body):
    folder.manifest_file.write_text(json.dumps(body))
    with pytest.raises(SemiSupSegError) as caught:
        folder.verify_manifest()
    assert caught.value.code is ErrorCode.UNREADABLE_FILE


def test_events_are_read_on_from_an_offset_and_damage_is_skipped(folder):
    end = folder.append_event(encode_event("warning", {"message": "one"}))
    folder.close()
    with open(folder.events_file, "ab") as file:
        file.write(b'{"v": 1, "event": "warn')  # the power went off here
    assert [event["message"] for event in folder.events()] == ["one"]
    folder.append_event(encode_event("warning", {"message": "two"}))
    assert [event["message"] for event in folder.events()] == ["one", "two"]
    assert [event["message"] for event in folder.events(end)] == ["two"]


def test_curves_survive_a_resume_and_a_cut_row(folder):
    folder.append_metrics(1, {"loss": 0.5})
    folder.append_metrics(2, {"loss": 0.4, 'odd, "name"': math.nan})
    folder.close()
    with open(folder.metrics_file, "ab") as file:
        file.write(b"3,lo")
    folder.append_metrics(2, {"loss": 0.3})  # resumed from iteration 1
    curves = folder.metrics()
    assert curves["loss"] == [(1, 0.5), (2, 0.3)]
    assert [iteration for iteration, _ in curves['odd, "name"']] == [2]


def test_commands_are_taken_once_and_in_order(folder):
    for name in ("pause", "resume"):
        folder.put_command(Command(name))
    (folder.commands / "nonsense.json").write_bytes(b"\xff")
    assert [each.name for each in folder.take_commands()] == ["pause", "resume", ""]
    assert folder.take_commands() == []


def test_one_worker_a_folder(folder):
    with folder.lock():
        with pytest.raises(SemiSupSegError) as caught:
            folder.lock(seconds=0)
        assert caught.value.code is ErrorCode.RUN_BUSY
    folder.lock(seconds=0).release()


def test_runs_are_listed_newest_first_and_get_free_names(tmp_path):
    first = RunFolder.create(new_run_path(tmp_path, "sp3"), RunRequest("train"))
    second = RunFolder.create(new_run_path(tmp_path, "a/b c"), RunRequest("train"))
    third = RunFolder.create(new_run_path(tmp_path, "sp3"), RunRequest("train"))
    (tmp_path / "not a run").mkdir()
    assert len({first.path, second.path, third.path}) == 3
    assert {each.path for each in list_runs(tmp_path)} == {first.path, second.path, third.path}


def test_the_last_checkpoint_is_the_one_of_the_highest_iteration(folder):
    assert folder.last_checkpoint is None
    for name in ("000900", "001000", ".tmp-1", "best"):
        (folder.checkpoints / name).mkdir()
    assert folder.last_checkpoint.name == "001000"
