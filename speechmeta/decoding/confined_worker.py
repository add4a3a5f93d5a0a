"""The child of `speechmeta.decoding.confined`: one task from stdin, its result to stdout.

Run by its path, not imported: it loads nothing but outlines' automata and jsonschema, so that
its memory limit can be small.
"""

from __future__ import annotations

import json
import math
import pickle
import re
import sys
from collections.abc import Callable
from typing import Any


def _limit(memory: int, seconds: float) -> None:
    """Bounds what this process may take; where the system has no limits, time alone counts."""
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    # Counted by the processor, so that a busy machine refuses nothing.
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(seconds), math.ceil(seconds) + 1))


def compile_regex(regex: str, vocabulary: Any) -> Any:
    """outlines' automaton of a regular expression over an `outlines_core.Vocabulary`."""
    from outlines_core import Index

    try:
        re.compile(regex, re.DOTALL)
    except re.error as error:
        raise ValueError(f"it is not a regular expression: {error}") from None
    return Index(regex, vocabulary)


def schema_regex(text: str) -> str:
    """The regular expression of a JSON Schema."""
    from outlines_core.json_schema import build_regex_from_schema

    check_schema(text)
    regex: str = build_regex_from_schema(text)
    return regex


def check_schema(text: str) -> None:
    """Refuses what is no JSON Schema."""
    import jsonschema

    schema = json.loads(text)
    try:
        jsonschema.validators.validator_for(schema).check_schema(schema)
    except jsonschema.SchemaError as error:
        raise ValueError(f"it is not a JSON Schema: {error.message}") from None


def matches(regex: str, text: str) -> bool:
    """Whether the whole text matches."""
    return re.compile(regex, re.DOTALL).fullmatch(text) is not None


def fault(schema: str, text: str) -> str | None:
    """What a value, as JSON, breaks of a schema."""
    import jsonschema
    from referencing import Registry

    described = json.loads(schema)
    kind = jsonschema.validators.validator_for(described)
    # With a registry of its own it fetches nothing that a reference names.
    validator = kind(described, registry=Registry())
    found = next(validator.iter_errors(json.loads(text)), None)
    return None if found is None else str(found.message)


_TASKS: dict[str, Callable[..., Any]] = {
    "compile_regex": compile_regex,
    "schema_regex": schema_regex,
    "check_schema": check_schema,
    "matches": matches,
    "fault": fault,
}


def main() -> None:
    """Reads a pickled task, does it, writes `("value", result)` or `("error", message)`."""
    name, arguments, memory, seconds = pickle.load(sys.stdin.buffer)
    _limit(memory, seconds)
    answer: tuple[str, Any]
    try:
        answer = ("value", _TASKS[name](*arguments))
    except MemoryError:
        answer = ("memory", "")
    except RecursionError:
        answer = ("error", "it is nested too deeply")
    except Exception as error:
        answer = ("error", str(error) or type(error).__name__)
    sys.stdout.buffer.write(pickle.dumps(answer))


if __name__ == "__main__":
    main()
