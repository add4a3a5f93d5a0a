"""The flags that are made from the options classes, and where else their values come from."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from audio_files import write_wav
from fakes import FakeEngine
from voices import make_call

from speechmeta.cli import main
from speechmeta.cli.options_page import page
from speechmeta.pipeline.analyzer import Analyzer
from speechmeta.pipeline.options import CallOptions, ModelOptions
from speechmeta.segmentation.turns import TurnOptions
from speechmeta.settings import entries

RunCli = Callable[..., Any]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[CallOptions]:
    """What was asked of the `Analyzer`, with an engine that needs no model."""
    import speechmeta.pipeline.analyzer as home

    seen: list[CallOptions] = []

    class Watched(Analyzer):
        def analysis(self, audio: Any, chosen: CallOptions, *rest: Any, **named: Any) -> Any:
            seen.append(chosen)
            return super().analysis(audio, chosen, *rest, **named)

    monkeypatch.setattr(home, "Analyzer", lambda **options: Watched.from_engine(FakeEngine()))
    return seen


@pytest.fixture
def call(tmp_path: Path) -> Path:
    return write_wav(tmp_path / "call.wav", make_call(turns=2).waveform, 8000)


@pytest.mark.parametrize("name", ["analyze", "batch", "app"])
def test_commands_have_a_flag_for_every_option(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    for kind in (CallOptions, ModelOptions):
        for entry in entries(kind):
            assert entry.flag in text
    assert "--config" in text
    assert re.search(r"--min-pause .*\[default: 0\.6\]", text)


def test_flags_reach_the_call(run_cli: RunCli, asked: list[CallOptions], call: Path) -> None:
    result = run_cli(
        "analyze", call, "--json", "--vad-threshold", "0.3", "--min-pause", "0.4", "--min-turn",
        "0.1", "--max-turn", "8", "--padding", "0.1", "--speakers", "2", "--redact",
    )  # fmt: skip
    assert result.code == 0, result.stderr
    turns = TurnOptions(
        threshold=0.3,
        min_pause_seconds=0.4,
        min_turn_seconds=0.1,
        max_turn_seconds=8.0,
        padding_seconds=0.1,
    )
    assert asked == [CallOptions(turns=turns, speakers=2, redact=True)]
    document = json.loads(result.stdout)
    assert [turn["speaker"] for turn in document["turns"]] == ["speaker_0", "speaker_1"]
    assert set(document["conversation"]) >= {
        "talk_seconds", "silence_seconds", "overlap_seconds", "interruptions",
        "emotion_by_quarter",
    }  # fmt: skip


def test_flags_come_before_variables_and_these_before_the_config_file(
    run_cli: RunCli,
    asked: list[CallOptions],
    call: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = tmp_path / "call.toml"
    config.write_text(
        'roles = ["agent", "customer"]\nredact = true\n[turns]\nmin_pause_seconds = 0.3\n'
    )
    monkeypatch.setenv("SPEECHMETA_MIN_PAUSE", "0.5")
    monkeypatch.setenv("SPEECHMETA_FIELDS", "Transcript,Gender")
    result = run_cli("analyze", call, "--config", config, "--no-redact", "--json")
    assert result.code == 0, result.stderr
    assert asked == [
        CallOptions(
            roles=("agent", "customer"),
            fields=("Transcript", "Gender"),
            turns=TurnOptions(min_pause_seconds=0.5),
        )
    ]
    monkeypatch.setenv("SPEECHMETA_CONFIG", str(config))
    assert run_cli("analyze", call, "--json").code == 0
    assert asked[1].redact


@pytest.mark.parametrize(
    "flags",
    [
        ["--vad-threshold", "1.5"],
        ["--max-turn", "0.5"],
        ["--min-pause", "-1"],
        ["--speakers", "0"],
        ["--channels", "both"],
        ["--device", "tpu"],
        ["--fields", "Mood"],
        ["--fields", "Gender", "--word-times"],
        ["--roles", "a,a"],
        ["--raw", "codec=mp3"],
        ["--roles", "a,,b"],
        ["--config", "absent.toml"],
    ],
)
def test_wrong_flags_are_one_line_and_exit_code_2(
    run_cli: RunCli, asked: list[Any], call: Path, flags: list[str]
) -> None:
    result = run_cli("analyze", call, "--json", *flags)
    assert result.code == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1


def test_a_misspelt_key_is_one_line_that_names_the_nearest(
    run_cli: RunCli, asked: list[Any], call: Path, tmp_path: Path
) -> None:
    config = tmp_path / "call.toml"
    config.write_text("min_pause = 1\n")
    result = run_cli("analyze", call, "--config", config)
    assert (result.code, result.stderr.count("\n")) == (2, 1)
    assert "'turns.min_pause_seconds'" in result.stderr
    assert asked == []


def test_the_page_of_options_is_made_from_the_classes() -> None:
    written = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    assert written == page(), "python -m speechmeta.cli.options_page > docs/options.md"
