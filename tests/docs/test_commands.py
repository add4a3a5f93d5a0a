"""Commands of README and docs: the command line understands each, and each is run or says why not.

`python tests/doc_commands.py` runs them; here only the quick part of that.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer
from conftest import ROOT
from doc_commands import NOT_RUN, PAGES, Block, blocks, words

from speechmeta.cli.app import app

BLOCKS = [block for page in PAGES for block in blocks(page)]
OURS = [block for block in BLOCKS if re.search(r"\bspeechmeta (?!-)", block.text)]


def test_what_is_not_run_has_a_reason_that_is_still_needed() -> None:
    texts = [block.text for block in BLOCKS if block.kind != "file"]
    unused = [found for found, _ in NOT_RUN if not any(re.search(found, t, re.M) for t in texts)]
    assert not unused
    assert sum(block.reason is None for block in BLOCKS) > len(BLOCKS) / 3


def test_the_pages_are_read() -> None:
    """Fences of every kind, indented lines, numbered lists, lines that go on in the next."""
    for page, text in (
        ("README.md", "speechmeta analyze call.wav"),
        ("docs/folders.md", "speechmeta batch calls/ -o results/ --watch"),
        ("docs/server.md", "curl -H 'content-type: application/json' localhost:8000/v1/analyze -d"),
        ("docs/how-to/roles-and-policy.md", "SPEECHMETA_CONFIG=call.toml speechmeta analyze"),
    ):
        assert any(b.page == page and b.text.startswith(text) for b in BLOCKS), text
    assert {(b.page, b.kind) for b in BLOCKS} >= {
        ("docs/server.md", "python"),
        ("docs/folders.md", "python"),
        ("docs/how-to/roles-and-policy.md", "file"),
    }


@pytest.mark.parametrize(
    "block", [b for b in OURS if b.kind == "shell"], ids=lambda block: f"{block.page}: {block.text}"
)
def test_the_command_line_understands_it(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is in brackets may be left out; what is around the command is the shell's.
    text = re.sub(r"\[[^\]]*\]", "", block.text).split(" -- ")[-1]
    for part in re.split(r"&&|\||>", text):
        part = re.sub(r"^\s*([A-Z_]+=\S+\s+|\S*/(?=speechmeta ))+", "", part).strip()
        arguments = words(part.replace("$", ""))
        if arguments and arguments[0] == "speechmeta":
            monkeypatch.chdir(ROOT)
            understood(arguments[1:])


def understood(arguments: list[str]) -> None:
    """Parses a command without running it; typer's own error tells what is wrong with it."""
    command: Any = typer.main.get_command(app)
    name = "speechmeta"
    context = command.make_context(name, list(arguments), resilient_parsing=False)
    while hasattr(command, "resolve_command"):
        left = [*context._protected_args, *context.args]
        if not left:
            return  # a group that does something by itself
        name, command, rest = command.resolve_command(context, left)
        context = command.make_context(name, rest, parent=context)


def test_a_misspelt_flag_is_found() -> None:
    with pytest.raises(Exception, match=r"(?i)no such option.*--rolls"):
        understood(["analyze", "call.wav", "--rolls", "agent"])
