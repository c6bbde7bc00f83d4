"""The form *Advanced*, made of the settings' own descriptions: groups, texts, and what was changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..settings import SettingDescription
from ..training_settings import METHODS
from .translation import tr as _

ON_THE_PANEL = ("method", "minutes", "device", "warm_start")
"""Settings that the panels ask for elsewhere."""


def form_groups(descriptions: Iterable[SettingDescription], method: str) -> dict[str, list[SettingDescription]]:
    """The settings of the *Advanced* form by group; of the methods' own groups, the chosen one's only."""
    groups: dict[str, list[SettingDescription]] = {}
    for each in descriptions:
        group = each.key.rpartition(".")[0]
        if each.key not in ON_THE_PANEL and (group not in METHODS or group == method):
            groups.setdefault(group, []).append(each)
    return groups


def setting_text(value: object) -> str:
    """A setting's value as the form shows and reads it; empty for "automatic"."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple | list):
        return ", ".join(setting_text(each) for each in value)
    return str(value)


def setting_tip(description: SettingDescription) -> str:
    """What a setting means, its unit and range, and the name that scripts use."""
    low, high = description.minimum, description.maximum
    limits = "" if low is None else f"{low:.10g} – {high:.10g}" if high is not None else f"≥ {low:.10g}"
    details = ", ".join(part for part in (limits, description.unit) if part)
    default = setting_text(description.default) or _("automatic")
    return (
        f"{description.description}."
        + (f" ({details})" if details else "")
        + "\n"
        + _("Default: {value}").format(value=default)
        + f"\n{description.key}"
    )


def changed_settings(texts: Mapping[str, str], descriptions: Iterable[SettingDescription]) -> dict[str, str]:
    """Of the form's texts those that say something else than the default; an emptied one is the default."""
    defaults = {each.key: setting_text(each.default) for each in descriptions}
    return {key: text for key, text in texts.items() if key in defaults and text.strip() not in ("", defaults[key])}


def assignments(settings: Mapping[str, str], method: str, descriptions: Iterable[SettingDescription]) -> list[str]:
    """Changed settings as ``KEY=VALUE``, those of other methods left out; empty means automatic."""
    texts = {each.key for each in descriptions if each.kind == "a text"}
    return [
        f"{key}={text.strip() if key in texts else _json_list(text)}"
        for key, text in settings.items()
        if key.partition(".")[0] not in METHODS or key.partition(".")[0] == method
        if text.strip() or key not in texts
    ]


def _json_list(text: str) -> str:
    text = text.strip()
    return "null" if not text else f"[{text}]" if "," in text and not text.startswith("[") else text
