"""Volumes of classes that a teacher finds in scans: memory of superpixels, and the odds that follow."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from SemiSupSegLib.geometry import Geometry
from SemiSupSegLib.learning.cases import TrainingCase
from SemiSupSegLib.learning.methods.class_volumes import MOST, ClassVolumes
from SemiSupSegLib.learning.sampling import Batch

SPACING = (0.5, 1.0, 2.0)
SIDE = 4
N_SUPERPIXELS = 16


def scan(name: str, *, annotated: bool = False) -> TrainingCase:
    """A scan of 4 x 4 x 4 voxels of one cubic millimetre, in superpixels of four."""
    shape = (SIDE,) * 3
    ids = torch.arange(SIDE**3).view(shape) // (SIDE**3 // N_SUPERPIXELS)
    known = torch.zeros(shape, dtype=torch.uint8) if annotated else None
    return TrainingCase(name, Geometry(shape, SPACING), torch.zeros(shape), known, ids.to(torch.int32))


def look(volumes: ClassVolumes, case: TrainingCase, labels: list[int], first: int = 0) -> None:
    """A patch that shows some of a scan's superpixels, from the first on, and what each is thought to be."""
    ids = case.superpixels.clone()
    shown = (ids >= first) & (ids < first + len(labels))
    of_voxel = torch.where(shown, ids.long() - first, -1)[None]
    batch = Batch(torch.zeros(1, 1, SIDE, SIDE, SIDE), torch.zeros(0), torch.where(shown, ids, -1)[None], cases=(case,))
    volumes.update(batch, of_voxel, torch.tensor(labels))


def labels_with(n_foreground: int, label: int = 1) -> list[int]:
    return [label] * n_foreground + [0] * (N_SUPERPIXELS - n_foreground)


def test_volumes_are_those_of_the_superpixels_as_last_seen():
    volumes, case = ClassVolumes(3), scan("a")
    look(volumes, case, [1, 1, 2, 0])
    assert volumes.scans["a"].volumes.tolist() == [4, 8, 4, 48]  # the last one: not seen yet
    look(volumes, case, [0, 1], first=3)
    assert volumes.scans["a"].volumes.tolist() == [4, 12, 4, 44]
    look(volumes, case, labels_with(2, 2))
    assert volumes.scans["a"].volumes.tolist() == [56, 0, 8, 0]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 16), min_size=1, max_size=4), st.integers(0, 16))
def test_odds_lead_into_the_widened_range_of_annotated_scans_and_are_even_within_it(annotated, found):
    volumes = ClassVolumes(2)
    labeled = [scan(f"labeled {index}", annotated=True) for index in range(len(annotated))]
    for case, count in zip(labeled, annotated, strict=True):
        look(volumes, case, labels_with(count))
    other = scan("unlabeled")
    look(volumes, other, labels_with(found))
    odds = volumes.odds((labeled[0], other))
    low, high, own = (4 * count for count in (min(annotated), max(annotated), found))
    margin = ((high + 1) / (low + 1)) ** 0.5
    expected = (min(max(own, low / margin), high * margin) + 1) / (own + 1)
    assert odds[0].tolist() == [1, 1]
    assert odds[1, 0] == 1
    assert odds[1, 1].item() == pytest.approx(min(MOST, max(1 / MOST, expected)))


def test_odds_of_a_scan_that_was_hardly_seen_are_nearly_even():
    volumes = ClassVolumes(2)
    look(volumes, scan("labeled", annotated=True), labels_with(4))
    odds = []
    for seen in (1, 4, 16):
        case = scan(f"seen {seen}")
        look(volumes, case, [0] * seen)
        odds.append(volumes.odds((case,))[0, 1].item())
    assert odds[0] == pytest.approx(17 ** (1 / 16))
    assert odds[1] == pytest.approx(17 ** (4 / 16))
    assert odds[2] == MOST


def test_there_is_nothing_to_align_without_annotated_scans_or_without_others():
    volumes, labeled, other = ClassVolumes(2), scan("labeled", annotated=True), scan("unlabeled")
    look(volumes, other, labels_with(3))
    assert volumes.odds((other,)) is None
    look(volumes, labeled, labels_with(5))
    assert volumes.odds((labeled,)) is None
    assert volumes.odds((other, labeled)) is not None


def test_a_scan_that_was_annotated_meanwhile_counts_as_such():
    volumes, labeled, other = ClassVolumes(2), scan("labeled", annotated=True), scan("other")
    look(volumes, labeled, labels_with(8))
    third = scan("third")
    look(volumes, third, labels_with(4))
    look(volumes, other, labels_with(2))
    assert volumes.odds((third,))[0, 1].item() == pytest.approx(33 / 17)  # one scan has no range
    other.annotation = torch.zeros(other.shape, dtype=torch.uint8)
    look(volumes, other, labels_with(2))
    assert volumes.odds((third,))[0, 1].item() == 1  # between 2 and 8


def test_nothing_is_looked_for_that_an_annotated_scan_lacks():
    volumes, other = ClassVolumes(3), scan("other")
    for name, count in (("healthy", 0), ("ill", 9)):
        look(volumes, scan(name, annotated=True), labels_with(count, 2))
    look(volumes, other, labels_with(0))
    assert volumes.odds((other,)).tolist() == [[1, 1, 1]]


def test_what_is_remembered_survives_as_json():
    volumes, case = ClassVolumes(3), scan("übrig/1")
    look(volumes, scan("labeled", annotated=True), labels_with(6, 2))
    look(volumes, case, [1, 2, 0])
    other = ClassVolumes(3)
    other.load_state(json.loads(json.dumps(volumes.state())))
    assert torch.equal(other.odds((case,)), volumes.odds((case,)))
    for each in (volumes, other):
        look(each, case, [2], first=7)
    assert torch.equal(other.scans[case.id].volumes, volumes.scans[case.id].volumes)
    assert other.state() == volumes.state()
