"""What every test may use: the repository, and a fresh interpreter in it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

# How long an example takes says more about what else this machine does than about the code.
hypothesis.settings.register_profile("without deadline", deadline=None)
hypothesis.settings.load_profile("without deadline")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session", autouse=True)
def locks_of_our_own(tmp_path_factory) -> Iterator[None]:
    """Devices are lent to one run at a time: without this a test would wait for whoever trains on this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEMISUPSEG_LOCKS", str(tmp_path_factory.mktemp("locks")))
        yield


@pytest.fixture
def threads_as_before() -> Iterator[None]:
    """For tests of runs, which set torch's threads in this process."""
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Tensors and networks as small as tests' lose more to waiting threads than they win."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root folder of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def run_python(tmp_path_factory) -> Callable[..., subprocess.CompletedProcess]:
    """Runs a fresh Python with the given arguments; by default in an empty folder, with nothing on its path.

    ``path`` goes onto PYTHONPATH, everything else to `subprocess.run`.
    """
    elsewhere = tmp_path_factory.mktemp("elsewhere")

    def run(*arguments: object, path: Path | None = None, **options) -> subprocess.CompletedProcess:
        environment = {
            **os.environ,
            "PYTHONPATH": str(path or ""),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUTF8": "1",
        }
        options = {"cwd": elsewhere, "env": environment, "timeout": 300, **options}
        return subprocess.run(
            [sys.executable, *map(str, arguments)], capture_output=True, text=True, encoding="utf-8", **options
        )

    return run


@pytest.fixture(scope="session")
def installed_extension(tmp_path_factory) -> Path:
    """The folder of scripted modules as CMake installs it from a fresh build folder, Slicer's own macros played."""
    from slicer_cmake import install_extension

    return install_extension(ROOT, tmp_path_factory.mktemp("installed extension"))
