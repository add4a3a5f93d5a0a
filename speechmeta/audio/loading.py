"""Audio input: anything that FFmpeg decodes, or arrays, as float32 with channels kept apart.

    load_audio("call.mp3").resampled(16000)          # (channels, samples)
    for block in stream_audio("two_hours.wav", rate=16000): ...

Knows nothing of models or turns. Every fault of the input is an `AudioError` that says
what to do; faults that leave something to work with end up in `warnings`.
"""

from __future__ import annotations

import math
import os
import reprlib
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Self, TypeAlias, Union, cast

import numpy as np
import numpy.typing as npt

from speechmeta.audio.clock import Missing
from speechmeta.audio.foreign import audio_errors, limit_allocations
from speechmeta.audio.limits import DEFAULT_LIMITS, Limits
from speechmeta.audio.rawformats import RawRules
from speechmeta.audio.resampling import StreamResampler, resample
from speechmeta.audio.source import MediaFile, open_media
from speechmeta.audio.tracks import Reader, open_reader
from speechmeta.audio.types import FloatArray
from speechmeta.errors import AudioError
from speechmeta.schema import AudioInfo

if TYPE_CHECKING:
    import torch

__all__ = [
    "SAMPLE_RATE",
    "Audio",
    "AudioSource",
    "AudioStream",
    "load_audio",
    "probe_audio",
    "resample",
    "stream_audio",
]

SAMPLE_RATE = 16000
"""The rate in Hz that the models take."""

MAX_CHANNELS = 512
"""A waveform with more rows than this and fewer columns than rows is taken for transposed."""

LARGEST = 1e15
"""Float samples beyond this are refused: the power in one window of a spectrum is about 400² times
their square, and float32 ends at 3e38."""

LOUD = 8.0
"""Float samples beyond this are not scaled to +-1.0."""

Waveform: TypeAlias = Union[npt.NDArray[Any], "torch.Tensor"]
AudioSource: TypeAlias = Union[
    str, "os.PathLike[str]", bytes, IO[bytes], tuple[Waveform, int], Waveform, "Audio"
]


@dataclass(frozen=True)
class Audio:
    """A decoded recording.

    Attributes:
        waveform: float32, shape (channels, samples), full scale at 1.0, at its own rate.
        sample_rate: Hz, as recorded.
        path: the file's path or name; None for arrays and bytes.
        codec: FFmpeg's name of the codec, such as `pcm_mulaw`; None for arrays.
        warnings: what is wrong with the recording, though it could be used.
    """

    waveform: FloatArray
    sample_rate: int
    path: str | None = None
    codec: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def channels(self) -> int:
        return int(self.waveform.shape[0])

    @property
    def duration(self) -> float:
        """Seconds."""
        return float(self.waveform.shape[1] / self.sample_rate)

    @property
    def info(self) -> AudioInfo:
        return AudioInfo(
            path=_printable(self.path),
            duration=self.duration,
            sample_rate=self.sample_rate,
            channels=self.channels,
            codec=self.codec,
        )

    def mono(self) -> FloatArray:
        """The mean of the channels, shape (samples,), at its own rate.

        Where the channels cancel each other out (one is wired in opposite phase) it is the
        loudest of them instead, because the mean would be silence.
        """
        first: FloatArray = self.waveform[0]
        if self.channels == 1:
            return first
        mean: FloatArray = self.waveform.mean(axis=0, dtype=np.float32)
        powers = np.square(self.waveform).mean(axis=1)
        if float(np.square(mean).mean()) < 1e-3 * float(powers.max()) / self.channels**2:
            loudest: FloatArray = self.waveform[int(powers.argmax())]
            return loudest
        return mean

    def resampled(self, rate: int = SAMPLE_RATE) -> FloatArray:
        """All channels at another rate in Hz, shape (channels, samples)."""
        return resample(self.waveform, self.sample_rate, rate)


