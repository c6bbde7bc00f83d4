"""Everything that a training is fed with: training and validation cases, superpixels, and their changes on the way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ..cohort import Cohort, Role
from ..errors import CohortError, ErrorCode
from ..training_settings import TrainingSettings
from .array_cache import ArrayCache, cache_folder
from .cases import (
    TrainingCase,
    load_case,
    load_training_cases,
    load_validation_cases,
    read_annotation,
    read_proposals,
)
from .devices import empty_cache
from .held_out_strokes import HeldOutStrokes
from .memory import is_out_of_memory
from .methods import METHODS
from .plan import Plan
from .superpixel_preparation import SuperpixelPreparation

OnProgress = Callable[[float, str], None]


class TrainingData:
    """The cases of a training on the plan's grid.

    Parameters
    ----------
    cohort : Cohort
        Where they come from.
    settings : TrainingSettings
        The method decides on annotations, unlabeled cases and superpixels.
    plan : Plan
        Grid and grey values.
    device : torch.device
        Where the cases are to lie.
    run_folder : pathlib.Path
        Keeps prepared arrays and superpixels where the cohort's folder can't.
    on_progress : callable
        Called with a fraction 0..1 and text; may raise to stop.

    Attributes
    ----------
    cases, validation : list of TrainingCase
        In the cohort's order.
    held_out : HeldOutStrokes or None
        Strokes that are measured instead of validation cases, where settings ask for it.
    superpixels : SuperpixelPreparation
        What the method needs of them, perhaps nothing.
    """

    def __init__(
        self,
        cohort: Cohort,
        settings: TrainingSettings,
        plan: Plan,
        device: torch.device,
        run_folder: Path,
        on_progress: OnProgress = lambda fraction, text: None,
    ):
        method = METHODS[settings.method]
        self.cohort = cohort
        self.plan = plan
        self.device = device
        self.annotations = settings.annotations
        if settings.annotations == "auto" and method.trains_on == "dense":
            self.annotations = "dense only"
        folder = cache_folder(cohort, run_folder)
        self.cache = ArrayCache(folder)
        self.cases = load_training_cases(
            cohort, plan, device, annotations=self.annotations, unlabeled=method.uses_unlabeled, cache=self.cache,
            on_progress=on_progress,
        )  # fmt: skip
        self.validation: list[TrainingCase] = []
        if settings.validations > 0:
            self.validation = load_validation_cases(cohort, plan, device, cache=self.cache, on_progress=on_progress)
        self.held_out: HeldOutStrokes | None = None
        if settings.held_out_strokes and settings.validations > 0 and not self.validation:
            self.held_out = HeldOutStrokes(settings.seed, held_out_file(run_folder))
        self.superpixels = SuperpixelPreparation(settings, plan, folder)
        for index, case in enumerate(self.cases):
            if self.superpixels.is_needed(case):
                on_progress(index / len(self.cases), f"Supervoxels of {case.id}")
            self._complete(case, self._proposals(case, cohort))

    @property
    def dense_cases(self) -> list[TrainingCase]:
        """Training cases with dense labels."""
        return [case for case in self.cases if case.is_dense]

    def update_annotation(self, cohort: Cohort, case_id: str) -> None:
        """Read a case's annotation, or a whole new case, from a later state of the cohort.

        Raises
        ------
        CohortError
            If the classes changed, the case doesn't train, or nothing annotated would be left. Nothing is changed then.
        """
        if cohort.schema.names != self.cohort.schema.names:
            raise CohortError("The classes of the cohort have changed.", "Start a new run for other classes.")
        member = cohort.case(case_id)
        if member.role != Role.TRAIN:
            raise CohortError(f"Case '{case_id}' is not a training case.", "Change its role first.")
        case = next((each for each in self.cases if each.id == case_id), None)
        if case is None:
            new = load_case(cohort, member, self.plan, self.device, annotations=self.annotations, cache=self.cache)
            self._add(new, cohort)
        else:
            labels, is_dense = read_annotation(cohort, member, case.geometry, self.annotations, self.cache)
            proposals = None if labels is None or is_dense else read_proposals(cohort, member, case.geometry)
            if labels is None and all(each.annotation is None for each in self.cases if each is not case):
                raise CohortError(
                    "No training case would have an annotated voxel.",
                    "Keep at least one annotation.",
                    code=ErrorCode.NO_ANNOTATION,
                )
            case.annotate(labels, is_dense=is_dense)
            self._complete(case, proposals)
        self.cohort = cohort

    def move_to(self, device: torch.device) -> None:
        """Move all cases to a device."""
        for case in (*self.cases, *self.validation):
            case.move_to(device)

    def _proposals(self, case: TrainingCase, cohort: Cohort) -> np.ndarray | None:
        """What people accepted on a scribbled case."""
        if case.annotation is None or case.is_dense:
            return None
        return read_proposals(cohort, cohort.case(case.id), case.geometry)

    def _complete(self, case: TrainingCase, proposals: np.ndarray | None) -> None:
        """Hold strokes out of an annotation that was read, and add what wasn't painted.

        Accepted proposals count as expanded scribbles where a method has those, else as annotation. Superpixels and
        what follows from them come last.
        """
        if self.held_out is not None:
            self.held_out.take(case)
            proposals = None if proposals is None else self.held_out.withhold(case.id, proposals)
        if proposals is not None and not self.superpixels.uses_superpixels:
            case.accept(proposals)
            proposals = None
        self.superpixels.prepare(case, proposals)

    def _add(self, case: TrainingCase, cohort: Cohort) -> None:
        """Take in a case at its place in the cohort's order, as a resumed training has it."""
        self._complete(case, self._proposals(case, cohort))
        order = {each.id: index for index, each in enumerate(cohort.cases)}
        self.cases = sorted([*self.cases, case], key=lambda each: order.get(each.id, len(order)))


def held_out_file(run_folder: Path) -> Path:
    """Where a run remembers which strokes it holds out."""
    return run_folder / "held_out.safetensors"


def load_training_data(
    cohort: Cohort,
    settings: TrainingSettings,
    plan: Plan,
    device: torch.device,
    run_folder: Path,
    *,
    on_progress: OnProgress,
    warn: Callable[[str], None],
) -> TrainingData:
    """Cases on the device; in the computer's memory where a GPU has too little, and patches go to it one by one."""
    try:
        return TrainingData(cohort, settings, plan, device, run_folder, on_progress)
    except (RuntimeError, MemoryError) as error:
        if device.type == "cpu" or not is_out_of_memory(error):
            raise
    warn(f"The scans don't fit into the memory of {device}: they stay outside, which is slower.")
    empty_cache(device)
    return TrainingData(cohort, settings, plan, torch.device("cpu"), run_folder, on_progress)
