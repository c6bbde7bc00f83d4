"""The training cases on the plan's grid: compact, and resident on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..cohort import Case, Cohort, Role
from ..errors import CohortError, ErrorCode
from ..labels import IGNORE
from ..volume import Geometry, check_image, resample_labels
from .array_cache import ArrayCache, file_identity
from .plan import Plan, prepare_image

_MOST_LISTED_VOXELS = 20_000
_NO_CACHE = ArrayCache()
_PREPARATION = 1
"""Counts up when the same file and plan give other arrays than before, so that cached ones aren't taken for them."""


@dataclass
class TrainingCase:
    """One case as training sees it; all arrays (k, j, i) on the plan's grid, on the device.

    Attributes
    ----------
    id : str
        The case's ID in the cohort.
    geometry : Geometry
        The grid.
    image : torch.Tensor
        Normalised grey values, float16.
    annotation : torch.Tensor or None
        Class indices, uint8, 255 where not annotated; None for a case that trains without annotation.
    superpixels : torch.Tensor or None
        Superpixel ids, int32, for methods that use them.
    expanded : torch.Tensor or None
        The annotation and what follows from it, uint8, for methods that use that: `BEYOND` far from the object, and,
        for methods with superpixels, classes of superpixels with strokes. None where nothing follows.
    accepted : torch.Tensor or None
        Where the annotation is what people accepted without painting it, bool; None where they painted all of it.
    is_dense : bool
        Whether the annotation is a dense label, of which 255 marks ties only.
    voxels : dict of int to numpy.ndarray
        Flat indices of annotated voxels by class, a fixed sample where there are many.
    counts : dict of int to int
        How many annotated voxels each class really has.
    """

    id: str
    geometry: Geometry
    image: Tensor
    annotation: Tensor | None = None
    superpixels: Tensor | None = None
    expanded: Tensor | None = None
    accepted: Tensor | None = None
    is_dense: bool = False
    voxels: dict[int, np.ndarray] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Array shape (k, j, i)."""
        return tuple(self.image.shape)

    def annotate(self, annotation: np.ndarray | None, *, is_dense: bool = False) -> None:
        """Use an annotation, or another one than before, from the next patch on."""
        self.expanded = self.accepted = None
        self.is_dense = is_dense and annotation is not None
        if annotation is None:
            self.annotation, self.voxels, self.counts = None, {}, {}
            return
        self.annotation = torch.from_numpy(annotation).to(self.image.device)
        self.voxels, self.counts = _list_voxels(annotation)

    def accept(self, proposals: np.ndarray) -> None:
        """Train with proposals that people accepted, too, where nobody painted; 255 where there are none."""
        painted = self.annotation.cpu().numpy()
        accepted = (painted == IGNORE) & (proposals != IGNORE)
        self.annotate(np.where(accepted, proposals, painted))
        self.accepted = torch.from_numpy(accepted).to(self.image.device)

    @property
    def strokes(self) -> Tensor | None:
        """The annotation as far as people painted it."""
        return self.annotation if self.accepted is None else self.annotation.masked_fill(self.accepted, IGNORE)

    def move_to(self, device: torch.device) -> None:
        """Move all arrays to a device."""
        for name in ("image", "annotation", "superpixels", "expanded", "accepted"):
            tensor = getattr(self, name)
            setattr(self, name, None if tensor is None else tensor.to(device))


def load_training_cases(
    cohort: Cohort,
    plan: Plan,
    device: torch.device,
    *,
    annotations: str,
    unlabeled: bool,
    cache: ArrayCache = _NO_CACHE,
    on_progress: Callable[[float, str], None] = lambda fraction, text: None,
) -> list[TrainingCase]:
    """Every case of role *train* that a method can use.

    Parameters
    ----------
    annotations : {"auto", "dense", "scribbles", "dense only"}
        Which annotation of a case that has both; with "dense only", scribbles train nowhere.
    unlabeled : bool
        Whether cases without annotation are wanted too.
    cache : ArrayCache
        Of the cases' arrays.

    Raises
    ------
    CohortError
        With code ``no-annotation`` if no case has an annotated voxel, or only one class is annotated in all.
    """
    members = cohort.cases_of(Role.TRAIN)
    loaded = []
    for index, member in enumerate(members):
        on_progress(index / len(members), f"Loading {member.id}")
        if member.trains_with(annotations) is not None or unlabeled:
            case = load_case(cohort, member, plan, device, annotations=annotations, cache=cache)
            if case.annotation is not None or unlabeled:
                loaded.append(case)
    _check_annotations(loaded, annotations)
    return loaded


def load_validation_cases(
    cohort: Cohort,
    plan: Plan,
    device: torch.device,
    *,
    cache: ArrayCache = _NO_CACHE,
    on_progress: Callable[[float, str], None] = lambda fraction, text: None,
) -> list[TrainingCase]:
    """Every case of role *validation* with its dense label; raises `CohortError` where one has none."""
    members = cohort.cases_of(Role.VALIDATION)
    loaded = []
    for index, member in enumerate(members):
        on_progress(index / len(members), f"Loading {member.id}")
        case = _load_image(cohort, member, plan, device, cache)
        case.annotate(_on_grid(cohort, member, "label", case.geometry, cache), is_dense=True)
        loaded.append(case)
    return loaded


def load_case(
    cohort: Cohort,
    member: Case,
    plan: Plan,
    device: torch.device,
    *,
    annotations: str = "auto",
    cache: ArrayCache = _NO_CACHE,
) -> TrainingCase:
    """One training case on the plan's grid."""
    case = _load_image(cohort, member, plan, device, cache)
    labels, is_dense = read_annotation(cohort, member, case.geometry, annotations, cache)
    case.annotate(labels, is_dense=is_dense)
    return case


