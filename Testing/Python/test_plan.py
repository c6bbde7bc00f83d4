"""The plan: what images and device say about spacing, patch, normalisation and network."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from SemiSupSegLib.cohort import Case, Cohort, Role
from SemiSupSegLib.errors import CohortError, ErrorCode, ModelError, SettingsError, VolumeError
from SemiSupSegLib.labels import LabelSchema, SegmentClass
from SemiSupSegLib.learning import plan as plan_module
from SemiSupSegLib.learning.fingerprint import Fingerprint, read_fingerprint
from SemiSupSegLib.learning.plan import Normalisation, Plan, derive_plan, prepare_image
from SemiSupSegLib.learning.prediction import build_planned_network
from SemiSupSegLib.training_settings import TrainingSettings
from SemiSupSegLib.volume import Geometry, Volume, write_volume

CPU = torch.device("cpu")
SCHEMA = LabelSchema((SegmentClass("organ"),))


def fingerprint(size, spacing, n_cases=3, *, is_ct=False) -> Fingerprint:
    intensities = np.linspace(-1000 if is_ct else 0, 1000, 1001, dtype=np.float32)
    return Fingerprint(np.array([spacing] * n_cases, float), np.array([size] * n_cases), intensities, is_ct)


def plan_of(size, spacing=(1.0, 1.0, 1.0), *overrides: str, device=CPU, is_ct=False) -> Plan:
    settings = TrainingSettings().with_overrides(overrides)
    return derive_plan(fingerprint(size, spacing, is_ct=is_ct), settings, 3, device)


def divisor_of(plan: Plan) -> tuple[int, ...]:
    return build_planned_network(plan).divisor


def test_anisotropic_scans_are_pooled_in_plane_first():
    plan = plan_of((320, 320, 30), (0.5, 0.5, 5.0))
    assert plan.dimensions == 3
    assert plan.spacing[2] == 5.0  # thick slices are never made thicker
    assert plan.spacing[0] == plan.spacing[1] < 2.01
    assert plan.strides[0] == (1, 2, 2)
    assert plan.patch[2] <= 32


def test_scans_of_few_slices_are_planned_slice_by_slice():
    for size, spacing in (
        ((256, 256, 1), (0.7, 0.7, 8.0)),
        ((256, 256, 7), (1, 1, 1)),
        ((256, 216, 23), (1.5, 1.5, 5.0)),
    ):
        plan = plan_of(size, spacing)
        assert plan.dimensions == 2
        assert plan.patch[2] == 1
        assert plan.spacing[2] == 0.0
        assert all(len(stride) == 2 for stride in plan.strides)
    assert plan_of((256, 256, 8), (1, 1, 2.9)).dimensions == 3
    assert plan_of((256, 256, 24), (0.7, 0.7, 8.0)).dimensions == 3


def test_slices_are_trained_at_about_their_own_resolution_on_a_cpu_too():
    plan = plan_of((216, 256, 10), (1.5, 1.5, 10.0))
    assert (plan.spacing, plan.patch) == ((1.5, 1.5, 0.0), (160, 160, 1))


def test_slices_of_a_two_dimensional_plan_keep_their_own_distance():
    plan = plan_of((256, 256, 1), (0.7, 0.7, 8.0), "plan.spacing=1,1,1")
    assert plan.training_spacing((0.5, 0.5, 3.3)) == (1.0, 1.0, 3.3)
    assert plan.array_spacing[0] == 1.0


def test_huge_scans_are_coarsened_at_most_fourfold():
    plan = plan_of((512, 512, 700), (0.6, 0.6, 0.6))
    assert plan.spacing == pytest.approx((2.4,) * 3)
    assert plan_of((4000, 4000, 4), (0.1, 0.1, 1.0)).spacing[:2] == pytest.approx((0.4, 0.4))


def test_scans_about_as_large_as_a_patch_keep_their_spacing():
    assert plan_of((56, 56, 32), (1.5, 1.5, 3.0)).spacing == (1.5, 1.5, 3.0)


def test_patches_show_most_of_a_small_image_but_not_all_of_it():
    assert plan_of((60, 56, 32)).patch == (48, 48, 24)


@given(st.tuples(*[st.integers(24, 600)] * 3), st.tuples(*[st.floats(0.3, 6)] * 3))
def test_rounding_never_makes_a_patch_larger_than_the_budget(size, spacing):
    plan = plan_of(size, spacing)
    axes = slice(0, plan.dimensions)
    image = np.rint(np.array(size) * spacing / plan.training_spacing(spacing))
    budget = plan_module._patch_voxels(CPU, plan.dimensions)
    assert np.prod(plan.patch) <= budget or (image[axes] < plan_module._SHORT_AXIS).any()
    assert np.prod(plan.patch) > 0.4 * min(budget, np.prod(0.8 * image[axes]))


def test_tiny_scans_get_a_patch_that_just_holds_them():
    plan = plan_of((5, 6, 9))
    assert plan.patch == (5, 6, 10)
    assert plan_of((1, 1, 1)).patch == (1, 1, 1)


@given(
    st.tuples(*[st.integers(1, 600)] * 3),
    st.tuples(*[st.floats(0.1, 10)] * 3),
    st.sampled_from(["unet", "residual_unet", "vnet"]),
)
def test_every_plan_can_be_built_and_never_wastes_patches(size, spacing, network):
    plan = plan_of(size, spacing, f"plan.network={network}", "plan.features=2,4,8,8")
    divisor = np.ones(3, int)
    divisor[: plan.dimensions] = np.prod(np.array(plan.strides), axis=0)[::-1]
    patch = np.array(plan.patch)
    assert (patch % divisor == 0).all()
    image = np.maximum(1, np.rint(np.array(size) * spacing / plan.training_spacing(spacing)))
    if plan.dimensions == 2:
        image[2] = 1
    assert (patch - image < divisor).all()  # no further beyond the image than pooling asks for
    if network != "vnet":
        assert (divisor[patch < 16] <= 4).all()
    assert divisor_of(plan) == tuple(divisor[: plan.dimensions][::-1])


def test_what_the_user_chose_counts():
    plan = plan_of(
        (200, 200, 100), (1.0, 1.0, 2.0), "plan.dimensions=2", "plan.spacing=2,2,2", "plan.patch=48,64,9",
        "plan.batch_size=5", "plan.precision=bfloat16", "plan.network=residual_unet", "plan.features=4,8",
        "plan.norm=group", "plan.dropout=0.3",
    )  # fmt: skip
    assert plan.dimensions == 2
    assert plan.spacing == (2.0, 2.0, 0.0)
    assert plan.patch == (48, 64, 1)  # slices are what a 2D network sees
    assert (plan.batch_size, plan.precision, plan.network) == (5, "bfloat16", "residual_unet")
    assert (plan.features, plan.norm, plan.dropout) == ((4, 8), "group", 0.3)


def test_the_published_vnet_keeps_its_patch():
    plan = plan_of((150, 150, 90), (1.0, 1.0, 1.0), "plan.network=vnet", "plan.patch=112,112,80")
    assert plan.patch == (112, 112, 80)
    assert plan.features == (16, 32, 64, 128, 256)
    assert plan.strides == ((2, 2, 2),) * 4
    assert (plan.norm, plan.dropout) == ("batch", 0.5)
    assert divisor_of(plan) == (16, 16, 16)


def test_a_patch_for_the_vnet_is_rounded_up_to_what_it_pools_by():
    assert plan_of((150, 150, 90), (1.0, 1.0, 1.0), "plan.network=vnet", "plan.patch=100,113,80").patch == (
        112,
        128,
        80,
    )


@pytest.mark.parametrize("overrides", [("plan.dimensions=3",), ("plan.dimensions=3", "plan.patch=32,32,1")])
def test_volumes_of_one_slice_are_refused_for_volumetric_networks(overrides):
    with pytest.raises(SettingsError, match="patches of one slice"):
        plan_of((64, 64, 1), (1.0, 1.0, 5.0), *overrides)


def test_a_gpu_with_little_memory_gets_smaller_patches(monkeypatch):
    gpu = torch.device("cuda:0")
    monkeypatch.setattr(plan_module, "prefers_bfloat16", lambda device: True)
    voxels = []
    for free in (2**20, 2 * 2**30, 40 * 2**30):
        monkeypatch.setattr(plan_module, "free_bytes", lambda device, free=free: free)
        plan = plan_of((300, 300, 200), device=gpu)
        assert plan.precision == "bfloat16"
        voxels.append(int(np.prod(plan.patch)))
    assert 20_000 < voxels[0] < voxels[1] < voxels[2]


def test_shrinking_halves_the_batch_then_the_longest_side_until_nothing_is_left():
    plan = plan_of((64, 96, 32), (1.0, 1.0, 1.0), "plan.batch_size=3", "plan.features=4,8,8")
    assert plan.shrunk().batch_size == 1
    assert plan.shrunk().patch == plan.patch
    smaller = plan.shrunk().shrunk()
    assert smaller.batch_size == 1
    assert np.prod(smaller.patch) <= np.prod(plan.patch) * 0.6
    steps = 0
    while smaller is not None:
        assert all(size % each == 0 for size, each in zip(smaller.patch[::-1], divisor_of(smaller), strict=True))
        smaller, steps = smaller.shrunk(), steps + 1
    assert steps < 20
    flat = plan_of((64, 64, 1), (1.0, 1.0, 1.0), "plan.batch_size=1").shrunk()
    json.dumps(flat.to_json())
    assert flat.patch[2] == 1


def test_a_plan_survives_json():
    for plan in (plan_of((64, 64, 40)), plan_of((64, 64, 1), is_ct=True)):
        assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


@pytest.mark.parametrize(
    "damage",
    [
        {"patch": 3},
        {"patch": [16, 16, 2**40]},
        {"spacing": [1.0, 1.0, float("nan")]},
        {"dimensions": "3"},
        {"normalisation": None},
        {"normalisation": {"std": 0.0}},
        {"unknown": 1},
        {"strides": [1]},
        {"features": [4, "8", 16, 32]},
        {"features": [10**9] * 4},
        {"n_classes": 1},
        {"network": []},
    ],
)
def test_a_damaged_plan_is_refused(damage):
    with pytest.raises(ModelError):
        Plan.from_json({**plan_of((64, 64, 40)).to_json(), **damage})


# Grey values ----------------------------------------------------------------------------------------------------------


@given(st.floats(1e-8, 1e6), st.floats(-1e5, 1e5))
def test_magnetic_resonance_is_normalised_whatever_its_scale(scale, offset):
    numbers = np.random.default_rng(0).standard_normal((4, 8, 8))
    normalised = Normalisation()(numbers * scale + offset * scale)
    assert normalised.dtype == np.float32
    assert normalised.mean() == pytest.approx(0, abs=0.05)
    assert normalised.std() == pytest.approx(1, abs=0.05)


def test_one_bright_voxel_does_not_dim_the_rest():
    image = np.random.default_rng(0).standard_normal((20, 40, 40))
    image[0, 0, 0] = 1e6
    assert Normalisation()(image).std() == pytest.approx(1, abs=0.01)
    assert Normalisation()(image).max() < 5


def test_ct_is_normalised_by_the_cohort():
    plan = plan_of((64, 64, 64), is_ct=True)
    assert plan.normalisation.kind == "fixed"
    water, air = plan.normalisation(np.array([[[0.0]]])), plan.normalisation(np.array([[[-5000.0]]]))
    assert water.item() == pytest.approx((0 - plan.normalisation.mean) / plan.normalisation.std)
    assert air.item() == pytest.approx((plan.normalisation.low - plan.normalisation.mean) / plan.normalisation.std)
    assert plan_of((64, 64, 64)).normalisation.kind == "zscore"


def test_a_prepared_image_lies_on_the_planned_grid_over_the_same_space():
    numbers = np.random.default_rng(0)
    geometry = Geometry((20, 16, 6), (0.5, 0.5, 5.0), (3.0, -7.0, 11.0), (0, 1, 0, -1, 0, 0, 0, 0, 1))
    plan = plan_of((20, 16, 10), (0.5, 0.5, 5.0), "plan.spacing=1,1,5")
    prepared = prepare_image(Volume(numbers.standard_normal((6, 16, 20)), geometry), plan)
    assert prepared.geometry.spacing == (1.0, 1.0, 5.0)
    assert prepared.geometry.size == (10, 8, 6)
    assert prepared.array.dtype == np.float32
    outer = geometry.index_to_physical @ [-0.5, -0.5, -0.5, 1]
    np.testing.assert_allclose(prepared.geometry.index_to_physical @ [-0.5, -0.5, -0.5, 1], outer, atol=1e-9)


# The cohort's fingerprint ---------------------------------------------------------------------------------------------


def cohort_of(folder, images, role=Role.TRAIN) -> Cohort:
    cases = []
    for index, array in enumerate(images):
        path = folder / f"{index}.nrrd"
        write_volume(path, Volume(array, Geometry(array.shape[::-1], (1.0, 2.0, 3.0))))
        cases.append(Case(f"case{index}", path, role=role))
    return Cohort(SCHEMA, tuple(cases))


def test_ct_is_recognised_by_its_air(tmp_path):
    numbers = np.random.default_rng(0)
    ct = [numbers.integers(-1024, 1500, (3, 9, 8), dtype=np.int16) for _ in range(2)]
    assert read_fingerprint(cohort_of(tmp_path, ct)).is_ct
    assert not read_fingerprint(cohort_of(tmp_path, [image + 1024 for image in ct])).is_ct
    assert not read_fingerprint(cohort_of(tmp_path, [image // 10 for image in ct])).is_ct


def test_the_fingerprint_knows_all_grids_but_reads_no_more_images_than_it_needs(tmp_path):
    numbers = np.random.default_rng(0)
    cohort = cohort_of(tmp_path, [numbers.integers(0, 99, (3, 9, 8), dtype=np.int16) for _ in range(6)])
    seen = []
    result = read_fingerprint(cohort, lambda fraction, text: seen.append(fraction))
    assert result.sizes.tolist() == [[8, 9, 3]] * 6
    assert result.spacings.tolist() == [[1.0, 2.0, 3.0]] * 6
    assert len(seen) == 3


def test_a_cohort_without_training_cases_says_so(tmp_path):
    cohort = cohort_of(tmp_path, [np.arange(24, dtype=np.int16).reshape(2, 3, 4)], Role.TEST)
    with pytest.raises(CohortError, match="no training case") as caught:
        read_fingerprint(cohort)
    assert caught.value.code is ErrorCode.NO_ANNOTATION


@pytest.mark.parametrize(("value", "words"), [(np.nan, "aren't numbers"), (1.0, "constant")])
def test_images_that_teach_nothing_are_named(tmp_path, value, words):
    image = np.ones((2, 3, 4), np.float32)
    image[0, 0, 0] = value
    with pytest.raises(VolumeError, match=f"case0.*{words}"):
        read_fingerprint(cohort_of(tmp_path, [image]))
