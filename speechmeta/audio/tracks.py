"""Opens a recording as what it is: one track or several side by side, or headerless samples."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Protocol

import numpy as np

from speechmeta.audio.clock import Missing
from speechmeta.audio.container import MediaReader
from speechmeta.audio.rawformats import RawRules, has_header, is_raw_name
from speechmeta.audio.rawreader import RawReader
from speechmeta.audio.resampling import StreamResampler
from speechmeta.audio.source import MediaFile
from speechmeta.audio.types import FloatArray
from speechmeta.errors import AudioError

MOST_TRACKS = 32


class Reader(Protocol):
    """Decodes a recording block by block; see `container.MediaReader`."""

    name: str
    warnings: list[str]
    sample_rate: int
    channels: int
    codec: str

    @property
    def declared(self) -> float | None: ...
    @property
    def missing(self) -> list[Missing]: ...
    def count_seconds(self) -> float: ...
    def frames(self) -> Iterator[FloatArray]: ...
    def close(self) -> None: ...


def open_reader(media: MediaFile, raw: RawRules | None = None) -> Reader:
    """A reader of all audio tracks of a recording.

    Args:
        raw: says which files have no header.

    Raises:
        AudioError: it is not audio, or cannot be decoded.
    """
    stated = raw.format_for(media.path or "") if raw else None
    if stated is not None:
        return RawReader(media, media.name, stated)
    named = media.path or ""
    if is_raw_name(named) and not has_header(media.read_at(0, 16)):
        return RawReader.by_name(media, media.name, named)
    first = MediaReader(media, media.name)
    if len(first.tracks) < 2:
        return first
    first.close()
    return TrackReader(media)


class TrackReader:
    """Several audio tracks side by side: the channels of the first, then of the second, ...

    Each track is read with a demuxer of its own, so that memory stays small however the file
    interleaves them. The highest of their rates is the recording's.
    """

    def __init__(self, media: MediaFile) -> None:
        self.name = media.name
        self._tracks: list[MediaReader] = []
        with ExitStack() as stack:
            numbers = MediaReader(media, media.name)
            stack.callback(numbers.close)
            if len(numbers.tracks) > MOST_TRACKS:
                raise AudioError(
                    f"{media.name} has {len(numbers.tracks)} audio tracks, more than {MOST_TRACKS}",
                    "extract those of the call: ffmpeg -i FILE -map 0:a:0 -map 0:a:1 out.mka",
                )
            for number in numbers.tracks:
                self._tracks.append(MediaReader(media, media.name, number))
        self.codec = self._tracks[0].codec
        self.sample_rate = max(track.sample_rate for track in self._tracks)
        self.channels = sum(track.channels for track in self._tracks)
        self.warnings: list[str] = []

    @property
    def declared(self) -> float | None:
        stated = [track.declared for track in self._tracks]
        known = [seconds for seconds in stated if seconds is not None]
        return max(known) if len(known) == len(stated) else None

    @property
    def missing(self) -> list[Missing]:
        found = []
        first = 0
        for track in self._tracks:
            found += [replace(part, first_channel=first) for part in track.missing]
            first += track.channels
        return found

    def count_seconds(self) -> float:
        """The duration in seconds by the packets' times, without decoding."""
        return max(track.count_seconds() for track in self._tracks)

    def close(self) -> None:
        for track in self._tracks:
            track.close()

    def frames(self) -> Iterator[FloatArray]:
        """Arrays (channels, n); a track that ends before the others goes on as silence.

        Raises:
            AudioError: none of the tracks can be decoded.
        """
        streams = [_Pulled(track) for track in self._tracks]
        failed = [stream.error for stream in streams if stream.error is not None]
        if len(failed) == len(streams):
            raise failed[0]
        for track, stream in zip(self._tracks, streams, strict=True):
            if stream.error is not None:
                self.warnings.append(f"audio track {track.track + 1}: {stream.error.message}")
        self.sample_rate = max(track.sample_rate for track in self._tracks)
        self.channels = sum(track.channels for track in self._tracks)
        for stream in streams:
            stream.resample_to(self.sample_rate)
        while True:
            running = [stream for stream in streams if stream.fill()]
            if not running:
                break
            count = min(stream.ready for stream in running)
            yield np.concatenate([stream.take(count) for stream in streams])
        for track in self._tracks:
            self.warnings += [
                f"audio track {track.track + 1}: {warning}" for warning in track.warnings
            ]


class _Pulled:
    """A track whose samples are taken as they are asked for."""

    def __init__(self, track: MediaReader) -> None:
        self._pieces = track.frames()
        self._track = track
        self.error: AudioError | None = None
        self._first: FloatArray | None = None
        try:
            self._first = next(self._pieces)
        except AudioError as error:
            self.error = error
        self._held = np.zeros((track.channels, 0), np.float32)
        self._over = self.error is not None

    @property
    def ready(self) -> int:
        return int(self._held.shape[1])

    def resample_to(self, rate: int) -> None:
        self._resampler = StreamResampler(self._track.sample_rate, rate, self._track.channels)
        self._gather = self._track.sample_rate if rate != self._track.sample_rate else 1

    def fill(self) -> bool:
        """Makes sure that samples are ready; False if there are no more."""
        while self.ready == 0 and not self._over:
            parts = [] if self._first is None else [self._first]
            self._first = None
            while sum(part.shape[1] for part in parts) < self._gather:
                piece = next(self._pieces, None)
                if piece is None:
                    self._over = True
                    break
                parts.append(piece)
            empty = self._held[:, :0]
            self._held = self._resampler.push(
                np.concatenate([empty, *parts], axis=1), last=self._over
            )
        return self.ready > 0

    def take(self, count: int) -> FloatArray:
        """(channels, count), filled up with silence where the track has ended."""
        part = self._held[:, :count]
        self._held = self._held[:, count:]
        short = count - part.shape[1]
        return np.pad(part, ((0, 0), (0, short))) if short else part
