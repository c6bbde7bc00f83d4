from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.spatial.transform import Rotation

from SemiSupSegLib import resampling
from SemiSupSegLib.errors import ErrorCode, SemiSupSegError, VolumeError
from SemiSupSegLib.labels import IGNORE
from SemiSupSegLib.volume import (
    Geometry,
    Volume,
    check_image,
    extension_of,
    read_geometry,
    read_volume,
    resample_image,
    resample_labels,
    resample_probabilities,
    write_volume,
)

# -- strategies -------------------------------------------------------------------------------------------------------

sizes = st.tuples(*(st.integers(1, 9),) * 3)
spacings = st.tuples(*(st.floats(0.3, 6),) * 3)
origins = st.tuples(*(st.floats(-200, 200),) * 3)


@st.composite
def directions(draw, sheared=True):
    kind = draw(st.sampled_from(["identity", "flipped", "permuted", "rotated", "sheared"] if sheared else ["rotated"]))
    if kind == "identity":
        matrix = np.eye(3)
    elif kind == "flipped":
        matrix = np.diag(draw(st.tuples(*(st.sampled_from([-1.0, 1.0]),) * 3)))
    elif kind == "permuted":
        matrix = np.eye(3)[list(draw(st.permutations(range(3))))]
    else:
        matrix = Rotation.from_euler("xyz", draw(st.tuples(*(st.floats(-3, 3),) * 3))).as_matrix()
        if kind == "sheared":
            matrix = matrix @ np.array(
                [[1, draw(st.floats(-0.4, 0.4)), 0], [0, 1, draw(st.floats(-0.4, 0.4))], [0, 0, 1]]
            )
    return tuple((matrix / np.linalg.norm(matrix, axis=0)).ravel())


geometries = st.builds(Geometry, sizes, spacings, origins, directions())


def label_array(shape, classes=(0, 1, 2)):
    return arrays.arrays(np.uint8, shape, elements=st.sampled_from([IGNORE, IGNORE, *classes]))


def ramp(geometry: Geometry) -> np.ndarray:
    """A linear function of physical coordinates: linear interpolation has to reproduce it anywhere inside."""
    k, j, i = np.indices(geometry.shape)
    points = np.stack([i, j, k, np.ones_like(i)], axis=-1) @ geometry.index_to_physical.T
    return points[..., :3] @ np.array([1.0, -2.0, 0.5])


# -- geometry ---------------------------------------------------------------------------------------------------------


@given(geometries)
def test_geometry_comes_back_from_json_bit_for_bit(geometry):
    assert Geometry.from_json(geometry.to_json()) == geometry


def test_index_to_physical_agrees_with_simpleitk():
    geometry = Geometry(
        (4, 5, 6), (0.5, 2, 3), (7, -8, 9), Rotation.from_euler("xyz", [0.1, 0.7, -2]).as_matrix().ravel()
    )
    image = sitk.Image(geometry.size, sitk.sitkUInt8)
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    expected = image.TransformIndexToPhysicalPoint((3, 1, 2))
    np.testing.assert_allclose((geometry.index_to_physical @ [3, 1, 2, 1])[:3], expected, atol=1e-12)


@given(geometries, spacings)
def test_new_spacing_keeps_the_first_corner_and_covers_everything(geometry, spacing):
    changed = geometry.with_spacing(spacing)
    corner = np.array([-0.5, -0.5, -0.5, 1])
    np.testing.assert_allclose(changed.index_to_physical @ corner, geometry.index_to_physical @ corner, atol=1e-9)
    covered = np.multiply(changed.size, changed.spacing)
    needed = np.multiply(geometry.size, geometry.spacing)
    assert (covered >= needed - 1e-4 * np.array(spacing)).all()
    assert (covered < needed + spacing).all()


def test_equal_spacing_gives_the_same_geometry_exactly():
    geometry = Geometry((5, 6, 7), (0.7, 0.7, 3.1), (1 / 3, 2, 3))
    assert geometry.with_spacing(geometry.spacing) == geometry