def load_audio(
    source: AudioSource,
    sample_rate: int | None = None,
    raw: str | None = None,
    limits: Limits | None = None,
) -> Audio:
    """Decodes a whole recording at its own rate.

    Args:
        source: a path, `-` for standard input, a binary file object, the bytes of a file,
            `(waveform, sample_rate)`, or an `Audio`, which is returned as it is. A waveform is
            a NumPy array or torch tensor of shape (samples,) or (channels, samples); integers
            of 8, 16 and 32 bits are scaled to +-1.0, floats are taken as they are.
        sample_rate: the rate in Hz of a waveform that is given without one.
        raw: how headerless recordings are read, see `speechmeta.audio.rawformats.RawRules`.
        limits: what the recording may have and take; None for the defaults.

    Raises:
        UsageError: `raw` is not understood.
        AudioError: nothing there, not audio, nothing to decode, no samples, NaN, or a shape,
            type or rate that makes no sense.
    """
    if isinstance(source, Audio):
        _refuse_rate(sample_rate)
        _check_audio(source, limits)
        return source
    array = as_array(source, sample_rate)
    if array is not None:
        audio = _from_array(*array)
        _check_audio(audio, limits)
        return audio
    with AudioStream(source, block_seconds=None, raw=raw, limits=limits) as stream:
        with audio_errors(stream.name):
            waveform = _joined(list(stream))
        return Audio(
            waveform, stream.sample_rate, stream.path, stream.codec, tuple(stream.warnings)
        )


def stream_audio(
    source: AudioSource | MediaFile,
    block_seconds: float = 30.0,
    rate: int | None = None,
    raw: str | None = None,
    limits: Limits | None = None,
) -> AudioStream:
    """Decodes block by block, so that hours of audio need little memory.

    Args:
        source: as for `load_audio`.
        block_seconds: length of every block but the last.
        rate: resample to this rate in Hz; None keeps the recording's own.
        raw, limits: as for `load_audio`.

    Returns:
        an iterator over float32 arrays of shape (channels, n).
    """
    return AudioStream(source, block_seconds, rate, raw, limits)


def probe_audio(
    source: AudioSource, raw: str | None = None, limits: Limits | None = None
) -> AudioInfo:
    """Rate, channels, codec and duration without decoding.

    The duration is the one that the file states, or the end of its last packet; what can
    really be decoded may be less. A file object is left where it was.

    Raises:
        AudioError: as for `load_audio`, as far as it shows without decoding.
    """
    if isinstance(source, Audio):
        return source.info
    array = as_array(source, None)
    if array is not None:
        return _from_array(*array).info
    with audio_errors(_name_of(source)), ExitStack() as stack:
        reader, path, _ = _open(source, stack, raw, limits or DEFAULT_LIMITS)
        duration = reader.declared
        return AudioInfo(
            path=_printable(path),
            duration=reader.count_seconds() if duration is None else duration,
            sample_rate=reader.sample_rate,
            channels=reader.channels,
            codec=reader.codec,
        )


