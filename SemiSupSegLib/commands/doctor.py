"""``doctor``: is this computer ready, and if not, what to do."""

from __future__ import annotations

import argparse
import json

from ..doctor import Report, examine
from ..progress import size


def add_to(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("doctor", help="look whether this computer is ready to train, and say what is missing")
    parser.add_argument("--out", metavar="DIR", default=".", help="the folder whose disk space counts (default: here)")
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    report = examine(options.out)
    print(json.dumps(report.to_json(), indent=2) if options.json else as_text(report))
    return 0 if report.ready else 1


def as_text(report: Report) -> str:
    """The report as people read it."""
    lines = [
        f"SemiSupSeg {report.version}",
        f"  Python {report.python}, {report.executable}",
        f"  {report.system}, {report.cores} cores",
        f"  {size(report.free_disk_bytes)} free on the disk of '{report.folder}'",
        "",
        "Packages",
        *(f"  {_mark(each.problem)} {each.name} {each.version} {each.problem}".rstrip() for each in report.packages),
        "",
        "Devices",
    ]
    for each in report.devices:
        speed = each.problem or f"a training step ran in {each.milliseconds:.1f} ms"
        memory = f"{size(each.free_bytes)} of {size(each.total_bytes)} free"
        lines.append(f"  {_mark(each.problem)} {each.key}: {each.name}, {memory}, {speed}")
    if not report.devices:
        lines.append("  none could be tried")
    if report.advice:
        lines += [
            "",
            "To know",
            *(f"  {'!' if each.blocks else '-'} {each.message} {each.remedy}" for each in report.advice),
        ]
    lines += ["", f"Ready: training would run on {report.best_device}." if report.ready else "Not ready to train."]
    return "\n".join(lines)


def _mark(problem: str) -> str:
    return "x" if problem else "+"
