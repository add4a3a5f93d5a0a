"""What a recording sounds like at the other end of a telephone line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from speechmeta.audio.loading import Audio

CONDITION = "telephone: 8 kHz, 300 to 3400 Hz, G.711 mu-law"


def over_the_telephone(audio: Audio) -> Audio:
    """A recording after a narrow-band call; rate, channels, length and level stay."""
    from dataclasses import replace

    from speechmeta.audio.telephone import over_the_line

    return replace(audio, waveform=over_the_line(audio.waveform, audio.sample_rate))
