"""What a training says of itself: averaged curves, and how long it still takes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from SemiSupSegLib.learning.curves import Curves
from SemiSupSegLib.learning.methods import Composition


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
    method = SimpleNamespace(uses_unlabeled=False, composition=lambda fraction: Composition(2))
    for iteration in range(1, done + 1):
        trainer = SimpleNamespace(
            iteration=iteration, fraction=iteration / iterations, method=method, composition=method.composition
        )
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


def joining_steps(done: int, joined_seconds: float | None, drawn: int = 2) -> dict:
    """What 100 steps say last, of which the later half has an unlabeled branch: 1 second each, then 3."""
    session = Listener()
    curves = Curves(session, 100, joined_seconds)
    method = SimpleNamespace(
        uses_unlabeled=True, composition=lambda fraction: Composition(2, 2 if fraction >= 0.5 else 0)
    )
    trainer = SimpleNamespace(method=method, composition=lambda fraction: Composition(2, drawn))
    for iteration in range(1, done + 1):
        trainer.iteration, trainer.fraction = iteration, iteration / 100
        curves.add(trainer, {"loss": 1.0}, 1.0 if iteration <= 50 else 3.0)
    return session.fields_of("progress")[-1]


@pytest.mark.parametrize(
    ("done", "joined_seconds", "left"),
    [(10, 4.0, 40 + 50 * 4), (50, 4.0, 50 * 4), (51, 4.0, 49 * 3), (60, 4.0, 40 * 3), (10, None, 40 + 50 * 2)],
)
def test_the_time_left_knows_that_steps_become_dearer(done, joined_seconds, left):
    assert joining_steps(done, joined_seconds)["seconds_left"] == pytest.approx(left)


def test_the_time_left_where_every_case_is_annotated_and_nothing_was_measured():
    assert joining_steps(10, None, drawn=0)["seconds_left"] == pytest.approx(90)


def test_the_stage_says_when_the_unlabeled_branch_joins():
    assert joining_steps(49, 3.0)["stage"] == "Training on annotations"
    assert joining_steps(50, 3.0)["stage"] == "Training"
