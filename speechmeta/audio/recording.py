"""A recording as a stream of blocks that can be run through several times.

A call is gone through once for its channels, once for speech, and once to cut out the turns.
Short recordings stay in memory in between, long ones are decoded again.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from speechmeta.audio.clock import Missing
from speechmeta.audio.limits import Limits
from speechmeta.audio.loading import Audio, AudioSource, as_array, stream_audio
from speechmeta.audio.peaks import PeakMeter
from speechmeta.audio.source import MediaFile, open_media
from speechmeta.audio.types import FloatArray
from speechmeta.errors import AudioError
from speechmeta.schema import AudioInfo, Peaks

KEEP_BYTES = 64 * 2**20
"""Up to this size the decoded samples stay in memory (8 minutes of stereo at 16 kHz)."""

BLOCK_WINDOWS = 312
"""Windows of 32 ms in a block, about 10 s; less where there are many channels."""

_FEWEST_BLOCK_WINDOWS = 32
_BLOCK_CHANNELS = 8


class Recording:
    """Blocks (channels, n) of a recording at the rate at which it is searched for speech.

    Args:
        source: as for `speechmeta.audio.loading.load_audio`. It is opened once.
        rate_for: gives the rate in Hz of the blocks for the recording's own rate.
        window_seconds: every block but the last is a multiple of this.
        raw: how headerless recordings are read.
        limits: what it may have and take; None for the defaults.
        on_block: called in every run with the number of the run, from 0, the seconds read, and
            those that there are (None where they are not known yet).

    Attributes:
        declared: seconds that it should have by its header; None where it does not say.
        warnings: complete after the first run through the blocks, and so are `missing`, the
            stretches for which silence stands in, and `peaks`, the outline for drawings.

    Raises:
        AudioError: the audio cannot be used.
    """

    def __init__(
        self,
        source: AudioSource,
        rate_for: Any,
        window_seconds: float,
        raw: str | None = None,
        limits: Limits | None = None,
        on_block: Callable[[int, float, float | None], None] | None = None,
    ) -> None:
        self._raw, self._limits = raw, limits
        self._on_block, self._runs = on_block, 0
        self._source: AudioSource | MediaFile = source
        if not isinstance(source, Audio) and as_array(source, None) is None:
            media = open_media(cast(Any, source))
            weakref.finalize(self, media.close)
            self._source = media
        with stream_audio(self._source, block_seconds=1.0, raw=raw, limits=limits) as stream:
            self.sample_rate, self.channels = stream.sample_rate, stream.channels
            self.path, self.codec = stream.path, stream.codec
            self.declared = stream.declared
        self.rate: int = rate_for(self.sample_rate)
        self.warnings: list[str] = []
        self.missing: tuple[Missing, ...] = ()
        self.peaks: Peaks | None = None
        self.samples = 0
        windows = BLOCK_WINDOWS * _BLOCK_CHANNELS // max(self.channels, _BLOCK_CHANNELS)
        self._block_seconds = max(_FEWEST_BLOCK_WINDOWS, windows) * window_seconds
        self._kept: list[FloatArray] | None = []
        self._complete = False

    @property
    def duration(self) -> float:
        """Seconds; known after the first run through the blocks."""
        return self.samples / self.rate

    @property
    def info(self) -> AudioInfo:
        path = self.path if isinstance(self.path, str) else None
        return AudioInfo(
            path=path,
            duration=round(self.duration, 6),
            sample_rate=self.sample_rate,
            channels=self.channels,
            codec=self.codec,
        )

    def blocks(self) -> Iterator[FloatArray]:
        """Runs through the recording.

        Raises:
            AudioError: the audio cannot be used, or the file is no longer what it was.
        """
        run = self._runs
        self._runs += 1
        read = 0
        for block in self._read():
            yield block
            read += block.shape[1]
            if self._on_block is not None:
                self._on_block(run, read / self.rate, self.duration or self.declared)

    def _read(self) -> Iterator[FloatArray]:
        if self._complete and self._kept is not None:
            yield from self._kept
            return
        samples = 0
        meter = None if self._complete else PeakMeter(self.rate)
        with stream_audio(
            self._source, self._block_seconds, self.rate, self._raw, self._limits
        ) as stream:
            for block in stream:
                samples += block.shape[1]
                if meter is not None:
                    meter.add(block)
                if not self._complete and self._kept is not None:
                    self._kept.append(block)
                    if sum(part.nbytes for part in self._kept) > KEEP_BYTES:
                        self._kept = None
                yield block
            warnings, missing = list(stream.warnings), tuple(stream.missing)
            if isinstance(self._source, MediaFile) and self._source.has_grown():
                warnings.append(
                    f"{self._source.name} is still being written to; what was there at the start "
                    "was analysed"
                )
        if self._complete and samples < self.samples:
            raise AudioError(
                f"{self.path or 'the recording'} became shorter while it was read",
                "analyse it again when it is no longer being written",
            )
        if meter is not None:
            self._complete, self.samples = True, samples
            self.warnings, self.missing, self.peaks = warnings, missing, meter.peaks()


@dataclass(frozen=True)
class Cut:
    """A stretch to cut out: samples `start` to `end` of row `row`."""

    row: int
    start: int
    end: int


def cut_out(blocks: Iterator[FloatArray], cuts: Sequence[Cut]) -> Iterator[FloatArray]:
    """Yields the samples (n,) of each stretch as soon as it is complete.

    Only the stretches that are not yet complete are held in memory.

    Args:
        blocks: (rows, n) each, one after the other.
        cuts: in order of their end, in which they also come.
    """
    order = sorted(range(len(cuts)), key=lambda index: cuts[index].start)
    waiting = 0
    running: dict[int, list[FloatArray]] = {}
    begin = 0
    for block in blocks:
        end = begin + block.shape[1]
        while waiting < len(order) and cuts[order[waiting]].start < end:
            running[order[waiting]] = []
            waiting += 1
        for index in sorted(running):
            cut = cuts[index]
            part = block[cut.row, max(0, cut.start - begin) : cut.end - begin]
            running[index].append(part.copy())
            if cut.end <= end:
                yield np.concatenate(running.pop(index))
        begin = end
        if waiting == len(order) and not running:
            return
