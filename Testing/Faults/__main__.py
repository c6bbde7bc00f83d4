"""Runs the fault laboratory: ``python -m Testing.Faults [--quick] [--only NAME…] [--json OUT.json]``.

``results.json`` holds what came out last, fault by fault, with the load of the machine meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from . import crowds, deaths, hostile, hostile_images, hostile_models, real, storage
from .laboratory import Laboratory, Result

EXPERIMENTS: tuple[Callable[[Laboratory], Result], ...] = (
    deaths.worker_killed,
    deaths.owner_killed,
    deaths.owner_killed_with_hanging_worker,
    deaths.detached_owner_killed,
    deaths.power_cut,
    deaths.machine_sleeps,
    deaths.cancelled,
    storage.disk_full,
    storage.file_size_limit,
    storage.read_only_disk,
    storage.read_only_from_the_start,
    storage.files_deleted,
    storage.clock_jumps,
    hostile.hostile_lines,
    hostile.hostile_files,
    hostile.hostile_commands,
    hostile.hostile_checkpoints,
    hostile_images.hostile_images,
    hostile_images.hostile_annotations,
    hostile_images.lying_images,
    hostile_models.hostile_cohorts,
    hostile_models.hostile_settings,
    hostile_models.hostile_models,
    hostile_models.hostile_tensors,
    hostile_models.hostile_zips,
    crowds.burst,
    crowds.slow_owner,
    crowds.two_workers,
    crowds.device_queue,
    crowds.odd_names,
    crowds.start_up,
    real.real_training_broken,
    real.real_start_up,
)


def main(argv: list[str] | None = None) -> int:
    """Runs the experiments and prints the table; the exit code is 1 if anything was lost or orphaned."""
    parser = argparse.ArgumentParser(prog="python -m Testing.Faults", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few tries of each fault, as in CI")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="experiments whose names contain one of these")
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    parser.add_argument(
        "--json", type=Path, metavar="OUT", help="a JSON file whose rows of these experiments are replaced"
    )
    arguments = parser.parse_args(argv)
    results = []
    for experiment in EXPERIMENTS:
        if arguments.only and not any(name in experiment.__name__ for name in arguments.only):
            continue
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True) as folder:
            result = experiment(Laboratory(Path(folder), quick=arguments.quick, seed=arguments.seed))
        results.append(result)
        if arguments.json:
            store({**as_json(result), "quick": arguments.quick}, arguments.json)
        print(f"{result.fault}: {result.tried} tried, {result.lost} lost, {time.monotonic() - began:.0f} s", flush=True)
        for failure in result.failures[:10]:
            print(f"    {failure}", flush=True)
    print("\n" + table(results))
    return int(any(each.lost or each.orphans for each in results))


def table(results: list[Result]) -> str:
    """The results as a Markdown table."""
    rows = [
        "| fault | tried | survived | lost | orphans | longest time to notice | note |",
        "|---|--:|--:|--:|--:|--:|---|",
    ]
    for each in results:
        notice = f"{each.longest_notice:.2f} s" if each.longest_notice else ""
        numbers = f"{each.tried} | {each.survived} | {each.lost} | {each.orphans}"
        rows.append(f"| {each.fault} | {numbers} | {notice} | {each.note} |")
    return "\n".join(rows)


def store(row: dict, path: Path) -> None:
    """Puts a row into a file of results, in the place of an earlier one of the same fault."""
    rows = json.loads(path.read_text()) if path.exists() else []
    kept = [each for each in rows if each["fault"] != row["fault"]]
    path.write_text(json.dumps([*kept, row], indent=2) + "\n")


def as_json(result: Result) -> dict:
    """One result for machines."""
    return {
        "fault": result.fault,
        "date": time.strftime("%Y-%m-%d"),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "tried": result.tried,
        "survived": result.survived,
        "lost": result.lost,
        "orphans": result.orphans,
        "longest_notice_seconds": round(result.longest_notice, 3),
        "note": result.note,
        "failures": result.failures,
    }


if __name__ == "__main__":
    sys.exit(main())
