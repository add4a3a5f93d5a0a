"""The sound of a call without what was redacted: silenced or beeped over."""

from __future__ import annotations

import math
import wave
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Literal

import numpy as np

from speechmeta.audio.types import FloatArray
from speechmeta.errors import UsageError
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
    source: Path | str,
    target: Path,
    spans: Sequence[RedactedSpan],
    with_: Cover = "silence",
) -> None:
    """Writes a recording as WAV (16 bits, its own rate and channels) without what is private.

    Raises:
        UsageError: the target is the recording itself, or no `.wav`.
        AudioError: the recording cannot be read.
    """
    from speechmeta.audio.loading import stream_audio

    if target.suffix.lower() != ".wav":
        raise UsageError(f"{target} does not end in .wav", "redacted audio is written as WAV")
    if target.exists() and Path(source).exists() and target.samefile(source):
        raise UsageError(f"{target} is the recording itself", "name another file for the copy")
    partial = target.with_name(target.name + ".partial")
    try:
        with closing(stream_audio(source)) as stream, wave.open(str(partial), "wb") as file:
            file.setnchannels(stream.channels)
            file.setsampwidth(2)
            file.setframerate(stream.sample_rate)
            place = 0
            for block in stream:
                covered = cover(block, stream.sample_rate, spans, with_, first=place)
                place += block.shape[-1]
                scaled = np.clip(np.round(covered.T * 32767.0), -32768, 32767)
                file.writeframes(scaled.astype("<i2").tobytes())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
