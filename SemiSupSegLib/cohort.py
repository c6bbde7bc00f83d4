"""The cohort: the cases, what is annotated on them, and what they are used for."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

import numpy as np

from .class_values import AnnotationNote, OnProgress, find_classes, look_at, parse_values
from .errors import CohortError, ErrorCode, VolumeError
from .file_pairing import FileSource, annotation_files, image_files, paired
from .files import explained, is_file_name, read_json, write_json_atomically
from .labels import IGNORE, LabelSchema
from .segmentation_file import AnnotationKind, read_annotation
from .volume import Geometry, Volume, read_geometry, read_volume, resample_labels

__all__ = ["AnnotationFile", "Case", "Cohort", "Role", "create_cohort", "parse_values"]

SCHEMA_VERSION = 1
"""Version of ``cohort.json``."""

TrainingAnnotation = Literal["auto", "dense", "scribbles", "dense only"]
"""Which annotation a case trains with; see `Case.trains_with`."""

# Files up to this size are hashed whole; of larger ones, evenly spaced samples.
_HASHED_WHOLE = 16 * 1024**2
_SAMPLES = 17
_SAMPLE_BYTES = 64 * 1024


class Role(StrEnum):
    """What a case is used for."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


@dataclass(frozen=True)
class AnnotationFile:
    """A file of annotations and how to read it.

    Parameters
    ----------
    path : Path
    values : mapping of str to int, or None
        Class name (or ``background``) to the value in the file; None: the file is a ``.seg.nrrd``, which says so.
    """

    path: Path
    values: Mapping[str, int] | None = None

    def __post_init__(self):
        object.__setattr__(self, "path", Path(self.path))
        if self.values is not None:
            object.__setattr__(self, "values", parse_values(self.values))

    def __hash__(self):
        return hash((self.path, None if self.values is None else tuple(self.values.items())))


@dataclass(frozen=True)
class Case:
    """One scan of a cohort.

    Parameters
    ----------
    id : str
        Unique in the cohort; results are named after it.
    image : Path
    label : AnnotationFile, optional
        Dense: every voxel that no class covers is background.
    scribble : AnnotationFile, optional
        Marks only what was painted; background is painted, too.
    role : Role
    labeled : bool
        False: the annotations are kept for evaluation and never train.
    proposals : AnnotationFile, optional
        What the software proposed and a person accepted, without painting it: trains as a guess, not as strokes.
    """

    id: str
    image: Path
    label: AnnotationFile | None = None
    scribble: AnnotationFile | None = None
    role: Role = Role.TRAIN
    labeled: bool = True
    proposals: AnnotationFile | None = None

    def __post_init__(self):
        object.__setattr__(self, "image", Path(self.image))
        try:
            object.__setattr__(self, "role", Role(self.role))
        except ValueError:
            raise CohortError(
                f"Case '{self.id}' has the role '{self.role}'.", f"Roles are {', '.join(Role)}."
            ) from None
        if not is_file_name(self.id):
            raise CohortError(
                f"'{self.id}' can't be the ID of a case, because results are files named after it.",
                "Use letters, digits, spaces, underscores and hyphens, and no name that Windows keeps for itself (CON, "
                "AUX …).",
            )

    @property
    def annotated(self) -> bool:
        """Whether there is anything to train with: a label or a scribble that isn't kept for evaluation."""
        return self.labeled and (self.label is not None or self.scribble is not None)

    def trains_with(self, prefer: TrainingAnnotation = "auto") -> AnnotationKind | None:
        """Which annotation the case trains with.

        Parameters
        ----------
        prefer : {"auto", "dense", "scribbles", "dense only"}
            Which one of a case that has both. "auto" takes the scribbles: where a case has both, its dense label is the
            reference that it is measured by. With "dense only", scribbles train nowhere.

        Returns
        -------
        {"label", "scribble"} or None
            None for cases without (such an) annotation, those whose annotations are kept for evaluation, and those that
            aren't training cases.
        """
        if prefer not in get_args(TrainingAnnotation):
            raise ValueError(f"prefer is {prefer!r}, not one of {', '.join(get_args(TrainingAnnotation))}")
        if self.role != Role.TRAIN or not self.annotated:
            return None
        if self.label is not None and (prefer in ("dense", "dense only") or self.scribble is None):
            return "label"
        return None if prefer == "dense only" else "scribble"


