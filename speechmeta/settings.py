"""Options that are stated once: the base of every options class, and where values come from.

    class CallOptions(Options):
        redact: bool = option(False, "Replace card numbers.", panel="Output")

Such a field is all there is to write: `entries` lists it with its flag, environment variable
and key in a config file, and `gather` fills it from these. Precedence: flag, environment,
config file, default.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from speechmeta.errors import UsageError

PREFIX = "SPEECHMETA_"
"""What the names of environment variables begin with."""

CONFIG_VARIABLE = "SPEECHMETA_CONFIG"
"""Names a config file where no flag does."""

OTHERS = "*"
"""The name in a table for all that it does not name."""

_NEAR = 0.8
"""Likeness (difflib's ratio) from which an unknown variable is taken for a misspelt one."""


class OptionError(UsageError):
    """A value that an option cannot take.

    Attributes:
        option: the field's name; empty where several do not go together.
    """

    def __init__(self, message: str, hint: str = "", option: str = "") -> None:
        super().__init__(message, hint)
        self.option = option


class Options(BaseModel):
    """Base of options: frozen, every field documented, what is unknown is an error.

    Raises:
        UsageError: an option is not known, or cannot take its value.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _explained(type(self), error) from None

    def updated(self, overrides: Mapping[str, Any]) -> Self:
        """The same options but for `overrides`, checked; of the same class.

        Raises:
            UsageError: as for the class.
        """
        if not overrides:
            return self
        kept = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self)(**{**kept, **overrides})


def option(
    default: Any,
    text: str,
    *,
    panel: str = "Options",
    flag: str = "",
    unset: str = "",
    metavar: str = "",
    **limits: Any,
) -> Any:
    """A field of an `Options` class.

    Args:
        text: what it does and its unit, in one or two sentences.
        panel: heading in the command's help.
        flag: without dashes; the field's name without it.
        unset: what None stands for, such as `all six`.
        metavar: how its value is shown in the help.
        limits: `ge`, `gt`, `le`, `lt`, as for `pydantic.Field`.
    """
    extra = {"panel": panel, "flag": flag, "unset": unset, "metavar": metavar}
    return Field(
        default,
        description=text,
        json_schema_extra={name: value for name, value in extra.items() if value},
        **limits,
    )


@dataclass(frozen=True)
class Entry:
    """One option as it can be given.

    Attributes:
        path: names of the fields that lead to it, such as `("turns", "padding_seconds")`.
        field: what pydantic knows of it.
    """

    path: tuple[str, ...]
    field: FieldInfo

    @property
    def flag(self) -> str:
        """With dashes: `--padding`."""
        return "--" + (self._extra("flag") or self.path[-1]).replace("_", "-")

    @property
    def parameter(self) -> str:
        """The flag as a Python name: `padding`."""
        return self.flag.removeprefix("--").replace("-", "_")

    @property
    def variable(self) -> str:
        """The environment variable: `SPEECHMETA_PADDING`."""
        return PREFIX + self.parameter.upper()

    @property
    def key(self) -> str:
        """The key in a config file, with its table: `turns.padding_seconds`."""
        return ".".join(self.path)

    @property
    def text(self) -> str:
        return self.field.description or ""

    @property
    def panel(self) -> str:
        return self._extra("panel")

    @property
    def unset(self) -> str:
        return self._extra("unset")

    @property
    def metavar(self) -> str:
        return self._extra("metavar")

    @property
    def kinds(self) -> tuple[Any, ...]:
        """The types that it can have, without None."""
        annotation = self.field.annotation
        if get_origin(annotation) in (Union, UnionType):
            return tuple(kind for kind in get_args(annotation) if kind is not NoneType)
        return (annotation,)

    @property
    def choices(self) -> tuple[str, ...]:
        """The values to choose from, if they can be counted."""
        return tuple(
            str(value)
            for kind in self.kinds
            if get_origin(kind) is Literal
            for value in get_args(kind)
        )

    @property
    def is_table(self) -> bool:
        """Whether it can have values by name, so that its flag may be repeated."""
        return any((get_origin(kind) or kind) in (dict, Mapping) for kind in self.kinds)

    def limit(self, name: str) -> Any:
        """`ge`, `gt`, `le` or `lt`; None where there is no such limit."""
        return next((getattr(m, name) for m in self.field.metadata if hasattr(m, name)), None)

    def parsed(self, text: str) -> Any:
        """A value in a flag or variable: `a,b` for lists, `x=a,b;y=c` for tables of them, in
        which a part without a name stands for all others (`*`).

        Raises:
            UsageError: a name is empty, or is there twice.
        """
        origins = {get_origin(kind) or kind for kind in self.kinds}
        if "=" in text and self.is_table:
            table: dict[str, Any] = {}
            for part in filter(str.strip, text.split(";")):
                name, equals, value = part.partition("=")
                name, value = (name.strip(), value) if equals else (OTHERS, part)
                if name in table:
                    raise UsageError(f"{name!r} is there twice in {text!r}", "name it once")
                table[name] = self._listed(value)
            return table
        if origins & {tuple, list, Sequence}:
            return split_names(text)
        return text

    def _listed(self, text: str) -> Any:
        for kind in self.kinds:
            if (get_origin(kind) or kind) in (dict, Mapping):
                inner = get_args(kind)[1] if get_args(kind) else str
                listed = (get_origin(inner) or inner) in (tuple, list, Sequence)
                return split_names(text) if listed else text.strip()
        return text

    def _extra(self, name: str) -> str:
        extra = self.field.json_schema_extra
        return str(extra.get(name, "")) if isinstance(extra, dict) else ""


def entries(kind: type[Options], above: tuple[str, ...] = ()) -> Iterator[Entry]:
    """The options of a class in their order, those of nested classes in their place."""
    for name, field in kind.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Options):
            yield from entries(inner, (*above, name))
        else:
            yield Entry((*above, name), field)


def split_names(text: str) -> tuple[str, ...]:
    """`agent, customer` as a tuple.

    Raises:
        UsageError: a name is empty.
    """
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise UsageError(f"an empty name in {text!r}", "separate names by single commas")
    return names


def gather(
    kinds: Sequence[type[Options]],
    flags: Mapping[tuple[str, ...], Any] | None = None,
    config: Path | None = None,
    environment: Mapping[str, str] | None = None,
    others: Sequence[type[Options]] = (),
) -> list[Any]:
    """Fills options from flags, environment and config file, in this order of precedence.

    Args:
        kinds: the classes; what one file may hold.
        flags: values by `Entry.path`; text is parsed.
        config: a TOML file.
        environment: variables by name; empty ones count as unset.
        others: classes of other commands, whose keys the file may hold too.

    Returns:
        an instance of each class.

    Raises:
        UsageError: the file cannot be read, a key or a variable is a misspelt option, or a value
            does not fit. The message names the flag, variable or key.
    """
    known = {entry.path: entry for kind in kinds for entry in entries(kind)}
    given: dict[tuple[str, ...], tuple[Any, str]] = {}
    if config is not None:
        allowed = {entry.path: entry for kind in others for entry in entries(kind)} | known
        for path, value in _config_values(config, allowed):
            if path in known:
                given[path] = (value, f"{'.'.join(path)} in {config}")
    environment = environment or {}
    _check_variables(environment, known.values())
    for path, entry in known.items():
        if text := environment.get(entry.variable):
            given[path] = (text, entry.variable)
    for path, value in (flags or {}).items():
        given[path] = (value, known[path].flag)
    made = []
    for kind in kinds:
        values: dict[str, Any] = {}
        for entry in entries(kind):
            if entry.path in given:
                value = given[entry.path][0]
                table = values
                for name in entry.path[:-1]:
                    table = table.setdefault(name, {})
                table[entry.path[-1]] = entry.parsed(value) if isinstance(value, str) else value
        try:
            made.append(kind(**values))
        except OptionError as error:
            sources = [source for path, (_, source) in given.items() if path[-1] == error.option]
            if not sources:
                raise
            raise UsageError(f"{sources[0]}: {error.message}", error.hint) from None
    return made


def _config_values(
    config: Path, known: Mapping[tuple[str, ...], Entry]
) -> Iterator[tuple[tuple[str, ...], Any]]:
    try:
        with config.open("rb") as file:
            data = tomllib.load(file)
    except OSError as error:
        raise UsageError(f"cannot read {config}: {error.strerror}", "check --config") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{config} is not valid TOML: {error}", "see docs/options.md") from error
    try:
        yield from flattened(data, known)
    except UsageError as error:
        raise UsageError(f"{config}: {error.message}", error.hint) from None


def flattened(
    table: Mapping[str, Any],
    known: Mapping[tuple[str, ...], Entry],
    above: tuple[str, ...] = (),
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The values of nested tables by the path of their option.

    Raises:
        UsageError: there is no such option; the hint names one that is like it.
    """
    tables = {outer for entry in known.values() for outer in _tables(entry)}
    for name, value in table.items():
        path = (*above, name)
        if path in known:
            yield path, value
        elif path in tables and isinstance(value, dict):
            yield from flattened(value, known, path)
        else:
            raise UsageError(
                f"there is no option {'.'.join(path)!r}",
                _nearest(".".join(path), known.values()),
            )


def changed(options: Options, values: Mapping[tuple[str, ...], Any]) -> Any:
    """`options` with single values replaced, checked; of the same class.

    Args:
        values: by `Entry.path`; text is parsed where the option is no text.

    Raises:
        UsageError: as for the class.
    """
    known = {entry.path: entry for entry in entries(type(options))}
    overrides: dict[str, Any] = {}
    for path, value in values.items():
        if len(path) == 1:
            entry = known[path]
            overrides[path[0]] = entry.parsed(value) if isinstance(value, str) else value
    for name in {path[0] for path in values if len(path) > 1}:
        inner = {path[1:]: value for path, value in values.items() if path[0] == name}
        overrides[name] = changed(getattr(options, name), inner)
    return options.updated(overrides)


def _tables(entry: Entry) -> list[tuple[str, ...]]:
    """The tables that hold a key, outermost first."""
    return [entry.path[:depth] for depth in range(1, len(entry.path))]


def _nearest(name: str, known: Sequence[Entry] | Any) -> str:
    """A hint that names the option that is most like a name."""
    names = {}
    for entry in known:
        for spelt in (entry.key, entry.path[-1], entry.parameter, entry.flag):
            names[spelt] = entry.key
        names |= {above: above for above in map(".".join, _tables(entry))}
    last = name.rpartition(".")[2]
    for wanted in (name, last):
        if found := difflib.get_close_matches(wanted, names, n=1):
            return f"did you mean {names[found[0]]!r}?"
    return "docs/options.md lists them"


def _check_variables(environment: Mapping[str, str], known: Any) -> None:
    # Others of the name may be for other programs; only a slip of the pen is an error.
    names = {entry.parameter.upper(): entry.variable for entry in known}
    for variable in environment:
        rest = variable.removeprefix(PREFIX)
        if rest == variable or rest in names or variable == CONFIG_VARIABLE:
            continue
        if found := difflib.get_close_matches(rest, names, n=1, cutoff=_NEAR):
            raise UsageError(
                f"the environment variable {variable} is not an option",
                f"did you mean {names[found[0]]}?",
            )


def _explained(kind: type[Options], error: ValidationError) -> OptionError:
    """The first thing that pydantic found wrong, in our words."""
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] == "extra_forbidden":
        return OptionError(
            f"there is no option {name!r}", _nearest(name, list(entries(kind))), name
        )
    rule = first["msg"].removeprefix("Input should be ")
    return OptionError(f"{name} is {first['input']!r}", f"it has to be {rule}", name)
