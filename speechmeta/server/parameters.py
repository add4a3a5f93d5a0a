"""What a request asks, from the fields of a form or a JSON body: `CallOptions`, stated once.

Each option goes by its name in docs/options.md: by its flag without dashes (`min_pause`), by its
key in a config file (`turns.min_pause_seconds`), or in a JSON object, as text or as a field
`options`. What the server was started with is the default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from speechmeta.errors import UsageError
from speechmeta.pipeline.options import CallOptions
from speechmeta.server.json_objects import json_object
from speechmeta.server.problems import Refused
from speechmeta.settings import Entry, OptionError, changed, entries, flattened

ENTRIES = {entry.path: entry for entry in entries(CallOptions)}
BY_NAME = {name: entry for entry in ENTRIES.values() for name in (entry.parameter, entry.key)}

RULES = ("rules",)
"""The option that names a file where it is text."""

LOCAL_SPEAKER_MODELS = (None, "voiceprint", "encoder")
"""Speaker models that load nothing by name."""


def call_options(base: CallOptions, given: Mapping[str, Any]) -> CallOptions:
    """`base` with what a request asks in its place.

    Args:
        given: fields of a form as text, or of a JSON object; each an option, or `options`.

    Raises:
        UsageError: there is no such option, or it cannot take its value.
        Refused: it is the server's to decide, see `check_allowed`.
    """
    values: dict[tuple[str, ...], Any] = {}
    rest = dict(given)
    together = rest.pop("options", None)
    if together is not None:
        values |= dict(flattened(_object(together), ENTRIES))
    for name, value in rest.items():
        entry = BY_NAME.get(name)
        if entry is not None:
            values[entry.path] = _text(entry, value)
        else:
            values |= dict(flattened({name: value}, ENTRIES))
    if isinstance(values.get(RULES), str):
        values[RULES] = _rules(values[RULES])
    asked: CallOptions = changed(base, values)
    check_allowed(base, asked)
    return asked


def check_allowed(base: CallOptions, asked: CallOptions) -> None:
    """Sees that a client loosens no limit, keeps to the policy, and loads no model.

    Raises:
        Refused: it does.
    """
    for name in type(asked.limits).model_fields:
        ours, theirs = getattr(base.limits, name), getattr(asked.limits, name)
        if theirs < ours if name == "min_rate" else theirs > ours:
            raise Refused(
                403,
                f"limits.{name} is {theirs:g}, and this server allows {ours:g}",
                "a request may ask for less than the server allows, not for more",
            )
    if base.policy != type(base)().policy and asked.policy != base.policy:
        raise Refused(
            403,
            f"this server keeps to the policy {base.policy}",
            "leave policy out; who runs the server decides on it",
        )
    if asked.speaker_model not in (*LOCAL_SPEAKER_MODELS, base.speaker_model):
        raise Refused(
            403,
            f"this server does not load the speaker model {asked.speaker_model!r}",
            "choose voiceprint or encoder",
        )


def switch(value: Any, name: str) -> bool:
    """A switch of a form or a JSON body.

    Raises:
        UsageError: it is neither on nor off.
    """
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in ("true", "1", "yes", "on"):
        return True
    if text in ("false", "0", "no", "off", ""):
        return False
    raise OptionError(f"{name} is {value!r}", "it has to be true or false", name)


def text_of(given: dict[str, Any], name: str) -> str | None:
    """Takes a field out that is text; None where it is left out or empty.

    Raises:
        UsageError: it is something else, as in a JSON body it can be.
    """
    value = given.pop(name, None)
    if value is not None and not isinstance(value, str):
        raise OptionError(f"{name} is {value!r:.80}", "it has to be text", name)
    return value or None


def _text(entry: Entry, value: Any) -> Any:
    """A field of a form that is left empty stands for what is unset."""
    return None if value == "" and entry.field.default is None else value


def _rules(text: str) -> dict[str, Any]:
    """Alert rules that a form brings along, as JSON: the files here are not a client's to name.

    Raises:
        Refused: they are something else.
    """
    try:
        return json_object(text, "rules", '{"rule": [{"name": ...}]}')
    except UsageError as error:
        raise Refused(
            403,
            f"{error.message}, and this server reads no file for a client",
            'give the rules themselves, such as {"rule": [{"name": ...}]}',
        ) from None


def _object(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        return json_object(value, "options", '{"redact": true}')
    if not isinstance(value, dict):
        raise UsageError("options is no JSON object", 'give one such as {"redact": true}')
    return value


def form_schema(**more: dict[str, Any]) -> dict[str, Any]:
    """The fields of a form as JSON Schema, for the OpenAPI page; `more` come first."""
    properties = dict(more)
    for entry in ENTRIES.values():
        unset = f" Default: {entry.unset}." if entry.unset else ""
        shown: dict[str, Any] = {"type": "string", "description": entry.text + unset}
        if entry.choices:
            shown["enum"] = list(entry.choices)
        default = entry.field.default
        if isinstance(default, (bool, int, float, str)):
            shown["default"] = default
            kinds: dict[type, str] = {bool: "boolean", int: "integer", float: "number"}
            shown["type"] = kinds.get(type(default), "string")
        properties[entry.parameter] = shown
    return {"type": "object", "properties": properties}
