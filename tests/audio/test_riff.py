"""WAV files whose headers state too little, too much, or in the other byte order."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from audio_files import Sine, encode_with_ffmpeg, write_wav

from speechmeta.audio.loading import load_audio, probe_audio

RATE = 8000


def chunk(tag: bytes, data: bytes, order: str = "<", stated: int | None = None) -> bytes:
    size = len(data) if stated is None else stated
    return tag + struct.pack(order + "I", size) + data + b"\0" * (len(data) & 1)


def riff(*chunks: bytes, order: str = "<", stated: int | None = None) -> bytes:
    body = b"WAVE" + b"".join(chunks)
    size = len(body) if stated is None else stated
    return (b"RIFF" if order == "<" else b"RIFX") + struct.pack(order + "I", size) + body


def form(kind: int, bits: int, channels: int = 1, order: str = "<", rate: int = RATE) -> bytes:
    align = channels * bits // 8
    fields = struct.pack(order + "HHIIHH", kind, channels, rate, rate * align, align, bits)
    return chunk(b"fmt ", fields, order)


def pcm(sine: Sine, seconds: float, hz: float = 440) -> bytes:
    return bytes((sine(seconds, RATE, hz) * 32767).astype("<i2").tobytes())


FORM = form(1, 16)


def test_two_data_chunks_are_read_one_after_the_other(sine: Sine) -> None:
    first, second = pcm(sine, 1), pcm(sine, 0.5, 900)
    data = riff(FORM, chunk(b"data", first), chunk(b"LIST", b"INFO"), chunk(b"data", second))
    audio = load_audio(data)
    expected = np.frombuffer(first + second, "<i2") / 32768
    np.testing.assert_allclose(audio.waveform[0], expected, atol=1e-6)
    assert len(audio.warnings) == 1
    assert "2 parts" in audio.warnings[0]
    assert probe_audio(data).duration == 1.5


def test_joined_files_are_read_one_after_the_other(sine: Sine) -> None:
    one = riff(FORM, chunk(b"data", pcm(sine, 1)))
    other = riff(FORM, chunk(b"data", pcm(sine, 0.25, 900)))
    audio = load_audio(one + other + one)
    assert audio.duration == 2.25
    assert "3 recordings joined" in audio.warnings[0]
    expected = np.frombuffer(pcm(sine, 1) + pcm(sine, 0.25, 900) + pcm(sine, 1), "<i2") / 32768
    np.testing.assert_allclose(audio.waveform[0], expected, atol=1e-6)


def test_a_joined_file_of_another_format_is_told(sine: Sine) -> None:
    other = riff(form(1, 16, rate=16000), chunk(b"data", pcm(sine, 1)))
    audio = load_audio(riff(FORM, chunk(b"data", pcm(sine, 1))) + other)
    assert audio.duration == 1.0
    assert "another format" in audio.warnings[0]


@pytest.mark.parametrize("tail", [b"", chunk(b"LIST", b"INFOISFT")])
def test_appended_sound_is_read(sine: Sine, tail: bytes) -> None:
    data = riff(FORM, chunk(b"data", pcm(sine, 1)), tail) + pcm(sine, 0.75)
    audio = load_audio(data)
    assert audio.duration == 1.75
    assert "0.75 s of sound more" in audio.warnings[0]


@pytest.mark.parametrize("tail", [b"\0" * 3000, b"TAG" + b"title".ljust(125), b"\1\2\3"])
def test_padding_and_tags_are_no_sound(sine: Sine, tail: bytes) -> None:
    audio = load_audio(riff(FORM, chunk(b"data", pcm(sine, 1))) + tail)
    assert (audio.duration, audio.warnings) == (1.0, ())


def test_a_header_that_was_never_completed(sine: Sine) -> None:
    data = riff(FORM, chunk(b"data", pcm(sine, 2), stated=0), stated=0)
    audio = load_audio(data)
    assert audio.duration == 2.0
    assert "never completed" in audio.warnings[0]
    assert len(audio.warnings) == 1


@pytest.mark.parametrize(
    ("whole", "sound"),
    [(0xFFFFFFFF, 0xFFFFFFFF), (0x7FFFFFFF, 0x7FFFFFDB), (0x7FFFF024, 0x7FFFF000)],
)
def test_lengths_that_programs_write_into_pipes_are_no_alarm(
    sine: Sine, whole: int, sound: int
) -> None:
    audio = load_audio(riff(FORM, chunk(b"data", pcm(sine, 2), stated=sound), stated=whole))
    assert (audio.duration, audio.warnings) == (2.0, ())


def test_odd_gsm_data_is_no_alarm(tmp_path: Path, sine: Sine) -> None:
    source = write_wav(tmp_path / "source.wav", sine(2, RATE), RATE)
    encode_with_ffmpeg(source, tmp_path / "a.wav", "-c:a", "libgsm_ms")
    data = (tmp_path / "a.wav").read_bytes()
    at = data.index(b"data")
    blocks = data[at + 8 :][: (len(data) - at - 8) // 65 * 65]
    fmt = data.index(b"fmt ")
    size = struct.unpack("<I", data[fmt + 4 : fmt + 8])[0]
    odd = riff(data[fmt : fmt + 8 + size], chunk(b"data", blocks + b"\0", stated=len(blocks) + 1))
    audio = load_audio(odd)
    assert audio.warnings == ()
    assert audio.duration == len(blocks) / 65 * 320 / RATE


@pytest.mark.parametrize(
    ("kind", "bits", "dtype"),
    [(1, 16, ">i2"), (1, 32, ">i4"), (3, 32, ">f4"), (3, 64, ">f8"), (1, 24, ""), (1, 8, "u1")],
)
def test_big_endian_wav(sine: Sine, kind: int, bits: int, dtype: str) -> None:
    stereo = np.stack([sine(1, RATE), sine(1, RATE, 900)]).T
    if bits == 24:
        whole = np.round(stereo * (2**23 - 1)).astype(">i4").tobytes()
        data = np.frombuffer(whole, np.uint8).reshape(-1, 4)[:, 1:].tobytes()
    elif bits == 8:
        data = np.round(stereo * 127 + 128).astype(np.uint8).tobytes()
    else:
        data = (stereo if kind == 3 else stereo * (2 ** (bits - 1) - 1)).astype(dtype).tobytes()
    audio = load_audio(riff(form(kind, bits, 2, ">"), chunk(b"data", data, ">"), order=">"))
    assert (audio.sample_rate, audio.channels, audio.warnings) == (RATE, 2, ())
    np.testing.assert_allclose(audio.waveform, stereo.T, atol=0.01 if bits == 8 else 1e-4)
