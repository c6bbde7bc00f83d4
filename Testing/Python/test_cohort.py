from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from SemiSupSegLib.class_values import parse_values
from SemiSupSegLib.cohort import AnnotationFile, Case, Cohort, Role
from SemiSupSegLib.cohort_creation import create_cohort
from SemiSupSegLib.cohort_lint import lint_cohort
from SemiSupSegLib.errors import CohortError, ErrorCode, SemiSupSegError, VolumeError
from SemiSupSegLib.file_pairing import natural_key
from SemiSupSegLib.labels import IGNORE, LabelSchema, SegmentClass
from SemiSupSegLib.segmentation_file import write_segmentation
from SemiSupSegLib.volume import Geometry, Volume, write_volume

GRID = Geometry((12, 11, 10), (1, 1, 2), (5, 6, 7))
SCRIBBLE_VALUES = "background=1,left atrium=2"


def put_image(path: Path, geometry: Geometry = GRID, array: np.ndarray | None = None) -> Path:
    if array is None:
        array = np.random.default_rng(len(path.name)).integers(0, 1000, geometry.shape).astype(np.int16)
    write_volume(path, Volume(array, geometry))
    return path


def put_map(path: Path, boxes: dict[int, tuple[slice, ...]], geometry: Geometry = GRID) -> Path:
    array = np.zeros(geometry.shape, np.uint8)
    for value, box in boxes.items():
        array[box] = value
    write_volume(path, Volume(array, geometry))
    return path


LABEL = {1: np.s_[3:7, 3:8, 3:8]}
SCRIBBLE = {1: np.s_[5, 1, :], 2: np.s_[5, 5, 4:7]}


@pytest.fixture
def folder(tmp_path) -> Path:
    """Four scans: dense labels of all, scribbles on two; a space and an umlaut in the path."""
    folder = tmp_path / "atria of Müller"
    for number in (1, 2, 3, 10):
        put_image(folder / "images" / f"LA_{number}.nrrd")
        put_map(folder / "labels" / f"LA_{number}_label.nrrd", LABEL)
    for number in (1, 2):
        put_map(folder / "scribbles" / f"LA_{number}_scribble.nrrd", SCRIBBLE)
    return folder


@pytest.fixture
def cohort(folder) -> Cohort:
    return create_cohort(
        folder / "images",
        folder / "labels",
        folder / "scribbles",
        SCRIBBLE_VALUES,
        labeled=["LA_1", "LA_3"],
        test=["LA_10"],
    )


# -- pairing ----------------------------------------------------------------------------------------------------------


def test_files_pair_by_their_names_in_natural_order(cohort, folder):
    assert [case.id for case in cohort.cases] == ["LA_1", "LA_2", "LA_3", "LA_10"]
    assert [case.annotated for case in cohort.cases] == [True, False, True, False]
    assert [case.role for case in cohort.cases] == [Role.TRAIN] * 3 + [Role.TEST]
    first = cohort.case("LA_1")
    assert first.label == AnnotationFile(folder / "labels/LA_1_label.nrrd", {"left atrium": 1})
    assert first.scribble == AnnotationFile(
        folder / "scribbles/LA_1_scribble.nrrd", {"background": 1, "left atrium": 2}
    )
    assert cohort.schema.names == ("left atrium",)


@pytest.mark.parametrize(
    "image, label",
    [
        ("a.nrrd", "a.nrrd"),
        ("a.nii.gz", "a_label.mha"),
        ("a.mha", "a_seg.nii.gz"),
        ("a.b.nrrd", "a.b_segmentation.nrrd"),
        ("a_0000.nii.gz", "a.nii.gz"),
        ("a_0000.nii.gz", "a_0000_gt.nrrd"),
        ("a b ü.nrrd", "a b ü labels.nii"),
        ("a_t1c.nrrd", "a_label.nrrd"),
        ("mask.nrrd", "mask_mask.nrrd"),
    ],
)
def test_names_that_belong_together(tmp_path, image, label):
    put_image(tmp_path / "images" / image)
    put_map(tmp_path / "labels" / label, LABEL)
    cohort = create_cohort(tmp_path / "images", tmp_path / "labels")
    assert cohort.cases[0].label.path.name == label
    assert cohort.schema.names == ("class 1",)


