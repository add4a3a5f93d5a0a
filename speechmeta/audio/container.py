"""Reads the audio track of a media file with FFmpeg (PyAV): frames, claims and damage.

PyAV brings its own FFmpeg, so nothing has to be installed beside the wheel, and it decodes
the telephone codecs (G.711, GSM, AMR) that soundfile does not.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import IO, Any, cast

import av
import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream as AvAudioStream
from av.container import InputContainer

from speechmeta.audio.types import FloatArray
from speechmeta.errors import AudioError

CONVERT_HINT = "give a file that FFmpeg decodes, such as WAV, FLAC, MP3, M4A, Ogg, WebM or AMR"

# A playlist must not make FFmpeg open other files or addresses: only the bytes that the
# caller gave are read.
_NO_OTHER_FILES = {"protocol_whitelist": "none"}

# Headerless G.711 is 8 kHz by its standard; FFmpeg would take it for 44.1 kHz.
_RAW_G711 = {"mulaw": "mulaw", "alaw": "alaw"}

_FULL_SCALE = {"u8": 128.0, "s16": 32768.0, "s32": 2147483648.0, "s64": 2.0**63}

DURATION_TOLERANCE = 0.25
"""Seconds by which a header's duration may exceed what was decoded: encoders count the
padding of the first and last frame differently."""


class _Named:
    """A stream under a name, because FFmpeg guesses headerless formats by the name's ending."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self.name = name
        self.read = file.read
        # PyAV looks for these attributes and takes their absence for "cannot seek".
        if _can_seek(file):
            self.seek = file.seek
            self.tell = file.tell


def _can_seek(file: IO[bytes]) -> bool:
    try:
        return bool(file.seekable())
    except AttributeError:
        return hasattr(file, "seek") and hasattr(file, "tell")


