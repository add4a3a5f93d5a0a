"""How much a recording may ask for before it is refused: the one place where limits are.

A file of a few hundred bytes can claim gigabytes, three days or two thousand million samples a
second. Each limit is an option with a default far above what calls have, and every refusal
names it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from speechmeta.audio.types import FloatArray
from speechmeta.errors import AudioError
from speechmeta.settings import Options, option

_PANEL = "Limits"

_LARGEST = 2**31 - 1
"""Of a limit that counts: headers can claim no more."""

FREE_SAMPLES = 100_000_000
"""So much may be decoded of any file before it counts how small the file is: 3.5 hours of one
channel at 8 kHz, 400 MB as floats. Silence compresses well, and gaps take no room at all."""

FREE_WORK_SECONDS = 30.0
"""Work on a recording that is not yet compared with its length."""


class Limits(Options):
    """What a recording may have and take.

    Raises:
        UsageError: an option is not known or cannot take its value.
    """

    min_rate: int = option(
        1000, "Lowest sample rate in Hz of a recording that is analysed.", panel=_PANEL, ge=1,
        le=_LARGEST,
    )  # fmt: skip
    max_rate: int = option(
        768_000, "Highest sample rate in Hz of a recording that is analysed.", panel=_PANEL, ge=1,
        le=_LARGEST,
    )  # fmt: skip
    max_hours: float = option(
        24.0, "Longest recording in hours that is analysed.", panel=_PANEL, gt=0.0
    )
    max_channels: int = option(
        256, "Most channels of a recording, counted over all of its tracks.", panel=_PANEL, ge=1,
        le=_LARGEST,
    )  # fmt: skip
    max_expansion: float = option(
        2000.0,
        "Most bytes of 16-bit sound that one byte of a file may expand to; checked from 100 "
        "million samples on.",
        panel=_PANEL,
        gt=0.0,
    )
    max_header_mb: int = option(
        64, "Largest block of memory in MB that a file's header may ask for.", panel=_PANEL, ge=1,
        le=_LARGEST,
    )  # fmt: skip
    max_work: float = option(
        20.0,
        "Most seconds of CPU time that decoding a second of sound may take; checked from 30 s of "
        "work on.",
        panel=_PANEL,
        gt=0.0,
    )

    def check_shape(self, name: str, rate: int, channels: int) -> None:
        """Before anything is decoded.

        Raises:
            AudioError: the rate or the number of channels is outside the limits.
        """
        if rate < self.min_rate:
            raise AudioError(f"{name} has {rate} Hz", _allow("min-rate", "Hz", self.min_rate))
        if rate > self.max_rate:
            raise AudioError(f"{name} has {rate} Hz", _allow("max-rate", "Hz", self.max_rate))
        if channels > self.max_channels:
            raise AudioError(
                f"{name} has {channels} channels",
                _allow("max-channels", "channels", self.max_channels),
            )

    def too_long(self, seconds: float) -> bool:
        """Whether a recording of this length is refused."""
        return seconds > self.max_hours * 3600

    def check_length(self, name: str, seconds: float) -> None:
        """Raises AudioError if a recording is longer than is analysed."""
        if self.too_long(seconds):
            raise AudioError(
                f"{name} is longer than {self.max_hours:g} hours",
                _allow("max-hours", "hours", self.max_hours),
            )

    def watched(
        self, pieces: Iterator[FloatArray], name: str, rate: int, size: int
    ) -> Iterator[FloatArray]:
        """Hands on what is decoded, arrays (channels, n), as long as it is within the limits.

        Args:
            rate: Hz. size: bytes of the file.

        Raises:
            AudioError: it is too long, too large for its file, or takes too much work.
        """
        samples = values = 0
        work = 0.0
        while True:
            begun = time.thread_time()
            piece = next(pieces, None)
            work += time.thread_time() - begun
            if piece is None:
                return
            samples += piece.shape[1]
            values += piece.size
            self.check_length(name, samples / rate)
            if values > FREE_SAMPLES and 2 * values > self.max_expansion * size:
                raise AudioError(
                    f"{name} becomes more than {self.max_expansion:g} times as large when decoded",
                    _allow("max-expansion", "bytes for one", self.max_expansion),
                )
            if work > FREE_WORK_SECONDS and work > self.max_work * samples / rate:
                raise AudioError(
                    f"{name} takes {work:.0f} s to decode {samples / rate:.1f} s of sound",
                    _allow("max-work", "s for each", self.max_work),
                )
            yield piece


def _allow(flag: str, unit: str, value: float) -> str:
    return f"the limit is {value:g} {unit}; --{flag} changes it"


DEFAULT_LIMITS = Limits()

__all__ = ["DEFAULT_LIMITS", "FREE_SAMPLES", "Limits"]
