"""Reads headerless recordings with FFmpeg's decoders."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import av
import numpy as np
from av.audio.codeccontext import AudioCodecContext

from speechmeta.audio.clock import Missing
from speechmeta.audio.frames import samples_of
from speechmeta.audio.rawformats import (
    ASSUMED,
    CODECS,
    NAMES,
    RawFormat,
    choose,
    ending_of,
)
from speechmeta.audio.source import Bytes, View
from speechmeta.audio.types import FloatArray
from speechmeta.errors import AudioError

_PACKET_BYTES = 16384
_LOOK_BYTES = 480_000
"""Content is judged by this many bytes (a minute of G.711) from the first that are not constant."""


class RawReader:
    """Decodes headerless bytes; the attributes are those of `container.MediaReader`.

    Raises:
        AudioError: nothing in it can be decoded.
    """

    def __init__(self, content: Bytes, name: str, form: RawFormat) -> None:
        self.name = name
        self.form = form
        self.warnings: list[str] = []
        self.missing: list[Missing] = []
        self.sample_rate, self.channels = form.rate, form.channels
        self._content = content
        self._kind = CODECS[form.codec]
        self.codec = str(av.codec.Codec(self._kind.decoder, "r").canonical_name)

    @classmethod
    def by_name(cls, content: Bytes, name: str, path: str) -> RawReader:
        """Takes the format that the ending of the path stands for, see `rawformats.NAMES`."""
        ending = ending_of(path)
        candidates = NAMES[ending]

        def decode(form: RawFormat) -> FloatArray:
            reader = cls(_Stretch(content), name, form)
            pieces = [piece[0] for piece in reader.frames()]
            return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)

        note = None
        form = candidates[0]
        if len(candidates) > 1 or CODECS[form.codec].interleaves:
            form, note = choose(candidates, decode)
        reader = cls(content, name, form)
        if ending in ASSUMED:
            reader.warnings.append(
                f"{name} has no header; it was read as {form.codec} at {form.rate} Hz; "
                "--raw codec=...,rate=...,channels=... says otherwise"
            )
        if note:
            reader.warnings.append(f"{name}: {note}")
        return reader

    @property
    def declared(self) -> float:
        per_frame = self._kind.unit * self.channels if self._kind.interleaves else self._kind.unit
        return self._content.size // per_frame * self._kind.samples / self.sample_rate

    def count_seconds(self) -> float:
        """The duration in seconds."""
        return self.declared

    def close(self) -> None:
        """Nothing is open."""

    def frames(self) -> Iterator[FloatArray]:
        """Arrays (channels, n), full scale at 1.0.

        Raises:
            AudioError: nothing could be decoded.
        """
        lost = 0
        total = 0
        held = np.zeros(0, np.float32)
        for samples, failed in self._decoded():
            lost += failed
            if failed:
                start = total / self.sample_rate
                end = start + samples.size / self.channels / self.sample_rate
                self.missing.append(Missing(start, end, 0, self.channels))
            held = np.concatenate([held, samples])
            count = held.size // self.channels
            if count:
                total += count
                yield np.ascontiguousarray(
                    held[: count * self.channels].reshape(-1, self.channels).T
                )
                held = held[count * self.channels :]
        if total == 0:
            raise AudioError(f"{self.name} holds no audio samples", "record it again, or see --raw")
        if lost:
            self.warnings.append(
                f"{self.name} is damaged: {lost} packets could not be decoded properly"
            )

    def _decoded(self) -> Iterator[tuple[FloatArray, bool]]:
        """Samples (n,) of all channels in turn, and whether they stand for a lost packet."""
        if self._kind.code_size:
            yield from self._decoded_g726()
            return
        context = cast(AudioCodecContext, AudioCodecContext.create(self._kind.decoder, "r"))
        context.sample_rate = self.form.rate
        context.layout = "mono"
        step = self._kind.unit
        if self._kind.unit < 10:  # samples, not frames of a speech coder
            step *= max(1, _PACKET_BYTES // self._kind.unit)
        whole = self._content.size // self._kind.unit * self._kind.unit
        for offset in range(0, whole, step):
            data = self._content.read_at(offset, min(step, whole - offset))
            if not data:
                return
            try:
                frames = context.decode(av.Packet(data))
            except av.error.FFmpegError:
                count = len(data) // self._kind.unit * self._kind.samples
                yield np.zeros(count, np.float32), True
                continue
            for frame in frames:
                yield samples_of(frame)[0], False

    def _decoded_g726(self) -> Iterator[tuple[FloatArray, bool]]:
        # PyAV sets the size of a code only through FFmpeg's demuxer.
        with av.open(
            cast(Any, View(self._content, self.name)),
            mode="r",
            format=self._kind.decoder,
            options={
                "sample_rate": str(self.form.rate),
                "code_size": str(self._kind.code_size),
            },
        ) as container:
            for frame in container.decode(audio=0):
                yield samples_of(frame)[0], False


class _Stretch:
    """The part of a recording by which its content is judged."""

    def __init__(self, content: Bytes) -> None:
        self._content = content
        self._first = 0
        while content.size - self._first > 2 * _LOOK_BYTES:
            if len(set(content.read_at(self._first, _LOOK_BYTES))) > 8:
                break
            self._first += _LOOK_BYTES
        self.size = min(_LOOK_BYTES, content.size - self._first)

    def read_at(self, offset: int, count: int) -> bytes:
        return self._content.read_at(self._first + offset, min(count, self.size - offset))
