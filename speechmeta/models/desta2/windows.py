"""What Whisper is given of a recording: the waveform at 16 kHz, and windows of up to 30 s.

Long recordings are cut at pauses that the VAD finds; the windows together are the whole
recording, so that nothing is lost.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from speechmeta.audio.loading import SAMPLE_RATE, Audio
from speechmeta.audio.types import FloatArray
from speechmeta.segmentation.chunking import divide_at_pauses
from speechmeta.segmentation.vad import SileroVad

WINDOW_SAMPLES = 30 * SAMPLE_RATE
"""What Whisper hears at once."""

# librosa's default rate, at which the published DeSTA2 code reads every file first.
_LIBROSA_RATE = 22_050

# Silero's own defaults, which the published DeSTA2.5 code uses: probability that begins and
# that ends speech, and shortest speech, shortest pause and margin in samples of 16 kHz.
_BEGIN, _END = 0.5, 0.35
_MIN_SPEECH, _MIN_PAUSE, _MARGIN = 4000, 1600, 480


@dataclass(frozen=True)
class Window:
    """A part of a recording, in samples of 16 kHz.

    Attributes:
        start, end: where it lies.
        speech: whether the VAD finds speech in it.
        in_speech: whether it ends in the middle of speech, for want of a pause.
    """

    start: int
    end: int
    speech: bool
    in_speech: bool = False


def resample_hq(waveform: FloatArray, from_rate: int, to_rate: int) -> FloatArray:
    """soxr's HQ resampler with librosa's length rule, bit for bit what the published code hears.

    Args:
        waveform: (samples,) float32.

    Returns:
        (ceil(samples * to_rate / from_rate),) float32.
    """
    if from_rate == to_rate:
        return waveform
    import soxr

    length = int(np.ceil(len(waveform) * float(to_rate) / from_rate))
    result: FloatArray = soxr.resample(waveform, from_rate, to_rate, quality="soxr_hq")
    missing = length - len(result)
    return np.pad(result, (0, missing)) if missing > 0 else result[:length]


def mono_16k(audio: Audio) -> FloatArray:
    """One channel at 16 kHz, resampled once, shape (samples,)."""
    return resample_hq(np.ascontiguousarray(audio.mono()), audio.sample_rate, SAMPLE_RATE)


def reference_16k(audio: Audio, twice: bool) -> FloatArray:
    """The waveform that the published code hears, shape (samples,).

    Args:
        twice: resample to 22,050 Hz first, as DeSTA2's code does.
    """
    mono: FloatArray = audio.waveform.mean(axis=0, dtype=np.float32)
    if not twice:
        return resample_hq(mono, audio.sample_rate, SAMPLE_RATE)
    return resample_hq(
        resample_hq(mono, audio.sample_rate, _LIBROSA_RATE), _LIBROSA_RATE, SAMPLE_RATE
    )


def speech_spans(waveform: FloatArray) -> list[tuple[int, int]]:
    """Speech in a waveform of 16 kHz as (start, end) samples, by Silero's default rules."""
    # Without the warm-up these are Silero's own probabilities, as the published code has them.
    vad = SileroVad(SAMPLE_RATE, 1, warm_up=False)
    block = np.ascontiguousarray(waveform, np.float32)[None]
    probabilities = np.concatenate([vad.push(block), vad.finish()], axis=1)[0]
    found: list[tuple[int, int]] = []
    start = pause = None
    for index, probability in enumerate(probabilities):
        here = index * vad.window
        if probability >= _BEGIN:
            pause = None
            start = here if start is None else start
        elif probability < _END and start is not None:
            pause = here if pause is None else pause
            if here - pause >= _MIN_PAUSE:
                if pause - start > _MIN_SPEECH:
                    found.append((start, pause))
                start = pause = None
    if start is not None and len(waveform) - start > _MIN_SPEECH:
        found.append((start, len(waveform)))
    return _widened(found, len(waveform))


def _widened(spans: list[tuple[int, int]], length: int) -> list[tuple[int, int]]:
    """Spans with a margin on both sides; neighbours share a gap that is too small for two."""
    result = []
    for index, (start, end) in enumerate(spans):
        before = start - spans[index - 1][1] if index else 2 * _MARGIN
        after = spans[index + 1][0] - end if index + 1 < len(spans) else 2 * _MARGIN
        result.append(
            (
                max(0, start - (_MARGIN if before >= 2 * _MARGIN else before // 2)),
                min(length, end + (_MARGIN if after >= 2 * _MARGIN else after // 2)),
            )
        )
    return result


def split_windows(waveform: FloatArray, size: int = WINDOW_SAMPLES) -> list[Window]:
    """Windows of at most `size` samples that together are the whole waveform.

    A cut lies in the middle of the last pause that the window has; only where speech has no
    pause it lies in speech, and is marked.
    """
    spans = speech_spans(waveform)
    windows = divide_at_pauses(len(waveform), size, spans)
    return [
        Window(first, last, any(a < last and b > first for a, b in spans), hard)
        for first, last, hard in windows
    ]


__all__ = [
    "WINDOW_SAMPLES",
    "Window",
    "mono_16k",
    "reference_16k",
    "resample_hq",
    "speech_spans",
    "split_windows",
]
