"""What a recording sounds like at the other end of a telephone line."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from speechmeta.audio.loading import Audio

CONDITION = "telephone: 8 kHz, 300 to 3400 Hz, G.711 mu-law"
_RATE = 8000
_BAND = (300.0, 3400.0)


def over_the_telephone(audio: Audio) -> Audio:
    """A recording after a narrow-band call (about the band of ITU-T G.712, the codec of G.711).

    Rate, channels and length stay; so does the level, and quiet speech loses more to the codec.
    """
    import soundfile
    import torch
    from torchaudio.functional import highpass_biquad, lowpass_biquad

    from speechmeta.audio.loading import Audio, resample

    narrow = torch.from_numpy(resample(audio.waveform, audio.sample_rate, _RATE))
    narrow = highpass_biquad(narrow, _RATE, _BAND[0])
    narrow = lowpass_biquad(narrow, _RATE, _BAND[1])
    coded = io.BytesIO()
    soundfile.write(coded, narrow.numpy().T, _RATE, format="WAV", subtype="ULAW")
    coded.seek(0)
    heard, _ = soundfile.read(coded, dtype="float32", always_2d=True)
    wide = resample(heard.T, _RATE, audio.sample_rate)
    # There and back, resampling may gain or lose a few samples.
    missing = max(0, audio.waveform.shape[1] - wide.shape[1])
    wide = np.pad(wide, ((0, 0), (0, missing)))[:, : audio.waveform.shape[1]]
    return Audio(wide, audio.sample_rate, audio.path, audio.codec, audio.warnings)
