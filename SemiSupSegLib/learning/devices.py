"""The device that computes: chosen, measured, described to people."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass

import torch

from ..errors import ErrorCode, SemiSupSegError
from .memory import keep_freed_memory


@dataclass(frozen=True)
class DeviceDescription:
    """A device as a person chooses it.

    Attributes
    ----------
    key : str
        What ``--device`` takes: ``cpu``, ``cuda:0``, ``mps``.
    name : str
        The maker's name of it.
    free_bytes, total_bytes : int or None
        Memory that is free now, and in all; None where the system doesn't tell.
    """

    key: str
    name: str
    free_bytes: int | None
    total_bytes: int | None


def available_devices() -> list[DeviceDescription]:
    """Every device that torch can compute on, the best first."""
    found = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, total = torch.cuda.mem_get_info(index)
        found.append(DeviceDescription(f"cuda:{index}", torch.cuda.get_device_name(index), free, total))
    if torch.backends.mps.is_available():
        found.append(DeviceDescription("mps", "Apple GPU", None, None))
    free, total = _host_memory()
    found.append(DeviceDescription("cpu", f"CPU, {os.cpu_count()} cores", free, total))
    return found


def choose_device(wanted: str = "auto") -> torch.device:
    """The device for a text as given with ``--device``.

    Parameters
    ----------
    wanted : str
        ``auto`` (the CUDA device with most free memory, else Apple's GPU, else the CPU), ``cpu``, ``cuda``,
        ``cuda:INDEX`` or ``mps``.

    Raises
    ------
    SemiSupSegError
        With code ``device-unavailable`` if there is no such device.
    """
    devices = available_devices()
    if wanted in ("auto", "cuda"):
        gpus = [each for each in devices if each.key.startswith("cuda")]
        if gpus:
            return torch.device(max(gpus, key=lambda each: each.free_bytes).key)
        if wanted == "auto":
            return torch.device(devices[0].key)
    if wanted not in [each.key for each in devices]:
        raise SemiSupSegError(
            f"There is no device '{wanted}' on this computer.",
            f"Choose one of: auto, {', '.join(each.key for each in devices)}.",
            code=ErrorCode.DEVICE_UNAVAILABLE,
        )
    return torch.device(wanted)


def free_bytes(device: torch.device) -> int | None:
    """Memory that is free on a device now; None where the system doesn't tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return _host_memory()[0] if device.type == "cpu" else None


def prefers_bfloat16(device: torch.device) -> bool:
    """Whether forward passes in bfloat16 are faster than in float32 there.

    True on NVIDIA GPUs from Ampere on, and on CPUs with instructions for bfloat16 products.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", bool)())
    return False


def prepare_process(device: torch.device, threads: int = 0) -> None:
    """Settings of this process that make training fast and repeatable."""
    if threads:
        torch.set_num_threads(threads)
    keep_freed_memory()
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True


def empty_cache(device: torch.device) -> None:
    """Give unused memory back to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Where networks run: in bfloat16 or, with ``precision="float32"``, as they are."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def _host_memory() -> tuple[int | None, int | None]:
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            values = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
        return values["MemAvailable"], values["MemTotal"]
    except (OSError, KeyError, ValueError, IndexError):
        return None, None