@dataclass(frozen=True)
class Cohort:
    """Cases with one label schema; the content of a ``cohort.json``.

    Immutable: `with_case`, `without_case` and `save` return another cohort.

    Parameters
    ----------
    schema : LabelSchema
    cases : tuple of Case
    name : str
    path : Path, optional
        The file it was loaded from or saved to.
    """

    schema: LabelSchema
    cases: tuple[Case, ...]
    name: str = ""
    path: Path | None = None

    def __post_init__(self):
        object.__setattr__(self, "cases", tuple(self.cases))
        seen: dict[str, str] = {}
        for case in self.cases:
            # On Windows and macOS files whose names differ in case only are one file.
            key = case.id.casefold()
            if key in seen:
                raise CohortError(
                    f"Two cases have the IDs '{seen[key]}' and '{case.id}'.", "Give every case an ID of its own."
                )
            seen[key] = case.id

    # -- cases --------------------------------------------------------------------------------------------------------

    def case(self, case_id: str) -> Case:
        """The case of an ID; raises `CohortError` with the nearest IDs if there is none."""
        for case in self.cases:
            if case.id == case_id:
                return case
        raise unknown_case(case_id, [case.id for case in self.cases])

    def cases_of(self, role: Role) -> tuple[Case, ...]:
        """The cases of a role, in order."""
        return tuple(case for case in self.cases if case.role == role)

    def with_case(self, case: Case) -> Cohort:
        """The cohort with `case` added, or in the place of the case of the same ID."""
        if any(each.id == case.id for each in self.cases):
            return replace(self, cases=tuple(case if each.id == case.id else each for each in self.cases))
        return replace(self, cases=(*self.cases, case))

    def without_case(self, case_id: str) -> Cohort:
        """The cohort without a case; its files stay where they are."""
        gone = self.case(case_id)
        return replace(self, cases=tuple(case for case in self.cases if case is not gone))

    # -- the file -----------------------------------------------------------------------------------------------------

    @classmethod
    def load(cls, path: Path | str) -> Cohort:
        """Read a ``cohort.json``. Its cases' files are only looked at when they are read.

        Raises
        ------
        SemiSupSegError
            ``MISSING_FILE``, ``UNREADABLE_FILE``; `CohortError` where it is JSON but no cohort, or of a newer version.
        """
        path = Path(path).absolute()
        body = read_json(path, "the cohort")
        remedy = "Create the cohort again, or restore the file from a copy."
        if not isinstance(body, dict) or not isinstance(body.get("cases"), list):
            raise CohortError(f"'{path}' isn't a cohort.", "Create one with `cohort create`.")
        version = body.get("schema_version")
        if not isinstance(version, int) or version < 1:
            raise CohortError(f"The cohort '{path}' doesn't say its version.", remedy)
        if version > SCHEMA_VERSION:
            raise CohortError(
                f"The cohort '{path}' was made by a newer version of this software (format {version}).",
                "Update the software.",
            )
        schema = LabelSchema.from_json(body.get("label_schema"))
        try:
            cases = tuple(_case_from_json(each, path.parent) for each in body["cases"])
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise CohortError(f"A case of the cohort '{path}' can't be read: {error!r}.", remedy) from error
        return cls(schema, cases, str(body.get("name", "")), path)

    def save(self, path: Path | str | None = None) -> Cohort:
        """Write the cohort, atomically; files are named relative to it where that is possible.

        Parameters
        ----------
        path : Path or str, optional
            Where to; the file it was loaded from if not given.

        Returns
        -------
        Cohort
            The same one, at home in `path`.

        Raises
        ------
        SemiSupSegError
            ``NOT_WRITABLE`` or ``DISK_FULL``.
        """
        if path is None and self.path is None:
            raise CohortError("The cohort has no file yet.", "Say where to save it.")
        path = Path(path or self.path).absolute()
        with explained("write", path):
            path.parent.mkdir(parents=True, exist_ok=True)
        body = {
            "schema_version": SCHEMA_VERSION,
            "name": self.name,
            "label_schema": self.schema.to_json(),
            "cases": [_case_to_json(case, path.parent) for case in self.cases],
        }
        write_json_atomically(path, body)
        return replace(self, path=path)

    def fingerprint(self) -> str:
        """SHA-256 of everything that decides what training does, in hexadecimal.

        That is the classes and, for each case, its ID, role, use and the *content* of its files: neither names nor
        dates, so that a cohort copied to another machine keeps its fingerprint. Files above 16 MB are known by their
        size and 17 samples of 64 kB; the checksum at the end of a compressed file is among these, so every edit to one
        shows. A missing file counts as missing.
        """
        facts = {
            "label_schema": self.schema.to_json(),
            "cases": [
                {
                    "id": case.id,
                    "role": str(case.role),
                    "labeled": case.labeled,
                    "image": content_digest(case.image),
                }
                | {
                    kind: annotation and [content_digest(annotation.path), annotation.values]
                    for kind, annotation in (("label", case.label), ("scribble", case.scribble))
                }
                | ({} if case.proposals is None else {"proposals": content_digest(case.proposals.path)})
                for case in self.cases
            ],
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    # -- voxels -------------------------------------------------------------------------------------------------------

    def read_image(self, case: Case) -> Volume:
        """The image of a case; raises what `volume.read_volume` raises."""
        return read_volume(case.image)

    def read_geometry(self, case: Case) -> Geometry:
        """The grid of a case's image, from the header alone."""
        return read_geometry(case.image)

    def read_label(self, case: Case) -> np.ndarray:
        """The dense label of a case on its image's grid.

        Returns
        -------
        numpy.ndarray of uint8, shape (k, j, i)
            Class indices; 255 where the label has nothing to say: outside the grid of a label map (a ``.seg.nrrd`` is
            background there, since Slicer may crop it), and where resampling found a tie.

        Raises
        ------
        CohortError
            ``NO_ANNOTATION`` if the case has no label.
        VolumeError
            ``BAD_GEOMETRY`` if it lies elsewhere than the image; and what reading raises.
        """
        return self._read_annotation(case, case.label, "label")

    def read_scribble(self, case: Case) -> np.ndarray:
        """The scribbles of a case on its image's grid.

        Returns
        -------
        numpy.ndarray of uint8, shape (k, j, i)
            Class indices, 255 where nobody painted. On a coarser grid no stroke gets lost (`volume.resample_labels`).

        Raises
        ------
        CohortError, VolumeError
            As `read_label`.
        """
        return self._read_annotation(case, case.scribble, "scribble")

    def read_proposals(self, case: Case) -> np.ndarray:
        """The proposals of a case on its image's grid, as `read_scribble` gives scribbles."""
        return self._read_annotation(case, case.proposals, "scribble")

    def read_training_annotation(self, case: Case, prefer: TrainingAnnotation = "auto") -> np.ndarray | None:
        """What a case contributes to training, on its image's grid.

        Parameters
        ----------
        case : Case
        prefer : {"auto", "dense", "scribbles", "dense only"}
            Which annotation; see `Case.trains_with`.

        Returns
        -------
        numpy.ndarray of uint8, shape (k, j, i), or None
            None where `Case.trains_with` is.
        """
        kind = case.trains_with(prefer)
        if kind is None:
            return None
        return self.read_label(case) if kind == "label" else self.read_scribble(case)

    def _read_annotation(self, case: Case, annotation: AnnotationFile | None, kind: AnnotationKind) -> np.ndarray:
        if annotation is None:
            raise CohortError(
                f"Case '{case.id}' has no {kind}.", "Annotate it, or use another case.", code=ErrorCode.NO_ANNOTATION
            )
        wanted = read_geometry(case.image)
        labels, own = read_annotation(annotation.path, annotation.values, self.schema, kind)
        if own.same_grid(wanted):
            return labels
        says_something = (labels != IGNORE) & (labels != 0) if kind == "label" else labels != IGNORE
        if not says_something.any():
            return np.full(wanted.shape, 0 if kind == "label" else IGNORE, dtype=np.uint8)
        if own.overlaps(wanted):
            if kind == "label" and annotation.values is None:
                labels, own = _grown(labels, own, wanted, fill=0)
            resampled = resample_labels(labels, own, wanted)
            if kind == "label" or (resampled != IGNORE).any():
                return resampled
        raise VolumeError(
            f"Case '{case.id}': the {kind} '{annotation.path}' lies outside its image '{case.image}'.",
            "Check that they belong together; a transform may not have been applied to one of them.",
            code=ErrorCode.BAD_GEOMETRY,
        )


def unknown_case(case_id: str, known: list[str]) -> CohortError:
    """The error for an ID that is none, with the IDs that may have been meant."""
    near = difflib.get_close_matches(case_id, known, n=3, cutoff=0.5) or known[:3]
    return CohortError(
        f"There is no case '{case_id}' in the cohort.",
        f"Did you mean {' or '.join(near)}?" if near else "The cohort has no cases.",
    )


def content_digest(path: Path) -> str:
    """Short hash of a file's content (of samples of it, above 16 MB); "missing" if there is no such file."""
    try:
        size = path.stat().st_size
        digest = hashlib.sha256(str(size).encode())
        with path.open("rb") as stream:
            if size <= _HASHED_WHOLE:
                digest.update(stream.read())
            else:
                for sample in range(_SAMPLES):
                    stream.seek((size - _SAMPLE_BYTES) * sample // (_SAMPLES - 1))
                    digest.update(stream.read(_SAMPLE_BYTES))
    except OSError:
        return "missing"
    return digest.hexdigest()[:32]


def _grown(labels: np.ndarray, own: Geometry, wanted: Geometry, fill: int) -> tuple[np.ndarray, Geometry]:
    """`labels` with a margin of `fill`, so that its grid covers another one."""
    corners = np.array(np.meshgrid(*((-0.5, size - 0.5) for size in wanted.size))).reshape(3, -1)
    corners = wanted.index_map(own)[:3] @ np.vstack([corners, np.ones(corners.shape[1])])
    before = np.maximum(0, np.ceil(-corners.min(axis=1))).astype(int)
    after = np.maximum(0, np.ceil(corners.max(axis=1) - own.size + 1)).astype(int)
    grown = np.pad(labels, list(zip(before, after, strict=True))[::-1], constant_values=fill)
    return grown, own.cropped(-before, grown.shape[::-1])


def _case_to_json(case: Case, folder: Path) -> dict[str, Any]:
    body = {"id": case.id, "image": _relative(case.image, folder), "role": str(case.role), "labeled": case.labeled}
    for name in ("label", "scribble", "proposals"):
        annotation: AnnotationFile | None = getattr(case, name)
        body[name] = annotation and {
            "path": _relative(annotation.path, folder),
            "values": None if annotation.values is None else dict(annotation.values),
        }
    return body


def _case_from_json(body: Mapping[str, Any], folder: Path) -> Case:
    annotations = {
        name: AnnotationFile(_absolute(body[name]["path"], folder), body[name].get("values"))
        for name in ("label", "scribble", "proposals")
        if body.get(name) is not None
    }
    return Case(
        id=str(body["id"]),
        image=_absolute(body["image"], folder),
        role=body.get("role", Role.TRAIN),
        labeled=bool(body.get("labeled", True)),
        **annotations,
    )


def _relative(path: Path, folder: Path) -> str:
    """POSIX path from `folder`; absolute where there is none (another drive of Windows)."""
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:
        return path.absolute().as_posix()


def _absolute(text: str, folder: Path) -> Path:
    """The path of a file named relative to `folder`; raises `ValueError` for what no file system takes."""
    path = Path(os.path.normpath(folder / PurePosixPath(text)))
    if b"\0" in os.fsencode(path):
        raise ValueError("a zero in a path")
    return path


# ---------------------------------------------------------------------------------------------------------------------
# From folders of files


def create_cohort(
    images: FileSource,
    labels: FileSource | None = None,
    scribbles: FileSource | None = None,
    scribble_values: str | Mapping[str, int] | None = None,
    label_values: str | Mapping[str, int] | None = None,
    labeled: Iterable[str] | None = None,
    validation: Iterable[str] = (),
    test: Iterable[str] = (),
    name: str = "",
    on_progress: OnProgress = lambda fraction, text: None,
) -> Cohort:
    """Make a cohort of files, paired by their names.

    Parameters
    ----------
    images : folder, pattern or list of files
        The case IDs are the names without extension (and without nnU-Net's ``_0000``).
    labels, scribbles : folder, pattern or list of files, optional
        Annotation files: named like their image, with or without ``_label``, ``_scribble``, ``_seg`` and the like.
    scribble_values, label_values : str or mapping of str to int, optional
        Which class has which value in label maps: ``"background=1,left atrium=2"``. Not needed for ``.seg.nrrd`` files.
        The classes stand in the order of their values. Without `label_values`, the values of the labels have to be
        1, 2, … in the order of the scribbles' classes; where no classes are known, each value becomes one
        (``class 1``).
    labeled : iterable of str, optional
        IDs of the cases that train with their annotation; the annotations of all others are kept for evaluation.
        Default: all that have one.
    validation, test : iterable of str
        IDs of the cases for validation, which need a dense label, and of those that are only predicted.
    name : str
    on_progress : callable
        Called with a fraction 0..1 and text while files are looked at.

    Returns
    -------
    Cohort
        Not yet saved.

    Raises
    ------
    CohortError
        If a file pairs with nothing or with two, an ID is unknown, a class has no value or a value no class, or a
        validation case has no dense label.
    """
    image_of = image_files(images, (labels, scribbles))
    ids = list(image_of)
    label_of = {} if labels is None else paired(annotation_files(labels, "label", images, scribbles), ids, "label")
    scribble_of = (
        {} if scribbles is None else paired(annotation_files(scribbles, "scribble", images, labels), ids, "scribble")
    )
    roles = _roles(ids, validation, test)
    chosen = None if labeled is None else _chosen(labeled, roles, {*label_of, *scribble_of})
    unlabelled = [case_id for case_id in ids if roles[case_id] == Role.VALIDATION and case_id not in label_of]
    if unlabelled:
        raise CohortError(
            f"The validation case '{unlabelled[0]}' has no dense label, so nothing can be measured on it.",
            "Choose validation cases that have a label.",
        )

    label_notes, scribble_notes = look_at(label_of, scribble_of, on_progress)
    schema, label_table, scribble_table = find_classes(
        label_notes,
        scribble_notes,
        None if label_values is None else parse_values(label_values),
        None if scribble_values is None else parse_values(scribble_values),
    )

    def annotation(
        notes: Mapping[str, AnnotationNote], case_id: str, table: Mapping[str, int] | None
    ) -> AnnotationFile | None:
        note = notes.get(case_id)
        return note and AnnotationFile(note.path, None if note.segments else table)

    cases = []
    for case_id, image in image_of.items():
        label = annotation(label_notes, case_id, label_table)
        scribble = annotation(scribble_notes, case_id, scribble_table)
        # What isn't annotated yet has nothing to keep for evaluation: strokes that it gets one day shall train.
        trains = chosen is None or case_id in chosen or (label or scribble) is None
        cases.append(Case(case_id, image, label, scribble, roles[case_id], trains))
    return Cohort(schema, tuple(cases), name)


def _roles(ids: list[str], validation: Iterable[str], test: Iterable[str]) -> dict[str, Role]:
    roles = dict.fromkeys(ids, Role.TRAIN)
    for role, wanted in ((Role.VALIDATION, validation), (Role.TEST, test)):
        for case_id in wanted:
            if case_id not in roles:
                raise unknown_case(case_id, ids)
            if roles[case_id] not in (Role.TRAIN, role):
                raise CohortError(f"Case '{case_id}' is to be a validation case and a test case.", "Name it once.")
            roles[case_id] = role
    return roles


def _chosen(labeled: Iterable[str], roles: Mapping[str, Role], annotated: set[str]) -> set[str]:
    chosen = list(labeled)
    for case_id in chosen:
        if case_id not in roles:
            raise unknown_case(case_id, list(roles))
        if roles[case_id] != Role.TRAIN:
            raise CohortError(
                f"Case '{case_id}' is to train with its annotation and to be a {roles[case_id]} case.", "Name it once."
            )
        if case_id not in annotated:
            raise CohortError(
                f"Case '{case_id}' is to train with its annotation, but has none.",
                "Annotate it, or leave it out of the labeled cases.",
                code=ErrorCode.NO_ANNOTATION,
            )
    return set(chosen)
