"""`speechmeta mcp` as an assistant starts it: a process, asked by the official client over its
input and output."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from report_samples import sample_report

from speechmeta.writers.structured import compact, document

mcp = pytest.importorskip("mcp", reason="the extra `mcp` is not installed")

pytestmark = pytest.mark.slow

HOSTILE = [
    "../secret.wav",
    "/etc/passwd",
    "link.wav",
    "calls/../../secret.wav",
    "call.wav\0",
    "",
    ".",
    "~/.ssh/id_rsa",
    "file:///etc/passwd",
    "http://169.254.169.254/latest",
    "s3://bucket/call.wav",
    "-",
    "/dev/stdin",
    "/proc/self/environ",
]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Results of a call, a folder with a recording, and one beside it."""
    data = document(sample_report())
    data["audio"]["path"] = "calls/a.wav"
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "results.jsonl").write_text(compact(data) + "\n")
    (tmp_path / "root").mkdir()
    shutil.copy(ROOT / "examples" / "call.wav", tmp_path / "root" / "call.wav")
    shutil.copy(ROOT / "examples" / "call.wav", tmp_path / "secret.wav")
    (tmp_path / "root" / "link.wav").symlink_to(tmp_path / "secret.wav")
    return tmp_path


def talk(place: Path, ask: Callable[[Any], Awaitable[None]]) -> None:
    """Starts the command and talks to it."""
    from mcp.client.stdio import StdioServerParameters, stdio_client

    started = StdioServerParameters(
        command=sys.executable,
        args=["-m", "speechmeta.cli", "mcp", "results", "--root", "root"],
        cwd=str(place),
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)},
    )

    async def session() -> None:
        async with (
            stdio_client(started) as (reads, writes),
            mcp.ClientSession(reads, writes) as client,
        ):
            await client.initialize()
            await ask(client)

    asyncio.run(session())


@pytest.mark.timeout(900)  # on a busy machine a process takes long to load the model
def test_the_tools_over_stdio(place: Path, bundled_dir: Path) -> None:
    before = sorted(path for path in place.rglob("*"))

    async def ask(client: Any) -> None:
        listed = (await client.list_tools()).tools
        assert {tool.name for tool in listed} == {"search_turns", "call_measures", "analyze_call"}
        assert all(tool.annotations.read_only_hint for tool in listed)
        assert not any(tool.annotations.destructive_hint for tool in listed)
        found = await client.call_tool("search_turns", {"text": "order"})
        assert {turn["call"] for turn in found.structured_content["turns"]} == {"calls/a.wav"}
        measures = await client.call_tool("call_measures", {"call": "a.wav"})
        wanted = document(sample_report())
        assert measures.structured_content["conversation"] == wanted["conversation"]
        for path in HOSTILE:
            refused = await client.call_tool("analyze_call", {"path": path})
            assert refused.is_error, path
            text = refused.content[0].text
            assert "Traceback" not in text
            assert str(place) not in text
        wrong = await client.call_tool("search_turns", {"limit": 1000})
        assert wrong.is_error
        report = await client.call_tool(
            "analyze_call", {"path": "call.wav", "options": {"roles": ["agent", "customer"]}}
        )
        assert not report.is_error, report.content
        assert report.structured_content["audio"]["path"] == "call.wav"
        said = " ".join(turn["Transcript"] for turn in report.structured_content["turns"])
        assert "table" in said
        assert {turn["speaker"] for turn in report.structured_content["turns"]} == {
            "agent", "customer"
        }  # fmt: skip

    talk(place, ask)
    assert sorted(path for path in place.rglob("*")) == before, "the tools write nothing"
