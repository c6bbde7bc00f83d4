"""Starts a small task beside Slicer by this file's absolute path: ``python -u <path> check|measure|pin|probe …``.

A file and not ``-c``: PythonSlicer's launcher on Windows takes no argument of several lines. What a task finds is the
JSON object on the last line that it prints; those before say how far it is.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def check(cohort: str) -> dict[str, Any]:
    """What is wrong with a cohort: ``findings``."""
    from SemiSupSegLib.cohort import Cohort
    from SemiSupSegLib.cohort_lint import lint_cohort

    return {"findings": [each.to_json() for each in lint_cohort(Cohort.load(cohort), _say)]}


def measure(predictions: str, cohort: str) -> dict[str, Any]:
    """Predictions in a folder against the cohort's dense labels, as ``evaluate`` writes it."""
    from SemiSupSegLib.cohort import Cohort
    from SemiSupSegLib.learning.evaluation import evaluate_folder

    return evaluate_folder(predictions, Cohort.load(cohort), on_progress=_say)


def probe(folder: str) -> dict[str, Any]:
    """What this Python has for a run in a folder: `doctor.Report.to_json`."""
    from SemiSupSegLib.doctor import examine

    return examine(folder).to_json()


def pin(file: str, *names: str) -> dict[str, Any]:
    """Write the installed versions of packages as constraints for pip, so that it replaces none of them."""
    from importlib import metadata

    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    with open(file, "w", encoding="utf-8") as stream:
        stream.writelines(f"{name}=={version}\n" for name, version in versions.items())
    return versions


TASKS = {"check": check, "measure": measure, "pin": pin, "probe": probe}


def main(arguments: list[str]) -> int:
    """Do a task and print what it found; 1 where a `SemiSupSegError` ended it, which is printed as ``error``."""
    from SemiSupSegLib.errors import SemiSupSegError

    try:
        answer = TASKS[arguments[0]](*arguments[1:])
    except SemiSupSegError as error:
        print(json.dumps({"error": error.to_json()}), flush=True)
        return 1
    print(json.dumps(answer), flush=True)
    return 0


def _say(fraction: float, text: str = "") -> None:
    print(json.dumps({"fraction": fraction, "text": text}), flush=True)


if __name__ == "__main__":
    # In place of this folder, whose files would hide packages of the same name.
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    sys.exit(main(sys.argv[1:]))
