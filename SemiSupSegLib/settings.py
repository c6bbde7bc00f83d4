"""Typed settings that check themselves, describe themselves to people, and round-trip through JSON.

Every field is made with `setting`, which holds its sentence, range and unit: the *Advanced* panel, the command line's
``--set`` and the documentation are generated from these.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import reprlib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from .errors import SettingsError


def setting(
    default: Any,
    description: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] | None = None,
    unit: str = "",
) -> Any:
    """A dataclass field that knows what it means and which values it takes."""
    metadata = {
        "description": description,
        "minimum": minimum,
        "maximum": maximum,
        "choices": choices,
        "unit": unit,
    }
    return dataclasses.field(default=default, metadata=metadata)


def group(kind: type[Settings], description: str) -> Any:
    """A field that holds a group of settings of its own."""
    return dataclasses.field(default_factory=kind, metadata={"description": description})


@dataclass(frozen=True)
class SettingDescription:
    """One setting as a form or a help text shows it; ``key`` is what ``--set KEY=VALUE`` takes."""

    key: str
    description: str
    kind: str
    default: Any
    minimum: float | None
    maximum: float | None
    choices: tuple[str, ...] | None
    unit: str


@dataclass(frozen=True)
class Settings:
    """Base of every group of settings."""

    def __post_init__(self):
        hints = _type_hints(type(self))
        for field in dataclasses.fields(self):
            value = _converted(field, hints[field.name], getattr(self, field.name))
            object.__setattr__(self, field.name, value)

    def to_json(self) -> dict[str, Any]:
        """The settings as plain JSON values."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Self:
        """Settings from JSON values; what is not given keeps its default, what is unknown raises `SettingsError`."""
        if not isinstance(body, Mapping):
            raise SettingsError(f"Settings are a list of names and values, not {type(body).__name__}.")
        hints = _type_hints(cls)
        values = {}
        for key, value in body.items():
            _check_key(key, hints)
            values[key] = hints[key].from_json(value) if _is_group(hints[key]) else value
        return cls(**values)

    @classmethod
    def unsaid(cls, body: Mapping[str, Any]) -> list[str]:
        """Keys, as ``--set`` takes them, that JSON values say nothing about: what an older version didn't know.

        Examples
        --------
        >>> body = TrainingSettings().to_json()
        >>> del body["optimizer"]["momentum"]
        >>> TrainingSettings.unsaid(body)
        ['optimizer.momentum']
        """
        known = flat(body)
        return [each.key for each in cls.describe() if each.key not in known]

    def with_overrides(self, assignments: Iterable[str]) -> Self:
        """A copy with ``KEY=VALUE`` texts applied, as given with ``--set``.

        Values are read as JSON where they can be (numbers, true, false, null, lists), else as plain text.

        Examples
        --------
        >>> TrainingSettings().with_overrides(["optimizer.learning_rate=0.02", "seed=3"]).seed
        3
        """
        changes: dict[str, Any] = {}
        for assignment in assignments:
            key, separator, text = assignment.partition("=")
            if not separator:
                raise SettingsError(f"'{assignment}' is not a setting.", "Write it as KEY=VALUE.")
            self._read(key.strip(), text.strip(), changes)
        return self._with(changes)

    @classmethod
    def _read(cls, key: str, text: str, changes: dict[str, Any]) -> None:
        """Put the value of a text into `changes`, which are nested as the groups are."""
        first, _, rest = key.partition(".")
        hints = _type_hints(cls)
        _check_key(first, hints)
        if rest:
            if not _is_group(hints[first]):
                raise SettingsError(f"The setting '{first}' has no part '{rest}'.")
            hints[first]._read(rest, text, changes.setdefault(first, {}))
            return
        if _is_group(hints[first]):
            raise SettingsError(
                f"'{first}' is a group of settings.", f"Set one of its parts, as in {first}.NAME=VALUE."
            )
        # A text is taken as it is: a folder may be called "12", "true" or "a,b".
        changes[first] = text if hints[first] is str else _parsed(text)

    def _with(self, changes: Mapping[str, Any]) -> Self:
        """A copy with all changes made at once, since one may be allowed by another."""
        groups = {name: value for name, value in changes.items() if _is_group(_type_hints(type(self))[name])}
        return dataclasses.replace(
            self, **{**changes, **{name: getattr(self, name)._with(value) for name, value in groups.items()}}
        )

    @classmethod
    def describe(cls, prefix: str = "") -> Iterator[SettingDescription]:
        """Every setting of this group and of the groups in it, in order."""
        hints = _type_hints(cls)
        for field in dataclasses.fields(cls):
            key = f"{prefix}{field.name}"
            if _is_group(hints[field.name]):
                yield from hints[field.name].describe(f"{key}.")
            else:
                metadata = field.metadata
                yield SettingDescription(
                    key=key,
                    description=metadata["description"],
                    kind=_kind_name(hints[field.name]),
                    default=field.default,
                    minimum=metadata["minimum"],
                    maximum=metadata["maximum"],
                    choices=metadata["choices"],
                    unit=metadata["unit"],
                )