@pytest.mark.parametrize(
    "images, labels, words",
    [
        (["a.nrrd"], ["b_label.nrrd"], "'b_label.nrrd' belongs to no image: there is none named 'b'"),
        (["a.nrrd"], ["a_label.nrrd", "a.nii.gz"], "Two label files belong to case 'a'"),
        (["a_t1.nrrd", "a_t2.nrrd"], ["a_label.nrrd"], "could belong to 2 images: 'a_t1', 'a_t2'"),
        (["a.nrrd", "a.nii.gz"], [], "Two images belong to case 'a'"),
        (["a_0000.nrrd", "a_0001.nrrd"], [], "Two images belong to case 'a'"),
        ([], ["a.nrrd"], "There are no images"),
    ],
)
def test_name_that_pairs_with_nothing_or_with_two_is_an_error(tmp_path, images, labels, words):
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    for name in images:
        put_image(tmp_path / "images" / name)
    for name in labels:
        put_map(tmp_path / "labels" / name, LABEL)
    with pytest.raises(CohortError, match=words) as caught:
        create_cohort(tmp_path / "images", tmp_path / "labels")
    assert caught.value.remedy


def test_pattern_and_list_choose_among_several_images(tmp_path):
    for name in ("p1_t1c.nrrd", "p1_flair.nrrd", "p2_t1c.nrrd", "p2_flair.nrrd"):
        put_image(tmp_path / "images" / name)
    for name in ("p1_label.nrrd", "p2_label.nrrd"):
        put_map(tmp_path / "labels" / name, LABEL)
    by_pattern = create_cohort(tmp_path / "images" / "*_t1c.nrrd", tmp_path / "labels")
    by_list = create_cohort([tmp_path / "images/p2_t1c.nrrd", tmp_path / "images/p1_t1c.nrrd"], tmp_path / "labels")
    assert by_pattern == by_list
    assert [case.id for case in by_pattern.cases] == ["p1_t1c", "p2_t1c"]


def test_one_folder_may_hold_everything(tmp_path):
    put_image(tmp_path / "a.nrrd")
    put_map(tmp_path / "a_label.nrrd", LABEL)
    put_map(tmp_path / "a_scribble.nrrd", SCRIBBLE)
    (tmp_path / "readme.txt").write_text("no image")
    case = create_cohort(tmp_path, tmp_path, tmp_path, SCRIBBLE_VALUES).case("a")
    assert (case.label.path.name, case.scribble.path.name) == ("a_label.nrrd", "a_scribble.nrrd")


def test_natural_order_takes_any_mixture_of_letters_and_digits():
    names = ["b2", "b10", "10", "a", "2x", "b", "B3"]
    assert sorted(names, key=natural_key) == ["2x", "10", "a", "b", "b2", "B3", "b10"]


# -- values and classes -----------------------------------------------------------------------------------------------


def test_values_are_parsed_with_spaces_in_names():
    assert parse_values(" background = 1 , left atrium=2") == {"background": 1, "left atrium": 2}
    assert parse_values({"a": 3}) == {"a": 3}


@pytest.mark.parametrize("text", ["", "a", "a=", "=1", "a=b", "a=-1", "a=70000", "a=1,a=2", "a=1,b=1", "a=1,,b=2"])
def test_values_that_are_none_are_refused(text):
    with pytest.raises(CohortError):
        parse_values(text)


def test_classes_stand_in_the_order_of_their_values_and_keep_them(folder):
    put_map(folder / "labels/LA_1_label.nrrd", {5: np.s_[0], 2: np.s_[1]})
    cohort = create_cohort(folder / "images", folder / "labels", label_values="wall=5,left atrium=2,old=1,background=0")
    assert cohort.schema.names == ("old", "left atrium", "wall")
    assert [each.value for each in cohort.schema.classes] == [1, 2, 5]
    assert set(np.unique(cohort.read_label(cohort.case("LA_1")))) == {0, 2, 3}


def test_scribbles_without_values_are_an_error_that_shows_them(folder):
    with pytest.raises(CohortError, match=r"hold the values 1, 2.*\"background=1,left atrium=2\""):
        create_cohort(folder / "images", folder / "labels", folder / "scribbles", label_values="left atrium=1")


