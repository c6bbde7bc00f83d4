"""A prediction run: from the request in a run folder to files, one model load for any number of images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ..cohort import Cohort
from ..errors import CohortError, ErrorCode, SemiSupSegError
from ..files import write_json_atomically
from ..models import Model
from ..runs import RunRequest
from ..training_settings import PredictionSettings
from ..volume import Volume, extension_of, read_volume
from .devices import choose_device
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
    request = session.request
    settings = PredictionSettings.from_json(request.settings.get("prediction", {}))
    model = Model.load(request.model)
    folder = Path(request.settings.get("out") or session.folder.predictions)
    jobs = list(_jobs(request))
    device = choose_device(settings.device)
    # A CPU is shared by nature: nobody should wait for a training to end to see one scan.
    if device.type != "cpu" and not session.hold_device(str(device)):
        return Outcome()
    predictor = Predictor.of_model(model, replace(settings, device=str(device)))
    written: list[Path] = []
    scores: dict[str, float] = {}
    problems: list[SemiSupSegError] = []
    for index, job in enumerate(jobs):
        progress = _Progress(session, job.name, index, len(jobs))
        try:
            progress(0.0)
            volume = job.read()
            prediction = predictor(volume, progress, job.name)
        except Stopped:
            break
        except SemiSupSegError as error:
            problems.append(error)
            session.warn(f"{job.name} was passed over: {error.message}", error.remedy)
            continue
        files = write_prediction(folder, job.name, volume, prediction, model.schema, compress=settings.compress)
        written += files.values()
        scores[job.name] = prediction.score
        session.emit("preview", case=job.name, files={kind: str(path) for kind, path in files.items()},
                     score=prediction.score)  # fmt: skip
        session.heartbeat(index + 1)
    if problems and not scores:
        raise problems[0]
    summary = folder / "predictions.json"
    write_json_atomically(summary, {"model": model.name, "method": model.method, "uncertainty": scores})
    return Outcome(files=(*written, summary), iteration=len(scores))


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
