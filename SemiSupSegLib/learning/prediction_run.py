"""A prediction run: from the request in a run folder to files, one model load for any number of images."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..cohort import Cohort
from ..errors import CohortError, ErrorCode, SemiSupSegError
from ..files import write_json_atomically
from ..models import Model
from ..runs import RunRequest
from ..training_settings import PredictionSettings
from ..volume import Volume, extension_of, read_volume
from .distributed import Processes, joined_processes
from .prediction import Predictor, Stopped, write_prediction
from .session import Outcome, Session


@dataclass(frozen=True)
class Job:
    """One image to predict: its name, and how to read it."""

    name: str
    read: Callable[[], Volume]


def predict_run(session: Session) -> Outcome:
    """Do what a run of task *predict* asks for.

    An image that can't be read or predicted is passed over with a warning; what was written before stays.

    Parameters
    ----------
    session : session.Session
        Its request names the model, and a cohort with cases or loose images.

    Returns
    -------
    session.Outcome
        The files written, ``predictions.json`` with each case's uncertainty last.

    Raises
    ------
    SemiSupSegError
        If the model or the list of images can't be used, or not one image could be predicted.
    """
    with joined_processes() as processes:
        return _PredictionRun(session, processes)()


class _PredictionRun:
    """The state of one prediction run."""

    def __init__(self, session: Session, processes: Processes):
        request = session.request
        self.session = session
        self.processes = processes
        self.settings = PredictionSettings.from_json(request.settings.get("prediction", {}))
        self.model = Model.load(request.model)
        self.folder = Path(request.settings.get("out") or session.folder.predictions)
        self.jobs = list(_jobs(request))

    def __call__(self) -> Outcome:
        device = self.processes.device(self.settings.device)
        # A CPU is shared by nature: nobody should wait for a training to end to see one scan.
        if device.type != "cpu" and not self.processes.of_leader(lambda: self.session.hold_device(str(device))):
            return Outcome()
        self.predictor = Predictor.of_model(self.model, replace(self.settings, device=str(device)))
        own = self._predict(self.processes.own(self.jobs))
        shares = self.processes.of_each(lambda: own)
        for result in itertools.chain(*shares[1:]):  # the leader's have been told as they came
            self._tell(result)
        return self._finish({result["case"]: result for result in itertools.chain(*shares)})

    def _predict(self, jobs: Sequence[Job]) -> list[dict[str, Any]]:
        """What became of each image: ``case`` with ``files`` and ``score``, or with an ``error``."""
        results: list[dict[str, Any]] = []
        for index, job in enumerate(jobs):
            progress = _Progress(self.session, job.name, index, len(jobs))
            try:
                progress(0.0)
                volume = job.read()
                prediction = self.predictor(volume, progress, job.name)
            except Stopped:
                break
            except SemiSupSegError as error:
                results.append({"case": job.name, "error": error.to_json()})
            else:
                files = write_prediction(
                    self.folder, job.name, volume, prediction, self.model.schema, compress=self.settings.compress
                )
                paths = {kind: str(path) for kind, path in files.items()}
                results.append({"case": job.name, "files": paths, "score": prediction.score})
            self._tell(results[-1])
            self.session.heartbeat(index + 1)
        return results

    def _tell(self, result: dict[str, Any]) -> None:
        if "error" in result:
            if len(self.jobs) == 1:  # the run fails, and says why
                return
            error = result["error"]
            self.session.warn(f"{result['case']} was passed over: {error['message']}", error["remedy"])
        else:
            self.session.emit("preview", **result)

    def _finish(self, results: dict[str, dict[str, Any]]) -> Outcome:
        """The files of all processes, and the summary in the order in which the images were named."""
        done = [results[job.name] for job in self.jobs if job.name in results]
        good = [result for result in done if "error" not in result]
        if done and not good:
            error = done[0]["error"]
            raise SemiSupSegError(error["message"], error["remedy"], code=ErrorCode(error["code"]))
        summary = self.folder / "predictions.json"
        if self.processes.is_leader:
            scores = {result["case"]: result["score"] for result in good}
            body = {"model": self.model.name, "method": self.model.method, "uncertainty": scores}
            write_json_atomically(summary, body)
        files = [Path(path) for result in good for path in result["files"].values()]
        return Outcome(files=(*files, summary), iteration=len(good))


@dataclass(frozen=True)
class _Progress:
    """Tells how far a prediction run is; raises `Stopped` where it is to stop."""

    session: Session
    name: str
    index: int
    count: int

    def __call__(self, fraction: float) -> None:
        if self.session.stop is not None:
            raise Stopped
        self.session.emit("progress", stage=f"Predicting {self.name}", fraction=(self.index + fraction) / self.count,
                          iteration=self.index, iterations=self.count, seconds_left=None)  # fmt: skip


def _jobs(request: RunRequest) -> Iterator[Job]:
    """Every image that a request names; what is wrong with the list is said before the first prediction."""
    if request.cohort:
        cohort = Cohort.load(request.cohort)
        wanted = request.settings.get("cases") or [case.id for case in cohort.cases]
        for case in [cohort.case(each) for each in wanted]:
            yield Job(case.id, lambda case=case: cohort.read_image(case))
    names: set[str] = set()
    for image in request.images:
        if not Path(image).exists():
            raise SemiSupSegError(f"There is no image '{image}'.", "Check the path.", code=ErrorCode.MISSING_FILE)
        name = Path(image).name.removesuffix(extension_of(image))
        if name.casefold() in names:
            raise CohortError(f"Two images are called '{name}'.", "Predict them into different folders.")
        names.add(name.casefold())
        yield Job(name, lambda image=image: read_volume(image))
    if not request.cohort and not names:
        raise SemiSupSegError("There is nothing to predict.", "Give a cohort or at least one image.")
