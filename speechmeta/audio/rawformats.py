"""Headerless recordings: what they hold by their name, by what the caller says, by content.

    RawRules.parse("codec=mulaw,rate=8000,channels=2")          # every file
    RawRules.parse("*.rec: codec=alaw; *.pcm: codec=s16le")     # by name

Telephone systems write samples without a header and say by the name what they are. Where a
name stands for several codecs, or for one or two channels, the content decides: speech is
smooth only when it is decoded as what it is.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from speechmeta.audio.types import FloatArray
from speechmeta.errors import UsageError

TELEPHONE_RATE = 8000
"""Hz at which headerless telephony is sampled unless its name or the caller says otherwise."""

MOST_CHANNELS = 64


@dataclass(frozen=True)
class RawCodec:
    """A codec that needs no header.

    Attributes:
        decoder: FFmpeg's name of the decoder. code_size: bits of a sample, for G.726 only.
        unit: bytes that are decoded at once, or of one sample. samples: in a unit, per channel.
        interleaves: whether several channels may alternate unit by unit.
        sample_rate: Hz, where the codec has only one.
    """

    decoder: str
    unit: int
    samples: int = 1
    interleaves: bool = False
    code_size: int = 0
    sample_rate: int | None = None


def _pcm(width: int) -> Callable[[str], RawCodec]:
    return lambda name: RawCodec(f"pcm_{name}", width, interleaves=True)


CODECS: dict[str, RawCodec] = {
    "mulaw": RawCodec("pcm_mulaw", 1, interleaves=True),
    "alaw": RawCodec("pcm_alaw", 1, interleaves=True),
    **{name: _pcm(1)(name) for name in ("u8", "s8")},
    **{name: _pcm(2)(name) for name in ("s16le", "s16be")},
    **{name: _pcm(3)(name) for name in ("s24le", "s24be")},
    **{name: _pcm(4)(name) for name in ("s32le", "s32be", "f32le", "f32be")},
    "vox": RawCodec("adpcm_ima_oki", 1, 2),
    "g722": RawCodec("g722", 1, 2, sample_rate=16000),
    "g726": RawCodec("g726", 1, 2, code_size=4),
    "g726le": RawCodec("g726le", 1, 2, code_size=4),
    **{
        f"g726{order}-{bits * 8}": RawCodec(f"g726{order}", bits, 8, code_size=bits)
        for order in ("", "le")
        for bits in (2, 3, 4, 5)
    },
    "gsm": RawCodec("gsm", 33, 160, sample_rate=8000),
    "g729": RawCodec("g729", 10, 80, sample_rate=8000),
}

ALIASES = {
    "ulaw": "mulaw",
    "pcmu": "mulaw",
    "pcma": "alaw",
    "g711u": "mulaw",
    "g711a": "alaw",
    "s16": "s16le",
    "slin": "s16le",
    "pcm": "s16le",
    "dialogic": "vox",
    "oki": "vox",
    "adpcm_ima_oki": "vox",
}


@dataclass(frozen=True)
class RawFormat:
    """How headerless bytes are to be read.

    Attributes:
        codec: a key of `CODECS`. rate: Hz. channels: interleaved.
    """

    codec: str
    rate: int = TELEPHONE_RATE
    channels: int = 1

    @classmethod
    def parse(cls, text: str) -> RawFormat:
        """From `codec=mulaw,rate=8000,channels=2`; rate and channels may be left out.

        Raises:
            UsageError: a key, codec or number that is not understood.
        """
        given: dict[str, str] = {}
        for item in text.split(","):
            key, equals, value = (part.strip() for part in item.partition("="))
            if not equals or key not in ("codec", "rate", "channels") or key in given:
                raise _misread(text)
            given[key] = value
        codec = ALIASES.get(given.get("codec", "").lower(), given.get("codec", "").lower())
        if codec not in CODECS:
            raise _misread(text)
        kind = CODECS[codec]
        rate = kind.sample_rate or TELEPHONE_RATE
        if "rate" in given:
            rate = _number(given["rate"], text)
            if kind.sample_rate not in (None, rate):
                raise UsageError(
                    f"raw audio {text!r}: {codec} is always {kind.sample_rate} Hz", "leave out rate"
                )
        channels = _number(given.get("channels", "1"), text)
        if channels > 1 and not kind.interleaves:
            raise UsageError(
                f"raw audio {text!r}: {codec} holds one channel a file", "leave out channels"
            )
        if channels > MOST_CHANNELS:
            raise _misread(text)
        return cls(codec, rate, channels)


def _number(value: str, text: str) -> int:
    if not value.isascii() or not value.isdigit() or not 0 < int(value) < 10**7:
        raise _misread(text)
    return int(value)


def _misread(text: str) -> UsageError:
    return UsageError(
        f"raw audio {text!r} is not understood",
        "write codec=mulaw,rate=8000,channels=2 with one of the codecs " + ", ".join(CODECS),
    )


@dataclass(frozen=True)
class RawRules:
    """Which files are headerless: pairs of a pattern of names and a format; the first counts."""

    rules: tuple[tuple[str, RawFormat], ...] = ()

    @classmethod
    def parse(cls, text: str | None) -> RawRules:
        """From rules separated by `;`, each with a pattern and a colon before it, or for all.

        Raises:
            UsageError: see `RawFormat.parse`.
        """
        rules = []
        for rule in (text or "").split(";"):
            if rule.strip():
                pattern, colon, form = rule.rpartition(":")
                rules.append((pattern.strip() if colon else "*", RawFormat.parse(form.strip())))
        return cls(tuple(rules))

    def names(self, name: str) -> bool:
        """Whether a rule with a pattern of its own, not one for every file, is meant for it."""
        own = RawRules(tuple(rule for rule in self.rules if rule[0] != "*"))
        return own.format_for(name) is not None

    def format_for(self, name: str) -> RawFormat | None:
        """The format of a file by its path or name; None where no rule is meant for it."""
        base = os.path.basename(name)
        for pattern, form in self.rules:
            if fnmatch.fnmatchcase(base, pattern) or fnmatch.fnmatchcase(name, pattern):
                return form
        return None


_SLN_RATES = {"": 8000, "12": 12000, "16": 16000, "24": 24000, "32": 32000, "44": 44100,
              "48": 48000, "96": 96000, "192": 192000}  # fmt: skip

NAMES: dict[str, tuple[RawFormat, ...]] = {
    **{ending: (RawFormat("mulaw"),) for ending in ("ul", "ulaw", "pcmu", "mulaw", "mu", "ulw")},
    **{ending: (RawFormat("alaw"),) for ending in ("al", "alaw", "pcma", "alw")},
    **{f"sln{name}": (RawFormat("s16le", rate),) for name, rate in _SLN_RATES.items()},
    # Asterisk calls mu-law .pcm and 16 bits .raw; others mean the opposite.
    **{
        ending: (RawFormat("s16le"), RawFormat("mulaw"), RawFormat("alaw"))
        for ending in ("pcm", "raw")
    },
    "vox": (RawFormat("vox"),),
    "g722": (RawFormat("g722", 16000),),
    "g726": (RawFormat("g726le"), RawFormat("g726")),
    **{
        f"g726-{rate}": (RawFormat(f"g726le-{rate}"), RawFormat(f"g726-{rate}"))
        for rate in (16, 24, 32, 40)
    },
    "gsm": (RawFormat("gsm"),),
    "g729": (RawFormat("g729"),),
}
"""Formats by the ending of a name; where there are several, the content decides."""

ASSUMED = ("pcm", "raw", "vox", "g726")
"""Endings that leave open what is inside: a report says what was assumed."""

_MAGIC = (
    b"RIFF", b"RIFX", b"RF64", b"BW64", b"OggS", b"fLaC", b"ID3", b".snd", b"NIST_1A", b"#!AMR",
    b"FORM", b"caff", b"\x1aE\xdf\xa3", b"riff\x2e\x91\xcf\x11", b"MThd", b"wvpk", b"#!SILK",
)  # fmt: skip


def is_raw_name(name: str) -> bool:
    """Whether the ending of a name stands for headerless telephony."""
    return ending_of(name) in NAMES


def ending_of(name: str) -> str:
    """The ending without its dot, in small letters."""
    return os.path.splitext(name)[1][1:].lower()


def has_header(head: bytes) -> bool:
    """Whether a file that begins with these bytes tells itself what it is."""
    return head.startswith(_MAGIC) or head[4:8] == b"ftyp"


def choose(
    candidates: tuple[RawFormat, ...], decode: Callable[[RawFormat], FloatArray]
) -> tuple[RawFormat, str | None]:
    """The candidate that decodes to the smoothest sound, in as many channels as alternate.

    Args:
        candidates: the first is the usual one.
        decode: gives samples (n,) of the recording in a format with one channel.

    Returns:
        the format, and what a report has to say of the number of channels.
    """
    decoded = [(form, decode(form)) for form in candidates]
    rough = [min(roughness(wave), _rough_pairs(wave)) for _, wave in decoded]
    best = int(np.argmin(rough))
    if rough[0] <= 1.2 * rough[best]:
        best = 0
    form, wave = decoded[best]
    if CODECS[form.codec].interleaves and alternates(wave):
        return replace(form, channels=2), (
            "its samples alternate between two channels; if there is only one, say "
            f"--raw codec={form.codec},rate={form.rate},channels=1"
        )
    return form, None


def roughness(wave: npt.NDArray[np.floating]) -> float:
    """Energy of the differences between neighbours over that of the samples (white noise: 2)."""
    centred = wave.astype(np.float64) - wave.mean(dtype=np.float64) if wave.size else wave
    energy = float(centred @ centred)
    steps = np.diff(centred)
    return float(steps @ steps) / energy if energy > 0 else 2.0


def _rough_pairs(wave: npt.NDArray[np.floating]) -> float:
    return max(roughness(wave[0::2]), roughness(wave[1::2]))


_ALTERNATE_WINDOW = 400
_ALTERNATE_DB = 10.0
_ALTERNATE_SHARE = 0.3
_EQUAL_PAIRS = 0.9


def alternates(wave: npt.NDArray[np.floating]) -> bool:
    """Whether samples (n,) belong to two channels in turn.

    In one channel of sound every other sample has the same level as those between. In a call
    on two channels one side is mostly silent, so their levels differ; and where both sides
    carry the same, each sample comes twice.
    """
    count = wave.size // (2 * _ALTERNATE_WINDOW)
    if count < 2:
        return False
    pairs = wave[: count * 2 * _ALTERNATE_WINDOW].reshape(-1, 2).astype(np.float64)
    moving = np.abs(np.diff(wave.astype(np.float64))) > 0
    if moving.any() and (pairs[:, 0] == pairs[:, 1]).mean() > _EQUAL_PAIRS:
        steps = np.abs(np.diff(pairs[:, 0])) > 0
        return bool(steps.mean() > 1 - _EQUAL_PAIRS)
    blocks = pairs.reshape(count, _ALTERNATE_WINDOW, 2)
    power = blocks.var(axis=1)
    loud = power.max(axis=1) > 1e-3 * float(power.max())
    if not loud.any() or power.max() <= 0:
        return False
    ratio = 10 * np.abs(np.log10((power[loud, 0] + 1e-12) / (power[loud, 1] + 1e-12)))
    return bool((ratio > _ALTERNATE_DB).mean() > _ALTERNATE_SHARE)
