"""Flags that are made from options classes, so that an option is spelt in one place.

    add_command(app, "analyze", analyze, {"call": CALL, "model": MODEL})

The parameters `call` and `model` of the function then get filled instances; the command has a
flag for every field of their classes, and `--config`. Classes are named by text and imported
when the command is used, so that `speechmeta --help` stays quick.
"""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_origin, get_type_hints

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from speechmeta.settings import Entry, Options

CALL = "speechmeta.pipeline.options:CallOptions"
MODEL = "speechmeta.pipeline.options:ModelOptions"
EVAL = "speechmeta.eval.options:EvalOptions"
SERVE = "speechmeta.server.options:ServeOptions"
STORE = "speechmeta.store.options:StoreOptions"

SHARED = (CALL, MODEL, SERVE, STORE)
"""What a config file may hold, whichever command reads it."""

CONFIG_HELP = (
    "TOML file with options. Flags come before SPEECHMETA_* variables, and these before the file; "
    "see docs/options.md."
)


def add_command(
    app: typer.Typer,
    name: str,
    function: Callable[..., Any],
    groups: Mapping[str, str],
    help: str | None = None,
) -> None:
    """Registers a command some of whose parameters stand for a whole class of options.

    Args:
        groups: the class of each such parameter, as `module:name`.
        help: in place of the function's docstring.
    """

    class Generated(TyperCommand):
        """Makes its options when they are first asked for."""

        made = False

        def get_params(self, ctx: Any) -> Any:
            if not self.made:
                self.made = True
                alone = typer.Typer(add_completion=False)
                alone.command()(with_flags(function, groups))
                command = typer.main.get_command(alone)
                self.params, self.callback = command.params, command.callback
            return super().get_params(ctx)

    def placeholder() -> None:
        """Replaced before it could be called."""

    app.command(name, cls=Generated, help=help or inspect.getdoc(function))(placeholder)


def with_flags(function: Callable[..., Any], groups: Mapping[str, str]) -> Callable[..., Any]:
    """The function as typer takes it, with a parameter for each option of the groups.

    Raises:
        TypeError: two options have one name.
    """
    from speechmeta.settings import CONFIG_VARIABLE, entries, gather

    kinds: dict[str, type[Options]] = {}
    for parameter, place in groups.items():
        kinds[parameter] = _loaded(place)
    names = {kind.__name__: kind for kind in kinds.values()}
    hints = get_type_hints(function, localns=names, include_extras=True)
    listed = [_parameter("context", typer.Context, inspect.Parameter.empty)]
    for name, own in inspect.signature(function).parameters.items():
        if name in kinds:
            listed += [_flag(entry) for entry in entries(kinds[name])]
        else:
            listed.append(_parameter(name, hints[name], own.default))
    config_option = typer.Option("--config", help=CONFIG_HELP, envvar=CONFIG_VARIABLE)
    listed.append(_parameter("config", Annotated[Path | None, config_option], None))
    if len({item.name for item in listed}) < len(listed):
        raise TypeError(f"{function.__name__}: an option occurs twice")
    known = [entry for kind in kinds.values() for entry in entries(kind)]

    def called(context: typer.Context, config: Path | None, **given: Any) -> Any:
        flags = {}
        for entry in known:
            value = given.pop(entry.parameter)
            source = context.get_parameter_source(entry.parameter)
            if source is not None and source.name == "COMMANDLINE":
                flags[entry.path] = _joined(value) if isinstance(value, list) else value
        # One file may serve several commands.
        others = [] if config is None else list(map(_loaded, SHARED))
        filled = gather(list(kinds.values()), flags, config, os.environ, others)
        return function(**given, **dict(zip(kinds, filled, strict=True)))

    called.__name__, called.__doc__ = function.__name__, function.__doc__
    called.__annotations__ = {item.name: item.annotation for item in listed}
    called.__signature__ = inspect.Signature(listed)  # type: ignore[attr-defined]
    return called


def _loaded(place: str) -> type[Options]:
    """A class by `module:name`."""
    module, _, name = place.partition(":")
    found: type[Options] = getattr(importlib.import_module(module), name)
    return found


def _joined(values: list[str]) -> str:
    """A flag that was repeated, as one text (see `Entry.parsed`)."""
    return (";" if any("=" in value for value in values) else ",").join(values)


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, annotation=annotation, default=default)


def _flag(entry: Entry) -> inspect.Parameter:
    """One option: its type, help, limits and default are the field's."""
    default = entry.field.default
    kind = _type_of(entry)
    spelt = f"{entry.flag}/--no-{entry.flag[2:]}" if kind is bool else entry.flag
    shown = isinstance(default, (bool, int, float, str))
    unset = f" Default: {entry.unset}." if entry.unset and not shown else ""
    option = typer.Option(
        spelt,
        help=entry.text + unset,
        min=entry.limit("ge") if kind in (int, float) else None,
        max=entry.limit("le") if kind in (int, float) else None,
        metavar=entry.metavar or None,
        show_default=shown,
        rich_help_panel=entry.panel or None,
    )
    annotation = kind if shown else kind | None
    return _parameter(entry.parameter, Annotated[annotation, option], default if shown else None)


def _type_of(entry: Entry) -> Any:
    """What typer gets: numbers, switches and choices as they are, all others as text."""
    kinds = entry.kinds
    if len(kinds) == 1 and (kinds[0] in (bool, int, float) or get_origin(kinds[0]) is Literal):
        return kinds[0]
    return list[str] if entry.is_table else str
