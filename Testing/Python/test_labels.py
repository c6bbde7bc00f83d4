from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from SemiSupSegLib.errors import CohortError, ErrorCode
from SemiSupSegLib.labels import MAXIMUM_CLASSES, LabelSchema, SegmentClass

names = st.lists(
    st.text(min_size=1, max_size=12).filter(lambda name: name.strip() and name.casefold() != "background"),
    min_size=1,
    max_size=6,
    unique=True,
)


def test_missing_ids_colors_and_values_are_filled_in():
    schema = LabelSchema((SegmentClass("left atrium"), SegmentClass("wall", "Segment_7", (1, 0, 0), "T", 9)))
    first, second = schema.classes
    assert (first.segment_id, first.value) == ("left atrium", 1)
    assert all(0 <= component <= 1 for component in first.color)
    assert (second.segment_id, second.color, second.terminology, second.value) == ("Segment_7", (1, 0, 0), "T", 9)
    assert schema.n_classes == 3
    assert schema.names == ("left atrium", "wall")


def test_painted_background_stands_out_from_gray_scans_and_from_classes():
    schema = LabelSchema.from_names([f"class {number}" for number in range(10)])
    red, green, blue = schema.background.color
    assert max(red, green, blue) - min(red, green, blue) > 0.5
    assert min(math.dist(each.color, schema.background.color) for each in schema.classes) > 0.3


def test_index_is_found_by_name_and_by_id():
    schema = LabelSchema((SegmentClass("kidney", "K"), SegmentClass("tumor", "T")))
    assert [schema.index_of(name) for name in ("background", "Background", "kidney", "T")] == [0, 0, 1, 2]
    with pytest.raises(CohortError, match=r"no class 'liver'.*background, kidney, tumor"):
        schema.index_of("liver")


@given(names)
def test_schema_comes_back_from_json(class_names):
    schema = LabelSchema.from_names(class_names)
    assert LabelSchema.from_json(json.loads(json.dumps(schema.to_json()))) == schema


@pytest.mark.parametrize(
    "classes, words",
    [
        ((), "no class"),
        ((SegmentClass("a"), SegmentClass("a")), "same name: a"),
        ((SegmentClass("a", "1"), SegmentClass("b", "1")), "same segment ID: 1"),
        ((SegmentClass("a", value=2), SegmentClass("b")), "same label value: 2"),
        (tuple(SegmentClass(str(n)) for n in range(MAXIMUM_CLASSES + 1)), "254 classes are too many"),
    ],
)
def test_classes_that_can_not_be_told_apart_are_refused(classes, words):
    with pytest.raises(CohortError, match=words) as caught:
        LabelSchema(classes)
    assert caught.value.code == ErrorCode.BAD_COHORT
    assert caught.value.remedy


@pytest.mark.parametrize("arguments", [{"name": " "}, {"name": "a", "color": (2, 0, 0)}, {"name": "a", "value": 70000}])
def test_impossible_class_is_refused(arguments):
    with pytest.raises(CohortError):
        SegmentClass(**arguments)


@pytest.mark.parametrize(
    "body",
    [
        None,
        {},
        {"classes": 3},
        {"classes": [{}]},
        {"classes": [{"name": "a", "value": "x"}]},
        {"classes": [{"name": "a", "color": [10**400, 0, 0]}]},
    ],
)
def test_text_that_is_no_schema_is_refused(body):
    with pytest.raises(CohortError):
        LabelSchema.from_json(body)


def test_looks_are_given_by_segment_id_and_must_leave_names_unique():
    schema = LabelSchema.from_names(["liver", "tumor"])
    changed = schema.with_looks({"tumor": ("cyst", (0, 1, 0), "a~b"), "Background": ("rest", (1, 1, 1), ""), "x": ()})
    assert changed.names == ("liver", "cyst")
    assert changed.classes[1] == SegmentClass("cyst", "tumor", (0, 1, 0), "a~b", 2)
    assert changed.background == SegmentClass("rest", "Background", (1, 1, 1))
    with pytest.raises(CohortError, match="same name: liver"):
        schema.with_looks({"tumor": ("liver", None, "")})


def test_classes_of_a_model_look_as_the_cohort_has_them_by_name():
    model = LabelSchema.from_names(["tumor", "liver", "spleen"])
    cohort = LabelSchema((SegmentClass("liver", "Segment_7", (0.1, 0.2, 0.3), "T~liver"),))
    tumor, liver, spleen = model.looking_as_in(cohort).classes
    assert (liver.segment_id, liver.color, liver.terminology) == ("Segment_7", (0.1, 0.2, 0.3), "T~liver")
    assert liver.value == 2
    assert (tumor, spleen) == (model.classes[0], model.classes[2])


def test_a_look_that_would_give_two_classes_one_id_is_left():
    model = LabelSchema((SegmentClass("liver", "A"), SegmentClass("tumor", "B")))
    assert model.looking_as_in(LabelSchema((SegmentClass("liver", "B"),))) == model
