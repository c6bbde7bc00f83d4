"""The trainer: one step after another, repeatable to the bit, also after a stop in between."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tiny_problem import CPU, tiny_plan, training_case

from SemiSupSegLib.errors import ModelError
from SemiSupSegLib.labels import IGNORE
from SemiSupSegLib.learning import budget
from SemiSupSegLib.learning.budget import Length, Look, planned_length
from SemiSupSegLib.learning.checkpoints import load_newest_checkpoint, save_checkpoint
from SemiSupSegLib.learning.distributed import ALONE
from SemiSupSegLib.learning.methods import METHODS
from SemiSupSegLib.learning.trainer import Trainer, hash_of, is_finite
from SemiSupSegLib.training_settings import TrainingSettings

pytestmark = pytest.mark.usefixtures("one_thread")

ITERATIONS = 8


@pytest.fixture(scope="module")
def cases():
    """Two scribbled cases and an unlabeled one, 12^3 voxels, with superpixels."""
    made = []
    for index in range(3):
        numbers = np.random.default_rng(index)
        image = numbers.standard_normal((12, 12, 12)).astype(np.float32)
        image[3:9, 3:9, 3:9] += 2
        annotation = np.full(image.shape, IGNORE, np.uint8)
        annotation[5, 5, 3:9], annotation[5, 1, 1:11] = 1, 0
        made.append(training_case(f"case{index}", image, annotation if index < 2 else None, superpixel_size=3.0))
    return made


def a_trainer(cases, *overrides: str, iterations: int = ITERATIONS, **plan) -> Trainer:
    settings = TrainingSettings().with_overrides(["method=partial", "schedule.unlabeled_start=0.2", *overrides])
    plan = tiny_plan(size=8, **{"features": (4, 8), "strides": ((2, 2, 2),), **plan})
    return Trainer(settings, plan, CPU, cases, iterations)


def steps(trainer: Trainer, count: int) -> list[dict[str, float]]:
    return [trainer.step() for _ in range(count)]


def assert_same(one: Trainer, other: Trainer) -> None:
    for name in ("student", "teacher"):
        first, second = getattr(one, name).state_dict(), getattr(other, name).state_dict()
        assert all(torch.equal(first[key], second[key]) for key in first), name


@pytest.mark.parametrize("method", ["partial", "sp3"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("kind", [{}, {"norm": "batch", "dropout": 0.3}])
def test_a_resumed_training_equals_an_uninterrupted_one_bit_for_bit(cases, tmp_path, method, optimizer, kind):
    wishes = (f"method={method}", f"optimizer.name={optimizer}", "augmentation.intensity_probability=0.5")
    uninterrupted = a_trainer(cases, *wishes, **kind)
    expected = steps(uninterrupted, ITERATIONS)

    stopped = a_trainer(cases, *wishes, **kind)
    steps(stopped, 5)
    save_checkpoint(tmp_path, stopped.checkpoint())
    torch.manual_seed(99)  # as in another process
    resumed = a_trainer(cases, *wishes, **kind)
    resumed.restore(load_newest_checkpoint(tmp_path))
    assert resumed.iteration == 5
    assert steps(resumed, 3) == expected[5:]
    assert_same(resumed, uninterrupted)
    # And the checkpoint is still what it was: nothing trained on in its files.
    assert load_newest_checkpoint(tmp_path).iteration == 5


@pytest.mark.parametrize(
    ("method", "curve", "own", "all_together"),  # and how many patches a patch makes the student see
    [
        ("sp3", "pseudo", 1, 2),
        ("mean_teacher", "consistency", 1, 2),
        ("ua_mt", "consistency", 1, 2),
        ("embedding_matching", "L_UA", 1, 2),
        ("sgrs", "regional cross-entropy", 2, 3),
    ],
)
def test_where_every_case_is_annotated_its_own_patches_stand_for_unlabeled_ones(
    cases, method, curve, own, all_together, monkeypatch
):
    seen = []
    forward = Trainer._forward_student
    monkeypatch.setattr(
        Trainer, "_forward_student", lambda self, x, **rest: seen.append(len(x)) or forward(self, x, **rest)
    )
    wishes = (f"method={method}", "schedule.unlabeled_start=0", "schedule.unlabeled_ramp=0")
    parts = steps(a_trainer(cases[:2], *wishes), 1) + steps(a_trainer(cases, *wishes), 1)
    assert seen[0] / own == seen[1] / all_together
    assert all(each[curve] > 0 for each in parts)


def test_places_follow_the_annotations(cases):
    trainer = a_trainer(cases)
    before = trainer.whereabouts.places[1]
    moved = np.full((12, 12, 12), IGNORE, np.uint8)
    moved[9, 9, 3:9] = 1
    image = cases[0].image.numpy()
    trainer.replace_cases([training_case("case0", image, moved), *cases[1:]])
    assert trainer.whereabouts.places[1] != before


def densely(case):
    """The case with a dense label instead of its strokes."""
    dense = case.annotation.numpy().copy()
    dense[dense == IGNORE] = 0
    labeled = training_case(case.id, case.image.numpy(), dense)
    labeled.annotate(dense, is_dense=True)
    return labeled


def test_what_most_annotated_cases_have_decides_what_a_training_learns_from(cases):
    scribbled = [case for case in cases if case.annotation is not None]
    labeled = [densely(case) for case in scribbled]
    unlabeled = [case for case in cases if case.annotation is None]
    assert len(scribbled) == 2
    assert a_trainer(cases).method.learns_from_strokes
    assert a_trainer([scribbled[0], labeled[1], *unlabeled]).method.learns_from_strokes
    assert not a_trainer([*labeled, *unlabeled]).method.learns_from_strokes


def test_it_stays_so_when_annotations_change_and_after_a_stop(cases):
    """Else the pseudo-labels of SP3 would come in at full weight, or go again, from one step to the next."""
    trainer = a_trainer([densely(case) if case.annotation is not None else case for case in cases])
    trainer.replace_cases(cases)
    assert not trainer.method.learns_from_strokes
    resumed = a_trainer(cases)
    resumed.restore(trainer.checkpoint())
    assert not resumed.method.learns_from_strokes


BY_ITSELF = ("method=sp3", "schedule.unlabeled_start=null")
"""The method says when pseudo-labels come in."""


def test_a_start_stays_where_it_was_after_a_stop(cases):
    trainer = a_trainer(cases, *BY_ITSELF, iterations=1000)
    assert trainer.method.unlabeled_start == 0.25
    checkpoint = trainer.checkpoint()
    trainer.method.fewest_steps_alone = 0
    trainer.restore(checkpoint)
    assert trainer.method.unlabeled_start == 0.25
    del checkpoint.state["unlabeled_start"]
    former = a_trainer(cases, *BY_ITSELF, iterations=1000)
    former.restore(checkpoint)
    assert former.method.unlabeled_start == 0.06, "what an older version began goes on as it did"


def test_sp3_starts_late_where_labels_leave_open_what_is_one_piece(cases):
    scribbled, *others = cases
    mixed = [densely(scribbled), *others]
    assert a_trainer(cases, *BY_ITSELF, iterations=10_000).method.unlabeled_start == 0.06
    assert a_trainer(mixed, *BY_ITSELF, iterations=10_000).method.unlabeled_start == 0.3


def test_the_published_code_draws_annotated_patches_again_where_there_are_no_others(cases):
    wishes = ("method=sgrs", "sgrs.legacy=true", "schedule.unlabeled_start=0", "schedule.unlabeled_ramp=0")
    parts = steps(a_trainer(cases[:2], *wishes), 1)
    assert parts[0]["regional cross-entropy"] > 0


def test_equal_seeds_give_equal_numbers_and_others_do_not(cases):
    first, second, other = (a_trainer(cases, "method=sp3", f"seed={seed}") for seed in (3, 3, 4))
    assert steps(first, 4) == steps(second, 4)
    assert_same(first, second)
    assert steps(other, 4) != steps(second, 4)


@pytest.mark.parametrize("method", ["partial", "sp3"])
def test_the_loss_falls(cases, method):
    losses = steps(a_trainer(cases, f"method={method}", "optimizer.learning_rate=0.01", iterations=40), 40)
    assert np.mean([each["supervised"] for each in losses[-5:]]) < 0.7 * losses[0]["supervised"]


def test_a_step_says_its_losses_rate_and_gradient(cases):
    values = a_trainer(cases).step()
    assert {"loss", "supervised", "learning rate", "gradient norm"} <= set(values)
    assert all(math.isfinite(value) for value in values.values())
    assert is_finite(values)
    assert not is_finite({**values, "loss": math.nan})
    assert not is_finite({**values, "gradient norm": math.inf})


def test_the_gradient_is_clipped_before_the_step(cases):
    free = a_trainer(cases, "optimizer.name=sgd", "optimizer.gradient_clip=0", "optimizer.weight_decay=0")
    tight = a_trainer(cases, "optimizer.name=sgd", "optimizer.gradient_clip=0.001", "optimizer.weight_decay=0")
    rate = []
    for trainer in (free, tight):
        before = torch.cat([each.detach().flatten().clone() for each in trainer.student.parameters()])
        values = trainer.step()
        after = torch.cat([each.detach().flatten() for each in trainer.student.parameters()])
        rate.append((after - before).norm().item() / values["learning rate"])
        assert values["gradient norm"] > 0.1  # as it was before clipping
    assert rate[1] == pytest.approx(0.001, rel=1e-2)
    assert rate[0] > 0.1


def test_the_rate_warms_up_and_falls(cases):
    trainer = a_trainer(cases, "optimizer.learning_rate=0.1", "optimizer.warmup=0.25", iterations=100)
    rates = []
    for iteration in (0, 12, 30, 99):
        trainer.iteration = iteration
        rates.append(trainer.step()["learning rate"])
    assert rates[0] == pytest.approx(0.1 / 25)
    assert rates[1] == pytest.approx(0.1 * (1 - 0.12) ** 0.9 * 0.13 / 0.25)
    assert rates[2] == pytest.approx(0.1 * 0.7**0.9)
    assert 0 < rates[3] < 0.01


def test_the_teacher_is_the_average_of_students(cases):
    trainer = a_trainer(cases, "teacher.decay=0.9", iterations=1000)
    trainer.step()
    assert_same_weights(trainer.teacher, trainer.student)  # decay 1 - 1/(0+1)
    trainer.iteration = 500
    before = [each.clone() for each in trainer.teacher.parameters()]
    trainer.step()
    for old, teacher, student in zip(before, trainer.teacher.parameters(), trainer.student.parameters(), strict=True):
        torch.testing.assert_close(teacher, 0.9 * old + 0.1 * student.detach(), atol=1e-6, rtol=1e-5)
    assert not any(each.requires_grad for each in trainer.teacher.parameters())


def assert_same_weights(one: torch.nn.Module, other: torch.nn.Module) -> None:
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_warm_start_begins_with_the_models_weights_and_a_gentler_rate(cases):
    earlier = a_trainer(cases)
    steps(earlier, 2)
    later = a_trainer(cases, "seed=5", "warm_start=somewhere")
    later.warm_start(earlier.teacher.state_dict(), "somewhere")
    assert_same_weights(later.student, earlier.teacher)
    assert_same_weights(later.teacher, earlier.teacher)
    assert later.base_rate == pytest.approx(0.3 * earlier.base_rate)


def test_weights_of_another_network_are_refused(cases):
    small = a_trainer(cases, features=(2, 4))
    with pytest.raises(ModelError, match="'the model' don't fit"):
        small.warm_start(a_trainer(cases).teacher.state_dict(), "the model")


def test_every_method_has_its_name():
    assert all(method.name == name for name, method in METHODS.items())


def test_seeds_for_torch_differ_from_step_to_step():
    assert len({hash_of(seed, iteration) for seed in range(10) for iteration in range(100)}) == 1000


# From minutes to iterations -------------------------------------------------------------------------------------------


def test_minutes_become_iterations_by_what_each_phase_costs(cases, monkeypatch):
    told = []

    def seconds(trainer, fraction, on_progress):
        told.append(fraction)
        return 0.02 if trainer.method.composition(fraction).unlabeled == 0 else 0.06

    monkeypatch.setattr(budget, "_step_seconds", seconds)
    settings = TrainingSettings(method="sp3", minutes=1.0).with_overrides(["schedule.unlabeled_start=0.5"])
    plan = tiny_plan(size=8, features=(4, 8), strides=((2, 2, 2),))
    planned = planned_length(settings, plan, CPU, cases)
    assert len(told) == 2
    assert planned.iterations == pytest.approx(60 / 0.04, rel=0.06)
    assert planned.joined_seconds == 0.06
    assert planned_length(TrainingSettings(iterations=7), plan, CPU, cases) == Length(7)


@pytest.mark.parametrize(("minutes", "steps"), [(60, 3600 / (0.06 * 0.02 + 0.94 * 0.06)), (0.1, 250 + 17), (0.05, 150)])
def test_the_shorter_a_training_the_more_of_it_is_on_annotations_alone(cases, monkeypatch, minutes, steps):
    """250 steps at least; steps with the unlabeled branch cost three times as much here."""

    def seconds(trainer, fraction, on_progress):
        return 0.02 if trainer.method.composition(fraction).unlabeled == 0 else 0.06

    monkeypatch.setattr(budget, "_step_seconds", seconds)
    monkeypatch.setattr(budget.time, "monotonic", lambda: 0.0)
    settings = TrainingSettings(method="sp3", minutes=minutes).with_overrides(["schedule.unlabeled_ramp=0"])
    plan = tiny_plan(size=8, features=(4, 8), strides=((2, 2, 2),))
    iterations = planned_length(settings, plan, CPU, cases).iterations
    assert iterations == pytest.approx(steps, rel=0.02)
    method = Trainer(settings, plan, CPU, cases, iterations).method
    assert method.unlabeled_start == pytest.approx(max(0.06, min(1.0, 250 / iterations)))


@pytest.mark.parametrize("seconds, steps", [(0.01, 13), (0.2, 5), (60.0, 3)])
def test_slow_steps_are_measured_fewer_times(monkeypatch, seconds, steps):
    clock = [0.0]
    monkeypatch.setattr(budget.time, "monotonic", lambda: clock[0])
    durations = []

    class SlowTrainer:
        device = CPU
        processes = ALONE

        def step_at(self, fraction):
            durations.append(3 * seconds if not durations else seconds)  # the first one warms up
            clock[0] += durations[-1]

    assert budget._step_seconds(SlowTrainer(), 0.5, lambda *told: None) == pytest.approx(seconds)
    assert len(durations) <= steps


@pytest.fixture
def seconds_as_told(monkeypatch):
    """Every step takes 20 ms, and the prediction of a voxel 1 ms."""
    monkeypatch.setattr(budget, "_step_seconds", lambda *told: 0.02)
    monkeypatch.setattr(budget, "_seconds_a_voxel", lambda *told: 0.001)


def a_length(cases, looks, minutes=1.0, **options):
    plan = tiny_plan(size=8, features=(4, 8), strides=((2, 2, 2),))
    return planned_length(TrainingSettings(method="partial", minutes=minutes), plan, CPU, cases, looks=looks, **options)


def test_looks_take_their_part_of_the_minutes(cases, seconds_as_told):
    found = a_length(cases, {"validations": Look(10, 500), "pieces": Look(5, 1000), "none": Look(0, 1000)})
    assert found.looks == {"validations": 10, "pieces": 5, "none": 0}
    assert found.iterations == pytest.approx((60 - 10 * 0.5 - 5 * 1.0) / 0.02, rel=0.05)


def test_there_are_fewer_looks_where_they_would_take_more_than_a_quarter(cases, seconds_as_told):
    found = a_length(cases, {"validations": Look(10, 5000), "pieces": Look(1, 10_000)})
    assert found.looks == {"validations": 2, "pieces": 1}
    assert found.iterations == pytest.approx((60 - 2 * 5 - 10) / 0.02, rel=0.05)
    plan = tiny_plan(size=8, features=(4, 8), strides=((2, 2, 2),))
    counted = planned_length(TrainingSettings(iterations=7), plan, CPU, cases, looks={"pieces": Look(10, 10**9)})
    assert (counted.iterations, counted.looks) == (7, {"pieces": 10})


@pytest.mark.parametrize(("preparation", "left"), [(20, 40), (59, 30)])
def test_preparation_counts_but_leaves_half_of_the_minutes(cases, seconds_as_told, preparation, left):
    found = a_length(cases, {}, begun=budget.time.monotonic() - preparation)
    assert found.iterations == pytest.approx(left / 0.02, rel=0.05)


@pytest.mark.parametrize("seconds", [0.001, 2.0])
def test_of_a_long_prediction_a_part_is_timed(cases, monkeypatch, seconds):
    clock, windows = [0.0], []
    monkeypatch.setattr(budget.time, "monotonic", lambda: clock[0])

    class SlowPredictor:
        def __init__(self, *parts):
            pass

        def on_plan_grid(self, image, on_window):
            for window in range(10):
                clock[0] += seconds + 0.3 * (not windows)  # the first one warms up
                windows.append(window)
                on_window((window + 1) / 10)

    monkeypatch.setattr(budget, "Predictor", SlowPredictor)
    trainer = Trainer(TrainingSettings(), tiny_plan(size=8, features=(4, 8), strides=((2, 2, 2),)), CPU, cases, 10)
    image = cases[0].image
    found = budget._seconds_a_voxel(trainer, image, lambda *told: None)
    assert found * image.numel() == pytest.approx(10 * seconds, rel=0.2)
    assert len(windows) == (20 if seconds < 1 else 1)


def test_measuring_can_be_stopped_and_changes_nothing_in_the_training(cases):
    plan = tiny_plan(size=8, features=(4, 8), strides=((2, 2, 2),))
    told = []
    settings = TrainingSettings(method="partial", minutes=0.05)
    assert planned_length(settings, plan, CPU, cases, lambda fraction, text: told.append(fraction)).iterations >= 50
    assert len(told) >= 3  # once a step; of slow steps three are enough

    def stop(fraction, text):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        planned_length(settings, plan, CPU, cases, stop)
