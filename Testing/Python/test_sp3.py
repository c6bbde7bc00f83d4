"""SP3: properties of the specification, section 4; superpixels and their propagation have files of their own."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_steps import SEEDS, make_bench, of_scans, probabilities
from tiny_problem import draw_case, scribbled, tiny_plan, tiny_settings, train_tiny

from SemiSupSegLib.labels import BEYOND, IGNORE
from SemiSupSegLib.learning.losses import cross_entropy_map, weighted_cross_entropy, weighted_dice
from SemiSupSegLib.learning.methods.class_volumes import ClassVolumes
from SemiSupSegLib.learning.methods.sp3 import (
    SP3,
    DynamicThreshold,
    MeanCertainty,
    PseudoLabels,
    Superpixels,
    largest_components,
)
from SemiSupSegLib.learning.supervoxels import superpixel_mean
from SemiSupSegLib.method_settings import SP3Settings

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = st.integers(2, 4)


def superpixels_of(p, ids):
    return Superpixels(*superpixel_mean(p, ids)[:2])


def refine(bench, p, batch, **changes):
    """Labels, certainty and curves of a batch under changed settings, the thresholds as they begin."""
    options = dataclasses.replace(bench.method.options, **changes)
    bench.method.options = options
    bench.method.threshold = DynamicThreshold(bench.method.plan.n_classes, options)
    bench.method.volumes = ClassVolumes(bench.method.plan.n_classes)
    return bench.method.pseudo_labels(p, batch, bench.step)


def turned(values):
    """A batch's tensor or tuple, the last patch first."""
    return values.flip(0) if isinstance(values, torch.Tensor) else values[::-1]


def test_without_expansion_and_pseudo_labels_it_is_partial_bit_for_bit():
    cases = [draw_case(seed) for seed in range(3)]
    annotated = [(cases[0], scribbled(cases[0].truth, 0)), (cases[1], cases[1].truth)]
    runs = [
        train_tiny(method, annotated, cases[2:], 6, changes=changes)
        for method, changes in (("partial", ()), ("sp3", ("sp3.expansion_weight=0", "sp3.pseudo_weight=0")))
    ]
    for name in ("student", "teacher"):
        ours, theirs = (getattr(run, name).state_dict() for run in runs)
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_expansion_that_knows_nothing_costs_nothing():
    bench = make_bench("sp3", fraction=0.0)
    nothing = torch.full_like(bench.step.labeled.annotation, IGNORE)
    bench.step.labeled = dataclasses.replace(bench.step.labeled, expanded=nothing)
    assert bench.losses().parts["expanded"] == 0


@settings(max_examples=25, deadline=None)
@given(SEEDS, CLASSES, st.floats(0, 1))
def test_superpixels_of_one_voxel_change_nothing_whatever_the_threshold(seed, n_classes, tau):
    bench = make_bench("sp3", n_classes=n_classes, dimensions=2)
    p = probabilities(seed, n_classes, (2, 6, 6))
    ids = torch.arange(36).view(1, 6, 6).repeat(2, 1, 1)
    batch = of_scans("unlabeled", dataclasses.replace(bench.step.unlabeled, superpixels=ids))
    labels, *_, parts = refine(bench, p, batch, dynamic_threshold=False, fixed_threshold=tau)
    assert torch.equal(labels, p.argmax(dim=1).to(torch.uint8))
    assert parts["changed"] == 0
    torch.testing.assert_close(
        superpixels_of(p, batch.superpixels).probability, p.movedim(1, -1).reshape(-1, n_classes)
    )


@settings(max_examples=25, deadline=None)
@given(SEEDS, CLASSES)
def test_names_of_superpixels_and_order_of_the_batch_change_nothing(seed, n_classes):
    bench = make_bench("sp3", n_classes=n_classes, seed=seed)
    p = probabilities(seed, n_classes, (4, 6, 6, 6))
    batch = bench.step.all
    names = torch.randperm(40, generator=torch.Generator().manual_seed(seed)).to(torch.int32)
    cases = tuple(dataclasses.replace(case, superpixels=names[case.superpixels.long()]) for case in batch.cases)
    renamed = dataclasses.replace(batch, superpixels=names[batch.superpixels.long()], cases=cases)
    parts = [field.name for field in dataclasses.fields(batch)]
    other_way = dataclasses.replace(batch, **{part: turned(getattr(batch, part)) for part in parts})
    labels, certainty, *_ = refine(bench, p, batch)
    tau = bench.method.threshold.tau
    for other, back in ((renamed, lambda x: x), (other_way, turned)):
        found, weights, *_ = refine(bench, back(p), other)
        assert torch.equal(back(found), labels)
        torch.testing.assert_close(back(weights), certainty)
        torch.testing.assert_close(bench.method.threshold.tau, tau)