class MediaReader:
    """One open media file, positioned at its audio track.

    Attributes:
        sample_rate: Hz. channels: count. codec: FFmpeg's name of the codec.
        declared: the duration in seconds that the file's header states, or None.
        warnings: what was found wrong so far; complete once `frames()` has ended.

    Raises:
        AudioError: the file is no audio, has no audio track, or no codec for it.
    """

    def __init__(self, file: IO[bytes], name: str) -> None:
        self.name = name
        self.warnings: list[str] = []
        self._file = file
        self._seekable = _can_seek(file)
        self._start = file.tell() if self._seekable else 0
        self._size = self._measure()
        if self._size == 0:
            raise AudioError(f"{name} is empty (0 bytes)", "check how the file was made or copied")
        self._head = self._peek(0, 12) if self._seekable else b""
        if self._is_text():
            # Before FFmpeg sees it: it renders text as video and waits for what playlists name.
            raise AudioError(f"{name} is a text file, not audio", CONVERT_HINT)
        self._container = self._open()
        try:
            self._stream = self._choose_stream()
            context = self._stream.codec_context
            self.codec = str(context.codec.canonical_name)
            self.sample_rate = int(context.sample_rate or 0)
            self.channels = int(context.layout.nb_channels)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._container.close()

    @property
    def declared(self) -> float | None:
        if self._stream.duration is not None and self._stream.time_base is not None:
            return float(self._stream.duration * self._stream.time_base)
        if self._container.duration is not None and len(self._container.streams) == 1:
            return self._container.duration / 1_000_000
        return None

    def frames(self) -> Iterator[FloatArray]:
        """Decodes block by block: arrays (channels, n), full scale at 1.0.

        Damaged packets are skipped and counted in `warnings`, and so is an end before
        the one that the file states.

        Raises:
            AudioError: nothing at all could be decoded, or most of it has another rate or
                number of channels than its beginning.
        """
        damaged = 0
        total = 0
        foreign = 0.0  # seconds
        packets = self._container.demux(self._stream)
        while True:
            try:
                # After an error of its own the demuxer ends; after one in decode() it goes on.
                packet = next(packets, None)
                if packet is None:
                    break
                decoded = packet.decode()
            except av.error.EOFError:
                continue
            except av.error.FFmpegError:
                damaged += 1
                continue
            for frame in decoded:
                damaged += bool(frame.is_corrupt)
                if frame.samples == 0:
                    continue
                shape = (frame.sample_rate, frame.layout.nb_channels)
                if total == 0:
                    # The first frame knows better than the header, as with SBR in AAC.
                    self.sample_rate, self.channels = shape
                elif shape != (self.sample_rate, self.channels):
                    foreign += frame.samples / max(1, frame.sample_rate)
                    continue
                total += frame.samples
                yield _samples(frame)
        self._report_change(foreign, total)
        if total == 0:
            if damaged:
                raise AudioError(
                    f"{self.name} is damaged: none of its {self.codec} audio can be decoded",
                    CONVERT_HINT,
                )
            raise AudioError(f"{self.name} holds no audio samples", "record or export it again")
        self._report_damage(damaged, total / self.sample_rate)

    def count_seconds(self) -> float:
        """The duration in seconds by the packets' times, without decoding."""
        seconds = 0.0
        try:
            for packet in self._container.demux(self._stream):
                if packet.pts is not None and packet.time_base is not None:
                    end = (packet.pts + (packet.duration or 0)) * packet.time_base
                    seconds = max(seconds, float(end))
        except av.error.FFmpegError:
            self.warnings.append(f"{self.name} is damaged after {seconds:.2f} s")
        return seconds

    def _open(self) -> InputContainer:
        try:
            container = self._try_open({})
            if container.format.name in _RAW_G711:
                container.close()
                self._rewind()
                container = self._try_open({"sample_rate": "8000"})
        except (av.error.FFmpegError, EOFError) as error:
            raise AudioError(
                f"{self.name} is not audio, or its beginning is damaged", CONVERT_HINT
            ) from error
        return container

    def _try_open(self, options: dict[str, str]) -> InputContainer:
        container: InputContainer = av.open(
            cast(Any, _Named(self._file, self.name)),
            mode="r",
            options={**_NO_OTHER_FILES, **options},
            metadata_errors="ignore",
        )
        return container

    def _choose_stream(self) -> AvAudioStream:
        tracks = self._container.streams.audio
        best = cast("AvAudioStream | None", self._container.streams.best("audio"))
        if best is None or best.codec_context is None:
            if tracks:
                raise AudioError(
                    f"{self.name} has an audio track that cannot be decoded", CONVERT_HINT
                )
            raise AudioError(f"{self.name} has no audio track", CONVERT_HINT)
        if len(tracks) > 1:
            self.warnings.append(
                f"{self.name} has {len(tracks)} audio tracks; "
                f"only number {tracks.index(best) + 1} was read"
            )
        return best

    def _report_change(self, foreign: float, total: int) -> None:
        """A damaged frame may state anything; a lasting change is another recording."""
        if foreign == 0.0:
            return
        if foreign > total / self.sample_rate:
            raise AudioError(
                f"{self.name} changes its rate or number of channels midway",
                "convert it first: ffmpeg -i FILE -ar 16000 out.wav",
            )
        self.warnings.append(
            f"{self.name} has {foreign:.2f} s in another rate or number of channels than "
            f"{self.sample_rate} Hz and {self.channels}; they are left out"
        )

    def _report_damage(self, damaged: int, seconds: float) -> None:
        if damaged:
            self.warnings.append(
                f"{self.name} is damaged: {damaged} packets could not be decoded properly"
            )
        declared = self.declared
        if (
            declared is not None
            and declared - seconds > DURATION_TOLERANCE
            and not self._duration_is_a_guess()
        ):
            self.warnings.append(
                f"{self.name} is cut short: it states {declared:.2f} s and holds {seconds:.2f} s"
            )
        elif self._lacks_its_end():
            self.warnings.append(
                f"{self.name} is cut short: it breaks off after {seconds:.2f} s without the "
                "end that its format asks for"
            )

    def _duration_is_a_guess(self) -> bool:
        """Whether FFmpeg computed the stated duration from the file size and a bit rate."""
        if self._container.format.name == "aac":
            return True
        if self._container.format.name != "mp3" or not self._seekable:
            return False
        first_frame = 0
        if self._head[:3] == b"ID3":
            size = self._head[6:10]
            first_frame = 10 + (size[0] << 21 | size[1] << 14 | size[2] << 7 | size[3])
        frame = self._peek(first_frame, 256)
        return not any(tag in frame for tag in (b"Xing", b"Info", b"VBRI"))

    def _lacks_its_end(self) -> bool:
        """Whether the RIFF size is not reached, or the last Ogg page is not marked as last."""
        if not self._seekable or self._size is None:
            return False
        if self._head[:4] in (b"RIFF", b"RIFX"):
            order = "little" if self._head[:4] == b"RIFF" else "big"
            stated = int.from_bytes(self._head[4:8], cast(Any, order))
            # 0 and the largest number are written by programs that do not know the size yet.
            return stated not in (0, 0xFFFFFFFF) and stated + 8 > self._size + 1
        if self._head[:4] == b"OggS":
            tail = self._peek(max(0, self._size - 65536 - 282), 65536 + 282)
            page = tail.rfind(b"OggS")
            return page < 0 or len(tail) < page + 6 or not tail[page + 5] & 4
        return False

    def _is_text(self) -> bool:
        if not self._seekable:
            return False
        # More than the 1024 bytes of a NIST SPHERE header, which is text before the samples.
        head = self._peek(0, 8192)
        try:
            text = head.decode("utf-8")
        except UnicodeDecodeError as error:
            if error.start < len(head) - 3:  # not merely a character cut in two
                return False
            text = head[: error.start].decode("utf-8")
        return all(char.isprintable() or char in "\t\r\n\f\ufeff" for char in text)

    def _measure(self) -> int | None:
        if not self._seekable:
            return None
        size = self._file.seek(0, os.SEEK_END) - self._start
        self._rewind()
        return size

    def _peek(self, offset: int, count: int) -> bytes:
        position = self._file.tell()
        self._file.seek(self._start + offset)
        data = self._file.read(count)
        self._file.seek(position)
        return data

    def _rewind(self) -> None:
        if self._seekable:
            self._file.seek(self._start)


def _samples(frame: AudioFrame) -> FloatArray:
    """One frame as float32 (channels, n), full scale at 1.0."""
    kind = frame.format.name.rstrip("p")
    if kind == "s64":  # the one format that PyAV does not turn into an array
        count = frame.samples * (1 if frame.format.is_planar else frame.layout.nb_channels)
        data: npt.NDArray[Any] = np.stack(
            [np.frombuffer(cast(Any, plane), np.int64)[:count] for plane in frame.planes]
        )
    else:
        data = frame.to_ndarray()
    if not frame.format.is_planar:
        data = data.reshape(-1, frame.layout.nb_channels).T
    if kind not in _FULL_SCALE:
        with np.errstate(over="ignore"):  # infinite samples are found by who reads on
            return np.ascontiguousarray(data, dtype=np.float32)
    scale = _FULL_SCALE[kind]
    # 32-bit integers pass through float64, float32 would round before scaling does.
    wide: npt.NDArray[np.floating[Any]] = data.astype(np.float64 if kind == "s32" else np.float32)
    if kind == "u8":
        wide -= scale
    return np.ascontiguousarray(wide / scale, dtype=np.float32)
