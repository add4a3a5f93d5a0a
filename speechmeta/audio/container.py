"""Reads the audio track of a media file with FFmpeg (PyAV): frames, claims and damage.

PyAV brings its own FFmpeg, so nothing has to be installed beside the wheel, and it decodes
the telephone codecs (G.711, GSM, AMR) that soundfile does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import av
from av.audio.codeccontext import AudioCodecContext
from av.audio.stream import AudioStream as AvAudioStream
from av.container import InputContainer
from av.packet import Packet

from speechmeta.audio.clock import Clock, Missing, silence
from speechmeta.audio.frames import samples_of
from speechmeta.audio.riff import UNKNOWN_LENGTH, RiffFacts, examine
from speechmeta.audio.source import Bytes, View
from speechmeta.audio.types import FloatArray
from speechmeta.errors import AudioError

CONVERT_HINT = "give a file that FFmpeg decodes, such as WAV, FLAC, MP3, M4A, Ogg, WebM or AMR"

# A playlist must not make FFmpeg open other files or addresses: only the bytes that the
# caller gave are read.
_NO_OTHER_FILES = {"protocol_whitelist": "none"}

# FFmpeg's own decoders of AMR refuse the frames of discontinuous transmission; these make
# comfort noise of them, as 3GPP TS 26.092 and 26.192 ask.
_DECODERS = {"amr_nb": "libopencore_amrnb", "amr_wb": "libopencore_amrwb"}
_AMR_PACKET_SECONDS = 0.02

# The zero of these containers is the recording's beginning. In others (MPEG-TS, Ogg, FLV ...)
# the first packet has any time.
_ABSOLUTE = {"mov", "mp4", "matroska", "webm", "avi", "nut"}

# Frames one after the other, whose times FFmpeg counts; what it skips has none.
_UNTIMED = {"aac", "ac3", "dts", "eac3", "loas", "mp3"}
_TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICS")

# Here FFmpeg computes a duration from the size and a bit rate.
_GUESSED = {"aac", "amr", "amrnb", "amrwb", "loas"}

SPHERE_HINT = "convert it with LDC's tool: sph2pipe -f wav CALL.sph CALL.wav"

DURATION_TOLERANCE = 0.25
"""Seconds by which a header's duration may exceed what was decoded: encoders count the
padding of the first and last frame differently."""


class MediaReader:
    """One audio track of an open media file.

    Args:
        content: the file. name: for messages; FFmpeg guesses by its ending.
        track: the number of the audio track; None for the one that FFmpeg finds best.

    Attributes:
        sample_rate: Hz. channels: count. codec: FFmpeg's name of the codec.
        tracks: numbers of the audio tracks that can be decoded. track: this one's.
        warnings: what was found wrong so far; complete once `frames()` has ended.

    Raises:
        AudioError: the file is not audio, has no audio track, or no codec for it.
    """

    def __init__(self, content: Bytes, name: str, track: int | None = None) -> None:
        self.name = name
        self.warnings: list[str] = []
        self._file = content
        self._head = content.read_at(0, 12)
        if self._is_text():
            # Before FFmpeg sees it: it renders text as video and waits for what playlists name.
            raise AudioError(f"{name} is a text file, not audio", CONVERT_HINT)
        self._refuse_packed_sphere()
        self._riff = examine(content, name) or RiffFacts()
        self.warnings += self._riff.warnings if not track else []
        self._container = self._open(self._riff.content or content)
        try:
            self._stream = self._choose_stream(track)
            context = self._stream.codec_context
            self.codec = str(context.codec.canonical_name)
            self.sample_rate = int(context.sample_rate or 0)
            self.channels = int(context.layout.nb_channels)
            self._decoder = _own_decoder(self._stream)
        except BaseException:
            self.close()
            raise
        self._clock: Clock | None = None
        self._pace = _Pace()

    def close(self) -> None:
        self._container.close()

    @property
    def missing(self) -> list[Missing]:
        """The stretches for which silence stands in."""
        if self._clock is None:
            return []
        return [
            Missing(gap.start / self._clock.rate, gap.end / self._clock.rate, 0, self.channels)
            for gap in self._clock.gaps
        ]

    @property
    def declared(self) -> float | None:
        """The end in seconds that the file states, if it states one."""
        if self._riff.content is not None and self._riff.seconds is not None:
            return self._riff.seconds
        if self._duration_is_a_guess():
            return None
        if self._stream.duration is not None and self._stream.time_base is not None:
            late = 0.0
            if self._stream.start_time is not None and not self._counts_samples():
                begin = float(self._stream.start_time * self._stream.time_base)
                late = max(0.0, begin - self._zero(begin))
            return float(self._stream.duration * self._stream.time_base) + late
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
        sounded = 0
        foreign = 0.0  # seconds
        untimed = self._container.format.name in _UNTIMED
        early = _Early()
        packets = self._container.demux(self._stream)
        while True:
            packet = None
            try:
                # After an error of its own the demuxer ends; after one in decode() it goes on.
                packet = next(packets, None)
                if packet is None:
                    break
                decoded = self._decode(packet)
            except av.error.EOFError:
                continue
            except av.error.FFmpegError:
                damaged += 1
                if packet is not None and self._clock is not None:
                    self._clock.lose(self._seconds_of(packet))
                elif packet is not None:
                    early.lose(_time_of(packet), self._seconds_of(packet))
                continue
            self._pace.add(packet)
            for frame in decoded:
                damaged += bool(frame.is_corrupt)
                if frame.samples == 0:
                    continue
                shape = (frame.sample_rate, frame.layout.nb_channels)
                if self._clock is None:
                    # The first frame knows better than the header, as with SBR in AAC.
                    self.sample_rate, self.channels = shape
                    self._clock = Clock(self.sample_rate, self._zero(early.begin(frame.time)))
                    self._clock.lose(early.seconds)
                elif shape != (self.sample_rate, self.channels):
                    foreign += frame.samples / max(1, frame.sample_rate)
                    continue
                gap = self._clock.place(None if untimed else frame.time, frame.samples)
                yield from silence(self.channels, gap)
                sounded += frame.samples
                yield samples_of(frame)
        self._report_change(foreign, sounded)
        if self._clock is None:
            if damaged:
                raise AudioError(
                    f"{self.name} is damaged: none of its {self.codec} audio can be decoded",
                    SPHERE_HINT if self._head[:7] == b"NIST_1A" else CONVERT_HINT,
                )
            raise AudioError(f"{self.name} holds no audio samples", "record or export it again")
        yield from silence(self.channels, self._clock.finish())
        self._report_damage(damaged, self._clock)

    def _decode(self, packet: Packet[Any]) -> list[Any]:
        if self._decoder is None:
            return list(packet.decode())
        if packet.size == 0:  # the demuxer's last; these decoders hold nothing back
            return []
        return list(self._decoder.decode(packet))

    def _seconds_of(self, packet: Packet[Any]) -> float:
        """How long a packet that cannot be decoded would have been."""
        if self._container.format.name in _UNTIMED and packet.size:
            # All that lies between two good frames comes as one packet.
            return 0.0 if bytes(packet).startswith(_TAGS) else self._pace.seconds(packet.size)
        if packet.duration and packet.time_base is not None:
            return float(packet.duration * packet.time_base)
        return _AMR_PACKET_SECONDS if self.codec in _DECODERS else 0.0

    def _is_absolute(self) -> bool:
        return self._counts_samples() or bool(
            _ABSOLUTE & set(self._container.format.name.split(","))
        )

    def _counts_samples(self) -> bool:
        """FLAC numbers its frames from the first on, of as many as its header states."""
        return self._container.format.name == "flac" and self._stream.duration is not None

    def _zero(self, first: float | None) -> float:
        """The time of the packets at which the recording begins."""
        if self._is_absolute():
            return 0.0
        started = self._container.start_time
        if started is not None and len(self._container.streams) > 1:
            return min(started / 1_000_000, first or 0.0)
        return first or 0.0

    def count_seconds(self) -> float:
        """The duration in seconds by the packets' times, without decoding."""
        first: float | None = None
        end = 0.0
        try:
            for packet in self._container.demux(self._stream):
                if packet.pts is not None and packet.time_base is not None:
                    first = float(packet.pts * packet.time_base) if first is None else first
                    last = (packet.pts + (packet.duration or 0)) * packet.time_base
                    end = max(end, float(last))
        except av.error.FFmpegError:
            self.warnings.append(f"{self.name} is damaged after {end - self._zero(first):.2f} s")
        return max(0.0, end - self._zero(first))

    def _open(self, content: Bytes) -> InputContainer:
        try:
            container: InputContainer = av.open(
                cast(Any, View(content, self.name)),
                mode="r",
                options=_NO_OTHER_FILES,
                metadata_errors="ignore",
            )
        except (av.error.FFmpegError, EOFError) as error:
            raise AudioError(
                f"{self.name} is not audio, or its beginning is damaged", CONVERT_HINT
            ) from error
        return container

    def _choose_stream(self, track: int | None) -> AvAudioStream:
        tracks = self._container.streams.audio
        usable = [stream for stream in tracks if stream.codec_context is not None]
        self.tracks = [tracks.index(stream) for stream in usable]
        if not tracks:
            raise AudioError(f"{self.name} has no audio track", CONVERT_HINT)
        if not usable:
            raise AudioError(f"{self.name} has an audio track that cannot be decoded", CONVERT_HINT)
        if track is None:
            best = cast("AvAudioStream | None", self._container.streams.best("audio"))
            track = tracks.index(best) if best in usable else self.tracks[0]
        self.track = track
        if len(usable) < len(tracks) and track == self.tracks[0]:
            lost = len(tracks) - len(usable)
            self.warnings.append(
                f"{self.name} has {len(tracks)} audio tracks, {lost} of which cannot be decoded "
                "and are left out"
            )
        return tracks[track]

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

    def _report_damage(self, damaged: int, clock: Clock) -> None:
        seconds = clock.position / clock.rate
        absent = sum(gap.end - gap.start for gap in clock.gaps) / clock.rate
        if damaged:
            self.warnings.append(
                f"{self.name} is damaged: {damaged} packets could not be decoded properly"
            )
        if round(absent, 2) > 0:
            where = f"from {clock.gaps[0].start / clock.rate:.2f} s"
            if len(clock.gaps) > 1:
                where = f"in {len(clock.gaps)} places, the first {where}"
            self.warnings.append(
                f"{self.name} has no sound of its own for {absent:.2f} s, {where}: packets are "
                "missing or damaged, or it begins late; silence stands in for them"
            )
        if clock.jumps:
            self.warnings.append(
                f"the packet times of {self.name} leap {len(clock.jumps)} times, first after "
                f"{clock.jumps[0] / clock.rate:.2f} s; what follows was put right behind it"
            )
        declared = self.declared
        if declared is not None and declared - seconds > DURATION_TOLERANCE:
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
        form = self._container.format.name
        # ASF states the length of the file, whose tracks may be shorter.
        if form in _GUESSED or (form == "asf" and len(self._container.streams) > 1):
            return True
        if form != "mp3":
            return False
        first_frame = 0
        if self._head[:3] == b"ID3":
            size = self._head[6:10]
            first_frame = 10 + (size[0] << 21 | size[1] << 14 | size[2] << 7 | size[3])
        frame = self._file.read_at(first_frame, 256)
        return not any(tag in frame for tag in (b"Xing", b"Info", b"VBRI"))

    def _lacks_its_end(self) -> bool:
        """Whether the RIFF size is not reached, or the last Ogg page is not marked as last."""
        if self._head[:4] == b"RIFF" and self._riff.content is None:
            stated = int.from_bytes(self._head[4:8], "little")
            # 0 and huge numbers are written by programs that do not know the size yet.
            known = 0 < stated < UNKNOWN_LENGTH
            return known and stated + 8 > self._file.size + 1
        if self._head[:4] == b"OggS":
            tail = self._file.read_at(max(0, self._file.size - 65536 - 282), 65536 + 282)
            page = tail.rfind(b"OggS")
            return page < 0 or len(tail) < page + 6 or not tail[page + 5] & 4
        return False

    def _is_text(self) -> bool:
        # More than the 1024 bytes of a NIST SPHERE header, which is text before the samples.
        head = self._file.read_at(0, 8192)
        try:
            text = head.decode("utf-8")
        except UnicodeDecodeError as error:
            if error.start < len(head) - 3:  # not merely a character cut in two
                return False
            text = head[: error.start].decode("utf-8")
        return all(char.isprintable() or char in "\t\r\n\f\ufeff" for char in text)

    def _refuse_packed_sphere(self) -> None:
        """LDC packs most of its calls; FFmpeg unpacks shorten of linear samples only."""
        if self._head[:7] != b"NIST_1A":
            return
        for line in self._file.read_at(0, 1024).split(b"\n"):
            words = line.split()
            if len(words) == 3 and words[0] == b"sample_coding" and b"," in words[2]:
                coding = words[2].decode("ascii", "replace")
                if not coding.startswith("pcm,embedded-shorten"):
                    raise AudioError(
                        f"{self.name} is a SPHERE file packed as {coding}, which cannot be read",
                        SPHERE_HINT,
                    )


