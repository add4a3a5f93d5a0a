"""Voices on one channel of a call that goes on: numbers stay, memory is bounded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from speechmeta.diarization import live_speakers
from speechmeta.diarization.live_speakers import LiveSpeakers, Talk
from speechmeta.diarization.same_voice import VoiceSpread
from speechmeta.segmentation.turns import Speech

RATE = 8000
HOP = 64

Waveform = npt.NDArray[np.float32]


class Heights:
    """Voices that are told apart by a constant: each whole number is one of its own."""

    distance = 0.5
    spread: VoiceSpread | None = None

    def __init__(self) -> None:
        self.clips = 0

    def embed(self, clips: Sequence[Waveform]) -> npt.NDArray[np.float64]:
        self.clips += len(clips)
        found = np.zeros((len(clips), 8))
        for row, clip in enumerate(clips):
            found[row, int(np.round(np.median(clip)))] = 1.0
        return found


class Conversation:
    """Stretches of talk, one after the other."""

    def __init__(self, speakers: int | None = None) -> None:
        self.embedder = Heights()
        self.live = LiveSpeakers(self.embedder, RATE, HOP, speakers)

    def says(self, *parts: tuple[int, float]) -> Talk:
        """A stretch in which these voices talk for so many seconds each, without pauses."""
        wave = np.concatenate([np.full(round(s * RATE), who, np.float32) for who, s in parts])
        levels = np.full(len(wave) // HOP + 1, 0.1, np.float32)

        def cut(start: int, end: int) -> Waveform:
            return wave[start:end]

        talk = self.live.tell([Speech(0, len(wave))], levels, cut, {})
        self.live.remember(talk, cut)
        return talk


def voices(talk: Talk) -> list[int]:
    return [part.speaker for part in talk.parts]


def test_little_talk_is_one_speakers_until_there_is_more() -> None:
    call = Conversation()
    assert voices(call.says((1, 2.5))) == [0]
    second = call.says((2, 2.5))
    assert voices(second) == [1]


def test_numbers_stay_whoever_comes_back() -> None:
    call = Conversation()
    call.says((1, 5.0))
    assert voices(call.says((2, 5.0))) == [1]
    assert voices(call.says((1, 4.0))) == [0]
    assert voices(call.says((3, 5.0))) == [2]
    assert voices(call.says((2, 4.0))) == [1]


def test_a_change_within_a_stretch_is_found() -> None:
    call = Conversation()
    call.says((1, 5.0))
    talk = call.says((2, 4.0), (1, 4.0))
    assert voices(talk) == [1, 0]
    assert abs(talk.parts[0].end - 4 * RATE) < 0.4 * RATE
    assert (talk.speaker_of(0, RATE), talk.speaker_of(6 * RATE, 7 * RATE)) == (1, 0)


def test_looking_twice_makes_no_new_numbers() -> None:
    call = Conversation()
    call.says((1, 6.0))
    wave = np.full(5 * RATE, 2, np.float32)
    levels = np.full(len(wave) // HOP + 1, 0.1, np.float32)
    for seconds in (3, 4, 5):
        runs = [Speech(0, seconds * RATE)]
        talk = call.live.tell(runs, levels, lambda start, end: wave[start:end], {})
        assert voices(talk) == [1]


def test_no_more_speakers_than_asked_for() -> None:
    call = Conversation(speakers=2)
    for who in (1, 2, 3, 1, 2, 3, 1, 2):
        assert set(voices(call.says((who, 5.0)))) <= {0, 1}


def test_one_who_is_asked_for_is_never_told_apart() -> None:
    call = Conversation(speakers=1)
    assert voices(call.says((1, 5.0), (2, 5.0))) == [0]
    assert call.embedder.clips == 0


def test_what_is_remembered_is_bounded_and_the_silent_are_not_forgotten() -> None:
    call = Conversation()
    assert voices(call.says((1, 14.0))) == [0]
    for _ in range(30):
        call.says((2, 8.0))
    remembered = call.live._remembered
    seconds = sum(talk.samples for talk in remembered) / RATE
    assert seconds <= live_speakers.REMEMBERED_SECONDS
    assert voices(call.says((1, 5.0))) == [0]
