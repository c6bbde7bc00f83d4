"""Training cases on the plan's grid: which annotation trains, and that no stroke gets lost on the way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_problem import tiny_plan

from SemiSupSegLib.cohort import AnnotationFile, Case, Cohort, Role
from SemiSupSegLib.errors import CohortError, ErrorCode, VolumeError
from SemiSupSegLib.labels import BEYOND, IGNORE, LabelSchema, SegmentClass
from SemiSupSegLib.learning.array_cache import ArrayCache, cache_folder
from SemiSupSegLib.learning.cases import (
    TrainingCase,
    load_case,
    load_training_cases,
    load_validation_cases,
)
from SemiSupSegLib.learning.fingerprint import read_fingerprint
from SemiSupSegLib.learning.superpixel_preparation import SuperpixelPreparation
from SemiSupSegLib.learning.training_data import TrainingData
from SemiSupSegLib.method_settings import SP3Settings
from SemiSupSegLib.propagation import propagate
from SemiSupSegLib.training_settings import TrainingSettings
from SemiSupSegLib.volume import Geometry, Volume, resample_labels, write_volume

CPU = torch.device("cpu")
SCHEMA = LabelSchema((SegmentClass("organ"),))
SCRIBBLE_VALUES = {"background": 1, "organ": 2}
LABEL_VALUES = {"organ": 1}
GEOMETRY = Geometry((12, 10, 8), (1.0, 1.0, 1.0), (5.0, -3.0, 2.0))


def write(path: Path, array: np.ndarray, geometry: Geometry = GEOMETRY) -> Path:
    write_volume(path, Volume(array, geometry))
    return path


def a_case(folder: Path, name: str, *, dense=False, scribbled=False, role=Role.TRAIN, labeled=True) -> Case:
    """An image of noise; the label is a box, the strokes run along rows of it and beside it."""
    numbers = np.random.default_rng(sum(name.encode()))
    image = write(folder / f"{name}.nrrd", numbers.normal(100, 20, GEOMETRY.shape).astype(np.float32))
    label = scribble = None
    box = np.zeros(GEOMETRY.shape, np.uint8)
    box[2:6, 3:8, 4:9] = 1
    if dense:
        label = AnnotationFile(write(folder / f"{name}_label.nrrd", box), LABEL_VALUES)
    if scribbled:
        strokes = np.zeros(GEOMETRY.shape, np.uint8)
        strokes[3, 5, 5:8], strokes[3, 1, 1:11] = 2, 1
        scribble = AnnotationFile(write(folder / f"{name}_scribble.nrrd", strokes), SCRIBBLE_VALUES)
    return Case(name, image, label, scribble, role, labeled)


def loaded(cases, *, annotations="auto", unlabeled=True, plan=None):
    cohort = Cohort(SCHEMA, tuple(cases))
    return load_training_cases(cohort, plan or tiny_plan(), CPU, annotations=annotations, unlabeled=unlabeled)


def test_an_image_is_normalised_compact_and_where_it_was(tmp_path):
    case = loaded([a_case(tmp_path, "a", scribbled=True)])[0]
    assert case.image.dtype == torch.float16
    assert case.image.float().mean().item() == pytest.approx(0, abs=0.01)
    assert case.geometry == GEOMETRY


def test_strokes_are_splatted_onto_the_plans_grid(tmp_path):
    member = a_case(tmp_path, "a", scribbled=True)
    case = loaded([member], plan=tiny_plan(spacing=(3.0, 3.0, 3.0)))[0]
    own = Cohort(SCHEMA, (member,)).read_scribble(member)
    np.testing.assert_array_equal(case.annotation.numpy(), resample_labels(own, GEOMETRY, case.geometry))
    assert set(case.counts) == {0, 1}
    assert not case.is_dense


def test_voxels_are_listed_by_class_and_counted():
    annotation = np.full((40, 40, 40), 0, np.uint8)
    annotation[3, 4, 5] = 7
    annotation[0] = IGNORE
    case = TrainingCase("a", Geometry((40, 40, 40)), torch.zeros(40, 40, 40, dtype=torch.float16))
    case.annotate(annotation)
    assert case.counts == {0: 39 * 1600 - 1, 7: 1}
    assert list(case.voxels) == [0, 7]
    assert len(case.voxels[0]) <= 20_000
    assert (annotation.ravel()[case.voxels[0]] == 0).all()
    case.annotate(None)
    assert case.annotation is None
    assert case.voxels == {}


@pytest.mark.parametrize(
    ("annotations", "dense"), [("auto", False), ("scribbles", False), ("dense", True), ("dense only", True)]
)
def test_of_two_annotations_the_chosen_one_trains(tmp_path, annotations, dense):
    case = loaded([a_case(tmp_path, "a", dense=True, scribbled=True)], annotations=annotations)[0]
    assert case.is_dense is dense
    assert (case.annotation == IGNORE).any().item() is not dense


def test_preferring_dense_labels_leaves_scribbles_where_there_is_nothing_else(tmp_path):
    cases = [a_case(tmp_path, "a", dense=True), a_case(tmp_path, "b", scribbled=True)]
    assert [case.is_dense for case in loaded(cases, annotations="dense")] == [True, False]
    only = loaded(cases, annotations="dense only")
    assert only[1].annotation is None
    assert [case.id for case in loaded(cases, annotations="dense only", unlabeled=False)] == ["a"]


def test_only_training_cases_train_and_those_without_annotation_where_wanted(tmp_path):
    cases = [
        a_case(tmp_path, "a", scribbled=True),
        a_case(tmp_path, "b"),
        a_case(tmp_path, "c", dense=True, labeled=False),
        a_case(tmp_path, "d", dense=True, role=Role.TEST),
        a_case(tmp_path, "e", dense=True, role=Role.VALIDATION),
    ]
    with_them = loaded(cases)
    assert [case.id for case in with_them] == ["a", "b", "c"]
    assert [case.annotation is None for case in with_them] == [False, True, True]
    assert [case.id for case in loaded(cases, unlabeled=False)] == ["a"]


def test_validation_cases_bring_their_dense_labels_whatever_trains(tmp_path):
    cases = [a_case(tmp_path, "a", scribbled=True), a_case(tmp_path, "e", dense=True, role=Role.VALIDATION)]
    found = load_validation_cases(Cohort(SCHEMA, tuple(cases)), tiny_plan(), CPU)
    assert [case.id for case in found] == ["e"]
    assert found[0].annotation.sum() == 4 * 5 * 5


def test_a_validation_case_without_label_says_so(tmp_path):
    cohort = Cohort(SCHEMA, (a_case(tmp_path, "e", scribbled=True, role=Role.VALIDATION),))
    with pytest.raises(CohortError, match="'e' has no label"):
        load_validation_cases(cohort, tiny_plan(), CPU)


# What can't train -----------------------------------------------------------------------------------------------------


def one_class_only(folder: Path) -> Case:
    case = a_case(folder, "a", scribbled=True)
    strokes = np.zeros(GEOMETRY.shape, np.uint8)
    strokes[1, 1] = 2
    write(case.scribble.path, strokes)
    return case


def nothing_painted(folder: Path) -> Case:
    case = a_case(folder, "a", scribbled=True)
    write(case.scribble.path, np.zeros(GEOMETRY.shape, np.uint8))
    return case


@pytest.mark.parametrize(
    ("make", "annotations", "words"),
    [
        (nothing_painted, "auto", "No training case has an annotated voxel"),
        (lambda folder: a_case(folder, "a"), "auto", "No training case has an annotated voxel"),
        (one_class_only, "auto", "Only one class is annotated"),
        (lambda folder: a_case(folder, "a", scribbled=True), "dense only", "No training case has a dense label"),
    ],
)
def test_a_cohort_that_cannot_train_says_why(tmp_path, make, annotations, words):
    with pytest.raises(CohortError, match=words) as caught:
        loaded([make(tmp_path)], annotations=annotations)
    assert caught.value.code is ErrorCode.NO_ANNOTATION
    assert caught.value.remedy


def test_a_label_elsewhere_than_its_image_says_so(tmp_path):
    case = a_case(tmp_path, "a", scribbled=True)
    strokes = np.full(GEOMETRY.shape, 1, np.uint8)
    write(case.scribble.path, strokes, Geometry(GEOMETRY.size, origin=(900.0, 0.0, 0.0)))
    with pytest.raises(VolumeError, match="lies outside its image") as caught:
        loaded([case])
    assert caught.value.code is ErrorCode.BAD_GEOMETRY


# Superpixels and changes on the way -----------------------------------------------------------------------------------


def test_superpixels_are_prepared_once_and_strokes_expanded_over_them(tmp_path):
    member = a_case(tmp_path, "a", scribbled=True)
    for _ in range(2):
        case = load_case(Cohort(SCHEMA, ()), member, tiny_plan(), CPU)
        options = TrainingSettings(sp3=SP3Settings(superpixel_size=3.0), far_background="off")
        SuperpixelPreparation(options, tiny_plan(), tmp_path / "cache").prepare(case)
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 1
    expected = propagate(case.annotation.numpy(), case.superpixels.numpy())
    np.testing.assert_array_equal(case.expanded.numpy(), expected)
    assert (expected != IGNORE).sum() > (case.annotation != IGNORE).sum()


def test_superpixels_of_a_flat_plan_stay_within_slices(tmp_path):
    case = load_case(Cohort(SCHEMA, ()), a_case(tmp_path, "a", scribbled=True), tiny_plan(), CPU)
    SuperpixelPreparation(TrainingSettings(), tiny_plan(dimensions=2), tmp_path).prepare(case)
    ids = [set(np.unique(each)) for each in case.superpixels.numpy()]
    assert not ids[0] & ids[1]


def test_a_cohort_that_was_used_before_is_not_read_again(tmp_path, monkeypatch):
    cases = (
        a_case(tmp_path, "a", dense=True, scribbled=True),
        a_case(tmp_path, "b"),
        a_case(tmp_path, "c", dense=True, role=Role.VALIDATION),
    )
    cohort = Cohort(SCHEMA, cases).save(tmp_path / "cohort.json")

    def load() -> TrainingData:
        read_fingerprint(cohort, cache=ArrayCache(cache_folder(cohort, tmp_path)))
        return TrainingData(cohort, TrainingSettings(method="sp3"), tiny_plan(), CPU, tmp_path)

    first = load()
    with monkeypatch.context() as patched:
        patched.setattr(Cohort, "read_image", None)
        patched.setattr(Cohort, "_read_annotation", None)
        second = load()
    for one, other in zip((*first.cases, *first.validation), (*second.cases, *second.validation), strict=True):
        assert one.geometry == other.geometry
        assert one.counts == other.counts
        for name in ("image", "annotation", "superpixels", "expanded"):
            pair = getattr(one, name), getattr(other, name)
            assert pair == (None, None) or torch.equal(*pair)
    strokes = np.zeros(GEOMETRY.shape, np.uint8)
    strokes[3, 5, 5:8], strokes[3, 1, 1:5] = 2, 1
    write(cases[0].scribble.path, strokes)
    assert load().cases[0].counts[0] == 4


@pytest.fixture
def data(tmp_path) -> TrainingData:
    cases = (a_case(tmp_path, "b", scribbled=True), a_case(tmp_path, "d"))
    settings = TrainingSettings(method="sp3")
    return TrainingData(Cohort(SCHEMA, cases), settings, tiny_plan(), CPU, tmp_path)


def test_a_new_annotation_is_used_and_expanded(data, tmp_path):
    cohort = data.cohort.with_case(a_case(tmp_path, "d", scribbled=True))
    data.update_annotation(cohort, "d")
    assert data.cases[1].counts == data.cases[0].counts
    assert (data.cases[1].expanded != IGNORE).any()


def test_a_new_case_takes_its_place_in_the_cohorts_order(data, tmp_path):
    cases = (a_case(tmp_path, "c", scribbled=True), *data.cohort.cases)
    data.update_annotation(Cohort(SCHEMA, cases), "c")
    assert [case.id for case in data.cases] == ["c", "b", "d"]
    assert data.cases[0].superpixels is not None


def test_what_lies_beyond_strokes_follows_every_change_of_them(tmp_path):
    painted, plain = a_case(tmp_path, "b", scribbled=True), a_case(tmp_path, "d")
    settings = TrainingSettings(method="sgrs")
    data = TrainingData(Cohort(SCHEMA, (painted, plain)), settings, tiny_plan(), CPU, tmp_path)

    def know_beyond() -> list[bool]:
        return [case.expanded is not None and bool((case.expanded == BEYOND).any()) for case in data.cases]

    assert know_beyond() == [True, False]
    data.update_annotation(data.cohort.with_case(a_case(tmp_path, "d", scribbled=True)), "d")
    assert know_beyond() == [True, True]
    data.update_annotation(data.cohort.with_case(a_case(tmp_path, "b", dense=True)), "b")
    assert know_beyond() == [False, True]
    data.update_annotation(data.cohort.with_case(plain), "d")
    assert know_beyond() == [False, False]
    partial = TrainingData(Cohort(SCHEMA, (painted,)), TrainingSettings(method="partial"), tiny_plan(), CPU, tmp_path)
    assert partial.cases[0].expanded is None


@pytest.mark.parametrize("method", ["sp3", "sgrs"])
def test_an_update_that_cannot_be_read_changes_nothing(tmp_path, method):
    member = a_case(tmp_path, "b", scribbled=True)
    data = TrainingData(Cohort(SCHEMA, (member,)), TrainingSettings(method=method), tiny_plan(), CPU, tmp_path)
    before = data.cases[0].annotation.clone(), data.cases[0].expanded.clone()
    damaged = tmp_path / "proposals.nrrd"
    damaged.write_bytes(b"NRRD0004")
    with pytest.raises(VolumeError):
        data.update_annotation(
            data.cohort.with_case(replace(member, proposals=AnnotationFile(damaged, SCRIBBLE_VALUES))), "b"
        )
    assert torch.equal(data.cases[0].annotation, before[0])
    assert torch.equal(data.cases[0].expanded, before[1])
    assert data.cohort.case("b").proposals is None


def test_the_last_annotation_cannot_be_taken_away(data, tmp_path):
    before = data.cases[0].annotation.clone()
    with pytest.raises(CohortError, match="No training case would have"):
        data.update_annotation(data.cohort.with_case(a_case(tmp_path, "b")), "b")
    assert torch.equal(data.cases[0].annotation, before)
    data.update_annotation(data.cohort.with_case(a_case(tmp_path, "d", scribbled=True)), "d")
    data.update_annotation(data.cohort.with_case(a_case(tmp_path, "b")), "b")
    assert data.cases[0].annotation is None
    assert data.cases[0].expanded is None


def test_other_classes_or_roles_are_refused(data, tmp_path):
    other = LabelSchema((SegmentClass("organ"), SegmentClass("lesion")))
    with pytest.raises(CohortError, match="classes of the cohort have changed"):
        data.update_annotation(Cohort(other, data.cohort.cases), "b")
    with pytest.raises(CohortError, match="not a training case"):
        data.update_annotation(data.cohort.with_case(a_case(tmp_path, "b", scribbled=True, role=Role.TEST)), "b")
    with pytest.raises(CohortError, match="no case 'z'"):
        data.update_annotation(data.cohort, "z")


@pytest.mark.parametrize("method", ["partial", "sp3"])
def test_proposals_of_held_out_strokes_do_not_train(tmp_path, method):
    strokes = np.zeros(GEOMETRY.shape, np.uint8)
    strokes[::3, 1, 2:5], strokes[::3, 5, 2:5], strokes[3, 8, 7:10] = 1, 2, 1
    proposals = np.zeros(GEOMETRY.shape, np.uint8)  # every stroke grew by a row
    proposals[::3, 2, 2:5], proposals[::3, 6, 2:5], proposals[3, 7, 7:10] = 1, 2, 1
    case = a_case(tmp_path, "a")
    case = replace(
        case,
        scribble=AnnotationFile(write(tmp_path / "a_scribble.nrrd", strokes), SCRIBBLE_VALUES),
        proposals=AnnotationFile(write(tmp_path / "a_proposals.nrrd", proposals), SCRIBBLE_VALUES),
    )
    settings = TrainingSettings(method=method, held_out_strokes=True)
    both, strokes_alone = (
        TrainingData(Cohort(SCHEMA, (each,)), settings, tiny_plan(), CPU, tmp_path)
        for each in (case, replace(case, proposals=None))
    )
    trained, without = (
        (data.cases[0].annotation if method == "partial" else data.cases[0].expanded).numpy()
        for data in (both, strokes_alone)
    )
    held = both.held_out.of_case["a"] != IGNORE
    grown = np.zeros_like(held)
    for k, j, i in np.argwhere(held):
        grown[k, [j - 1, j + 1], i] = True
    grown &= proposals > 0
    assert grown.sum() == held.sum() > 0
    assert (without[grown] == IGNORE).any()
    np.testing.assert_array_equal(trained[grown | held], without[grown | held])
    assert (trained[(proposals > 0) & ~grown] != IGNORE).all()


def test_what_is_one_piece_is_learned_from_training_cases_alone(tmp_path):
    cases = (
        a_case(tmp_path, "a", dense=True),
        a_case(tmp_path, "b", scribbled=True),
        a_case(tmp_path, "e", dense=True, role=Role.VALIDATION),
    )
    data = TrainingData(Cohort(SCHEMA, cases), TrainingSettings(method="partial"), tiny_plan(), CPU, tmp_path)
    assert [case.id for case in data.validation] == ["e"]
    assert [case.id for case in data.dense_cases] == ["a"]


def test_a_dense_label_without_foreground_is_a_dense_label(tmp_path):
    empty = a_case(tmp_path, "b", dense=True)
    write(empty.label.path, np.zeros(GEOMETRY.shape, np.uint8))
    found = loaded([a_case(tmp_path, "a", dense=True), empty])[1]
    assert found.is_dense
    assert found.counts == {0: np.prod(GEOMETRY.shape)}


def test_supervised_trains_on_dense_labels_alone(tmp_path):
    cases = (a_case(tmp_path, "a", dense=True, scribbled=True), a_case(tmp_path, "b", scribbled=True))
    data = TrainingData(Cohort(SCHEMA, cases), TrainingSettings(method="supervised"), tiny_plan(), CPU, tmp_path)
    assert [case.id for case in data.cases] == ["a"]
    assert data.dense_cases == data.cases