@settings(max_examples=25, deadline=None)
@given(SEEDS, CLASSES)
def test_superpixel_probabilities_sum_to_one_and_keep_what_is_constant(seed, n_classes):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, (2, 6, 6), generator=generator)
    p = probabilities(seed, n_classes, (2, 6, 6))
    mean = superpixels_of(p, ids).probability
    torch.testing.assert_close(mean.sum(dim=1), torch.ones(len(mean)))
    levels = probabilities(seed + 1, n_classes, (2, 5))
    constant = torch.stack([level[:, each] for level, each in zip(levels, ids, strict=True)])
    found = superpixels_of(constant, ids)
    spread = torch.stack([found.on_voxels(found.probability[:, c], 0.0) for c in range(n_classes)], dim=1)
    torch.testing.assert_close(spread, constant)


def test_superpixels_never_mix_across_images():
    p = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).view(2, 2, 1, 1).expand(2, 2, 3, 3)
    found = superpixels_of(p, torch.zeros(2, 3, 3, dtype=torch.int32))
    assert found.probability.tolist() == [[1, 0], [0, 1]]


@settings(max_examples=25, deadline=None)
@given(SEEDS, CLASSES)
def test_threshold_above_one_refines_nothing_and_zero_makes_superpixels_homogeneous(seed, n_classes):
    bench = make_bench("sp3", n_classes=n_classes, dimensions=2)
    p = probabilities(seed, n_classes, (2, 6, 6))
    batch = bench.step.unlabeled
    labels, *_, parts = refine(bench, p, batch, dynamic_threshold=False, fixed_threshold=1.5)
    assert torch.equal(labels, p.argmax(dim=1).to(torch.uint8))
    assert parts["beneficial"] == 0
    labels, *_, parts = refine(bench, p, batch, dynamic_threshold=False, fixed_threshold=0)
    assert parts["beneficial"] == 1
    for image, ids in zip(labels, batch.superpixels, strict=True):
        assert all(len(image[ids == each].unique()) == 1 for each in ids.unique())


def rows(*probability):
    return Superpixels(torch.tensor(probability), torch.arange(len(probability)))


def test_threshold_of_a_class_that_nothing_is_predicted_as_stays():
    threshold = DynamicThreshold(3, SP3Settings())
    superpixels = rows([0.1, 0.8, 0.1], [0.7, 0.2, 0.1])
    threshold.update(superpixels, torch.tensor([True, True]), 0.9)
    assert threshold.tau.tolist() == pytest.approx([0.9 / 3 + 0.07, 0.9 / 3 + 0.08, 1 / 3])
    before = threshold.tau.clone()
    threshold.update(superpixels, torch.tensor([False, False]), 0.9)
    assert torch.equal(threshold.tau, before)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.51, 0.94), st.floats(0.1, 0.95))
def test_threshold_follows_a_constant_confidence_to_it(confidence, momentum):
    threshold = DynamicThreshold(2, SP3Settings())
    for _ in range(400):
        threshold.update(rows([1 - confidence, confidence]), torch.tensor([True]), momentum)
    assert threshold.value[1].item() == pytest.approx(confidence, abs=1e-4)


def test_confidence_in_one_class_leaves_the_others_threshold():
    found = []
    for confidence in (0.6, 0.9):
        threshold = DynamicThreshold(3, SP3Settings())
        threshold.update(
            rows([0.05, confidence, 0.95 - confidence], [0.1, 0.2, 0.7]), torch.ones(2, dtype=torch.bool), 0
        )
        found.append(threshold.tau)
    assert found[0][1] < found[1][1]
    assert found[0][2] == found[1][2]


def test_scribbled_superpixels_do_not_move_the_thresholds():
    bench = make_bench("sp3")
    batch = dataclasses.replace(bench.step.labeled, expanded=torch.zeros_like(bench.step.labeled.annotation))
    refine(bench, probabilities(0, 2, (2, 6, 6, 6)), batch)
    assert bench.method.threshold.tau.tolist() == [0.5, 0.5]


