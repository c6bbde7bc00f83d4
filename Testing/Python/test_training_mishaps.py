"""Trainings in which something goes wrong: losses that are no numbers, too little memory, a full disk."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scripted_session import sending
from tiny_runs import ITERATIONS, new_run, phantom_cohort, weights, work

from SemiSupSegLib.cohort import Cohort
from SemiSupSegLib.errors import ErrorCode, SemiSupSegError
from SemiSupSegLib.learning.local_session import LocalSession
from SemiSupSegLib.learning.methods import METHODS
from SemiSupSegLib.learning.plan import Plan
from SemiSupSegLib.learning.trainer import Trainer
from SemiSupSegLib.models import Model
from SemiSupSegLib.runs import State

pytestmark = pytest.mark.usefixtures("threads_as_before")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Cohort:
    return phantom_cohort(tmp_path_factory.mktemp("phantom"))


def spoilt(monkeypatch, when: Callable[[int, int], bool]) -> list[int]:
    """Makes the loss NaN when told by (step at all, iteration); returns where steps were taken."""
    taken: list[int] = []
    original = METHODS["partial"].training_step

    def training_step(self, step):
        losses = original(self, step)
        taken.append(step.iteration)
        if when(len(taken), step.iteration):
            losses.total = losses.total * math.nan
        return losses

    monkeypatch.setattr(METHODS["partial"], "training_step", training_step)
    return taken


def test_a_loss_that_is_no_number_rolls_back_to_the_checkpoint_at_half_the_rate(cohort, tmp_path, monkeypatch):
    taken = spoilt(monkeypatch, lambda count, iteration: count == 6)
    folder = new_run(tmp_path, cohort, "optimizer.schedule=constant", "optimizer.warmup=0")
    code, session = work(folder, {3: sending("checkpoint")})
    assert code == 0
    assert taken == [0, 1, 2, 3, 4, 5, 3, 4, 5, 6, 7]
    assert "iteration 3 at half the learning rate" in session.fields_of("warning")[0]["message"]
    rates = dict(folder.metrics()["learning rate"])
    assert rates[8] == pytest.approx(rates[3] / 2)
    assert all(torch.isfinite(tensor).all() for tensor in weights(folder).values())


def test_without_a_checkpoint_it_rolls_back_to_the_beginning(cohort, tmp_path, monkeypatch):
    taken = spoilt(monkeypatch, lambda count, iteration: count == 3)
    folder = new_run(tmp_path, cohort)
    assert work(folder)[0] == 0
    assert taken == [0, 1, 2, *range(ITERATIONS)]
    assert all(torch.isfinite(tensor).all() for tensor in weights(folder).values())


def test_a_gradient_that_is_no_number_never_gets_into_a_checkpoint(cohort, tmp_path, monkeypatch):
    original = METHODS["partial"].training_step
    hits = []

    def training_step(self, step):
        losses = original(self, step)
        if step.iteration == 4 and not hits:
            hits.append(1)
            losses.total.register_hook(lambda gradient: gradient * math.inf)
        return losses

    monkeypatch.setattr(METHODS["partial"], "training_step", training_step)
    folder = new_run(tmp_path, cohort, "checkpoint_minutes=0.01")
    code, session = work(folder)
    assert code == 0
    assert "no longer a number" in session.fields_of("warning")[0]["message"]
    assert all(torch.isfinite(tensor).all() for tensor in weights(folder).values())


def test_the_third_time_the_run_fails_and_says_so(cohort, tmp_path, monkeypatch):
    taken = spoilt(monkeypatch, lambda count, iteration: iteration == 2)
    folder = new_run(tmp_path, cohort)
    code, session = work(folder)
    assert code == 1
    assert session.error["code"] == "diverged"
    assert taken == [0, 1, 2] * 3
    assert folder.assess() is State.FAILED


def short_of_memory(monkeypatch, fits: Callable[[Plan], bool]) -> None:
    original = Trainer.step

    def step(self):
        if not fits(self.plan):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self)

    monkeypatch.setattr(Trainer, "step", step)


def test_out_of_memory_shrinks_the_batch_then_the_patch(cohort, tmp_path, monkeypatch):
    short_of_memory(monkeypatch, lambda plan: plan.batch_size == 1 and np.prod(plan.patch) < 16 * 16 * 8)
    folder = new_run(tmp_path, cohort)
    code, session = work(folder)
    assert code == 0
    warnings = [fields["message"] for fields in session.fields_of("warning")]
    assert "1 patch in a batch" in warnings[0]
    assert "patches of 8 x 16 x 8 voxels" in warnings[1]
    assert folder.details()["plan"]["patch"] == [8, 16, 8]
    assert Model.load(folder.path).plan["batch_size"] == 1


def test_out_of_memory_in_the_midst_goes_on_from_the_checkpoint(cohort, tmp_path, monkeypatch):
    original, failed = Trainer.step, []

    def step(self):
        if self.iteration == 5 and not failed:
            failed.append(1)
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return original(self)

    monkeypatch.setattr(Trainer, "step", step)
    folder = new_run(tmp_path, cohort)
    assert work(folder, {4: sending("checkpoint")})[0] == 0
    assert Model.load(folder.path).plan["batch_size"] == 1
    assert [iteration for iteration, _ in folder.metrics()["loss"]] == list(range(1, 9))


def test_out_of_memory_for_good_is_an_error_for_people(cohort, tmp_path, monkeypatch):
    short_of_memory(monkeypatch, lambda plan: False)
    code, session = work(new_run(tmp_path, cohort))
    assert code == 1
    assert session.error["code"] == "out-of-memory"
    assert len(session.fields_of("warning")) == 2


def test_another_runtime_error_is_not_taken_for_it(cohort, tmp_path, monkeypatch):
    def step(self):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(Trainer, "step", step)
    code, session = work(new_run(tmp_path, cohort))
    assert (code, session.error["code"]) == (1, "internal")
    assert not session.fields_of("warning")


def test_a_full_disk_fails_the_run_but_keeps_its_checkpoint(cohort, tmp_path, monkeypatch):
    folder = new_run(tmp_path, cohort)

    def full(session: LocalSession) -> None:
        def check_disk(needed: int) -> None:
            raise SemiSupSegError("The disk is full.", code=ErrorCode.DISK_FULL)

        session.check_disk = check_disk

    code, session = work(folder, {3: sending("checkpoint"), 5: full})
    assert (code, session.error["code"]) == (1, "disk-full")
    assert folder.last_checkpoint.name == "00000003"
    assert work(folder)[0] == 0