@pytest.mark.parametrize("kind", ["label", "scribble"])
def test_files_of_a_kind_that_are_all_empty_are_an_error_that_says_so(folder, kind):
    for file in (folder / f"{kind}s").iterdir():
        file.unlink()
    put_map(folder / f"{kind}s" / f"LA_1_{kind}.nrrd", {})
    values = {"scribble_values": SCRIBBLE_VALUES} if kind == "label" else {}
    with pytest.raises(CohortError, match=f"The {kind}s are all empty"):
        create_cohort(folder / "images", folder / "labels", folder / "scribbles", **values)


def test_labels_that_do_not_fit_the_classes_of_the_scribbles_are_an_error_that_shows_their_values(folder):
    put_map(folder / "labels/LA_2_label.nrrd", {7: np.s_[0]})
    with pytest.raises(CohortError, match="hold the values 1, 7, and the classes are left atrium"):
        create_cohort(folder / "images", folder / "labels", folder / "scribbles", SCRIBBLE_VALUES)


def test_label_and_scribble_values_name_the_same_classes(folder):
    with pytest.raises(CohortError, match="don't name the same classes: atrium, left atrium"):
        create_cohort(
            folder / "images", folder / "labels", folder / "scribbles", SCRIBBLE_VALUES, label_values="atrium=1"
        )


def test_images_alone_have_no_classes(folder):
    with pytest.raises(CohortError, match="Nothing says which classes"):
        create_cohort(folder / "images")


def test_segmentations_bring_their_own_classes_and_mix_with_label_maps(folder):
    schema = LabelSchema((SegmentClass("wall", "W", (1, 0, 0), "T"), SegmentClass("left atrium", "LA", (0, 1, 0), "U")))
    labels = np.full(GRID.shape, IGNORE, np.uint8)
    labels[4, 4, 4], labels[5, 5, 5], labels[0, 0] = 1, 2, 0
    for path in (folder / "scribbles").iterdir():
        path.unlink()
    write_segmentation(folder / "scribbles/LA_2_scribble.seg.nrrd", labels, GRID, schema)
    own = create_cohort(folder / "images", scribbles=folder / "scribbles")
    assert [(each.name, each.segment_id, each.color, each.terminology) for each in own.schema.classes] == [
        ("wall", "W", (1, 0, 0), "T"),
        ("left atrium", "LA", (0, 1, 0), "U"),
    ]
    np.testing.assert_array_equal(own.read_scribble(own.case("LA_2")), labels)

    mixed = create_cohort(
        folder / "images", folder / "labels", folder / "scribbles", label_values="left atrium=1,wall=2"
    )
    assert [(each.name, each.segment_id) for each in mixed.schema.classes] == [("left atrium", "LA"), ("wall", "W")]
    assert mixed.read_scribble(mixed.case("LA_2"))[4, 4, 4] == 2


# -- roles ------------------------------------------------------------------------------------------------------------


def test_without_names_every_annotated_case_is_labeled(folder):
    (folder / "labels/LA_3_label.nrrd").unlink()
    cohort = create_cohort(folder / "images", folder / "labels", folder / "scribbles", SCRIBBLE_VALUES)
    assert [case.annotated for case in cohort.cases] == [True, True, False, True]


@pytest.mark.parametrize("labeled", [None, ["LA_1"]])
def test_strokes_that_a_case_gets_later_train(folder, labeled):
    found = create_cohort(folder / "images", None, folder / "scribbles", SCRIBBLE_VALUES, labeled=labeled)
    bare = found.case("LA_3")
    assert not bare.annotated
    assert replace(bare, scribble=found.case("LA_1").scribble).annotated
    assert found.case("LA_2").annotated == (labeled is None), "kept for evaluation where others were named"


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"labeled": ["LA_01"]}, "no case 'LA_01'.*Did you mean LA_1"),
        ({"validation": ["x"]}, "no case 'x'"),
        ({"test": ["LA_100"]}, "Did you mean LA_10"),
        ({"labeled": ["LA_1"], "test": ["LA_1"]}, "to train with its annotation and to be a test case"),
        ({"validation": ["LA_1"], "test": ["LA_1"]}, "validation case and a test case"),
    ],
)
def test_ids_that_are_unknown_or_named_twice_are_errors(folder, arguments, words):
    with pytest.raises(CohortError, match=words):
        create_cohort(folder / "images", folder / "labels", folder / "scribbles", SCRIBBLE_VALUES, **arguments)


