"""A cohort of files that pair by their names."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

from .case import AnnotationFile, Case, Role
from .class_values import AnnotationNote, OnProgress, find_classes, look_at, parse_values
from .cohort import Cohort, unknown_case
from .errors import CohortError, ErrorCode
from .file_pairing import FileSource, annotation_files, image_files, paired


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
    _check_validation(roles, label_of)

    label_notes, scribble_notes = look_at(label_of, scribble_of, on_progress)
    schema, label_table, scribble_table = find_classes(
        label_notes,
        scribble_notes,
        None if label_values is None else parse_values(label_values),
        None if scribble_values is None else parse_values(scribble_values),
    )

    cases = []
    for case_id, image in image_of.items():
        label = _annotation(label_notes.get(case_id), label_table)
        scribble = _annotation(scribble_notes.get(case_id), scribble_table)
        # What isn't annotated yet has nothing to keep for evaluation: strokes that it gets one day shall train.
        trains = chosen is None or case_id in chosen or (label or scribble) is None
        cases.append(Case(case_id, image, label, scribble, roles[case_id], trains))
    return Cohort(schema, tuple(cases), name)


def _check_validation(roles: Mapping[str, Role], labeled: Container[str]) -> None:
    unlabeled = [case_id for case_id, role in roles.items() if role == Role.VALIDATION and case_id not in labeled]
    if unlabeled:
        raise CohortError(
            f"The validation case '{unlabeled[0]}' has no dense label, so nothing can be measured on it.",
            "Choose validation cases that have a label.",
        )


def _annotation(note: AnnotationNote | None, values: Mapping[str, int] | None) -> AnnotationFile | None:
    """An annotation as a case has it; a file that says itself what its segments are needs no values."""
    return note and AnnotationFile(note.path, None if note.segments else values)


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
