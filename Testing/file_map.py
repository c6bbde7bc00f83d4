"""Writes the map of files in ARCHITECTURE.md from the files' own first sentences: ``python Testing/file_map.py``."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "ARCHITECTURE.md"
BEGIN, END = "<!-- map of files: begin -->", "<!-- map of files: end -->"
FOLDERS = {
    "The hall": "SemiSupSegLib",
    "The engine": "SemiSupSegLib/learning",
    "The methods": "SemiSupSegLib/learning/methods",
    "The desk without Qt": "SemiSupSegLib/slicer_bridge",
    "The command line's commands": "SemiSupSegLib/commands",
    "The module": "SemiSupSeg",
    "Its logic": "SemiSupSeg/SemiSupSegModuleLib",
    "Its panels": "SemiSupSeg/SemiSupSegWidgets",
    "Its Segment Editor effect": "SemiSupSeg/SemiSupSegEffects",
}


def first_sentence(path: Path) -> str:
    """The first paragraph of a file's docstring, on one line."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split())


def file_map() -> str:
    """The map as Markdown: a table a folder."""
    parts = []
    for title, folder in FOLDERS.items():
        rows = [f"| `{path.name}` | {first_sentence(path).replace('|', chr(92) + '|')} |"
                for path in sorted((ROOT / folder).glob("*.py")) if path.name != "__init__.py"]  # fmt: skip
        parts.append("\n".join([f"### {title}: `{folder}/`", "", "| file | holds |", "|---|---|", *rows]))
    return "\n\n".join(parts)


def updated(document: str) -> str:
    """The document with the map as it is now."""
    before, rest = document.split(BEGIN)
    return f"{before}{BEGIN}\n\n{file_map()}\n\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    document = DOCUMENT.read_text(encoding="utf-8")
    if "--check" in sys.argv:
        sys.exit(document != updated(document))
    DOCUMENT.write_text(updated(document), encoding="utf-8", newline="\n")