def test_validation_needs_a_dense_label_and_test_does_not(folder):
    (folder / "labels/LA_10_label.nrrd").unlink()
    arguments = (folder / "images", folder / "labels", folder / "scribbles", SCRIBBLE_VALUES)
    with pytest.raises(CohortError, match="validation case 'LA_10' has no dense label"):
        create_cohort(*arguments, validation=["LA_10"])
    assert create_cohort(*arguments, test=["LA_10"]).case("LA_10").label is None
    with pytest.raises(CohortError, match="'LA_10' is to train with its annotation, but has none") as caught:
        create_cohort(*arguments, labeled=["LA_10"])
    assert caught.value.code == ErrorCode.NO_ANNOTATION


def test_only_labeled_training_cases_give_annotations_to_training(cohort):
    scribbled, kept, dense, test = cohort.cases
    assert (cohort.read_training_annotation(scribbled) == IGNORE).any()
    assert not (cohort.read_training_annotation(scribbled, "dense") == IGNORE).any()
    assert not (cohort.read_training_annotation(dense, "scribbles") == IGNORE).any()
    assert cohort.read_training_annotation(kept) is None
    assert cohort.read_training_annotation(replace(test, labeled=True)) is None
    with pytest.raises(ValueError, match="prefer"):
        cohort.read_training_annotation(dense, "both")


# -- the file ---------------------------------------------------------------------------------------------------------


def test_cohort_comes_back_from_its_file_with_relative_paths(cohort, folder):
    saved = cohort.save(folder / "cohort.json")
    assert Cohort.load(folder / "cohort.json") == saved
    body = json.loads((folder / "cohort.json").read_text())
    assert body["schema_version"] == 1
    assert body["cases"][0]["image"] == "images/LA_1.nrrd"


def test_cohort_moves_with_its_folder_and_keeps_its_fingerprint(cohort, folder):
    saved = cohort.save(folder / "cohort.json")
    moved = folder.with_name("elsewhere")
    shutil.copytree(folder, moved)
    shutil.rmtree(folder)
    for path in moved.rglob("*.nrrd"):
        os.utime(path, (0, 0))
    found = Cohort.load(moved / "cohort.json")
    assert found.case("LA_1").image == moved / "images/LA_1.nrrd"
    assert found.read_label(found.case("LA_1")).any()
    assert saved.fingerprint() != found.fingerprint(), "its files are gone"
    shutil.copytree(moved, folder)
    assert saved.fingerprint() == found.fingerprint()


def test_fingerprint_changes_with_everything_that_decides_training(cohort, folder):
    before = cohort.fingerprint()
    case = cohort.case("LA_1")
    assert cohort.with_case(replace(case, role=Role.TEST)).fingerprint() != before
    assert cohort.with_case(replace(case, labeled=False)).fingerprint() != before
    assert cohort.with_case(replace(case, scribble=None)).fingerprint() != before
    assert cohort.with_case(replace(case, proposals=case.scribble)).fingerprint() != before
    assert cohort.without_case("LA_2").fingerprint() != before
    assert replace(cohort, name="another").fingerprint() == before
    put_map(folder / "scribbles/LA_1_scribble.nrrd", SCRIBBLE | {2: np.s_[5, 5, 4:8]})
    assert cohort.fingerprint() != before


def test_fingerprint_of_a_large_file_sees_an_edit_in_a_compressed_one(tmp_path, monkeypatch):
    from SemiSupSegLib import cohort as module

    monkeypatch.setattr(module, "_HASHED_WHOLE", 10)
    monkeypatch.setattr(module, "_SAMPLE_BYTES", 64)
    array = np.random.default_rng(0).integers(0, 1000, (40, 40, 40)).astype(np.int16)
    geometry = Geometry((40, 40, 40))
    write_volume(tmp_path / "a.nrrd", Volume(array, geometry))
    before = module.content_digest(tmp_path / "a.nrrd")
    assert before == module.content_digest(tmp_path / "a.nrrd")
    array[20, 20, 20] += 1
    write_volume(tmp_path / "a.nrrd", Volume(array, geometry))
    assert module.content_digest(tmp_path / "a.nrrd") != before


