"""The classes of a cohort: what the user named and colored, and what comes back on the results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .errors import CohortError

IGNORE = 255
"""Value of a voxel that nobody annotated, in scribbles and labels held in memory (uint8)."""

BEYOND = 254
"""Value of voxels beyond the strokes of background: they are background if every class is one piece."""

MAXIMUM_CLASSES = 253
"""Class indices are uint8, and the values above mean no class."""

_DISTINCT_COLORS = (
    (128, 174, 128), (241, 214, 145), (177, 122, 101), (111, 184, 210), (216, 101, 79),
    (221, 130, 101), (144, 238, 144), (192, 104, 88), (220, 245, 20), (78, 63, 0),
)  # fmt: skip


BACKGROUND_COLOR = (0.25, 0.5, 1.0)
"""Blue, as strokes of background are drawn since GrabCut; a gray one drowns in scans, which are gray."""


@dataclass(frozen=True)
class SegmentClass:
    """One class of a cohort.

    Parameters
    ----------
    name : str
        The segment's name, as the user wrote it; unique within a schema.
    segment_id : str, optional
        The segment's ID in Slicer; the name if not given.
    color : tuple of float, optional
        Red, green, blue in 0..1.
    terminology : str, optional
        Slicer's terminology entry, serialized as in a segment's ``TerminologyEntry`` tag.
    value : int, optional
        Label value on disk in result files; the class index if 0 (not given).
    """

    name: str
    segment_id: str = ""
    color: tuple[float, float, float] | None = None
    terminology: str = ""
    value: int = 0

    def __post_init__(self):
        if not self.name.strip():
            raise CohortError("A class has no name.", "Give every class a name.")
        if self.color is not None:
            object.__setattr__(self, "color", tuple(float(component) for component in self.color))
            if len(self.color) != 3 or not all(0 <= component <= 1 for component in self.color):
                raise CohortError(
                    f"The color of class '{self.name}' is {self.color}.",
                    "Give red, green and blue between 0 and 1.",
                )
        if not 0 <= self.value <= 65535:
            raise CohortError(f"Class '{self.name}' has the label value {self.value}.", "Use a value from 1 to 65535.")


@dataclass(frozen=True)
class LabelSchema:
    """The ordered foreground classes of a cohort; class index = position + 1, 0 is background.

    Parameters
    ----------
    classes : tuple of SegmentClass
        At least one, names, segment IDs and label values unique. What a class left open (segment ID, color, value)
        is filled in.
    background : SegmentClass, optional
        The class that the user paints where there is *nothing*; its segment ID and color come back into the editor,
        never onto results.
    """

    classes: tuple[SegmentClass, ...]
    background: SegmentClass = SegmentClass("background", "Background", BACKGROUND_COLOR)

    def __post_init__(self):
        classes = tuple(
            SegmentClass(
                name=each.name,
                segment_id=each.segment_id or each.name,
                color=each.color or tuple(c / 255 for c in _DISTINCT_COLORS[index % len(_DISTINCT_COLORS)]),
                terminology=each.terminology,
                value=each.value or index + 1,
            )
            for index, each in enumerate(self.classes)
        )
        object.__setattr__(self, "classes", classes)
        if not classes:
            raise CohortError("The cohort has no class to segment.", "Define at least one class.")
        if len(classes) > MAXIMUM_CLASSES:
            raise CohortError(f"{len(classes)} classes are too many.", f"Use at most {MAXIMUM_CLASSES}.")
        for what, values in (
            ("name", [each.name for each in (*classes, self.background)]),
            ("segment ID", [each.segment_id for each in (*classes, self.background)]),
            ("label value", [each.value for each in classes]),
        ):
            twice = sorted({str(value) for value in values if values.count(value) > 1})
            if twice:
                raise CohortError(
                    f"Two classes have the same {what}: {', '.join(twice)}.", f"Make every {what} unique."
                )

    @property
    def n_classes(self) -> int:
        """Number of classes including the background: the number of channels a network predicts."""
        return len(self.classes) + 1

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the foreground classes, in the order of their class indices 1, 2, …"""
        return tuple(each.name for each in self.classes)

    def index_of(self, name: str) -> int:
        """Class index of a class by name (or segment ID); 0 for the background's."""
        if name in (self.background.name, self.background.segment_id) or name.casefold() == "background":
            return 0
        for index, each in enumerate(self.classes, start=1):
            if name in (each.name, each.segment_id):
                return index
        raise CohortError(f"There is no class '{name}'.", f"The classes are: background, {', '.join(self.names)}.")

    def with_looks(self, looks: Mapping[str, tuple[str, tuple[float, float, float] | None, str]]) -> LabelSchema:
        """The same classes, background included, with name, color and terminology as given by segment ID."""

        def looking(each: SegmentClass) -> SegmentClass:
            name, color, terminology = looks.get(each.segment_id, (each.name, each.color, each.terminology))
            return replace(each, name=name, color=color, terminology=terminology)

        return LabelSchema(tuple(map(looking, self.classes)), looking(self.background))

    def looking_as_in(self, other: LabelSchema) -> LabelSchema:
        """The same classes; those that another schema has by name take their IDs, colors and terminology there."""
        known = {each.name: each for each in other.classes}
        classes = tuple(
            replace(each, segment_id=same.segment_id, color=same.color, terminology=same.terminology)
            if (same := known.get(each.name)) is not None
            else each
            for each in self.classes
        )
        ids = [each.segment_id for each in classes]
        return replace(self, classes=classes) if len(set(ids)) == len(ids) else self

    @classmethod
    def from_names(cls, names: Iterable[str]) -> LabelSchema:
        """A schema of named classes with default colors and values 1, 2, …

        Examples
        --------
        >>> LabelSchema.from_names(["kidney", "tumor"]).n_classes
        3
        """
        return cls(tuple(SegmentClass(name) for name in names))

    def to_json(self) -> dict[str, Any]:
        """The schema as it stands in ``cohort.json`` and ``model.json``."""
        return {
            "background": _class_to_json(self.background),
            "classes": [_class_to_json(each) for each in self.classes],
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> LabelSchema:
        """The schema read back; raises `CohortError` where the text isn't one."""
        try:
            classes = tuple(_class_from_json(each) for each in body["classes"])
            background = _class_from_json(body["background"]) if "background" in body else cls.background
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise CohortError("The list of classes can't be read.", "Create the cohort again.") from error
        return cls(classes, background)


def _class_to_json(each: SegmentClass) -> dict[str, Any]:
    return {
        "name": each.name,
        "segment_id": each.segment_id,
        "color": None if each.color is None else list(each.color),
        "terminology": each.terminology,
        "value": each.value,
    }


def _class_from_json(body: Mapping[str, Any]) -> SegmentClass:
    color = body.get("color")
    return SegmentClass(
        name=str(body["name"]),
        segment_id=str(body.get("segment_id", "")),
        color=None if color is None else tuple(float(component) for component in color),
        terminology=str(body.get("terminology", "")),
        value=int(body.get("value", 0)),
    )
