"""What the panels say of the computer: the doctor's report, where there are buttons and no terminal."""

from __future__ import annotations

from collections.abc import Mapping

from ..progress import size
from .translation import tr as _


def device_text(device: Mapping[str, object]) -> str:
    """A device of the doctor's report, as the selector shows it."""
    memory = _("{free} of {total} free").format(free=size(device["free_bytes"]), total=size(device["total_bytes"]))
    problem = "  ({})".format(_("doesn't work")) if device["problem"] else ""
    return f"{device['name']} ({device['key']}), {memory}{problem}"


def computer_text(report: Mapping[str, object] | None) -> str:
    """In a sentence, whether the computer can train."""
    if report is None:
        return _("Nobody has looked yet what this computer has.")
    if report["ready"]:
        names = {each["key"]: each["name"] for each in report["devices"]}
        return _("Ready: training runs on {device}.").format(device=names.get(report["best_device"], "?"))
    lines = _advice_lines(report, blocking=True)
    return _("Not ready to train.") + "\n" + "\n".join(lines)


def cpu_text(report: Mapping[str, object] | None) -> str:
    """A warning where a training would run on the processor, with an estimate; empty otherwise."""
    if report is None or not report["ready"] or report["best_device"] != "cpu":
        return ""
    return _(
        "No graphics processor can be used, so training runs on the {cores} cores of the processor, which is much "
        "slower. Small scans take minutes, large ones hours: begin with the preset Quick look."
    ).format(cores=report["cores"])


def advice_text(report: Mapping[str, object] | None) -> str:
    """What to know besides, a line each."""
    return "" if report is None else "\n".join(_advice_lines(report, blocking=False))


def package_cells(report: Mapping[str, object]) -> list[tuple[str, str, str]]:
    """Name, version and state of each package."""
    return [(each["name"], each["version"], each["problem"] or _("works")) for each in report["packages"]]


def _advice_lines(report: Mapping[str, object], *, blocking: bool) -> list[str]:
    """What the doctor says; a command for a terminal is no advice where there is a button."""
    here = {"packages": _("Install gets them.")}
    return [
        f"{each['message']} {here.get(each['topic'], each['remedy'])}"
        for each in report["advice"]
        if bool(each["blocks"]) == blocking and each["topic"] != "cpu"  # of which `cpu_text` says more
    ]
