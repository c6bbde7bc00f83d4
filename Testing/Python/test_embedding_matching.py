"""Embedding Matching: properties of the specification, section 6."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_steps import SEEDS, SIZE, logits_of, make_bench, probabilities
from scipy import ndimage
from torch.nn import functional

from SemiSupSegLib.labels import IGNORE
from SemiSupSegLib.learning.losses import softmax_entropy, weighted_cross_entropy
from SemiSupSegLib.learning.methods import METHODS, embedding_matching
from SemiSupSegLib.learning.methods.embedding_matching import (
    TeacherView,
    draw_references,
    is_within,
    reference_candidates,
    references_for,
    similarities,
    unit,
)
from SemiSupSegLib.learning.methods.ua_mt import uncertainty_threshold
from SemiSupSegLib.learning.sampling import Batch
from SemiSupSegLib.method_settings import EmbeddingMatchingSettings
from SemiSupSegLib.training_settings import TrainingSettings

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = st.integers(2, 4)
OPTIONS = EmbeddingMatchingSettings()


def random_references(seed, n_classes, draws=3, k=5, channels=8):
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(channels, 20, generator=generator)
    return query, {label: torch.randn(draws, k, channels, generator=generator) for label in range(n_classes)}


# 1: schedules


def test_published_schedule_is_the_papers_ramp_for_weights_and_threshold():
    method = make_bench("embedding_matching", "embedding_matching.published_schedule=true").method
    assert method.unlabeled_weight(0.0) == pytest.approx(math.exp(-5))
    assert method.unlabeled_weight(1.0) == 1
    assert method.threshold(0.0) == pytest.approx(0.5210, abs=1e-4)
    assert method.threshold(1.0) == pytest.approx(math.log(2))
    for at, wanted in ((0.5, 0.570), (0.75, 0.647), (0.9, 0.685)):
        assert method.threshold(at) == pytest.approx(wanted, abs=1e-3)
    fractions = np.linspace(0, 1, 50)
    for course in (method.unlabeled_weight, method.threshold):
        assert np.all(np.diff([course(at) for at in fractions]) >= 0)


def test_by_default_weights_rise_quickly_and_the_threshold_with_what_is_left():
    method = make_bench("embedding_matching").method
    assert method.unlabeled_weight(0.39) == 0
    assert method.unlabeled_weight(0.5) == 1
    assert method.threshold(0.4) == pytest.approx(0.5210, abs=1e-4)
    assert method.threshold(0.7) == pytest.approx(uncertainty_threshold(0.5))
    assert method.threshold(1.0) == pytest.approx(math.log(2))


# 2, 3, 4: uncertainty


@settings(max_examples=25, deadline=None)
@given(SEEDS, CLASSES, st.floats(0, 1))
def test_uniform_probabilities_are_unreliable_at_any_time(seed, n_classes, progress):
    p = probabilities(seed, n_classes, (2, 4, 4))
    p[0, :, 0, 0] = 1 / n_classes
    unreliable = TeacherView.of_passes(logits_of(p)[None]).uncertainty >= uncertainty_threshold(progress) - 1e-6
    assert unreliable[0, 0, 0]


def test_at_the_end_nothing_of_two_classes_is_unreliable_and_matching_costs_nothing():
    bench = make_bench("embedding_matching", fraction=1.0)
    parts = bench.losses().parts
    assert parts["unreliable"] == 0
    assert parts["L_NN"] == parts["L_EN"] == 0
    assert torch.isfinite(bench.losses().total)


@settings(max_examples=25, deadline=None)
@given(SEEDS, CLASSES)
def test_mean_of_entropies_is_never_more_than_entropy_of_the_mean(seed, n_classes):
    passes = torch.stack([probabilities(seed + each, n_classes, (2, 4, 4)) for each in range(5)])
    found = TeacherView.of_passes(logits_of(passes))
    of_mean = softmax_entropy(logits_of(passes.mean(dim=0)))
    assert (found.uncertainty <= of_mean + 1e-5).all()
    assert torch.equal(found.labels, passes.mean(dim=0).argmax(dim=1).to(torch.uint8))


def test_passes_that_contradict_each_other_are_reliable_here_but_not_under_ua_mts_form():
    passes = torch.tensor([0.1, 0.9]).view(2, 1, 1, 1)
    passes = torch.stack([passes, 1 - passes], dim=2).squeeze(-1)  # (M, B, C, voxels)
    uncertainty = TeacherView.of_passes(logits_of(passes)).uncertainty.item()
    assert uncertainty == pytest.approx(0.325, abs=1e-3)
    assert uncertainty < uncertainty_threshold(0.0) < math.log(2)
    assert softmax_entropy(logits_of(passes.mean(dim=0))).item() == pytest.approx(0.693, abs=1e-3)


# 5, 6, 7: similarities


@settings(max_examples=25, deadline=None)
@given(SEEDS, CLASSES)
def test_query_that_equals_the_only_reference_of_a_class_gets_it(seed, n_classes):
    _, references = random_references(seed, n_classes, draws=1, k=1)
    for label, reference in references.items():
        assert similarities(2.5 * reference[0].T, references, OPTIONS).argmax().item() == label


def test_query_that_equals_one_of_several_references_need_not_get_their_class():
    object_ = torch.tensor([[[1.0, 0.0], [-1.0, 0.1]]])  # mean direction: nearly none
    background = torch.tensor([[[1.0, 0.2], [1.0, 0.2]]])
    query = object_[0, :1].T
    assert similarities(query, {0: background, 1: object_}, OPTIONS).argmax() == 0
    largest = EmbeddingMatchingSettings(reduce="max")
    assert similarities(query, {0: background, 1: object_}, largest).argmax() == 1


@settings(max_examples=25, deadline=None)
@given(SEEDS, CLASSES, st.floats(0.1, 50))
def test_length_of_embeddings_changes_nothing(seed, n_classes, factor):
    query, references = random_references(seed, n_classes)
    scaled = {label: factor * each for label, each in references.items()}
    torch.testing.assert_close(
        similarities(factor * query, scaled, OPTIONS), similarities(query, references, OPTIONS), atol=1e-5, rtol=1e-4
    )


def test_exchanged_references_exchange_labels_and_a_draw_is_background():
    query, references = random_references(0, 2)
    exchanged = {0: references[1], 1: references[0]}
    assert torch.equal(
        similarities(query, references, OPTIONS).argmax(dim=0),
        1 - similarities(query, exchanged, OPTIONS).argmax(dim=0),
    )
    same = {0: references[0], 1: references[0]}
    assert not similarities(query, same, OPTIONS).argmax(dim=0).any()


@settings(max_examples=25, deadline=None)
@given(SEEDS, CLASSES, st.sampled_from(["cosine", "euclidean"]), st.sampled_from(["mean", "max"]), st.booleans())
def test_similarities_equal_the_naive_form(seed, n_classes, kernel, reduce, centred):
    query, references = random_references(seed, n_classes)
    references[0] = torch.cat([references[0], references[0].flip(2)])  # as of pooled patches
    options = EmbeddingMatchingSettings(kernel=kernel, reduce=reduce)
    found = similarities(query, references, options, centred=centred)
    if centred:
        middle = sum(each.mean(dim=(0, 1)) for each in references.values()) / n_classes
        query, references = query - middle[:, None], {label: each - middle for label, each in references.items()}
    for label, draws in references.items():
        for column, vector in enumerate(query.T[:4]):
            over_draws = []
            for drawn in draws:
                if kernel == "cosine":
                    values = functional.cosine_similarity(drawn, vector[None], dim=1)
                else:
                    values = 1 / (1 + (drawn - vector).square().sum(dim=1))
                over_draws.append(values.mean() if reduce == "mean" else values.max())
            assert found[label, column].item() == pytest.approx(torch.stack(over_draws).mean().item(), abs=1e-5)


def test_prototype_is_no_shortcut_for_the_maximum_or_other_kernels():
    query, references = random_references(0, 2)
    prototype = torch.stack([unit(each).flatten(0, 1).mean(dim=0) for each in references.values()]) @ unit(query.T).T
    for options, same in ((OPTIONS, True), (EmbeddingMatchingSettings(reduce="max"), False),
                          (EmbeddingMatchingSettings(kernel="euclidean"), False)):  # fmt: skip
        assert torch.allclose(similarities(query, references, options), prototype, atol=1e-5) == same


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("changes", [{"reduce": "max"}, {"kernel": "euclidean"}])
def test_gradients_flow_through_the_voxels_asked_for_whatever_becomes_of_the_mask(changes, centred):
    query, references = torch.randn(4, 6, 6, requires_grad=True), {0: torch.randn(2, 3, 4), 1: torch.randn(2, 3, 4)}
    masks = torch.rand(2, 6, 6) > 0.5
    found = similarities(query, references, EmbeddingMatchingSettings(**changes), masks[0], centred=centred)
    masks[1] = False  # the next patch's
    found.sum().backward()
    assert query.grad.abs().sum() > 0


@settings(max_examples=25, deadline=None)
@given(SEEDS, CLASSES, st.sampled_from(["mean", "max"]))
def test_centred_what_all_embeddings_share_changes_nothing(seed, n_classes, reduce):
    query, references = random_references(seed, n_classes)
    shared = 3 * torch.randn(len(query), generator=torch.Generator().manual_seed(seed + 1))
    options = EmbeddingMatchingSettings(reduce=reduce)
    moved = {label: each + shared for label, each in references.items()}
    found = similarities(query + shared[:, None], moved, options, centred=True)
    torch.testing.assert_close(found, similarities(query, references, options, centred=True), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("n_classes", "changes", "is_centred"),
    [(2, (), False), (3, (), True), (2, ("centred=on",), True), (3, ("centred=off",), False),
     (3, ("centred=on", "kernel=euclidean"), False)],
)  # fmt: skip
def test_embeddings_are_centred_where_there_are_several_classes_beside_background(n_classes, changes, is_centred):
    bench = unreliable_bench(*(f"embedding_matching.{each}" for each in changes), n_classes=n_classes)
    assert bench.method.is_centred == is_centred


def test_background_of_two_kinds_is_found_only_if_centred():
    background = torch.tensor([[[1.0, 0.1], [0.1, 1.0]]])
    object_ = torch.tensor([[[0.7, 0.7], [0.7, 0.7]]])
    query = background[0].T
    for centred, wanted in ((False, [1, 1]), (True, [0, 0])):
        found = similarities(query, {0: background, 1: object_}, OPTIONS, centred=centred)
        assert found.argmax(dim=0).tolist() == wanted


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("changes", [{}, {"reduce": "max"}, {"kernel": "euclidean"}])
def test_similarities_of_some_voxels_are_those_of_all(changes, centred):
    options = EmbeddingMatchingSettings(**changes)
    query, references = random_references(0, 3)
    query = query.view(-1, 4, 5)
    where = torch.zeros(4, 5, dtype=torch.bool)
    where[1:3, ::2] = True
    wanted = similarities(query, references, options, centred=centred)[:, where]
    found = similarities(query, references, options, where, centred=centred)
    torch.testing.assert_close(found[:, where], wanted)


# 8: L_EN


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_entropy_of_two_similarities_is_never_small(seed):
    query, references = random_references(seed, 2)
    values = softmax_entropy(similarities(query, references, OPTIONS)[None])
    assert (values >= 0.3653 - 1e-4).all()
    assert (values <= math.log(2) + 1e-6).all()


def test_entropy_of_similarities_is_largest_for_a_draw_and_smallest_for_opposites():
    assert softmax_entropy(torch.tensor([[0.3, 0.3]])).item() == pytest.approx(math.log(2))
    assert softmax_entropy(torch.tensor([[1.0, -1.0]])).item() == pytest.approx(0.3653, abs=1e-4)


# 9, 10: gradients


def unreliable_bench(*changes, **options):
    """A teacher that is sure of nothing."""
    bench = make_bench("embedding_matching", *changes, fraction=0.5, **options)
    bench.teacher.classifier.weight.data.mul_(1e-3)
    bench.teacher.classifier.bias.data.zero_()
    return bench


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("scribbled", [False, True])
def test_no_gradient_in_the_teacher_and_some_everywhere_in_the_student(dimensions, n_classes, scribbled):
    bench = unreliable_bench(n_classes=n_classes, dimensions=dimensions, scribbled=scribbled)
    bench.teacher.requires_grad_(True)
    losses = bench.losses()
    losses.total.backward()
    assert losses.parts["L_NN"] > 0
    assert losses.parts["L_EN"] > 0
    assert all(parameter.grad is None for parameter in bench.teacher.parameters())
    assert all(parameter.grad.abs().sum() > 0 for parameter in bench.student.parameters())
    assert all(
        not each.requires_grad for references in bench.method.references(bench.step) for each in references.values()
    )


def matching_inputs(bench):
    logits, query = bench.student.forward_features(bench.step.unlabeled.image)
    shape = (len(query), *query.shape[2:])
    teacher = TeacherView(torch.zeros(shape, dtype=torch.uint8), torch.ones(shape))
    return logits, query, teacher, torch.ones(shape, dtype=torch.bool)


def test_l_en_trains_the_encoder_and_not_the_classifier():
    bench = unreliable_bench()
    logits, query, teacher, unreliable = matching_inputs(bench)
    bench.method.matching_losses(bench.step, logits, query, teacher, unreliable)[1].backward()
    assert bench.student.body.weight.grad.abs().sum() > 0
    assert bench.student.classifier.weight.grad is None


def test_l_nn_reaches_the_student_through_its_logits_alone():
    bench = unreliable_bench()
    logits, query, teacher, unreliable = matching_inputs(bench)
    logits, query = logits.detach().requires_grad_(), query.detach().requires_grad_()
    bench.method.matching_losses(bench.step, logits, query, teacher, unreliable)[0].backward()
    assert logits.grad.abs().sum() > 0
    assert query.grad is None


def test_a_voxel_weighs_alike_however_few_are_unreliable_unless_as_published():
    found = []
    for over_unreliable in ("false", "true"):
        bench = unreliable_bench(f"embedding_matching.over_unreliable={over_unreliable}")
        logits, query, teacher, unreliable = matching_inputs(bench)
        unreliable[:, : SIZE // 2] = False
        torch.manual_seed(0)
        bench.step.numbers = np.random.default_rng(0)
        found.append(torch.stack(bench.method.matching_losses(bench.step, logits, query, teacher, unreliable)))
    torch.testing.assert_close(found[0], unreliable.float().mean() * found[1])


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_each_loss_sees_the_logits_of_its_own_voxels_only(seed):
    bench = unreliable_bench()
    logits, query, teacher, _ = matching_inputs(bench)
    unreliable = probabilities(seed, 2, (2, SIZE, SIZE, SIZE))[:, 0] > 0.5

    def losses(logits):
        torch.manual_seed(0)
        bench.step.numbers = np.random.default_rng(0)
        l_nn = bench.method.matching_losses(bench.step, logits, query, teacher, unreliable)[0]
        return l_nn, weighted_cross_entropy(logits, teacher.labels, ~unreliable).value

    disturbance = torch.randn_like(logits)
    l_nn, l_ua = losses(logits)
    assert losses(logits + disturbance * ~unreliable[:, None])[0] == l_nn
    assert losses(logits + disturbance * unreliable[:, None])[1] == l_ua


# 11: references


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.sampled_from([1.0, 2.0, 2.5, 3.0]))
def test_voxels_near_a_mask_are_those_of_the_distance_transform(seed, distance):
    mask = probabilities(seed, 2, (1, 9, 10, 11), sharpness=1.0)[:, 0] > 0.9
    if mask.any():
        wanted = ndimage.distance_transform_edt(~mask[0].numpy()) <= distance
        assert np.array_equal(is_within(mask, distance)[0].numpy(), wanted)


@settings(max_examples=25, deadline=None)
@given(SEEDS, CLASSES)
def test_references_have_their_class_and_lie_near_its_surface(seed, n_classes):
    annotation = probabilities(seed, n_classes, (2, 8, 8, 8), sharpness=1.0)
    annotation = annotation.argmax(dim=1).to(torch.uint8)
    annotation[:, :, :, 4:] = 0
    candidates = reference_candidates(Batch(annotation[:, None].float(), annotation), n_classes, 3.0)
    for labels, masks in zip(annotation, candidates, strict=True):
        assert sorted(masks) == labels.unique().tolist()
        for label, mask in masks.items():
            assert (labels[mask] == label).all()
            if (labels != label).any():
                depth = ndimage.distance_transform_edt((labels == label).numpy())
                assert depth[mask.numpy()].max() <= 3


def test_scribbled_patch_offers_every_annotated_voxel():
    annotation = torch.full((1, 8, 8, 8), IGNORE, dtype=torch.uint8)
    annotation[0, 0, 0, :] = 0
    annotation[0, 7, 7, :4] = 1
    found = reference_candidates(Batch(annotation[:, None].float(), annotation), 3, 3.0)[0]
    assert {label: int(mask.sum()) for label, mask in found.items()} == {0: 8, 1: 4}


def test_where_every_case_is_annotated_no_patch_is_matched_with_itself(monkeypatch):
    bench = make_bench("embedding_matching", "embedding_matching.entropy_everywhere=true", batch=3)
    bench.step.unlabeled, seen = None, []
    own = [{label: torch.full((1, 1, 4), 10.0 * index + label) for label in shown} for index, shown in PATCHES]
    monkeypatch.setattr(bench.method, "references", lambda step: own)
    given = embedding_matching.similarities
    monkeypatch.setattr(
        embedding_matching, "similarities", lambda *told, **how: seen.append(told[1]) or given(*told, **how)
    )
    bench.losses()
    matched = [{label: found.unique().tolist() for label, found in each.items()} for each in seen]
    assert matched == [{0: [10.0], 1: [21.0]}, {0: [20.0], 1: [21.0]}, {0: [0.0], 1: [1.0]}]


PATCHES = [(0, (0, 1)), (1, (0,)), (2, (0, 1))]
"""Of three annotated patches, the classes that each shows."""


@pytest.mark.parametrize("pooled", [False, True])
def test_a_single_patch_has_nothing_but_itself(pooled):
    own = [{0: torch.zeros(1, 1, 2), 1: torch.full((1, 1, 2), 2.0)}]
    (found,) = embedding_matching.references_for(own, 1, pooled, True)
    assert [found[label].unique().item() for label in (0, 1)] == [0.0, 2.0]


def test_references_are_drawn_anew_each_time_and_the_same_for_a_seed():
    draws = [draw_references(100, OPTIONS, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert draws[0].shape == (5, 16)
    assert np.array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
    assert all(len(set(draw)) == 16 for draw in draws[0])
    assert len({tuple(draw) for draw in draws[0]}) == 5
    assert draw_references(3, OPTIONS, np.random.default_rng(0)).max() < 3


def test_class_that_a_patch_lacks_comes_from_another_and_pooling_takes_all():
    first, second = {0: torch.zeros(2, 3, 4)}, {0: torch.ones(2, 3, 4), 1: torch.ones(2, 3, 4)}
    paired = references_for([first, second], 3, pooled=False)
    assert [sorted(each) for each in paired] == [[0, 1]] * 3
    assert paired[0][0].sum() == paired[2][0].sum() == 0
    assert paired[1][0].sum() == 24
    pooled = references_for([first, second], 2, pooled=True)
    assert pooled[0][0].shape == (4, 3, 4)


@pytest.mark.parametrize("kept", [(0,), (1,), (0, 2)])
def test_absent_class_is_skipped(kept):
    bench = unreliable_bench(n_classes=3)
    annotation = bench.step.labeled.annotation
    annotation.copy_(torch.tensor(kept, dtype=torch.uint8)[torch.randint(len(kept), annotation.shape)])
    losses = bench.losses()
    losses.total.backward()
    assert torch.isfinite(losses.total)
    if len(kept) == 1:
        assert losses.parts["L_NN"] == losses.parts["L_EN"] == 0


def test_only_voxels_of_known_classes_are_matched():
    bench = unreliable_bench(n_classes=3)
    annotation = bench.step.labeled.annotation
    annotation[annotation == 2] = 0
    logits, query, teacher, unreliable = matching_inputs(bench)
    teacher = TeacherView(torch.full_like(teacher.labels, 2), teacher.uncertainty)
    assert bench.method.matching_losses(bench.step, logits, query, teacher, unreliable)[0] == 0


# 12 and switches


def test_average_after_one_step_is_one_hundredth_of_the_student():
    bench = make_bench("embedding_matching")
    before = [parameter.clone() for parameter in bench.teacher.parameters()]
    bench.method.update_teacher(bench.student, bench.teacher, 0.99, 1000)
    for old, new, ours in zip(before, bench.teacher.parameters(), bench.student.parameters(), strict=True):
        torch.testing.assert_close(new, 0.99 * old + 0.01 * ours)


def test_network_gets_dropout_after_every_convolution():
    settings = TrainingSettings(method="embedding_matching").with_overrides(["embedding_matching.dropout=0.15"])
    assert METHODS["embedding_matching"].network_needs(settings) == {"dropout": 0.15, "dropout_everywhere": True}
    needs = METHODS["embedding_matching"].network_needs(TrainingSettings(method="embedding_matching"))
    assert needs == {"dropout": 0.05, "dropout_everywhere": True}


@pytest.mark.parametrize(
    "change",
    [
        "matching_loss=false", "entropy_loss=false", "uncertainty_weight=0", "pseudo_weight=0", "pooled=true",
        "kernel=euclidean", "reduce=max", "temperature=0.5", "passes=2", "references=2", "draws=1", "teacher_noise=0",
        "student_noise=0", "published_schedule=true", "over_unreliable=true", "centred=on",
    ],
)  # fmt: skip
def test_every_part_can_be_switched(change):
    found = []
    for switches in ((), (f"embedding_matching.{change}",)):
        bench = unreliable_bench(*switches, dropout=0.2)
        bench.teacher.classifier.bias.data.copy_(torch.tensor([-0.6, 0.6]))  # some voxels reliable, some not
        bench.teacher.classifier.weight.data.mul_(1e3)
        found.append(bench.losses().total.item())
    assert found[0] != found[1]


def test_entropy_everywhere_counts_reliable_voxels_too():
    losses = [
        make_bench("embedding_matching", f"embedding_matching.entropy_everywhere={text}", fraction=1.0).losses().parts
        for text in ("false", "true")
    ]
    assert losses[0]["L_EN"] == 0
    assert losses[1]["L_EN"] > 0
    assert losses[1]["L_NN"] == 0
