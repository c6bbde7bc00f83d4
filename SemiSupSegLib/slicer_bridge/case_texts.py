"""What the panels say of cases, their annotations and classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from ..cohort_lint import Finding
from ..labels import LabelSchema
from .case_table import CaseRow
from .translation import tr as _

CASE_COLUMNS = 6


def case_headers() -> tuple[str, ...]:
    """Headers of the case table."""
    return _("Case"), _("Voxels, mm"), _("Annotation"), _("Role"), _("Result"), _("Status")


def case_cells(row: CaseRow, findings: Iterable[Finding] = ()) -> tuple[str, ...]:
    """The texts of a row of the case table, under `case_headers`."""
    return (
        row.id,
        dimensions_text(row),
        annotation_text(row),
        role_text(row.role),
        prediction_text(row),
        status_text(row, findings),
    )


def dimensions_text(row: CaseRow) -> str:
    """Voxels and, below, millimetres."""
    if row.dimensions is None or row.spacing is None:
        return "?"
    return "×".join(map(str, row.dimensions)) + "\n" + "×".join(f"{each:.3g}" for each in row.spacing)


def annotation_text(row: CaseRow) -> str:
    """What is annotated of a case."""
    if row.annotation == "none":
        return _("none")
    if row.annotation == "dense":
        return _("dense") if row.labeled else _("dense,\nto measure")
    text = _("scribbles\n{percent}").format(percent=percent(row.annotated_fraction))
    return text + _(", + label") if row.has_reference else text


def prediction_text(row: CaseRow) -> str:
    """Whether a case is predicted and, below, how doubtful that is."""
    if not row.has_prediction:
        return ""
    return _("yes") if row.uncertainty is None else _("doubt\n{value:.3f}").format(value=row.uncertainty)


def role_text(role: str) -> str:
    """A role for people."""
    return {"train": _("train"), "validation": _("validation"), "test": _("test")}.get(role, role)


def status_text(row: CaseRow, findings: Iterable[Finding] = ()) -> str:
    """How a case stands, in a word or the number of findings."""
    mine = [each for each in findings if each.case_id == row.id]
    if row.problem:
        return _("problem")
    if mine:
        return _("{count} to check").format(count=len(mine))
    return {"annotated": _("annotated"), "predicted": _("predicted"), "new": _("new")}.get(row.status, row.status)


def status_icon(row: CaseRow, findings: Iterable[Finding] = ()) -> str:
    """Which icon a case has: "error", "warning", "done" or ""."""
    mine = [each.severity for each in findings if each.case_id == row.id]
    if row.problem or "error" in mine:
        return "error"
    return "warning" if mine else "done" if row.status == "annotated" else ""


def status_tip(row: CaseRow, findings: Iterable[Finding] = ()) -> str:
    """The case's name, for which the table may be too narrow, what is wrong with it and what to do, a line each."""
    mine = [finding_text(each) for each in findings if each.case_id == row.id]
    return "\n".join([row.id, *[row.problem] * bool(row.problem), *mine])


def finding_text(finding: Finding) -> str:
    """A finding with what to do about it."""
    where = f"{finding.case_id}: " if finding.case_id else ""
    return f"{where}{finding.message} {finding.remedy}".strip()


def short_path(path: Path) -> str:
    """The last parts of a path: whole ones don't wrap, and would make the panel wide.

    Examples
    --------
    >>> short_path(Path("/data/studies/liver"))
    '…/studies/liver'
    """
    return str(path) if len(path.parts) <= 2 else "…/" + "/".join(path.parts[-2:])


def percent(share: float) -> str:
    """A share with enough digits to tell it from nothing.

    Examples
    --------
    >>> percent(0.5), percent(0.0123), percent(0.00004), percent(0)
    ('50 %', '1.2 %', '< 0.1 %', '0 %')
    """
    if share <= 0:
        return "0 %"
    if share < 0.001:
        return "< 0.1 %"
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.1f} %"


def annotated_text(counts: Mapping[str, int], total: int, kind: str = "scribble") -> str:
    """How much of the shown case is annotated, in all and by class.

    Parameters
    ----------
    counts : mapping of str to int
        Voxels by the class's name.
    total : int
        Voxels of the scan.
    kind : {"scribble", "label"}
    """
    if total <= 0 or not sum(counts.values()):
        return _("Nothing is annotated on this case yet.")
    parts = ", ".join(f"{name} {percent(count / total)}" for name, count in counts.items() if count)
    missing = [name for name, count in counts.items() if not count]
    if kind == "label":
        text = _("A complete label: {parts} of the scan, the rest is background.").format(parts=parts)
        return text + (" " + _("There is no {names} in it.").format(names=", ".join(missing)) if missing else "")
    text = _("Annotated: {share} of the scan ({parts}).").format(
        share=percent(sum(counts.values()) / total), parts=parts
    )
    if missing:
        text += " " + _("Not painted yet: {names}.").format(names=", ".join(missing))
    return text


def free_class_name(schema: LabelSchema) -> str:
    """A name for one more class."""
    taken = {name.casefold() for name in schema.names}
    number = len(schema.names) + 1
    while _("structure {number}").format(number=number).casefold() in taken:
        number += 1
    return _("structure {number}").format(number=number)
