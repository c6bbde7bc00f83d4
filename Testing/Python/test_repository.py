"""What the Extensions Index, a newcomer's clone and other people's machines ask of the files themselves."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from SemiSupSegLib import __version__

LARGEST_FILE = 600_000
ROOT = Path(__file__).parents[2]
BINARY = {".gif", ".gz", ".jpeg", ".jpg", ".nrrd", ".png", ".safetensors", ".zip"}
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:work|opt|root|home|Users|farm)/\w")
PACKAGE_HOST = re.compile(r"files\.pythonhosted|deb\.debian\.org|registry\.npmjs")


@pytest.fixture(scope="module")
def files(repository) -> list[Path]:
    """The files that belong to the repository: tracked ones, or all where there is no git."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=repository, capture_output=True, text=True)
    if listed.returncode == 0 and listed.stdout:
        names = [name for name in listed.stdout.split("\0") if name]
        return [repository / name for name in names if (repository / name).is_file()]
    return [
        file
        for file in repository.rglob("*")
        if file.is_file() and not {".venv", ".git", "__pycache__", "demo"} & set(file.relative_to(repository).parts)
    ]


@pytest.fixture(scope="module")
def texts(files) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in files if file.suffix not in BINARY}


def test_text_files_are_utf8_with_unix_line_endings(texts):
    for file, text in texts.items():
        assert b"\r" not in text, file
        text.decode("utf-8")


def test_no_file_is_large(files):
    assert [file for file in files if file.stat().st_size > LARGEST_FILE] == []


def test_no_path_or_package_host_of_a_machine(texts):
    for file, text in texts.items():
        if file != Path(__file__).resolve():
            for pattern in (MACHINE_PATH, PACKAGE_HOST):
                found = pattern.search(text.decode("utf-8"))
                assert not found, f"{file}: {found[0]}"


def test_no_two_files_differ_in_case_alone(files):
    names = [str(file).casefold() for file in files]
    assert len(set(names)) == len(names)


def test_licence_lies_where_the_index_looks(repository):
    assert "Apache License" in (repository / "LICENSE.txt").read_text(encoding="utf-8")


def test_icon_is_as_large_as_slicer_asks(repository):
    from PIL import Image

    with Image.open(repository / "SemiSupSeg/Resources/Icons/SemiSupSeg.png") as icon:
        assert icon.size == (128, 128)


def test_slicer_installs_what_the_engine_needs_except_torch(repository):
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    engine = {each for each in project["optional-dependencies"]["engine"] if not each.startswith("torch")}
    lines = (repository / "SemiSupSeg/Resources/requirements.txt").read_text(encoding="utf-8").splitlines()
    required = {line for line in lines if line and not line.startswith("#")}
    assert required == engine
    assert all(">=" in each for each in required), "Slicer shares its packages with every other extension"


def test_version_is_a_release_number():
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)


def test_the_map_of_files_is_what_the_files_say_of_themselves():
    command = [sys.executable, str(ROOT / "Testing/file_map.py"), "--check"]
    assert subprocess.run(command).returncode == 0, "run 'make file-map'"
