"""The sound of a call without what was redacted: silenced or beeped over."""

from __future__ import annotations

import math
import wave
from collections.abc import Sequence
from contextlib import closing
from typing import IO, Literal

import numpy as np

from speechmeta.audio.limits import Limits
from speechmeta.audio.loading import AudioSource, stream_audio
from speechmeta.audio.types import FloatArray
from speechmeta.schema import RedactedSpan

MARGIN_SECONDS = 0.25
"""Added on both sides of a span: the times of words are right to some hundredths of a second, and
the ends of digits are told by their sound alone."""

BEEP_HERTZ = 1000.0
BEEP_LEVEL = 0.1

Cover = Literal["silence", "beep"]


def cover(
    samples: FloatArray,
    rate: int,
    spans: Sequence[RedactedSpan],
    with_: Cover = "silence",
    margin: float = MARGIN_SECONDS,
    first: int = 0,
) -> FloatArray:
    """Audio (channels, samples) with every span covered in all channels.

    All channels, because what one party reads out leaks into the other one's microphone.

    Args:
        rate: in Hz.
        with_: `silence`, or `beep` for a tone of 1 kHz.
        margin: seconds added on both sides of each span.
        first: where in the recording the samples begin.
    """
    result = samples.copy()
    length = result.shape[-1]
    for span in spans:
        start = max(0, math.floor((span.start - margin) * rate) - first)
        end = min(length, math.ceil((span.end + margin) * rate) - first)
        if end <= start:
            continue
        filling: FloatArray | float = 0.0
        if with_ == "beep":
            times = np.arange(first + start, first + end) / rate
            filling = (BEEP_LEVEL * np.sin(2 * np.pi * BEEP_HERTZ * times)).astype(np.float32)
        result[..., start:end] = filling
    return result


def write_redacted(
    source: AudioSource,
    file: IO[bytes],
    spans: Sequence[RedactedSpan],
    with_: Cover = "silence",
    *,
    raw: str | None = None,
    limits: Limits | None = None,
) -> None:
    """Writes a recording as WAV (16 bits, its own rate and channels) without what is private.

    Args:
        file: binary, opened for writing, seekable.
        raw, limits: those with which the recording was analysed.

    Raises:
        AudioError: the recording cannot be read.
    """
    stream = stream_audio(source, raw=raw, limits=limits)
    with closing(stream), wave.open(file, "wb") as whole:
        whole.setnchannels(stream.channels)
        whole.setsampwidth(2)
        whole.setframerate(stream.sample_rate)
        place = 0
        for block in stream:
            covered = cover(block, stream.sample_rate, spans, with_, first=place)
            place += block.shape[-1]
            scaled = np.clip(np.round(covered.T * 32767.0), -32768, 32767)
            whole.writeframes(scaled.astype("<i2").tobytes())
