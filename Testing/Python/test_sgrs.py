"""SGRS: properties of the specification, section 7, and the published code's defects, section 4."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_steps import SEEDS, logits_of, make_bench, probabilities
from tiny_problem import draw_case, tiny_plan, tiny_settings, training_case
from torch import nn

from SemiSupSegLib.learning.losses import cross_entropy_map, masked_soft_dice
from SemiSupSegLib.learning.methods.sgrs import Regions, is_nearly_a_draw, mix
from SemiSupSegLib.learning.methods.sgrs_legacy import LegacySGRS
from SemiSupSegLib.learning.trainer import Trainer
from SemiSupSegLib.method_settings import SGRSSettings

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = st.integers(2, 4)
SHAPE = (2, 4, 4, 4)


def views(seed, n_classes=2):
    return probabilities(seed, n_classes, SHAPE), probabilities(seed + 1, n_classes, SHAPE)


# 1, 2, 10: regions


@settings(max_examples=30, deadline=None)
@given(SEEDS, CLASSES)
def test_regions_are_disjoint_cover_every_voxel_and_do_not_know_which_view_is_which(seed, n_classes):
    method = make_bench("sgrs", n_classes=n_classes).method
    first, second = views(seed, n_classes)
    regions, turned = method.regions(first, second), method.regions(second, first)
    parts = torch.stack([regions.consistent, regions.inconsistent, regions.uncertain])
    assert (parts.sum(dim=0) == 1).all()
    for name in ("consistent", "inconsistent", "uncertain"):
        assert torch.equal(getattr(regions, name), getattr(turned, name))


@settings(max_examples=30, deadline=None)
@given(SEEDS, CLASSES)
def test_empty_rules_disregard_nothing_and_full_ones_everything(seed, n_classes):
    p = probabilities(seed, n_classes, SHAPE)
    rules = [("margin", {"margin": 0.0}), ("entropy", {"entropy": 1.0}), ("none", {})]
    for rule, values in rules:
        assert not is_nearly_a_draw(p, SGRSSettings(uncertain_rule=rule, **values)).any()
    assert is_nearly_a_draw(p, SGRSSettings(uncertain_rule="margin", margin=1.0)).all()
    assert is_nearly_a_draw(p, SGRSSettings(uncertain_rule="entropy", entropy=0.0)).all()


@pytest.mark.parametrize("tau, all_of_them", [(0.5, False), (0.0, True)])
def test_the_codes_band_runs_the_other_way(tau, all_of_them, monkeypatch):
    monkeypatch.setattr("SemiSupSegLib.learning.methods.sgrs_legacy._TAU", tau)
    uncertain = make_bench("sgrs", "sgrs.legacy=true").method.is_uncertain(probabilities(0, 2, SHAPE))
    assert bool(uncertain.all()) == all_of_them
    assert bool(uncertain.any()) == all_of_them


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_margin_entropy_and_band_agree_for_two_classes(seed):
    p = probabilities(seed, 2, (2, 16, 16), sharpness=0.4)
    share = -(0.425 * math.log(0.425) + 0.575 * math.log(0.575)) / math.log(2)
    assert share == pytest.approx(SGRSSettings().entropy, abs=1e-4)
    found = [
        is_nearly_a_draw(p, SGRSSettings(uncertain_rule="margin")),
        is_nearly_a_draw(p, SGRSSettings(uncertain_rule="entropy", entropy=share)),
        make_bench("sgrs", "sgrs.legacy=true").method.is_uncertain(p),
    ]
    clear = ((p[:, 0] - 0.425).abs() > 1e-5) & ((p[:, 0] - 0.575).abs() > 1e-5)  # not at the very edge of the band
    assert found[0].any()
    assert all(torch.equal(each[clear], found[0][clear]) for each in found)


def test_without_regions_every_voxel_is_consistent():
    method = make_bench("sgrs", "sgrs.regions=false").method
    regions = method.regions(*views(0))
    assert regions.consistent.all()
    assert not (regions.inconsistent | regions.uncertain).any()


# 3: mixing


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.floats(0.05, 10), st.integers(1, 4), st.integers(1, 4))
def test_mixture_is_mostly_unlabeled_and_lies_between_its_parts(seed, beta, n_unlabeled, n_labeled):
    unlabeled, labeled = torch.zeros(n_unlabeled, 1, 3, 3), torch.ones(n_labeled, 1, 3, 3)
    mixed, lam = mix(unlabeled, labeled, beta, np.random.default_rng(seed))
    assert mixed.shape == unlabeled.shape
    assert ((lam >= 0.5) & (lam <= 1)).all()
    torch.testing.assert_close(mixed, (1 - lam).view(-1, 1, 1, 1).expand_as(mixed))


def test_every_labeled_patch_is_a_partner_once():
    labeled = torch.arange(4.0).view(4, 1, 1, 1)
    mixed, lam = mix(torch.zeros(4, 1, 1, 1), labeled, 0.75, np.random.default_rng(3))
    partners = mixed.flatten() / (1 - lam)
    assert sorted(partners.round().tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("count", [2, 3, 5])
def test_no_patch_is_its_own_partner_where_all_are_annotated(count):
    patches = torch.arange(float(count)).view(count, 1, 1, 1)
    for seed in range(10):
        mixed, lam = mix(torch.zeros_like(patches), patches, 0.75, np.random.default_rng(seed), are_same=True)
        partners = (mixed.flatten() / (1 - lam)).round()
        assert sorted(partners.tolist()) == list(range(count))
        assert (partners != patches.flatten()).all()


@pytest.mark.parametrize("share, differs", [(1.0, False), (0.5, True)])
def test_mixture_of_nothing_but_the_unlabeled_leaves_no_inconsistent_region(monkeypatch, share, differs):
    monkeypatch.setattr(
        "SemiSupSegLib.learning.methods.sgrs.mix", lambda u, x, a, n, same: (share * u + (1 - share) * x, None)
    )
    bench = make_bench("sgrs", "sgrs.noise=0", "sgrs.uncertain_rule=none")
    bench.student.body.weight.data.mul_(4)
    bench.student.body.bias.data.zero_()
    bench.student.classifier.bias.data.zero_()
    assert bool(bench.losses().parts["inconsistent"] > 0) == differs


# 4, 5: losses of regions


def test_regional_dice_is_none_for_nothing_and_for_perfect_and_less_when_smoothed():
    target = torch.zeros(1, 8, 8, 8, dtype=torch.uint8)
    target[:, :4] = 1
    everywhere = torch.ones_like(target, dtype=torch.bool)
    right = torch.stack([target == 0, target == 1], dim=1).float()
    assert masked_soft_dice(right, target, ~everywhere, 1.0).value == 0
    assert masked_soft_dice(right, target, everywhere, 1.0).value.item() == pytest.approx(0, abs=1e-6)
    wrong = [masked_soft_dice(1 - right, target, everywhere, smooth).value.item() for smooth in (1.0, 20.0)]
    assert wrong[0] == pytest.approx(1 - 1 / 513, abs=1e-5)
    assert wrong[1] == pytest.approx(1 - 20 / 532, abs=1e-5)


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_label_smoothing_of_none_is_cross_entropy_and_of_a_fifth_gives_nine_to_one(seed):
    p = probabilities(seed, 2, SHAPE)
    target = probabilities(seed + 1, 2, SHAPE).argmax(dim=1)
    plain = -torch.gather(p.log(), 1, target.unsqueeze(1))[:, 0]
    torch.testing.assert_close(cross_entropy_map(p.log(), target, 0.0), plain)
    nine_to_one = 0.9 * plain - 0.1 * torch.gather(p.log(), 1, 1 - target.unsqueeze(1))[:, 0]
    torch.testing.assert_close(cross_entropy_map(p.log(), target, 0.2), nine_to_one)


# 6 and D1: samples


def regional_gradient(*changes):
    """Gradient of the regional cross-entropy where only sample 0 has a region, the inconsistent one."""
    method = make_bench("sgrs", *changes).method
    logits = logits_of(probabilities(0, 2, SHAPE)).requires_grad_()
    nowhere = torch.zeros(SHAPE, dtype=torch.bool)
    uncertain = nowhere.clone()
    uncertain[1] = True
    labels = torch.zeros(SHAPE, dtype=torch.uint8)
    method.regional_cross_entropy(logits, labels, Regions(nowhere, uncertain)).value.backward()
    return logits.grad.flatten(1).abs().sum(dim=1)


def test_sample_without_regions_gets_no_gradient_but_does_in_the_code():
    assert regional_gradient()[1] == 0
    gradient = regional_gradient("sgrs.legacy=true")
    assert gradient[0] > 0
    assert gradient[1] > 0  # D1


def test_legacy_value_is_the_mean_over_all_pairs_of_samples():
    method = make_bench("sgrs", "sgrs.legacy=true").method
    p, labels = probabilities(0, 2, SHAPE), torch.zeros(SHAPE, dtype=torch.uint8)
    same, uncertain = (probabilities(seed, 2, SHAPE)[:, 0] > 0.5 for seed in (1, 2))
    regions = Regions(same, uncertain)
    mask = regions.inconsistent[:, None]  # (B, 1, *spatial), as the code has it
    wanted = (mask * cross_entropy_map(p.log(), labels, 0.2)).mean() + (
        same * cross_entropy_map(p.log(), labels)
    ).mean()
    torch.testing.assert_close(method.regional_cross_entropy(p.log(), labels, regions).value, wanted)


def test_undecided_voxels_train_nothing_but_do_in_the_code():
    labels, everywhere = torch.zeros(SHAPE, dtype=torch.uint8), torch.ones(SHAPE, dtype=torch.bool)
    regions = Regions(same=everywhere, uncertain=everywhere)
    logits = logits_of(probabilities(0, 2, SHAPE))
    intended, legacy = (make_bench("sgrs", f"sgrs.legacy={text}").method for text in ("false", "true"))
    assert intended.regional_cross_entropy(logits, labels, regions).value == 0
    assert legacy.regional_cross_entropy(logits, labels, regions).value > 0  # D2
    for method in (intended, legacy):
        assert method.regional_dice(torch.softmax(logits, dim=1), labels, regions) == 0


# D3


def test_perfect_annotated_patch_costs_nothing_but_a_quarter_in_the_code():
    for legacy, wanted in (("false", 0.0), ("true", 0.25)):
        bench = make_bench("sgrs", f"sgrs.legacy={legacy}")
        annotation = bench.step.labeled.annotation
        logits = 60 * torch.stack([annotation == 0, annotation == 1], dim=1).float()
        loss = bench.method.annotated_losses(logits, bench.step.labeled).total
        assert loss.item() == pytest.approx(wanted, abs=1e-5)


# 7: gradients


@pytest.mark.parametrize("legacy", ["false", "true"])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_no_gradient_through_teacher_pseudo_labels_or_masks(legacy, dimensions):
    bench = make_bench("sgrs", f"sgrs.legacy={legacy}", n_classes=3, dimensions=dimensions, scribbled=True)
    bench.teacher.requires_grad_(True)
    bench.losses().total.backward()
    assert all(parameter.grad is None for parameter in bench.teacher.parameters())
    assert all(parameter.grad.abs().sum() > 0 for parameter in bench.student.parameters())


def test_labels_of_the_mixture_are_the_unlabeled_patchs(monkeypatch):
    seen = []
    bench = make_bench("sgrs")
    original = bench.method.regional_cross_entropy
    monkeypatch.setattr(
        bench.method, "regional_cross_entropy", lambda z, y, r: seen.append(y.clone()) or original(z, y, r)
    )
    for share in (1.0, 0.5):
        monkeypatch.setattr(
            "SemiSupSegLib.learning.methods.sgrs.mix", lambda u, x, a, n, same, s=share: (s * u + (1 - s) * x, None)
        )
        bench.losses()
    assert len(seen) == 4
    assert all(torch.equal(each, seen[0]) for each in seen)


# 8: schedules


def test_ramp_as_published_in_fractions():
    method = make_bench("sgrs", "schedule.unlabeled_start=0", "schedule.unlabeled_ramp=0.4").method
    assert method.unlabeled_weight(0.0) == 0.0  # e^-5 = 0.0067: nothing is computed below 0.01
    assert method.unlabeled_weight(0.2) == pytest.approx(math.exp(-5 * 0.25))
    assert [method.unlabeled_weight(at) for at in (0.4, 0.7, 1.0)] == [1, 1, 1]


def test_legacy_ramp_counts_iterations():
    bench = make_bench("sgrs", "sgrs.legacy=true")
    ramps = {}
    for iteration in (0, 149, 150, 5999, 6000, 14000):
        bench.step.iteration = iteration
        ramps[iteration] = bench.method.ramp(bench.step)
    assert ramps[0] == ramps[149] == pytest.approx(math.exp(-5))
    assert ramps[150] == pytest.approx(math.exp(-5 * (1 - 1 / 40) ** 2))
    assert ramps[5999] < 1
    assert ramps[6000] == ramps[14000] == 1
    assert bench.method.composition(0.0).unlabeled > 0


def tiny_trainer(*changes, iterations=8):
    cases = [draw_case(seed) for seed in range(2)]
    settings = tiny_settings("sgrs", 0, changes)
    data = [training_case("a", cases[0].image, cases[0].truth), training_case("b", cases[1].image)]
    return Trainer(settings, tiny_plan(size=8, features=(4, 8), strides=((2, 2, 2),), norm="batch"),
                   torch.device("cpu"), data, iterations)  # fmt: skip


def test_legacy_rate_is_constant():
    rates = {legacy: [] for legacy in ("true", "false")}
    for legacy, found in rates.items():
        trainer = tiny_trainer(f"sgrs.legacy={legacy}", iterations=4)
        found += [trainer.step()["learning rate"] for _ in range(4)]
    assert rates["true"] == [0.01] * 4
    assert len(set(rates["false"])) == 4


# 9 and D4: averages


def constant_networks(teacher_value):
    networks = [nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)) for _ in range(2)]
    for network, value in zip(networks, (1.0, teacher_value), strict=True):
        for tensor in network.state_dict().values():
            if tensor.dtype == torch.float32:
                tensor.fill_(value)
    return networks


@pytest.mark.parametrize("legacy, decay, student_left", [(True, 0.9801, 0.9998), (False, 0.99, 1.0)])
def test_average_after_one_step(legacy, decay, student_left):
    student, teacher = constant_networks(0.0)
    bench = make_bench("sgrs", f"sgrs.legacy={str(legacy).lower()}")
    assert isinstance(bench.method, LegacySGRS) == legacy
    bench.method.update_teacher(student, teacher, 0.99, 10_000)
    assert all(each.item() == pytest.approx(student_left) for each in student.parameters())
    assert all(each.item() == pytest.approx(1 - decay, abs=3e-6) for each in teacher.parameters())
    mean = teacher[1].running_mean.item()
    assert mean == pytest.approx(0.01 if legacy else 1.0)  # averaged once, or copied
    if legacy:
        assert student[1].running_mean.item() == pytest.approx(0.9998)


def test_the_codes_first_average_takes_half_of_the_student():
    student, teacher = constant_networks(0.0)
    make_bench("sgrs", "sgrs.legacy=true").method.update_teacher(student, teacher, 0.99, iteration=0)
    # 0.01 of the student, which then shrinks, and then min(1 - 1/2, 0.99): the code has counted the step by then
    assert teacher[0].weight.item() == pytest.approx(0.5 * 0.01 + 0.5 * 0.9998)


@pytest.mark.parametrize("legacy, left", [("true", 0.9998**100), ("false", 1.0)])
def test_a_weight_without_gradient_fades_in_the_code(legacy, left):
    student, teacher = constant_networks(1.0)
    method = make_bench("sgrs", f"sgrs.legacy={legacy}").method
    for iteration in range(100):
        method.update_teacher(student, teacher, 0.99, iteration)
    assert student[0].weight.item() == pytest.approx(left, rel=1e-4)


# D5


def test_teacher_predicts_with_dropout_where_asked_to_and_always_in_the_code():
    def labels(*changes):
        bench = make_bench("sgrs", *changes, dropout=0.5)
        torch.manual_seed(1)
        first = bench.method.pseudo_labels(bench.step, bench.step.unlabeled.image)
        return first, bench.method.pseudo_labels(bench.step, bench.step.unlabeled.image)

    assert torch.equal(*labels("sgrs.teacher_dropout=false"))
    assert not torch.equal(*labels("sgrs.teacher_dropout=true"))
    assert not torch.equal(*labels("sgrs.teacher_dropout=false", "sgrs.legacy=true"))


# Switches, classes, annotations


def test_annotation_of_the_unlabeled_batch_is_not_overruled():
    bench = make_bench("sgrs", scribbled=True, n_classes=3)
    bench.step.unlabeled = bench.step.labeled
    annotation = bench.step.labeled.annotation
    labels = bench.method.pseudo_labels(bench.step, bench.step.unlabeled.image)
    assert torch.equal(labels[annotation != 255], annotation[annotation != 255])


@pytest.mark.parametrize(
    "change",
    [
        "mixing=false", "regions=false", "inconsistent_region=false", "uncertain_rule=none", "label_smoothing=0",
        "teacher_dropout=false", "noise=0", "beta=5", "legacy=true", "inconsistent_smooth=1e6", "weight=0.5",
    ],
)  # fmt: skip
def test_every_part_can_be_switched(change):
    losses = [
        make_bench("sgrs", *switches, dropout=0.3).losses().total.item() for switches in ((), (f"sgrs.{change}",))
    ]
    assert losses[0] != losses[1]


@pytest.mark.parametrize(
    "changes, added", [((), 5.0), (("sgrs.strong_view=false",), 0.0), (("sgrs.legacy=true",), 0.0)]
)
def test_the_plain_view_alone_is_changed_as_annotated_patches_are(changes, added):
    bench = make_bench("sgrs", "sgrs.mixing=false", "sgrs.noise=0", *changes)
    seen = []
    student, bench.step.strong = bench.step.student, lambda image: image + 5.0
    bench.step.student = lambda images: seen.append(images) or student(images)
    bench.losses()
    (images,) = seen
    _, plain, mixed = images.split(len(bench.step.unlabeled))
    assert torch.equal(plain, bench.step.unlabeled.image + added)
    assert torch.equal(mixed, bench.step.unlabeled.image)


@pytest.mark.parametrize("is_strong", [True, False])
def test_annotated_patches_serve_as_unlabeled_ones_each_mixed_with_another(is_strong):
    bench = make_bench("sgrs", "sgrs.noise=0", f"sgrs.strong_view={str(is_strong).lower()}")
    bench.step.unlabeled, seen = None, []
    student, bench.step.strong = bench.step.student, lambda image: image + 5.0
    bench.step.student = lambda images: seen.append(images) or student(images)
    bench.losses()
    (images,) = seen
    annotated, *plain, mixed = images.split(len(bench.step.labeled))
    own = bench.step.labeled.image
    assert torch.equal(annotated, own + 5.0)
    assert [torch.equal(each, own) for each in plain] == ([] if is_strong else [True])
    shares = (mixed - own.flip(0)).flatten(1).norm(dim=1) / (own - own.flip(0)).flatten(1).norm(dim=1)
    assert ((shares >= 0.5) & (shares < 1)).all(), "each of two patches is mixed with the other"
    line = own.flip(0) + shares.view(-1, 1, 1, 1, 1) * (own - own.flip(0))
    torch.testing.assert_close(mixed, line)


def test_weight_of_none_leaves_half_the_loss_of_partial():
    ours, theirs = (make_bench(*arguments).losses() for arguments in (("sgrs", "sgrs.weight=0"), ("partial",)))
    assert ours.total == 0.5 * theirs.total
    assert dataclasses.asdict(make_bench("sgrs", "sgrs.weight=0").method.composition(0.9))["unlabeled"] == 0