def test_all_that_follows_the_teacher_survives_a_checkpoint():
    bench = make_bench("sp3", scribbled=True)
    bench.losses()
    state = json.loads(json.dumps(bench.method.state()))
    fresh = make_bench("sp3", scribbled=True)
    begun = fresh.method.state()
    assert all(begun[part] != state[part] for part in ("tau", "certainty", "volumes"))
    fresh.method.load_state(state)
    assert fresh.method.state() == state
    assert fresh.losses().total == bench.losses().total


def test_the_state_of_a_version_that_knew_thresholds_only_is_enough():
    method = make_bench("sp3").method
    method.load_state({"tau": [0.6, 0.7]})
    assert method.threshold.tau.tolist() == [0.6, 0.7]


def pseudo_labels_of(labels, certainty, counted=None):
    labels, certainty = torch.as_tensor(labels).to(torch.uint8), torch.as_tensor(certainty)
    counted = torch.ones_like(labels, dtype=torch.bool) if counted is None else counted
    return PseudoLabels(labels, certainty, counted, {})


@settings(max_examples=25, deadline=None)
@given(SEEDS, CLASSES)
def test_weights_by_certainty_leave_every_class_its_share(seed, n_classes):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(n_classes, (2, 8, 8), generator=generator)
    certainty = (0.5 + 0.5 * torch.rand(2, 8, 8, generator=generator)) / (1 + labels / 2)
    counted = torch.rand(2, 8, 8, generator=generator) < 0.7
    certainty[~counted] = 0
    mean, found = MeanCertainty(n_classes), pseudo_labels_of(labels, certainty, counted)
    mean.update(found, 0.0)
    weights = mean.relative(found)
    assert not weights[~counted].any()
    for label in range(n_classes):
        chosen = counted & (labels == label)
        assert weights[chosen].sum().item() == pytest.approx(int(chosen.sum()), rel=1e-4)
        ratio = weights[chosen] / certainty[chosen]
        assert ratio.max() - ratio.min() < 1e-4 * ratio.max()


def test_mean_certainty_follows_batches():
    mean = MeanCertainty(3)
    for labels, certainty in (([0, 0, 1], [1.0, 1.0, 0.5]), ([0, 1, 1], [0.5, 0.25, 0.25])):
        mean.update(pseudo_labels_of([labels], [certainty]), 0.5)
    assert mean.total.tolist() == [0.5 * 1 + 0.5 * 0.5, 0.5 * 0.25 + 0.5 * 0.5, 0]
    assert mean.voxels.tolist() == [0.5 * 1 + 0.5 * 1, 0.5 * 0.5 + 0.5 * 2, 0]
    weights = mean.relative(pseudo_labels_of([[0, 1, 2]], [[0.75, 0.3, 0.0]]))
    torch.testing.assert_close(weights, torch.tensor([[1.0, 0.3 * 1.25 / 0.375, 0.0]]))


def test_labels_of_a_class_that_is_hardly_ever_certain_count_four_times_at_most():
    mean, found = MeanCertainty(2), pseudo_labels_of([[0] * 5 + [1] * 5], [[1.0] * 5 + [0.0] * 4 + [0.01]])
    mean.update(found, 0.0)
    assert mean.relative(found)[0, -1].item() == pytest.approx(0.04)


def test_what_lies_outside_the_image_or_may_be_another_piece_has_no_part_in_the_mean_certainty():
    bench = make_bench("sp3", scribbled=True, one_piece=(1,))
    batch = bench.step.all
    outside = batch.superpixels.clone()
    outside[:, :2] = -1
    foreground = torch.full((4, 6, 6, 6), 0.1)
    foreground[:, 4], foreground[:, 2, 0, 0] = 0.9, 0.9  # one piece, and what may be another
    p = torch.stack([1 - foreground, foreground], dim=1)
    found = refine(bench, p, dataclasses.replace(batch, superpixels=outside), refinement=False)
    known = batch.expanded != IGNORE
    assert not found.counted[:, :2].any()
    assert torch.equal(found.counted[:, 2, 0, 0], known[:, 2, 0, 0])
    assert found.counted[:, 3:].all()