def test_unknown_case_names_its_neighbours(cohort):
    with pytest.raises(CohortError, match=r"no case 'LA_11'.*LA_1"):
        cohort.case("LA_11")


def test_cases_are_added_replaced_and_removed_without_changing_the_cohort(cohort):
    new = Case("new", Path("new.nrrd"))
    assert [case.id for case in cohort.with_case(new).cases][-1] == "new"
    assert cohort.with_case(replace(new, id="LA_2")).cases[1].image == Path("new.nrrd")
    assert [case.id for case in cohort.without_case("LA_2").cases] == ["LA_1", "LA_3", "LA_10"]
    assert len(cohort.cases) == 4


@pytest.mark.parametrize(
    "text, code, words",
    [
        ("{", ErrorCode.UNREADABLE_FILE, "isn't valid JSON"),
        ("[]", ErrorCode.BAD_COHORT, "isn't a cohort"),
        ('{"cases": []}', ErrorCode.BAD_COHORT, "version"),
        ('{"schema_version": 99, "cases": []}', ErrorCode.BAD_COHORT, "newer version"),
        ('{"schema_version": 1, "cases": []}', ErrorCode.BAD_COHORT, "classes"),
        (
            '{"schema_version": 1, "label_schema": {"classes": [{"name": "a"}]}, "cases": [{"id": "x"}]}',
            ErrorCode.BAD_COHORT,
            "A case",
        ),
        (
            '{"schema_version": 1, "label_schema": {"classes": [{"name": "a"}]},'
            ' "cases": [{"id": "x", "image": "x.nrrd", "role": "boss"}]}',
            ErrorCode.BAD_COHORT,
            "role 'boss'",
        ),
        (
            '{"schema_version": 1, "label_schema": {"classes": [{"name": "a"}]},'
            ' "cases": [{"id": "x", "image": "x\\u0000.nrrd"}]}',
            ErrorCode.BAD_COHORT,
            "can't be read",
        ),
        (
            '{"schema_version": 1, "label_schema": {"classes": [{"name": "a"}]},'
            ' "cases": [{"id": "x", "image": "x\\ud800.nrrd"}]}',
            ErrorCode.BAD_COHORT,
            "can't be read",
        ),
    ],
)
def test_file_that_is_no_cohort_is_refused(tmp_path, text, code, words):
    (tmp_path / "cohort.json").write_text(text)
    with pytest.raises(SemiSupSegError, match=words) as caught:
        Cohort.load(tmp_path / "cohort.json")
    assert caught.value.code == code


def test_missing_cohort_is_named(tmp_path):
    with pytest.raises(SemiSupSegError, match=r"nowhere\.json") as caught:
        Cohort.load(tmp_path / "nowhere.json")
    assert caught.value.code == ErrorCode.MISSING_FILE


def test_unwritable_cohort_says_so(cohort, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SemiSupSegError, match="Can't write"):
        cohort.save(tmp_path / "file" / "cohort.json")
    with pytest.raises(CohortError, match="no file yet"):
        cohort.save()


@pytest.mark.parametrize("case_id", ["CON", "aux.nii", "", "a/b", "..", "a:b", "a\nb"])
def test_id_that_can_not_be_a_file_name_is_refused(case_id):
    with pytest.raises(CohortError, match="ID"):
        Case(case_id, Path("a.nrrd"))


def test_ids_are_unique_also_where_case_does_not_count():
    schema = LabelSchema.from_names(["a"])
    with pytest.raises(CohortError, match="'a' and 'A'"):
        Cohort(schema, (Case("a", Path("1.nrrd")), Case("A", Path("2.nrrd"))))
    twice = Case("a", Path("1.nrrd"))
    with pytest.raises(CohortError, match="'a' and 'a'"):
        Cohort(schema, (twice, twice))


# -- annotations on other grids ---------------------------------------------------------------------------------------


