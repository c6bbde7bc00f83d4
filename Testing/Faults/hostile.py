"""Input that somebody, or a broken disk, has tampered with."""

from __future__ import annotations

import json
import os
import sys
import time

from SemiSupSegLib.errors import SemiSupSegError
from SemiSupSegLib.events import encode_event
from SemiSupSegLib.runs import RunFolder, RunRequest, State, Status

from .damage import mutated
from .laboratory import PATIENCE_SECONDS, Laboratory, Result, family, orphans_of, poll_until

_EVENTS = (
    ("started", {"pid": 1, "process_start": "x", "task": "train", "versions": {"torch": "2"}}),
    ("metric", {"iteration": 3, "values": {"loss": 0.5, "dice": 0.25}}),
    ("progress", {"stage": "Training", "fraction": 0.5, "iteration": 3, "iterations": 6, "seconds_left": 9.5}),
    ("preview", {"case": "LA_001", "files": {"segmentation": "/tmp/x.nrrd"}}),
    ("error", {"code": "internal", "message": "m", "remedy": "r"}),
    ("skipped", {"begin": 0, "end": 10}),
    ("finished", {"outcome": "finished", "iteration": 3, "seconds": 1.5, "manifest": "/tmp/m"}),
)


def hostile_lines(lab: Laboratory) -> Result:
    """A worker that sends mutated event lines: the owner takes each for an event or for log, and never raises."""
    result = Result("hostile event lines, from a real worker")
    count = len(lab.tries(20_000, 2000))
    sample = [encode_event(name, fields) for name, fields in _EVENTS]
    lines = [mutated(lab.random.choice(sample), lab.random) for _ in range(count)]
    (lab.folder / "lines").write_bytes(b"\n".join(lines) + b"\n")
    talker = lab.folder / "talker.py"
    talker.write_text(
        f"import sys, shutil; shutil.copyfileobj(open({str(lab.folder / 'lines')!r}, 'rb'), sys.stdout.buffer)"
    )
    runner = lab.start(lab.run_folder(), bootstrap=talker)
    events = []
    try:
        state = runner.wait(PATIENCE_SECONDS, events.append)
        # a mutated line may well be a valid "started" of a living process, but never a success
        problem = "" if state is not State.FINISHED else "taken for a success"
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    for _ in range(count):
        result.count()
    if problem:
        result.count(problem)
    result.note = f"{len(events)} were still events"
    runner.kill()
    return result


def hostile_files(lab: Laboratory) -> Result:
    """Mutated run.json, status.json, manifest.json, events.jsonl, metrics.csv: a sentence or a value, never a crash."""
    result = Result("hostile files in the run folder")
    folder = RunFolder.create(lab.folder / "hostile", RunRequest("train", cohort="c", settings={"a": [1, {"b": 2.5}]}))
    folder.write_status(Status(State.RUNNING, iteration=3, heartbeat=1e9))
    (folder.predictions / "a.bin").write_bytes(b"12345")
    folder.write_manifest(State.FINISHED, ["predictions"])
    for name, fields in _EVENTS:
        folder.append_event(encode_event(name, fields))
    folder.append_metrics(3, {"loss": 0.5, "dice": 0.5})
    folder.close()
    files = [folder.request_file, folder.status_file, folder.manifest_file, folder.events_file, folder.metrics_file]
    sound = {path: path.read_bytes() for path in files}
    looks = [folder.request, folder.read_status, folder.assess, folder.verify_manifest, folder.metrics]
    looks += [lambda: list(folder.events())]
    for _ in lab.tries(4000, 300):
        path = lab.random.choice(files)
        path.write_bytes(mutated(sound[path], lab.random))
        problem = ""
        for look in looks:
            try:
                look()
            except SemiSupSegError as error:
                if not error.message:
                    problem = f"{path.name}: an error without a sentence"
            except Exception as error:
                problem = f"{path.name}: {type(error).__name__}: {error}: {path.read_bytes()[:200]!r}"
        path.write_bytes(sound[path])
        result.count(problem)
    return result


def hostile_commands(lab: Laboratory) -> Result:
    """Mutated commands on stdin and as files, while the run goes on: answered or obeyed, and the weights are right."""
    result = Result("hostile commands to a working run")
    names = ("pause", "resume", "checkpoint", "preview", "update_annotations")
    sample = [json.dumps({"v": 1, "command": name, "id": "7", "case": "known"}).encode() for name in names]
    for _ in lab.tries(10, 1):
        folder = lab.run_folder(steps=300)
        runner = lab.start(folder)
        poll_until(runner, lambda its=runner: its.worker is not None)
        for index in range(100):
            content = mutated(lab.random.choice(sample), lab.random)
            if index % 2:
                (folder.commands / f"{time.time_ns():020d}-x.json").write_bytes(content)
            else:
                runner._unsent += content.replace(b"\n", b"") + b"\n"
            runner.poll()
        while runner.state is None and runner._process.poll() is None and folder.assess() is not State.FINISHED:
            runner.send("resume")  # one of them may have been a pause
            rest = time.monotonic() + 0.3
            poll_until(runner, lambda until=rest, its=runner: time.monotonic() > until or its.state is not None)
        state = runner.wait(PATIENCE_SECONDS)
        result.count(
            "" if state is State.FINISHED else f"{state}: {runner.error}", orphans=orphans_of(folder, family(folder))
        )
    return result


def hostile_checkpoints(lab: Laboratory) -> Result:
    """A flipped or cut file in the newest checkpoint: the one before is used, with a warning, the weights are right."""
    result = Result("damaged newest checkpoint")
    for _ in lab.tries(10, 2):
        folder = lab.run_folder()
        runner = lab.start(folder, (sys.executable,))
        poll_until(runner, lambda its=runner: its._iteration >= 40 or its.state is not None)
        runner.cancel()
        runner.wait(PATIENCE_SECONDS)
        victim = lab.random.choice(sorted(folder.last_checkpoint.iterdir()))
        content = victim.read_bytes()
        # a flip that leaves a JSON text sound (a space in it) is no damage
        victim.write_bytes(content[: len(content) // 2] if lab.random.random() < 0.5 else os.urandom(len(content)))
        problem = lab.resume(folder)
        warned = any(event.name == "warning" and "damaged" in event["message"] for event in folder.events())
        result.count(problem or ("" if warned else "no warning"))
    return result
