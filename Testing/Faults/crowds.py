"""Too much of everything: lines in a burst, an owner that doesn't read, workers on one folder, runs on one device."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import time

from SemiSupSegLib.runner import Runner
from SemiSupSegLib.runs import State

from .laboratory import FAKE_WORKER, PATIENCE_SECONDS, Laboratory, Result, family, orphans_of, poll_until, send_signal

_BURST = """
import sys
line = b'{"v": 1, "event": "metric", "time": 1.5, "iteration": 7, "values": {"loss": 0.5, "dice": 0.25}}\\n'
for _ in range(%d): sys.stdout.buffer.write(line * 1000)
"""


def burst(lab: Laboratory) -> Result:
    """A million event lines at once: memory stays bounded, and no poll holds its owner up."""
    result = Result("burst of event lines, as fast as it goes")
    lines = 1_000_000 if not lab.quick else 50_000
    talker = lab.folder / "burst.py"
    talker.write_text(_BURST % (lines // 1000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    runner = lab.start(lab.run_folder(), bootstrap=talker)
    polls, longest_work, count = [], 0.0, 0
    began = time.perf_counter()
    while runner.state is None:
        poll_began, work_began = time.perf_counter(), time.thread_time()
        count += len(runner.poll(20))
        polls.append((time.perf_counter() - poll_began) * 1000)
        longest_work = max(longest_work, (time.thread_time() - work_began) * 1000)
    seconds = time.perf_counter() - began
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    polls.sort()
    result.count("" if count == lines else f"{count} of {lines} lines")
    result.note = (
        f"{count} lines in {seconds:.1f} s, {len(polls)} polls: median {polls[len(polls) // 2]:.1f} ms, "
        f"99 % under {polls[int(len(polls) * 0.99)]:.1f} ms, longest {polls[-1]:.1f} ms "
        f"({longest_work:.1f} ms of it on a core); memory +{grown:.0f} MB"
    )
    return result


def slow_owner(lab: Laboratory) -> Result:
    """The owner reads nothing for a while: the worker isn't held up, and afterwards nothing is missing."""
    result = Result("owner reads nothing for seconds")
    for _ in lab.tries(5, 1):
        folder = lab.run_folder(fault="busy", at=30)
        runner = lab.start(folder)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not folder.manifest_file.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        problem = "" if folder.manifest_file.exists() else "the worker waited for its owner"
        events = []
        state = runner.wait(PATIENCE_SECONDS, events.append)
        warnings = [event["message"][:5] for event in events if event.name == "warning"]
        if warnings != [f"{index:05d}" for index in range(3000)]:
            problem = problem or f"{len(warnings)} of 3000 warnings"
        result.count(problem or ("" if state is State.FINISHED else f"{state}: {runner.error}"))
    return result


def two_workers(lab: Laboratory) -> Result:
    """Four workers started at the same moment on one folder: one works, the others say that it's busy."""
    result = Result("four workers on one folder")
    for _ in lab.tries(10, 2):
        folder = lab.run_folder(child=False, steps=600, step_seconds=0.005)
        command = [sys.executable, str(FAKE_WORKER), str(folder.path)]
        folder.update_request(attached=False)
        crowd = [
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for _ in range(4)
        ]
        codes = sorted(each.wait() for each in crowd)
        problem = "" if codes == [0, 1, 1, 1] and folder.assess() is State.FINISHED else f"exit codes {codes}"
        iterations = [iteration for iteration, _ in folder.metrics()["loss"]]
        rows = len(folder.metrics_file.read_text().splitlines()) - 1
        if rows != 600 or iterations != list(range(1, 601)):
            problem = problem or f"{rows} rows of metrics"
        result.count(problem)
    return result


def device_queue(lab: Laboratory) -> Result:
    """Runs that want one device, every third killed at a random moment: never two at once, and all others finish."""
    result = Result("queue on one device, with kills")
    for _ in lab.tries(4, 1):
        runners: list[Runner] = []
        for _ in range(6 if not lab.quick else 4):
            runners.append(lab.start(lab.run_folder(device="cuda:0", steps=100, attached=False)))
            time.sleep(0.05)
        overlaps, killed = 0, []
        deadline = time.monotonic() + PATIENCE_SECONDS * 2
        while any(each.state is None for each in runners) and time.monotonic() < deadline:
            for each in runners:
                each.poll(5)
            states = [each.folder.assess() for each in runners]
            overlaps += states.count(State.RUNNING) > 1 and _training_at_once(runners) > 1
            for each in runners[::3]:
                if each not in killed and each.worker and each.worker.is_alive and lab.random.random() < 0.01:
                    killed.append(each)
                    send_signal(each.worker.pid, signal.SIGKILL)
            time.sleep(0.01)
        numbers = [number for each in runners for number in family(each.folder)]
        wrong = [str(each.state) for each in runners if each.state is not State.FINISHED and each not in killed]
        problem = f"{overlaps} overlaps" if overlaps else f"ended {wrong}" if wrong else ""
        for each in killed:
            problem = problem or (lab.resume(each.folder) if each.state is not State.FINISHED else "")
        result.count(problem, orphans=sum(orphans_of(each.folder, numbers) for each in runners))
    return result


def odd_names(lab: Laboratory) -> Result:
    """Run folders with spaces, quotes, other alphabets, and paths of more than 300 characters."""
    result = Result("odd and long names of folders")
    names = [
        "a b  c",
        'it\'s "quoted"',
        "größe µ",
        "脳 腫瘍",
        "🧠",
        "-rf",
        "$HOME;ls",
        "long/" + "/".join(["x" * 60] * 6),
    ]
    for name in names if not lab.quick else names[-2:]:
        folder = lab.run_folder(parent=lab.folder / name, steps=20)
        runner = lab.start(folder)
        state = runner.wait(PATIENCE_SECONDS)
        problem = "" if state is State.FINISHED else f"{name}: {state}: {runner.error}"
        result.count(problem, orphans=orphans_of(folder, family(folder)))
    return result


def start_up(lab: Laboratory) -> Result:
    """Time from the start to the first word and to the first step, and the price of an event."""
    result = Result("time to start (fake training, no torch)")
    first_words, first_steps = [], []
    for _ in lab.tries(10, 2):
        folder = lab.run_folder(child=False, steps=50)
        began = time.monotonic()
        runner = lab.start(folder, (sys.executable,))
        poll_until(runner, lambda its=runner: its.worker is not None)
        first_words.append(time.monotonic() - began)
        poll_until(runner, lambda its=runner: its._iteration > 0 or its.state is not None)
        first_steps.append(time.monotonic() - began)
        result.count("" if runner.wait(PATIENCE_SECONDS) is State.FINISHED else str(runner.error))
    result.note = f"first word after {_median(first_words):.2f} s, first step after {_median(first_steps):.2f} s"
    return result


def _training_at_once(runners: list[Runner]) -> int:
    """How many runs hold the device, by what they said last; a run says `running` before it has to queue."""
    holding = 0
    for each in runners:
        last = [event for event in each.folder.events() if event.name in ("metric", "state", "finished")][-1:]
        holding += bool(last) and last[0].name == "metric" and each.worker is not None and each.worker.is_alive
    return holding


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
