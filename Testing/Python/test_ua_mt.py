"""UA-MT: consistency only where Monte Carlo passes agree."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_steps import SEEDS, make_bench, probabilities

from SemiSupSegLib.learning.losses import entropy
from SemiSupSegLib.learning.methods import METHODS
from SemiSupSegLib.learning.methods.ua_mt import monte_carlo_passes, uncertainty_threshold
from SemiSupSegLib.training_settings import TrainingSettings

pytestmark = pytest.mark.usefixtures("one_thread")


def test_threshold_rises_from_three_quarters_of_a_coins_entropy_to_all_of_it():
    assert uncertainty_threshold(0.0) == pytest.approx((0.75 + 0.25 * math.exp(-5)) * math.log(2))
    assert uncertainty_threshold(1.0) == pytest.approx(math.log(2))
    values = [uncertainty_threshold(step / 20) for step in range(21)]
    assert values == sorted(values)


def test_threshold_follows_what_is_left_once_the_unlabeled_branch_joins():
    bench = make_bench("ua_mt", "schedule.unlabeled_start=0.2")
    assert bench.method.unlabeled_progress(0.2) == 0
    assert bench.method.unlabeled_progress(0.6) == pytest.approx(0.5)
    assert bench.method.unlabeled_progress(1.0) == 1


def test_voxels_are_certain_by_the_entropy_of_the_mean(monkeypatch):
    bench = make_bench("ua_mt", fraction=0.4)
    contradicting = torch.tensor([[0.1, 0.9], [0.9, 0.1]])  # two passes, each sure, of one voxel
    agreeing = torch.tensor([[0.1, 0.9], [0.1, 0.9]])
    for passes, certain in ((contradicting, False), (agreeing, True)):
        logits = passes.log().view(2, 1, 2, 1, 1)
        monkeypatch.setattr("SemiSupSegLib.learning.methods.ua_mt.monte_carlo_passes", lambda *a, x=logits: x)
        assert bench.method.certain(bench.step, bench.step.unlabeled.image).item() == certain


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(2, 4), st.floats(0, 1))
def test_uniform_mean_is_never_certain_and_one_hot_always(seed, n_classes, progress):
    p = probabilities(seed, n_classes, (1, 3, 3))
    p[0, :, 0, 0] = 1 / n_classes
    p[0, :, 1, 1] = torch.eye(n_classes)[0]
    certain = entropy(p) < uncertainty_threshold(progress) - 1e-6
    assert not certain[0, 0, 0]
    assert certain[0, 1, 1]


@pytest.mark.parametrize("dropout, noise", [(0.5, 0.0), (0.0, 0.1)])
def test_passes_differ_by_dropout_and_by_noise_and_hold_every_image(dropout, noise):
    bench = make_bench("ua_mt", dropout=dropout)
    image = bench.step.unlabeled.image
    logits = monte_carlo_passes(bench.step, image, 3, noise)
    assert logits.shape == (3, 2, 2, *image.shape[2:])
    assert not torch.equal(logits[0], logits[1])
    assert not logits.requires_grad


def test_without_dropout_and_noise_every_pass_is_the_teacher():
    bench = make_bench("ua_mt")
    image = bench.step.unlabeled.image
    for logits in monte_carlo_passes(bench.step, image, 3, 0.0):
        torch.testing.assert_close(logits, bench.teacher(image))


def test_uncertain_voxels_train_nothing():
    bench = make_bench("ua_mt", "ua_mt.noise=0")
    bench.teacher.classifier.weight.data.zero_()
    bench.teacher.classifier.bias.data.zero_()
    losses = bench.losses()
    assert losses.parts["certain"] == 0
    assert losses.parts["consistency"] == 0


def test_consistency_is_the_squared_difference_on_unlabeled_certain_voxels():
    bench = make_bench("ua_mt", "ua_mt.noise=0", "ua_mt.weight=2", n_classes=3)
    bench.teacher.classifier.weight.data.mul_(4)
    image = bench.step.unlabeled.image
    teacher = bench.teacher(image).softmax(dim=1)
    certain = entropy(teacher) < uncertainty_threshold(bench.method.unlabeled_progress(bench.step.fraction))
    assert 0 < certain.float().mean() < 1
    difference = (bench.student(image).softmax(dim=1) - teacher).square().mean(dim=1)
    losses = bench.losses()
    torch.testing.assert_close(losses.parts["consistency"], difference[certain].mean())
    torch.testing.assert_close(losses.total, losses.parts["supervised"] + 2 * losses.parts["consistency"])


@pytest.mark.parametrize("dimensions", [2, 3])
def test_only_the_student_gets_a_gradient(dimensions):
    bench = make_bench("ua_mt", dimensions=dimensions, n_classes=3, scribbled=True, dropout=0.2)
    bench.teacher.requires_grad_(True)
    bench.losses().total.backward()
    assert all(parameter.grad is None for parameter in bench.teacher.parameters())
    assert all(parameter.grad.abs().sum() > 0 for parameter in bench.student.parameters())


def test_network_gets_dropout_for_its_passes():
    needs = METHODS["ua_mt"].network_needs
    assert needs(TrainingSettings().with_overrides(["ua_mt.dropout=0.3"])) == {"dropout": 0.3}
    assert needs(TrainingSettings().with_overrides(["plan.network=vnet"])) == {}  # it has 0.5 without being asked


@pytest.mark.parametrize("change", ["noise=0", "passes=1", "weight=2"])
def test_every_part_can_be_switched(change):
    usual, changed = (
        make_bench("ua_mt", *switches, dropout=0.3).losses().total.item() for switches in ((), (f"ua_mt.{change}",))
    )
    assert usual != changed


def test_without_weight_it_is_partial():
    assert make_bench("ua_mt", "ua_mt.weight=0").losses().total == make_bench("partial").losses().total