def test_same_grid_forgives_a_thousandth_of_a_voxel_and_no_more():
    geometry = Geometry((100, 100, 100))
    assert geometry.same_grid(Geometry((100, 100, 100), origin=(0.0009, 0, 0)))
    assert not geometry.same_grid(Geometry((100, 100, 100), origin=(0.002, 0, 0)))
    assert not geometry.same_grid(Geometry((100, 100, 100), spacing=(1.0001, 1, 1)))
    assert not geometry.same_grid(Geometry((100, 100, 99)))


@pytest.mark.parametrize(
    "arguments",
    [
        {"size": (0, 1, 1)},
        {"size": (2, 2)},
        {"size": (2, 2, 2), "spacing": (1, 1, 0)},
        {"size": (2, 2, 2), "spacing": (1, 1, -1)},
        {"size": (2, 2, 2), "origin": (0, float("nan"), 0)},
        {"size": (2, 2, 2), "spacing": "wide"},
        {"size": (2, 2, 2), "direction": (1, 0, 0, 1, 0, 0, 0, 0, 1)},
    ],
)
def test_impossible_geometry_is_refused(arguments):
    with pytest.raises(VolumeError) as caught:
        Geometry(**arguments)
    assert caught.value.code == ErrorCode.BAD_GEOMETRY


def test_array_that_does_not_fit_its_grid_is_refused():
    with pytest.raises(VolumeError, match="doesn't fit"):
        Volume(np.zeros((2, 3, 4)), Geometry((2, 3, 4)))


# -- files ------------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(geometries, st.sampled_from(["uint8", "int16", "uint16", "int32", "float32", "float64"]), st.booleans())
def test_nrrd_keeps_voxels_exactly_and_geometry_to_the_last_bit(tmp_path_factory, geometry, dtype, compress):
    path = tmp_path_factory.mktemp("nrrd") / "volume.nrrd"
    array = np.random.default_rng(0).integers(0, 200, geometry.shape).astype(dtype)
    write_volume(path, Volume(array, geometry), compress)
    once = read_volume(path)
    assert once.array.dtype == array.dtype
    np.testing.assert_array_equal(once.array, array)
    np.testing.assert_allclose(once.geometry.index_to_physical, geometry.index_to_physical, rtol=0, atol=1e-12)
    # What came from a file goes back into one without any change: results lie exactly on their scans.
    write_volume(path, once)
    assert read_volume(path).geometry == once.geometry


@pytest.mark.parametrize("extension", [".nrrd", ".mha", ".nii", ".nii.gz"])
def test_every_common_format_with_spaces_and_umlauts_in_its_path(tmp_path, extension):
    geometry = Geometry((5, 4, 3), (0.5, 0.5, 5), (-10, 20, 30), (0, -1, 0, 1, 0, 0, 0, 0, 1))
    array = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    path = tmp_path / "größe ü 心" / f"volume of Müller{extension}"
    write_volume(path, Volume(array, geometry))
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, array)
    assert volume.geometry.same_grid(geometry)
    assert read_geometry(path) == volume.geometry
    assert not list(path.parent.glob(".*")), "a temporary file was left behind"


def test_equal_content_gives_equal_files(tmp_path):
    volume = Volume(np.arange(8, dtype=np.int16).reshape(2, 2, 2), Geometry((2, 2, 2)))
    write_volume(tmp_path / "first.nrrd", volume)
    write_volume(tmp_path / "second.nrrd", volume)
    assert (tmp_path / "first.nrrd").read_bytes() == (tmp_path / "second.nrrd").read_bytes()


def test_two_dimensional_image_becomes_one_slice(tmp_path):
    image = sitk.GetImageFromArray(np.arange(12, dtype=np.uint8).reshape(3, 4))
    image.SetSpacing((0.5, 0.25))
    sitk.WriteImage(image, str(tmp_path / "slice.nrrd"))
    volume = read_volume(tmp_path / "slice.nrrd")
    assert volume.array.shape == (1, 3, 4)
    assert volume.geometry.spacing == (0.5, 0.25, 1.0)


def test_fourth_dimension_of_one_is_dropped(tmp_path):
    sitk.WriteImage(sitk.Image([4, 3, 2, 1], sitk.sitkInt16), str(tmp_path / "one.nii.gz"))
    assert read_volume(tmp_path / "one.nii.gz").array.shape == (2, 3, 4)


