"""Which device computes, and this process's memory."""

from __future__ import annotations

import pytest
import torch

from SemiSupSegLib.errors import ErrorCode, SemiSupSegError
from SemiSupSegLib.learning import devices, memory
from SemiSupSegLib.learning.devices import (
    DeviceDescription,
    autocast,
    available_devices,
    choose_device,
    free_bytes,
    prepare_process,
)
from SemiSupSegLib.learning.memory import is_out_of_memory, keep_freed_memory


def test_the_cpu_is_always_there_and_last():
    assert available_devices()[-1].key == "cpu"
    assert choose_device("cpu") == torch.device("cpu")


def test_auto_takes_the_gpu_with_most_free_memory(monkeypatch):
    found = [DeviceDescription(key, "GPU", free, 10) for key, free in (("cuda:0", 1), ("cuda:1", 5), ("cpu", 9))]
    monkeypatch.setattr(devices, "available_devices", lambda: found)
    assert choose_device("auto") == torch.device("cuda:1")
    assert choose_device("cuda") == torch.device("cuda:1")
    assert choose_device("cuda:0") == torch.device("cuda:0")


@pytest.mark.parametrize("wanted", ["cuda:7", "tpu", "", "gpu"])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(wanted):
    with pytest.raises(SemiSupSegError, match="There is no device") as caught:
        choose_device(wanted)
    assert caught.value.code is ErrorCode.DEVICE_UNAVAILABLE
    assert "cpu" in caught.value.remedy


def test_free_memory_of_the_cpu_is_known_where_the_system_tells():
    free = free_bytes(torch.device("cpu"))
    assert free is None or free > 2**20


def test_float32_leaves_networks_as_they_are():
    with autocast(torch.device("cpu"), "float32"):
        assert torch.nn.Conv1d(1, 1, 1)(torch.zeros(1, 1, 4)).dtype == torch.float32
    with autocast(torch.device("cpu"), "bfloat16"):
        assert torch.nn.Conv1d(1, 1, 1)(torch.zeros(1, 1, 4)).dtype == torch.bfloat16


def test_preparing_the_process_takes_the_threads_asked_for():
    before = torch.get_num_threads()
    try:
        prepare_process(torch.device("cpu"), 1)
        assert torch.get_num_threads() == 1
        prepare_process(torch.device("cpu"))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_keeping_memory_is_left_out_where_there_is_no_glibc(monkeypatch):
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("musl", "1.2"))
    assert not keep_freed_memory()
    monkeypatch.setattr(memory.platform, "system", lambda: "Windows")
    assert not keep_freed_memory()


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("shapes don't match"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_running_out_of_memory_is_recognised_in_all_its_words(error, is_one):
    assert is_out_of_memory(error) is is_one
