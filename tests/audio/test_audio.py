"""Audio input: every format against a known tone, arrays, streams, faults."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import wave
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
from audio_files import LEVEL, SECONDS, Sine, encode_with_av, encode_with_ffmpeg, write_wav

from speechmeta.audio.loading import Audio, load_audio, probe_audio, stream_audio
from speechmeta.errors import AudioError


def frequency_and_level(samples: npt.NDArray[np.float32], rate: int) -> tuple[float, float]:
    """Of the strongest partial in the middle half, amplitude by the RMS of a sine."""
    middle = samples[len(samples) // 4 : 3 * len(samples) // 4].astype(np.float64)
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    frequency = float(np.argmax(spectrum)) * rate / len(middle)
    return frequency, float(np.sqrt(2 * np.mean(middle**2)))


# name, codec that is reported, rate, ffmpeg options, tolerances of level and seconds
FORMATS = [
    ("pcm_u8.wav", "pcm_u8", 16000, ["-c:a", "pcm_u8"], 0.02, 0.001),
    ("pcm_s16.wav", "pcm_s16le", 44100, [], 0.01, 0.001),
    ("pcm_s24.wav", "pcm_s24le", 48000, ["-c:a", "pcm_s24le"], 0.01, 0.001),
    ("pcm_s32.wav", "pcm_s32le", 16000, ["-c:a", "pcm_s32le"], 0.01, 0.001),
    ("pcm_s64.wav", "pcm_s64le", 16000, ["-c:a", "pcm_s64le"], 0.01, 0.001),
    ("pcm_f32.wav", "pcm_f32le", 22050, ["-c:a", "pcm_f32le"], 0.01, 0.001),
    ("pcm_f64.wav", "pcm_f64le", 8000, ["-c:a", "pcm_f64le"], 0.01, 0.001),
    ("mulaw.wav", "pcm_mulaw", 8000, ["-c:a", "pcm_mulaw"], 0.03, 0.001),
    ("alaw.wav", "pcm_alaw", 8000, ["-c:a", "pcm_alaw"], 0.03, 0.001),
    ("sun.au", "pcm_mulaw", 8000, ["-c:a", "pcm_mulaw"], 0.03, 0.001),
    ("headerless.ul", "pcm_mulaw", 8000, ["-f", "mulaw"], 0.03, 0.001),
    ("headerless.al", "pcm_alaw", 8000, ["-f", "alaw"], 0.03, 0.001),
    ("gsm.gsm", "gsm", 8000, ["-c:a", "libgsm"], 0.2, 0.05),
    ("gsm_ms.wav", "gsm_ms", 8000, ["-c:a", "libgsm_ms"], 0.2, 0.05),
    ("adpcm.wav", "adpcm_ima_wav", 8000, ["-c:a", "adpcm_ima_wav"], 0.1, 0.3),
    ("g722.g722", "adpcm_g722", 16000, ["-c:a", "g722"], 0.1, 0.01),
    ("lossless.flac", "flac", 48000, [], 0.01, 0.001),
    ("opus.ogg", "opus", 48000, ["-c:a", "libopus"], 0.05, 0.05),
    ("opus.opus", "opus", 48000, ["-c:a", "libopus"], 0.05, 0.05),
    ("vorbis.ogg", "vorbis", 32000, ["-c:a", "libvorbis"], 0.05, 0.05),
    ("layer3.mp3", "mp3", 11025, ["-c:a", "libmp3lame"], 0.08, 0.1),
    ("aac.m4a", "aac", 44100, ["-c:a", "aac"], 0.05, 0.1),
    ("alac.m4a", "alac", 44100, ["-c:a", "alac"], 0.01, 0.001),
    ("opus.webm", "opus", 48000, ["-c:a", "libopus"], 0.05, 0.05),
    ("odd_rate.wav", "pcm_s16le", 44099, [], 0.01, 0.001),
    ("high_rate.wav", "pcm_s16le", 192000, [], 0.01, 0.001),
]


@pytest.mark.parametrize(
    ("name", "codec", "rate", "options", "level_error", "seconds_error"),
    FORMATS,
    ids=[row[0] for row in FORMATS],
)
def test_every_format_gives_the_samples_that_were_encoded(
    tmp_path: Path,
    sine: Sine,
    name: str,
    codec: str,
    rate: int,
    options: list[str],
    level_error: float,
    seconds_error: float,
) -> None:
    source = write_wav(tmp_path / "source.wav", sine(SECONDS, rate, level=LEVEL), rate)
    target = tmp_path / name
    if options or target.suffix != ".wav":
        encode_with_ffmpeg(source, target, *options)
    else:
        shutil.copy(source, target)
    audio = load_audio(target)
    assert audio.codec == codec
    assert audio.sample_rate == rate
    assert audio.waveform.dtype == np.float32
    assert audio.waveform.shape[0] == audio.channels == 1
    assert audio.path == str(target)
    assert audio.warnings == ()
    assert audio.duration == pytest.approx(SECONDS, abs=seconds_error)
    assert probe_audio(target).duration == pytest.approx(audio.duration, abs=0.05)
    for samples, hz in ((audio.mono(), rate), (audio.resampled(16000)[0], 16000)):
        frequency, level = frequency_and_level(samples, hz)
        assert frequency == pytest.approx(440, abs=2.5)
        assert level == pytest.approx(LEVEL, rel=level_error)


def test_amr_is_read_at_its_own_rate(tmp_path: Path, sine: Sine) -> None:
    path = tmp_path / "voice.amr"
    try:
        av.codec.Codec("libopencore_amrnb", "w")
    except ValueError:
        pytest.skip("this PyAV has no encoder for AMR")
    encode_with_av(path, "libopencore_amrnb", sine(SECONDS, 8000, level=LEVEL), 8000)
    audio = load_audio(path)
    assert (audio.codec, audio.sample_rate, audio.warnings) == ("amr_nb", 8000, ())
    assert audio.duration == pytest.approx(SECONDS, abs=0.05)
    frequency, level = frequency_and_level(audio.mono(), 8000)
    assert frequency == pytest.approx(440, abs=2.5)
    assert level == pytest.approx(LEVEL, rel=0.3), "AMR models speech, not tones"


def test_nist_sphere_files_are_read(tmp_path: Path, sine: Sine) -> None:
    path = tmp_path / "call.sph"
    facts = {"channel_count": 1, "sample_rate": 8000, "sample_n_bytes": 2}
    lines = ["NIST_1A", "   1024", *(f"{key} -i {value}" for key, value in facts.items())]
    lines += ["sample_byte_format -s2 01", "sample_coding -s3 pcm", "end_head", ""]
    header = "\n".join(lines).encode().ljust(1024)
    path.write_bytes(header + (sine(1, 8000, level=LEVEL) * 32767).astype("<i2").tobytes())
    audio = load_audio(path)
    assert (audio.sample_rate, audio.duration) == (8000, 1.0)
    assert frequency_and_level(audio.mono(), 8000)[1] == pytest.approx(LEVEL, rel=0.01)


def test_video_gives_its_audio_track(tmp_path: Path, sine: Sine) -> None:
    source = write_wav(tmp_path / "source.wav", sine(SECONDS, 48000), 48000)
    target = tmp_path / "film.mp4"
    picture = ["-f", "lavfi", "-i", "color=black:size=64x64:rate=10:duration=3"]
    encode_with_ffmpeg(source, target, *picture, "-c:v", "mpeg4", "-c:a", "aac")
    audio = load_audio(target)
    assert audio.codec == "aac"
    assert audio.duration == pytest.approx(SECONDS, abs=0.1)
    assert audio.warnings == ()


def test_video_without_audio(tmp_path: Path, sine: Sine) -> None:
    source = write_wav(tmp_path / "source.wav", sine(0.5, 8000), 8000)
    target = tmp_path / "silent_film.mp4"
    picture = ["-f", "lavfi", "-i", "color=black:size=64x64:rate=10:duration=1"]
    encode_with_ffmpeg(source, target, *picture, "-map", "1:v", "-c:v", "mpeg4")
    with pytest.raises(AudioError, match="no audio track"):
        load_audio(target)


@pytest.mark.parametrize("ending", ["mka", "mp4"])
def test_every_audio_track_is_a_channel(tmp_path: Path, sine: Sine, ending: str) -> None:
    first = write_wav(tmp_path / "first.wav", sine(1, 8000, 300), 8000)
    second = write_wav(tmp_path / "second.wav", sine(2, 16000, 1000, level=0.5), 16000)
    target = tmp_path / f"tracks.{ending}"
    options = ["-i", str(second), "-map", "0", "-map", "1", "-c:a", "alac"]
    encode_with_ffmpeg(first, target, *options)
    audio = load_audio(target)
    assert (audio.sample_rate, audio.channels, audio.warnings) == (16000, 2, ())
    assert audio.duration == pytest.approx(2, abs=0.01)
    assert frequency_and_level(audio.waveform[0, :16000], 16000)[0] == pytest.approx(300, abs=3)
    assert frequency_and_level(audio.waveform[1], 16000)[0] == pytest.approx(1000, abs=3)
    assert np.abs(audio.waveform[0, 17000:]).max() == 0.0, "the shorter track ends in silence"
    stream = stream_audio(target, block_seconds=0.3)
    np.testing.assert_array_equal(np.concatenate(list(stream), 1), audio.waveform)
    assert probe_audio(target).channels == 2


def test_channels_stay_apart(tmp_path: Path, sine: Sine) -> None:
    left, right = sine(1, 8000, 300), sine(1, 8000, 1000, level=0.5)
    audio = load_audio(write_wav(tmp_path / "stereo.wav", np.stack([left, right]), 8000))
    np.testing.assert_allclose(audio.waveform, [left, right], atol=1e-4)
    np.testing.assert_allclose(audio.mono(), (left + right) / 2, atol=1e-4)
    assert audio.resampled(16000).shape == (2, 16000)


def test_mono_of_opposite_phases_is_not_silence(sine: Sine) -> None:
    tone = sine(1, 8000)
    audio = load_audio((np.stack([tone, -tone]), 8000))
    np.testing.assert_array_equal(audio.mono(), tone)


def test_two_hundred_channels_are_kept_apart(tmp_path: Path) -> None:
    rows = np.linspace(-0.9, 0.9, 200)[:, None] * np.ones((1, 400))
    audio = load_audio(write_wav(tmp_path / "many.wav", rows, 8000))
    assert audio.channels == 200
    np.testing.assert_allclose(audio.waveform, rows, atol=1e-4)


def test_a_single_sample_is_audio(tmp_path: Path) -> None:
    audio = load_audio(write_wav(tmp_path / "one.wav", np.array([0.5]), 8000))
    assert audio.waveform.shape == (1, 1)
    assert audio.resampled(16000).shape == (1, 2)


class Pipe:
    """A stream that can only be read, like standard input."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)