def test_annotation_on_another_grid_is_resampled_by_physical_coordinates(cohort, folder):
    fine = GRID.with_spacing((0.5, 0.5, 1))
    array = np.zeros(fine.shape, np.uint8)
    array[10, 10, 8:14], array[2, 2, :] = 2, 1
    write_volume(folder / "scribbles/LA_1_scribble.nrrd", Volume(array, fine))
    scribble = cohort.read_scribble(cohort.case("LA_1"))
    assert scribble.shape == GRID.shape
    assert np.argwhere(scribble == 1).tolist() == [[5, 5, 4], [5, 5, 5], [5, 5, 6]]
    assert (scribble[1, 1] == 0).all()


def test_cropped_segmentation_is_background_outside_and_a_cropped_label_map_is_not(cohort, folder):
    part = GRID.cropped((3, 3, 3), (5, 5, 4))
    labels = np.ones(part.shape, np.uint8)
    path = folder / "labels/LA_1.seg.nrrd"
    write_segmentation(path, labels, part, cohort.schema)
    case = replace(cohort.case("LA_1"), label=AnnotationFile(path))
    expected = np.zeros(GRID.shape, np.uint8)
    expected[LABEL[1]] = 1
    np.testing.assert_array_equal(cohort.read_label(case), expected)

    write_volume(folder / "labels/part.nrrd", Volume(labels, part))
    case = replace(case, label=AnnotationFile(folder / "labels/part.nrrd", {"left atrium": 1}))
    found = cohort.read_label(case)
    assert (found[LABEL[1]] == 1).all()
    assert (found == IGNORE).sum() == found.size - labels.size


@pytest.mark.parametrize("kind", ["label", "scribble"])
def test_annotation_outside_its_image_names_both_files(cohort, folder, kind):
    elsewhere = replace(GRID, origin=(500, 0, 0))
    put_map(folder / f"{kind}s" / f"LA_1_{kind}.nrrd", LABEL if kind == "label" else SCRIBBLE, elsewhere)
    with pytest.raises(VolumeError, match="outside its image") as caught:
        getattr(cohort, f"read_{kind}")(cohort.case("LA_1"))
    assert caught.value.code == ErrorCode.BAD_GEOMETRY
    assert f"LA_1_{kind}.nrrd" in caught.value.message
    assert "LA_1.nrrd" in caught.value.message


def test_case_without_annotation_says_so(cohort):
    with pytest.raises(CohortError, match="'LA_3' has no scribble") as caught:
        cohort.read_scribble(cohort.case("LA_3"))
    assert caught.value.code == ErrorCode.NO_ANNOTATION


# -- lint -------------------------------------------------------------------------------------------------------------


def findings_of(cohort: Cohort, case_id: str = "LA_1") -> str:
    return "\n".join(
        f"{each.severity}: {each.message} {each.remedy}" for each in lint_cohort(cohort) if each.case_id == case_id
    )


def test_sound_cohort_has_no_errors_and_progress_is_told(cohort):
    told = []
    findings = lint_cohort(cohort, lambda fraction, text: told.append(fraction))
    assert not [finding for finding in findings if finding.severity == "error"]
    assert told == sorted(told)
    assert told[-1] == 1
    assert all(finding.remedy for finding in findings)


def _one_slice(folder):
    put_image(folder / "images/LA_1.nrrd", Geometry((32, 32, 1)))
    put_map(folder / "scribbles/LA_1_scribble.nrrd", {1: np.s_[0, 1], 2: np.s_[0, 9]}, Geometry((32, 32, 1)))


def _color(folder):
    image = sitk.Image([12, 11, 10], sitk.sitkVectorUInt8, 3)
    sitk.WriteImage(image, str(folder / "images/LA_1.nrrd"))


def _with_voxel(value):
    def change(folder):
        array = np.ones(GRID.shape, np.float32)
        array[1, 1, 1] = value
        put_image(folder / "images/LA_1.nrrd", array=array)

    return change