@dataclass
class _Early:
    """What could not be decoded before the first frame that could: the recording begins there."""

    seconds: float = 0.0
    _first: float | None = None

    def lose(self, time: float | None, seconds: float) -> None:
        self.seconds += seconds
        if self._first is None:
            self._first = time

    def begin(self, time: float | None) -> float | None:
        """The first packet's time, given that of the first frame."""
        return time if time is None or self._first is None else min(time, self._first)


@dataclass
class _Pace:
    """Bytes a second of the packets that were decoded."""

    _bytes: int = 0
    _seconds: float = 0.0

    def add(self, packet: Packet[Any]) -> None:
        if packet.duration and packet.time_base is not None:
            self._bytes += packet.size
            self._seconds += float(packet.duration * packet.time_base)

    def seconds(self, size: int) -> float:
        """How long this many bytes are; 0 before anything was decoded."""
        return size * self._seconds / self._bytes if self._bytes else 0.0


def _time_of(packet: Packet[Any]) -> float | None:
    if packet.pts is None or packet.time_base is None:
        return None
    return float(packet.pts * packet.time_base)


def _own_decoder(stream: AvAudioStream) -> AudioCodecContext | None:
    name = _DECODERS.get(stream.codec_context.codec.canonical_name)
    if name is None or name not in av.codec.codecs_available:
        return None
    decoder = cast(AudioCodecContext, AudioCodecContext.create(name, "r"))
    decoder.sample_rate = stream.codec_context.sample_rate or 8000
    decoder.layout = stream.codec_context.layout
    return decoder
