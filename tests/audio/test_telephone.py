"""The simulated telephone: band, codecs, level, alignment, lost packets."""

from __future__ import annotations

import numpy as np
import pytest

from speechmeta.audio.telephone import (
    AMR_BIT_RATES,
    CODECS,
    Codec,
    coded,
    lose_packets,
    over_the_line,
)


def _tone(hertz: float, seconds: float = 1.5, rate: int = 16_000) -> np.ndarray:
    times = np.arange(int(rate * seconds)) / rate
    return (0.3 * np.sin(2 * np.pi * hertz * times)).astype(np.float32)


def _voice(seconds: float = 1.5) -> np.ndarray:
    """Something with the pulses and formants of a voice at 8 kHz."""
    pulses = np.zeros(int(8000 * seconds), np.float32)
    pulses[::70] = 1.0
    ringing = np.exp(-np.arange(200) / 25) * np.sin(2 * np.pi * 600 * np.arange(200) / 8000)
    voice = np.convolve(pulses, ringing)[: len(pulses)]
    loudness = 0.5 + 0.5 * np.sin(2 * np.pi * 3 * np.arange(len(pulses)) / 8000)
    made: np.ndarray = (0.3 * loudness * voice / np.abs(voice).max()).astype(np.float32)
    return made


@pytest.mark.parametrize("codec", CODECS)
def test_a_codec_keeps_level_length_and_place(codec: Codec) -> None:
    voice = _voice()
    heard = coded(voice, codec)
    assert heard.shape == voice.shape
    assert heard.dtype == np.float32
    ratio = np.sqrt(np.mean(heard**2) / np.mean(voice**2))
    assert 0.8 < ratio < 1.2
    limits = {"none": 1.0, "mulaw": 0.999, "alaw": 0.999, "gsm": 0.9, "amr": 0.7}
    assert np.corrcoef(voice, heard)[0, 1] >= limits[codec] - 1e-6


def test_a_lower_bit_rate_of_amr_hears_less() -> None:
    voice = _voice()
    apart = [np.square(coded(voice, "amr", rate) - voice).mean() for rate in AMR_BIT_RATES]
    assert apart[0] > apart[-1]


def test_the_band_is_that_of_a_telephone() -> None:
    levels = {hertz: over_the_line(_tone(hertz), 16_000).std() for hertz in (60, 1000, 6000)}
    assert levels[1000] == pytest.approx(_tone(1000).std(), rel=0.03)
    assert levels[60] < 0.1 * levels[1000]
    assert levels[6000] < 0.05 * levels[1000]


def test_channels_stay_apart_and_short_clips_stay_as_long() -> None:
    both = np.stack([_tone(1000), np.zeros_like(_tone(1000))])
    heard = over_the_line(both, 16_000)
    assert heard.shape == both.shape
    assert np.abs(heard[1]).max() < 1e-3
    for count in (0, 1, 81, 4001):
        assert over_the_line(np.zeros(count, np.float32), 11_025).shape == (count,)


def test_lost_packets_are_silent_or_concealed() -> None:
    wave = np.full(16_000 * 20, 0.5, np.float32)
    dropped = lose_packets(wave, 16_000, 0.1, np.random.default_rng(0), conceal=False)
    assert np.mean(dropped == 0) == pytest.approx(0.1, abs=0.04)
    concealed = lose_packets(wave, 16_000, 0.1, np.random.default_rng(0))
    assert np.mean(concealed == 0) < 0.02
    assert np.mean(concealed < 0.5) == pytest.approx(np.mean(dropped == 0), abs=0.001)
    assert (lose_packets(wave, 16_000, 0.0, np.random.default_rng(0)) == wave).all()