def test_sources_give_the_same(tmp_path: Path, sine: Sine) -> None:
    path = write_wav(tmp_path / "a.wav", sine(1, 8000), 8000)
    data = path.read_bytes()
    expected = load_audio(path).waveform
    with open(path, "rb") as file:
        sources: list[Any] = [str(path), data, bytearray(data), file]
        again = [load_audio(source) for source in sources]
        assert file.tell() == 0, "a file object is left where it was"
    again += [load_audio(io.BytesIO(data)), load_audio(Pipe(data))]  # type: ignore[arg-type]
    for audio in again:
        np.testing.assert_array_equal(audio.waveform, expected)
        assert audio.sample_rate == 8000
    assert again[0].path == again[3].path == str(path)
    assert again[1].path is None
    assert load_audio(again[0]) is again[0]


def test_file_object_is_read_from_where_it_stands(tmp_path: Path, sine: Sine) -> None:
    data = write_wav(tmp_path / "a.wav", sine(1, 8000), 8000).read_bytes()
    file = io.BytesIO(b"12345" + data)
    file.seek(5)
    assert load_audio(file).duration == 1.0
    assert file.tell() == 5


def test_arrays_are_scaled_by_their_type() -> None:
    half = {
        np.float64: 0.5,
        np.float32: 0.5,
        np.float16: 0.5,
        np.int8: 64,
        np.int16: 16384,
        np.int32: 2**30,
        np.uint8: 192,
    }
    for kind, value in half.items():
        audio = load_audio((np.array([value, value], dtype=kind), 8000))
        np.testing.assert_array_equal(audio.waveform, [[0.5, 0.5]])
        assert audio.waveform.dtype == np.float32