def test_certainty_is_over_its_class_s_mean_in_the_cross_entropy_and_not_in_dice():
    bench = make_bench("sp3", scribbled=True)
    batch = bench.step.all
    found = refine(bench, torch.softmax(bench.teacher(batch.image), dim=1), batch)
    mean = MeanCertainty(2)
    mean.update(found, 0.0)
    logits = bench.student(batch.image)
    bench.method.mean_certainty = MeanCertainty(2)
    bench.method.threshold = DynamicThreshold(2, bench.method.options)
    bench.method.volumes = ClassVolumes(2)
    expected = (
        weighted_cross_entropy(logits, found.labels, mean.relative(found)).value
        + weighted_dice(torch.softmax(logits, dim=1), found.labels, found.certainty).value
    )
    plain = weighted_cross_entropy(logits, found.labels, found.certainty).value
    assert abs(plain - weighted_cross_entropy(logits, found.labels, mean.relative(found)).value) > 1e-3
    torch.testing.assert_close(bench.losses().parts["pseudo"], expected)


def test_mean_certainty_follows_as_slowly_as_thresholds_do():
    bench = make_bench("sp3", scribbled=True)
    bench.losses()
    first = bench.method.mean_certainty.voxels.clone()
    momentum = min(0.99, 1 - 1 / (0.02 * bench.step.iterations))
    bench.losses()
    torch.testing.assert_close(bench.method.mean_certainty.voxels, (1 + momentum) * first)


@pytest.mark.parametrize("n_classes", [2, 3, 5])
def test_uncertainty_is_none_for_one_hot_and_full_for_a_uniform_or_divided_superpixel(n_classes):
    eye = torch.eye(n_classes)
    certain, uniform = eye[:1], torch.full((1, n_classes), 1 / n_classes)
    of_voxel = torch.zeros(1)
    assert Superpixels(certain, of_voxel).uncertainty.item() == 0
    assert Superpixels(uniform, of_voxel).uncertainty.item() == pytest.approx(1)
    divided = eye[[0, 1]].T.reshape(1, n_classes, 2)  # two voxels, each certain, of one superpixel
    assert superpixels_of(divided, torch.zeros(1, 2, dtype=torch.int64)).uncertainty.item() == pytest.approx(1)


@settings(max_examples=20, deadline=None)
@given(SEEDS, CLASSES, st.floats(0.1, 1))
def test_equal_weights_give_plain_cross_entropy_and_weight_zero_no_gradient(seed, n_classes, weight):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, n_classes, 4, 4, generator=generator).requires_grad_()
    target = torch.randint(n_classes, (2, 4, 4), generator=generator)
    weights = torch.full((2, 4, 4), weight)
    torch.testing.assert_close(
        weighted_cross_entropy(logits, target, weights).value, cross_entropy_map(logits, target).mean()
    )
    weights[0, 1, 2] = 0
    weighted_cross_entropy(logits, target, weights).value.backward()
    assert not logits.grad[0, :, 1, 2].any()
    assert logits.grad[0, :, 1, 1].any()


def test_annotated_and_expanded_voxels_keep_their_labels_and_count_fully():
    bench = make_bench("sp3", "sp3.discard_others=true", scribbled=True, n_classes=3)
    batch = bench.step.labeled
    expanded = batch.expanded.clone()
    expanded[0, 3] = 2
    batch = dataclasses.replace(batch, expanded=expanded)
    labels, certainty, *_ = bench.method.pseudo_labels(probabilities(1, 3, (2, 6, 6, 6)), batch, bench.step)
    scribbled_voxels, known = batch.annotation != IGNORE, expanded != IGNORE
    assert torch.equal(labels[scribbled_voxels], batch.annotation[scribbled_voxels])
    only_expanded = known & ~scribbled_voxels
    assert torch.equal(labels[only_expanded], expanded[only_expanded])
    assert (certainty[known] == 1).all()
    assert ((certainty >= 0) & (certainty <= 1)).all()