def _written(path, image):
    sitk.WriteImage(image, str(path))


def _truncated(path, share, compress=True):
    array = np.random.default_rng(0).integers(0, 1000, (20, 20, 20)).astype(np.int16)
    whole = path.with_name("whole" + extension_of(path))
    write_volume(whole, Volume(array, Geometry((20, 20, 20))), compress)
    content = whole.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def _nifti_with(path, offset, layout, *values):
    write_volume(path, Volume(np.zeros((4, 4, 4), np.int16), Geometry((4, 4, 4))))
    content = bytearray(path.read_bytes())
    struct.pack_into(layout, content, offset, *values)
    path.write_bytes(content)


def _nrrd(path, *lines):
    path.write_bytes("\n".join(["NRRD0004", "type: uint8", "dimension: 3", *lines, "", ""]).encode() + bytes(64))


_LPS = "space: left-posterior-superior"

BAD_FILES = {
    "missing.nrrd": (lambda path: None, ErrorCode.MISSING_FILE, "doesn't exist"),
    "folder.nrrd": (lambda path: path.mkdir(), ErrorCode.UNREADABLE_FILE, "is a folder"),
    "empty.nrrd": (lambda path: path.write_bytes(b""), ErrorCode.UNREADABLE_FILE, "format is unknown"),
    "text.nrrd": (lambda path: path.write_text("no image"), ErrorCode.UNREADABLE_FILE, "format is unknown"),
    "cut header.nrrd": (lambda path: _truncated(path, 0.01), ErrorCode.UNREADABLE_FILE, "hit end of header"),
    "cut.nrrd": (lambda path: _truncated(path, 0.5), ErrorCode.UNREADABLE_FILE, "can't be read"),
    "cut raw.nrrd": (lambda path: _truncated(path, 0.5, False), ErrorCode.UNREADABLE_FILE, "can't be read"),
    "cut.nii": (lambda path: _truncated(path, 0.5), ErrorCode.UNREADABLE_FILE, "is damaged"),
    "cut.nii.gz": (lambda path: _truncated(path, 0.5), ErrorCode.UNREADABLE_FILE, "is damaged"),
    "nearly whole.nii.gz": (lambda path: _truncated(path, 0.99), ErrorCode.UNREADABLE_FILE, "is damaged"),
    "cut.mha": (lambda path: _truncated(path, 0.5), ErrorCode.UNREADABLE_FILE, "can't be read"),
    "bomb.nii": (
        lambda path: _nifti_with(path, 40, "<4h", 3, 32767, 32767, 32767),
        ErrorCode.UNREADABLE_FILE,
        "promises 70.4 TB",
    ),
    "bomb.nrrd": (
        lambda path: _nrrd(path, "sizes: 90000 90000 90000", "encoding: gzip"),
        ErrorCode.UNREADABLE_FILE,
        "promises 729 TB",
    ),
    "nowhere.nrrd": (
        lambda path: _nrrd(path, "sizes: 4 4 4", "encoding: raw", "data file: nowhere.raw"),
        ErrorCode.UNREADABLE_FILE,
        "couldn't open",
    ),
    "no spacing.nrrd": (
        lambda path: _nrrd(path, _LPS, "sizes: 4 4 4", "space directions: (0,0,0) (0,1,0) (0,0,1)", "encoding: raw"),
        ErrorCode.BAD_GEOMETRY,
        "direction",
    ),
    "flat.nrrd": (
        lambda path: _nrrd(path, _LPS, "sizes: 4 4 4", "space directions: (1,0,0) (1,0,0) (0,0,1)", "encoding: raw"),
        ErrorCode.BAD_GEOMETRY,
        "lie in one plane",
    ),
    "4d.nrrd": (
        lambda path: _written(path, sitk.Image([4, 4, 4, 3], sitk.sitkInt16)),
        ErrorCode.BAD_IMAGE,
        r"4 dimensions \(4 x 4 x 4 x 3\)",
    ),
    "4d.nii.gz": (
        lambda path: _written(path, sitk.Image([4, 4, 4, 3], sitk.sitkInt16)),
        ErrorCode.BAD_IMAGE,
        "4 dimensions",
    ),
    "color.png": (
        lambda path: _written(path, sitk.Image([8, 8], sitk.sitkVectorUInt8, 3)),
        ErrorCode.BAD_IMAGE,
        "3 values a voxel",
    ),
    "vectors.nrrd": (
        lambda path: _written(path, sitk.Image([8, 8, 8], sitk.sitkVectorFloat32, 3)),
        ErrorCode.BAD_IMAGE,
        "3 values a voxel",
    ),
    "complex.mha": (
        lambda path: _written(path, sitk.Image([8, 8, 8], sitk.sitkComplexFloat32)),
        ErrorCode.BAD_IMAGE,
        "2 values a voxel",
    ),
    "sheared.nii": (
        # sform_code at byte 254, the rows of the sform from byte 280 on
        lambda path: _nifti_with(path, 254, "<h24x12f", 1, 1, 0.3, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0),
        ErrorCode.BAD_GEOMETRY,
        "right angles",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_file_gets_one_sentence_that_names_it(tmp_path, name, capfd):
    make, code, words = BAD_FILES[name]
    make(tmp_path / name)
    with pytest.raises(SemiSupSegError, match=words) as caught:
        read_volume(tmp_path / name)
    assert name in caught.value.message
    assert caught.value.remedy
    assert "\n" not in str(caught.value)
    assert caught.value.code == code
    assert "WARNING" not in capfd.readouterr().err


def test_gzip_of_several_members_is_whole(tmp_path):
    array = np.random.default_rng(0).integers(0, 1000, (20, 20, 20)).astype(np.int16)
    write_volume(tmp_path / "plain.nii", Volume(array, Geometry((20, 20, 20))))
    content = (tmp_path / "plain.nii").read_bytes()
    (tmp_path / "members.nii.gz").write_bytes(gzip.compress(content[:5000]) + gzip.compress(content[5000:]))
    np.testing.assert_array_equal(read_volume(tmp_path / "members.nii.gz").array, array)


def test_unwritable_output_says_so_and_leaves_the_old_file(tmp_path):
    volume = Volume(np.zeros((2, 2, 2), np.uint8), Geometry((2, 2, 2)))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SemiSupSegError) as caught:
        write_volume(tmp_path / "file" / "volume.nrrd", volume)
    assert caught.value.code in (ErrorCode.NOT_WRITABLE, ErrorCode.MISSING_FILE)
    for name in ("volume.unknown", "volume.mhd"):
        with pytest.raises(SemiSupSegError) as caught:
            write_volume(tmp_path / name, volume)
        assert caught.value.code == ErrorCode.NOT_WRITABLE
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_shear_is_kept_in_nrrd_and_refused_in_nifti(tmp_path):
    geometry = Geometry((3, 3, 3), direction=(1, 0.3 / np.hypot(1, 0.3), 0, 0, 1 / np.hypot(1, 0.3), 0, 0, 0, 1))
    volume = Volume(np.zeros((3, 3, 3), np.uint8), geometry)
    write_volume(tmp_path / "sheared.nrrd", volume)
    assert read_geometry(tmp_path / "sheared.nrrd").same_grid(geometry, 1e-12)
    with pytest.raises(VolumeError, match="sheared") as caught:
        write_volume(tmp_path / "sheared.nii.gz", volume)
    assert caught.value.code == ErrorCode.BAD_GEOMETRY


@pytest.mark.parametrize("value, words", [(np.nan, "1 voxels"), (np.inf, "1 voxels"), (0.0, "constant")])
def test_image_that_teaches_nothing_is_named(value, words):
    array = np.zeros((2, 2, 2), np.float32)
    array[0, 1, 0] = value
    with pytest.raises(VolumeError, match=words) as caught:
        check_image(Volume(array, Geometry((2, 2, 2))), "LA_007")
    assert "LA_007" in caught.value.message
    assert caught.value.code == ErrorCode.BAD_IMAGE


# -- images from one grid onto another --------------------------------------------------------------------------------


def test_image_on_the_same_grid_is_unchanged():
    geometry = Geometry((4, 3, 2), (1, 2, 3))
    array = np.random.default_rng(0).normal(size=geometry.shape).astype(np.float32)
    assert resample_image(Volume(array, geometry), geometry).array is array


@settings(max_examples=25, deadline=None)
@given(directions(), spacings)
def test_linear_image_stays_linear_under_any_direction(direction, spacing):
    source = Geometry((12, 11, 10), (1.0, 1.5, 2.0), (5, 6, 7), direction)
    middle = (source.index_to_physical @ [5, 5, 4, 1])[:3]
    target = Geometry((3, 3, 3), (0.3, 0.4, 0.5), middle)
    found = resample_image(Volume(ramp(source).astype(np.float32), source), target).array
    np.testing.assert_allclose(found, ramp(target), atol=1e-3)


def test_image_goes_on_with_its_edge_and_never_with_zeros():
    source = Geometry((5, 5, 5))
    volume = Volume(np.full((5, 5, 5), 7.0, np.float32), source)
    for target in (source.with_spacing(0.4), source.with_spacing(1.7), source.cropped((-2, -2, -2), (9, 9, 9))):
        np.testing.assert_allclose(resample_image(volume, target).array, 7.0, atol=1e-5)


def test_coarser_image_is_smoothed_before_it_is_sampled():
    stripes = np.broadcast_to((np.arange(64) % 2 * 100.0).astype(np.float32), (8, 8, 64)).copy()
    source = Geometry((64, 8, 8))
    coarse = resample_image(Volume(stripes, source), source.with_spacing((4, 1, 1))).array
    assert np.abs(coarse[..., 2:-2] - 50).max() < 2  # sampled as it is, the stripes would alias


def test_one_slice_resamples_in_its_plane():
    source = Geometry((8, 8, 1), (1, 1, 5))
    found = resample_image(Volume(ramp(source).astype(np.float32), source), source.with_spacing((0.5, 0.5, 5)))
    assert found.array.shape == (1, 16, 16)
    assert np.isfinite(found.array).all()


def test_probabilities_keep_their_sum_and_their_edge():
    source = Geometry((6, 7, 5), (2, 2, 3), (1, 2, 3))
    target = Geometry((13, 14, 16), (1, 1, 1), (0.2, 1.3, 1.4))
    array = np.random.default_rng(0).dirichlet([1, 1, 1], source.shape).astype(np.float32).transpose(3, 0, 1, 2)
    found = resample_probabilities(array, source, target)
    assert found.shape == (3, *target.shape)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-5)
    assert resample_probabilities(array, source, source) is array


