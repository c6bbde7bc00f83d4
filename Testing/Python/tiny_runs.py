"""Tiny trainings in this process, and what they leave."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from scripted_session import Script, ScriptedSession

from SemiSupSegLib.cohort import Cohort
from SemiSupSegLib.learning.worker import TASKS, run
from SemiSupSegLib.phantom import make_phantom_cohort
from SemiSupSegLib.runs import RunFolder, RunRequest
from SemiSupSegLib.training_settings import TrainingSettings

ITERATIONS = 8
TINY = (
    "device=cpu", "threads=1", f"iterations={ITERATIONS}", "validations=2", "plan.features=4,8", "plan.patch=16,16,8",
    "schedule.unlabeled_start=0.3",
)  # fmt: skip


def phantom_cohort(folder: Path) -> Cohort:
    """Two scribbled cases, one without annotation, one for validation."""
    return make_phantom_cohort(folder, n_cases=4, shape=(12, 24, 24), n_scribbled=2, n_validation=1, n_test=0)


def new_run(folder: Path, cohort: Cohort, *overrides: str) -> RunFolder:
    settings = TrainingSettings().with_overrides(["method=partial", *TINY, *overrides])
    request = RunRequest("train", cohort=str(cohort.path), settings=settings.to_json(), label="tiny", exclusive=False)
    return RunFolder.create(folder / "run", request)


def work(folder: RunFolder, script: Script = {}) -> tuple[int, ScriptedSession]:  # noqa: B006
    """Exit code and session of a worker in this process."""
    with folder.lock(), ScriptedSession(folder, script) as session:
        return run(session, TASKS), session


def weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    files = [folder.model / f"{network}.safetensors" for network in ("student", "teacher")]
    return {f"{file.stem} {name}": tensor for file in files for name, tensor in load_file(file).items()}


def assert_equal_weights(one: RunFolder, other: RunFolder) -> None:
    first, second = weights(one), weights(other)
    assert all(torch.equal(first[name], second[name]) for name in first)


def answers(session: ScriptedSession) -> dict[str, Mapping]:
    return {fields["command"]: fields for fields in session.fields_of("answer")}
