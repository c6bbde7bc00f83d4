"""Losses: equal to plain formulas, silent where nothing is annotated, the same in parts as in one piece."""

from __future__ import annotations

from math import exp, log

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from SemiSupSegLib.learning.losses import (
    MaskedMean,
    class_balanced,
    consistency_mse,
    cross_entropy_map,
    entropy,
    masked_mean,
    masked_soft_dice,
    partial_cross_entropy,
    partial_dice,
    partial_loss,
    ramp_sigmoid,
    softmax_entropy,
    weighted_cross_entropy,
    weighted_dice,
    winners,
)

pytestmark = pytest.mark.usefixtures("one_thread")

IGNORE = 255


@st.composite
def predictions(draw, annotated=True):
    """Logits, labels of which some are 255 (at least one is not, in each case), and a seeded generator."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    batch, n_classes = draw(st.integers(1, 3)), draw(st.integers(2, 4))
    size = draw(st.lists(st.integers(2, 4), min_size=2, max_size=3))
    logits = 2 * torch.randn(batch, n_classes, *size, generator=generator)
    target = torch.randint(n_classes, (batch, *size), generator=generator).to(torch.uint8)
    unknown = torch.rand(target.shape, generator=generator) < draw(st.sampled_from((0.0, 0.5, 0.9)))
    target[unknown] = IGNORE
    if annotated:
        target.view(batch, -1)[:, 0] = 1
    return logits.requires_grad_(), target, generator


def random_case(batch=2, n_classes=3, size=(4, 5), seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, n_classes, *size, generator=generator).requires_grad_()
    target = torch.randint(n_classes, (batch, *size), generator=generator).to(torch.uint8)
    return logits, target


def plain_dice(probabilities, target, weight, smooth, present_only, epsilon=0.0):
    """One case, one-hot, one class after the other: ``(C, *spatial)``, ``(*spatial)``, ``(*spatial)``."""
    terms = []
    for index, p in enumerate(probabilities):
        y = (target == index).float()
        if present_only and not (weight * y).any():
            continue
        top = 2 * (weight * p * y).sum() + smooth
        terms.append(1 - top / ((weight * p).sum() + (weight * y).sum() + smooth + epsilon))
    return torch.stack(terms).mean()


# Annotated voxels only


@settings(max_examples=40, deadline=None)
@given(predictions())
def test_partial_cross_entropy_is_the_cases_mean_of_torchs_on_annotated_voxels(drawn):
    logits, target, _ = drawn
    cases = zip(logits.split(1), target.long().split(1), strict=True)
    wanted = torch.stack([functional.cross_entropy(*case, ignore_index=IGNORE) for case in cases]).mean()
    torch.testing.assert_close(partial_cross_entropy(logits, target).value, wanted)


@settings(max_examples=40, deadline=None)
@given(predictions(), st.booleans())
def test_partial_dice_is_the_cases_mean_of_the_plain_formula(drawn, present_only):
    logits, target, _ = drawn
    wanted = torch.stack(
        [
            plain_dice(p, y, (y != IGNORE).float(), 1e-5, present_only)
            for p, y in zip(logits.softmax(1), target, strict=True)
        ]
    ).mean()
    found = partial_dice(logits, target, present_only=present_only)
    torch.testing.assert_close(found.value, wanted)
    from_probabilities = partial_dice(logits.softmax(1), target, are_probabilities=True, present_only=present_only)
    torch.testing.assert_close(from_probabilities.value, wanted)


@settings(max_examples=20, deadline=None)
@given(predictions())
def test_partial_loss_is_cross_entropy_plus_dice(drawn):
    logits, target, _ = drawn
    wanted = partial_cross_entropy(logits, target).value + partial_dice(logits, target).value
    torch.testing.assert_close(partial_loss(logits, target).value, wanted)


@pytest.mark.parametrize("loss", [partial_cross_entropy, partial_dice, partial_loss])
def test_nothing_annotated_gives_exactly_zero_and_a_zero_gradient(loss):
    logits, target = random_case()
    value = loss(logits, torch.full_like(target, IGNORE)).value
    value.backward()
    assert value.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("loss", [partial_cross_entropy, partial_dice, partial_loss])
def test_only_annotated_voxels_get_a_gradient(loss):
    logits, target = random_case(batch=1)
    target[..., 2:] = IGNORE
    loss(logits, target).value.backward()
    assert logits.grad[..., :2].abs().sum(1).min() > 0
    assert not logits.grad[..., 2:].any()


def test_dense_case_counts_no_more_than_a_scribbled_one():
    logits, target = random_case()
    target[1].view(-1)[3:] = IGNORE
    dense, scribbled = (partial_loss(logits[i : i + 1], target[i : i + 1]).value for i in range(2))
    torch.testing.assert_close(partial_loss(logits, target).value, (dense + scribbled) / 2)


def test_case_without_annotation_is_not_averaged_in():
    logits, target = random_case()
    target[1] = IGNORE
    torch.testing.assert_close(partial_loss(logits, target).value, partial_loss(logits[:1], target[:1]).value)


def test_class_that_is_absent_counts_only_if_asked_for():
    logits, target = random_case(batch=1)
    target[target == 2] = 0
    present, both = (partial_dice(logits, target, present_only=only).value for only in (True, False))
    assert both.item() == pytest.approx((2 * present.item() + 1) / 3, abs=1e-4)


def test_perfect_prediction_costs_nothing():
    _, target = random_case()
    logits = 50.0 * functional.one_hot(target.long(), 3).movedim(-1, 1)
    assert partial_loss(logits, target).value.item() == pytest.approx(0, abs=1e-5)


def test_class_weights_work_as_in_torch():
    logits, target = random_case(batch=1)
    target[..., 0] = IGNORE
    weight = torch.tensor([0.2, 1.0, 3.0])
    wanted = functional.cross_entropy(logits, target.long(), weight=weight, ignore_index=IGNORE)
    torch.testing.assert_close(partial_cross_entropy(logits, target, weight).value, wanted)


# Label smoothing (SGRS-Net, property 5)


@settings(max_examples=20, deadline=None)
@given(predictions(), st.floats(0, 0.9))
def test_label_smoothing_is_torchs(drawn, smoothing):
    logits, target, _ = drawn
    wanted = functional.cross_entropy(
        logits, target.long(), ignore_index=IGNORE, label_smoothing=smoothing, reduction="none"
    )
    torch.testing.assert_close(cross_entropy_map(logits, target, smoothing), wanted)


def test_smoothing_of_a_fifth_between_two_classes_asks_for_nine_tenths():
    logits, target = random_case(n_classes=2)
    soft = torch.where(functional.one_hot(target.long(), 2).movedim(-1, 1) == 1, 0.9, 0.1)
    wanted = -(soft * logits.log_softmax(1)).sum(1)
    torch.testing.assert_close(cross_entropy_map(logits, target, 0.2), wanted)


# Weights (SP3, property 10)


@settings(max_examples=30, deadline=None)
@given(predictions(), st.sampled_from([0.0, 0.25, 1.0]))
def test_balanced_classes_share_a_mean_by_a_power_of_their_weight(drawn, balance):
    logits, target, generator = drawn
    weight = torch.rand(target.shape, generator=generator)
    found = weighted_cross_entropy(logits, target, class_balanced(weight, target, logits.shape[1], balance)).value
    means, shares = [], []
    for label in range(logits.shape[1]):
        of_class = torch.where(target == label, target, IGNORE)
        if (of_class != IGNORE).any():
            means.append(weighted_cross_entropy(logits, of_class, weight).value)
            shares.append(weight[of_class != IGNORE].sum() ** (1 - balance))
    wanted = sum(mean * share for mean, share in zip(means, shares, strict=True)) / sum(shares) if means else 0.0
    torch.testing.assert_close(found, torch.as_tensor(wanted))


@settings(max_examples=20, deadline=None)
@given(predictions(), st.floats(0.1, 10))
def test_equal_weights_are_no_weights(drawn, weight):
    logits, target, _ = drawn
    weights = torch.full(target.shape, weight)
    wanted = functional.cross_entropy(logits, target.long(), ignore_index=IGNORE)
    torch.testing.assert_close(weighted_cross_entropy(logits, target, weights).value, wanted)
    wanted = partial_dice(logits, target, present_only=False, smooth=0.1).value
    found = weighted_dice(logits.softmax(1), target, weights, smooth=0.1 * weight).value
    torch.testing.assert_close(found, wanted)


@settings(max_examples=30, deadline=None)
@given(predictions())
def test_weighted_losses_are_the_plain_formulas(drawn):
    logits, target, generator = drawn
    weight = torch.rand(target.shape, generator=generator)
    known = torch.where(target == IGNORE, 0.0, weight)
    losses_ = functional.cross_entropy(logits, target.long(), ignore_index=IGNORE, reduction="none")
    wanted = (known * losses_).sum() / known.sum()
    torch.testing.assert_close(weighted_cross_entropy(logits, target, weight).value, wanted)
    cases = zip(logits.softmax(1), target, known, strict=True)
    wanted = torch.stack([plain_dice(*case, 1e-5, False) for case in cases]).mean()
    torch.testing.assert_close(weighted_dice(logits.softmax(1), target, weight).value, wanted)


def test_voxel_of_weight_zero_gets_no_gradient():
    logits, target = random_case()
    weight = torch.ones(target.shape)
    weight[:, 1, 2] = 0
    for loss in (
        weighted_cross_entropy(logits, target, weight),
        weighted_dice(logits.softmax(1), target, weight),
    ):
        (gradient,) = torch.autograd.grad(loss.value, logits)
        assert not gradient[:, :, 1, 2].any()
        assert gradient[:, :, 1, 3].any()


def test_no_gradient_goes_into_weights_or_the_reference():
    logits, target = random_case()
    weight = torch.ones(target.shape, requires_grad=True)
    reference = torch.rand(logits.shape, requires_grad=True)
    total = (
        weighted_cross_entropy(logits, target, weight).value
        + weighted_dice(logits.softmax(1), target, weight).value
        + consistency_mse(logits.softmax(1), reference, weight).value
        + masked_mean(softmax_entropy(logits), weight).value
    )
    total.backward()
    assert weight.grad is None
    assert reference.grad is None


# SGRS-Net's Dice (property 4 and 6)


@settings(max_examples=30, deadline=None)
@given(predictions(), st.sampled_from((1.0, 20.0)))
def test_masked_soft_dice_is_the_plain_formula_with_empty_cases_as_zero(drawn, smooth):
    logits, target, generator = drawn
    logits = logits.detach()
    target = torch.where(target == IGNORE, 0, target)
    mask = torch.rand(target.shape, generator=generator) < 0.3
    cases = [case for case in zip(logits.softmax(1), target, mask.float(), strict=True) if case[2].any()]
    wanted = sum(plain_dice(*case, smooth, False, epsilon=1e-8) for case in cases) / len(target)
    found = masked_soft_dice(logits.softmax(1), target, mask, smooth).value
    assert found.item() == pytest.approx(float(wanted), abs=1e-5)


def test_masked_soft_dice_of_wrong_perfect_and_empty_regions():
    target = torch.zeros(2, 8, 8, 8, dtype=torch.uint8)
    right = functional.one_hot(target.long(), 2).movedim(-1, 1).float()
    everywhere, nowhere = torch.ones_like(target, dtype=torch.bool), torch.zeros_like(target, dtype=torch.bool)
    assert masked_soft_dice(right.flip(1), target, everywhere, 1.0).value.item() == pytest.approx(0.998, abs=5e-4)
    assert masked_soft_dice(right.flip(1), target, everywhere, 20.0).value.item() == pytest.approx(0.962, abs=5e-4)
    assert masked_soft_dice(right, target, everywhere, 1.0).value.item() == pytest.approx(0, abs=1e-6)
    assert masked_soft_dice(right.flip(1), target, nowhere, 1.0).value.item() == 0


def test_case_with_an_empty_region_learns_nothing_from_its_neighbours():
    logits, target = random_case()
    mask = torch.ones(target.shape, dtype=torch.bool)
    mask[1] = False
    masked_soft_dice(logits.softmax(1), target, mask, 1.0).value.backward()
    assert logits.grad[0].any()
    assert not logits.grad[1].any()


def test_class_that_neither_label_nor_prediction_shows_is_left_out_if_asked_for():
    target = torch.zeros(1, 4, 4, dtype=torch.uint8)
    probabilities = torch.tensor([0.7, 0.2, 0.1]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    mask = torch.ones_like(target, dtype=torch.bool)
    found = masked_soft_dice(probabilities, target, mask, 1.0, present_only=True).value
    assert found.item() == pytest.approx(1 - (2 * 0.7 * 16 + 1) / (0.7 * 16 + 16 + 1), abs=1e-6)


@pytest.mark.parametrize("shape", [(2, 1, 4, 5), (2, 4, 4), (1, 4, 5)])
def test_map_that_would_broadcast_is_refused(shape):
    logits, target = random_case()
    wrong = torch.ones(shape)
    for call in (
        lambda: partial_loss(logits, wrong),
        lambda: weighted_cross_entropy(logits, target, wrong),
        lambda: masked_soft_dice(logits, target, wrong.bool(), 1.0),
        lambda: consistency_mse(logits, logits, wrong),
        lambda: masked_mean(softmax_entropy(logits), wrong),
    ):
        with pytest.raises(ValueError, match="shape"):
            call()


# Consistency, entropy, ramp


def test_consistency_is_the_mean_squared_difference_within_the_mask():
    one, other = (random_case(seed=seed)[0].softmax(1).detach() for seed in (1, 2))
    mask = torch.zeros(2, 4, 5, dtype=torch.bool)
    mask[0, 1:3] = True
    assert consistency_mse(one, one).value.item() == 0
    torch.testing.assert_close(consistency_mse(one, other).value, functional.mse_loss(one, other))
    selected = [p.movedim(1, -1)[mask] for p in (one, other)]
    torch.testing.assert_close(consistency_mse(one, other, mask).value, functional.mse_loss(*selected))
    assert consistency_mse(one, other, torch.zeros_like(mask)).value.item() == 0


@given(seed=st.integers(0, 1000), n_classes=st.integers(2, 5))
def test_winners_are_torchs_argmax_the_first_of_equal_ones(seed, n_classes):
    scores = torch.randint(0, 3, (2, n_classes, 4, 5), generator=torch.manual_seed(seed)).float()
    assert torch.equal(winners(scores), scores.argmax(dim=1))


@pytest.mark.parametrize("n_classes", [2, 3, 7])
def test_entropy_is_ln_c_for_uniform_and_zero_for_certain(n_classes):
    uniform = torch.zeros(1, n_classes, 2, 2)
    certain = uniform.clone()
    certain[:, 0] = 1000
    for found in (softmax_entropy, lambda logits: entropy(logits.softmax(1))):
        torch.testing.assert_close(found(uniform), torch.full((1, 2, 2), log(n_classes)))
        assert not found(certain).any()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 5), st.integers(2, 6))
def test_mean_of_entropies_never_exceeds_entropy_of_the_mean(seed, n_classes, n_passes):
    logits = 3 * torch.randn(n_passes, n_classes, 3, 3, generator=torch.Generator().manual_seed(seed))
    mean_of_entropies = softmax_entropy(logits).mean(0)
    entropy_of_mean = entropy(logits.softmax(1).mean(0, keepdim=True))[0]
    assert (mean_of_entropies <= entropy_of_mean + 1e-6).all()


def test_disagreeing_certain_passes_are_reliable_one_by_one_but_not_together():
    passes = torch.tensor([[0.1, 0.9], [0.9, 0.1]]).view(2, 2, 1, 1)
    threshold = (0.75 + 0.25 * ramp_sigmoid(0)) * log(2)
    assert threshold == pytest.approx(0.5210, abs=5e-5)
    one_by_one = softmax_entropy(passes.log()).mean().item()
    together = entropy(passes.mean(0, keepdim=True)).item()
    assert one_by_one == pytest.approx(0.325, abs=5e-4)
    assert together == pytest.approx(0.693, abs=5e-4)
    assert one_by_one < threshold < together


def test_entropy_has_a_gradient_towards_certainty():
    logits = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).requires_grad_()
    softmax_entropy(logits).sum().backward()
    assert logits.grad.flatten()[0] < 0 < logits.grad.flatten()[1]


@given(st.floats(0, 1), st.floats(0, 1))
def test_ramp_rises_from_e_to_the_minus_five_to_one(t, later):
    assert ramp_sigmoid(0) == exp(-5)
    assert ramp_sigmoid(1) == 1
    assert ramp_sigmoid(min(t, later)) <= ramp_sigmoid(max(t, later))


def test_ramp_is_constant_outside():
    assert ramp_sigmoid(-1) == exp(-5)
    assert ramp_sigmoid(3) == 1


# Precision


@pytest.mark.parametrize("loss", [partial_loss, partial_dice, partial_cross_entropy])
def test_losses_are_float32_under_autocast(loss):
    logits, target = random_case(size=(8, 8))
    wanted = loss(logits, target).value
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(logits, target).value
    assert found.dtype == torch.float32
    assert torch.equal(found, wanted)
    rounded = logits.bfloat16()
    assert torch.equal(loss(rounded, target).value, loss(rounded.float(), target).value)


# Several processes


def all_losses(logits, target):
    weight = (target.float() + 1) / 4
    mask = target == 1
    return {
        "partial_loss": partial_loss(logits, target),
        "weighted_cross_entropy": weighted_cross_entropy(logits, target, weight),
        "weighted_dice": weighted_dice(logits.softmax(1), target, weight),
        "masked_soft_dice": masked_soft_dice(logits.softmax(1), target, mask, 1.0),
        "consistency_mse": consistency_mse(logits.softmax(1), logits.softmax(1).detach() ** 2, mask),
        "masked_mean": masked_mean(softmax_entropy(logits), mask),
    }


def test_fractions_of_the_parts_add_up_to_the_whole():
    logits, target = random_case(batch=3)
    target[1].view(-1)[4:] = IGNORE
    whole = all_losses(logits, target)
    first, rest = all_losses(logits[:1], target[:1]), all_losses(logits[1:], target[1:])
    for name, loss in whole.items():
        together = MaskedMean(*(a + b for a, b in zip(first[name], rest[name], strict=True)))
        torch.testing.assert_close(together.value, loss.value, msg=name)
