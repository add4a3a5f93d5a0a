"""Channels that are not what they claim: empty, repeated, mixed, echoing, faint, offset."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import av
import numpy as np
import pytest
from fakes import FakeEngine
from voices import Call, make_call, speak

from speechmeta.pipeline.analyzer import Analyzer
from speechmeta.pipeline.options import CallOptions
from speechmeta.pipeline.plan import CallPlan, prepare_call
from speechmeta.schema import CallReport

pytestmark = pytest.mark.slow

RATE = 8000
ROLES = ("agent", "customer")


def plan_of(rows: np.ndarray, **options: Any) -> CallPlan:
    waveform = np.asarray(rows, np.float32)
    return prepare_call((waveform, RATE), CallOptions(**options)).plan


def hiss(like: np.ndarray, level_db: float, seed: int = 0) -> np.ndarray:
    noise: np.ndarray = np.random.default_rng(seed).standard_normal((like.shape[-1],))
    loud: np.ndarray = noise * 10 ** (level_db / 20)
    return loud


def late(wave: np.ndarray, seconds: float) -> np.ndarray:
    count = round(seconds * RATE)
    return np.concatenate([np.zeros(count), wave[: len(wave) - count]])


def spoken_by(plan: CallPlan) -> list[tuple[int, float, float]]:
    """(channel, start, end) of the turns, in order of time."""
    return [
        (plan.signals[turn.row].channel, turn.start / plan.rate, turn.end / plan.rate)
        for turn in plan.turns
    ]


def check_parties(plan: CallPlan, call: Call, slack: float = 0.3) -> None:
    """Each turn is on its own party's channel, once."""
    found = spoken_by(plan)
    assert [channel for channel, _, _ in found] == [who for _, _, who in call.truth]
    for (_, start, end), (begin, stop, _) in zip(found, call.truth, strict=True):
        assert start == pytest.approx(begin, abs=slack)
        assert end == pytest.approx(stop, abs=slack)


def check_once(plan: CallPlan, call: Call) -> None:
    """All speech is on the first channel, where the parties are still to be told apart."""
    found = spoken_by(plan)
    assert {channel for channel, _, _ in found} == {0}
    talk = sum(end - start for start, end, _ in call.truth)
    assert sum(end - start for _, start, end in found) == pytest.approx(talk, abs=0.2 * talk)


@pytest.mark.parametrize("level_db", [-80.0, -66.0, -50.0, -40.0])
def test_a_channel_without_speech_is_empty_whatever_its_level(level_db: float) -> None:
    call = make_call()
    mixed = call.waveform.sum(0)
    plan = plan_of(np.stack([mixed, hiss(mixed, level_db)]))
    check_once(plan, call)
    assert [channel for _, channel in plan.speakers] == [0]
    assert any(
        "only channel 0 holds speech" in warning or "carries no signal" in warning
        for warning in plan.warnings
    )
    assert any("treating the call as one speaker" in warning for warning in plan.warnings), (
        "told apart"
    )


def through_codec(wave: np.ndarray, codec: str) -> np.ndarray:
    try:
        encoder: Any = av.AudioCodecContext.create(codec, "w")
    except ValueError:
        pytest.skip(f"this PyAV has no encoder {codec}")
    encoder.sample_rate, encoder.layout, encoder.format = RATE, "mono", "s16"
    if codec == "libopencore_amrnb":
        encoder.bit_rate = 7400
    decoder: Any = av.AudioCodecContext.create(codec, "r")
    decoder.sample_rate, decoder.layout = RATE, "mono"
    frame = av.AudioFrame.from_ndarray(
        (wave * 32767).astype(np.int16)[None], format="s16", layout="mono"
    )
    frame.sample_rate = RATE
    parts = []
    for packet in [*encoder.encode(frame), *encoder.encode(None)]:
        if packet.size:
            parts += [item.to_ndarray().reshape(-1) for item in decoder.decode(packet)]
    decoded = np.concatenate(parts)
    scale = 32768 if decoded.dtype == np.int16 else 1
    wide = decoded.astype(np.float64) / scale
    return np.pad(wide, (0, max(0, wave.size - wide.size)))[: wave.size]


COPIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "60 ms late": lambda wave: late(wave, 0.06),
    "200 ms late": lambda wave: late(wave, 0.2),
    "half as loud": lambda wave: 0.6 * late(wave, 0.1),
    "AMR": lambda wave: through_codec(wave, "libopencore_amrnb"),
}


@pytest.mark.parametrize("copy", COPIES)
@pytest.mark.parametrize("voices", [("rms", "slt"), ("awb", "kal")])
def test_a_copy_is_analysed_once_and_told(copy: str, voices: tuple[str, str]) -> None:
    call = make_call(voices=voices)
    mixed = call.waveform.sum(0)
    plan = plan_of(np.stack([mixed, COPIES[copy](mixed)]))
    check_once(plan, call)
    assert any("channel 1" in warning and "once" in warning for warning in plan.warnings)


