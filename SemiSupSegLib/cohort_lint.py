"""What is wrong with a cohort, said before an hour of training says it less clearly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.spatial import cKDTree

from .class_values import OnProgress
from .cohort import Case, Cohort, Role, content_digest
from .errors import SemiSupSegError
from .labels import IGNORE
from .segmentation_file import AnnotationKind, read_annotation
from .volume import Geometry, check_image, read_geometry

_MINIMUM_VOXELS = 8**3
_ANISOTROPIC = 3.0
# From a mouse's embryo to a whole body, in mm.
_PLAUSIBLE_EXTENT = (3.0, 3000.0)
_PLAUSIBLE_SPACING = (0.01, 30.0)

# Background strokes that stay within this share of the way to the farthest corner are "only near the structure".
_FAR_SHARE = 0.35
_SAMPLED_POINTS = 4000


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or may be.

    Parameters
    ----------
    case_id : str
        Empty for what concerns the whole cohort.
    severity : {"error", "warning"}
        With an error the case, or the cohort, can't be used.
    message : str
        What was found.
    remedy : str
        What to do about it.
    """

    case_id: str
    severity: Literal["error", "warning"]
    message: str
    remedy: str

    def to_json(self) -> dict[str, str]:
        """The finding as an object of a JSON report."""
        return {
            "case": self.case_id,
            "severity": self.severity,
            "message": self.message,
            "remedy": self.remedy,
        }


def lint_cohort(cohort: Cohort, on_progress: OnProgress = lambda fraction, text: None) -> list[Finding]:
    """Read every file of a cohort and list what is wrong with it.

    Parameters
    ----------
    cohort : Cohort
    on_progress : callable
        Called with a fraction 0..1 and the case's ID.

    Returns
    -------
    list of Finding
        Errors first; nothing is raised.
    """
    findings: list[Finding] = []
    trained_classes: set[int] = set()
    for index, case in enumerate(cohort.cases):
        on_progress(index / len(cohort.cases), case.id)
        findings += _image_findings(cohort, case)
        for kind in ("label", "scribble"):
            found, classes = _annotation_findings(cohort, case, kind)
            findings += found
            if case.role == Role.TRAIN and case.labeled:
                trained_classes |= classes
    findings += _cohort_findings(cohort, trained_classes)
    on_progress(1.0, "")
    return sorted(findings, key=lambda finding: finding.severity)


def _image_findings(cohort: Cohort, case: Case) -> Iterator[Finding]:
    try:
        volume = cohort.read_image(case)
        check_image(volume, case.id)
    except SemiSupSegError as error:
        yield Finding(case.id, "error", error.message, error.remedy)
        return
    geometry = volume.geometry
    spacing = " x ".join(f"{each:.3g}" for each in geometry.spacing)
    extents = np.multiply(geometry.size, geometry.spacing)
    in_plane = [extent for extent, size in zip(extents, geometry.size, strict=True) if size > 1]
    if not all(_PLAUSIBLE_SPACING[0] <= each <= _PLAUSIBLE_SPACING[1] for each in geometry.spacing) or not all(
        _PLAUSIBLE_EXTENT[0] <= each <= _PLAUSIBLE_EXTENT[1] for each in in_plane
    ):
        yield Finding(
            case.id,
            "warning",
            f"The spacing of {spacing} mm makes the scan {' x '.join(f'{each:.3g}' for each in extents)} mm large.",
            "Check the spacing in the image's header: sizes in mm decide how the scan is resampled.",
        )
    if np.prod(geometry.size) < _MINIMUM_VOXELS:
        yield Finding(
            case.id,
            "warning",
            f"The image has only {' x '.join(map(str, geometry.size))} voxels.",
            "Check that the whole scan was exported.",
        )
    if min(geometry.size) == 1:
        yield Finding(
            case.id, "warning", "The image has one slice.", "It is trained in 2D; give volumes to train in 3D."
        )
    elif max(geometry.spacing) / min(geometry.spacing) > _ANISOTROPIC:
        yield Finding(
            case.id,
            "warning",
            f"The voxels are long: {spacing} mm.",
            "Slice by slice (2D) training suits such scans; the plan decides, and can be overridden.",
        )


def _annotation_findings(cohort: Cohort, case: Case, kind: AnnotationKind) -> tuple[list[Finding], set[int]]:
    """Findings on one annotation of a case, and the class indices it holds."""
    annotation = case.label if kind == "label" else case.scribble
    if annotation is None:
        return [], set()
    try:
        grid = read_geometry(case.image)
    except SemiSupSegError:
        return [], set()  # said of the image already
    try:
        drawn, own = read_annotation(annotation.path, annotation.values, cohort.schema, kind)
        labels = cohort.read_label(case) if kind == "label" else cohort.read_scribble(case)
    except SemiSupSegError as error:
        return [Finding(case.id, "error", error.message, error.remedy)], set()
    counts = np.bincount(labels.ravel(), minlength=256)
    classes = set(np.flatnonzero(counts[:IGNORE]).tolist())
    findings = []

    def warn(message: str, remedy: str) -> None:
        findings.append(Finding(case.id, "warning", message, remedy))

    if not classes:
        findings.append(
            Finding(
                case.id,
                "error",
                f"The {kind} '{annotation.path.name}' has no annotated voxel.",
                "Annotate the case, or take the file out of the cohort.",
            )
        )
        return findings, classes
    if not own.same_grid(grid):
        warn(
            f"The {kind} has another grid ({_grid_text(own)}) than the image ({_grid_text(grid)}).",
            "It is resampled by physical coordinates; nothing needs to be done if they lie on each other in Slicer.",
        )
        outside = _share_outside(drawn, own, grid, kind)
        if outside > 0.01:
            warn(
                f"{outside:.0%} of the {kind} lies outside the image.",
                "Check that image and annotation belong together.",
            )
    if kind == "label" and classes == {0}:
        warn(
            "The label holds nothing but background.",
            "If the scan shows none of the classes, all is well; else annotate them.",
        )
    elif len(classes) == 1:
        only = cohort.schema.background.name if classes == {0} else cohort.schema.names[min(classes) - 1]
        warn(
            f"The {kind} holds one class only: {only}.",
            "Annotate at least one more class: what is painted once can't be told from anything.",
        )
    if kind == "scribble" and case.role == Role.TRAIN and case.labeled:
        missing = [name for index, name in enumerate(cohort.schema.names, start=1) if index not in classes]
        if missing and len(classes) > 1:
            warn(
                f"The scribbles lack {', '.join(missing)}.",
                "Paint a stroke of every class that the scan shows.",
            )
        findings += _background_findings(case, labels, grid, classes)
    return findings, classes


