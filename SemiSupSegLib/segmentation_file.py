"""Annotation files: Slicer's ``.seg.nrrd``, which says itself what its segments are, and plain label maps."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from .errors import CohortError, ErrorCode, VolumeError
from .labels import IGNORE, LabelSchema, SegmentClass
from .nrrd_file import write_nrrd
from .volume import Geometry, read_components, read_fields, write_then_replace

AnnotationKind = Literal["label", "scribble"]
"""A *label* is dense: what no class covers is background. A *scribble* marks only what was painted."""

# The name Slicer gives the tag (vtkSegment::GetTerminologyEntryTagName), and the one that some older files carry.
_TERMINOLOGY_TAGS = ("TerminologyEntry", "Segmentation.TerminologyEntry")

# IDs that Slicer made up: equal IDs in two files say nothing about the segments being the same structure.
_GENERATED_ID = re.compile(r"Segment_\d+(_\d+)*|[0-9.]+|[0-9a-fA-F-]{32,36}")


@dataclass(frozen=True)
class Segment:
    """What the header of a ``.seg.nrrd`` says of one segment.

    Parameters
    ----------
    segment_id, name : str
    color : tuple of float or None
        Red, green, blue in 0..1.
    terminology : str
        Slicer's serialized terminology entry; empty if there is none.
    value : int
        Label value within its layer.
    layer : int
        Which of the file's components holds the segment; segments that overlap are in different layers.
    """

    segment_id: str
    name: str
    color: tuple[float, float, float] | None
    terminology: str
    value: int
    layer: int

    def to_class(self) -> SegmentClass:
        """The class of a schema that this segment defines; its value on disk is left to the schema."""
        return SegmentClass(self.name, self.segment_id, self.color, self.terminology)


def read_segments(path: Path | str) -> tuple[Segment, ...]:
    """The segments that a ``.seg.nrrd`` file's header names, in its order; empty for plain label maps.

    Raises
    ------
    VolumeError
        If the file is missing or can't be read (see `volume.read_volume`).
    """
    return _segments_of(read_fields(path), Path(path))


def read_segment_names(path: Path | str) -> list[str]:
    """Names of the segments of a ``.seg.nrrd`` file, in its order."""
    return [segment.name for segment in read_segments(path)]


def match_class(segment: Segment, schema: LabelSchema) -> int | None:
    """Class index of a segment, 0 for the background's; None if the schema has no such class.

    Names decide, in spite of case if need be. IDs decide only for segments that were renamed, and only if the ID was
    chosen by somebody: ``Segment_1`` is in every file.
    """
    candidates = (schema.background, *schema.classes)
    for key in (str, str.casefold):
        for index, each in enumerate(candidates):
            if key(segment.name) == key(each.name):
                return index
    if segment.name.casefold() == "background":
        return 0
    if not _GENERATED_ID.fullmatch(segment.segment_id):
        for index, each in enumerate(candidates):
            if segment.segment_id == each.segment_id:
                return index
    return None


def read_annotation(
    path: Path | str,
    values: Mapping[str, int] | None,
    schema: LabelSchema,
    kind: AnnotationKind = "label",
) -> tuple[np.ndarray, Geometry]:
    """Read an annotation file as class indices.

    Parameters
    ----------
    path : Path or str
        A ``.seg.nrrd`` with one or several layers, or a label map in any format.
    values : mapping of str to int, or None
        For label maps: class name (or ``background``) to the value in the file. None: the file's own segments say.
    schema : LabelSchema
    kind : {"label", "scribble"}
        What the voxels are that no class covers. In a label they are background; in a scribble nobody annotated them.
        Where segments of different classes overlap, a label takes the last one's class (as Slicer's export does), and
        a scribble, contradicting itself, is not annotated. A value of 255 that is mapped to no class is "not
        annotated" in both.

    Returns
    -------
    labels : numpy.ndarray of uint8, shape (k, j, i)
        Class indices; 255 is "not annotated".
    geometry : Geometry
        The grid of the file.

    Raises
    ------
    VolumeError
        If the file can't be read.
    CohortError
        If it holds a value or a segment that is no class, or doesn't say what its values are.
    """
    path = Path(path)
    array, geometry, fields = read_components(path)
    if values is not None:
        if len(array) != 1:
            raise VolumeError(
                f"'{path}' holds {len(array)} values a voxel, so it isn't a label map.",
                "If it is a segmentation with overlapping segments, name it .seg.nrrd and give no label values.",
            )
        return _from_values(array[0], values, schema, kind, path), geometry
    segments = _segments_of(fields, path)
    if not segments:
        raise CohortError(
            f"'{path}' names no segments, and nothing says which value is which class.",
            'Give its label values, for example "background=1,left atrium=2", or save it as .seg.nrrd from Slicer.',
        )
    return _from_segments(array, segments, schema, kind, path), geometry


def write_segmentation(
    path: Path | str,
    labels: np.ndarray,
    geometry: Geometry,
    schema: LabelSchema,
    compress: bool = True,
    kind: AnnotationKind = "label",
    notes: Mapping[str, str] | None = None,
) -> None:
    """Write class indices as a ``.seg.nrrd`` that Slicer opens with the user's names, colors and terminology.

    Parameters
    ----------
    path : Path or str
        Ends in ``.seg.nrrd``.
    labels : numpy.ndarray of uint8, shape (k, j, i)
        Class indices; 255 belongs to no segment, and 0 only in a scribble (see Notes).
    geometry : Geometry
    schema : LabelSchema
        Every foreground class becomes a segment, empty or not, with its own label value.
    compress : bool
    kind : {"label", "scribble"}
    notes : mapping of str to str, optional
        More key/value pairs for the header, which Slicer passes over.

    Notes
    -----
    Where class 0 was painted by somebody, that is in a scribble and in every array that also has voxels of 255, it
    becomes a segment of its own, the schema's background, so that the annotation survives the round trip. It comes
    last and gets the first value that no class uses.

    Raises
    ------
    VolumeError
        If the array isn't uint8 or doesn't fit the grid.
    SemiSupSegError
        ``NOT_WRITABLE`` or ``DISK_FULL``.
    """
    path = Path(path)
    if not path.name.lower().endswith(".seg.nrrd"):
        raise VolumeError(
            f"'{path}' doesn't end in .seg.nrrd, so Slicer would open it as a plain volume.",
            "Give it that extension.",
            code=ErrorCode.UNREADABLE_FILE,
        )
    if labels.dtype != np.uint8 or labels.shape != geometry.shape:
        raise VolumeError(
            f"Labels of shape {labels.shape}, {labels.dtype}, don't fit a uint8 grid of shape {geometry.shape}.",
            code=ErrorCode.BAD_GEOMETRY,
        )
    # Slice by slice: counting and looking up make copies of 8 bytes a voxel.
    counts = sum(np.bincount(each.ravel(), minlength=256) for each in labels)
    if counts[schema.n_classes : IGNORE].any():
        highest = int(np.flatnonzero(counts[:IGNORE])[-1])
        raise CohortError(
            f"The labels hold class {highest}, and the classes end at {schema.n_classes - 1}.",
            "Use the label schema that the labels were made with.",
        )
    table = np.zeros(256, dtype=np.uint16)
    table[1 : schema.n_classes] = [each.value for each in schema.classes]
    written = list(zip(schema.classes, table[1 : schema.n_classes].tolist(), strict=True))
    if counts[0] and (kind == "scribble" or counts[IGNORE]):
        table[0] = min(set(range(1, schema.n_classes + 1)) - set(table.tolist()))
        written.append((schema.background, int(table[0])))
    if table.max() < 256:
        table = table.astype(np.uint8)
    stored = np.empty(labels.shape, dtype=table.dtype)
    for theirs, ours in zip(stored, labels, strict=True):
        theirs[...] = table[ours]
    fields = _segment_fields(written, _extent(stored)) | _segmentation_fields(geometry) | dict(notes or {})
    write_then_replace(path, lambda temporary: write_nrrd(temporary, stored, geometry, fields, compress))


def _segment_fields(written: list[tuple[SegmentClass, int]], extent: str) -> dict[str, str]:
    """Header fields of the segments (vtkMRMLSegmentationStorageNode); one layer means one extent for all of them."""
    fields = {}
    for index, (each, value) in enumerate(written):
        # Slicer separates tags by bars and reads on behind each of them.
        terminology = each.terminology.strip("|").replace("|", "/")
        prefix = f"Segment{index}_"
        fields |= {
            f"{prefix}Color": " ".join(f"{component:.6g}" for component in each.color or (0.5, 0.5, 0.5)),
            f"{prefix}ColorAutoGenerated": "0",
            f"{prefix}Extent": extent,
            f"{prefix}ID": each.segment_id,
            f"{prefix}LabelValue": str(value),
            f"{prefix}Layer": "0",
            f"{prefix}Name": each.name,
            f"{prefix}NameAutoGenerated": "0",
            f"{prefix}Tags": f"{_TERMINOLOGY_TAGS[0]}:{terminology}|" if terminology else "|",
        }
    return fields


def _segmentation_fields(geometry: Geometry) -> dict[str, str]:
    """Header fields of the whole: the grid goes along, so that painting on in Slicer stays on it."""
    to_ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ geometry.index_to_physical
    numbers = [f"{number:.17g}" for number in to_ras.ravel()]
    numbers += [str(bound) for size in geometry.size for bound in (0, size - 1)]
    return {
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_ConversionParameters": (
            "Reference image geometry|" + ";".join(numbers) + ";|Image geometry description string determining the "
            "geometry of the labelmap that is created in course of conversion.&"
        ),
        "Segmentation_MasterRepresentation": "Binary labelmap",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
    }


def _extent(stored: np.ndarray) -> str:
    """First and last index along i, j, k of what isn't 0, as Slicer writes it."""
    bounds = []
    for axis in (2, 1, 0):
        used = np.flatnonzero(stored.any(axis=tuple({0, 1, 2} - {axis})))
        bounds += [int(used[0]), int(used[-1])] if len(used) else [0, -1]
    return " ".join(map(str, bounds))


