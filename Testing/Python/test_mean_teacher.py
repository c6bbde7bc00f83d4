"""Mean teacher: the student follows the average of its past, on every image."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_steps import SEEDS, make_bench
from torch import nn

from SemiSupSegLib.learning.methods.base import noisy

pytestmark = pytest.mark.usefixtures("one_thread")


def test_student_that_is_its_teacher_is_consistent():
    bench = make_bench("mean_teacher", "mean_teacher.noise=0")
    bench.teacher.load_state_dict(bench.student.state_dict())
    losses = bench.losses()
    assert losses.parts["consistency"] == 0
    assert losses.total == losses.parts["supervised"]


def test_consistency_is_the_squared_difference_of_probabilities_on_all_images():
    bench = make_bench("mean_teacher", "mean_teacher.noise=0", "mean_teacher.weight=3", n_classes=3, scribbled=True)
    losses = bench.losses()
    images = torch.cat([bench.step.labeled.image, bench.step.unlabeled.image])
    wanted = (bench.student(images).softmax(dim=1) - bench.teacher(images).softmax(dim=1)).square().mean()
    torch.testing.assert_close(losses.parts["consistency"], wanted)
    torch.testing.assert_close(losses.total, losses.parts["supervised"] + 3 * wanted)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_only_the_student_gets_a_gradient(dimensions, n_classes):
    bench = make_bench("mean_teacher", dimensions=dimensions, n_classes=n_classes, scribbled=True)
    bench.teacher.requires_grad_(True)
    bench.losses().parts["consistency"].backward()
    assert all(parameter.grad is None for parameter in bench.teacher.parameters())
    assert all(parameter.grad.abs().sum() > 0 for parameter in bench.student.parameters())


def test_nothing_unlabeled_is_asked_for_before_its_time_or_without_weight():
    method = make_bench("mean_teacher").method
    assert method.composition(0.39).unlabeled == 0
    assert method.composition(0.6).unlabeled == method.composition(0.6).labeled
    assert make_bench("mean_teacher", "mean_teacher.weight=0").method.composition(0.9).unlabeled == 0
    assert make_bench("mean_teacher", fraction=0.1).losses().total == make_bench("partial").losses().total


@pytest.mark.parametrize("change", ["noise=0", "weight=2", "teacher_dropout=false"])
def test_every_part_can_be_switched(change):
    usual, changed = (
        make_bench("mean_teacher", *switches, dropout=0.3).losses().total.item()
        for switches in ((), (f"mean_teacher.{change}",))
    )
    assert usual != changed


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.floats(0.001, 1))
def test_noise_is_clipped_at_two_standard_deviations(seed, deviation):
    torch.manual_seed(seed)
    image = torch.zeros(2, 1, 12, 12)
    noise = noisy(image, deviation)
    assert noise.abs().max() <= 2 * deviation * (1 + 1e-6)
    assert noise.std() > 0.6 * deviation
    assert not image.any()
    assert torch.equal(noisy(image, 0.0), image)


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 1))
def test_teacher_averages_weights_and_copies_buffers(decay):
    student, teacher = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
    nn.init.constant_(student.weight, 3.0)
    student.running_mean.fill_(5.0)
    make_bench("mean_teacher").method.update_teacher(student, teacher, decay, 7)
    torch.testing.assert_close(teacher.weight, torch.full((2,), decay + 3 * (1 - decay)))
    assert teacher.running_mean.tolist() == [5, 5]
