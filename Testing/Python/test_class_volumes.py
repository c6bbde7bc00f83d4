"""Volumes of classes that a teacher finds in scans: memory of superpixels, and the factors that follow."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from SemiSupSegLib.geometry import Geometry
from SemiSupSegLib.labels import IGNORE
from SemiSupSegLib.learning.cases import TrainingCase
from SemiSupSegLib.learning.methods.class_volumes import FEWEST, MOST, ClassVolumes
from SemiSupSegLib.learning.sampling import Batch, Patch, cut_batch, draw_centre

SIDE = 4
N_SUPERPIXELS = 16
VOXEL = 1.5
EACH = 4 * VOXEL
"""Cubic millimetres of a superpixel."""


def scan(name: str, strokes: tuple[int, ...] = (), *, spacing=(0.5, 1.0, 3.0)) -> TrainingCase:
    """A scan of 4 x 4 x 4 voxels in superpixels of four, with strokes of some classes."""
    shape = (SIDE,) * 3
    ids = torch.arange(SIDE**3).view(shape) // (SIDE**3 // N_SUPERPIXELS)
    case = TrainingCase(name, Geometry(shape, spacing), torch.zeros(shape), superpixels=ids.to(torch.int32))
    if strokes:
        annotation = np.full(shape, IGNORE, dtype=np.uint8)
        annotation.reshape(-1)[: len(strokes)] = strokes
        case.annotate(annotation)
    return case


def look(volumes: ClassVolumes, case: TrainingCase, labels: list[int], first: int = 0) -> None:
    """A patch that shows some of a scan's superpixels, from the first on, and what each is thought to be."""
    ids = case.superpixels.clone()
    shown = (ids >= first) & (ids < first + len(labels))
    of_voxel = torch.where(shown, ids.long() - first, -1)[None]
    batch = Batch(torch.zeros(1, 1, SIDE, SIDE, SIDE), torch.zeros(0), torch.where(shown, ids, -1)[None], cases=(case,))
    volumes.update(batch, of_voxel, torch.tensor(labels))


def labels_with(n_foreground: int, label: int = 1) -> list[int]:
    return [label] * n_foreground + [0] * (N_SUPERPIXELS - n_foreground)


def volumes_of(*counts: int, n_classes: int = 2) -> ClassVolumes:
    """What is known of annotated scans with so many superpixels of foreground."""
    volumes = ClassVolumes(n_classes)
    for index, count in enumerate(counts):
        look(volumes, scan(f"labeled {index}", (0, 1)), labels_with(count))
    return volumes


def test_volumes_are_those_of_the_superpixels_as_last_seen():
    volumes, case = ClassVolumes(3), scan("a")
    look(volumes, case, [1, 1, 2, 0])
    assert volumes.scans["a"].volumes.tolist() == [EACH, 2 * EACH, EACH, 12 * EACH]  # the last one: not seen yet
    look(volumes, case, [0, 1], first=3)
    assert volumes.scans["a"].volumes.tolist() == [EACH, 3 * EACH, EACH, 11 * EACH]
    look(volumes, case, labels_with(2, 2))
    assert volumes.scans["a"].volumes.tolist() == [14 * EACH, 0, 2 * EACH, 0]


def test_volumes_are_compared_in_millimetres():
    volumes, fine = volumes_of(4, 4, 4), scan("fine", spacing=(0.5, 0.5, 1.5))
    look(volumes, fine, labels_with(16))
    assert volumes.factors((fine,), (1,)) is None  # a quarter of the volume, four times as many


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 16), min_size=FEWEST, max_size=5), st.integers(0, 16))
def test_factors_lead_into_the_widened_range_of_annotated_scans_and_are_even_within_it(annotated, found):
    volumes, other = volumes_of(*annotated), scan("unlabeled")
    look(volumes, other, labels_with(found))
    factors = volumes.factors((scan("labeled 0", (0, 1)), other), (1,))
    low, high, own = (EACH * count + VOXEL for count in (min(annotated), max(annotated), found))
    margin = math.sqrt(high / low)
    expected = min(max(own, low / margin), high * margin) / own
    if expected == 1:
        assert factors is None
    else:
        assert factors[0].tolist() == [1, 1]
        assert factors[1, 0] == 1
        assert factors[1, 1].item() == pytest.approx(min(MOST, max(1 / MOST, expected)))


def test_every_class_has_a_range_and_a_factor_of_its_own():
    volumes, other = ClassVolumes(4), scan("other")
    for index in range(FEWEST):
        look(volumes, scan(f"labeled {index}", (0, 1, 2, 3)), [1] * 2 + [2] * 3 + [3] * 4 + [0] * 7)
    look(volumes, other, [1] * 4 + [2] * 2 + [3] * 1 + [0] * 9)
    of_class = {1: (2, 4), 2: (3, 2), 3: (4, 1)}
    expected = {label: (EACH * usual + VOXEL) / (EACH * own + VOXEL) for label, (usual, own) in of_class.items()}
    for classes in ((1, 2, 3), (3, 1)):
        factors = volumes.factors((other,), classes)[0].tolist()
        assert factors == pytest.approx([1, *(expected[label] if label in classes else 1 for label in (1, 2, 3))])