def _segments_of(fields: Mapping[str, str], path: Path) -> tuple[Segment, ...]:
    segments = []
    while (prefix := f"Segment{len(segments)}_") + "ID" in fields:
        segment_id = fields[prefix + "ID"]
        try:
            color = tuple(float(number) for number in fields.get(prefix + "Color", "").split())
            segments.append(
                Segment(
                    segment_id=segment_id,
                    name=fields.get(prefix + "Name", segment_id),
                    color=color if len(color) == 3 and all(0 <= component <= 1 for component in color) else None,
                    terminology=_terminology(fields.get(prefix + "Tags", "")),
                    value=int(fields.get(prefix + "LabelValue", 1)),
                    # Before layers existed (Slicer 4.10), every segment had a component of its own.
                    layer=int(fields.get(prefix + "Layer", len(segments))),
                )
            )
        except ValueError as error:
            raise VolumeError(
                f"What the header of '{path}' says of segment '{segment_id}' can't be read: {error}.",
                "Open the file in Slicer and save it again.",
                code=ErrorCode.UNREADABLE_FILE,
            ) from error
    return tuple(segments)


def _terminology(tags: str) -> str:
    """The terminology entry among a segment's tags ``name:value|name:value|``."""
    found = dict(tag.split(":", 1) for tag in tags.split("|") if ":" in tag)
    return next((found[name] for name in _TERMINOLOGY_TAGS if found.get(name)), "")


