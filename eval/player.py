"""Recordings inside a page: every format becomes Ogg Opus in a data URI."""

from __future__ import annotations

import base64
import io

import numpy as np
import numpy.typing as npt

from speechmeta.errors import SpeechMetaError

MAX_SECONDS = 60.0
BIT_RATE = 24_000
RATE = 16_000


def audio_data_uri(path: str) -> str | None:
    """The first minute of a recording as a data URI; None where it cannot be read."""
    from speechmeta.audio import load_audio, resample

    try:
        audio = load_audio(path)
        wave = resample(audio.mono(), audio.sample_rate, RATE)[: int(MAX_SECONDS * RATE)]
        data = encode_opus(wave)
    except SpeechMetaError:
        # The clip is in the list because it could not be read; the page says so.
        return None
    return "data:audio/ogg;base64," + base64.b64encode(data).decode("ascii")


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
            stream.bit_rate = BIT_RATE
            frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
            frame.sample_rate = RATE
            frame.pts = 0
            for packet in [*stream.encode(frame), *stream.encode(None)]:
                container.mux(packet)
    except (av.FFmpegError, ValueError) as error:
        raise SpeechMetaError(f"cannot encode a recording: {error}") from error
    return target.getvalue()
