"""What a training says of itself: averaged curves, and how long it still takes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from SemiSupSegLib.learning.curves import Curves


class Listener:
    """A session that remembers what it is told."""

    def __init__(self):
        self.told: list[tuple[str, dict]] = []

    def emit(self, event: str, **fields: object) -> None:
        self.told.append((event, fields))

    def fields_of(self, event: str) -> list[dict]:
        return [fields for name, fields in self.told if name == event]


def steps(iterations: int, done: int, look_seconds: float = 0.0, look_every: int = 5) -> Listener:
    """A training of steps of 2 seconds that looks at itself every few of them."""
    session = Listener()
    curves = Curves(session, iterations)
    method = SimpleNamespace(uses_unlabeled=False)
    for iteration in range(1, done + 1):
        trainer = SimpleNamespace(iteration=iteration, fraction=iteration / iterations, method=method)
        curves.add(trainer, {"loss": float(iteration)}, 2.0)
        curves.add_look(look_seconds if iteration % look_every == 0 else 0.0)
    return session


def test_a_point_of_a_long_curve_is_the_mean_of_a_few_steps():
    points = steps(3000, 6).fields_of("metric")
    assert [(point["iteration"], point["values"]["loss"]) for point in points] == [(3, 2.0), (6, 5.0)]


def test_the_time_left_counts_steps():
    assert steps(20, 12).fields_of("progress")[-1]["seconds_left"] == pytest.approx(8 * 2)


def test_the_time_left_counts_looks_too():
    left = steps(100, 51, look_seconds=10).fields_of("progress")[-1]["seconds_left"]
    assert left == pytest.approx(49 * 2 + 10 * 10, rel=0.03)
