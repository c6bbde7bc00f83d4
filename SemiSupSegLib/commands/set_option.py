"""The option ``--set KEY=VALUE …``: every setting of a command, and ``--set help`` lists them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from ..settings import Settings


def add_set_option(parser: argparse.ArgumentParser, settings: type[Settings], what: str) -> None:
    """Add ``--set`` to a command's parser; the assignments come as a list of texts.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    settings : type of Settings
        Whose settings may be set.
    what : str
        Which settings these are, as in "any other setting".
    """
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        nargs="+",
        action=_SetOption,
        settings=settings,
        default=[],
        help=f"{what}; '--set help' lists them",
    )


def settings_text(settings: type[Settings]) -> str:
    """Every setting with its meaning, default and range."""
    lines = []
    for each in settings.describe():
        kind, is_optional = each.kind.removesuffix(" or nothing"), each.kind.endswith(" or nothing")
        unit = f" in {each.unit}" if each.unit else ""
        limits = [
            f"{name} {value}" for name, value in (("from", each.minimum), ("to", each.maximum)) if value is not None
        ]
        takes = ", ".join(each.choices) if each.choices else " ".join([kind + unit, *limits])
        takes += ", or null" if is_optional else ""
        default = "" if each.default in (None, "") else f"; default {_as_typed(each.default)}"
        lines.append(f"{each.key}\n    {each.description} ({takes}{default})")
    return "\n".join(lines)


def _as_typed(value: Any) -> str:
    """A value as a person types it."""
    if isinstance(value, (tuple, list)):
        return ",".join(_as_typed(each) for each in value)
    return value if isinstance(value, str) else json.dumps(value)


class _SetOption(argparse.Action):
    """Collects assignments; asked for help, it prints that and ends, whatever else a command requires."""

    def __init__(self, *arguments, settings: type[Settings], **options):
        super().__init__(*arguments, **options)
        self._settings = settings

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Sequence[str],
        option_string: str | None = None,
    ) -> None:
        if "help" in values:
            print(settings_text(self._settings))
            parser.exit()
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), *values])