def test_a_scan_that_was_hardly_seen_is_hardly_changed():
    factors = []
    for seen in (1, 4, 16):
        volumes, case = volumes_of(16, 16, 16), scan("other")
        look(volumes, case, [0] * seen)
        factors.append(volumes.factors((case,), (1,))[0, 1].item())
    assert factors == pytest.approx([MOST ** (1 / 16), MOST ** (4 / 16), MOST])


def test_what_was_not_seen_of_annotated_scans_may_be_of_the_class():
    volumes, other = ClassVolumes(2), scan("other")
    for index in range(FEWEST):
        look(volumes, scan(f"labeled {index}", (0, 1)), [1, 1, 0, 0])
    look(volumes, other, labels_with(14))
    assert volumes.factors((other,), (1,)) is None
    look(volumes, other, labels_with(1))
    assert volumes.factors((other,), (1,)) is None  # such a range says little


def test_strokes_on_one_slice_of_a_2d_plan_do_not_shrink_what_other_slices_show():
    shape = (12, 8, 8)
    truth = torch.zeros(shape, dtype=torch.int64)
    truth[2:10, 2:6, 2:6] = 1
    ids = torch.arange(12 * 8 * 8).view(shape) // 4

    def case(name: str) -> TrainingCase:
        return TrainingCase(name, Geometry(shape[::-1]), torch.zeros(shape), superpixels=ids.to(torch.int32))

    strokes = np.full(shape, IGNORE, dtype=np.uint8)
    strokes[5, 3, 3], strokes[5, 0, 0] = 1, 0
    cases = [case(f"labeled {index}") for index in range(FEWEST)]
    for each in cases:
        each.annotate(strokes)
    cases.append(case("unlabeled"))
    volumes, numbers = ClassVolumes(2), np.random.default_rng(0)
    labels = truth.reshape(-1, 4)[:, 0]
    for _ in range(100):
        for index, each in enumerate(cases):
            centre = draw_centre(each, (1, 8, 8), numbers, annotated=each.annotation is not None)
            batch = cut_batch(cases, [Patch(index, centre, np.eye(3))], (1, 8, 8))
            assert batch.cases == (each,)
            volumes.update(batch, batch.superpixels.long(), labels)
    assert volumes.scans["labeled 0"].volumes[-1] == 11 * 64
    assert volumes.scans["unlabeled"].volumes.tolist() == [12 * 64 - 128, 128, 0]
    assert volumes.factors(cases, (1,)) is None


@pytest.mark.parametrize("n_annotated", range(FEWEST + 1))
def test_fewer_than_three_annotated_scans_tell_nothing(n_annotated):
    volumes, other = volumes_of(*[9] * n_annotated), scan("other")
    look(volumes, other, labels_with(1))
    assert (volumes.factors((other,), (1,)) is None) == (n_annotated < FEWEST)


def test_annotated_scans_and_classes_that_are_no_objects_are_left_alone():
    volumes, other = volumes_of(9, 9, 9), scan("other")
    look(volumes, other, labels_with(1))
    assert volumes.factors((other,), ()) is None
    look(volumes, scan("labeled 1", (0, 1)), labels_with(1))
    assert volumes.factors((scan("labeled 1", (0, 1)),), (1,)) is None


def test_a_class_without_strokes_in_an_annotated_scan_is_left_alone():
    volumes, other = volumes_of(9, 9, 9), scan("other")
    look(volumes, scan("healthy", (0,)), labels_with(0))
    look(volumes, other, labels_with(1))
    assert volumes.factors((other,), (1,)) is None


def test_annotation_may_come_and_go():
    volumes, other, third = volumes_of(9, 9, 9), scan("other"), scan("third")
    look(volumes, third, labels_with(5))
    look(volumes, other, labels_with(3))
    before = volumes.factors((third,), (1,))[0, 1].item()
    assert before == pytest.approx((9 * EACH + VOXEL) / (5 * EACH + VOXEL))
    look(volumes, scan("other", (0, 1)), labels_with(3))
    assert volumes.factors((third,), (1,)) is None  # between 3 and 9
    look(volumes, scan("other"), labels_with(3))
    assert volumes.factors((third,), (1,))[0, 1].item() == before


def test_what_is_remembered_survives_as_json():
    volumes, case = volumes_of(6, 7, 9, n_classes=3), scan("übrig/1")
    look(volumes, case, [1, 2, 0])
    other = ClassVolumes(3)
    other.load_state(json.loads(json.dumps(volumes.state())))
    assert torch.equal(other.factors((case,), (1,)), volumes.factors((case,), (1,)))
    for each in (volumes, other):
        look(each, case, [2], first=7)
    assert torch.equal(other.scans[case.id].volumes, volumes.scans[case.id].volumes)
    assert other.state() == volumes.state()


def test_other_superpixels_than_before_are_looked_at_anew():
    volumes, case = ClassVolumes(2), scan("a")
    look(volumes, case, labels_with(9))
    later = ClassVolumes(2)
    later.load_state(volumes.state())
    coarser = scan("a")
    coarser.superpixels //= 2
    look(later, coarser, [1])
    assert later.scans["a"].volumes.tolist() == [0, 2 * EACH, 14 * EACH]
