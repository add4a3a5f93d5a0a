"""The runner: order, batches, isolation of bad clips, journal and resume."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from eval_fakes import Oracle
from eval_trees import OURS, manifest, write_tone

from speechmeta.audio.loading import Audio
from speechmeta.errors import DatasetError, UsageError
from speechmeta.eval import Dataset, Prediction, evaluate, read_dataset
from speechmeta.eval.condition import over_the_telephone
from speechmeta.eval.run import Journal, RunOptions, read_journal, run
from speechmeta.eval.systems import FilePredictor
from speechmeta.eval.types import Record


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return read_dataset("manifest", manifest(tmp_path / "data" / "dev.jsonl", OURS))


def test_records_come_in_the_data_sets_order(dataset: Dataset) -> None:
    oracle = Oracle(dataset)
    records = run(dataset, oracle)
    assert [record.id for record in records] == [clip.id for clip in dataset.clips]
    assert oracle.batches == [["clips/c.wav", "clips/a.opus", "clips/d.wav", "clips/b.opus",
                               "clips/e.wav"]]  # fmt: skip
    assert all(record.error is None and record.seconds > 0 for record in records)
    assert records[2].duration == pytest.approx(0.9)


def test_batches_are_bounded_in_clips_and_in_padded_seconds(dataset: Dataset) -> None:
    oracle = Oracle(dataset)
    run(dataset, oracle, options=RunOptions(batch_size=2))
    assert [len(batch) for batch in oracle.batches] == [2, 2, 1]
    oracle = Oracle(dataset)
    # Longest first: 0.9 + 0.9 is too much for 1.5; 0.7 + 0.7 fits, a third does not.
    run(dataset, oracle, options=RunOptions(batch_size=8, batch_seconds=1.5))
    assert [len(batch) for batch in oracle.batches] == [1, 2, 2]
    with pytest.raises(UsageError, match="positive"):
        RunOptions(batch_size=0)


def test_audio_is_mono_at_16_khz_whatever_the_file(tmp_path: Path) -> None:
    for name, rate in (("a.wav", 8000), ("b.mp3", 44100), ("c.flac", 22050), ("d.opus", 48000)):
        write_tone(tmp_path / name, 0.8, rate)
    rows = [{"audio": name, "text": "x"} for name in ("a.wav", "b.mp3", "c.flac", "d.opus")]
    dataset = read_dataset("manifest", manifest(tmp_path / "m.jsonl", rows, audio=False))
    records = run(dataset, Oracle(dataset))
    assert all(record.error is None for record in records)
    assert [record.duration for record in records] == pytest.approx([0.8] * 4, abs=0.06)


class _Listener(Oracle):
    """Keeps what it is given to hear."""

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(dataset)
        self.heard: list[Audio] = []

    def predict(self, audios: Sequence[Audio]) -> list[Prediction]:
        self.heard += audios
        return super().predict(audios)


def test_over_the_telephone(tmp_path: Path) -> None:
    rate, seconds = 16_000, 1.5
    time = np.arange(int(rate * seconds)) / rate
    for name, hertz in (("low", 60), ("voice", 1000), ("high", 6000)):
        soundfile.write(tmp_path / f"{name}.wav", 0.3 * np.sin(2 * np.pi * hertz * time), rate)
    rows = [{"audio": f"{name}.wav", "text": "x"} for name in ("low", "voice", "high")]
    dataset = read_dataset("manifest", manifest(tmp_path / "m.jsonl", rows, audio=False))
    listener = _Listener(dataset)
    report = evaluate(dataset, predictor=listener, output=tmp_path / "out", telephone=True)
    assert "G.711" in report["condition"]
    assert "G.711" in (tmp_path / "out" / "report.md").read_text()
    levels = {}
    for audio in listener.heard:
        assert (audio.sample_rate, audio.waveform.shape) == (rate, (1, len(time)))
        levels[Path(audio.path or "").stem] = float(np.sqrt((audio.waveform**2).mean()))
    whole = 0.3 / 2**0.5
    assert levels["voice"] == pytest.approx(whole, rel=0.03)
    assert levels["low"] < 0.1 * whole
    assert levels["high"] < 0.05 * whole
    # G.711 leaves its 8 bits of noise.
    voice = next(a for a in listener.heard if a.path and "voice" in a.path).waveform[0]
    spectrum = np.abs(np.fft.rfft(voice[2000:18000] * np.hanning(16000))) ** 2
    signal = spectrum[990:1011].sum()
    assert 25 < 10 * np.log10(signal / (spectrum.sum() - signal)) < 45
    with pytest.raises(DatasetError, match="telephone"):
        evaluate(dataset, predictor=listener, output=tmp_path / "out", resume=True)
    narrow = over_the_telephone(Audio(np.zeros((2, 4001), np.float32), 8000))
    assert narrow.waveform.shape == (2, 4001)


def test_predictions_heard_no_telephone(dataset: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    path.write_text(json.dumps({"id": dataset.clips[0].id, "pred_text": "hi"}) + "\n")
    with pytest.raises(UsageError, match="without a telephone"):
        evaluate(dataset, predictor=FilePredictor(path), telephone=True)


def test_broken_and_missing_files_are_records(dataset: Dataset) -> None:
    clips = dataset.clips
    clips[0].audio.write_bytes(b"not audio at all")
    clips[1].audio.unlink()
    clips[2].audio.write_bytes(b"")
    records = run(dataset, Oracle(dataset))
    assert [record.error is None for record in records] == [False, False, False, True, True]
    assert all(record.prediction == {} for record in records[:3])
    assert records[0].reference["Transcript"] == "Hello there, Mr. Smith"


def test_a_prediction_that_raises_costs_only_its_clip(dataset: Dataset) -> None:
    oracle = Oracle(dataset, {"clips/b.opus": None})
    records = {record.id: record for record in run(dataset, oracle)}
    assert records["clips/b.opus"].error == "RuntimeError: out of luck"
    assert sum(record.error is not None for record in records.values()) == 1
    # The whole batch, then each of its clips.
    assert [len(batch) for batch in oracle.batches] == [5, 1, 1, 1, 1, 1]


def test_a_system_that_loses_clips_is_found_out(dataset: Dataset) -> None:
    class Lossy(Oracle):
        def predict(self, audios: Any) -> list[Prediction]:
            return super().predict(audios)[1:]

    records = run(dataset, Lossy(dataset))
    assert {record.error for record in records} == {"ValueError: 1 clips gave 0 predictions"}


def test_progress_is_told_after_every_clip(dataset: Dataset) -> None:
    seen: list[tuple[int, int, str]] = []
    run(dataset, Oracle(dataset), progress=lambda done, total, r: seen.append((done, total, r.id)))
    assert [item[:2] for item in seen] == [(i, 5) for i in range(1, 6)]
    assert {item[2] for item in seen} == {clip.id for clip in dataset.clips}


def test_resume_takes_over_what_is_done_and_retries_failures(
    dataset: Dataset, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = Oracle(dataset, {"clips/b.opus": None})
    report = evaluate(dataset, predictor=first, output=out)
    assert report["errors"] == 1
    lines = (out / "records.jsonl").read_text().splitlines()
    assert len(lines) == 6
    # A crash: one record is missing, the last line is cut.
    kept = [line for line in lines if '"clips/d.wav"' not in line]
    (out / "records.jsonl").write_text("\n".join(kept) + "\n" + lines[-1][:40])
    second = Oracle(dataset)
    report = evaluate(dataset, predictor=second, output=out, resume=True)
    assert sorted(name for batch in second.batches for name in batch) == [
        "clips/b.opus", "clips/d.wav",
    ]  # fmt: skip
    assert report["errors"] == 0
    assert report["wer"] == 0.0
    records = list(read_journal(out / "records.jsonl"))
    assert sorted(record.id for record in records) == sorted(row["audio"] for row in OURS)


def test_without_resume_a_run_begins_anew(dataset: Dataset, tmp_path: Path) -> None:
    for _ in range(2):
        oracle = Oracle(dataset)
        evaluate(dataset, predictor=oracle, output=tmp_path / "out")
        assert sum(map(len, oracle.batches)) == 5


def test_resume_refuses_another_run(dataset: Dataset, tmp_path: Path) -> None:
    evaluate(dataset, predictor=Oracle(dataset), output=tmp_path / "out")
    with pytest.raises(DatasetError, match="another run: system differ"):
        evaluate(
            dataset, predictor=Oracle(dataset, name="other"), output=tmp_path / "out", resume=True
        )
    with pytest.raises(UsageError, match="nothing to resume"):
        evaluate(dataset, predictor=Oracle(dataset), resume=True)


def test_a_damaged_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text('{"run": {}}\n{"id": \n{}\n')
    with pytest.raises(DatasetError, match="line 2"):
        Journal(path, {}, resume=True)
    path.write_text("garbage")
    with pytest.raises(DatasetError, match="line 1"):
        list(read_journal(path))


def test_records_survive_json(dataset: Dataset) -> None:
    for record in run(dataset, Oracle(dataset)):
        assert Record.from_json(json.loads(json.dumps(record.to_json()))) == record