def test_tensors_of_any_type_are_audio() -> None:
    import torch

    for tensor in (
        torch.tensor([0.5, -0.5]),
        torch.tensor([0.5, -0.5], dtype=torch.bfloat16),
        torch.tensor([[0.5, -0.5]], dtype=torch.float64, requires_grad=True),
        torch.tensor([16384, -16384], dtype=torch.int16),
    ):
        np.testing.assert_array_equal(load_audio((tensor, 8000)).waveform, [[0.5, -0.5]])
    np.testing.assert_array_equal(
        load_audio(torch.tensor([0.5]), sample_rate=8000).waveform, [[0.5]]
    )


def test_unscaled_floats_are_told() -> None:
    assert "reach 2e+04" in load_audio((np.array([20000.0, 1.0]), 8000)).warnings[0]


@pytest.mark.parametrize(
    ("waveform", "rate", "message"),
    [
        (np.zeros((2, 3, 4)), 8000, "shape"),
        (np.zeros(()), 8000, "shape"),
        (np.zeros((48000, 2)), 8000, "48000 channels"),
        (np.zeros(0), 8000, "no samples"),
        (np.zeros((2, 0)), 8000, "no samples"),
        (np.array([0.0, np.nan]), 8000, "NaN"),
        (np.array([0.0, np.inf]), 8000, "NaN"),
        (np.array([0.0, 1e300]), 8000, "NaN"),
        (np.array([0.0, -1e30]), 8000, "samples of 1e\\+30"),
        (np.array([1, 2], dtype=np.int64), 8000, "int64"),
        (np.array([True, False]), 8000, "bool"),
        (np.array(["a"]), 8000, "type"),
        (np.array([1j]), 8000, "complex"),
        (np.zeros(8), 0, "sample rate"),
        (np.zeros(8), -8000, "sample rate"),
        (np.zeros(8), 8000.5, "sample rate"),
        (np.zeros(8), True, "sample rate"),
        (np.zeros(8), "8000", "sample rate"),
        (np.zeros(8), None, "sample rate"),
    ],
)
def test_arrays_that_are_no_audio_are_refused_with_a_hint(
    waveform: npt.NDArray[Any], rate: Any, message: str
) -> None:
    with pytest.raises(AudioError, match=message) as caught:
        load_audio((waveform, rate))
    assert caught.value.hint