class AudioStream(Iterator[FloatArray]):
    """Iterator over blocks (channels, n) of a recording; see `stream_audio`.

    The first block is decoded at once, so a file without usable audio fails here.

    Attributes:
        sample_rate: the recording's own rate in Hz. rate: that of the blocks.
        channels, path, codec: as in `Audio`.
        warnings: complete when the iterator is exhausted, and so is `missing`, the stretches
            for which silence stands in.
    """

    def __init__(
        self,
        source: AudioSource | MediaFile,
        block_seconds: float | None = 30.0,
        rate: int | None = None,
        raw: str | None = None,
        limits: Limits | None = None,
    ) -> None:
        if block_seconds is not None and not block_seconds > 0:
            raise AudioError(f"block_seconds is {block_seconds}", "give a positive number")
        if rate is not None:
            _check_rate(rate)
        self._stack = ExitStack()
        self._raw, self._limits = raw, limits or DEFAULT_LIMITS
        self.name = _name_of(source)
        try:
            with audio_errors(self.name):
                self._pieces = self._begin(source)
                first = next(self._pieces)
        except BaseException:
            self._stack.close()
            raise
        self.rate = rate or self.sample_rate
        self._blocks = self._rechunk(first, block_seconds)

    def __next__(self) -> FloatArray:
        try:
            with audio_errors(self.name):
                return next(self._blocks)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; done by itself at the end of the iteration."""
        self._stack.close()

    @property
    def declared(self) -> float | None:
        """Seconds that the recording should have by its header; None where that is a guess."""
        return self._seconds if self._reader is None else self._reader.declared

    @property
    def missing(self) -> list[Missing]:
        return [] if self._reader is None else list(self._reader.missing)

    def _begin(self, source: AudioSource | MediaFile) -> Iterator[FloatArray]:
        self._reader: Reader | None = None
        self._seconds: float | None = None
        if not isinstance(source, (Audio, MediaFile)):
            array = as_array(source, None)
            if array is not None:
                source = _from_array(*array)
        if isinstance(source, Audio):
            self.path, self.codec = source.path, source.codec
            self._seconds = source.duration
            self.warnings = list(source.warnings)
            self.sample_rate, self.channels = source.sample_rate, source.channels
            _check_audio(source, self._limits)
            return iter([source.waveform])
        reader, self.path, size = _open(source, self._stack, self._raw, self._limits)
        self._reader = reader
        self.codec, self.warnings = reader.codec, reader.warnings
        pieces = _finite(reader.frames(), reader.name)
        first = next(pieces)
        # The first frame knows better than the header.
        self.sample_rate, self.channels = reader.sample_rate, reader.channels
        self._limits.check_shape(self.name, self.sample_rate, self.channels)
        return self._limits.watched(_chain(first, pieces), self.name, self.sample_rate, size)

    def _rechunk(self, first: FloatArray, block_seconds: float | None) -> Iterator[FloatArray]:
        resampler = StreamResampler(self.sample_rate, self.rate, self.channels)
        size = None if block_seconds is None else max(1, round(block_seconds * self.rate))
        # Frames are a few milliseconds long: they are gathered, because the resampler's cost
        # per call is that of its filter's reach.
        gather = max(1, round(min(block_seconds or 30.0, 30.0) * self.sample_rate))
        held: list[FloatArray] = []
        count = 0
        ready = np.zeros((self.channels, 0), np.float32)
        for piece in _chain(first, self._pieces):
            held.append(piece)
            count += piece.shape[1]
            if count < gather:
                continue
            fresh = resampler.push(np.concatenate(held, axis=1))
            held, count = [], 0
            ready = np.concatenate([ready, fresh], axis=1)
            while ready.shape[1] >= (size or 1):
                yield ready[:, :size]
                ready = ready[:, size:] if size else ready[:, :0]
        rest = np.concatenate([np.zeros((self.channels, 0), np.float32), *held], axis=1)
        ready = np.concatenate([ready, resampler.push(rest, last=True)], axis=1)
        step = size or max(1, ready.shape[1])
        for start in range(0, ready.shape[1], step):
            yield ready[:, start : start + step]


def _joined(blocks: list[FloatArray]) -> FloatArray:
    """The blocks side by side, each let go of as soon as it is copied."""
    length = sum(block.shape[1] for block in blocks)
    whole = np.empty((blocks[0].shape[0], length), np.float32)
    end = length
    while blocks:
        block = blocks.pop()
        whole[:, end - block.shape[1] : end] = block
        end -= block.shape[1]
    return whole


def _check_audio(audio: Audio, limits: Limits | None) -> None:
    chosen = limits or DEFAULT_LIMITS
    name = audio.path or "the waveform"
    chosen.check_shape(name, audio.sample_rate, audio.channels)
    chosen.check_length(name, audio.duration)


def _name_of(source: object) -> str:
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    name = getattr(source, "name", None) or getattr(source, "path", None)
    return name if isinstance(name, str) else "the given recording"


def _chain(first: FloatArray, others: Iterator[FloatArray]) -> Iterator[FloatArray]:
    yield first
    yield from others


def _finite(pieces: Iterator[FloatArray], name: str) -> Iterator[FloatArray]:
    for piece in pieces:
        _check_finite(piece, name)
        yield piece


def _check_finite(waveform: FloatArray, name: str) -> None:
    # NaN makes both of them NaN.
    peak = max(float(waveform.max()), -float(waveform.min())) if waveform.size else 0.0
    if LARGEST < peak < math.inf:
        raise AudioError(
            f"{name} has samples of {peak:.3g}, whose power no spectrum holds",
            "scale it to lie between -1 and 1",
        )
    if not math.isfinite(peak):
        raise AudioError(
            f"{name} contains NaN or infinite samples", "repair or re-export it before analysing"
        )


def _open(
    source: AudioSource | MediaFile, stack: ExitStack, raw: str | None, limits: Limits
) -> tuple[Reader, str | None, int]:
    """Opens a path, file object or bytes; everything opened is closed with `stack`.

    Returns:
        the reader, the path, and the bytes of the file.
    """
    rules = RawRules.parse(raw)
    if isinstance(source, MediaFile):
        media = source
    else:
        media = open_media(cast(Any, source))
        stack.callback(media.close)
    limit_allocations(limits.max_header_mb)
    reader = open_reader(media, rules)
    stack.callback(reader.close)
    limits.check_shape(media.name, reader.sample_rate or limits.min_rate, reader.channels)
    if limits.too_long(reader.declared or 0.0):
        # Headers are wrong more often than calls are that long: the packets are asked.
        with closing(open_reader(media, rules)) as counted:
            limits.check_length(media.name, counted.count_seconds())
    return reader, media.path, media.size


def _printable(path: str | None) -> str | None:
    """File names are bytes, JSON is Unicode: what is not UTF-8 becomes `\\xNN`."""
    return None if path is None else os.fsencode(path).decode("utf-8", "backslashreplace")


def as_array(source: AudioSource, sample_rate: int | None) -> tuple[Waveform, int] | None:
    """The waveform and rate if the source is an array, None if it has to be decoded."""
    if isinstance(source, tuple):
        _refuse_rate(sample_rate)
        if len(source) != 2:
            raise AudioError(
                f"the given tuple has {len(source)} items", "give (waveform, sample_rate)"
            )
        return source
    if isinstance(source, np.ndarray) or _is_tensor(source):
        if sample_rate is None:
            raise AudioError(
                "a waveform was given without its sample rate", "give (waveform, sample_rate)"
            )
        return cast(Waveform, source), sample_rate
    readable = isinstance(source, (str, os.PathLike, bytes, bytearray, memoryview))
    if not readable and not hasattr(source, "read"):
        raise AudioError(
            f"{type(source).__name__} is not an audio source",
            "give a path, file object, bytes or (waveform, sample_rate)",
        )
    _refuse_rate(sample_rate)
    return None


def _is_tensor(source: object) -> bool:
    # Told apart without importing torch.
    return hasattr(source, "detach") and hasattr(source, "is_floating_point")


def _refuse_rate(sample_rate: int | None) -> None:
    if sample_rate is not None:
        raise AudioError(
            "sample_rate was given for a source that brings its own",
            "leave it out; .resampled(rate) changes the rate",
        )


def _check_rate(rate: Any) -> int:
    whole = isinstance(rate, (int, float, np.integer, np.floating)) and not isinstance(rate, bool)
    if not whole or not np.isfinite(rate) or rate < 1 or rate != int(rate):
        raise AudioError(
            f"sample rate {reprlib.repr(rate)} is not a positive whole number", "give it in Hz"
        )
    return int(rate)


def _from_array(waveform: Waveform, sample_rate: int) -> Audio:
    rate = _check_rate(sample_rate)
    if _is_tensor(waveform):
        tensor = cast("torch.Tensor", waveform).detach().cpu()
        waveform = tensor.float().numpy() if tensor.is_floating_point() else tensor.numpy()
    data: npt.NDArray[Any] = np.asarray(waveform)
    if data.ndim not in (1, 2):
        raise AudioError(
            f"the waveform has shape {data.shape}", "give (samples,) or (channels, samples)"
        )
    if data.ndim == 1:
        data = data[None, :]
    if data.size == 0:
        raise AudioError("the waveform holds no samples", "check how it was made")
    if data.shape[0] > MAX_CHANNELS and data.shape[0] > data.shape[1]:
        raise AudioError(
            f"the waveform has {data.shape[0]} channels of {data.shape[1]} samples",
            "give (channels, samples); transpose an array that has samples first",
        )
    samples = _scaled(data)
    _check_finite(samples, "the waveform")
    peak = float(np.abs(samples).max())
    warnings = (
        (f"the waveform's samples reach {peak:.3g}; floats should lie between -1 and 1",)
        if peak > LOUD
        else ()
    )
    return Audio(samples, rate, warnings=warnings)


def _scaled(data: npt.NDArray[Any]) -> FloatArray:
    """float32 with full scale at 1.0."""
    if np.issubdtype(data.dtype, np.floating):
        with np.errstate(over="ignore"):  # what float32 cannot hold is reported as infinite
            return np.ascontiguousarray(data, dtype=np.float32)
    if data.dtype == np.uint8:
        return (data.astype(np.float32) - 128.0) / np.float32(128.0)
    if data.dtype in (np.int8, np.int16, np.int32):
        scale = -float(np.iinfo(data.dtype).min)
        return np.ascontiguousarray(data / scale, dtype=np.float32)
    raise AudioError(
        f"the waveform's type {data.dtype} is not one of audio",
        "give floats between -1 and 1, or int16, int32 or uint8",
    )