def _from_segments(
    array: np.ndarray, segments: tuple[Segment, ...], schema: LabelSchema, kind: AnnotationKind, path: Path
) -> np.ndarray:
    """Class indices from the layers (n, k, j, i) of a segmentation."""
    labels = np.full(array.shape[1:], 0 if kind == "label" else IGNORE, dtype=np.uint8)
    contradictory = np.zeros(array.shape[1:], dtype=bool)
    for layer, values in enumerate(array):
        here = [segment for segment in segments if segment.layer == layer]
        table = {}
        for segment in here:
            index = match_class(segment, schema)
            if index is not None:
                table[segment.value] = index
            elif (values == segment.value).any():
                raise CohortError(
                    f"'{path}' has a segment '{segment.name}' that is no class of this cohort.",
                    f"Rename it to one of: background, {', '.join(schema.names)}; or remove it.",
                )
        mapped = _looked_up(values, table | {0: IGNORE}, default=IGNORE)
        painted = mapped != IGNORE
        if kind == "label":
            # A background segment says nothing that its being a label doesn't say already, and covers no other.
            painted &= mapped != 0
        else:
            contradictory |= painted & (labels != IGNORE) & (labels != mapped)
        labels[painted] = mapped[painted]
    labels[contradictory] = IGNORE
    return labels


