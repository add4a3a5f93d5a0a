"""Two voices at once: the network and its file, stretches, and who the second speaker is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from voices import SENTENCES, speak

from speechmeta.diarization.overlap import (
    PACKAGED,
    OverlapDetector,
    OverlapNetwork,
    packaged_detector,
    spectra,
)
from speechmeta.diarization.second_speaker import overlapped, second_speakers
from speechmeta.errors import ModelError
from speechmeta.pipeline.two_voices import with_second_voices
from speechmeta.segmentation.turns import Span, Speech

RATE = 16000


def detector() -> OverlapDetector:
    torch.manual_seed(0)
    network = OverlapNetwork()
    return OverlapDetector(network, 0.4)


def noise(seconds: float) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, round(seconds * RATE)).astype(np.float32)


def test_a_frame_is_40_ms_and_level_does_not_count() -> None:
    wave = noise(3.01)
    told = detector().probabilities(wave)
    assert told.shape == (75,)
    quiet = (0.01 * wave).astype(np.float32)
    assert float(np.abs(detector().probabilities(quiet) - told).max()) < 1e-3
    assert detector().probabilities(wave[:100]).shape == (0,)
    assert np.isfinite(detector().probabilities(np.zeros(RATE, np.float32))).all()


def test_long_audio_is_told_in_chunks_of_one_length() -> None:
    told = detector().probabilities(noise(47.0))
    assert told.shape == (1175,)
    assert (told > 0).all()


def test_kept_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "overlap.safetensors"
    detector().save(file, {"origin": "a test"})
    back = OverlapDetector.load(file)
    assert back.threshold == pytest.approx(0.4)
    wave = noise(2.0)
    np.testing.assert_allclose(back.probabilities(wave), detector().probabilities(wave), atol=5e-3)


def test_files_that_hold_something_else(tmp_path: Path) -> None:
    for content in (None, b"not a file of tensors"):
        file = tmp_path / "overlap.safetensors"
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(ModelError, match="no overlap detector"):
            OverlapDetector.load(file)


def test_each_bin_loses_its_mean() -> None:
    seen = spectra(torch.from_numpy(noise(1.0))[None])
    assert seen.shape == (1, 50, 160)
    torch.testing.assert_close(seen.mean(1), torch.zeros(1, 160), atol=1e-4, rtol=0)


@pytest.mark.slow
def test_two_voices_are_more_probable_to_the_packaged_one() -> None:
    assert PACKAGED.stat().st_size < 1_000_000
    found = packaged_detector()
    one = np.concatenate([speak(text, "slt", RATE) for text in SENTENCES[:4]])
    other = np.concatenate([speak(text, "rms", RATE) for text in SENTENCES[2:]])
    length = min(len(one), len(other))
    alone = [float(found.probabilities(wave).mean()) for wave in (one, other)]
    both = float(found.probabilities(one[:length] + other[:length]).mean())
    assert both > 1.2 * max(alone)
    assert all((found.probabilities(wave) < found.threshold).all() for wave in (one, other))


def test_stretches_of_two_voices() -> None:
    told = np.zeros(100, np.float32)
    told[10:20] = 0.9
    told[22:25] = 0.9  # 80 ms later: the same one
    told[40:42] = 0.9  # too short
    told[60:70] = 0.45  # never sure
    told[80:100] = 0.42
    told[90] = 0.6
    found = overlapped(told, 0.5, 1000, 8000)
    assert found == [(1000 + 10 * 320, 1000 + 25 * 320), (1000 + 80 * 320, 1000 + 100 * 320)]
    assert overlapped(np.zeros(0, np.float32), 0.5, 0, 8000) == []


def test_the_second_speaker_is_the_one_who_comes_or_goes() -> None:
    speech = [Speech(0, 8000, 0), Speech(8000, 16000, 1), Speech(40000, 48000, 2)]
    # Around a change each is the other's second.
    assert second_speakers(speech, [(6400, 9600)], 8000) == [
        Speech(6400, 8000, 1), Speech(8000, 9600, 0),
    ]  # fmt: skip
    # Far from it the detector is not believed, at a pause nobody meets.
    assert second_speakers(speech, [(800, 2400), (14400, 16000)], 8000) == []
    assert second_speakers(speech, [(3000, 4000)], 8000) == [Speech(3200, 4000, 1)][:0]
    assert second_speakers([Speech(0, 8000, 0)], [(0, 8000)], 8000) == []


def test_turns_grow_by_second_voices() -> None:
    spans = [Span(0, 8000, 0, 0, 8200), Span(8000, 20000, 1, 7800, 20200)]
    seconds = [Speech(6400, 8000, 1), Speech(8000, 8800, 0)]
    told = with_second_voices(spans, seconds, 8000)
    assert [(t.span.start, t.span.end, t.span.speaker) for t in told] == [
        (0, 8800, 0), (6400, 20000, 1),
    ]  # fmt: skip
    # What the model gets, and what counts as covered, is as it was.
    assert [(t.first, t.last) for t in told] == [(0, 8000), (8000, 20000)]
    assert [(t.span.clip_start, t.span.clip_end) for t in told] == [(0, 8200), (7800, 20200)]
