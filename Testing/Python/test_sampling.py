"""Patches: where they lie, and that everything in them moves together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from SemiSupSegLib.labels import IGNORE
from SemiSupSegLib.learning.augmentation import draw_matrix
from SemiSupSegLib.learning.cases import TrainingCase
from SemiSupSegLib.learning.sampling import (
    NO_SUPERPIXEL,
    Batch,
    Patch,
    choose_cases,
    cut_batch,
    draw_centre,
    random_numbers,
)
from SemiSupSegLib.propagation import propagate
from SemiSupSegLib.training_settings import AugmentationSettings
from SemiSupSegLib.volume import Geometry

IDENTITY = np.eye(3)
shapes = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
seeds = st.integers(0, 10_000)


def case_of(shape, seed=0, *, spacing=(1.0, 1.0, 1.0), share=0.3) -> TrainingCase:
    """A case of random voxels, some of them annotated, in random superpixels."""
    numbers = np.random.default_rng(seed)
    image = torch.from_numpy(numbers.standard_normal(shape).astype(np.float32)).half()
    case = TrainingCase("case", Geometry(shape[::-1], spacing), image)
    annotation = np.where(numbers.random(shape) < share, numbers.integers(0, 3, shape), IGNORE).astype(np.uint8)
    annotation.flat[0] = 1
    ids = numbers.integers(0, 6, shape).astype(np.int32)
    case.annotate(annotation)
    case.superpixels = torch.from_numpy(ids)
    case.expanded = torch.from_numpy(propagate(annotation, ids))
    return case


def patch_at(start, shape, matrix=IDENTITY) -> Patch:
    return Patch(0, np.array(start) + (np.array(shape) - 1) / 2, matrix)


def padded_crop(array: np.ndarray, start, shape, fill) -> np.ndarray:
    """What a patch must be: the voxels from `start` on, `fill` where there are none."""
    result = np.full(shape, fill, array.dtype)
    for index in np.ndindex(*shape):
        voxel = tuple(np.add(start, index))
        if all(0 <= each < limit for each, limit in zip(voxel, array.shape, strict=True)):
            result[index] = array[voxel]
    return result


@settings(max_examples=60)
@given(shapes, st.tuples(*[st.integers(2, 6)] * 3), st.tuples(*[st.integers(-4, 9)] * 3), seeds)
def test_an_unturned_patch_is_the_crop_and_goes_on_as_at_the_edge_without_labels(shape, size, start, seed):
    case = case_of(shape, seed)
    batch = cut_batch([case], [patch_at(start, size)], size)
    edges = zip(start, size, shape, strict=True)
    places = [np.clip(np.arange(first, first + n), 0, length - 1) for first, n, length in edges]
    np.testing.assert_array_equal(batch.image[0, 0], case.image.float().numpy()[np.ix_(*places)])
    for name, fill in (("annotation", IGNORE), ("superpixels", NO_SUPERPIXEL), ("expanded", IGNORE)):
        expected = padded_crop(getattr(case, name).numpy(), start, size, fill)
        np.testing.assert_array_equal(getattr(batch, name)[0], expected)
    assert batch.image.dtype == torch.float32
    assert batch.annotation.dtype == torch.uint8
    assert batch.superpixels.dtype == torch.int32


def test_a_patch_larger_than_its_image_shows_it_whole_in_the_middle():
    case = case_of((3, 4, 5))
    centre = draw_centre(case, (9, 9, 9), np.random.default_rng(0), annotated=True)
    batch = cut_batch([case], [Patch(0, centre, IDENTITY)], (9, 9, 9))
    inside = batch.superpixels[0] != NO_SUPERPIXEL
    assert inside.sum() == 3 * 4 * 5
    assert torch.equal(batch.annotation[0][inside].view(3, 4, 5), case.annotation)
    where = torch.nonzero(inside).float().mean(dim=0)
    assert (where - 4).abs().max() <= 0.5


def test_a_patch_of_one_slice_comes_out_flat():
    case = case_of((4, 6, 7))
    batch = cut_batch([case, case], [patch_at((2, 1, 0), (1, 4, 4))] * 2, (1, 4, 4))
    assert batch.image.shape == (2, 1, 4, 4)
    assert batch.annotation.shape == batch.superpixels.shape == batch.expanded.shape == (2, 4, 4)
    assert torch.equal(batch.annotation[0], case.annotation[2, 1:5, 0:4])


@settings(max_examples=60)
@given(st.tuples(*[st.integers(2, 8)] * 3), st.tuples(*[st.booleans()] * 3), st.integers(0, 3), seeds)
def test_mirrors_and_quarter_turns_are_exact_for_all_maps_together(size, mirrored, quarters, seed):
    side = max(size[1:])
    size = (size[0], side, side)  # an odd and an even side turned into each other lie half a voxel apart
    case = case_of(size, seed)
    turn = np.linalg.matrix_power(np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]]), quarters)
    matrix = turn * np.where(mirrored, -1.0, 1.0)
    batch = cut_batch([case], [patch_at((0, 0, 0), size, matrix)], size)

    def moved(array: np.ndarray) -> np.ndarray:
        turned = np.rot90(array, -quarters, axes=(1, 2))  # new[j, i] = old[-i, j]
        return np.flip(turned, [axis for axis in range(3) if mirrored[axis]])

    np.testing.assert_array_equal(batch.annotation[0], moved(case.annotation.numpy()))
    np.testing.assert_array_equal(batch.superpixels[0], moved(case.superpixels.numpy()))
    np.testing.assert_array_equal(batch.expanded[0], moved(case.expanded.numpy()))
    np.testing.assert_allclose(batch.image[0, 0], moved(case.image.float().numpy()), atol=2e-5)
    # Property 11 of SP3: expanding commutes with moving.
    np.testing.assert_array_equal(
        batch.expanded[0].numpy(), propagate(batch.annotation[0].numpy(), batch.superpixels[0].numpy())
    )


@settings(max_examples=40)
@given(seeds, st.tuples(*[st.floats(0.4, 3.0)] * 3))
def test_everything_in_a_turned_patch_comes_from_the_same_voxel(seed, spacing):
    numbers = np.random.default_rng(seed)
    shape = (8, 9, 10)
    case = TrainingCase("case", Geometry(shape[::-1], spacing[::-1]), torch.zeros(shape, dtype=torch.float16))
    number = np.arange(np.prod(shape)).reshape(shape)
    case.annotate((number % 251).astype(np.uint8))
    case.superpixels = torch.from_numpy(number.astype(np.int32))
    case.expanded = torch.from_numpy((number % 241).astype(np.uint8))
    matrix = draw_matrix(AugmentationSettings(spatial_probability=1.0), spacing, 3, numbers)
    size = (6, 7, 6)
    centre = draw_centre(case, size, numbers, annotated=True)
    batch = cut_batch([case], [Patch(0, centre, matrix)], size)
    ids = batch.superpixels[0]
    inside = ids != NO_SUPERPIXEL
    assert torch.equal(batch.annotation[0][inside].int(), ids[inside] % 251)
    assert torch.equal(batch.expanded[0][inside].int(), ids[inside] % 241)
    assert (batch.annotation[0][~inside] == IGNORE).all()
    # And that voxel is the nearest one in the case.
    offsets = np.moveaxis(np.indices(size), 0, -1) - (np.array(size) - 1) / 2
    wanted = offsets @ matrix.T + centre
    found = np.stack(np.unravel_index(ids.clamp_min(0).numpy(), shape), axis=-1)
    assert np.abs(found - wanted)[inside.numpy()].max() <= 0.5 + 1e-3


@given(seed=seeds, shape=shapes)
def test_box_of_a_patch_holds_all_its_voxels_and_no_more(seed, shape):
    numbers = np.random.default_rng(seed)
    patch = Patch(0, numbers.uniform(0, 50, 3), numbers.standard_normal((3, 3)))
    offsets = np.moveaxis(np.indices(shape), 0, -1) - (np.array(shape) - 1) / 2
    coordinates = (offsets @ patch.matrix.T + patch.centre).reshape(-1, 3)
    low, high = patch.box(shape)
    assert np.allclose(low, coordinates.min(axis=0))
    assert np.allclose(high, coordinates.max(axis=0))


def test_a_quarter_turn_that_falls_between_voxels_is_interpolated():
    turned = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    assert patch_at((0, 0, 0), (3, 4, 6), turned).is_aligned((3, 4, 6))
    between = patch_at((0, 0, 0), (3, 4, 5), turned)  # sides of 4 and 5 voxels have no common middle
    assert not between.is_aligned((3, 4, 5))
    case = case_of((9, 9, 9))
    image = case.image.float()
    voxel = cut_batch([case], [between], (3, 4, 5)).image[0, 0, 0, 2, 2]
    assert voxel.item() == pytest.approx((image[0, 1, 2] + image[0, 2, 2] + image[0, 1, 3] + image[0, 2, 3]).item() / 4)


def test_a_turned_image_is_interpolated_where_it_is_and_goes_on_as_at_the_edge():
    shape = (7, 8, 9)
    ramp = torch.arange(7.0).view(7, 1, 1) + 2 * torch.arange(8.0).view(8, 1) - torch.arange(9.0)
    case = TrainingCase("case", Geometry(shape[::-1]), ramp.half())
    angle = np.deg2rad(15)
    matrix = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    centre = np.array([3.0, 3.4, 4.0])
    size = (3, 3, 3)
    image = cut_batch([case], [Patch(0, centre, matrix)], size).image[0, 0].numpy()
    offsets = np.moveaxis(np.indices(size), 0, -1) - 1.0
    k, j, i = np.moveaxis(offsets @ matrix.T + centre, -1, 0)
    np.testing.assert_allclose(image, k + 2 * j - i, atol=1e-4)
    far = cut_batch([case], [Patch(0, np.array([40.0, 3.4, 4.0]), matrix)], size).image[0, 0].numpy()
    np.testing.assert_allclose(far, 6 + 2 * j - i, atol=1e-4)


def test_a_single_slice_seen_in_3d_is_annotated_once():
    case = case_of((1, 6, 6))
    turned = np.array([[1.0, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]])
    batch = cut_batch([case], [Patch(0, np.array([0.0, 2.5, 2.5]), turned)], (5, 4, 4))
    assert (batch.annotation[0, [0, 1, 3, 4]] == IGNORE).all()
    assert (batch.superpixels[0, [0, 1, 3, 4]] == NO_SUPERPIXEL).all()
    assert (batch.superpixels[0, 2] != NO_SUPERPIXEL).all()


def test_a_patch_half_a_voxel_off_takes_every_stroke_once():
    case = case_of((4, 8, 8))
    annotation = np.full((4, 8, 8), IGNORE, np.uint8)
    annotation[1, 3] = 1  # one voxel thin
    case.annotate(annotation)
    batch = cut_batch([case], [Patch(0, np.array([1.5, 3.0, 3.5]), IDENTITY)], (4, 8, 8))
    assert (batch.annotation[0] == 1).sum() == 8


def test_cases_without_annotation_or_superpixels_give_nothing():
    image = torch.zeros(4, 4, 4, dtype=torch.float16)
    plain = TrainingCase("plain", Geometry((4, 4, 4)), image)
    batch = cut_batch([plain], [patch_at((0, 0, 0), (2, 2, 2))], (2, 2, 2))
    assert (batch.annotation == IGNORE).all()
    assert batch.superpixels is None
    assert batch.expanded is None
    other = TrainingCase("other", Geometry((4, 4, 4)), image, expanded=torch.zeros(4, 4, 4, dtype=torch.uint8))
    patches = [replace(patch_at((0, 0, 0), (2, 2, 2)), case=index) for index in (0, 1)]
    expanded = cut_batch([plain, other], patches, (2, 2, 2)).expanded
    assert (expanded[0] == IGNORE).all()
    assert (expanded[1] == 0).all()


# Where patches lie ----------------------------------------------------------------------------------------------------


@settings(max_examples=80)
@given(shapes, st.tuples(*[st.integers(1, 12)] * 3), seeds, st.booleans())
def test_patches_stay_inside_images_that_are_large_enough(shape, size, seed, annotated):
    case = case_of(shape, seed)
    numbers = np.random.default_rng(seed)
    centre = draw_centre(case, size, numbers, annotated=annotated, foreground_fraction=0.5)
    start = centre - (np.array(size) - 1) / 2
    np.testing.assert_array_equal(start, start.round())
    room = np.array(shape) - size
    assert ((start >= 0) & (start <= room))[room >= 0].all()


def test_annotated_patches_show_an_annotated_voxel():
    case = case_of((20, 20, 20), share=0.0)  # one annotated voxel in a corner
    for seed in range(20):
        centre = draw_centre(case, (8, 8, 8), np.random.default_rng(seed), annotated=True, foreground_fraction=1.0)
        batch = cut_batch([case], [Patch(0, centre, IDENTITY)], (8, 8, 8))
        assert (batch.annotation != IGNORE).any()


def test_foreground_classes_are_drawn_alike_however_small_they_are():
    annotation = np.full((10, 10, 10), IGNORE, np.uint8)
    annotation[0], annotation[5:9], annotation[9, 9, 9] = 0, 1, 2
    case = TrainingCase("case", Geometry((10, 10, 10)), torch.zeros(10, 10, 10, dtype=torch.float16))
    case.annotate(annotation)
    numbers = np.random.default_rng(0)
    drawn = []
    for _ in range(400):
        centre = draw_centre(case, (1, 1, 1), numbers, annotated=True, foreground_fraction=0.8)
        drawn.append(annotation[tuple(centre.astype(int))])
    shares = np.bincount(drawn, minlength=3) / len(drawn)
    assert shares[2] == pytest.approx(0.4, abs=0.08)
    assert shares[1] == pytest.approx(0.4 + 0.2 * 0.8, abs=0.08)


@given(st.integers(1, 9), st.integers(1, 20), seeds)
def test_cases_of_a_batch_differ_as_long_as_there_are_enough(n_cases, count, seed):
    chosen = choose_cases(n_cases, count, np.random.default_rng(seed))
    assert len(chosen) == count
    assert np.bincount(chosen, minlength=n_cases).max() == -(-count // n_cases)


def test_random_numbers_are_those_of_their_seed_iteration_stream_and_sample():
    def first(*key: int) -> float:
        return random_numbers(*key).random()

    assert first(1, 2, 0, 3) == first(1, 2, 0, 3)
    keys = [(1, 2, 0, 3), (2, 2, 0, 3), (1, 3, 0, 3), (1, 2, 1, 3), (1, 2, 0, 4)]
    assert len({first(*key) for key in keys}) == len(keys)


def test_joined_batches_hold_the_first_one_first():
    first, second = (
        cut_batch([case_of((4, 4, 4), seed)], [patch_at((0, 0, 0), (2, 2, 2))], (2, 2, 2)) for seed in (0, 1)
    )
    joined = first.joined(second)
    assert len(joined) == 2
    assert torch.equal(joined.annotation[1], second.annotation[0])
    assert joined.to(torch.device("cpu")).superpixels.shape == (2, 2, 2, 2)
    plain = Batch(second.image, second.annotation)
    assert Batch(first.image, first.annotation).joined(plain).superpixels is None
    assert Batch(first.image, first.annotation).joined(plain).expanded is None
    assert torch.equal(replace(first, superpixels=None).joined(plain).expanded[1], second.annotation[0])
