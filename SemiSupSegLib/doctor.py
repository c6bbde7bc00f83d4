"""Is this computer ready? What is installed, which devices compute, how much room there is, and what to do next."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from . import __version__

PROBE = Path(__file__).with_name("learning") / "probe.py"
PROBE_SECONDS = 300
SCARCE_DISK = 2 * 2**30
SCARCE_MEMORY = 4 * 2**30


@dataclass(frozen=True)
class Requirement:
    """A package that some part of the software needs: name to install, name to import, smallest version."""

    distribution: str
    module: str
    minimum: str


HALL_PACKAGES = (
    Requirement("numpy", "numpy", "2.0"),
    Requirement("scipy", "scipy", "1.13"),
    Requirement("SimpleITK", "SimpleITK", "2.4"),
)
"""What a stock Slicer ships, and all that cohorts, superpixels and the line to the worker need."""

ENGINE_PACKAGES = (
    Requirement("torch", "torch", "2.2"),
    Requirement("monai", "monai", "1.4"),
    Requirement("safetensors", "safetensors", "0.4.3"),
    Requirement("scikit-image", "skimage", "0.22"),
)
"""What training and prediction need beside those."""


@dataclass(frozen=True)
class Package:
    """A package as it was found; ``problem`` is empty where it works and is new enough."""

    name: str
    version: str
    minimum: str
    problem: str


@dataclass(frozen=True)
class Device:
    """A device as it was tried; ``problem`` is empty where a training step ran, in ``milliseconds``."""

    key: str
    name: str
    free_bytes: int | None
    total_bytes: int | None
    milliseconds: float | None
    problem: str


@dataclass(frozen=True)
class Advice:
    """One thing that isn't as it should be, and what to do about it; ``blocks`` if nothing trains before.

    ``topic`` is "packages" where some are missing or too old, "cpu" where training runs on the CPU; else empty.
    """

    message: str
    remedy: str
    blocks: bool = False
    topic: str = ""


@dataclass(frozen=True)
class Report:
    """What `examine` found."""

    python: str
    executable: str
    folder: str
    free_disk_bytes: int
    packages: tuple[Package, ...]
    devices: tuple[Device, ...]
    advice: tuple[Advice, ...]
    version: str = __version__
    system: str = field(default_factory=platform.platform)
    cores: int = field(default_factory=lambda: os.cpu_count() or 1)

    @property
    def ready(self) -> bool:
        """Whether training would start."""
        return not any(each.blocks for each in self.advice)

    @property
    def best_device(self) -> str:
        """The key of the first device that works; empty if there is none."""
        return next((each.key for each in self.devices if not each.problem), "")

    def to_json(self) -> dict[str, Any]:
        """The report as ``doctor --json`` prints it."""
        return {"ready": self.ready, "best_device": self.best_device, **asdict(self)}


def examine(folder: str | os.PathLike = ".", python: str | None = None) -> Report:
    """Look at packages, devices and disk; nothing of it is imported into this process.

    Parameters
    ----------
    folder : path, optional
        Where runs will be written.
    python : path, optional
        The Python that would train; this one by default.
    """
    python = python or sys.executable
    answer, failure = _probed(python)
    by_name = {each["name"]: each for each in answer.get("packages", [])}
    packages = tuple(_package(each, by_name.get(each.distribution)) for each in (*HALL_PACKAGES, *ENGINE_PACKAGES))
    devices = tuple(
        Device(
            key=each["key"],
            name=each["name"],
            free_bytes=each["free_bytes"],
            total_bytes=each["total_bytes"],
            milliseconds=each["milliseconds"],
            problem=each["error"],
        )
        for each in answer.get("devices", [])
    )
    free_disk = shutil.disk_usage(_existing_parent(Path(folder))).free
    advice = [Advice(note, "Update the GPU's driver, or train on the CPU.") for note in answer.get("notes", [])]
    advice += _package_advice(packages, failure, python) + _device_advice(devices) + _disk_advice(folder, free_disk)
    return Report(
        python=answer.get("python", "?"),
        executable=answer.get("executable", python),
        folder=str(folder),
        free_disk_bytes=free_disk,
        packages=packages,
        devices=devices,
        advice=tuple(advice),
    )


def _probed(python: str) -> tuple[dict[str, Any], str]:
    """The probe's answer, and a sentence if the probe itself came to grief."""
    packages = json.dumps([(each.distribution, each.module) for each in (*HALL_PACKAGES, *ENGINE_PACKAGES)])
    try:
        result = subprocess.run(
            [python, str(PROBE), packages],
            capture_output=True, encoding="utf-8", errors="replace", stdin=subprocess.DEVNULL, timeout=PROBE_SECONDS,
            env={**os.environ, "PYTHONUTF8": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {}, f"Importing the packages took longer than {PROBE_SECONDS} s."
    except OSError as error:
        return {}, f"{python} can't be started: {error.strerror or error}."
    if result.returncode == 0 and result.stdout.strip():
        return json.loads(result.stdout.strip().splitlines()[-1]), ""
    last = (result.stderr.strip().splitlines() or ["no message"])[-1]
    return {}, f"Importing the packages ended the process with code {result.returncode} ({last})."


def _package(requirement: Requirement, found: dict[str, str] | None) -> Package:
    version, problem = (found["version"], found["error"]) if found else ("", "not tried")
    if not problem and version and _numbers(version) < _numbers(requirement.minimum):
        problem = "too old"
    return Package(requirement.distribution, version, requirement.minimum, problem)


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version; enough for the smallest versions compared here."""
    return tuple(int(number) for number in re.match(r"\d+(?:\.\d+)*", version)[0].split("."))


def _package_advice(packages: tuple[Package, ...], failure: str, python: str) -> list[Advice]:
    if failure:
        return [
            Advice(failure, "Install torch again: for Slicer by the PyTorch extension, else with pip.", blocks=True)
        ]
    lacking = [each for each in packages if each.problem]
    if not lacking:
        return []
    wanted = " ".join(f'"{each.name}>={each.minimum}"' for each in lacking)
    found = ", ".join(f"{each.name} ({each.problem})" for each in lacking)
    remedy = f"Install them: {Path(python).name} -m pip install {wanted}"
    if any(each.name == "torch" for each in lacking):
        remedy += " (in Slicer, torch comes by the PyTorch extension)"
    return [Advice(f"Training and prediction lack {found}.", f"{remedy}.", blocks=True, topic="packages")]


def _device_advice(devices: tuple[Device, ...]) -> list[Advice]:
    advice = [
        Advice(
            f"{each.name} ({each.key}) can't run a training step: {each.problem}.",
            "Install a torch that is built for it; until then another device is used.",
            blocks=all(other.problem for other in devices),
        )
        for each in devices
        if each.problem
    ]
    working = [each for each in devices if not each.problem]
    if working and working[0].key == "cpu":
        advice.append(
            Advice(
                "Training will run on the CPU.",
                "Expect minutes for small scans and hours for large ones.",
                topic="cpu",
            )
        )
    if working and (working[0].free_bytes or SCARCE_MEMORY) < SCARCE_MEMORY:
        advice.append(Advice(f"{working[0].name} is short of free memory.", "Close other programs that use it."))
    return advice


def _disk_advice(folder: str | os.PathLike, free: int) -> list[Advice]:
    if free >= SCARCE_DISK:
        return []
    return [Advice(f"The disk of '{folder}' is almost full.", "Free some space, or choose another folder.")]


def _existing_parent(folder: Path) -> Path:
    folder = folder.absolute()
    return next(each for each in (folder, *folder.parents) if each.exists())
