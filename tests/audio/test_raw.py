"""Headerless telephony by its name, by what the caller says, and by content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from audio_files import encode_with_ffmpeg, write_wav
from voices import make_call, speak

from speechmeta.audio.loading import load_audio, probe_audio, stream_audio
from speechmeta.audio.rawformats import RawFormat, RawRules, is_raw_name
from speechmeta.errors import AudioError, UsageError

RATE = 8000
SENTENCE = "I would like to change the address on my account."


def voice() -> np.ndarray:
    return speak(SENTENCE, "rms", RATE)


def linear(wave: np.ndarray) -> bytes:
    return bytes((wave * 32767).astype("<i2").tobytes())


def encode(codec: str, wave: np.ndarray, rate: int = RATE) -> bytes:
    context: Any = av.AudioCodecContext.create(codec, "w")
    context.sample_rate, context.layout, context.format = rate, "mono", "s16"
    frame = av.AudioFrame.from_ndarray(
        (wave * 32767).astype(np.int16)[None], format="s16", layout="mono"
    )
    frame.sample_rate = rate
    return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])


def likeness(found: np.ndarray, wave: np.ndarray) -> float:
    count = min(found.size, wave.size)
    return float(np.corrcoef(found[:count], wave[:count])[0, 1])


@pytest.mark.parametrize("ending", ["ul", "ulaw", "pcmu", "ULAW", "pcm", "raw"])
def test_mulaw_by_name(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"call.{ending}"
    path.write_bytes(encode("pcm_mulaw", voice()))
    audio = load_audio(path)
    assert (audio.codec, audio.sample_rate, audio.channels) == ("pcm_mulaw", RATE, 1)
    np.testing.assert_allclose(audio.waveform[0], voice(), atol=0.03)
    assert bool(audio.warnings) == (ending in ("pcm", "raw")), "only what is assumed is told"


@pytest.mark.parametrize("ending", ["al", "alaw", "pcma", "pcm"])
def test_alaw_by_name(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"call.{ending}"
    path.write_bytes(encode("pcm_alaw", voice()))
    np.testing.assert_allclose(load_audio(path).waveform[0], voice(), atol=0.03)


@pytest.mark.parametrize(
    ("ending", "rate"),
    [("sln", 8000), ("sln12", 12000), ("sln16", 16000), ("sln24", 24000), ("sln32", 32000),
     ("sln44", 44100), ("sln48", 48000), ("raw", 8000), ("pcm", 8000)],
)  # fmt: skip
def test_signed_linear_by_name(tmp_path: Path, ending: str, rate: int) -> None:
    path = tmp_path / f"call.{ending}"
    path.write_bytes(linear(voice()))
    audio = load_audio(path)
    assert (audio.sample_rate, audio.channels) == (rate, 1)
    np.testing.assert_allclose(audio.waveform[0], voice(), atol=1e-4)
    assert probe_audio(path).duration == audio.duration == voice().size / rate


def oki_adpcm(wave: np.ndarray) -> bytes:
    """Dialogic's ADPCM by the equations of its application note (high nibble first)."""
    steps = [int(16 * 1.1**number) for number in range(49)]
    shift = [-1, -1, -1, -1, 2, 4, 6, 8]
    last, index = 0, 0
    codes = []
    for sample in np.round(wave * 2047).astype(int):
        step, difference = steps[index], int(sample) - last
        code = 8 if difference < 0 else 0
        rest = abs(difference)
        for bit, part in ((4, step), (2, step // 2), (1, step // 4)):
            if rest >= part:
                code |= bit
                rest -= part
        change = step // 8 + sum(
            part for bit, part in ((4, step), (2, step // 2), (1, step // 4)) if code & bit
        )
        last = int(np.clip(last - change if code & 8 else last + change, -2048, 2047))
        index = int(np.clip(index + shift[code & 7], 0, 48))
        codes.append(code)
    codes += [0] * (len(codes) % 2)
    return bytes(high << 4 | low for high, low in zip(codes[::2], codes[1::2], strict=True))


def test_dialogic_adpcm_is_read_at_either_rate(tmp_path: Path) -> None:
    path = tmp_path / "call.vox"
    path.write_bytes(oki_adpcm(voice()))
    audio = load_audio(path)
    assert (audio.sample_rate, audio.codec) == (8000, "adpcm_ima_oki")
    assert likeness(audio.waveform[0], voice()) > 0.98
    assert "read as vox at 8000 Hz" in audio.warnings[0]
    slow = load_audio(path, raw="codec=vox,rate=6000")
    assert (slow.sample_rate, slow.warnings) == (6000, ())
    np.testing.assert_array_equal(slow.waveform, audio.waveform)


@pytest.mark.parametrize("codec", ["g726", "g726le"])
def test_g726_of_either_bit_order(tmp_path: Path, codec: str) -> None:
    source = write_wav(tmp_path / "source.wav", voice(), RATE)
    path = tmp_path / "call.g726"
    encode_with_ffmpeg(source, path, "-c:a", codec, "-b:a", "32k", "-f", codec)
    audio = load_audio(path)
    assert likeness(audio.waveform[0], voice()) > 0.95
    assert f"read as {codec} " in audio.warnings[0]


@pytest.mark.parametrize(
    ("ending", "options", "rate"),
    [("gsm", ["-c:a", "libgsm"], 8000), ("g722", ["-ar", "16000", "-c:a", "g722"], 16000)],
)
def test_speech_coders_by_name(tmp_path: Path, ending: str, options: list[str], rate: int) -> None:
    source = write_wav(tmp_path / "source.wav", voice(), RATE)
    path = tmp_path / f"call.{ending}"
    encode_with_ffmpeg(source, path, *options)
    audio = load_audio(path)
    assert (audio.sample_rate, audio.warnings) == (rate, ())
    assert audio.duration == pytest.approx(voice().size / RATE, abs=0.05)


@pytest.mark.parametrize(("ending", "codec"), [("ul", "pcm_mulaw"), ("al", "pcm_alaw")])
def test_two_channel_g711_is_two_channels(tmp_path: Path, ending: str, codec: str) -> None:
    call = make_call(rate=RATE).waveform
    path = tmp_path / f"call.{ending}"
    path.write_bytes(encode(codec, call.T.reshape(-1)))
    audio = load_audio(path)
    assert audio.channels == 2
    np.testing.assert_allclose(audio.waveform, call, atol=0.03)
    assert "two channels" in audio.warnings[0]
    stated = load_audio(path, raw=f"codec={codec[4:]},rate=8000,channels=2")
    np.testing.assert_array_equal(stated.waveform, audio.waveform)
    assert stated.warnings == ()


def test_one_channel_is_never_taken_for_two(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tone = 0.3 * np.sin(np.arange(4 * RATE) * 2 * np.pi * 1000 / RATE)
    for number, wave in enumerate((voice(), tone, 0.1 * rng.standard_normal(4 * RATE), 0 * tone)):
        path = tmp_path / f"{number}.sln"
        path.write_bytes(linear(wave))
        assert load_audio(path).channels == 1


def test_the_same_voice_on_both_channels_is_two_channels(tmp_path: Path) -> None:
    path = tmp_path / "twice.sln"
    path.write_bytes(linear(np.repeat(voice(), 2)))
    assert load_audio(path).channels == 2


def test_raw_by_what_the_caller_says(tmp_path: Path) -> None:
    path = tmp_path / "call.rec"
    path.write_bytes(encode("pcm_alaw", np.stack([voice(), -voice()]).T.reshape(-1)))
    with pytest.raises(AudioError):
        load_audio(path)
    raw = "*.bin: codec=mulaw; *.rec: codec=alaw,rate=8000,channels=2"
    audio = load_audio(path, raw=raw)
    np.testing.assert_allclose(audio.waveform, [voice(), -voice()], atol=0.03)
    blocks = list(stream_audio(path, 0.5, 16000, raw))
    assert sum(block.shape[1] for block in blocks) == 2 * voice().size
    assert probe_audio(path, raw).channels == 2
    wav = write_wav(tmp_path / "a.wav", voice(), RATE)
    assert load_audio(wav, raw=raw).codec == "pcm_s16le", "no rule is meant for it"


def test_a_header_counts_more_than_a_raw_name(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "call.raw", voice(), RATE)
    assert load_audio(path).warnings == ()
    np.testing.assert_allclose(load_audio(path).waveform[0], voice(), atol=1e-4)


def test_the_first_rule_that_fits_a_name_counts() -> None:
    rules = RawRules.parse("a*.pcm:codec=ulaw;codec=s16,rate=6000")
    assert rules.format_for("/calls/a1.pcm") == RawFormat("mulaw", 8000, 1)
    assert rules.format_for("/calls/b1.pcm") == RawFormat("s16le", 6000, 1)
    assert RawRules.parse(None).format_for("a.ul") is None
    assert is_raw_name("x/Call.ULAW")
    assert not is_raw_name("x/call.wav")


@pytest.mark.parametrize(
    "text",
    ["mulaw", "codec=", "codec=mp3", "rate=8000", "codec=mulaw,rate=0", "codec=mulaw,rate=x",
     "codec=mulaw,bits=8", "codec=gsm,channels=2", "codec=g722,rate=8000",
     "codec=mulaw,channels=1000", "codec=mulaw,codec=alaw"],
)  # fmt: skip
def test_rules_that_make_no_sense(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        RawRules.parse(text)
    assert caught.value.hint


@pytest.mark.parametrize("coding", ["ulaw,embedded-shorten-v2.00", "pcm,embedded-shortpack-v0"])
def test_packed_sphere_names_the_tool(tmp_path: Path, coding: str) -> None:
    head = f"NIST_1A\n   1024\nsample_rate -i 8000\nsample_coding -s{len(coding)} {coding}\n"
    path = tmp_path / "call.sph"
    path.write_bytes((head + "end_head\n").encode().ljust(1024) + b"ajkg\x02" + bytes(500))
    with pytest.raises(AudioError, match="packed") as caught:
        load_audio(path)
    assert "sph2pipe" in (caught.value.hint or "")
