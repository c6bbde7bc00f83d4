"""The cohort: the cases, what is annotated on them, and what they are used for."""

from __future__ import annotations

import difflib
import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .case import AnnotationFile, Case, Role, TrainingAnnotation, case_from_json, case_to_json
from .errors import CohortError, ErrorCode, VolumeError
from .files import explained, read_json, write_json_atomically
from .labels import IGNORE, LabelSchema
from .segmentation_file import AnnotationKind, read_annotation
from .volume import Geometry, Volume, read_geometry, read_volume, resample_labels

__all__ = ["AnnotationFile", "Case", "Cohort", "Role", "TrainingAnnotation"]

SCHEMA_VERSION = 1
"""Version of ``cohort.json``."""

# Files up to this size are hashed whole; of larger ones, evenly spaced samples.
_HASHED_WHOLE = 16 * 1024**2
_SAMPLES = 17
_SAMPLE_BYTES = 64 * 1024


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
            raise CohortError(f"'{path}' isn't a cohort.", "Choose another file, or begin a new cohort.")
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
            cases = tuple(case_from_json(each, path.parent) for each in body["cases"])
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
            "cases": [case_to_json(case, path.parent) for case in self.cases],
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
