"""Schemas of call fields: ready-made ones, JSON files, and pydantic classes of the user's."""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from speechmeta.decoding.confined import check_size
from speechmeta.decoding.structured import schema_text
from speechmeta.errors import UsageError

LARGEST_FILE = 1 << 20
_CLASS = re.compile(r"(?:\w+\.)*\w+:\w+")
_LOCAL = ("#/$defs/", "#/definitions/")
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_ANCHORS = ("$id", "$anchor", "$dynamicAnchor")


def _form(title: str, **properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "title": title,
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _text(description: str) -> dict[str, Any]:
    return {"type": "string", "description": description}


def _text_or_null(description: str) -> dict[str, Any]:
    return {"anyOf": [{"type": "string"}, {"type": "null"}], "description": description}


def _one_of(description: str, *values: str) -> dict[str, Any]:
    return {"enum": list(values), "description": description}


READY: Mapping[str, dict[str, Any]] = {
    "summary": _form(
        "What the call was about",
        summary=_text("Two or three sentences: who wanted what, what was done, how it ended."),
    ),
    "reason": _form(
        "Why the customer called",
        reason=_text("In one sentence, why the customer called."),
        topic=_one_of(
            "What kind of reason it is.",
            *("order", "delivery", "billing", "technical", "contract", "account", "complaint"),
            *("information", "other"),
        ),
    ),
    "resolution": _form(
        "Whether the matter was settled",
        resolved=_one_of(
            "Whether it was settled within the call.", "yes", "partly", "no", "unclear"
        ),
        how=_text("In one sentence, what was done about it, or why it is open."),
    ),
    "promises": _form(
        "What was promised",
        promises={
            "type": "array",
            "description": "Everything that somebody said they would do; empty where nobody did.",
            "items": _form(
                "A promise",
                by=_text("The speaker who promised it."),
                what=_text("What will be done."),
                when=_text_or_null("By when, as it was said; null where no time was named."),
            ),
        },
    ),
    "complaint": _form(
        "Whether the customer complained",
        complaint={
            "type": "boolean",
            "description": "Whether the customer complained of anything.",
        },
        about=_text_or_null("Of what, in one sentence; null without a complaint."),
    ),
    "next-step": _form(
        "What happens next",
        next_step=_text_or_null("What is to be done after the call; null where nothing is."),
        who=_text_or_null("The speaker who is to do it; null where nothing is to be done."),
    ),
}
"""Schemas that can be named, by name."""


@dataclass(frozen=True)
class CallSchema:
    """What is to be filled in.

    Attributes:
        name: under which the answer stands in the document.
        schema: a JSON Schema of an object, checked by `checked`.
        model: the class that it was made from, whose validators count as well.
    """

    name: str
    schema: dict[str, Any]
    model: type[BaseModel] | None = None

    @property
    def properties(self) -> tuple[str, ...]:
        """The names of the fields on the first level, which evidence is asked for."""
        return tuple(_properties(self.schema))


def find_schemas(names: Sequence[str]) -> list[CallSchema]:
    """The schemas that are asked for, each a name of `READY`, a JSON file or `module:Class`.

    Raises:
        UsageError: one is not known, cannot be read or imported, or is not a schema of an object;
            or two have one name.
    """
    found: dict[str, CallSchema] = {}
    for name in names:
        item = _find(name)
        if item.name in found:
            raise UsageError(f"two call schemas are called {item.name}", "rename one of them")
        found[item.name] = item
    return list(found.values())


def _find(name: str) -> CallSchema:
    if name in READY:
        return CallSchema(name, READY[name])
    if _CLASS.fullmatch(name) and not os.path.exists(name):
        return of_class(_import(name))
    if not name.lower().endswith(".json") and not os.path.isfile(name):
        raise UsageError(
            f"there is no call schema {name!r}",
            f"name {', '.join(READY)}, a .json file with a JSON Schema, or module:Class",
        )
    return CallSchema(Path(name).stem, checked(read_schema(Path(name)), name))


def of_class(model: type[BaseModel]) -> CallSchema:
    """The schema of a pydantic class.

    Raises:
        UsageError: the class has none, or not one of an object.
    """
    try:
        schema = model.model_json_schema()
    except Exception as error:  # pydantic's own errors, and those of the class's hooks
        raise UsageError(
            f"{model.__name__} has no JSON Schema: {_first(error)}", "see pydantic's documentation"
        ) from error
    return CallSchema(model.__name__, checked(schema, model.__name__), model)


def checked(schema: dict[str, Any], name: str) -> dict[str, Any]:
    """A schema that is one of an object with fields, and refers to nothing but itself.

    Raises:
        UsageError: it is not; or it is too long, or nested too deeply.
    """
    check_size(schema_text(schema))
    _check_references(schema, name, top=True)
    if not _properties(schema):
        raise UsageError(
            f"the call schema {name} has no fields", 'give an object with "properties"'
        )
    return schema


def _properties(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Those of the schema, or of the definition that it consists of."""
    reference = schema.get("$ref")
    if isinstance(reference, str):
        _, place, key = reference.rsplit("/", 2) if reference.count("/") == 2 else ("", "", "")
        table = schema.get(place)
        inner = table.get(key) if isinstance(table, Mapping) else None
        schema = inner if isinstance(inner, Mapping) else {}
    properties = schema.get("properties")
    is_object = schema.get("type", "object") == "object"
    return properties if is_object and isinstance(properties, Mapping) else {}


def _check_references(node: object, name: str, top: bool = False) -> None:
    if isinstance(node, list):
        for item in node:
            _check_references(item, name)
    if not isinstance(node, dict):
        return
    for key in _REFERENCES:
        target = node.get(key)
        if isinstance(target, str) and not target.startswith(_LOCAL):
            raise UsageError(
                f"the call schema {name} refers to {target[:80]!r}",
                "nothing outside of it is read: put what it means into $defs",
            )
    for key in _ANCHORS:
        if isinstance(node.get(key), str) and not (top and key == "$id"):
            raise UsageError(f"the call schema {name} has an {key} within", "leave it out")
    for value in node.values():
        _check_references(value, name)


def read_schema(path: Path) -> dict[str, Any]:
    """The JSON object of a file.

    Raises:
        UsageError: it cannot be read, has more than 1 MiB, or does not hold a JSON object.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", "check the path") from error
    if len(data) > LARGEST_FILE:
        raise UsageError(f"{path} has more than 1 MiB", "no schema of a form is as long")
    try:
        schema = json.loads(data)
    except RecursionError as error:
        raise UsageError(f"{path} is nested too deeply", "simplify it") from error
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}", "give a JSON Schema") from error
    if not isinstance(schema, dict):
        raise UsageError(f"{path} does not hold a JSON object", "give a JSON Schema")
    return schema


def _import(name: str) -> type[BaseModel]:
    """A class of a module of the user's, which is run by this."""
    module, _, wanted = name.partition(":")
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), wanted, None)
    except (Exception, SystemExit) as error:  # whatever a module does when it is run
        raise UsageError(
            f"the module {module} cannot be imported: {type(error).__name__}: {_first(error)}",
            "it is looked for in this folder and where Python looks",
        ) from error
    finally:
        if here in sys.path:
            sys.path.remove(here)
    if not (isinstance(found, type) and issubclass(found, BaseModel)):
        raise UsageError(f"{name} is not a pydantic class", "name a subclass of pydantic.BaseModel")
    return found


def _first(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")


__all__ = ["READY", "CallSchema", "checked", "find_schemas", "of_class", "read_schema"]
