"""The report that a user copies for somebody who helps: what happened and with what, without patients' names."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import re
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .errors import SemiSupSegError
from .files import read_json
from .runs import RunFolder, State

_OWN_CODE = re.compile(r"(?:SemiSupSegLib|site-packages|dist-packages|lib[\\/]python3?[\d.]*)[\\/]")
_PATH = re.compile(r"""(?:[A-Za-z]:[\\/]|\\\\|(?<![\w<>.])~?/)[^"'\n\r\t,;()\[\]{}|<>]*""")
_QUOTED = re.compile(r"""(["'])((?:(?!\1)[^\n])*[\\/](?:(?!\1)[^\n])*)\1""")
_SUFFIXES = (
    "seg.nrrd", "nii.gz", "nrrd", "nhdr", "nii", "mha", "mhd", "dcm", "ima", "img", "hdr", "json", "mrb", "mrml", "png",
    "zip",
)  # fmt: skip
_FILE = re.compile(rf"""[^\s"'/\\,;:()\[\]{{}}<>|]+\.(?:{"|".join(map(re.escape, _SUFFIXES))})\b""", re.I)
_OWN_FILES = frozenset({"run.json", "status.json", "manifest.json", "state.json", "model.json", "cohort.json"})

_HARMLESS = frozenset(
    ("train", "test", "validation", "image", "images", "label", "labels", "dense", "scribble", "scribbles", "role",
     "run", "runs", "root", "user", "home", "cohort", "predict", "model", "none", "true", "false")
)  # fmt: skip
"""Words that would be replaced all over the report, and that name nobody."""


def build_report(
    folder: RunFolder, state: State, error: SemiSupSegError | None, log_tail: str, include_names: bool = False
) -> str:
    """The text of the report.

    Parameters
    ----------
    folder : RunFolder
        The run.
    state : State
        How it stands.
    error : SemiSupSegError or None
        Why it failed.
    log_tail : str
        The last lines of its log.
    include_names : bool
        Leave the names of files, folders and cases in.
    """
    try:
        details = folder.details()
    except SemiSupSegError as problem:
        details = {"run.json": problem.message}
    status = folder.read_status()
    warnings = [event["message"] for event in folder.events() if event.name == "warning"][-20:]
    started = next((dict(event["versions"]) for event in folder.events() if event.name == "started"), {})
    sections = {
        "Outcome": f"{state}, iteration {status.iteration if status else 'unknown'}",
        "Error": "none" if error is None else f"{error.code}: {error.message} {error.remedy}",
        "Versions": "\n".join(f"{name} {version}" for name, version in started.items()),
        "Warnings": "\n".join(warnings),
        "Request": json.dumps(details, indent=1, ensure_ascii=False),
        "Log": log_tail,
    }
    text = "\n\n".join(f"## {title}\n{body or 'none'}" for title, body in sections.items())
    return text if include_names else scrub(text, names_of(folder, details))


def names_of(folder: RunFolder, details: dict[str, Any]) -> list[str]:
    """Texts that may name a patient or the user: paths, file names and case ids of a run, user and machine."""
    paths = [str(details.get(key) or "") for key in ("cohort", "model", "label")]
    paths += [str(each) for each in details.get("images", ()) or ()]
    names: set[str] = {str(folder.path), str(Path.home()), *paths}
    if details.get("cohort"):
        with contextlib.suppress(SemiSupSegError, AttributeError, ValueError):
            names.update(_texts(read_json(details["cohort"], "the cohort").get("cases", [])))
    with contextlib.suppress(OSError, KeyError):
        names.add(getpass.getuser())
    for event in folder.events():
        if event.name == "preview":
            names.update((event["case"], *event["files"].values()))
    names.add(socket.gethostname())
    names.update([os.path.basename(name) for name in names], [Path(name).name.split(".")[0] for name in names])
    return [name for name in names if len(name) >= 3 and name.casefold() not in _HARMLESS]


def scrub(text: str, names: Iterable[str]) -> str:
    """Replaces what may name a patient or the user.

    Parameters
    ----------
    text : str
        Any text.
    names : iterable of str
        Names to be replaced wherever they stand.

    Examples
    --------
    >>> scrub("Can't read '/data/Jane Doe/scan 1.nrrd': it doesn't exist.", [])
    "Can't read '<path>': it doesn't exist."
    """
    for name in sorted(names, key=len, reverse=True):
        forms = {name, json.dumps(name)[1:-1], name.replace("\\", "/")}
        for form in forms:
            text = re.sub(rf"(?<!\w){re.escape(form)}(?!\w)", "<name>", text, flags=re.I)
    text = _QUOTED.sub(lambda found: f"{found[1]}{_short(found[2])}{found[1]}", text)
    text = _PATH.sub(lambda found: _short(found[0]), text)
    return _FILE.sub(lambda found: found[0] if found[0] in _OWN_FILES else "<file>", text)


def _short(path: str) -> str:
    """A path without what stands before our own or Python's code; nothing of any other."""
    found = [*_OWN_CODE.finditer(path)]
    return path[found[-1].start() :] if found else "<path>"


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
