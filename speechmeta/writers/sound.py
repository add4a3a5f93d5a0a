"""The sound of a call as a page carries it: mono, Opus, small."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import closing

import av
import numpy as np

from speechmeta.audio.limits import Limits
from speechmeta.audio.loading import AudioSource, stream_audio
from speechmeta.pipeline.redaction.audio import cover
from speechmeta.schema import RedactedSpan

OPUS_RATE = 16_000
"""Hz; wideband, what models hear too."""
OPUS_BITS_PER_SECOND = 20_000


def as_opus(
    source: AudioSource,
    spans: Sequence[RedactedSpan] = (),
    most_bytes: int | None = None,
    *,
    raw: str | None = None,
    limits: Limits | None = None,
) -> bytes | None:
    """A recording with its channels mixed, as Opus in WebM, which browsers play and seek in.

    Args:
        spans: what is private; silenced.
        most_bytes: largest result.
        raw, limits: those with which the recording was analysed.

    Returns:
        The file; None where it would be larger.

    Raises:
        AudioError: the recording cannot be read.
    """
    made = io.BytesIO()
    stream = stream_audio(source, 10.0, OPUS_RATE, raw, limits)
    with closing(stream), av.open(made, "w", format="webm") as container:
        track = container.add_stream("libopus", rate=OPUS_RATE)
        track.layout = "mono"
        track.bit_rate = OPUS_BITS_PER_SECOND
        track.options = {"application": "voip"}
        place = 0
        for block in stream:
            covered = cover(block, OPUS_RATE, spans, first=place)
            mixed = np.clip(covered.mean(axis=0, keepdims=True), -1.0, 1.0)
            frame = av.AudioFrame.from_ndarray(
                (mixed * 32767.0).round().astype("<i2"), format="s16", layout="mono"
            )
            frame.sample_rate, frame.pts = OPUS_RATE, place
            place += block.shape[1]
            for packet in track.encode(frame):
                container.mux(packet)
            if most_bytes is not None and made.tell() > most_bytes:
                return None
        for packet in track.encode(None):
            container.mux(packet)
    # The container keeps some seconds back until it is closed.
    return made.getvalue() if most_bytes is None or made.tell() <= most_bytes else None


__all__ = ["as_opus"]
