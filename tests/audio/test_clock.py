"""A recording keeps its own clock where packets are missing, damaged or late."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from audio_files import Sine, encode_with_av

from speechmeta.audio.clock import Clock
from speechmeta.audio.loading import load_audio, probe_audio, stream_audio

Change = Callable[[int, "av.Packet[Any]"], "av.Packet[Any] | None"]
RATE = 8000


def mux(path: Path, codec: str, samples: np.ndarray, rate: int, change: Change) -> None:
    """Encodes mono audio and lets `change` alter or drop each packet."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=rate)
        stream.layout = "mono"
        pcm = np.round(samples * 32767).astype(np.int16)[None]
        number = 0
        kind = stream.codec_context.format.name
        data: Any = pcm if kind.startswith("s16") else (pcm / 32768).astype(np.float32)
        frames: list[Any] = []
        for start in range(0, pcm.shape[1], 960):
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(data[:, start : start + 960]), format=kind, layout="mono"
            )
            frame.sample_rate, frame.pts = rate, start
            frame.time_base = Fraction(1, rate)
            frames.append(frame)
        for part in [*frames, None]:
            for packet in stream.encode(part):
                if packet.size == 0:
                    continue
                changed = change(number, packet)
                number += 1
                if changed is not None:
                    container.mux(changed)


def moved(first: int, seconds: float) -> Change:
    """Packets from number `first` on come later."""

    def change(number: int, packet: av.Packet[Any]) -> av.Packet[Any]:
        if number >= first and packet.pts is not None and packet.dts is not None:
            assert packet.time_base is not None
            ticks = round(seconds / float(packet.time_base))
            packet.pts += ticks
            packet.dts += ticks
        return packet

    return change


