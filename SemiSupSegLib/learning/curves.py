"""What a training says of itself while it runs: curves, and how long it still takes."""

from __future__ import annotations

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
    """

    def __init__(self, session: Session, iterations: int):
        self.session = session
        self.iterations = iterations
        self._every = max(1, iterations // _CURVE_POINTS)
        self._collected: list[dict[str, float]] = []
        self._seconds: deque[float] = deque(maxlen=_TIMED_STEPS)
        self._steps = 0
        self._looking = 0.0

    def add(self, trainer: Trainer, values: dict[str, float], seconds: float) -> None:
        """Take in a step's numbers and how long it took; tell when enough have come together."""
        self._collected.append(values)
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
        alone = trainer.method.uses_unlabeled and trainer.method.composition(trainer.fraction).unlabeled == 0
        seconds = (float(np.mean(self._seconds)) + self._looking / self._steps) * (self.iterations - trainer.iteration)
        self.session.emit(
            "progress",
            stage="Training on annotations" if alone else "Training",
            fraction=trainer.fraction,
            iteration=trainer.iteration,
            iterations=self.iterations,
            seconds_left=round(seconds, 1),
        )


def _means(collected: list[dict[str, float]]) -> dict[str, float]:
    names = {name for values in collected for name in values}
    return {name: float(np.mean([values[name] for values in collected if name in values])) for name in sorted(names)}