def _background_findings(case: Case, scribbles: np.ndarray, grid: Geometry, classes: set[int]) -> Iterator[Finding]:
    """Whether the painted background shows what is *not* the structure, far away and on all sides."""
    if classes == {0}:
        return
    if 0 not in classes:
        yield Finding(
            case.id,
            "warning",
            "No background is painted.",
            "Paint some strokes of background around the structure and one far away: unpainted isn't background.",
        )
        return
    background = _sampled_points(scribbles == 0, grid)
    structure = _sampled_points((scribbles != 0) & (scribbles != IGNORE), grid)
    corners = np.array([[i, j, k] for i in (0, grid.size[0]) for j in (0, grid.size[1]) for k in (0, grid.size[2])])
    corners = corners @ grid.index_to_physical[:3, :3].T + grid.origin
    tree = cKDTree(structure)
    reach = np.quantile(tree.query(background)[0], 0.98)
    if reach < _FAR_SHARE * tree.query(corners)[0].max():
        yield Finding(
            case.id,
            "warning",
            f"All background strokes are near the structure (within {reach:.0f} mm).",
            "Paint one stroke far away, through the organs that look alike: they are the usual mistakes.",
        )
    middle = structure.mean(axis=0)
    offsets = (background - middle) @ np.linalg.inv(np.reshape(grid.direction, (3, 3))).T
    in_plane = np.argsort(grid.spacing, kind="stable")[:2]
    sides = offsets[:, in_plane]
    if any((sides[:, axis] > 0).mean() in (0.0, 1.0) for axis in range(2)):
        yield Finding(
            case.id,
            "warning",
            "Background is painted on one side of the structure only.",
            "Paint background on the other side, too.",
        )


def _cohort_findings(cohort: Cohort, trained_classes: set[int]) -> Iterator[Finding]:
    """What concerns all cases together."""
    training = [case for case in cohort.cases if case.role == Role.TRAIN]
    if not any(case.annotated for case in training):
        yield Finding(
            "",
            "error",
            "No training case has an annotation.",
            "Annotate at least one, or name the labeled cases.",
        )
    elif trained_classes:
        missing = [name for index, name in enumerate(cohort.schema.names, start=1) if index not in trained_classes]
        if missing:
            yield Finding(
                "",
                "error",
                f"No training case shows {', '.join(missing)}.",
                "Annotate it on at least one training case, or create the cohort without this class.",
            )
        if 0 not in trained_classes:
            yield Finding(
                "",
                "error",
                "No training case shows any background.",
                "Paint background, too: unpainted voxels aren't taken for background.",
            )
    seen: dict[str, Case] = {}
    for case in cohort.cases:
        digest = content_digest(case.image)
        other = seen.setdefault(digest, case)
        if other is not case and digest != "missing":
            yield Finding(
                case.id,
                "error" if other.role != case.role else "warning",
                f"The image is the same as that of case '{other.id}' ({other.role}).",
                "Keep one of them; a scan that trains can't measure.",
            )


def _sampled_points(mask: np.ndarray, grid: Geometry) -> np.ndarray:
    """Physical coordinates (n, 3) of the voxels of a mask, evenly thinned out if there are many."""
    voxels = np.flatnonzero(mask)
    voxels = voxels[:: max(1, len(voxels) // _SAMPLED_POINTS)]
    k, j, i = np.unravel_index(voxels, mask.shape)
    return np.stack([i, j, k], axis=1) @ grid.index_to_physical[:3, :3].T + grid.origin


def _share_outside(drawn: np.ndarray, own: Geometry, grid: Geometry, kind: str) -> float:
    """Share of an annotation that lies outside the image."""
    says_something = (drawn != IGNORE) & (drawn != 0) if kind == "label" else drawn != IGNORE
    points = _sampled_points(says_something, own)
    if not len(points):
        return 0.0
    found = (points - grid.origin) @ np.linalg.inv(grid.index_to_physical[:3, :3]).T
    return float(1 - ((found >= -0.5) & (found < np.subtract(grid.size, 0.5))).all(axis=1).mean())


def _grid_text(geometry: Geometry) -> str:
    size = " x ".join(map(str, geometry.size))
    spacing = " x ".join(f"{each:.3g}" for each in geometry.spacing)
    return f"{size} voxels of {spacing} mm"
