"""Nothing that was redacted appears in anything that a run writes, prints or logs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from audio_files import write_wav
from fakes import FakeEngine
from voices import make_call

from speechmeta.decoding.record import DecodedRecord, TimedWord
from speechmeta.errors import SpeechMetaError
from speechmeta.pipeline.analyzer import Analyzer
from speechmeta.writers import WRITERS

RunCli = Callable[..., Any]

SAID = (
    "my card is 4242 4242 4242 4242",
    "write to john.smith@gmail.com please",
    "four two four two",
    "the cvv is 319 thanks",
)
SECRETS = ("4242 4242", '"4242"', "john.smith", "gmail", "four two", "cvv is 319", '"319"')
RULES = '[[rule]]\nname = "any words"\nwhen = "said"\npattern = ".+"\n'


class TellsSecrets(FakeEngine):
    """Says one of `SAID` in every turn, with words and their times."""

    def __init__(self) -> None:
        super().__init__()
        self.gives_words = True
        self.count = 0

    def decode(
        self,
        waveforms: Sequence[npt.NDArray[np.float32]],
        fields: Sequence[str] | None = None,
        instruction: str | None = None,
        word_times: bool = False,
    ) -> list[DecodedRecord | SpeechMetaError]:
        found = super().decode(waveforms, fields, instruction, word_times)
        for record in found:
            assert isinstance(record, DecodedRecord)
            text = SAID[self.count % len(SAID)]
            self.count += 1
            record.values["Transcript"] = record.text = text
            record.words = [
                TimedWord(word, 0.1 * number, 0.1 * number + 0.1, 0.9)
                for number, word in enumerate(text.split())
            ]
        return found


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> TellsSecrets:
    import speechmeta.pipeline.analyzer as home

    engine = TellsSecrets()
    monkeypatch.setattr(home, "Analyzer", lambda **_: Analyzer.from_engine(engine))
    return engine


def test_no_secret_is_in_any_file_line_or_log(
    run_cli: RunCli, engine: TellsSecrets, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    calls, out, rules = tmp_path / "calls", tmp_path / "out", tmp_path / "rules.toml"
    calls.mkdir()
    call = make_call(turns=4)
    for name in ("a", "b"):
        write_wav(calls / f"{name}.wav", call.waveform, call.rate)
    (calls / "broken.wav").write_bytes(b"RIFF\x00\x00\x00\x00WAVE and no more")
    rules.write_text(RULES)
    common = ("--word-times", "--rules", rules)
    formats = ",".join(sorted(name for name in WRITERS if not name.startswith("csv-")))

    def printed(*flags: str | Path) -> str:
        result = run_cli("analyze", calls / "a.wav", *common, *flags)
        assert result.code == 0, result.stderr
        return str(result.stdout + result.stderr)

    # The test can fail: without redaction every secret is there.
    assert all(secret in printed("--json") for secret in SECRETS)
    told = printed("--json", "--redact") + printed("--redact")
    told += printed("--redact", "--redact-audio", tmp_path / "clean.wav")
    batch = run_cli(
        "batch", calls, "-o", out, "-f", formats, "--parquet", "--summary", "--redact",
        "--workers", "1", *common,
    )  # fmt: skip
    assert batch.code == 1  # broken.wav
    told += batch.stdout + batch.stderr + caplog.text
    assert "[CARD]" in told
    assert "any words" in told
    files = [path for path in [*out.rglob("*"), tmp_path / "clean.wav"] if path.is_file()]
    assert {".html", ".srt", ".csv", ".parquet", ".sqlite"} <= {path.suffix for path in files}
    for secret in SECRETS:
        assert secret not in told
        holds = [path.name for path in files if secret.encode() in path.read_bytes()]
        assert holds == [], secret
    text = b"".join(path.read_bytes() for path in files if path.suffix in (".txt", ".srt"))
    assert b"[CARD]" in text