def _from_values(
    array: np.ndarray, values: Mapping[str, int], schema: LabelSchema, kind: AnnotationKind, path: Path
) -> np.ndarray:
    """Class indices from the values of a label map."""
    table = {int(value): schema.index_of(name) for name, value in values.items()}
    if kind == "scribble" and table.get(0, IGNORE) != IGNORE:
        raise CohortError(
            f"The value 0 of the scribbles in '{path}' can't be a class: 0 is what nobody painted.",
            "Paint the background as a class of its own, with another value.",
        )
    table = {0: 0 if kind == "label" else IGNORE, IGNORE: IGNORE} | table
    unknown = sorted(set(values_in(array, path)) - set(table))
    if unknown:
        known = ", ".join(f"{name}={value}" for name, value in values.items())
        raise CohortError(
            f"'{path}' holds the value{'s' if len(unknown) > 1 else ''} {listed(unknown)}, which no class has "
            f"({known}).",
            f"Name {'them' if len(unknown) > 1 else 'it'} too when the cohort is created, or correct the file.",
        )
    return _looked_up(array, table, default=IGNORE)


def values_in(array: np.ndarray, path: Path) -> list[int]:
    """The distinct values of a label map, ascending.

    Raises
    ------
    VolumeError
        If they aren't whole numbers.
    """
    if array.dtype.kind == "f":
        whole = np.isfinite(array).all() and (array == np.rint(array)).all()
        if not whole:
            raise VolumeError(
                f"'{path}' holds fractions or NaN, so it isn't a label map.",
                "Check that it is an annotation and not an image or a probability map.",
            )
    lowest, highest = int(array.min()), int(array.max())
    if highest - lowest < 1 << 20:
        # Counting is many times faster than np.unique's sorting.
        offset = 0 if array.dtype == np.uint8 else lowest
        counted = array if array.dtype == np.uint8 else array.astype(np.int64) - offset
        return (np.flatnonzero(np.bincount(counted.ravel())) + offset).tolist()
    return np.unique(array).astype(np.int64).tolist()


def listed(values: list[int], most: int = 8) -> str:
    """Some numbers as text, the first ones if there are many."""
    shown = ", ".join(str(value) for value in values[:most])
    return shown if len(values) <= most else f"{shown}, … ({len(values)} in all)"


def _looked_up(array: np.ndarray, table: Mapping[int, int], default: int) -> np.ndarray:
    """Every voxel through a table from value to class index."""
    if array.dtype == np.uint8:
        row = np.full(256, default, dtype=np.uint8)
        for value, index in table.items():
            if 0 <= value < 256:
                row[value] = index
        return row[array]
    result = np.full(array.shape, default, dtype=np.uint8)
    for value, index in table.items():
        if index != default:
            result[array == value] = index
    return result
