"""What the engine would find on this computer: its packages really imported, a kernel really run on each device.

Run by path in a process of its own (`SemiSupSegLib.doctor` does), because a broken torch can take its process down
and no torch may enter Slicer's. The answer is one JSON object on the last line of standard output.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import json
import platform
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Any


def probe(packages: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Import the packages, given as (distribution, module), and try every device.

    Returns
    -------
    dict
        ``python`` and ``executable``; ``packages``: a list of {name, version, error}; ``devices``: a list of {key,
        name, free_bytes, total_bytes, milliseconds, error}; ``notes``: sentences about what torch was built for.
        ``error`` is empty where all is well.
    """
    found = [_imported(*package) for package in packages]
    answer: dict[str, Any] = {
        "python": platform.python_version(),
        "executable": sys.executable,
        "packages": found,
        "devices": [],
        "notes": [],
    }
    if any(each["name"] == "torch" and not each["error"] for each in found):
        answer["notes"] = _notes()
        answer["devices"] = _devices()
    return answer


def _imported(distribution: str, module: str) -> dict[str, str]:
    version = error = ""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        version = importlib.metadata.version(distribution)
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as missing:
        error = "not installed" if missing.name == module else _sentence(missing)
    except BaseException as broken:  # a broken binary package raises whatever it likes
        error = _sentence(broken)
    return {"name": distribution, "version": version, "error": error}


def _notes() -> list[str]:
    import torch

    if torch.version.cuda and not torch.cuda.is_available():
        return [f"This torch is built for CUDA {torch.version.cuda}, but finds no usable NVIDIA GPU and driver."]
    return []


def _devices() -> list[dict[str, Any]]:
    from SemiSupSegLib.learning.devices import available_devices

    devices = []
    for device in available_devices():
        error, milliseconds = "", None
        try:
            milliseconds = 1000 * _seconds_of_a_training_step(device.key)
        except Exception as broken:
            error = _sentence(broken)
        devices.append({
            "key": device.key, "name": device.name, "free_bytes": device.free_bytes, "total_bytes": device.total_bytes,
            "milliseconds": milliseconds, "error": error,
        })  # fmt: skip
    return devices


def _seconds_of_a_training_step(device: str) -> float:
    """A convolution forward and backward: what fails on a GPU that this torch has no kernels for."""
    import torch

    convolution = torch.nn.Conv3d(16, 16, 3, padding=1).to(device)
    image = torch.rand(1, 16, 32, 32, 32, device=device)  # (B, C, K, J, I)
    for _ in range(2):  # the first pass pays for start-up
        start = time.perf_counter()
        loss = convolution(image).square().mean()
        loss.backward()
        if not torch.isfinite(loss.detach().cpu()):
            raise RuntimeError("a convolution gave no finite number")
        seconds = time.perf_counter() - start
    return seconds


def _sentence(error: BaseException) -> str:
    return traceback.format_exception_only(error)[-1].strip().splitlines()[0]


if __name__ == "__main__":
    # By path, this folder itself is first on the path; the package lies two folders up.
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[2])
    print(json.dumps(probe([tuple(package) for package in json.loads(sys.argv[1])])))