def test_what_cannot_be_a_recording_is_refused_by_name(tmp_path: Path, sine: Sine) -> None:
    good = write_wav(tmp_path / "a.wav", sine(0.1, 8000), 8000)
    sources: list[tuple[Any, str]] = [
        (tmp_path / "absent.wav", "does not exist"),
        (tmp_path, "is a folder"),
        ("ftp://example.org/a.wav", "is an address"),
        ("", "the name of the recording is empty"),
        ("a\0b.wav", "cannot be read"),
        (b"", "is empty"),
        (io.BytesIO(), "is empty"),
        (io.StringIO("text"), "opened as text"),
        (np.zeros(8), "without its sample rate"),
        ((np.zeros(8), 8000, 1), "3 items"),
        (17, "int is not an audio source"),
        (None, "NoneType is not an audio source"),
    ]
    for source, message in sources:
        for read in (load_audio, probe_audio, stream_audio):
            with pytest.raises(AudioError, match=message) as caught:
                read(source)
            assert caught.value.hint
    with pytest.raises(AudioError, match="brings its own"):
        load_audio(good, sample_rate=8000)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 44100, 44099])
@pytest.mark.parametrize("block", [0.13, 1.0, 30.0])
def test_stream_equals_load(tmp_path: Path, rate: int, block: float) -> None:
    noise = np.random.default_rng(0).uniform(-0.9, 0.9, (2, int(3.3 * rate)))
    path = write_wav(tmp_path / "noise.wav", noise, rate)
    audio = load_audio(path)
    stream = stream_audio(path, block_seconds=block, rate=16000)
    assert (stream.sample_rate, stream.channels, stream.rate) == (rate, 2, 16000)
    blocks = list(stream)
    assert all(part.shape[1] == round(block * 16000) for part in blocks[:-1])
    np.testing.assert_allclose(np.concatenate(blocks, 1), audio.resampled(16000), atol=1e-5)
    own = np.concatenate(list(stream_audio(path, block)), 1)
    np.testing.assert_array_equal(own, audio.waveform)
    from_array = np.concatenate(list(stream_audio((noise, rate), block, 16000)), 1)
    np.testing.assert_allclose(from_array, audio.resampled(16000), atol=1e-3)


