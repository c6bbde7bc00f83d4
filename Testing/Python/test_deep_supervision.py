"""Losses on coarser levels: annotations that keep their strokes there, and the right patches for every method."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_problem import CPU, tiny_plan, training_case

from SemiSupSegLib.labels import IGNORE
from SemiSupSegLib.learning.deep_supervision import deep_loss, pool_annotation
from SemiSupSegLib.learning.methods import METHODS
from SemiSupSegLib.learning.trainer import Trainer
from SemiSupSegLib.training_settings import TrainingSettings
from SemiSupSegLib.volume import Geometry, resample_labels


def test_a_stroke_one_voxel_thin_survives_pooling():
    annotation = torch.full((1, 4, 8, 8), IGNORE, dtype=torch.uint8)
    annotation[0, 1, 3] = 1
    pooled = pool_annotation(annotation, (2, 2, 2), 2)
    assert pooled.tolist() == [[[[1, 1], [255, 255]], [[255, 255], [255, 255]]]]


def test_the_majority_wins_and_a_tie_is_not_annotated():
    annotation = torch.tensor([[[0, 1, 1, 1], [255, 255, 2, 0], [2, 255, 2, 2], [0, 255, 1, 1]]], dtype=torch.uint8)
    assert pool_annotation(annotation, (2, 2), 3).tolist() == [[[255, 1], [255, 255]]]


@given(st.integers(0, 10_000), st.sampled_from([(1, 2, 2), (2, 2, 2), (4, 4, 4), (2, 4, 1)]))
def test_pooling_is_the_resampling_of_files(seed, kernel):
    numbers = np.random.default_rng(seed)
    shape = tuple(size * n for size, n in zip((2, 3, 2), kernel, strict=True))
    annotation = np.where(numbers.random(shape) < 0.3, numbers.integers(0, 3, shape), IGNORE).astype(np.uint8)
    fine = Geometry(shape[::-1])
    expected = resample_labels(annotation, fine, fine.with_spacing([float(n) for n in kernel[::-1]]))
    found = pool_annotation(torch.from_numpy(annotation)[None], (2, 3, 2), 3)[0]
    np.testing.assert_array_equal(found, expected)


def test_coarser_levels_weigh_half_as_much_each_and_only_annotated_patches_count():
    annotation = torch.randint(0, 2, (2, 8, 8, 8), dtype=torch.uint8)
    logits = [torch.randn(5, 2, 4, 4, 4, requires_grad=True), torch.randn(5, 2, 2, 2, 2)]
    first, second = deep_loss(logits[:1], annotation), deep_loss([logits[1]], annotation)
    torch.testing.assert_close(deep_loss(logits, annotation), first + second / 2)
    deep_loss(logits, annotation).backward()
    gradient = logits[0].grad.flatten(1).abs().sum(dim=1)
    assert (gradient[:2] > 0).all()
    assert (gradient[2:] == 0).all()


def test_a_network_without_coarser_levels_adds_nothing():
    assert deep_loss([], torch.zeros(1, 4, 4, dtype=torch.uint8)) == 0


@pytest.fixture(scope="module")
def cases():
    made = []
    for index in range(3):
        image = np.random.default_rng(index).standard_normal((12, 12, 12)).astype(np.float32)
        annotation = np.full(image.shape, IGNORE, np.uint8)
        annotation[5, 3:9, 3:9], annotation[2, 1] = 1, 0
        made.append(training_case(f"case{index}", image, annotation if index < 2 else None, superpixel_size=3.0))
    return made


def a_trainer(cases, method: str, deep: bool) -> Trainer:
    settings = TrainingSettings(method=method).with_overrides(
        ["schedule.unlabeled_start=0", "schedule.unlabeled_ramp=0", "augmentation.intensity_probability=0",
         f"deep_supervision={json_text(deep)}"]
    )  # fmt: skip
    needs = METHODS[method].network_needs(settings)
    plan = tiny_plan(size=8, features=(4, 4, 8), deep_supervision=deep, **needs)
    return Trainer(settings, plan, CPU, cases, 10)


def json_text(value: bool) -> str:
    return "true" if value else "false"


@pytest.mark.parametrize("method", METHODS)
def test_the_student_of_every_method_sees_the_annotated_patches_first(cases, method, monkeypatch):
    torch.set_num_threads(1)
    trainer = a_trainer(cases, method, deep=True)
    seen, steps = [], []
    forward, step = trainer._forward_student, trainer.method.training_step
    monkeypatch.setattr(trainer, "_forward_student", lambda x, **how: seen.append(x) or forward(x, **how))
    monkeypatch.setattr(trainer.method, "training_step", lambda each: steps.append(each) or step(each))
    values = trainer.step()
    assert values["deep supervision"] > 0
    labeled = steps[0].labeled.image
    difference = (seen[0][: len(labeled)] - labeled).abs().max()
    assert difference < 0.3  # some methods add clipped noise
    assert all(each.grad is not None for each in trainer.student.deep_classifiers.parameters())


def test_without_it_nothing_is_added(cases):
    values = a_trainer(cases, "partial", deep=False).step()
    assert "deep supervision" not in values
    assert values["loss"] == values["supervised"]
