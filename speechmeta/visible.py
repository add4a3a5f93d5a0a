"""Text of recordings and names as it may be shown: control characters become visible marks.

A file's name, a role or a transcript can hold escape sequences that move a terminal's cursor
or change its title, and overrides of direction that make a name read backwards. They are
shown (`\\x1b`), never sent.
"""

from __future__ import annotations

import re

_CONTROLS = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but tab and line feed, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks, embeddings, overrides, isolates
    "\u2028\u2029\ufeff\ufff9-\ufffb"  # line ends that few expect, byte order, annotations
    "\U000e0000-\U000e007f"  # tags: text that nobody sees
    "\ud800-\udfff"  # bytes of a name that are no UTF-8
)
_HIDDEN = re.compile(f"[{_CONTROLS}]")

FORMULA_STARTS = "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"
"""A spreadsheet takes a cell that begins so for a formula (OWASP, "CSV Injection"); the last
four are full-width forms, which some of them take too."""


def visible(text: str) -> str:
    """The text with its control characters as `\\xNN` and `\\uNNNN`; tab and line feed stay."""
    return _HIDDEN.sub(_shown, text)


def visible_line(text: str) -> str:
    """The same on one line."""
    return visible(text).replace("\t", "\\t").replace("\n", "\\n")


def _shown(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte, as Python keeps it in names of files
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def visible_json(text: str) -> str:
    """JSON text with the same characters as escapes of JSON: it says what it said before."""
    return _HIDDEN.sub(_json_escape, text)


def _json_escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x10000:
        return f"\\u{code:04x}"
    high, low = divmod(code - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"


def safe_cell(text: str) -> str:
    """Text as a cell of a table that no spreadsheet takes for a formula.

    A quotation mark goes before what begins like one, as OWASP advises.
    """
    shown = visible(text)
    # Blanks before it do not keep a spreadsheet from seeing it.
    start = shown.lstrip(" \u00a0")[:1] or shown[:1]
    return f"'{shown}" if start and start in FORMULA_STARTS else shown