def loud_seconds(wave: np.ndarray, rate: int, level: float = 0.02) -> np.ndarray:
    """Seconds, in steps of 0.1, at which something sounds."""
    hop = rate // 10
    power = np.square(wave[: wave.size // hop * hop].reshape(-1, hop)).mean(1)
    return np.flatnonzero(power > level**2) / 10


@pytest.mark.parametrize("ending", ["webm", "mka", "mp4"])
def test_a_gap_in_the_times_is_silence(tmp_path: Path, sine: Sine, ending: str) -> None:
    path = tmp_path / f"gap.{ending}"
    mux(path, "libopus", sine(4, 48000), 48000, moved(100, 7.0))
    audio = load_audio(path)
    assert audio.duration == pytest.approx(11, abs=0.05)
    loud = loud_seconds(audio.waveform[0], 48000)
    assert not ((loud > 2.05) & (loud < 8.9)).any()
    assert loud.max() > 10.5
    assert len(audio.warnings) == 1
    assert "no sound of its own for 7.0" in audio.warnings[0]
    with stream_audio(path, 1.0) as stream:
        list(stream)
        (part,) = stream.missing
    assert (part.first_channel, part.channels) == (0, 1)
    assert part.end - part.start == pytest.approx(7, abs=0.05)
    assert part.start == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize("codec", ["flac", "aac"])
def test_a_track_that_begins_late_comes_late(tmp_path: Path, sine: Sine, codec: str) -> None:
    path = tmp_path / "late.mp4"
    mux(path, codec, sine(2, 16000), 16000, moved(0, 5.0))
    audio = load_audio(path)
    assert loud_seconds(audio.waveform[0], 16000).min() == pytest.approx(5, abs=0.2)
    assert audio.duration == pytest.approx(7, abs=0.2)
    assert probe_audio(path).duration == pytest.approx(7, abs=0.3)
    assert not any("cut short" in warning for warning in audio.warnings)


def test_dropped_packets_add_up(tmp_path: Path, sine: Sine) -> None:
    path = tmp_path / "lossy.mka"
    mux(path, "libopus", sine(6, 48000), 48000, lambda n, p: None if n % 10 == 5 else p)
    audio = load_audio(path)
    assert audio.duration == pytest.approx(6, abs=0.07)
    assert "places" in audio.warnings[0]


def spoilt(path: Path, first: float, last: float) -> Path:
    """The file with a stretch of zeros, from and to a share of its bytes."""
    data = bytearray(path.read_bytes())
    start, end = round(len(data) * first), round(len(data) * last)
    data[start:end] = bytes(end - start)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("codec", ["mp3", "mp2"])
def test_damage_between_frames_that_have_no_times(tmp_path: Path, sine: Sine, codec: str) -> None:
    """The bytes that are lost say how long it was."""
    path = tmp_path / f"call.{codec}"
    wave = sine(6, 16000) * (np.arange(96000) % 16000 < 3200)
    encode_with_av(path, "libmp3lame" if codec == "mp3" else "mp2", wave, 16000)
    before = loud_seconds(load_audio(path).waveform[0], 16000)
    audio = load_audio(spoilt(path, 0.4, 0.55))
    assert audio.duration == pytest.approx(6, abs=0.1)
    after = loud_seconds(audio.waveform[0], 16000)
    assert set(after[after > 3.5]) == set(before[before > 3.5])
    assert any("no sound of its own" in warning for warning in audio.warnings)
    # A tag behind the sound, as of a joined file, is none that was lost.
    path.write_bytes(path.read_bytes() + b"ID3" + bytes(7) + b"x" * 20_000)
    assert load_audio(path).duration == pytest.approx(6, abs=0.1)


def test_damage_at_the_beginning_makes_nothing_early(tmp_path: Path, sine: Sine) -> None:
    path = tmp_path / "call.flac"
    wave = sine(4, 16000) * (np.arange(64000) % 16000 < 3200)
    encode_with_av(path, "flac", wave + 1e-3 * sine(4, 16000, 300), 16000)
    data = path.read_bytes()
    first = data.index(b"\xff\xf8", 4 + 34) / len(data)
    audio = load_audio(spoilt(path, first, first + 0.1))
    assert audio.duration == pytest.approx(4, abs=0.01)
    assert loud_seconds(audio.waveform[0], 16000)[-2:] == pytest.approx([3.0, 3.1])
    assert "from 0.00 s" in " ".join(audio.warnings)


@pytest.mark.parametrize("ending", ["ts", "asf", "mka"])
def test_a_track_beside_another_that_is_longer(tmp_path: Path, sine: Sine, ending: str) -> None:
    """Its length is its own: nothing is said to be cut short, and a late one is late."""
    path = tmp_path / f"call.{ending}"
    codec = "wmav2" if ending == "asf" else "mp2"
    with av.open(str(path), "w") as container:
        streams: list[Any] = [container.add_stream(codec, rate=16000) for _ in range(2)]
        packets = []
        for number, stream in enumerate(streams):
            stream.layout, stream.bit_rate = "mono", 64000
            size = stream.frame_size or 1024
            for index in range((4 - 2 * number) * 16000 // size):
                tone = (sine(size / 16000, 16000)[None] * 32767).astype(np.int16)
                frame = av.AudioFrame.from_ndarray(tone, format="s16", layout="mono")
                frame.sample_rate, frame.time_base = 16000, Fraction(1, 16000)
                frame.pts = index * size + number * 16000
                packets += stream.encode(frame)
        packets.sort(key=lambda packet: float(packet.pts * packet.time_base))
        for packet in packets:
            container.mux(packet)
    audio = load_audio(path)
    assert audio.channels == 2
    assert not any("cut short" in warning for warning in audio.warnings)
    assert loud_seconds(audio.waveform[1], 16000)[0] == pytest.approx(1.0, abs=0.11)
    assert probe_audio(path).duration == pytest.approx(4, abs=0.15)


def test_packets_that_cannot_be_decoded_are_silence(tmp_path: Path, sine: Sine) -> None:
    def spoil(number: int, packet: av.Packet[Any]) -> av.Packet[Any]:
        if not 10 <= number < 20:
            return packet
        broken = av.Packet(b"\xff" * 40)
        broken.pts, broken.dts, broken.duration = packet.pts, packet.dts, packet.duration
        broken.time_base, broken.stream = packet.time_base, packet.stream
        return broken

    path, whole = tmp_path / "spoilt.mka", tmp_path / "whole.mka"
    for target, change in ((path, spoil), (whole, lambda number, packet: packet)):
        mux(target, "flac", sine(10, RATE), RATE, change)
    audio, good = load_audio(path), load_audio(whole)
    assert good.warnings == ()
    assert audio.duration == pytest.approx(good.duration, abs=0.01)
    with stream_audio(path, 1.0) as stream:
        list(stream)
        lost = [(part.start, part.end) for part in stream.missing]
    assert lost
    present = np.ones(good.waveform.shape[1], np.bool_)
    for start, end in lost:
        present[max(0, int(start * RATE) - 40) : int(end * RATE) + 40] = False
    np.testing.assert_array_equal(audio.waveform[0, present], good.waveform[0, present])
    assert any("could not be decoded" in warning for warning in audio.warnings)


def amr_frames(path: Path, wave: np.ndarray) -> list[bytes]:
    try:
        av.codec.Codec("libopencore_amrnb", "w")
    except ValueError:
        pytest.skip("this PyAV has no encoder for AMR")
    encode_with_av(path, "libopencore_amrnb", wave, RATE)
    data = path.read_bytes()[6:]
    assert len(data) % 32 == 0, "frames of 12.2 kbit/s"
    return [data[start : start + 32] for start in range(0, len(data), 32)]


def test_discontinuous_transmission_of_amr_keeps_its_time(tmp_path: Path, sine: Sine) -> None:
    speech = amr_frames(tmp_path / "a.amr", sine(2, RATE))
    pause: list[bytes] = []
    for number in range(150):
        # A silence descriptor (TS 26.101, frame type 8) every 8 frames, NO_DATA between.
        pause.append(b"\x44\x00\x00\x00\x00\x10" if number % 8 == 0 else b"\x7c")
    path = tmp_path / "dtx.amr"
    path.write_bytes(b"#!AMR\n" + b"".join([*speech, *pause, *speech]))
    audio = load_audio(path)
    assert audio.duration == pytest.approx(0.02 * (2 * len(speech) + 150), abs=0.001)
    assert audio.warnings == ()
    loud = loud_seconds(audio.waveform[0], RATE, 0.1)
    assert loud.max() == pytest.approx(2 + 3 + 2, abs=0.3)
    assert not ((loud > 2.2) & (loud < 4.8)).any()
    assert probe_audio(path).duration == pytest.approx(audio.duration, abs=0.05)


def test_jitter_of_the_times_moves_no_sample(tmp_path: Path, sine: Sine) -> None:
    rng = np.random.default_rng(0)

    def jitter(number: int, packet: av.Packet[Any]) -> av.Packet[Any]:
        assert packet.pts is not None
        assert packet.time_base is not None
        packet.pts += int(rng.integers(0, 8) * 0.001 / float(packet.time_base))
        packet.dts = packet.pts
        return packet

    even, uneven = tmp_path / "even.mka", tmp_path / "uneven.mka"
    mux(even, "flac", sine(6, RATE), RATE, lambda number, packet: packet)
    mux(uneven, "flac", sine(6, RATE), RATE, jitter)
    np.testing.assert_array_equal(load_audio(uneven).waveform, load_audio(even).waveform)
    assert load_audio(uneven).warnings == ()


def test_a_leap_to_another_clock_is_told_and_costs_no_memory() -> None:
    clock = Clock(RATE, 0.0)
    assert clock.place(0.0, 800) == 0
    assert clock.place(9e6, 800) == 0
    assert clock.place(9e6 + 0.1, 800) == 0
    assert clock.place(0.0, 800) == 0
    assert clock.place(0.3, 800) == 1600
    assert (clock.position, clock.jumps) == (5 * 800 + 1600, [800, 2400])
    clock.lose(0.5)
    assert clock.place(None, 800) == 4000
    clock.lose(0.25)
    assert clock.finish() == 2000
    assert [(gap.start, gap.end) for gap in clock.gaps] == [
        (3200, 4800), (5600, 9600), (10400, 12400),
    ]  # fmt: skip
