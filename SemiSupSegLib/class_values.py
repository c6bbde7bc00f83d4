"""Which classes a cohort has, and which values they have in its files: from what is given and what the files say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from .errors import CohortError, ErrorCode
from .labels import IGNORE, LabelSchema, SegmentClass
from .segmentation_file import Segment, listed, read_segments, values_in
from .volume import extension_of, read_volume

OnProgress = Callable[[float, str], None]
"""Called with a fraction 0..1 and a few words for people."""


def parse_values(text: str | Mapping[str, int]) -> dict[str, int]:
    """Read ``"background=1,left atrium=2"`` as class names and the values they have in a file.

    Raises
    ------
    CohortError
        If it isn't a list of ``name=value``, or a name or value occurs twice.

    Examples
    --------
    >>> parse_values("background=1, left atrium=2")
    {'background': 1, 'left atrium': 2}
    """
    remedy = 'Write name=value, separated by commas: "background=1,left atrium=2".'
    pairs = list(text.items()) if isinstance(text, Mapping) else [part.rpartition("=")[::2] for part in text.split(",")]
    values: dict[str, int] = {}
    for name, value in pairs:
        name = name.strip()
        try:
            number = int(value)
        except (TypeError, ValueError):
            part = f"{name}={value}" if name else value
            raise CohortError(f"'{part}' doesn't give a class its value.", remedy) from None
        if not name or not 0 <= number <= 65535:
            raise CohortError(f"'{name}={value}' isn't a class name with a value from 0 to 65535.", remedy)
        if name in values or number in values.values():
            raise CohortError(f"'{name}={number}' names a class or a value for the second time.", remedy)
        values[name] = number
    return values


@dataclass(frozen=True)
class AnnotationNote:
    """What a look at an annotation file told: its segments, if it names any."""

    path: Path
    segments: tuple[Segment, ...]

    def values(self) -> set[int]:
        """The values of a label map that mean a class."""
        return set(values_in(read_volume(self.path).array, self.path)) - {0, IGNORE}


def look_at(
    label_of: Mapping[str, Path], scribble_of: Mapping[str, Path], on_progress: OnProgress
) -> tuple[dict[str, AnnotationNote], dict[str, AnnotationNote]]:
    """Look at all annotation files: at their headers only, so this is fast.

    Parameters
    ----------
    label_of, scribble_of : mapping of str to Path
        Annotation files by case ID.
    on_progress : callable

    Returns
    -------
    labels, scribbles : dict of str to AnnotationNote
        What was found, by case ID.
    """
    notes: tuple[dict[str, AnnotationNote], dict[str, AnnotationNote]] = ({}, {})
    files = [(notes[0], item) for item in label_of.items()] + [(notes[1], item) for item in scribble_of.items()]
    for index, (into, (case_id, path)) in enumerate(files):
        on_progress(index / len(files), path.name)
        into[case_id] = AnnotationNote(
            path, read_segments(path) if extension_of(path).lower().endswith(".nrrd") else ()
        )
    on_progress(1.0, "")
    return notes


def find_classes(
    labels: Mapping[str, AnnotationNote],
    scribbles: Mapping[str, AnnotationNote],
    label_values: dict[str, int] | None,
    scribble_values: dict[str, int] | None,
) -> tuple[LabelSchema, dict[str, int] | None, dict[str, int] | None]:
    """The classes of a cohort and their values in its label maps.

    Parameters
    ----------
    labels, scribbles : mapping of str to AnnotationNote
        What `look_at` found. Label maps are read where nothing else says which values they hold.
    label_values, scribble_values : dict of str to int, or None
        What was given, see `create_cohort`.

    Returns
    -------
    schema : LabelSchema
        With the IDs, colors and terminology of the segments that bear the classes' names.
    label_values, scribble_values : dict of str to int, or None
        For the label maps.

    Raises
    ------
    CohortError
        If values have no class, or the two tables name different classes, or there is no class at all.
    """
    label_maps = [note for note in labels.values() if not note.segments]
    scribble_maps = [note for note in scribbles.values() if not note.segments]
    segments = _first_of_each_name([*labels.values(), *scribbles.values()])
    if scribble_maps and scribble_values is None:
        raise _unnamed_scribbles(scribble_maps, label_values)
    names = _agreed_names(label_values, scribble_values) or list(segments)
    if label_maps and label_values is None:
        label_values = _guessed_label_values(label_maps, names)
        names = names or _foreground(label_values)
    if not names:
        raise CohortError(
            "Nothing says which classes the cohort has: there are no labels and no scribbles.",
            "Annotate a case, or give the classes as values.",
        )
    values = {name: (label_values or {}).get(name, 0) for name in names}
    return LabelSchema(_segment_classes(names, segments, values)), label_values, scribble_values


def _segment_classes(
    names: list[str], segments: Mapping[str, Segment], values: Mapping[str, int]
) -> tuple[SegmentClass, ...]:
    """The classes with what a segment of the same name knows of color and terminology; every ID once."""
    classes, used = [], {"Background"}
    for name in names:
        each = segments[name].to_class() if name in segments else SegmentClass(name)
        if each.segment_id in used:
            each = replace(each, segment_id="")
        used.add(each.segment_id or name)
        classes.append(replace(each, value=values[name]))
    return tuple(classes)


def _first_of_each_name(notes: Iterable[AnnotationNote]) -> dict[str, Segment]:
    """Foreground segments of all files by name, in order of appearance."""
    found: dict[str, Segment] = {}
    for note in notes:
        for segment in note.segments:
            if not _is_background(segment.name):
                found.setdefault(segment.name, segment)
    return found


def _agreed_names(label_values: Mapping[str, int] | None, scribble_values: Mapping[str, int] | None) -> list[str]:
    """Foreground classes in the order of their values; both tables have to name the same ones."""
    tables = [_foreground(table) for table in (label_values, scribble_values) if table is not None]
    if len(tables) == 2 and set(tables[0]) != set(tables[1]):
        odd = sorted(set(tables[0]) ^ set(tables[1]))
        raise CohortError(
            f"The label values and the scribble values don't name the same classes: {', '.join(odd)}.",
            "Name every class in both.",
        )
    return tables[0] if tables else []


def _guessed_label_values(label_maps: list[AnnotationNote], names: list[str]) -> dict[str, int]:
    """Values of label maps that nobody named: 1, 2, … for the known classes, or whatever is there."""
    found = _values_of(label_maps, "label")
    if not names:
        return {f"class {value}": value for value in found}
    if found != list(range(1, len(names) + 1)):
        example = ",".join(f"{name}={value}" for name, value in zip(names, found, strict=False))
        raise CohortError(
            f"The labels hold the values {listed(found)}, and the classes are {', '.join(names)}.",
            f'Say which is which with label values, for example "{example}".',
        )
    return dict(zip(names, found, strict=True))


def _unnamed_scribbles(scribble_maps: list[AnnotationNote], label_values: Mapping[str, int] | None) -> CohortError:
    found = _values_of(scribble_maps, "scribble")
    known = _foreground(label_values) if label_values else []
    names = ["background", *known, *(f"class {index}" for index in range(len(known) + 1, len(found) + 1))]
    example = ",".join(f"{name}={value}" for name, value in zip(names, found, strict=False))
    return CohortError(
        f"The scribbles ('{scribble_maps[0].path.name}' and so on) hold the values {listed(found)}, and nothing says "
        "what they mean.",
        f'Give scribble values, for example "{example}".',
    )


def _values_of(maps: list[AnnotationNote], kind: str) -> list[int]:
    """Values that maps of a kind hold; raises `CohortError` if none holds any."""
    found = sorted(set().union(*(note.values() for note in maps)))
    if not found:
        raise CohortError(
            f"The {kind}s are all empty: no voxel has a value other than 0.",
            f"Check that these are the {kind} files.",
            code=ErrorCode.NO_ANNOTATION,
        )
    return found


def _foreground(values: Mapping[str, int]) -> list[str]:
    return [name for name in sorted(values, key=values.__getitem__) if not _is_background(name)]


def _is_background(name: str) -> bool:
    return name.casefold() == "background"
