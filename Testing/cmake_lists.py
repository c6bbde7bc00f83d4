"""Writes the files on disk into the lists of the CMakeLists.txt files (``make cmake-lists``).

CMake installs what its lists name and nothing else: a file that is missing there is missing from the
extension. The lists stay explicit, as Slicer's own are, and this keeps them true.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = (ROOT / "SemiSupSeg", ROOT / "SemiSupSegLib")
SCRIPTS = "MODULE_PYTHON_SCRIPTS"
RESOURCES = "MODULE_PYTHON_RESOURCES"


def files_on_disk(folder: Path) -> dict[str, list[str]]:
    """What the lists of ``folder/CMakeLists.txt`` have to hold: relative paths, sorted."""
    files = [
        file.relative_to(folder)
        for file in folder.rglob("*")
        if file.is_file() and file.name != "CMakeLists.txt" and not _is_litter(file.relative_to(folder))
    ]
    # A package's own modules before its subpackages', as people list them.
    names = [file.as_posix() for file in sorted(files, key=lambda file: (len(file.parts), file.as_posix()))]
    return {
        SCRIPTS: [name for name in names if name.endswith(".py")],
        RESOURCES: [name for name in names if not name.endswith(".py")],
    }


def files_listed(cmake_lists: str, variable: str) -> list[str]:
    """The files that a ``set(variable …)`` of a CMakeLists.txt names, in their order."""
    return _pattern(variable).search(cmake_lists)["files"].split()


def with_files(cmake_lists: str, variable: str, files: Iterable[str]) -> str:
    """The text of a CMakeLists.txt in which ``set(variable …)`` names other files."""
    lines = "".join(f"  {file}\n" for file in files)
    return _pattern(variable).sub(lambda _: f"set({variable}\n{lines}  )", cmake_lists)


def _pattern(variable: str) -> re.Pattern[str]:
    return re.compile(rf"set\({variable}\b(?P<files>[^)]*)\)")


def _is_litter(file: Path) -> bool:
    return any(part == "__pycache__" or part.startswith(".") for part in file.parts)


if __name__ == "__main__":
    for folder in FOLDERS:
        cmake_file = folder / "CMakeLists.txt"
        before = after = cmake_file.read_text(encoding="utf-8")
        for variable, files in files_on_disk(folder).items():
            after = with_files(after, variable, files)
        if after != before:
            cmake_file.write_text(after, encoding="utf-8", newline="\n")
            print(f"{cmake_file.relative_to(ROOT)} written")
