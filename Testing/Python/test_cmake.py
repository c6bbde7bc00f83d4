"""What CMake lists, what lies on disk and what gets installed are the same files."""

from __future__ import annotations

import itertools
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from cmake_lists import FOLDERS, files_listed, files_on_disk, with_files


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_file_on_disk_is_listed_once(folder):
    text = (folder / "CMakeLists.txt").read_text(encoding="utf-8")
    for variable, files in files_on_disk(folder).items():
        assert files_listed(text, variable) == files, "run `make cmake-lists`"


def test_installed_tree_equals_the_sources(installed_extension):
    expected = {}
    for folder in FOLDERS:
        # The module's own folder is dissolved into the folder of all modules, the library keeps its name.
        prefix = Path(folder.name) if folder.name == "SemiSupSegLib" else Path()
        for file in itertools.chain(*files_on_disk(folder).values()):
            expected[str(prefix / file)] = (folder / file).read_bytes()
    installed = {
        str(file.relative_to(installed_extension)): file.read_bytes()
        for file in installed_extension.rglob("*")
        if file.is_file()
    }
    assert installed.keys() == expected.keys()
    assert installed == expected


def test_a_rewritten_list_reads_back_and_leaves_the_rest():
    text = "# before\nset(FILES\n  old.py\n  )\nset(FILES_MORE a.py)\n"
    rewritten = with_files(text, "FILES", ["a.py", "b/c.py"])
    assert rewritten == "# before\nset(FILES\n  a.py\n  b/c.py\n  )\nset(FILES_MORE a.py)\n"
    assert files_listed(rewritten, "FILES") == ["a.py", "b/c.py"]


def test_metadata_is_what_the_extensions_index_reads(repository):
    text = (repository / "CMakeLists.txt").read_text(encoding="utf-8")
    assert re.search(r"project\((\w+)\)", text)[1] == "SemiSupSeg"
    metadata = dict(re.findall(r'set\(EXTENSION_(\w+) "([^"]*)"\)', text))
    assert metadata.keys() == {"HOMEPAGE", "CONTRIBUTORS", "DESCRIPTION", "ICONURL", "SCREENSHOTURLS", "DEPENDS"}
    assert metadata["DEPENDS"] == "PyTorch"
    for url in (metadata["ICONURL"], *metadata["SCREENSHOTURLS"].split()):
        assert (repository / url.split("/main/")[1]).is_file(), f"{url} is not in the repository"
