"""Checkpoints: whole, verified, rotated; a damaged one is passed over, and nothing is ever unpickled."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from SemiSupSegLib.errors import ErrorCode, ModelError, SemiSupSegError
from SemiSupSegLib.learning import checkpoints
from SemiSupSegLib.learning.checkpoints import (
    Checkpoint,
    load_checkpoint,
    load_newest_checkpoint,
    load_optimizer_tensors,
    load_tensors,
    optimizer_tensors,
    save_checkpoint,
    save_tensors,
)

FILES = ("student.safetensors", "teacher.safetensors", "optimizer.safetensors", "state.json")


def checkpoint(iteration: int, value: float = 1.0) -> Checkpoint:
    tensors = {"weight": torch.full((2, 3), value), "steps": torch.tensor(iteration)}
    return Checkpoint(iteration, tensors, tensors, tensors, {"method": {"tau": [0.1 + 0.2]}, "rate_factor": 0.5})


def test_a_checkpoint_is_read_back_bit_for_bit(tmp_path):
    written = checkpoint(7, value=1 / 3)
    read = load_checkpoint(save_checkpoint(tmp_path, written))
    assert read.iteration == 7
    assert read.state == written.state
    for name in ("student", "teacher", "optimizer"):
        assert torch.equal(getattr(read, name)["weight"], written.student["weight"])
    assert read.size_bytes == 3 * (6 * 4 + 8)


def test_only_the_newest_are_kept(tmp_path):
    for iteration in (5, 10, 100, 20):
        save_checkpoint(tmp_path, checkpoint(iteration))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["00000020", "00000100"]
    assert load_newest_checkpoint(tmp_path).iteration == 100


def test_what_was_just_written_is_kept_though_damaged_ones_are_newer(tmp_path):
    for iteration in (1, 20, 30):
        save_checkpoint(tmp_path, checkpoint(iteration), kept=3)
    for name in ("00000020", "00000030"):
        damaged(tmp_path / name, "student.safetensors", "truncated")
    assert load_newest_checkpoint(tmp_path).iteration == 1
    assert save_checkpoint(tmp_path, checkpoint(2)).is_dir()
    assert load_newest_checkpoint(tmp_path).iteration == 2


def test_a_checkpoint_of_the_same_iteration_is_replaced(tmp_path):
    save_checkpoint(tmp_path, checkpoint(5, 1.0))
    save_checkpoint(tmp_path, checkpoint(5, 2.0))
    assert [each.name for each in tmp_path.iterdir()] == ["00000005"]
    assert load_newest_checkpoint(tmp_path).student["weight"][0, 0] == 2.0


def test_without_any_checkpoint_there_is_none(tmp_path):
    assert load_newest_checkpoint(tmp_path) is None
    assert load_newest_checkpoint(tmp_path / "missing") is None
    (tmp_path / ".tmp-1-2").mkdir()
    assert load_newest_checkpoint(tmp_path) is None


def damaged(folder, name: str, how: str) -> None:
    file = folder / name
    content = bytearray(file.read_bytes())
    if how == "missing":
        file.unlink()
    elif how == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif how == "altered":
        content[-3] ^= 1
        file.write_bytes(content)
    else:
        file.write_bytes(b"")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["missing", "truncated", "altered", "empty"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before_with_a_warning(tmp_path, name, how):
    save_checkpoint(tmp_path, checkpoint(1))
    damaged(save_checkpoint(tmp_path, checkpoint(2)), name, how)
    warnings = []
    assert load_newest_checkpoint(tmp_path, warnings.append).iteration == 1
    assert len(warnings) == 1
    assert "00000002" in warnings[0]


def test_if_none_is_whole_that_is_an_error(tmp_path):
    for iteration in (1, 2):
        damaged(save_checkpoint(tmp_path, checkpoint(iteration)), "teacher.safetensors", "truncated")
    with pytest.raises(ModelError) as caught:
        load_newest_checkpoint(tmp_path)
    assert caught.value.code is ErrorCode.CHECKPOINT_DAMAGED


@pytest.mark.parametrize(
    "change", [{"iteration": 9}, {"state": {}}, {"checksums": {}}, {"checksums": None}, {"iteration": None}]
)
def test_a_state_that_was_tampered_with_is_not_believed(tmp_path, change):
    file = save_checkpoint(tmp_path, checkpoint(3)) / "state.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ModelError):
        load_checkpoint(file.parent)


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('unpickled')",))


def test_nothing_is_unpickled(tmp_path):
    file = tmp_path / "weights.safetensors"
    torch.save(Bomb(), file)
    with pytest.raises(ModelError, match="can't be read"):
        load_tensors(file)
    file.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ModelError, match="can't be read"):
        load_tensors(file)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_to_weights_is_an_error_for_people_or_harmless(tmp_path, data):
    file = tmp_path / "weights.safetensors"
    save_tensors(file, {"a": torch.arange(4.0), "b": torch.ones(2, dtype=torch.int64)})
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    failures = []
    try:
        load_tensors(file)
    except ModelError as error:
        failures.append(error.message)
    assert all(message.endswith(".") for message in failures)


def test_a_full_disk_keeps_the_older_checkpoint_and_says_so(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, checkpoint(1))

    def full(path, content, **options):
        raise SemiSupSegError("The disk is full.", code=ErrorCode.DISK_FULL)

    monkeypatch.setattr(checkpoints, "write_bytes_atomically", full)
    with pytest.raises(SemiSupSegError) as caught:
        save_checkpoint(tmp_path, checkpoint(2))
    assert caught.value.code is ErrorCode.DISK_FULL
    assert [each.name for each in tmp_path.iterdir()] == ["00000001"]


def test_a_failing_replacement_leaves_the_checkpoint_that_was_there(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, checkpoint(1, 1.0))

    def refuse(*arguments, **options):
        raise SemiSupSegError("No.", code=ErrorCode.NOT_WRITABLE)

    monkeypatch.setattr(checkpoints, "replace_atomically", refuse)
    with pytest.raises(SemiSupSegError):
        save_checkpoint(tmp_path, checkpoint(1, 2.0))
    assert [each.name for each in tmp_path.iterdir()] == ["00000001"]
    assert load_newest_checkpoint(tmp_path).student["weight"][0, 0] == 1.0


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SemiSupSegError, match="write a checkpoint"):
        save_checkpoint(tmp_path / "file", checkpoint(1))


def test_training_on_with_loaded_tensors_leaves_the_file_alone(tmp_path):
    file = tmp_path / "weights.safetensors"
    save_tensors(file, {"a": torch.zeros(4)})
    before = file.read_bytes()
    load_tensors(file)["a"].add_(1)
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    "make",
    [
        lambda parameters: torch.optim.SGD(parameters, 0.1, momentum=0.9),
        lambda parameters: torch.optim.AdamW(parameters, 0.1),
    ],
)
def test_an_optimiser_goes_on_as_if_it_had_not_stopped(tmp_path, make):
    def step(network, optimizer, number: int) -> None:
        optimizer.zero_grad()
        network(torch.full((1, 3), float(number))).sum().backward()
        optimizer.step()

    torch.manual_seed(0)
    first, second = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    second.load_state_dict(first.state_dict())
    one, other = make(first.parameters()), make(second.parameters())
    for number in range(3):
        step(first, one, number)
    save_tensors(tmp_path / "optimizer.safetensors", optimizer_tensors(one))
    second.load_state_dict(first.state_dict())
    load_optimizer_tensors(other, load_tensors(tmp_path / "optimizer.safetensors"))
    for number in range(3, 6):
        step(first, one, number)
        step(second, other, number)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