def test_copies_with_noises_of_their_own_are_analysed_once() -> None:
    call = make_call()
    mixed = call.waveform.sum(0)
    plan = plan_of(np.stack([mixed + hiss(mixed, -45), mixed + hiss(mixed, -45, 1)]))
    check_once(plan, call)
    assert any("channel 1" in warning and "once" in warning for warning in plan.warnings)


def test_a_mix_beside_one_party_keeps_the_other() -> None:
    call = make_call()
    plan = plan_of(np.stack([call.waveform.sum(0), call.waveform[1]]))
    check_parties(plan, call)
    assert any("channel 0 also carries" in warning for warning in plan.warnings)


@pytest.mark.parametrize("place", [0, 2])
def test_a_mix_beside_both_parties_is_left_out(place: int) -> None:
    call = make_call()
    rows = list(call.waveform)
    rows.insert(place, call.waveform.sum(0))
    plan = plan_of(np.stack(rows), roles=ROLES)
    own = [channel for channel in range(3) if channel != place]
    assert [turn.speaker for turn in plan.turns] == [ROLES[who] for _, _, who in call.truth]
    assert plan.speakers == tuple(zip(ROLES, own, strict=True))
    assert any(f"channel {place} repeats" in warning for warning in plan.warnings)


@pytest.mark.parametrize("delay", [0.02, 0.2, 0.4])
@pytest.mark.parametrize("level_db", [-10.0, -20.0])
def test_an_echo_makes_no_turns(delay: float, level_db: float) -> None:
    call = make_call(turns=4)
    gain = 10 ** (level_db / 20)
    echo = np.stack([gain * late(row, delay) for row in call.waveform[::-1]])
    plan = plan_of(call.waveform + echo + hiss(call.waveform, -75))
    check_parties(plan, call)


@pytest.mark.parametrize("empty", [(2,), (0, 1, 3, 5)])
@pytest.mark.parametrize("level_db", [-300.0, -60.0])
def test_roles_go_to_the_channels_that_speak(empty: tuple[int, ...], level_db: float) -> None:
    call = make_call()
    own = iter(call.waveform)
    count = len(empty) + 2
    rows = [
        hiss(call.waveform, level_db, number) if number in empty else next(own)
        for number in range(count)
    ]
    plan = plan_of(np.stack(rows), roles=ROLES)
    assert [turn.speaker for turn in plan.turns] == [ROLES[who] for _, _, who in call.truth]
    live = [number for number in range(count) if number not in empty]
    assert plan.speakers == tuple(zip(ROLES, live, strict=True))
    assert any(
        f"agent is channel {live[0]}, customer is channel {live[1]}" in warning
        for warning in plan.warnings
    )


@pytest.mark.parametrize("level_db", [0, -20, -30, -40, -50])
@pytest.mark.parametrize("noise_db", [-300.0, -90.0])
def test_faint_speech_is_found_from_its_beginning(level_db: float, noise_db: float) -> None:
    call = make_call(turns=4)
    rows = call.waveform * 10 ** (level_db / 20)
    rows = np.round((rows + hiss(rows, noise_db)) * 32767) / 32767
    check_parties(plan_of(rows), call)


@pytest.mark.parametrize("offset", [0.02, 0.05, 0.2, -0.4])
def test_an_offset_costs_no_speech(offset: float) -> None:
    call = make_call(turns=4)
    check_parties(plan_of(call.waveform + offset), call)


@pytest.mark.parametrize("level_db", [-80.0, -60.0, -30.0])
def test_noise_is_never_raised_into_speech(level_db: float) -> None:
    seconds = np.arange(20 * RATE) / RATE
    steady = hiss(seconds, level_db)
    swelling = steady * (1 + 0.7 * np.sin(2 * np.pi * seconds / 5))
    hum = 10 ** (level_db / 20) * np.sign(np.sin(2 * np.pi * 50 * seconds)) + 0.1 * steady
    clicks = steady.copy()
    clicks[:: 4 * RATE] += 0.5
    for wave in (steady, swelling, hum, clicks):
        assert spoken_by(plan_of(wave[None])) == []


def test_coverage_stays_exact_where_speech_is_repeated() -> None:
    call = make_call()
    mixed = call.waveform.sum(0)
    rows = np.stack([mixed, late(mixed, 0.06), hiss(mixed, -60)]).astype(np.float32)
    report: CallReport = Analyzer.from_engine(FakeEngine()).analyze_call((rows, RATE), speakers=1)
    found = report.coverage
    total = found.speech_seconds + found.non_speech_seconds + found.skipped_seconds
    assert total + found.missing_seconds == pytest.approx(3 * report.audio.duration, abs=1e-5)
    talk = sum(turn.end - turn.start for turn in report.turns)
    assert found.speech_seconds == pytest.approx(talk, abs=0.01)


def test_a_party_that_says_nothing_is_no_reason_to_lose_the_call() -> None:
    voice = speak("Hello, is anybody there?", "slt", RATE)
    rows = np.stack([np.pad(voice, (RATE, RATE)), hiss(np.pad(voice, (RATE, RATE)), -60)])
    plan = plan_of(rows, roles=("agent", "customer"))
    assert [turn.speaker for turn in plan.turns] == ["agent"]
    assert [name for name, _ in plan.speakers] == ["agent", "customer"]
