"""What a training says of itself while it runs: curves, and how long it still takes."""

from __future__ import annotations

import functools
from bisect import bisect_left
from collections import deque

import numpy as np

from .session import Session
from .trainer import Trainer

_CURVE_POINTS = 1000
_TIMED_STEPS = 50


class Curves:
    """Averages the numbers of a few steps into one point of each curve, about a thousand in a training.

    Parameters
    ----------
    session : Session
        Is told.
    iterations : int
        Of the whole training.
    joined_seconds : float, optional
        What a step with the unlabeled branch took when it was timed. Where nobody did, it is thought to take longer as
        it has more patches.
    """

    def __init__(self, session: Session, iterations: int, joined_seconds: float | None = None):
        self.session = session
        self.iterations = iterations
        self.joined_seconds = joined_seconds
        self._every = max(1, iterations // _CURVE_POINTS)
        self._collected: list[dict[str, float]] = []
        self._seconds: deque[float] = deque(maxlen=_TIMED_STEPS)
        self._was_joined = False
        self._steps = 0
        self._looking = 0.0

    def add(self, trainer: Trainer, values: dict[str, float], seconds: float) -> None:
        """Take in a step's numbers and how long it took; tell when enough have come together."""
        self._collected.append(values)
        is_joined = self._is_joined(trainer, trainer.iteration - 1)
        if is_joined != self._was_joined:
            self._seconds.clear()
        self._was_joined = is_joined
        self._seconds.append(seconds)
        self._steps += 1
        if len(self._collected) >= self._every or trainer.iteration == self.iterations:
            self.session.emit("metric", iteration=trainer.iteration, values=_means(self._collected))
            self._collected = []
            self._report_progress(trainer)

    def add_look(self, seconds: float) -> None:
        """Take in how long was looked at something after a step; looks lie at equal distances."""
        self._looking += seconds

    def forget(self) -> None:
        """Leave out what was collected since the last point, after a step that went wrong."""
        self._collected = []

    def _report_progress(self, trainer: Trainer) -> None:
        alone = trainer.method.uses_unlabeled and not self._is_joined(trainer, trainer.iteration)
        self.session.emit(
            "progress",
            stage="Training on annotations" if alone else "Training",
            fraction=trainer.fraction,
            iteration=trainer.iteration,
            iterations=self.iterations,
            seconds_left=round(self._seconds_left(trainer), 1),
        )

    def _is_joined(self, trainer: Trainer, step: int) -> bool:
        """Whether the unlabeled branch takes part in a step, counted from 0."""
        return trainer.method.composition(step / self.iterations).unlabeled > 0

    def _seconds_left(self, trainer: Trainer) -> float:
        """Steps as long as the last ones, longer from when the unlabeled branch joins, and looks as often as so far."""
        steps = range(trainer.iteration, self.iterations)
        joins = bisect_left(steps, True, key=functools.partial(self._is_joined, trainer))
        now = float(np.mean(self._seconds))
        then = now if self._was_joined else self._joined_seconds(trainer, now)
        return now * joins + then * (len(steps) - joins) + self._looking / self._steps * len(steps)

    def _joined_seconds(self, trainer: Trainer, alone: float) -> float:
        """What a step with the unlabeled branch will take, from what one without takes."""
        if self.joined_seconds is not None:
            return self.joined_seconds
        last = trainer.composition((self.iterations - 1) / self.iterations)
        return alone * (last.labeled + last.unlabeled) / last.labeled


def _means(collected: list[dict[str, float]]) -> dict[str, float]:
    names = {name for values in collected for name in values}
    return {name: float(np.mean([values[name] for values in collected if name in values])) for name in sorted(names)}
