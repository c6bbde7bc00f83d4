"""From the start of a worker to the first step of its training, on a cohort that was trained on before."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from SemiSupSegLib.cohort import Cohort
from SemiSupSegLib.cohort_creation import create_cohort
from SemiSupSegLib.launch import BOOTSTRAP
from SemiSupSegLib.phantom import make_phantom_cohort
from SemiSupSegLib.runs import RunFolder, RunRequest
from SemiSupSegLib.training_settings import TrainingSettings

from .rows import Options, Row, attempt

_LIMIT_SECONDS = 5.0
_PARTS = {"Looking": "imports", "Loading": "plan", "Supervoxels": "data", "Measuring": "data", "plan": "timed steps"}
"""What is over when an event comes; what follows the last of them is the first step itself."""


def rows(options: Options) -> Iterator[Row]:
    """The recommended method, and the plainest one."""
    with tempfile.TemporaryDirectory() as folder:
        cohort = _cohort(options, Path(folder))
        for method in ("sp3", "partial"):
            name = f"start to first step, {method}, {len(cohort.cases)} cases"
            yield attempt(name, "the limit", partial(_row, options, cohort, method, name), aim=1.0)


def _row(options: Options, cohort: Cohort, method: str, name: str) -> Row:
    _start(options, cohort, method)  # fills the cohort's cache, and the system's
    starts = [_start(options, cohort, method) for _ in range(options.pick(5, 5, 1))]
    starts.sort(key=lambda each: sum(each.values()))
    middle = starts[len(starts) // 2]
    totals = [sum(each.values()) for each in starts]
    note = ", ".join(f"{part} {seconds:.2f} s" for part, seconds in middle.items())
    values = {"ours": totals, "parts": middle}
    return Row(name, "the limit", statistics.median(totals), _LIMIT_SECONDS, aim=1.0, note=note, values=values)


def _start(options: Options, cohort: Cohort, method: str) -> dict[str, float]:
    """Seconds of each part of a start."""
    settings = TrainingSettings().with_overrides(
        [f"method={method}", "minutes=20", f"device={options.device}", f"threads={options.threads}"]
    )
    folder = Path(tempfile.mkdtemp()) / "run"
    request = RunRequest(task="train", cohort=str(cohort.path), settings=settings.to_json(), exclusive=False)
    RunFolder.create(folder, request)
    begun = last = time.time()
    command = [sys.executable, "-u", str(BOOTSTRAP), str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    parts: dict[str, float] = {}

    def over(part: str, at: float) -> None:
        nonlocal last
        parts[part] = parts.get(part, 0.0) + at - last
        last = at

    seen = set()
    try:
        for line in process.stdout:
            event = json.loads(line)
            kind = event["stage"].split()[0] if event["event"] == "progress" else event["event"]
            if kind == "started":
                over("process", event["time"])
            elif kind in _PARTS and kind not in seen:
                over(_PARTS[kind], event["time"])
            elif kind == "error":
                raise RuntimeError(event["message"])
            seen.add(kind)
            if kind == "metric":
                over("first step", event["time"])
                return parts
        raise RuntimeError(f"the worker ended after {time.time() - begun:.1f} s without a step")
    finally:
        process.kill()
        process.communicate()
        shutil.rmtree(folder.parent, ignore_errors=True)


def _cohort(options: Options, folder: Path) -> Cohort:
    """The left atrium's training scans, four of them scribbled, or phantoms where the data aren't there."""
    if options.data is None or options.tiny:
        n_cases = options.pick(80, 20, 4)
        shape = options.pick((88, 140, 183), (44, 70, 90), (16, 32, 32))
        return make_phantom_cohort(folder / "phantoms", n_cases, shape, options.seed, n_scribbled=4, n_test=0)
    scans = options.data / "LA" / "train"
    cohort = create_cohort(
        scans / "images",
        scribbles=scans / "scribbles",
        scribble_values="background=1,left atrium=2",
        labeled=[f"LA_{index:03}" for index in range(1, 5)],
    )
    return cohort.save(folder / "cohort.json")
