from __future__ import annotations

import json
import sys

import pytest

from SemiSupSegLib.doctor import ENGINE_PACKAGES, examine


@pytest.fixture
def fake_python(tmp_path):
    """Makes a Python whose probe answers or dies as the test says."""

    def make(script: str):
        python = tmp_path / "fake python"
        python.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        python.chmod(0o755)
        return str(python)

    return make


def answer(**changes) -> str:
    packages = [
        {"name": name, "version": "99.0", "error": ""}
        for name in ("numpy", "scipy", "SimpleITK", "torch", "monai", "safetensors", "scikit-image")
    ]
    cpu = {"key": "cpu", "name": "CPU", "free_bytes": 2**35, "total_bytes": 2**36, "milliseconds": 1.0, "error": ""}
    whole = {"python": "3.12.1", "executable": "python", "packages": packages, "devices": [cpu], "notes": []}
    return "printf '%s\\n' '" + json.dumps({**whole, **changes}) + "'"


def test_this_environment_is_ready_and_torch_stays_out_of_this_process(run_python, repository, tmp_path):
    code = (
        "import json, sys; from SemiSupSegLib.doctor import examine; report = examine('.');"
        "assert 'torch' not in sys.modules; print(json.dumps(report.to_json()))"
    )
    result = run_python("-c", code, path=repository, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["ready"]
    assert report["best_device"] in {device["key"] for device in report["devices"]}
    assert all(not package["problem"] for package in report["packages"])


def test_missing_and_old_packages_are_named_with_the_command_that_installs_them(fake_python):
    packages = [
        {"name": "torch", "version": "2.9", "error": ""},
        {"name": "monai", "version": "0.9", "error": ""},
        {"name": "safetensors", "version": "", "error": "not installed"},
    ]
    report = examine(python=fake_python(answer(packages=packages)))
    problems = {each.name: each.problem for each in report.packages}
    assert problems["torch"] == ""
    assert problems["monai"] == "too old"
    assert problems["safetensors"] == "not installed"
    assert not report.ready
    assert '"monai>=1.4" "safetensors>=0.4.3"' in report.advice[0].remedy


def test_a_gpu_without_kernels_is_passed_over(fake_python):
    gpu = {"key": "cuda:0", "name": "New GPU", "free_bytes": 1, "total_bytes": 2, "milliseconds": None}
    cpu = {"key": "cpu", "name": "CPU", "free_bytes": 2**35, "total_bytes": 2**36, "milliseconds": 1.0, "error": ""}
    report = examine(python=fake_python(answer(devices=[{**gpu, "error": "no kernel image"}, cpu])))
    assert report.ready
    assert report.best_device == "cpu"
    assert "New GPU (cuda:0) can't run a training step: no kernel image." in [each.message for each in report.advice]


def test_packages_that_kill_the_process_are_reported(fake_python):
    report = examine(python=fake_python("echo 'illegal instruction' >&2; exit 132"))
    assert not report.ready
    assert "ended the process with code 132 (illegal instruction)" in report.advice[0].message


def test_a_python_that_is_not_there_is_reported(tmp_path):
    report = examine(tmp_path / "not yet made", python=str(tmp_path / "nothing"))
    assert not report.ready
    assert "can't be started" in report.advice[0].message


def test_it_wants_what_the_extension_installs(repository):
    lines = (repository / "SemiSupSeg/Resources/requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = {f"{each.distribution}>={each.minimum}" for each in ENGINE_PACKAGES if each.distribution != "torch"}
    assert {line for line in lines if line and not line.startswith("#")} == wanted


if sys.platform == "win32":
    pytestmark = pytest.mark.skip(reason="the fake Python is a shell script, which Windows can't run")
