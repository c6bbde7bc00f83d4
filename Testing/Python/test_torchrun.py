"""What torchrun says in the environment, and what the command line makes of it before torch is loaded."""

from __future__ import annotations

import pytest

from SemiSupSegLib import torchrun
from SemiSupSegLib.command_line import main
from SemiSupSegLib.commands import train
from SemiSupSegLib.errors import ErrorCode, SemiSupSegError
from SemiSupSegLib.phantom import make_phantom_cohort
from SemiSupSegLib.runs import RunFolder, RunRequest, State, Status


@pytest.fixture(autouse=True)
def without_torchrun(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def as_follower(monkeypatch):
    for name, value in {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "a"}.items():
        monkeypatch.setenv(name, value)


def test_without_torchrun_a_process_is_alone_and_leads(monkeypatch):
    assert (torchrun.rank(), torchrun.local_rank(), torchrun.world_size(), torchrun.restarts()) == (0, 0, 1, 0)
    assert torchrun.is_leader()
    assert not torchrun.is_used()
    monkeypatch.setenv("RANK", "first")
    assert torchrun.is_leader()


def test_under_torchrun_one_process_leads(as_follower):
    assert (torchrun.rank(), torchrun.local_rank(), torchrun.world_size()) == (3, 1, 4)
    assert not torchrun.is_leader()
    assert torchrun.is_used()


def test_commands_for_one_process_are_refused_by_the_leader_alone(as_follower, monkeypatch, capsys):
    assert main(["doctor"]) == 2
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("RANK", "0")
    assert main(["doctor"]) == 2
    assert capsys.readouterr().err == "'doctor' runs in one process only. Start it without torchrun.\n"


@pytest.mark.parametrize("used, code", [(False, 3), (True, 0)])
def test_torchrun_is_not_told_to_restart_what_was_cancelled(monkeypatch, used, code):
    if used:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a")

    def cancelled(options):
        raise SemiSupSegError("Cancelled.", code=ErrorCode.CANCELLED)

    monkeypatch.setattr("SemiSupSegLib.commands.doctor.run", cancelled)
    assert main(["doctor"]) == code


@pytest.mark.parametrize("state, starts", [(State.CANCELLED, False), (State.FAILED, True), (State.RUNNING, True)])
def test_a_restart_goes_on_with_what_was_not_cancelled(tmp_path, monkeypatch, state, starts):
    cohort = make_phantom_cohort(tmp_path / "c", n_cases=2, shape=(8, 16, 16), n_scribbled=1, n_test=0)
    folder = RunFolder.create(tmp_path / "run", RunRequest("train", cohort=str(cohort.path)))
    folder.write_status(Status(state))
    followed = []
    monkeypatch.setattr(train, "follow", lambda *arguments, **options: followed.append(arguments))
    arguments = ["train", str(cohort.path), "--method", "sp3", "--out", str(folder.path)]
    assert main(arguments) == 1  # a new run in a folder that holds one
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert main(arguments) == 0
    assert bool(followed) == starts
