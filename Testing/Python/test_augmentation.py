"""Random changes of patches: rotations of the body in millimetres, and grey values that keep their range."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from SemiSupSegLib.learning.augmentation import augment_intensity, draw_matrix
from SemiSupSegLib.learning.sampling import random_numbers
from SemiSupSegLib.training_settings import AugmentationSettings

seeds = st.integers(0, 2**31)
ALWAYS = AugmentationSettings(spatial_probability=1.0, scale=0.0, rotation=180.0)


def in_millimetres(matrix: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """A matrix between offsets in voxels (k, j, i) as one between offsets in mm."""
    return np.diag(spacing) @ matrix @ np.diag(1 / np.array(spacing))


@given(seeds, st.tuples(*[st.floats(0.3, 2.0)] * 3))
def test_rotations_are_rotations_in_millimetres(seed, spacing):
    turn = in_millimetres(draw_matrix(ALWAYS, spacing, 3, np.random.default_rng(seed)), spacing)
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(turn) == pytest.approx(1)


@pytest.mark.parametrize(("spacing", "dimensions"), [((5.0, 0.5, 0.5), 3), ((1.0, 1.0, 1.0), 2)])
def test_thick_slices_and_single_ones_turn_in_plane_only(spacing, dimensions):
    settings = AugmentationSettings(spatial_probability=1.0)
    for seed in range(10):
        matrix = draw_matrix(settings, spacing, dimensions, np.random.default_rng(seed))
        np.testing.assert_array_equal(matrix[0], [1, 0, 0])
        np.testing.assert_array_equal(matrix[:, 0], [1, 0, 0])
        assert not np.allclose(matrix[1:, 1:], np.eye(2))


@given(seeds)
def test_scaling_stays_within_its_limits(seed):
    settings = AugmentationSettings(spatial_probability=1.0, rotation=0.0, scale=0.25)
    matrix = draw_matrix(settings, (1.0, 2.0, 0.5), 3, np.random.default_rng(seed))
    scale = matrix[0, 0]
    assert 1 / 1.25 - 1e-9 <= scale <= 1.25 + 1e-9
    np.testing.assert_allclose(matrix, scale * np.eye(3), atol=1e-12)


def test_only_the_axes_asked_for_are_mirrored():
    settings = AugmentationSettings(spatial_probability=0.0, mirror=(True, False, False))
    found = {tuple(np.diag(draw_matrix(settings, (1, 1, 1), 3, np.random.default_rng(seed)))) for seed in range(40)}
    assert found == {(1, 1, 1), (1, 1, -1)}  # i is the last axis of an array


def test_quarter_turns_turn_the_body_also_where_pixels_are_oblong():
    settings = AugmentationSettings(spatial_probability=0.0, right_angles=True)
    spacing = (3.0, 2.0, 0.5)
    turns = set()
    for seed in range(40):
        turn = in_millimetres(draw_matrix(settings, spacing, 3, np.random.default_rng(seed)), spacing)
        np.testing.assert_allclose(turn, turn.round(), atol=1e-12)
        assert np.linalg.det(turn) == pytest.approx(1)
        turns.add(tuple(turn.round().astype(int).ravel()))
    assert len(turns) == 4


def test_without_augmentation_nothing_changes():
    settings = AugmentationSettings(spatial_probability=0.0, intensity_probability=0.0)
    np.testing.assert_array_equal(draw_matrix(settings, (1, 2, 3), 3, np.random.default_rng(0)), np.eye(3))
    image = torch.randn(2, 1, 6, 5, 4)
    assert torch.equal(augment_intensity(image, settings, np.random.default_rng(0)), image)


@pytest.mark.parametrize("shape", [(3, 1, 12, 11, 10), (3, 1, 16, 15), (2, 1, 1, 9, 9), (2, 1, 3, 2, 2)])
def test_grey_values_change_but_not_shape_range_or_input(shape):
    settings = AugmentationSettings(intensity_probability=1.0)
    image = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    kept = image.clone()
    torch.manual_seed(0)
    changed = augment_intensity(image, settings, np.random.default_rng(0))
    assert torch.equal(image, kept)
    assert changed.shape == image.shape
    assert torch.isfinite(changed).all()
    assert not torch.allclose(changed, image)
    assert changed.abs().max() < 3 * image.abs().max()


def test_equal_seeds_give_equal_grey_values():
    settings = AugmentationSettings(intensity_probability=1.0)
    image = torch.randn(2, 1, 8, 8, 8)

    def once(iteration: int) -> torch.Tensor:
        torch.manual_seed(7)
        return augment_intensity(image, settings, random_numbers(1, iteration, 2))

    assert torch.equal(once(5), once(5))
    assert not torch.equal(once(5), once(6))


def test_a_constant_patch_stays_finite():
    settings = AugmentationSettings(intensity_probability=1.0, noise=0.0)
    for seed in range(5):
        changed = augment_intensity(torch.full((1, 1, 8, 8, 8), 2.0), settings, np.random.default_rng(seed))
        assert torch.isfinite(changed).all()