def test_stream_closes_early(tmp_path: Path, sine: Sine) -> None:
    path = write_wav(tmp_path / "a.wav", sine(5, 8000), 8000)
    with open(path, "rb") as file:
        with stream_audio(file, block_seconds=1) as stream:
            next(stream)
        assert file.tell() == 0


def test_a_stream_refuses_senseless_options(tmp_path: Path, sine: Sine) -> None:
    path = write_wav(tmp_path / "a.wav", sine(1, 8000), 8000)
    with pytest.raises(AudioError, match="block_seconds"):
        stream_audio(path, block_seconds=0)
    with pytest.raises(AudioError, match="sample rate"):
        stream_audio(path, rate=-1)


MEASURE_MEMORY = """
import json, resource, sys
from speechmeta.audio.loading import stream_audio
rate = int(sys.argv[2])
next(stream_audio(sys.argv[1], 30.0, rate))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
seconds = sum(block.shape[1] for block in stream_audio(sys.argv[1], 30.0, rate)) / rate
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"seconds": seconds, "megabytes": (after - before) / 1024}))
"""


@pytest.mark.slow
def test_a_long_recording_is_read_in_bounded_memory(tmp_path: Path) -> None:
    pytest.importorskip("resource")
    path = tmp_path / "long.wav"
    minute = np.random.default_rng(0).integers(-3000, 3000, 8000 * 60, dtype="<i2").tobytes()
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        for _ in range(40):
            file.writeframes(minute)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE_MEMORY, str(path), "16000"],
        capture_output=True,
        text=True,
        check=True,
    )
    result = json.loads(done.stdout)
    assert result["seconds"] == 2400
    assert result["megabytes"] < 50, "the whole as floats would be 154 MB"


def test_audio_is_what_it_says(sine: Sine) -> None:
    audio = Audio(sine(2, 8000)[None], 8000, path="x.wav", codec="pcm_s16le")
    info = audio.info
    assert (info.path, info.duration, info.sample_rate, info.channels, info.codec) == (
        "x.wav", 2.0, 8000, 1, "pcm_s16le",
    )  # fmt: skip


def test_file_name_that_is_not_unicode(tmp_path: Path, sine: Sine) -> None:
    good = write_wav(tmp_path / "a.wav", sine(0.1, 8000), 8000)
    path = os.fsencode(tmp_path) + b"/caf\xe9.wav"
    try:
        shutil.copy(os.fsencode(good), path)
    except OSError:
        pytest.skip("this file system takes only Unicode names")
    info = load_audio(os.fsdecode(path)).info
    assert info.path is not None
    assert info.path.endswith("caf\\xe9.wav")
    info.model_dump_json()
