"""Commands to a training while it runs: preview, new annotations, checkpoint, pause."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING

import torch

from ..cohort import Cohort
from ..errors import SemiSupSegError
from ..events import Command
from .devices import empty_cache
from .prediction import Stopped, write_prediction

if TYPE_CHECKING:
    from .training import TrainingRun

_FOR_ALL = ("update_annotations",)
"""Commands that every process of a training obeys; the others are the leader's."""


class LiveCommands:
    """Obeys and answers each command between two steps; none of them can end the training but by ending the run.

    Parameters
    ----------
    run : TrainingRun
        The training; `update_annotations` changes its data.
    """

    def __init__(self, run: TrainingRun):
        self.run = run
        self.session = run.session
        self._actions = {
            "checkpoint": self._checkpoint,
            "preview": self._preview,
            "update_annotations": self._update_annotations,
            "resume": lambda command: "The run is not paused.",
        }

    def obey(self) -> None:
        """Obey what has come since the last call."""
        commands = self.run.processes.commands_of_leader(self.session.commands)
        for command in commands:
            if command.name == "pause":
                self._pause(command)
            elif self.run.processes.is_leader or command.name in _FOR_ALL:
                self.session.answer(command, *self._outcome(command))
        if any(command.name in _FOR_ALL for command in commands):
            self.run.check_agreement()

    def _outcome(self, command: Command) -> tuple[bool, str]:
        """Whether a command was obeyed, and the sentence to answer with."""
        action = self._actions.get(command.name)
        if action is None:
            return False, f"A training run has no command '{command.name}'."
        try:
            return True, action(command)
        except Stopped:
            return False, "The run was stopped."
        except SemiSupSegError as error:
            return False, str(error)
        except Exception as error:  # too little memory for a preview is no reason to lose the training
            self.session.log(traceback.format_exc())
            empty_cache(self.run.device)
            return False, f"That didn't work: {type(error).__name__}. The training goes on."

    def _checkpoint(self, command: Command) -> str:
        return f"Checkpoint of iteration {self.run.trainer.iteration} written to {self.run.save_checkpoint().name}."

    def _preview(self, command: Command) -> str:
        """Predict a case with the teacher as it is now."""
        run = self.run
        case = run.data.cohort.case(command.fields["case"])
        volume = run.data.cohort.read_image(case)
        prediction = run.predictor("teacher")(volume, run.stop_if_asked, case.id)
        folder = self.session.folder.predictions / "preview"
        files = write_prediction(folder, case.id, volume, prediction, run.data.cohort.schema, compress=False)
        self.session.emit(
            "preview",
            case=case.id,
            files={kind: str(path) for kind, path in files.items()},
            score=prediction.score,
        )
        return f"Preview of {case.id} written."

    def _update_annotations(self, command: Command) -> str:
        """Read a case's annotation again, in the cohort as it is on disk now; use it from the next batch on."""
        run, case_id = self.run, command.fields["case"]
        run.data.update_annotation(Cohort.load(self.session.request.cohort), case_id)
        run.trainer.replace_cases(run.data.cases)
        return f"Annotations of {case_id} are used from iteration {run.trainer.iteration} on."

    def _pause(self, command: Command) -> None:
        """Leave the device until told to go on."""
        run = self.run
        problem = run.processes.of_leader(self._problem_with_checkpoint)
        if problem:
            self.session.answer(command, False, problem)
            return
        run.move_to(torch.device("cpu"))
        self.session.answer(command, True, f"The run is paused at iteration {run.trainer.iteration}.")
        if run.processes.of_leader(self.session.wait_until_resumed):
            run.move_to(run.device)

    def _problem_with_checkpoint(self) -> str:
        """Write a checkpoint; why that didn't work, if it didn't."""
        try:
            self.run.save_checkpoint()
        except SemiSupSegError as error:
            return str(error)
        return ""
