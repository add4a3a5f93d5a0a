"""The tools for assistants, called through the protocol's own client."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import RunCli
from fakes import FakeEngine
from report_samples import sample_report
from serving import tone_bytes

from speechmeta.errors import UsageError
from speechmeta.pipeline.analyzer import Analyzer
from speechmeta.pipeline.options import CallOptions
from speechmeta.server.result_folder import ResultFolder, Search
from speechmeta.writers.structured import compact, document

mcp = pytest.importorskip("mcp", reason="the extra `mcp` is not installed")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Results of two calls, one of them twice, among files that are none."""
    found = tmp_path / "results"
    (found / "calls").mkdir(parents=True)
    lines = []
    for name in ("calls/a.wav", "calls/b.wav"):
        data = document(sample_report())
        data["audio"]["path"] = name
        lines.append(compact(data))
    lines.append(compact({"audio": {"path": "calls/c.wav"}, "error": {"type": "AudioError"}}))
    (found / "results.jsonl").write_text("\n".join([*lines, "no json", "[" * 9999]) + "\n")
    (found / "calls" / "a.wav.json").write_text(lines[0])
    (found / "other.json").write_text("{}")
    (tmp_path / "outside.json").write_text(lines[0].replace("calls/a.wav", "outside.wav"))
    (found / "link.json").symlink_to(tmp_path / "outside.json")
    return found


def asked(server: Any, tool: str, **arguments: Any) -> Any:
    async def ask() -> Any:
        async with mcp.Client(server) as client:
            return await client.call_tool(tool, arguments)

    return asyncio.run(ask())


def made(folder: Path | None, *roots: Path) -> Any:
    from speechmeta.server.mcp_tools import tools

    results = None if folder is None else ResultFolder(folder)
    return tools(results, roots, lambda: Analyzer.from_engine(FakeEngine()), CallOptions())


def test_turns_and_measures(folder: Path) -> None:
    server = made(folder)
    wanted = document(sample_report())
    spoken = [turn for turn in wanted["turns"] if turn.get("Transcript")]
    found = asked(server, "search_turns", limit=100).structured_content
    assert not found["more"]
    assert {turn["call"] for turn in found["turns"]} == {"calls/a.wav", "calls/b.wav"}
    assert len(found["turns"]) == 2 * len(wanted["turns"])
    word = spoken[0]["Transcript"].split()[0].upper()
    for turn in asked(server, "search_turns", text=word).structured_content["turns"]:
        assert word.lower() in turn["Transcript"].lower()
    first = asked(server, "search_turns", limit=1, offset=1, call="b.wav").structured_content
    assert (first["turns"][0]["start"], first["more"]) == (wanted["turns"][1]["start"], True)
    measures = asked(server, "call_measures", call="a.wav").structured_content
    assert measures["conversation"] == wanted["conversation"]
    assert "turns" not in measures


def test_labels_narrow_the_search(folder: Path) -> None:
    results = ResultFolder(folder)
    turn = next(turn for turn in document(sample_report())["turns"] if turn.get("Emotion"))
    wanted = Search(labels={"Emotion": turn["Emotion"]}, speaker=turn["speaker"])
    found, _ = results.search(wanted, 100)
    assert found
    assert {(item["Emotion"], item["speaker"]) for item in found} == {
        (turn["Emotion"], turn["speaker"])
    }
    assert results.search(Search(text="words that nobody says"), 5) == ([], False)
    with pytest.raises(UsageError, match="choose from Gender"):
        results.search(Search(labels={"Mood": "x"}), 5)
    with pytest.raises(UsageError, match="is not a folder"):
        ResultFolder(folder / "results.jsonl")


def test_a_recording_below_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.wav").write_bytes(tone_bytes())
    (root / "bad.wav").write_bytes(b"")
    (tmp_path / "secret.wav").write_bytes(tone_bytes())
    server = made(None, root)
    found = asked(server, "analyze_call", path="a.wav", options={"vad": False})
    assert found.structured_content["audio"]["path"] == "a.wav"
    assert found.structured_content["turns"][0]["Transcript"] == "1.0 seconds"
    for arguments, text in (
        ({"path": "../secret.wav"}, "there is no recording"),
        ({"path": "bad.wav"}, "bad.wav is empty"),
        ({"path": "a.wav", "options": {"vda": 1}}, "did you mean"),
        ({"path": "a.wav", "options": {"max_hours": 99}}, "this server allows"),
    ):
        refused = asked(server, "analyze_call", **arguments)
        assert refused.is_error
        assert text in refused.content[0].text
        assert str(tmp_path) not in refused.content[0].text


def test_arguments_that_a_tool_does_not_have(folder: Path, tmp_path: Path) -> None:
    """Dropped, they would make every turn a match."""
    (tmp_path / "a.wav").write_bytes(tone_bytes())
    server = made(folder, tmp_path)
    for tool, arguments, takes in (
        ("search_turns", {"emotion": "Joy"}, "text, call, speaker, labels, limit, offset"),
        ("search_turns", {"words": "thank", "limit": 5}, "text, call, speaker, labels"),
        ("call_measures", {"call": "a.wav", "speaker": "agent"}, "it takes call)"),
        ("analyze_call", {"path": "a.wav", "max_hours": 99}, "it takes path, options)"),
    ):
        refused = asked(server, tool, **arguments)
        assert refused.is_error
        [unknown] = set(arguments) - {"call", "limit", "path"}
        assert f"no argument {unknown!r}" in refused.content[0].text
        assert takes in refused.content[0].text

    async def shapes() -> list[Any]:
        async with mcp.Client(server) as client:
            return [tool.input_schema for tool in (await client.list_tools()).tools]

    found = asyncio.run(shapes())
    assert len(found) == 3
    assert all(shape["additionalProperties"] is False for shape in found)


def test_only_what_was_allowed_is_offered(folder: Path, tmp_path: Path) -> None:
    async def names(server: Any) -> set[str]:
        async with mcp.Client(server) as client:
            listed = (await client.list_tools()).tools
            assert all(tool.annotations.read_only_hint for tool in listed)
            return {tool.name for tool in listed}

    assert asyncio.run(names(made(folder))) == {"search_turns", "call_measures"}
    assert asyncio.run(names(made(None, tmp_path))) == {"analyze_call"}


def test_calls_that_are_not_there(folder: Path) -> None:
    refused = asked(made(folder), "call_measures", call="absent.wav")
    assert refused.is_error
    assert "search_turns shows" in refused.content[0].text
    data = json.loads((folder / "results.jsonl").read_text().splitlines()[0])
    data["audio"]["path"] = "other/a.wav"
    (folder / "more.jsonl").write_text(compact(data) + "\n")
    with pytest.raises(UsageError, match="2 calls are called"):
        ResultFolder(folder).find("a.wav")


def test_the_command_says_what_is_missing(run_cli: RunCli) -> None:
    for arguments in ([], ["absent"], ["--root", "absent"]):
        result = run_cli("mcp", *arguments)
        assert result.code == 2
        assert len(result.stderr.strip().splitlines()) == 1
