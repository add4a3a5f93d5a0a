"""The flags of turns, speakers, word times and redaction on the command line."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from audio_files import write_wav
from fakes import FakeEngine
from voices import make_call

from speechmeta.batch.calls import AnalyzerSource
from speechmeta.cli import main, turn_options
from speechmeta.cli.call_options import CallFlags, ModelFlags, grouped
from speechmeta.pipeline.analyzer import Analyzer
from speechmeta.pipeline.plan import CallOptions
from speechmeta.segmentation.turns import TurnOptions

RunCli = Callable[..., Any]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What reached `Analyzer.analyze_call`, with an engine that needs no model."""
    seen: list[dict[str, Any]] = []
    original = Analyzer.analyze_call

    def made(self: Analyzer, *args: Any, **options: Any) -> None:
        Analyzer.__dict__["__init__"].__wrapped__(self, engine=FakeEngine())

    def watched(self: Analyzer, audio: Any, **options: Any) -> Any:
        seen.append(options)
        return original(self, audio, **options)

    made.__wrapped__ = Analyzer.__init__  # type: ignore[attr-defined]
    monkeypatch.setattr(Analyzer, "__init__", made)
    monkeypatch.setattr(Analyzer, "analyze_call", watched)
    return seen


def test_defaults_are_those_of_the_options_object() -> None:
    numbers = (
        turn_options.MIN_PAUSE,
        turn_options.MIN_TURN,
        turn_options.MAX_TURN,
        turn_options.PADDING,
    )
    assert turn_options.collect(None, *numbers) == TurnOptions()


def test_flags_are_those_of_the_options_object() -> None:
    arguments = CallFlags().arguments()
    assert CallOptions(**arguments) == CallOptions()
    assert set(arguments) == {field.name for field in dataclasses.fields(CallOptions)}
    assert AnalyzerSource(**ModelFlags(batch_size=16).arguments()) == AnalyzerSource()


def test_a_group_stands_for_its_options() -> None:
    @grouped
    def command(first: int, model: ModelFlags = ModelFlags(batch_size=3), last: str = "x") -> int:  # noqa: B008
        assert last == "y"
        return first + model.batch_size

    listed = inspect.signature(command).parameters
    assert list(listed) == [
        "first", "model", "device", "compute_type", "batch_size", "local_files_only", "last",
    ]  # fmt: skip
    assert listed["batch_size"].default == 3
    values = {name: item.default for name, item in listed.items() if name != "first"}
    assert command(first=1, **{**values, "batch_size": 5, "last": "y"}) == 6


@pytest.mark.parametrize("name", ["analyze", "batch"])
def test_both_commands_have_them(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    for flag in ("--fields", "--roles", "--no-vad", "--max-turn", "--redact", "--model"):
        assert flag in text
    size = re.search(r"--batch-size.*?default: (\d+)", text, re.DOTALL)
    assert size is not None
    assert size[1] == {"analyze": "8", "batch": "16"}[name]


def test_flags_reach_the_call(run_cli: RunCli, asked: list[Any], tmp_path: Path) -> None:
    path = write_wav(tmp_path / "call.wav", make_call(turns=2).waveform, 8000)
    result = run_cli(
        "analyze", path, "--json", "--vad-threshold", "0.3", "--min-pause", "0.4", "--min-turn",
        "0.1", "--max-turn", "8", "--padding", "0.1", "--speakers", "2", "--redact",
    )  # fmt: skip
    assert result.code == 0, result.stderr
    assert asked[0]["turns"] == TurnOptions(0.3, 0.4, 0.1, 8.0, 0.1)
    assert (asked[0]["speakers"], asked[0]["redact"], asked[0]["vad"]) == (2, True, True)
    document = json.loads(result.stdout)
    assert [turn["speaker"] for turn in document["turns"]] == ["speaker_0", "speaker_1"]
    assert set(document["conversation"]) >= {
        "talk_seconds", "silence_seconds", "overlap_seconds", "interruptions",
        "emotion_by_quarter",
    }  # fmt: skip


@pytest.mark.parametrize(
    "flags",
    [
        ["--vad-threshold", "1.5"],
        ["--max-turn", "0.5"],
        ["--min-pause", "-1"],
        ["--speakers", "0"],
        ["--fields", "Gender", "--word-times"],
        ["--roles", "a,b,c"],
    ],
)
def test_wrong_flags(run_cli: RunCli, asked: list[Any], tmp_path: Path, flags: list[str]) -> None:
    path = write_wav(tmp_path / "call.wav", make_call(turns=2).waveform, 8000)
    result = run_cli("analyze", path, "--json", *flags)
    assert result.code == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