# -- labels from one grid onto another --------------------------------------------------------------------------------


def test_thin_stroke_survives_a_three_times_coarser_grid():
    labels = np.full((24, 24, 24), IGNORE, np.uint8)
    labels[7, 5, 2:20] = 1
    source = Geometry((24, 24, 24), (0.625,) * 3)
    target = source.with_spacing(2.0)
    found = resample_labels(labels, source, target)
    stroke = np.flatnonzero(found[2, 1] == 1)
    assert (np.diff(stroke) == 1).all()
    assert (found == 1).sum() == len(stroke) == 7
    assert set(np.unique(found)) == {1, IGNORE}


def test_most_votes_win_and_equal_votes_are_not_annotated():
    source = Geometry((4, 2, 2))
    labels = np.full((2, 2, 4), IGNORE, np.uint8)
    labels[0, 0, :2] = 1
    labels[0, 1, 0] = 2
    labels[0, 0, 2], labels[0, 0, 3] = 1, 2
    found = resample_labels(labels, source, source.with_spacing(2.0))
    assert found.tolist() == [[[1, IGNORE]]]


def test_dense_label_has_ties_where_halves_meet():
    labels = np.zeros((2, 2, 6), np.uint8)
    labels[..., 3:] = 1
    source = Geometry((6, 2, 2))
    assert resample_labels(labels, source, source.with_spacing(2.0)).tolist() == [[[0, IGNORE, 1]]]


