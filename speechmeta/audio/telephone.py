"""What speech sounds like at the other end of a telephone line.

One simulation for measuring and for training: 8 kHz, the band of ITU-T G.712, and a codec:
G.711 (mu-law or A-law), GSM 06.10 full rate, or AMR at 12.2 to 4.75 kbit/s; lost packets beside it.
"""

from __future__ import annotations

import io
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
Codec = Literal["none", "mulaw", "alaw", "gsm", "amr"]
CODECS: tuple[Codec, ...] = get_args(Codec)
RATE = 8000
BAND = (300.0, 3400.0)
"""Hz; second-order slopes."""
PACKET_SECONDS = 0.02
AMR_BIT_RATES = (4750, 5150, 5900, 6700, 7400, 7950, 10200, 12200)
_FFMPEG = {
    "mulaw": ("wav", "pcm_mulaw"),
    "alaw": ("wav", "pcm_alaw"),
    "amr": ("amr", "libopencore_amrnb"),
}
"""Container and encoder."""


def over_the_line(
    waveform: FloatArray,
    rate: int,
    codec: Codec = "mulaw",
    band: tuple[float, float] | None = BAND,
    bit_rate: int = 12200,
) -> FloatArray:
    """A waveform after a narrow-band call; rate, channels, length and level stay.

    Args:
        waveform: (samples,) or (channels, samples), full scale at 1.0.
        rate: Hz.
        codec: one of `CODECS`.
        band: cut-off frequencies in Hz; None for all that 8 kHz hold.
        bit_rate: of AMR, one of `AMR_BIT_RATES`.
    """
    if waveform.ndim == 2:
        rows = [over_the_line(row, rate, codec, band, bit_rate) for row in waveform]
        return np.stack(rows)
    if not len(waveform):
        return waveform
    import soxr
    import torch
    from torchaudio.functional import highpass_biquad, lowpass_biquad

    narrow = soxr.resample(waveform, rate, RATE, quality="HQ")
    if band is not None:
        filtered = highpass_biquad(torch.from_numpy(narrow), RATE, band[0])
        narrow = lowpass_biquad(filtered, RATE, band[1]).numpy()
    narrow = coded(np.clip(narrow, -1.0, 1.0).astype(np.float32), codec, bit_rate)
    wide = soxr.resample(narrow, RATE, rate, quality="HQ")
    # There and back, resampling may gain or lose a few samples.
    missing = max(0, len(waveform) - len(wide))
    return np.pad(wide, (0, missing))[: len(waveform)].astype(np.float32)


def coded(narrow: FloatArray, codec: Codec, bit_rate: int = 12200) -> FloatArray:
    """(samples,) at 8 kHz through a codec and back, aligned and as loud as before."""
    if codec == "none" or not len(narrow):
        return narrow
    if codec != "gsm":
        return _through_ffmpeg(narrow, *_FFMPEG[codec], bit_rate)
    # FFmpeg has no encoder for GSM, libsndfile has.
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, narrow, RATE, format="WAV", subtype="GSM610")
    file.seek(0)
    received, _ = soundfile.read(file, dtype="float32")
    return _fitted(received, len(narrow))


def _through_ffmpeg(narrow: FloatArray, form: str, encoder: str, bit_rate: int) -> FloatArray:
    import av

    file = io.BytesIO()
    with av.open(file, "w", format=form) as container:
        stream: Any = container.add_stream(encoder, rate=RATE, layout="mono")
        if form == "amr":
            stream.bit_rate = bit_rate
        # An encoder may look ahead (AMR by 5 ms); the tail that this takes is silence.
        samples = np.concatenate([narrow, np.zeros(2 * 160, np.float32)])
        frame = av.AudioFrame.from_ndarray(
            np.round(samples * 32767).astype(np.int16)[None], format="s16", layout="mono"
        )
        frame.sample_rate = RATE
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    file.seek(0)
    blocks = []
    with av.open(file, "r", format=form) as container:
        for frame in container.decode(audio=0):
            block = frame.to_ndarray().reshape(-1)
            # FFmpeg's own AMR decoder gives floats, the opencore library 16-bit integers.
            blocks.append(block / 32768 if block.dtype.kind == "i" else block)
    received = np.concatenate(blocks).astype(np.float32)
    # What comes out is put over what went in.
    return _fitted(received[_delay(narrow, received) :] if form == "amr" else received, len(narrow))


def _delay(sent: FloatArray, received: FloatArray) -> int:
    """Samples, at most 20 ms, by which `received` follows `sent`."""
    count = min(len(sent), len(received)) - 160
    if count <= 0:
        return 0
    scores = [float(np.dot(sent[:count], received[lag : lag + count])) for lag in range(160)]
    return int(np.argmax(scores))


def _fitted(samples: FloatArray, count: int) -> FloatArray:
    return np.pad(samples, (0, max(0, count - len(samples))))[:count]


def lose_packets(
    waveform: FloatArray, rate: int, share: float, rng: np.random.Generator, conceal: bool = True
) -> FloatArray:
    """(samples,) without a share of its 20 ms packets, losses in bursts of two on average.

    Args:
        waveform: full scale at 1.0.
        rate: Hz.
        share: of packets lost, 0 to 0.9.
        rng: which ones.
        conceal: repeat the packet before at falling level (as G.711 appendix I), else silence.
    """
    size = int(PACKET_SECONDS * rate)
    result = waveform.copy()
    # A chain of two states, lost and received: bursts end with probability one half.
    start = 0.5 * share / (1 - share)
    lost, run = False, 0
    for begin in range(size, len(result) - size + 1, size):
        lost = bool(rng.random() < (0.5 if lost else start))
        run = run + 1 if lost else 0
        if lost:
            before = result[begin - size : begin]
            result[begin : begin + size] = before * 0.6 if conceal and run < 4 else 0.0
    return result
