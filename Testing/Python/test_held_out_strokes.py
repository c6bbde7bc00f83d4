"""Strokes held out: few, never all of a class, and never trained on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from tiny_problem import training_case

from SemiSupSegLib.errors import RunError
from SemiSupSegLib.labels import IGNORE
from SemiSupSegLib.learning.held_out_strokes import HeldOutStrokes, choose_strokes


def strokes(count: int, label: int = 1, shape=(8, 12, 12)) -> np.ndarray:
    annotation = np.full(shape, IGNORE, np.uint8)
    for index in range(count):
        annotation[2 * index % shape[0], 2 * (2 * index // shape[0]), 1:4] = label
    return annotation


@given(st.integers(0, 10_000))
def test_at_most_one_stroke_a_class_and_never_much_of_it(seed):
    numbers = np.random.default_rng(seed)
    annotation = np.where(numbers.random((5, 9, 9)) < 0.08, numbers.integers(0, 3, (5, 9, 9)), IGNORE).astype(np.uint8)
    held = choose_strokes(annotation, numbers)
    taken = held != IGNORE
    np.testing.assert_array_equal(held[taken], annotation[taken])
    for label in range(3):
        own, count = ndimage.label(annotation == label, structure=np.ones((3, 3, 3)))
        chosen = np.unique(own[held == label])
        assert len(chosen) == (1 if count >= 3 else 0)
        if len(chosen):
            assert (held == label).sum() == (own == chosen[0]).sum() <= (annotation == label).sum() / 3


def test_a_class_of_two_strokes_keeps_both():
    assert (choose_strokes(strokes(2), np.random.default_rng(0)) == IGNORE).all()


def test_what_is_held_out_does_not_train_and_stays_so_after_a_change():
    case = training_case("a", np.zeros((8, 12, 12), np.float32), strokes(6))
    held_out = HeldOutStrokes(seed=1)
    held_out.take(case)
    held = held_out.of_case["a"]
    assert held_out.exist
    assert (held == 1).sum() == 3
    assert case.counts == {1: 15}
    changed = strokes(6)
    changed[7, 11, 1:9] = 0
    case.annotate(changed)
    held_out.take(case)
    np.testing.assert_array_equal(held_out.of_case["a"], held)
    assert (case.annotation.numpy()[held != IGNORE] == IGNORE).all()
    case.annotate(np.where(held == 1, IGNORE, changed).astype(np.uint8))  # the stroke was erased
    held_out.take(case)
    assert not held_out.exist


def test_which_strokes_are_held_out_is_remembered_whatever_is_painted_meanwhile(tmp_path):
    file = tmp_path / "held_out.safetensors"
    for seed in range(8):
        first = HeldOutStrokes(seed, file)
        first.of_case = {}
        case = training_case("a", np.zeros((8, 12, 12), np.float32), strokes(6))
        first.take(case)
        first.take(training_case("b c", np.zeros((8, 12, 12), np.float32), strokes(2)))
        trained = case.annotation.numpy() == 1
        first.save(file)
        more = strokes(12)
        more[0, 11, 1:9] = 1  # more to draw from, and in another order
        case.annotate(more)
        later = HeldOutStrokes(seed, file)
        later.take(case)
        np.testing.assert_array_equal(later.of_case["a"], first.of_case["a"])
        assert (case.annotation.numpy()[trained] == 1).all()
        assert (later.of_case["b c"] == IGNORE).all()


def test_of_a_scan_that_was_replaced_by_one_of_another_size_strokes_are_drawn_anew(tmp_path):
    first = HeldOutStrokes(0)
    first.take(training_case("a", np.zeros((8, 12, 12), np.float32), strokes(6)))
    first.save(tmp_path / "held_out")
    later = HeldOutStrokes(0, tmp_path / "held_out")
    later.take(training_case("a", np.zeros((10, 12, 12), np.float32), strokes(6, shape=(10, 12, 12))))
    assert later.of_case["a"].shape == (10, 12, 12)
    assert later.exist


def test_a_damaged_memory_of_held_out_strokes_is_an_error_for_people(tmp_path):
    file = tmp_path / "held_out.safetensors"
    file.write_bytes(b"damaged")
    with pytest.raises(RunError, match="can't be read"):
        HeldOutStrokes(0, file)


def test_equal_seeds_hold_out_the_same_strokes():
    def held(seed: int) -> list:
        held_out = HeldOutStrokes(seed)
        held_out.take(training_case("a", np.zeros((8, 12, 12), np.float32), strokes(9)))
        return held_out.of_case["a"].tolist()

    assert held(4) == held(4)
    assert len({str(held(seed)) for seed in range(8)}) > 1


def test_dense_labels_are_left_whole():
    case = training_case("a", np.zeros((8, 12, 12), np.float32), strokes(6))
    case.is_dense = True
    held_out = HeldOutStrokes(0)
    held_out.take(case)
    assert not held_out.exist


def test_proposals_that_grew_from_a_held_out_stroke_are_withheld():
    held_out = HeldOutStrokes(0)
    held = np.full((1, 9, 9), IGNORE, np.uint8)
    held[0, 1, 1:3] = 1
    held_out.of_case["a"] = held
    proposals = np.full((1, 9, 9), IGNORE, np.uint8)
    proposals[0, 2:5, 3] = 1  # touches the stroke by a corner
    proposals[0, 0, 0:4] = 0  # beside it, but of another class
    proposals[0, 7, 1:5] = 1  # of another stroke
    left = held_out.withhold("a", proposals)
    assert (left[0, 2:5, 3] == IGNORE).all()
    assert (left[0, 0, 0:4] == 0).all()
    assert (left[0, 7, 1:5] == 1).all()
    np.testing.assert_array_equal(held_out.withhold("b", proposals), proposals)


def test_agreement_counts_every_class_alike():
    class Always:
        device = torch.device("cpu")

        def on_plan_grid(self, image, on_window):
            return torch.stack([torch.zeros_like(image), torch.ones_like(image)])  # class 1 everywhere

    held_out = HeldOutStrokes(0)
    held = np.full((4, 4, 4), IGNORE, np.uint8)
    held[0, 0, :3], held[1, 1, 0] = 0, 1
    held_out.of_case["a"] = held
    assert held_out.agreement(Always(), {"a": torch.zeros(4, 4, 4)}, lambda fraction: None) == 0.5
