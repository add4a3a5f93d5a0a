"""HTML as values: text is escaped unless it was built here."""

from __future__ import annotations

import html
import re

from speechmeta.visible import visible

_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_VOID = frozenset({"meta", "path", "rect", "line"})


class Markup(str):
    """A string that is HTML already."""

    __slots__ = ()


def escaped(text: str) -> Markup:
    """Text as HTML; characters that HTML cannot hold, or that nobody sees, become visible."""
    return Markup(
        html.escape(visible(_CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)), quote=True)
    )


def joined(*children: str | None) -> Markup:
    """Children one after the other; None is nothing."""
    return Markup(
        "".join(
            child if isinstance(child, Markup) else escaped(child)
            for child in children
            if child is not None
        )
    )


def el(name: str, attributes: dict[str, str | None] | None = None, *children: str | None) -> Markup:
    """One element. An attribute whose value is None is left out."""
    text = "".join(
        f' {key}="{escaped(value)}"'
        for key, value in (attributes or {}).items()
        if value is not None
    )
    if name in _VOID:
        return Markup(f"<{name}{text}/>" if name != "meta" else f"<{name}{text}>")
    return Markup(f"<{name}{text}>{joined(*children)}</{name}>")