def read_annotation(
    cohort: Cohort, member: Case, geometry: Geometry, annotations: str, cache: ArrayCache = _NO_CACHE
) -> tuple[np.ndarray | None, bool]:
    """What a case trains with, on a grid, and whether it is a dense label; None where no voxel is annotated."""
    kind = member.trains_with(annotations)
    if kind is None:
        return None, False
    labels = _on_grid(cohort, member, kind, geometry, cache)
    return (labels if (labels != IGNORE).any() else None), kind == "label"


def read_proposals(cohort: Cohort, member: Case, geometry: Geometry) -> np.ndarray | None:
    """The superpixel proposals that people accepted on a scribbled case, on a grid; None where there are none.

    They are guesses that somebody agreed with: better than a pseudo-label, but no strokes.
    """
    if member.proposals is None:
        return None
    labels = resample_labels(cohort.read_proposals(member), cohort.read_geometry(member), geometry)
    return labels if (labels != IGNORE).any() else None


def _load_image(cohort: Cohort, member: Case, plan: Plan, device: torch.device, cache: ArrayCache) -> TrainingCase:
    own = cohort.read_geometry(member)
    geometry = own.with_spacing(plan.training_spacing(own.spacing))

    def make() -> np.ndarray:
        volume = cohort.read_image(member)
        check_image(volume, member.id)
        return prepare_image(volume, plan).array.astype(np.float16)

    about = [_PREPARATION, geometry.to_json(), asdict(plan.normalisation)]
    array = cache.get(member.image, "image", about, make, shape=geometry.shape, dtype=np.float16)
    return TrainingCase(member.id, geometry, torch.from_numpy(array).to(device))


def _on_grid(cohort: Cohort, member: Case, kind: str, geometry: Geometry, cache: ArrayCache) -> np.ndarray:
    """A case's "label" or "scribble" on a grid."""
    file = getattr(member, kind)
    read = cohort.read_label if kind == "label" else cohort.read_scribble
    if file is None:
        return read(member)  # which says so

    def make() -> np.ndarray:
        return resample_labels(read(member), cohort.read_geometry(member), geometry)

    values = None if file.values is None else dict(file.values)
    about = [_PREPARATION, values, cohort.schema.to_json(), file_identity(member.image), geometry.to_json()]
    return cache.get(file.path, kind, about, make, shape=geometry.shape, dtype=np.uint8)


def _check_annotations(cases: Iterable[TrainingCase], annotations: str) -> None:
    annotated = [case for case in cases if case.annotation is not None]
    if not annotated:
        dense = annotations == "dense only"
        raise CohortError(
            "No training case has a dense label." if dense else "No training case has an annotated voxel.",
            "Add dense labels, or choose the method 'sp3', which learns from scribbles."
            if dense
            else "Paint scribbles of every class, background too, on a few cases.",
            code=ErrorCode.NO_ANNOTATION,
        )
    classes = {label for case in annotated for label in case.counts}
    if len(classes) < 2:
        raise CohortError(
            "Only one class is annotated in all training cases.",
            "Annotate the background and at least one structure.",
            code=ErrorCode.NO_ANNOTATION,
        )


def _list_voxels(annotation: np.ndarray) -> tuple[dict[int, np.ndarray], dict[int, int]]:
    """Flat indices of annotated voxels by class (a fixed sample of many), and how many there are."""
    flat = annotation.reshape(-1)
    voxels, counts = {}, {}
    for label in np.flatnonzero(np.bincount(flat, minlength=IGNORE + 1)[:IGNORE]):
        found = np.flatnonzero(flat == label)
        counts[int(label)] = found.size
        step = -(-found.size // _MOST_LISTED_VOXELS)
        voxels[int(label)] = found[::step]
    return voxels, counts
