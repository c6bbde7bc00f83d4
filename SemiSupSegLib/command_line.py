"""The command line: ``python -m SemiSupSegLib doctor | demo | cohort | train | predict | evaluate``.

Results go to standard output, progress and errors to standard error. Exit codes: 0 done, 1 failed (also where nobody
reads the results to their end, or `cohort create` finds errors in the files), 2 wrong usage, 3 cancelled.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from . import __version__, torchrun
from .commands import cohort, demo, doctor, evaluate, predict, train
from .errors import ErrorCode, SemiSupSegError, SettingsError
from .files import explain_os_error

DONE, FAILED, WRONG_USAGE, CANCELLED = 0, 1, 2, 3
EXIT_CODES = {ErrorCode.BAD_SETTING: WRONG_USAGE, ErrorCode.CANCELLED: CANCELLED}
"""Exit codes of the errors that are not plain failures."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one sentence; knows ``--debug`` on every level."""

    def __init__(self, **options):
        super().__init__(**options)
        self.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help="show where in the program an error arose"
        )

    def error(self, message: str) -> NoReturn:
        sentence = message[:1].upper() + message[1:].rstrip(".")
        self.exit(WRONG_USAGE, f"{sentence}. Run '{self.prog} --help' to see what it takes.\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code.

    Parameters
    ----------
    arguments : sequence of str, optional
        The arguments after the program's name; those of this process by default.
    """
    try:
        code = _main(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # as in `train --set help | head`: whoever reads has seen enough
        _say_no_more()
        return FAILED
    return code


def _main(arguments: Sequence[str] | None) -> int:
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a console that can't show a name must not end the run
    # OpenMP's threads wait for each other by spinning; beside other programs that made a training step 3.5 times slower
    # (2.45 s against 0.70 s on two cores under a load of 7). Read once, when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as stop:  # how argparse says "help was shown" and "wrong usage"
        return int(stop.code or DONE)
    try:
        code = _run(options)
    except KeyboardInterrupt:
        print("Cancelled.", file=sys.stderr)
        code = CANCELLED
    except BrokenPipeError:
        raise
    except Exception as error:
        if "debug" in options:
            traceback.print_exc()
        elif torchrun.is_leader():
            print(_sentences(error), file=sys.stderr)
        code = EXIT_CODES.get(getattr(error, "code", None), FAILED)
    # torchrun starts again whatever ends with another code than 0, cancelled or not.
    return DONE if code == CANCELLED and torchrun.is_used() else code


def _run(options: argparse.Namespace) -> int:
    if torchrun.world_size() > 1 and options.command not in ("train", "predict"):
        raise SettingsError(f"'{options.command}' runs in one process only.", "Start it without torchrun.")
    return options.run(options)


def _say_no_more() -> None:
    """Sends what a closed pipe didn't take nowhere; else Python complains about it when it ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _parser() -> Parser:
    parser = Parser(
        prog="python -m SemiSupSegLib",
        description="Semi-supervised segmentation: a model of your own from scribbles on a few scans.",
        epilog="Run a command with --help to see what it takes.",
    )
    parser.add_argument("--version", action="version", version=f"SemiSupSeg {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    for command in (doctor, demo, cohort, train, predict, evaluate):
        command.add_to(commands)
    return parser


def _sentences(error: Exception) -> str:
    """What happened and what to do, for a person."""
    if isinstance(error, SemiSupSegError):
        return str(error)
    if isinstance(error, MemoryError):
        return "The computer ran out of memory. Close other programs, or use smaller scans."
    if isinstance(error, OSError):
        return str(explain_os_error(error, "use"))
    return (
        f"Something went wrong inside SemiSupSeg ({type(error).__name__}: {error}). "
        "Run the command again with --debug, and report what it prints."
    )
