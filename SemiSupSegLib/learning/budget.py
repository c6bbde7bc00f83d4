"""From minutes to iterations: a few steps of each phase are timed, and the number is then fixed for good."""

from __future__ import annotations

import bisect
import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import torch

from ..training_settings import TrainingSettings
from .cases import TrainingCase
from .distributed import ALONE, Processes
from .plan import Plan
from .prediction import Predictor
from .trainer import Trainer

_WARM_UP_STEPS = 3
_TIMED_STEPS = 10
_FEWEST_TIMED_STEPS = 2
_LONGEST_SECONDS = 0.8
"""Where steps are slow, that is on a CPU, fewer of them say enough: nobody should wait for the first real one."""
_FEWEST_ITERATIONS, _MOST_ITERATIONS = 50, 10**12
_LEAST_SHARE_OF_STEPS, _LARGEST_SHARE_OF_LOOKS = 0.5, 0.25
"""Of the minutes: what remains for training however long the preparation took, and of that what goes into looks."""

OnProgress = Callable[[float, str], None]


@dataclass(frozen=True)
class Look:
    """A kind of look that a training takes at itself: how often, and how many voxels it predicts for that."""

    times: int
    voxels: int


@dataclass(frozen=True)
class Length:
    """How long a whole training is.

    Attributes
    ----------
    iterations : int
        All of them.
    looks : mapping of str to int
        How often each kind of look is taken.
    joined_seconds : float, optional
        What a step with the unlabeled branch took; None where no step was timed.
    """

    iterations: int
    looks: Mapping[str, int] = field(default_factory=dict)
    joined_seconds: float | None = None


def planned_length(
    settings: TrainingSettings,
    plan: Plan,
    device: torch.device,
    cases: Sequence[TrainingCase],
    on_progress: OnProgress = lambda fraction, text: None,
    processes: Processes = ALONE,
    *,
    looks: Mapping[str, Look] | None = None,
    begun: float | None = None,
) -> Length:
    """How many iterations the training has, and how many looks.

    Where minutes were given, a throw-away training measures what steps cost with and without the unlabeled branch, and
    what a look costs; the time that this takes counts, too. Where looks would take more than a quarter of what is left
    there are fewer of them, at least one of each kind. Of several processes the leader's clock decides.

    Parameters
    ----------
    looks : mapping of str to Look, optional
        Each kind of look as it is wanted.
    begun : float, optional
        When the minutes began, as `time.monotonic` tells; now by default. Half of them at least are left for
        training and looks, and half of that for training.
    """
    looks = looks or {}
    if settings.budget_minutes is None:
        return Length(settings.iterations, {kind: look.times for kind, look in looks.items()})
    begun = time.monotonic() if begun is None else begun
    scratch = Trainer(settings, plan, device, cases, iterations=_MOST_ITERATIONS, processes=processes)
    costs_of_steps = {
        kind: _step_seconds(scratch, fraction, on_progress) for kind, (fraction, _) in _phases(scratch).items()
    }
    *_, joined_seconds = costs_of_steps.values()

    def seconds(iterations: int) -> float:
        """What so many steps take; in a short training more of them are on annotations alone."""
        scratch.method.iterations = iterations
        return iterations * sum(share * costs_of_steps[kind] for kind, (_, share) in _phases(scratch).items())

    def length() -> dict:
        in_use = [look for look in looks.values() if look.times * look.voxels]
        a_voxel = _seconds_a_voxel(scratch, cases[0].image, on_progress) if in_use else 0.0
        minutes = settings.budget_minutes * 60
        left = max(_LEAST_SHARE_OF_STEPS * minutes, minutes - (time.monotonic() - begun))
        costs = {kind: look.voxels * a_voxel for kind, look in looks.items()}
        return asdict(replace(_divided(left, seconds, looks, costs), joined_seconds=joined_seconds))

    return Length(**processes.of_leader(length))


def _divided(
    left: float, seconds: Callable[[int], float], looks: Mapping[str, Look], costs: Mapping[str, float]
) -> Length:
    """Seconds divided into steps and looks, from what so many steps, and a look of each kind, take."""
    wanted = sum(look.times * costs[kind] for kind, look in looks.items())
    share = min(1.0, _LARGEST_SHARE_OF_LOOKS * left / wanted) if wanted > 0 else 1.0
    times = {kind: max(min(look.times, 1), int(look.times * share)) for kind, look in looks.items()}
    for_steps = max(left - sum(times[kind] * costs[kind] for kind in looks), left / 2)
    affordable = bisect.bisect_right(range(1, _MOST_ITERATIONS), for_steps, key=seconds)
    return Length(max(_FEWEST_ITERATIONS, affordable), times)


def _phases(trainer: Trainer) -> dict[tuple[int, int], tuple[float, float]]:
    """Each kind of batch, in the order of the training: a fraction that stands for it, and the share of its steps."""
    grid = np.linspace(0, 1, 200, endpoint=False)
    kinds: dict[tuple[int, int], list[float]] = {}
    for fraction in grid:
        composition = trainer.method.composition(float(fraction))
        kinds.setdefault((composition.labeled, composition.unlabeled), []).append(float(fraction))
    return {kind: (fractions[-1], len(fractions) / len(grid)) for kind, fractions in kinds.items()}


def _step_seconds(trainer: Trainer, fraction: float, on_progress: OnProgress) -> float:
    times = []
    steps = _WARM_UP_STEPS + _TIMED_STEPS
    for step in range(steps):
        on_progress(step / steps, "Measuring the speed of this computer")
        begun = time.monotonic()
        trainer.step_at(fraction)
        _wait_for(trainer.device)
        times.append(trainer.processes.of_leader(lambda: time.monotonic() - begun))  # noqa: B023
        if len(times) > _FEWEST_TIMED_STEPS and sum(times) > _LONGEST_SECONDS:
            break
    return float(np.mean(times[min(_WARM_UP_STEPS, len(times) - _FEWEST_TIMED_STEPS) :]))


class _Enough(Exception):
    """Ends a prediction of which enough was timed."""


def _seconds_a_voxel(trainer: Trainer, image: torch.Tensor, on_progress: OnProgress) -> float:
    """What the prediction of a voxel takes: of an image's windows as many are timed as there is time for."""
    predictor = Predictor(copy.deepcopy(trainer.teacher).eval(), trainer.plan, trainer.device)
    done: list[tuple[float, float]] = []  # which share of the image, and when

    def on_window(fraction: float) -> None:
        on_progress(fraction, "Measuring the speed of this computer")
        _wait_for(trainer.device)
        done.append((fraction, time.monotonic()))
        if done[-1][1] - done[0][1] > _LONGEST_SECONDS:
            raise _Enough

    for _ in range(2):  # the first time warms up
        done = [(0.0, time.monotonic())]
        try:
            predictor.on_plan_grid(image.to(trainer.device), on_window)
        except _Enough:
            break
    (first, begin), (last, end) = done[0] if len(done) == 2 else done[1], done[-1]
    return (end - begin) / (last - first) / image.numel()


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
