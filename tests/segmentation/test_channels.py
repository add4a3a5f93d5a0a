"""Which channels are analysed: copies, dead channels, crosstalk."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from voices import make_call, speak

from speechmeta.errors import UsageError
from speechmeta.segmentation.channels import ChannelPlan, ChannelSurvey, plan_channels
from speechmeta.segmentation.crosstalk import explained_share, leaked_windows

RATE = 8000


def plan(rows: Sequence[np.ndarray], mode: str = "auto", block: int = 79872) -> ChannelPlan:
    waveform = np.stack(rows).astype(np.float32)
    survey = ChannelSurvey(len(waveform), RATE)
    for start in range(0, waveform.shape[1], block):
        survey.push(waveform[:, start : start + block])
    survey.finish()
    return plan_channels(survey, mode)


def noise(seconds: float, level: float = 0.1, seed: int = 0) -> np.ndarray:
    return level * np.random.default_rng(seed).standard_normal(round(seconds * RATE))


def late(wave: np.ndarray, seconds: float) -> np.ndarray:
    count = round(seconds * RATE)
    return np.concatenate([np.zeros(count), wave[: len(wave) - count]])


def test_different_channels_are_a_speaker_each() -> None:
    found = plan(list(make_call().waveform))
    assert [signal.channel for signal in found.signals] == [0, 1]
    assert found.warnings == ()


@pytest.mark.parametrize("gain", [1.0, 0.1, -1.0, -0.3])
@pytest.mark.parametrize("delay", [0.0, 0.013, 0.04])
def test_copies_are_analysed_once(gain: float, delay: float) -> None:
    both = make_call().waveform.sum(0)
    found = plan([both, gain * late(both, delay) + noise(len(both) / RATE, 1e-4)])
    assert [signal.channel for signal in found.signals] == [0]
    assert found.signals[0].covers == (0, 1)
    assert found.copies == ((1, 0),)
    assert "channel 1 carries the same signal as channel 0" in found.warnings[0]


def test_one_loud_moment_in_common_is_not_a_copy() -> None:
    call = make_call().waveform.copy()
    call[:, -3 * RATE :] += 0.9 * np.sign(noise(3, 1.0))
    assert len(plan(list(call)).signals) == 2


def test_many_copies_of_two_signals() -> None:
    first, second = make_call().waveform
    found = plan([first, second, 0.5 * first, second, -first])
    assert [signal.covers for signal in found.signals] == [(0, 2, 4), (1, 3)]
    assert any("channels 2 and 4 carry" in warning for warning in found.warnings)


def test_dead_channels_are_left_out_with_a_warning() -> None:
    voice = make_call().waveform.sum(0)
    for dead in (np.zeros_like(voice), np.full_like(voice, 0.2), noise(len(voice) / RATE, 2e-5)):
        found = plan([voice, dead])
        assert [signal.channel for signal in found.signals] == [0]
        assert found.dead == (1,)
        assert found.warnings == ("channel 1 carries no signal and was not analysed",)
    nothing = plan([np.zeros(RATE), np.zeros(RATE)])
    assert nothing.signals == ()
    assert nothing.dead == (0, 1)
    assert "silent" in nothing.warnings[0]
    assert plan([0.001 * voice]).dead == (), "quiet is not dead"


def test_mono_mixes_and_split_keeps_copies() -> None:
    call = make_call().waveform
    mono = plan(list(call), "mono")
    assert len(mono.signals) == 1
    assert mono.signals[0].covers == (0, 1)
    np.testing.assert_allclose(mono.signals[0].of(call), call.mean(0), atol=1e-6)
    both = call.sum(0)
    split = plan([both, both], "split")
    assert len(split.signals) == 2
    assert "as asked" in split.warnings[0]
    with pytest.raises(UsageError, match="both"):
        plan([both], "both")


def test_opposite_phase_does_not_cancel_in_a_mix() -> None:
    both = make_call().waveform.sum(0)
    rows = np.stack([both, -both])
    signal = plan(list(rows), "mono").signals[0]
    np.testing.assert_allclose(signal.of(rows), both, atol=1e-6)


def test_two_hundred_channels() -> None:
    rows = [noise(1, 0.1, seed % 100) for seed in range(200)]
    found = plan(rows)
    assert len(found.signals) == 100
    assert found.signals[3].covers == (3, 103)
    assert any("channel 103 carries" in warning for warning in found.warnings)


def test_short_recordings_are_judged_too() -> None:
    tone = np.sin(np.arange(400) / 3)
    assert len(plan([tone, tone]).signals) == 1
    assert len(plan([np.array([0.5])]).signals) == 1 or plan([np.array([0.5])]).dead == (0,)


def test_blocks_change_nothing() -> None:
    call = list(make_call().waveform)
    assert plan(call, block=1000) == plan(call)


def speech_mask(wave: np.ndarray, window: int) -> np.ndarray:
    power = np.square(wave[:, : wave.shape[1] // window * window]).reshape(len(wave), -1, window)
    mask: np.ndarray = power.mean(2) > 1e-8
    return mask


@pytest.mark.parametrize("leak_db", [-10, -20, -35])
def test_a_leak_is_told_from_the_source(leak_db: float) -> None:
    call = make_call(turns=4).waveform.astype(np.float64)
    leak = 10 ** (leak_db / 20)
    rows = np.stack(
        [
            call[0] + leak * late(np.convolve(call[1], [0.6, 0.3, -0.2], "same"), 0.04),
            call[1] + leak * late(np.convolve(call[0], [0.6, 0.3, -0.2], "same"), 0.1),
        ]
    ).astype(np.float32)
    leaked = leaked_windows(rows, speech_mask(rows, 256), 256, RATE)
    own = speech_mask(np.stack([call[0], call[1]]).astype(np.float32), 256)
    foreign = speech_mask(rows, 256) & ~own
    assert leaked[own].mean() < 0.08
    assert leaked[foreign].mean() > 0.8


def test_a_quiet_speaker_over_a_loud_one_is_no_leak() -> None:
    loud = speak("I would like to change the address on my account please.", "rms", RATE)
    quiet = 0.15 * speak("No, that is not what I told you yesterday at all.", "slt", RATE)
    count = min(len(loud), len(quiet))
    rows = np.stack([loud[:count], quiet[:count] + 0.01 * loud[:count]])
    leaked = leaked_windows(rows, speech_mask(rows, 256), 256, RATE)
    assert leaked.mean() < 0.05


def test_explained_share_at_the_edges() -> None:
    voice = speak("Hello there.", "rms", RATE)
    assert explained_share(0.1 * voice, voice, 0, 4096, RATE) > 0.95
    assert explained_share(np.zeros_like(voice), voice, 0, 4096, RATE) == 0.0
    assert explained_share(voice, np.zeros_like(voice), 0, 4096, RATE) == 0.0
    last = len(voice) - 4096
    assert explained_share(0.1 * voice, voice, last, len(voice), RATE) > 0.95
