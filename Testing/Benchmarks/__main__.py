"""``python -m Testing.Benchmarks NAME …``: one module a benchmark, each with a ``main(arguments)``."""

from __future__ import annotations

import importlib
import sys

from SemiSupSegLib.errors import SemiSupSegError

BENCHMARKS = {
    "la": "left atrium, few labeled or scribbled scans (quality)",
    "acdc": "cardiac cine MRI with expert scribbles (quality)",
    "hippocampus": "small crops, many of them (quality)",
    "correction": "annotating what a model doubts against annotating at random (quality)",
    "report": "tables and plots from stored results",
    "ablation": "one training for each switch of a method",
    "speed": "the same work done by others, side by side (speed)",
    "speed-report": "table and plot from what the command speed has stored",
}
_QUALITY = ("la", "acdc", "hippocampus")


def main(arguments: list[str]) -> int:
    """Run the benchmark that the first argument names."""
    if not arguments or arguments[0] not in BENCHMARKS:
        print("usage: python -m Testing.Benchmarks NAME …\n")
        for name, text in BENCHMARKS.items():
            print(f"  {name:<14}{text}")
        return 0 if arguments[:1] in ([], ["--help"], ["-h"]) else 2
    name, *rest = arguments
    try:
        if name in _QUALITY:
            from .study import main as run_study

            return run_study(name, rest)
        return importlib.import_module(f".{name.replace('-', '.')}", __package__).main(rest)
    except SemiSupSegError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
