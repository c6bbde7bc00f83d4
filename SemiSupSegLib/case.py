"""A case: one scan of a cohort, what is annotated on it, and what it is used for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

from .class_values import parse_values
from .errors import CohortError
from .files import is_file_name
from .segmentation_file import AnnotationKind

TrainingAnnotation = Literal["auto", "dense", "scribbles", "dense only"]
"""Which annotation a case trains with; see `Case.trains_with`."""


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


def case_to_json(case: Case, folder: Path) -> dict[str, Any]:
    body = {"id": case.id, "image": _relative(case.image, folder), "role": str(case.role), "labeled": case.labeled}
    for name in ("label", "scribble", "proposals"):
        annotation: AnnotationFile | None = getattr(case, name)
        body[name] = annotation and {
            "path": _relative(annotation.path, folder),
            "values": None if annotation.values is None else dict(annotation.values),
        }
    return body


def case_from_json(body: Mapping[str, Any], folder: Path) -> Case:
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
