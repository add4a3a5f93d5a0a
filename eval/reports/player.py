"""Recordings inside a page, as data URIs: small Opus and MP3 files as they are, else as Opus."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import numpy.typing as npt

from speechmeta.errors import SpeechMetaError

MAX_SECONDS = 60.0
BIT_RATE = 24_000
RATE = 16_000

PLAYABLE = {".opus": "audio/ogg", ".ogg": "audio/ogg", ".mp3": "audio/mpeg"}
"""Files that every browser plays and that are small for their length."""

MAX_BYTES = 300_000


def audio_data_uri(path: str, *, trusted: bool = True) -> str | None:
    """The first minute of a recording as a data URI; None where it cannot be read.

    Args:
        path: the file.
        trusted: it has been decoded before, so that its bytes may go into the page as they are.
    """
    from speechmeta.audio.loading import load_audio, resample

    kind = PLAYABLE.get(Path(path).suffix.lower())
    try:
        if trusted and kind and Path(path).stat().st_size <= MAX_BYTES:
            return _uri(kind, Path(path).read_bytes())
    except OSError:
        return None
    try:
        audio = load_audio(path)
        wave = resample(audio.mono(), audio.sample_rate, RATE)[: int(MAX_SECONDS * RATE)]
        data = encode_opus(wave)
    except SpeechMetaError:
        # The clip is in the list because it could not be read; the page says so.
        return None
    return _uri("audio/ogg", data)


def encode_opus(waveform: npt.NDArray[np.float32]) -> bytes:
    """Ogg Opus of a (samples,) waveform at 16 kHz.

    Raises:
        SpeechMetaError: FFmpeg's encoder refuses it.
    """
    import av

    target = io.BytesIO()
    samples = (np.clip(waveform, -1, 1) * 32767).astype(np.int16)
    try:
        with av.open(target, "w", format="ogg") as container:
            stream = container.add_stream("libopus", rate=RATE, layout="mono")
            # A third of the default's work, for no difference that an ear would tell.
            stream.options = {"compression_level": "3"}
            stream.bit_rate = BIT_RATE
            frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
            frame.sample_rate = RATE
            frame.pts = 0
            for packet in [*stream.encode(frame), *stream.encode(None)]:
                container.mux(packet)
    except (av.FFmpegError, ValueError) as error:
        raise SpeechMetaError(f"cannot encode a recording: {error}") from error
    return target.getvalue()


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64," + base64.b64encode(data).decode("ascii")
