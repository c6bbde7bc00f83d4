"""Superpixels in training: the torch SLIC equals the hall's, and means never mix images."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from SemiSupSegLib.errors import VolumeError
from SemiSupSegLib.learning.supervoxels import compute_supervoxels, superpixel_mean
from SemiSupSegLib.superpixels import SuperpixelSettings, compute_superpixels

pytestmark = pytest.mark.usefixtures("one_thread")

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


batches = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.integers(1, 6), st.integers(0, 999))


def draw(shape: tuple[int, ...], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random probabilities (B, C, J, I) and ids (B, J, I), some of them -1."""
    batch, channels, *spatial = shape
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, channels, *spatial, generator=generator)
    ids = torch.randint(-1, 6, (batch, *spatial), generator=generator, dtype=torch.int32)
    return logits.softmax(1), ids


@settings(max_examples=80, deadline=None)
@given(batches)
def test_mean_is_the_mean_of_each_superpixel_of_each_image(batch):
    *shape, seed = batch
    probabilities, ids = draw(shape, seed)
    mean, index, count = superpixel_mean(probabilities, ids)
    assert mean.shape == (len(count), shape[1])
    assert ((index < 0) == (ids < 0)).all()
    rows = []
    for image, (values, numbers) in enumerate(zip(probabilities, ids, strict=True)):
        for number in numbers[numbers >= 0].unique():
            here = numbers == number
            (row,) = index[image][here].unique().tolist()
            rows.append(row)
            torch.testing.assert_close(mean[row], values[:, here].mean(1))
            assert count[row] == here.sum()
    assert rows == list(range(len(count)))


@settings(max_examples=40, deadline=None)
@given(batches)
def test_means_of_probabilities_are_probabilities(batch):
    *shape, seed = batch
    mean = superpixel_mean(*draw(shape, seed)).mean
    torch.testing.assert_close(mean.sum(1), torch.ones(len(mean)))


def test_equal_ids_in_two_images_are_two_superpixels():
    probabilities = torch.tensor([[[[1.0, 1.0]]], [[[0.0, 0.0]]]])
    mean, index, count = superpixel_mean(probabilities, torch.zeros(2, 1, 2, dtype=torch.int32))
    assert mean.flatten().tolist() == [1, 0]
    assert index.flatten().tolist() == [0, 0, 1, 1]
    assert count.tolist() == [2, 2]


@settings(max_examples=40, deadline=None)
@given(batches, st.randoms(use_true_random=False))
def test_permuting_the_batch_or_renumbering_changes_nothing(batch, random):
    *shape, seed = batch
    probabilities, ids = draw(shape, seed)

    def spread_back(values: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        mean, index, _ = superpixel_mean(values, numbers)
        mean = torch.cat([mean, mean.new_full((1, mean.shape[1]), -1)])  # the row that index -1 finds
        return mean[index].movedim(-1, 1)

    order = random.sample(range(shape[0]), shape[0])
    numbers = torch.tensor(random.sample(range(100), 6))
    renumbered = torch.where(ids >= 0, numbers[ids.clamp(min=0).long()], -1)
    expected = spread_back(probabilities, ids)
    torch.testing.assert_close(spread_back(probabilities, renumbered), expected)
    torch.testing.assert_close(spread_back(probabilities[order], ids[order]), expected[order])


def test_piecewise_constant_values_are_left_unchanged():
    ids = torch.randint(0, 5, (2, 4, 4, 4))
    values = torch.rand(2, 5)
    spread = torch.stack([table[number] for table, number in zip(values, ids, strict=True)])[:, None]
    mean, index, _ = superpixel_mean(spread, ids)
    torch.testing.assert_close(mean[index][..., 0], spread[:, 0])


def test_one_voxel_superpixels_have_their_voxels_values():
    probabilities = torch.rand(2, 3, 4, 5)
    mean, _, count = superpixel_mean(probabilities, torch.arange(20).view(1, 4, 5).expand(2, -1, -1))
    torch.testing.assert_close(mean, probabilities.movedim(1, -1).reshape(-1, 3), rtol=0, atol=0)
    assert (count == 1).all()


def test_images_without_any_superpixel_give_no_rows():
    mean, index, count = superpixel_mean(torch.rand(2, 3, 4, 4), torch.full((2, 4, 4), -1))
    assert mean.shape == (0, 3)
    assert (index == -1).all()
    assert len(count) == 0


def test_half_precision_is_summed_in_single_precision():
    values = torch.full((1, 1, 100, 100), 0.1, dtype=torch.bfloat16)
    mean = superpixel_mean(values, torch.zeros(1, 100, 100, dtype=torch.int32)).mean
    assert mean.dtype == torch.float32
    torch.testing.assert_close(mean, values[:1, :, 0, 0].float())


def test_no_gradient_flows_into_means():
    probabilities = torch.rand(1, 2, 3, 3, requires_grad=True)
    assert not superpixel_mean(probabilities, torch.zeros(1, 3, 3, dtype=torch.int64)).mean.requires_grad


def test_ids_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="don't fit"):
        superpixel_mean(torch.rand(1, 2, 3, 3), torch.zeros(1, 3, 4, dtype=torch.int64))


def test_cost_follows_the_voxels_not_the_superpixels():
    ids = torch.randint(0, 400_000, (4, 32, 32, 32), dtype=torch.int32)
    values = torch.rand(4, 4, 32, 32, 32)
    superpixel_mean(values, ids)
    began = time.perf_counter()
    superpixel_mean(values, ids)
    assert time.perf_counter() - began < 1.0  # measured 0.02; one-hot matrices would take 800 GB


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("shape", "spacing", "chosen"),
    [
        ((20, 40, 40), (1, 1, 1), SuperpixelSettings()),
        ((20, 40, 40), (1, 1, 1), SuperpixelSettings(size_mm=15, iterations=2)),
        ((6, 50, 50), (0.5, 0.5, 5.0), SuperpixelSettings(size_mm=4)),
        ((4, 40, 50), (1.5, 1.5, 8.0), SuperpixelSettings(dimensions=2, compactness=0.03)),
        ((1, 40, 50), (1, 1, 1), SuperpixelSettings(sigma=0, iterations=10)),
        ((3, 3, 3), (1, 1, 1), SuperpixelSettings(size_mm=1)),
    ],
)
def test_torch_gives_the_ids_that_numpy_gives(shape, spacing, chosen, device):
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    image[:, :, : shape[2] // 3] += 3
    expected = compute_superpixels(image, spacing, chosen)
    np.testing.assert_array_equal(compute_supervoxels(image, spacing, chosen, device=device), expected)


def test_torch_refuses_what_numpy_refuses():
    with pytest.raises(VolumeError, match="NaN"):
        compute_supervoxels(np.full((2, 3, 4), np.nan), (1, 1, 1))
