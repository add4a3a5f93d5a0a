"""What writes transcripts in place of the model that hears speech and voices."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from speechmeta.audio.loading import SAMPLE_RATE
from speechmeta.decoding.record import TimedWord
from speechmeta.errors import DecodingError, SpeechMetaError
from speechmeta.models.base import Waveform


@dataclass(frozen=True)
class Transcript:
    """What a transcriber says of one clip.

    Attributes:
        text: may be empty.
        language: of the text, where the transcriber tells it clip by clip.
        confidence: 0 to 1, where it says.
        words: with times from the start of the clip, where it gives them.
        flags: as of `DecodedRecord`.
    """

    text: str
    language: str | None = None
    confidence: float | None = None
    words: list[TimedWord] | None = None
    flags: tuple[str, ...] = ()


class Transcriber(Protocol):
    """Writes what is said in clips.

    Attributes:
        name: as it appears in a report; holds no key.
        language: that it was told to expect; None where it finds it out.
        max_seconds: the longest clip that it takes.
    """

    @property
    def name(self) -> str: ...

    @property
    def language(self) -> str | None: ...

    @property
    def max_seconds(self) -> float: ...

    def transcribe(
        self, waveforms: Sequence[Waveform], word_times: bool = False
    ) -> list[Transcript | SpeechMetaError]:
        """Transcripts of clips (samples,) at 16 kHz, each no longer than `max_seconds`.

        Args:
            word_times: give words with times, if it can.

        Returns:
            In their order, a transcript or what kept it from being one.
        """
        ...


MAX_SECONDS = 30.0
"""Longest clip of a transcriber that is not a Whisper: what most of them were trained on."""

SHORTEST_SECONDS = 0.5
"""Shorter clips are padded with silence: convolutions need some frames."""

_NOT_TEXT = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u2028\u2029]+")

LONGEST_CHARACTERS = 500
CHARACTERS_PER_SECOND = 60
"""The fastest talkers write some 25."""


@runtime_checkable
class InstructableTranscriber(Protocol):
    """A transcriber that can be told of a recording what `Instructable` models are told."""

    def told(self, language: str | None, hotwords: str | None) -> Transcriber:
        """The same transcriber that expects this language and these names; None leaves what it
        was made with.

        Raises:
            UsageError: it does not know the language, or takes no hotwords.
        """
        ...


def padded(waveform: Waveform) -> Waveform:
    """A clip with silence behind it if it is shorter than `SHORTEST_SECONDS`."""
    missing = max(0, round(SHORTEST_SECONDS * SAMPLE_RATE) - len(waveform))
    return np.pad(waveform, (0, missing))


def one_by_one(
    waveforms: Sequence[Waveform], transcribe: Callable[[Waveform], Transcript]
) -> list[Transcript | SpeechMetaError]:
    """The transcripts of clips that a model of transformers takes singly; one that fails has an
    error in its place."""
    # Those of servers load no torch and no transformers.
    from speechmeta.decoding.memory import in_parts
    from speechmeta.models.weights import quiet_transformers

    with quiet_transformers():
        return [
            in_parts([waveform], lambda rows: [transcribe(rows[0])])[0] for waveform in waveforms
        ]


def one_line(text: str, seconds: float) -> str:
    """A foreign transcript as ours are: one line of characters that UTF-8 can write.

    Args:
        seconds: length of the clip.

    Raises:
        DecodingError: it is longer than anybody talks.
    """
    most = LONGEST_CHARACTERS + int(seconds * CHARACTERS_PER_SECOND)
    if len(text) > most:
        raise DecodingError(
            f"the transcriber wrote {len(text)} characters for {seconds:.1f} s of speech",
            "it may be caught in a loop; try another one",
        )
    whole = text.encode("utf-8", "replace").decode("utf-8")
    return _NOT_TEXT.sub(" ", whole).strip()


__all__ = [
    "MAX_SECONDS",
    "InstructableTranscriber",
    "Transcriber",
    "Transcript",
    "one_by_one",
    "one_line",
    "padded",
]
