"""The same faults on a real training (torch, a phantom cohort, seconds long): weights as if nothing had happened."""

from __future__ import annotations

import signal
import time

from SemiSupSegLib.files import sha256_of
from SemiSupSegLib.phantom import make_phantom_cohort
from SemiSupSegLib.runner import BOOTSTRAP, Runner
from SemiSupSegLib.runs import RunFolder, RunRequest, State
from SemiSupSegLib.training_settings import TrainingSettings

from .laboratory import BEHIND_LAUNCHER, PYTHON, Laboratory, Result, orphans_of, poll_until, send_signal

_SETTINGS = (
    "method=sp3", "iterations=60", "device=cpu", "threads=1", "checkpoint_minutes=0.01", "plan.features=4,8",
    "plan.patch=16,16,16", "validations=0", "schedule.unlabeled_start=0.06",
)  # fmt: skip
_PATIENCE_SECONDS = 120.0


def real_training_broken(lab: Laboratory) -> Result:
    """A real training, killed (SIGKILL) or cancelled at a random moment and resumed: the same weights, to the bit."""
    result = Result("real training killed or cancelled, resumed")
    if lab.quick:
        result.note = "only in the long form"
        return result
    make_phantom_cohort(lab.folder / "cohort", n_cases=4, shape=(16, 32, 32), n_scribbled=2, n_test=1)
    began = time.monotonic()
    undisturbed = _start(lab, "undisturbed", PYTHON)
    undisturbed.wait(_PATIENCE_SECONDS)
    seconds = time.monotonic() - began
    weights = _weights(undisturbed.folder)
    broken_at = []
    for index in lab.tries(12, 0):
        runner = _start(lab, f"broken {index}", BEHIND_LAUNCHER if index % 2 else PYTHON)
        moment = time.monotonic() + lab.random.uniform(0.3, 1.0) * seconds
        poll_until(runner, lambda until=moment, its=runner: time.monotonic() > until or its.state is not None)
        if runner.worker is not None and index % 3:
            send_signal(runner.worker.pid, signal.SIGKILL)
        else:
            runner.cancel()
        asked = time.monotonic()
        state = runner.wait(_PATIENCE_SECONDS)
        notice = time.monotonic() - asked
        orphans = orphans_of(runner.folder, [runner.worker.pid] if runner.worker else [])
        broken_at.append(runner.folder.read_status().iteration)
        resumed = Runner(runner.folder, python=PYTHON, bootstrap=BOOTSTRAP)
        resumed.start()
        problem = "" if state is not None and state.is_over else "not noticed"
        if resumed.wait(_PATIENCE_SECONDS) is not State.FINISHED:
            problem = problem or f"can't be resumed: {resumed.state}, {resumed.error}"
        elif _weights(runner.folder) != weights:
            problem = problem or f"other weights after a break at about iteration {broken_at[-1]}"
        result.count(problem, notice=notice, orphans=orphans)
    result.note = f"SP3, broken at about iterations {', '.join(map(str, sorted(broken_at)))} of 60"
    return result


def real_start_up(lab: Laboratory) -> Result:
    """Where the time goes from the start to the first optimiser step of a real training."""
    result = Result("time to start (real training)")
    if lab.quick:
        result.note = "only in the long form"
        return result
    make_phantom_cohort(lab.folder / "cohort", n_cases=4, shape=(16, 32, 32), n_scribbled=2, n_test=1)
    for index in lab.tries(3, 0):
        began = time.time()
        moments: dict[str, float] = {}
        runner = _start(lab, f"start {index}", PYTHON)
        state = runner.wait(
            _PATIENCE_SECONDS, lambda event, seen=moments, zero=began: seen.setdefault(event.name, event.time - zero)
        )
        result.count("" if state is State.FINISHED else f"{state}: {runner.error}")
        imports = moments.get("progress", 0.0) - moments.get("started", 0.0)
        rest = moments.get("metric", 0.0) - moments.get("progress", 0.0)
        result.note = (
            f"process {moments.get('started', 0):.2f} s, imports {imports:.2f} s, data and first step {rest:.2f} s"
        )
    return result


def _start(lab: Laboratory, name: str, python: tuple[str, ...]) -> Runner:
    settings = TrainingSettings().with_overrides(_SETTINGS).to_json()
    request = RunRequest("train", cohort=str(lab.folder / "cohort" / "cohort.json"), settings=settings)
    runner = Runner(RunFolder.create(lab.folder / name, request), python=python)
    runner.start()
    return runner


def _weights(folder: RunFolder) -> str:
    return sha256_of(folder.model / "student.safetensors") + sha256_of(folder.model / "teacher.safetensors")
