from __future__ import annotations

import numpy as np
import pytest

from SemiSupSegLib.cohort import Cohort, Role
from SemiSupSegLib.cohort_lint import lint_cohort
from SemiSupSegLib.errors import CohortError
from SemiSupSegLib.labels import IGNORE
from SemiSupSegLib.phantom import LESION, ORGAN, VESSEL, make_phantom, make_phantom_cohort


@pytest.fixture(scope="module")
def phantom():
    return make_phantom(seed=3)


def test_scan_holds_every_class_and_is_no_drawing(phantom):
    counts = np.bincount(phantom.labels.ravel(), minlength=4)
    assert (counts > 50).all()
    assert counts[0] > counts[1:].sum()
    image = phantom.image.array
    assert image.dtype == np.int16
    assert len(np.unique(image)) > 300
    means = [image[phantom.labels == index].mean() for index in (ORGAN, LESION, VESSEL)]
    assert means[1] < means[0] < means[2]


def test_borders_are_mixtures(phantom):
    image, vessel = phantom.image.array.astype(float), phantom.labels == VESSEL
    entered = (phantom.labels[..., :-2] == 0) & vessel[..., 1:-1] & vessel[..., 2:]
    rise = (image[..., 2:] - image[..., 1:-1])[entered]
    assert rise.mean() > 30, "the first voxel of the vessel is darker than the next"


def test_grid_is_tilted_and_anisotropic(phantom):
    geometry = phantom.image.geometry
    assert geometry.spacing[2] > 1.5 * geometry.spacing[0]
    assert not np.allclose(np.reshape(geometry.direction, (3, 3)), np.eye(3), atol=1e-3)
    assert not np.allclose(geometry.origin, 0)


@pytest.mark.parametrize("seed", range(4))
def test_scribbles_are_few_right_and_of_every_class_near_and_far(seed):
    phantom = make_phantom((20, 48, 48), seed)
    painted = phantom.scribbles != IGNORE
    assert 0.001 < painted.mean() < 0.03
    np.testing.assert_array_equal(phantom.scribbles[painted], phantom.labels[painted])
    assert set(np.unique(phantom.scribbles)) == {0, ORGAN, LESION, VESSEL, IGNORE}
    assert painted.any(axis=(1, 2)).sum() <= 10, "a person paints some slices, not all"
    from scipy import ndimage

    distance = ndimage.distance_transform_edt(phantom.labels == 0, phantom.image.geometry.spacing[::-1])
    background = distance[phantom.scribbles == 0]
    assert background.min() < 8
    assert background.max() > 20


def test_equal_seeds_give_equal_scans_and_others_differ():
    first, again, other = (make_phantom((12, 24, 24), seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.image.array, again.image.array)
    np.testing.assert_array_equal(first.scribbles, again.scribbles)
    assert first.image.geometry == again.image.geometry
    assert (first.labels != other.labels).any()


def test_cohort_has_its_roles_and_nothing_to_complain_of(tmp_path):
    folder = tmp_path / "phantom größe"
    told = []
    cohort = make_phantom_cohort(
        folder, 5, (16, 32, 32), n_scribbled=2, n_validation=1, n_test=1, on_progress=lambda f, t: told.append(f)
    )
    assert Cohort.load(folder / "cohort.json") == cohort
    assert [case.role for case in cohort.cases] == [Role.TRAIN] * 3 + [Role.VALIDATION, Role.TEST]
    assert [case.annotated for case in cohort.cases] == [True, True, False, False, False]
    assert told == sorted(told)
    assert told[-1] == 1
    for case in cohort.cases:
        np.testing.assert_array_equal(np.unique(cohort.read_label(case)), [0, 1, 2, 3])
        training = cohort.read_training_annotation(case)
        assert (training is None) == (not case.annotated)
    assert not [finding for finding in lint_cohort(cohort) if finding.severity == "error"]


def test_equal_seeds_give_equal_files_whatever_the_number_of_cases(tmp_path):
    few = make_phantom_cohort(tmp_path / "few", 2, (8, 16, 16), n_scribbled=1, n_test=0)
    many = make_phantom_cohort(tmp_path / "many", 3, (8, 16, 16), n_scribbled=1, n_test=0)
    for first, second in zip(few.cases, many.cases, strict=False):
        assert first.image.read_bytes() == second.image.read_bytes()


@pytest.mark.parametrize("arguments", [{"n_cases": 3}, {"n_cases": 5, "n_scribbled": 0}, {"shape": (4, 32, 32)}])
def test_impossible_phantom_is_refused(tmp_path, arguments):
    with pytest.raises(CohortError):
        make_phantom_cohort(tmp_path, **arguments)
