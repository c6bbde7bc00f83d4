"""Texts in the language that Slicer speaks; where there is no application, as they are written."""

from __future__ import annotations

try:
    from slicer.i18n import tr
except ImportError:  # slicer-core has no translations

    def tr(text: str) -> str:
        """The text itself."""
        return text


__all__ = ["tr"]
