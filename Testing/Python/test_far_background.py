"""What lies beyond strokes of background in training: which cases know it, and what each method makes of it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from method_steps import Bench, make_bench
from tiny_problem import draw_case, scribbled, tiny_plan, tiny_settings

from SemiSupSegLib.labels import BEYOND, IGNORE
from SemiSupSegLib.learning.cases import TrainingCase
from SemiSupSegLib.learning.losses import cross_entropy_map, partial_loss
from SemiSupSegLib.learning.methods import METHODS
from SemiSupSegLib.learning.sampling import Batch
from SemiSupSegLib.learning.superpixel_preparation import SuperpixelPreparation
from SemiSupSegLib.volume import Geometry

WITHOUT_SUPERPIXELS = ("sgrs", "embedding_matching", "mean_teacher", "ua_mt", "partial")


def a_case(annotation: np.ndarray, is_dense: bool = False) -> TrainingCase:
    image = draw_case(0).image
    case = TrainingCase("a", Geometry(image.shape), torch.from_numpy(image).half())
    case.annotate(annotation, is_dense=is_dense)
    return case


def prepared(case: TrainingCase, folder, method: str, *changes: str, n_classes: int = 2, accepted=None) -> TrainingCase:
    settings = tiny_settings(method, 0, changes)
    named = tuple(label for label, name in ((1, "ball"), (2, "tube")) if name in settings.largest_component)
    plan = dataclasses.replace(tiny_plan(n_classes), largest_component=named)
    SuperpixelPreparation(settings, plan, folder).prepare(case, accepted)
    return case


@pytest.mark.parametrize("method", ["sp3", "sgrs"])
def test_only_where_strokes_show_every_class_something_lies_beyond(method, tmp_path):
    truth = draw_case(0).truth
    strokes = scribbled(truth, 0)
    only_foreground = np.where(strokes == 1, strokes, IGNORE).astype(np.uint8)
    twice = strokes.copy()
    twice[tuple(np.argwhere(strokes == 1)[0])] = 2
    for annotation, n_classes, changes, expected in (
        (strokes, 2, (), True),
        (strokes, 2, ("far_background=off",), False),
        (strokes, 2, ("largest_component=off",), False),
        (strokes, 2, ("largest_component=ball",), True),
        (twice, 3, ("largest_component=ball, tube",), True),
        (twice, 3, ("largest_component=ball",), False),
        (strokes, 3, (), False),
        (only_foreground, 2, (), False),
        (truth, 2, (), False),
    ):
        case = prepared(a_case(annotation, annotation is truth), tmp_path, method, *changes, n_classes=n_classes)
        if method == "sgrs" and not expected:
            assert case.expanded is None
            continue
        beyond = (case.expanded == BEYOND).numpy()
        assert beyond.any() == expected
        assert not beyond[annotation != IGNORE].any()


@pytest.mark.parametrize("method", METHODS)
def test_by_default_methods_ask_that_learn_from_what_nobody_annotated(method):
    def asks(settings, n_classes=2, one_piece=()):
        plan = dataclasses.replace(tiny_plan(n_classes), largest_component=one_piece)
        return METHODS[method].looks_beyond(settings, plan)

    assert asks(tiny_settings(method)) == (method not in ("partial", "supervised"))
    assert method == "supervised" or asks(tiny_settings(method, 0, ("far_background=on",)))
    assert not asks(tiny_settings(method, 0, ("far_background=off",)))
    named = tiny_settings(method, 0, ("largest_component=ball",))
    assert asks(named, one_piece=(1,)) == asks(tiny_settings(method))
    assert not asks(named, n_classes=3, one_piece=(1,))
    assert not METHODS["sgrs"].looks_beyond(tiny_settings("sgrs", 0, ("sgrs.legacy=true",)), tiny_plan())


def test_a_method_without_superpixels_learns_what_lies_beyond_and_nothing_else(tmp_path):
    strokes = scribbled(draw_case(0).truth, 0)
    with_superpixels, without = (prepared(a_case(strokes), tmp_path, method) for method in ("sp3", "sgrs"))
    assert without.superpixels is None
    beyond = without.expanded == BEYOND
    assert torch.equal(beyond, with_superpixels.expanded == BEYOND)
    assert torch.equal(without.expanded[~beyond], without.annotation[~beyond])


@pytest.mark.parametrize("method", ["sp3", "sgrs"])
def test_what_people_accepted_is_not_beyond_and_the_object_reaches_there(method, tmp_path):
    case = prepared(a_case(scribbled(draw_case(0).truth, 0)), tmp_path, method)
    before = case.expanded.clone()
    places = (before == BEYOND).nonzero()
    place = tuple(places[len(places) // 2])
    accepted = np.full(case.shape, IGNORE, np.uint8)
    accepted[place] = 1
    if method == "sgrs":
        case.accept(accepted)
        accepted = None
    after = prepared(case, tmp_path, method, accepted=accepted).expanded
    assert after[place] == 1
    assert 0 < (after == BEYOND).sum() < (before == BEYOND).sum() - 1
    assert torch.equal(after[before < BEYOND], before[before < BEYOND])


def a_batch_with_surroundings(bench: Bench) -> Batch:
    expanded = bench.step.labeled.annotation.clone()
    expanded[:, 4:][expanded[:, 4:] == IGNORE] = BEYOND
    return dataclasses.replace(bench.step.labeled, expanded=expanded)


@pytest.mark.parametrize("method", WITHOUT_SUPERPIXELS)
@pytest.mark.parametrize(("one_piece", "is_known"), [((), False), ((1,), False), ((1, 2), True)])
def test_beyond_strokes_of_background_the_loss_asks_for_background(method, one_piece, is_known):
    bench = make_bench(method, scribbled=True, n_classes=3, one_piece=one_piece)
    batch = a_batch_with_surroundings(bench)
    logits = bench.student(batch.image)
    plain = partial_loss(logits, batch.annotation).value
    far = cross_entropy_map(logits, torch.zeros_like(batch.annotation))[batch.expanded == BEYOND].mean()
    share = 0.5 if method == "sgrs" else 1.0  # of all that annotations ask for
    losses = bench.method.annotated_losses(logits, batch)
    torch.testing.assert_close(losses.total, share * (plain + 0.5 * far if is_known else plain))
    torch.testing.assert_close(losses.parts["supervised"], plain)
    assert ("beyond" in losses.parts) == is_known
    if is_known:
        torch.testing.assert_close(losses.parts["beyond"], far)
    without = dataclasses.replace(batch, expanded=None)
    torch.testing.assert_close(bench.method.annotated_losses(logits, without).total, share * plain)
    bench.step.labeled = batch
    assert (bench.losses().total != make_bench(method, scribbled=True, n_classes=3).losses().total) == is_known


@pytest.mark.parametrize("fraction", [0.0, 0.7])
def test_the_published_code_knows_no_surroundings(fraction):
    plain, told = (
        make_bench("sgrs", "sgrs.legacy=true", scribbled=True, fraction=fraction, one_piece=(1,)) for _ in "ab"
    )
    told.step.labeled = a_batch_with_surroundings(told)
    assert plain.losses().total == told.losses().total
