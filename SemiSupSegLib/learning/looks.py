"""What a training looks at on its way: how well it predicts, and which classes are one piece."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from .budget import Look
from .checkpoints import save_tensors
from .losses import winners
from .one_piece import MOST_CASES, classes_that_strokes_show_as_one_piece
from .prediction import Stopped
from .validation import Validation, is_due

if TYPE_CHECKING:
    from .training import TrainingRun

_PIECES_TIMES = 10


class Looks:
    """Takes the looks that are due after a step; what a stop cuts short comes first after a resume.

    Parameters
    ----------
    run : TrainingRun
        The training; its data are loaded.

    Attributes
    ----------
    times : dict of str to int
        How often each kind of look is taken in the whole training.
    are_owed : bool
        Whether a stop came between a step and what was due after it.
    """

    def __init__(self, run: TrainingRun):
        self.run = run
        self.validation = Validation(run.data, run.processes)
        self.times = {kind: look.times for kind, look in self.wanted().items()}
        self.are_owed = False

    def wanted(self) -> dict[str, Look]:
        """Each kind of look as settings want it: ``validations``, and ``pieces`` where strokes tell what is one."""
        run = self.run
        annotated = [case for case in run.data.cases if case.annotation is not None]
        asks_strokes = run.settings.largest_component == "auto" and not run.data.dense_cases
        voxels = sum(case.image.numel() for case in annotated) * min(1.0, MOST_CASES / len(annotated))
        return {
            "validations": Look(run.settings.validations, self.validation.voxels()),
            "pieces": Look(_PIECES_TIMES if asks_strokes else 0, round(voxels)),
        }

    def take(self) -> None:
        """Whatever is due after the training's last step."""
        self.are_owed = True
        try:
            if self._is_due("pieces") and not self.run.data.dense_cases:
                self._look_at_pieces()
            if self._is_due("validations") and self.validation.is_possible:
                self._validate()
        except Stopped:  # the training's loop sees it, too, and saves a checkpoint
            return
        self.are_owed = False

    def _is_due(self, kind: str) -> bool:
        return is_due(self.run.trainer.iteration, self.run.iterations, self.times[kind])

    def _validate(self) -> None:
        """Dice of student and teacher, of which the best so far is kept; or agreement with held-out strokes."""
        run, iteration = self.run, self.run.trainer.iteration
        dice = self.validation.dice(run.predictor, run.stop_if_asked)
        agreement = self.validation.agreement(run.predictor, run.stop_if_asked)
        values = {f"validation dice {name}": value for name, value in dice.items()}
        if agreement is not None:
            values["held-out agreement"] = agreement
        if values:
            run.session.emit("metric", iteration=iteration, values=values)
        is_best = dice and (run.best is None or max(dice.values()) > run.best["dice"])
        if is_best and run.processes.is_leader:
            winner = max(dice, key=dice.get)
            folder = run.session.folder.model
            folder.mkdir(parents=True, exist_ok=True)
            save_tensors(folder / "best.safetensors", getattr(run.trainer, winner).state_dict())
            run.best = {"dice": dice[winner], "iteration": iteration}
            run.session.folder.update_request(best=run.best)

    def _look_at_pieces(self) -> None:
        """Ask the strokes what is one piece, where settings leave it open and no dense label tells."""
        run, predictor = self.run, self.run.predictor("teacher")

        def labels(image: Tensor) -> Tensor:
            return winners(predictor.on_plan_grid(image.to(predictor.device), run.stop_if_asked), dim=0)

        # What people accepted is no stroke: it lies where a network or superpixels had it.
        cases = [replace(case, annotation=case.strokes) for case in run.data.cases]
        n_classes, whereabouts = run.plan.n_classes, run.trainer.whereabouts
        run.trainer.one_piece = tuple(run.processes.of_leader(
            lambda: list(classes_that_strokes_show_as_one_piece(cases, labels, n_classes, whereabouts))
        ))  # fmt: skip
