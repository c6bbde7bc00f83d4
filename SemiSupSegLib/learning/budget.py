"""From minutes to iterations: a few steps of each phase are timed, and the number is then fixed for good."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from ..training_settings import TrainingSettings
from .cases import TrainingCase
from .distributed import ALONE, Processes
from .plan import Plan
from .trainer import Trainer

_WARM_UP_STEPS = 3
_TIMED_STEPS = 10
_FEWEST_TIMED_STEPS = 2
_LONGEST_SECONDS = 0.8
"""Where steps are slow, that is on a CPU, fewer of them say enough: nobody should wait for the first real one."""
_SMALL_SHARE = 0.25
"""Of steps of a kind that is this rare, a single timed one says enough."""
_FEWEST_ITERATIONS = 50


def planned_iterations(
    settings: TrainingSettings,
    plan: Plan,
    device: torch.device,
    cases: Sequence[TrainingCase],
    on_progress: Callable[[float, str], None] = lambda fraction, text: None,
    processes: Processes = ALONE,
) -> int:
    """How many iterations the training has.

    Where minutes were given, a throw-away training measures what steps cost with and without the unlabeled branch; the
    time that this takes counts as training time. Of several processes the leader's clock decides.
    """
    if settings.budget_minutes is None:
        return settings.iterations
    begun = time.monotonic()
    scratch = Trainer(settings, plan, device, cases, iterations=1_000_000, processes=processes)
    shares = _phase_shares(scratch)
    seconds = 0.0
    for fraction, share in shares.items():
        fewest = _FEWEST_TIMED_STEPS if share > _SMALL_SHARE else 1
        seconds += share * _step_seconds(scratch, fraction, fewest, on_progress)
    left = processes.of_leader(lambda: settings.budget_minutes * 60 - (time.monotonic() - begun))
    return max(_FEWEST_ITERATIONS, int(left / seconds))


def _phase_shares(trainer: Trainer) -> dict[float, float]:
    """A fraction of the training that stands for each kind of batch, and the share of steps that are of its kind."""
    grid = np.linspace(0, 1, 200, endpoint=False)
    kinds: dict[tuple[int, int], list[float]] = {}
    for fraction in grid:
        composition = trainer.method.composition(float(fraction))
        kinds.setdefault((composition.labeled, composition.unlabeled), []).append(float(fraction))
    return {fractions[-1]: len(fractions) / len(grid) for fractions in kinds.values()}


def _step_seconds(trainer: Trainer, fraction: float, fewest: int, on_progress: Callable[[float, str], None]) -> float:
    times = []
    steps = _WARM_UP_STEPS + _TIMED_STEPS
    for step in range(steps):
        on_progress(step / steps, "Measuring the speed of this computer")
        begun = time.monotonic()
        trainer.step_at(fraction)
        _wait_for(trainer.device)
        times.append(trainer.processes.of_leader(lambda: time.monotonic() - begun))  # noqa: B023
        if len(times) > fewest and sum(times) > _LONGEST_SECONDS:
            break
    return float(np.mean(times[min(_WARM_UP_STEPS, len(times) - fewest) :]))


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