def test_finer_grid_takes_the_class_around_its_centres():
    labels = np.array([[[0, 1, IGNORE, 2]]], np.uint8)
    source = Geometry((4, 1, 1))
    found = resample_labels(labels, source, source.with_spacing((0.5, 1, 1)))
    assert found.tolist() == [[[0, 0, 1, 1, IGNORE, IGNORE, 2, 2]]]


def test_finer_along_one_axis_and_coarser_along_another():
    labels = np.full((6, 1, 2), IGNORE, np.uint8)
    labels[1, 0, 0] = 3
    source = Geometry((2, 1, 6), (2, 1, 1))
    found = resample_labels(labels, source, source.with_spacing((1, 1, 3)))
    assert found[:, 0].tolist() == [[3, 3, IGNORE, IGNORE], [IGNORE] * 4]


def test_outside_of_the_source_is_not_annotated():
    source = Geometry((2, 2, 2))
    found = resample_labels(np.ones((2, 2, 2), np.uint8), source, source.cropped((-1, 0, 0), (4, 2, 2)))
    assert found[0, 0].tolist() == [IGNORE, 1, 1, IGNORE]


@settings(max_examples=80, deadline=None)
@given(st.data(), geometries, spacings)
def test_class_that_is_alone_never_vanishes(data, source, spacing):
    labels = data.draw(label_array(source.shape, classes=(1,)))
    found = resample_labels(labels, source, source.with_spacing(spacing))
    assert set(np.unique(found)) <= {1, IGNORE}
    assert (found == 1).any() == (labels == 1).any()


