"""Silero VAD over blocks: the package's own probabilities, at both rates, on the telephone."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from voices import make_call, speak, telephone

from speechmeta.audio.loading import resample
from speechmeta.errors import ModelError, UsageError
from speechmeta.segmentation.turns import THRESHOLDS, speech_regions
from speechmeta.segmentation.vad import SileroVad, _load_network, vad_rate

pytestmark = pytest.mark.slow


def probabilities(vad: SileroVad, rows: np.ndarray, block: int) -> np.ndarray:
    found = [vad.push(rows[:, start : start + block]) for start in range(0, rows.shape[1], block)]
    return np.concatenate([*found, vad.finish()], axis=1)


@pytest.mark.parametrize("rate", [8000, 16000])
def test_same_as_the_package(rate: int) -> None:
    package = importlib.util.find_spec("silero_vad")
    assert package is not None
    assert package.origin is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        model = torch.jit.load(str(Path(package.origin).parent / "data" / "silero_vad.jit"))
    call = make_call(rate=rate, turns=2)
    noise = np.random.default_rng(0).normal(0, 0.01, call.waveform.shape)
    rows = (call.waveform + noise).astype(np.float32)
    vad = SileroVad(rate, 2, warm_up=False)
    ours = probabilities(vad, rows, 3 * rate + 17)
    padded = np.pad(rows, ((0, 0), (0, -rows.shape[1] % vad.window)))
    with torch.no_grad():
        theirs = [
            model(torch.from_numpy(padded[:, start : start + vad.window].copy()), rate).numpy()
            for start in range(0, padded.shape[1], vad.window)
        ]
    assert ours.shape == (2, len(theirs))
    np.testing.assert_allclose(ours, np.concatenate(theirs, axis=1), atol=1e-4)


def test_block_sizes_change_nothing() -> None:
    rows = make_call(turns=2).waveform
    whole = probabilities(SileroVad(8000, 2), rows, rows.shape[1])
    for block in (100, 256, 8000, 79872):
        np.testing.assert_allclose(probabilities(SileroVad(8000, 2), rows, block), whole, atol=1e-5)


@pytest.mark.parametrize("voice", ["slt", "rms", "awb"])
@pytest.mark.parametrize("level", [0.5, 0.05])
def test_telephone_speech_is_heard(voice: str, level: float) -> None:
    quiet = np.zeros(4096, np.float32)
    spoken = level * speak("I would like to change my address please.", voice, 8000)
    wave = telephone(np.concatenate([quiet, spoken, quiet]), 8000)
    # The same recording may have been saved at 16 kHz.
    for rate, samples in ((8000, wave), (16000, resample(wave, 8000, 16000))):
        vad = SileroVad(rate, 1)
        heard = probabilities(vad, samples[None], rate)[0]
        padded = np.pad(samples, (0, -len(samples) % vad.window))
        power = np.square(padded.reshape(-1, vad.window)).mean(1)
        found = np.zeros(len(heard), bool)
        for first, last in speech_regions(heard, THRESHOLDS[rate]):
            found[first:last] = True
        assert found[power > power.max() * 10**-2.5].mean() > 0.85, rate


@pytest.mark.parametrize("voice", ["rms", "awb"])
def test_speech_from_the_first_sample_on_is_heard(voice: str) -> None:
    spoken = telephone(speak("I would like to change my address please.", voice, 8000), 8000)
    wide = resample(spoken, 8000, 16000)[None]
    heard = probabilities(SileroVad(16000, 1), wide, 16000)[0]
    assert np.argmax(heard >= THRESHOLDS[16000]) <= 2


def test_noise_and_tones_are_not_speech() -> None:
    random = np.random.default_rng(1)
    times = np.arange(5 * 8000) / 8000
    rows = np.stack(
        [
            np.zeros(5 * 8000),
            0.1 * random.standard_normal(5 * 8000),
            0.3 * np.sin(2 * np.pi * 440 * times),
        ]
    ).astype(np.float32)
    heard = probabilities(SileroVad(8000, 3), rows, 8000)
    assert (heard > THRESHOLDS[8000]).mean() < 0.02


def test_nothing_in_nothing_out() -> None:
    vad = SileroVad(16000, 2)
    assert vad.push(np.zeros((2, 0), np.float32)).shape == (2, 0)
    assert vad.finish().shape == (2, 0)
    assert vad.push(np.zeros((2, 1), np.float32)).shape == (2, 0)
    assert vad.finish().shape == (2, 1)


def test_only_up_to_8_khz_is_analysed_at_8_khz() -> None:
    assert [vad_rate(rate) for rate in (6000, 8000, 11025, 16000, 48000)] == [
        8000, 8000, 16000, 16000, 16000,
    ]  # fmt: skip
    with pytest.raises(UsageError, match="44100"):
        SileroVad(44100, 1)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    _load_network.cache_clear()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="silero-vad is not installed"):
        SileroVad(8000, 1)


def test_threads_are_left_alone() -> None:
    code = (
        "import torch; torch.set_num_threads(3)\n"
        "from speechmeta.segmentation.vad import SileroVad; SileroVad(8000, 1)\n"
        "assert torch.get_num_threads() == 3"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
