"""Reads the YAML files that `speechmeta train` takes."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from speechmeta.errors import UsageError

T = TypeVar("T")


def family(path: Path) -> str | None:
    """What a config file of `speechmeta train` names as its `family`; None where nothing."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        # Whoever reads it next says what is wrong with it.
        return None
    return data.get("family") if isinstance(data, dict) else None


def read_recipe_file(path: Path, recipe: type[T], example: str) -> T:
    """A recipe from its YAML file; relative paths are relative to the working folder.

    Args:
        recipe: a pydantic model, or a dataclass that pydantic can fill.
        example: path of a file that is right, for the hint.

    Raises:
        UsageError: the file cannot be read, or a value is unknown, out of range or of the wrong
            kind.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        return TypeAdapter(recipe).validate_python(data)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"cannot read {path}: {error}", "give a YAML file") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{path}: {place}: {first['msg']}", f"compare with {example}") from error