def flat(body: Mapping[str, Any]) -> dict[str, Any]:
    """JSON values of settings by their keys, as ``--set`` takes them.

    Examples
    --------
    >>> flat({"seed": 1, "optimizer": {"momentum": 0.9}})
    {'seed': 1, 'optimizer.momentum': 0.9}
    """
    found: dict[str, Any] = {}
    for key, value in body.items():
        found |= {f"{key}.{part}": each for part, each in value.items()} if isinstance(value, Mapping) else {key: value}
    return found


def _type_hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _is_group(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Settings)


def _check_key(key: str, hints: Mapping[str, Any]) -> None:
    if key not in hints:
        near = difflib.get_close_matches(key, hints, n=1)
        advice = f"Did you mean '{near[0]}'?" if near else f"There are: {', '.join(hints)}."
        raise SettingsError(f"There is no setting '{key}'.", advice)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        if "," in text:
            inside = text[1:-1] if text.startswith("[") and text.endswith("]") else text
            return [_parsed(part.strip()) for part in inside.split(",")]
        return None if text == "None" else {"True": True, "False": False}.get(text, text)


def _converted(field: dataclasses.Field, hint: Any, value: Any) -> Any:
    """The value in its declared type, or a `SettingsError` that says what is allowed."""
    if _is_group(hint):
        return value if isinstance(value, hint) else hint.from_json(value)
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in options:
        return None
    for option in options:
        try:
            converted = _as_type(option, value)
        except (TypeError, ValueError, OverflowError):
            continue
        _check_range(field, converted)
        return converted
    raise SettingsError(f"'{field.name}' can't be {reprlib.repr(value)}.", f"It takes {_kind_name(hint)}.")


def _as_type(kind: Any, value: Any) -> Any:
    if typing.get_origin(kind) is tuple:
        parts = typing.get_args(kind)
        values = list(value) if not isinstance(value, str) else [value]
        if parts[-1] is Ellipsis:
            return tuple(_as_type(parts[0], each) for each in values)
        if len(values) != len(parts):
            raise ValueError
        return tuple(_as_type(part, each) for part, each in zip(parts, values, strict=True))
    if kind is bool:
        if isinstance(value, bool):
            return value
        raise TypeError
    if isinstance(value, bool) or kind is type(None):
        raise TypeError
    if kind is int:
        if isinstance(value, str) or int(value) != value:
            raise TypeError
        return int(value)
    if kind is float:
        if isinstance(value, str) or not math.isfinite(value):
            raise TypeError
        return float(value)
    if kind is str and isinstance(value, str):
        return value
    raise TypeError


def _check_range(field: dataclasses.Field, value: Any) -> None:
    limits = field.metadata
    if limits["choices"] is not None and value not in limits["choices"]:
        near = difflib.get_close_matches(str(value), limits["choices"], n=1)
        advice = f"Did you mean '{near[0]}'? " if near else ""
        raise SettingsError(
            f"'{field.name}' can't be {reprlib.repr(value)}.", f"{advice}It is one of: {', '.join(limits['choices'])}."
        )
    for each in value if isinstance(value, tuple) else (value,):
        if isinstance(each, str):
            continue
        low, high = limits["minimum"], limits["maximum"]
        if (low is not None and each < low) or (high is not None and each > high):
            bounds = f"at least {low}" if high is None else f"at most {high}" if low is None else f"{low} to {high}"
            raise SettingsError(f"'{field.name}' can't be {each}.", f"It is {bounds}.")


_PLURALS = {int: "whole numbers", float: "numbers", bool: "times true or false"}


def _kind_name(hint: Any) -> str:
    if isinstance(hint, types.UnionType):
        return " or ".join(_kind_name(option) for option in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        parts = typing.get_args(hint)
        return (
            f"a list of {_PLURALS.get(parts[0], 'values')}"
            if parts[-1] is Ellipsis
            else f"{len(parts)} {_PLURALS.get(parts[0], 'values')}"
        )
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", type(None): "nothing"}
    return names.get(hint, str(hint))