LINT = {
    "missing image": (lambda folder: (folder / "images/LA_1.nrrd").unlink(), "error: .*LA_1.nrrd' doesn't exist"),
    "missing scribble": (
        lambda folder: (folder / "scribbles/LA_1_scribble.nrrd").unlink(),
        "error: .*LA_1_scribble.nrrd' doesn't exist",
    ),
    "no annotated voxel": (
        lambda folder: put_map(folder / "scribbles/LA_1_scribble.nrrd", {}),
        "error: The scribble 'LA_1_scribble.nrrd' has no annotated voxel",
    ),
    "one class only": (
        lambda folder: put_map(folder / "scribbles/LA_1_scribble.nrrd", {2: np.s_[5, 5]}),
        "warning: The scribble holds one class only: left atrium",
    ),
    "a label without foreground": (
        lambda folder: put_map(folder / "labels/LA_1_label.nrrd", {}),
        "warning: The label holds nothing but background. If the scan shows none of the classes, all is well",
    ),
    "no background": (
        lambda folder: put_map(folder / "scribbles/LA_1_scribble.nrrd", {2: np.s_[5, 5]}),
        "warning: No background is painted",
    ),
    "unknown value": (
        lambda folder: put_map(folder / "scribbles/LA_1_scribble.nrrd", {3: np.s_[5, 5]}),
        "error: .*holds the value 3",
    ),
    "background near by": (
        lambda folder: put_map(folder / "scribbles/LA_1_scribble.nrrd", {1: np.s_[5, 4:7, 3:8], 2: np.s_[5, 5, 4:7]}),
        "warning: All background strokes are near the structure",
    ),
    "background on one side": (
        lambda folder: put_map(folder / "scribbles/LA_1_scribble.nrrd", {1: np.s_[0:9, 1, :], 2: np.s_[5, 5, 4:7]}),
        "warning: Background is painted on one side",
    ),
    "another grid": (
        lambda folder: put_map(folder / "scribbles/LA_1_scribble.nrrd", SCRIBBLE, replace(GRID, origin=(6, 6, 7))),
        "warning: The scribble has another grid",
    ),
    "partly outside": (
        lambda folder: put_map(folder / "scribbles/LA_1_scribble.nrrd", SCRIBBLE, replace(GRID, origin=(11, 6, 7))),
        "warning: .*of the scribble lies outside",
    ),
    "outside": (
        lambda folder: put_map(folder / "scribbles/LA_1_scribble.nrrd", SCRIBBLE, replace(GRID, origin=(1e4, 6, 7))),
        "error: .*lies outside its image",
    ),
    "NaN": (_with_voxel(np.nan), "error: .*aren't numbers"),
    "constant": (_with_voxel(1.0), "error: .*is constant"),
    "color": (_color, "error: .*3 values a voxel"),
    "one slice": (_one_slice, "warning: The image has one slice. It is trained in 2D"),
    "anisotropic": (
        lambda folder: put_image(folder / "images/LA_1.nrrd", replace(GRID, spacing=(0.5, 0.5, 5))),
        "warning: The voxels are long: 0.5 x 0.5 x 5 mm",
    ),
    "spacing in metres": (
        lambda folder: put_image(folder / "images/LA_1.nrrd", replace(GRID, spacing=(0.001, 0.001, 0.002))),
        "warning: The spacing of 0.001 x 0.001 x 0.002 mm",
    ),
    "spacing enormous": (
        lambda folder: put_image(folder / "images/LA_1.nrrd", replace(GRID, spacing=(1e6, 1e6, 1e6))),
        r"warning: The spacing of 1e\+06",
    ),
    "few voxels": (
        lambda folder: put_image(folder / "images/LA_1.nrrd", Geometry((5, 5, 5), origin=GRID.origin)),
        "warning: The image has only 5 x 5 x 5 voxels",
    ),
}


@pytest.mark.parametrize("name", LINT)
def test_lint_finds(cohort, folder, name):
    import re

    change, words = LINT[name]
    change(folder)
    assert re.search(words, findings_of(cohort)), findings_of(cohort)


def test_lint_misses_classes_and_annotations_of_the_whole_cohort(cohort):
    wider = replace(cohort, schema=LabelSchema.from_names(["left atrium", "wall"]))
    assert "error: No training case shows wall" in findings_of(wider, "")
    assert "warning: The scribbles lack wall" in findings_of(wider)
    nobody = replace(cohort, cases=tuple(replace(case, labeled=False) for case in cohort.cases))
    assert "error: No training case has an annotation" in findings_of(nobody, "")


def test_lint_finds_a_scan_that_trains_and_tests(cohort, folder):
    shutil.copy(folder / "images/LA_1.nrrd", folder / "images/LA_10.nrrd")
    assert "error: The image is the same as that of case 'LA_1' (train)" in findings_of(cohort, "LA_10")
