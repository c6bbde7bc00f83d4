"""Resampling by small matrices: what the hall's filter and interpolation give."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from SemiSupSegLib import resampling
from SemiSupSegLib.learning.grids import resample_image, resample_probabilities
from SemiSupSegLib.volume import Geometry, Volume

TILTED = tuple(Rotation.from_euler("xyz", (0.3, -0.2, 0.5)).as_matrix().ravel())
SHEARED = (1.0, 0.6, 0.0, 0.0, 0.8, 0.0, 0.0, 0.0, 1.0)
spacings = st.tuples(*(st.floats(0.4, 5),) * 3)


sources = st.builds(
    Geometry,
    st.tuples(*(st.integers(1, 12),) * 3),
    spacings,
    st.tuples(*(st.floats(-200, 200),) * 3),
    st.sampled_from([(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0), TILTED, SHEARED]),
)


def noise(shape) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def between_centres(source: Geometry, target: Geometry) -> np.ndarray:
    """Target voxels that lie between the outermost voxel centres of the source; beyond, ITK takes the nearest voxel."""
    mapping = target.index_map(source)
    places = np.argwhere(np.ones(target.shape))[:, ::-1] @ mapping[:3, :3].T + mapping[:3, 3]
    return ((places >= 0) & (places <= np.subtract(source.size, 1))).all(axis=1).reshape(target.shape)


@settings(max_examples=60, deadline=None)
@given(sources, spacings, st.tuples(*(st.floats(-1, 1),) * 3))
def test_images_come_out_as_by_filter_and_interpolation(source, spacing, shift):
    target = source.with_spacing(spacing)
    target = target.cropped(shift, target.size)
    volume = Volume(noise(source.shape), source)
    found, wanted = resample_image(volume, target).array, resampling.resample_image(volume, target).array
    inside = between_centres(source, target)
    np.testing.assert_allclose(found[inside], wanted[inside], atol=1e-3)
    assert found.dtype == np.float32
    assert np.abs(found).max() <= np.abs(volume.array).max() + 1e-5


@settings(max_examples=40, deadline=None)
@given(sources, spacings)
def test_probabilities_come_out_as_by_interpolation_and_keep_their_sum(target, spacing):
    source = target.with_spacing(spacing)
    probabilities = torch.from_numpy(noise((3, *source.shape))).softmax(dim=0)
    found = resample_probabilities(probabilities, source, target)
    wanted = resampling.resample_probabilities(probabilities.numpy(), source, target)
    inside = between_centres(source, target)
    np.testing.assert_allclose(found.numpy()[:, inside], wanted[:, inside], atol=1e-3)
    torch.testing.assert_close(found.sum(dim=0), torch.ones(target.shape), atol=1e-5, rtol=0)


def test_a_long_axis_is_multiplied_block_by_block():
    source = Geometry((700, 2, 3), (0.7, 1.0, 1.0))
    volume = Volume(noise(source.shape), source)
    for spacing in ((0.31, 1.0, 1.0), (1.9, 1.0, 1.0)):
        target = source.with_spacing(spacing)
        found, wanted = resample_image(volume, target).array, resampling.resample_image(volume, target).array
        np.testing.assert_allclose(*(each[between_centres(source, target)] for each in (found, wanted)), atol=1e-4)


def test_beyond_its_edge_an_image_goes_on_with_its_outermost_values():
    source = Geometry((5, 4, 3))
    volume = Volume(noise(source.shape), source)
    grown = resample_image(volume, source.cropped((-2, -3, -1), (9, 9, 6))).array
    wanted = np.pad(volume.array, ((1, 2), (3, 2), (2, 2)), mode="edge")
    np.testing.assert_allclose(grown, wanted, atol=1e-5)


def test_grids_whose_axes_run_otherwise_are_left_to_itk():
    source = Geometry((6, 7, 8))
    volume = Volume(noise(source.shape), source)
    for direction in (TILTED, (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)):
        target = Geometry((5, 5, 5), (1.5, 1.0, 1.0), (3.0, 1.0, 1.0), direction)
        found, wanted = resample_image(volume, target).array, resampling.resample_image(volume, target).array
        np.testing.assert_array_equal(found, wanted)


def test_on_the_same_grid_nothing_is_copied():
    grid = Geometry((4, 3, 2), (1, 2, 3))
    array = noise(grid.shape)
    assert resample_image(Volume(array, grid), grid).array is array
    probabilities = torch.from_numpy(noise((2, *grid.shape)))
    assert resample_probabilities(probabilities, grid, grid) is probabilities