@settings(max_examples=60, deadline=None)
@given(st.data(), geometries)
def test_flipped_and_permuted_axes_only_move_labels(data, source):
    labels = data.draw(label_array(source.shape))
    order = data.draw(st.permutations(range(3)))
    flips = data.draw(st.tuples(*(st.booleans(),) * 3))
    moved = labels.transpose(order)[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    axes = [2 - order[2 - axis] for axis in range(3)]  # (i, j, k) of the source that runs along each target axis
    signs = [-1 if flips[2 - axis] else 1 for axis in range(3)]
    start = np.array([0.0, 0.0, 0.0, 1.0])
    for axis, sign in zip(axes, signs, strict=True):
        if sign < 0:
            start[axis] = source.size[axis] - 1
    columns = np.reshape(source.direction, (3, 3))[:, axes] * signs
    target = Geometry(
        [source.size[axis] for axis in axes],
        [source.spacing[axis] for axis in axes],
        (source.index_to_physical @ start)[:3],
        columns.ravel(),
    )
    np.testing.assert_array_equal(resample_labels(labels, source, target), moved)


@settings(max_examples=40, deadline=None)
@given(st.data(), geometries, st.tuples(*(st.floats(1, 4),) * 3), st.booleans())
def test_aligned_and_oblique_ways_agree(data, source, factors, coarser):
    # Not where one axis gets finer and another coarser: the aligned way fills up axis by axis and so knows more.
    target = source.with_spacing(
        np.multiply(source.spacing, factors) if coarser else np.divide(source.spacing, factors)
    )
    labels = data.draw(label_array(source.shape))
    present = np.unique(labels[labels != IGNORE])
    if len(present) and not source.same_grid(target):
        np.testing.assert_array_equal(
            resample_labels(labels, source, target), resampling._splat_oblique(labels, present, source, target)
        )


def test_rotated_grid_keeps_every_voxel_that_is_inside():
    labels = np.full((9, 9, 9), IGNORE, np.uint8)
    labels[4, 2:7, 4] = 1
    labels[4, 4, 7] = 2
    source = Geometry((9, 9, 9), (1, 1, 1), (-4, -4, -4))
    turn = Rotation.from_euler("z", 30, degrees=True).as_matrix()
    target = Geometry((9, 9, 9), (1, 1, 1), turn @ [-4, -4, -4], turn.ravel())
    found = resample_labels(labels, source, target)
    assert (found == 1).sum() >= 5
    assert (found == 2).sum() >= 1
    assert found[4, 4, 4] == 1


def test_labels_of_the_wrong_shape_or_type_are_refused():
    geometry = Geometry((2, 2, 2))
    with pytest.raises(VolumeError, match="don't fit"):
        resample_labels(np.zeros((2, 2, 3), np.uint8), geometry, geometry)
    with pytest.raises(VolumeError, match="int64"):
        resample_labels(np.zeros((2, 2, 2), np.int64), geometry, geometry)
