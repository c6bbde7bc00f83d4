"""Two processes on a CPU that train as one: the same numbers for every method, and everything agreed on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_problem import CPU, tiny_plan, training_case
from two_processes import in_two_processes

from SemiSupSegLib.labels import IGNORE
from SemiSupSegLib.learning.budget import planned_length
from SemiSupSegLib.learning.distributed import ALONE, Processes, joined_processes
from SemiSupSegLib.learning.trainer import Trainer
from SemiSupSegLib.training_settings import TrainingSettings

STEPS = 20
KINDS: dict[str, tuple[tuple[str, ...], dict[str, object]]] = {
    "partial": (("method=partial",), {}),
    "partial, deep supervision": (
        ("method=partial",),
        {"deep_supervision": True, "features": (4, 6, 8), "strides": ((2, 2, 2), (2, 2, 2))},
    ),
    "supervised, batch norm": (("method=supervised",), {"norm": "batch"}),
    "sp3": (("method=sp3",), {}),
    "sp3, batch norm": (("method=sp3",), {"norm": "batch"}),
    "sgrs": (("method=sgrs",), {}),
    "sgrs, legacy": (("method=sgrs", "sgrs.legacy=true"), {}),
    "embedding_matching": (("method=embedding_matching",), {}),
    "mean_teacher": (("method=mean_teacher",), {}),
    "ua_mt": (("method=ua_mt",), {}),
}  # fmt: skip
"""Settings and changes of the plan by name."""


def three_cases() -> list:
    """Two scribbled cases and an unlabeled one, 12^3 voxels, with superpixels."""
    made = []
    for index in range(3):
        numbers = np.random.default_rng(index)
        image = numbers.standard_normal((12, 12, 12)).astype(np.float32)
        image[3:9, 3:9, 3:9] += 2
        annotation = np.full(image.shape, IGNORE, np.uint8)
        annotation[5, 5, 3:9], annotation[5, 1, 1 : 11 - 4 * index] = 1, 0
        made.append(training_case(f"case{index}", image, annotation if index < 2 else None, superpixel_size=3.0))
    return made


def a_trainer(kind: str, processes: Processes) -> Trainer:
    """Batches of 3, so that two processes have shares of different size."""
    overrides, plan = KINDS[kind]
    settings = TrainingSettings().with_overrides(
        ["schedule.unlabeled_start=0.1", "schedule.unlabeled_ramp=0.2", *overrides]
    )
    values = {"features": (4, 8), "strides": ((2, 2, 2),), "norm": "instance", "batch_size": 3, **plan}
    return Trainer(settings, tiny_plan(size=8, **values), CPU, three_cases(), STEPS, processes)


def losses(kind: str, processes: Processes) -> dict[str, list]:
    """Every step's numbers, and at last the teacher's."""
    torch.set_num_threads(1)
    trainer = a_trainer(kind, processes)
    curves = [trainer.step() for _ in range(STEPS)]
    teacher = torch.cat([each.flatten().double() for each in trainer.teacher.state_dict().values()])
    return {"curves": curves, "teacher": teacher.tolist()}


def all_losses(folder: Path) -> dict[str, dict]:
    with joined_processes() as processes:
        found = {kind: losses(kind, processes) for kind in KINDS}
        trainer = a_trainer("sp3", processes)
        settings = TrainingSettings(method="sp3", minutes=0.05 if processes.is_leader else 100)
        found["planned"] = planned_length(settings, trainer.plan, CPU, trainer.cases, processes=processes).iterations
        return found


@pytest.fixture(scope="module")
def shared_losses(tmp_path_factory) -> list:
    return in_two_processes(all_losses, tmp_path_factory.mktemp("losses"))


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_train_with_the_numbers_of_one(shared_losses, kind):
    alone = losses(kind, ALONE)
    for curves, expected in zip(shared_losses[0][kind]["curves"], alone["curves"], strict=True):
        assert curves == pytest.approx(expected, abs=1e-4, rel=1e-4)
    np.testing.assert_allclose(shared_losses[0][kind]["teacher"], alone["teacher"], atol=1e-4)


def test_the_clock_of_the_leader_decides_how_long_to_train(shared_losses):
    assert shared_losses[0]["planned"] == shared_losses[1]["planned"] >= 50


@pytest.mark.parametrize("kind", KINDS)
def test_the_teacher_is_the_same_in_every_process(shared_losses, kind):
    first, second = (each[kind]["teacher"] for each in shared_losses)
    assert first == second