@pytest.mark.parametrize(("one_piece", "meaning"), [((), IGNORE), ((1,), IGNORE), ((1, 2), 0)])
def test_what_lies_beyond_background_is_background_only_where_every_class_is_one_piece(one_piece, meaning):
    bench = make_bench("sp3", scribbled=True, n_classes=3, one_piece=one_piece)
    found, told = (bench.step.labeled.expanded.clone() for _ in range(2))
    found[:, 4:][found[:, 4:] == IGNORE] = BEYOND
    told[found == BEYOND] = meaning
    losses = []
    for expanded in (found, told):
        bench.step.labeled = dataclasses.replace(bench.step.labeled, expanded=expanded)
        bench.method.threshold = DynamicThreshold(3, bench.method.options)
        losses.append({name: float(torch.as_tensor(value).detach()) for name, value in bench.losses().parts.items()})
        labels, certainty, *_ = refine(bench, probabilities(2, 3, (2, 6, 6, 6)), bench.step.labeled)
        assert labels.max() < 3
        assert bool((labels[found == BEYOND] == 0).all() and (certainty[found == BEYOND] == 1).all()) == (meaning == 0)
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("changes", "start"),
    [
        ((), 0.06),
        (("far_background=off",), 0.3),
        (("largest_component=off",), 0.3),
        (("largest_component=ball",), 0.3),
        (("largest_component=ball,tube",), 0.06),
        (("far_background=off", "schedule.unlabeled_start=0.1"), 0.1),
    ],
)
def test_pseudo_labels_start_early_only_where_surroundings_may_be_known(changes, start):
    settings = tiny_settings("sp3", 0, changes)
    named = tuple(label for label, name in ((1, "ball"), (2, "tube")) if name in settings.largest_component)
    plan = dataclasses.replace(tiny_plan(3), largest_component=named)
    assert SP3(settings, plan).unlabeled_start == start


def test_after_dense_labels_pseudo_labels_start_late_and_weigh_less_and_nothing_is_balanced():
    method = SP3(tiny_settings("sp3"), tiny_plan())
    assert (method.unlabeled_start, method.balance, method.pseudo_weight) == (0.06, 0.4, 1.0)
    method.learns_from_strokes = False
    assert (method.unlabeled_start, method.balance, method.pseudo_weight) == (0.3, 0.0, 0.3)


@pytest.mark.parametrize("learns_from_strokes", [True, False])
def test_pseudo_labels_weigh_what_the_settings_say(learns_from_strokes):
    method = SP3(tiny_settings("sp3", 0, ("sp3.pseudo_weight=0.7",)), tiny_plan())
    method.learns_from_strokes = learns_from_strokes
    assert method.pseudo_weight == 0.7


@pytest.mark.parametrize(("learns_from_strokes", "weight"), [(True, 1.0), (False, 0.3)])
def test_the_loss_has_the_pseudo_labels_at_their_weight(learns_from_strokes, weight):
    def total(*changes: str) -> float:
        bench = make_bench("sp3", "sp3.class_balance=0", *changes, scribbled=True)
        bench.method.learns_from_strokes = learns_from_strokes
        return bench.losses().total.item()

    without, whole, usual = total("sp3.pseudo_weight=1e-9"), total("sp3.pseudo_weight=1"), total()
    assert usual - without == pytest.approx(weight * (whole - without), rel=1e-4)


def test_after_dense_labels_the_losses_are_those_without_balance():
    def losses(is_balanced: bool, learns_from_strokes: bool):
        balance = () if is_balanced else ("sp3.class_balance=0", "sp3.pseudo_balance=0", "sp3.align_volumes=false")
        bench = make_bench("sp3", "sp3.pseudo_weight=1", *balance, scribbled=True)
        bench.method.learns_from_strokes = learns_from_strokes
        return bench.losses().total

    assert losses(True, False) == losses(False, False) == losses(False, True)
    assert losses(True, True) != losses(True, False)


def test_balance_changes_the_loss_on_expanded_scribbles_and_not_that_on_pseudo_labels():
    plain, balanced = (make_bench("sp3", f"sp3.class_balance={each}", scribbled=True).losses().parts for each in (0, 1))
    assert balanced["expanded"] != plain["expanded"]
    assert balanced["pseudo"] == plain["pseudo"]
    both = make_bench("sp3", "sp3.class_balance=1", "sp3.pseudo_balance=1", scribbled=True).losses().parts
    assert both["expanded"] == balanced["expanded"]
    assert both["pseudo"] != balanced["pseudo"]


def test_expansion_balances_each_case_by_itself():
    bench = make_bench("sp3", "sp3.class_balance=1", fraction=0.0)
    annotation = bench.step.labeled.annotation.clone()
    annotation[0], annotation[1] = 1, IGNORE
    annotation[0, 0, 0, 0], annotation[1, 0, 0, :2] = 0, torch.tensor([0, 1])
    bench.step.labeled = dataclasses.replace(bench.step.labeled, expanded=annotation)
    losses = cross_entropy_map(bench.student(bench.step.labeled.image), annotation)
    means = [losses[case][annotation[case] == label].mean() for case in (0, 1) for label in (0, 1)]
    torch.testing.assert_close(bench.losses().parts["expanded"], torch.stack(means).mean())


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_no_gradient_reaches_teacher_thresholds_or_weights(dimensions, n_classes):
    bench = make_bench("sp3", n_classes=n_classes, dimensions=dimensions, scribbled=True)
    bench.teacher.requires_grad_(True)
    losses = bench.losses()
    losses.total.backward()
    assert all(parameter.grad is None for parameter in bench.teacher.parameters())
    assert all(parameter.grad.abs().sum() > 0 for parameter in bench.student.parameters())
    assert not bench.method.threshold.tau.requires_grad
    labels, certainty, *_ = bench.method.pseudo_labels(
        torch.softmax(bench.student(bench.step.unlabeled.image), dim=1), bench.step.unlabeled, bench.step
    )
    assert not certainty.requires_grad
    assert not labels.requires_grad


