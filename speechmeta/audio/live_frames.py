"""Sound as it comes over a wire: frames of 16-bit samples or mu-law to waveforms."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, get_args

import numpy as np

from speechmeta.audio.types import FloatArray
from speechmeta.errors import AudioError

Encoding = Literal["pcm_s16le", "pcm_mulaw"]
ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)
"""By FFmpeg's names, which documents use too."""

_BYTES = {"pcm_s16le": 2, "pcm_mulaw": 1}


def samples_of(frame: bytes, encoding: Encoding, channels: int) -> FloatArray:
    """The samples (channels, n), full scale at 1.0, of a frame whose channels are interleaved.

    Raises:
        AudioError: it does not hold whole samples of all channels.
    """
    size = _BYTES[encoding] * channels
    if len(frame) % size:
        raise AudioError(
            f"a frame has {len(frame)} bytes",
            f"send whole samples: multiples of {size} bytes",
        )
    if encoding == "pcm_mulaw":
        values = mulaw_table()[np.frombuffer(frame, np.uint8)]
    else:
        values = np.frombuffer(frame, "<i2").astype(np.float32) / np.float32(32768)
    waveform: FloatArray = np.ascontiguousarray(values.reshape(-1, channels).T)
    return waveform


@lru_cache(maxsize=1)
def mulaw_table() -> FloatArray:
    """The sample of each of the 256 codes of ITU-T G.711's mu-law."""
    code = ~np.arange(256) & 0xFF
    size = (((code & 0x0F) << 3) + 0x84 << ((code & 0x70) >> 4)) - 0x84
    table: FloatArray = (np.where(code & 0x80, -size, size) / 32768).astype(np.float32)
    return table


__all__ = ["ENCODINGS", "Encoding", "mulaw_table", "samples_of"]
