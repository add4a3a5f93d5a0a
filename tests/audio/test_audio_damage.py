"""What is no audio, cut, damaged or empty is told."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from audio_files import Sine, encode_with_ffmpeg, write_wav

from speechmeta.audio.loading import load_audio, stream_audio
from speechmeta.errors import AudioError

pytestmark = pytest.mark.slow


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the administrator reads all")
def test_a_file_without_permission_is_an_audio_error(tmp_path: Path, sine: Sine) -> None:
    path = write_wav(tmp_path / "locked.wav", sine(0.1, 8000), 8000)
    path.chmod(0)
    with pytest.raises(AudioError, match="Permission denied"):
        load_audio(path)


NOT_AUDIO = {
    "notes.txt": (b"Dear customer,\nthank you for your call.\n" * 40, "text file"),
    "renamed.wav": ("Grüße aus Köln\n".encode() * 40, "text file"),
    "data.json": (b'{"a": [1, 2, 3]}', "text file"),
    "titles.srt": (b"1\n00:00:01,000 --> 00:00:02,000\nhello\n", "text file"),
    "zeros.wav": (bytes(5000), "not audio"),
    "noise.wav": (np.random.default_rng(1).bytes(50000), "not audio"),
    "noise.mp3": (np.random.default_rng(2).bytes(50000), "not audio|cannot be decoded|no audio"),
    "short.wav": (b"RIFF", "text file|not audio"),
    "picture.png": (b"\x89PNG\r\n\x1a\n" + bytes(100), "not audio|no audio track"),
    "list.m3u8": (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\na.wav\n", "text file"),
    "list.ffconcat": (b"ffconcat version 1.0\nfile a.wav\n", "text file"),
}


@pytest.mark.parametrize("name", NOT_AUDIO)
def test_what_is_not_audio_is_named_with_a_hint(tmp_path: Path, sine: Sine, name: str) -> None:
    write_wav(tmp_path / "a.wav", sine(0.5, 8000), 8000)  # what the playlists name
    data, message = NOT_AUDIO[name]
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(AudioError, match=message) as caught:
        load_audio(path)
    assert str(path) in caught.value.message
    assert caught.value.hint


def test_a_file_without_samples_is_an_error(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "empty.wav", np.zeros((2, 0)), 8000)
    for read in (load_audio, stream_audio):
        with pytest.raises(AudioError, match="no audio samples"):
            read(path)


def test_nan_in_a_file(tmp_path: Path, sine: Sine) -> None:
    tone = sine(1, 8000)
    tone[4000] = np.nan
    header = b"RIFF" + (36 + 4 * len(tone)).to_bytes(4, "little") + b"WAVEfmt "
    fields = (16, 4), (3, 2), (1, 2), (8000, 4), (32000, 4), (4, 2), (32, 2)
    header += b"".join(value.to_bytes(size, "little") for value, size in fields)
    header += b"data" + (4 * len(tone)).to_bytes(4, "little")
    path = tmp_path / "nan.wav"
    path.write_bytes(header + tone.tobytes())
    with pytest.raises(AudioError, match="NaN"):
        load_audio(path)


CUT_FORMATS = [
    ("a.wav", []),
    ("a.wav", ["-c:a", "pcm_mulaw"]),
    ("a.wav", ["-c:a", "libgsm_ms"]),
    ("a.flac", []),
    ("a.mp3", ["-c:a", "libmp3lame"]),
    ("a.opus", ["-c:a", "libopus"]),
    ("a.webm", ["-c:a", "libopus"]),
    ("a.m4a", ["-c:a", "aac", "-movflags", "+faststart"]),
]


@pytest.mark.parametrize(("name", "options"), CUT_FORMATS)
def test_cut_files_are_read_and_told(
    tmp_path: Path, sine: Sine, name: str, options: list[str]
) -> None:
    source = write_wav(tmp_path / "source.wav", sine(6, 8000), 8000)
    whole = tmp_path / name
    encode_with_ffmpeg(source, whole, *options)
    assert load_audio(whole).warnings == ()
    cut = tmp_path / f"cut_{name}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    audio = load_audio(cut)
    assert 1.0 < audio.duration < 4.5
    assert "cut short" in audio.warnings[-1]
    stream = stream_audio(cut, block_seconds=1)
    list(stream)
    assert tuple(stream.warnings) == audio.warnings


def test_cut_before_its_index(tmp_path: Path, sine: Sine) -> None:
    source = write_wav(tmp_path / "source.wav", sine(6, 16000), 16000)
    whole = tmp_path / "a.m4a"
    encode_with_ffmpeg(source, whole, "-c:a", "aac")
    with pytest.raises(AudioError, match="not audio, or its beginning is damaged"):
        load_audio(whole.read_bytes()[:20000])


def test_damage_in_the_middle_is_told(tmp_path: Path, sine: Sine) -> None:
    source = write_wav(tmp_path / "source.wav", sine(6, 16000), 16000)
    whole = tmp_path / "a.flac"
    encode_with_ffmpeg(source, whole)
    data = bytearray(whole.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2000] = np.random.default_rng(0).bytes(2000)
    audio = load_audio(bytes(data))
    assert audio.duration > 4
    assert audio.warnings


def test_a_change_of_rate_is_never_silent(tmp_path: Path, sine: Sine) -> None:
    parts = []
    for rate, seconds in ((16000, 3), (8000, 1), (8000, 4)):
        source = write_wav(tmp_path / "source.wav", sine(seconds, rate), rate)
        part = tmp_path / f"{rate}_{seconds}.mp3"
        encode_with_ffmpeg(
            source, part, "-c:a", "libmp3lame", "-write_xing", "0", "-id3v2_version", "0"
        )
        parts.append(part.read_bytes())
    audio = load_audio(parts[0] + parts[1])
    assert audio.sample_rate == 16000
    assert audio.duration == pytest.approx(3, abs=0.2)
    assert any("in another rate" in warning for warning in audio.warnings)
    with pytest.raises(AudioError, match="changes its rate"):
        load_audio(parts[0] + parts[2])


def test_streamed_header_without_a_size_is_no_damage(tmp_path: Path, sine: Sine) -> None:
    data = bytearray(write_wav(tmp_path / "a.wav", sine(1, 8000), 8000).read_bytes())
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    audio = load_audio(bytes(data))
    assert (audio.duration, audio.warnings) == (1.0, ())