@pytest.mark.parametrize(
    "change",
    [
        "refinement=false", "discard_others=true", "dynamic_threshold=false", "uncertainty_weights=false",
        "uncertainty_form=exponential", "largest_component=false", "expansion_weight=0", "class_balance=0",
        "pseudo_balance=0.4", "pseudo_balance=0",
    ],
)  # fmt: skip
def test_every_part_can_be_switched(change):
    usual, changed = (
        make_bench("sp3", *switches, scribbled=True, one_piece=(1,)) for switches in ((), (f"sp3.{change}",))
    )
    for bench in (usual, changed):
        bench.method.threshold.tau[:] = 0.6
        bench.student.body.weight.data.mul_(3)
        bench.teacher.classifier.weight.data.mul_(5)
    assert usual.losses().total.item() != changed.losses().total.item()


@pytest.mark.parametrize("refinement", [True, False])
@pytest.mark.parametrize("is_aligned", [True, False])
@pytest.mark.parametrize("one_piece", [(1,), ()])
@pytest.mark.parametrize("learns_from_strokes", [True, False])
def test_more_is_found_in_scans_with_unusually_little_of_an_object(
    is_aligned, refinement, one_piece, learns_from_strokes
):
    changes = (f"sp3.align_volumes={is_aligned}", f"sp3.refinement={refinement}")
    bench = make_bench("sp3", *changes, scribbled=True, one_piece=one_piece, batch=3)
    bench.method.learns_from_strokes = learns_from_strokes
    batch = bench.step.all
    foreground = torch.tensor([0.9] * 5 + [0.3]).view(6, 1, 1, 1).expand(6, 6, 6, 6)
    labels, certainty, *_ = bench.method.pseudo_labels(
        torch.stack([1 - foreground, foreground], dim=1), batch, bench.step
    )
    changed = is_aligned and learns_from_strokes and bool(one_piece)
    assert (labels[4] == 1).all()
    assert (labels[5] == int(changed)).all()  # 3:7 becomes 12:7
    p = torch.tensor([7 / 19, 12 / 19] if changed else [0.7, 0.3])
    uncertainty = (torch.special.entr(p).sum() / math.log(2)).clamp(0, 1)
    torch.testing.assert_close(certainty[5], (1 - uncertainty).expand(6, 6, 6), rtol=1e-3, atol=1e-4)


def test_what_was_found_is_remembered_as_it_was_before_it_is_aligned():
    bench = make_bench("sp3", scribbled=True, one_piece=(1,), batch=3)
    foreground = torch.tensor([0.9] * 5 + [0.3]).view(6, 1, 1, 1).expand(6, 6, 6, 6)
    for _ in range(2):
        bench.method.pseudo_labels(torch.stack([1 - foreground, foreground], dim=1), bench.step.all, bench.step)
        assert bench.method.volumes.scans["unlabeled 2"].volumes.tolist() == [216, 0, 0]


def test_pseudo_labels_lose_what_is_not_one_piece_and_mark_what_may_be_connected_outside():
    labels = torch.zeros(1, 9, 9, dtype=torch.uint8)
    labels[0, 2:6, 2:6] = 1  # the piece that stays
    labels[0, 7, 7] = 1  # inside the patch, so certainly another piece
    labels[0, 0, 0:2] = 1  # at the border, so perhaps connected outside
    labels[0, 7, 2] = 2  # a class that may have any number of pieces
    labels[0, 2, 7] = 2
    cleaned, doubtful = largest_components(labels, (1,))
    expected = labels.clone()
    expected[0, 7, 7] = expected[0, 0, 0:2] = 0
    assert torch.equal(cleaned, expected)
    assert doubtful.nonzero().tolist() == [[0, 0, 0], [0, 0, 1]]
