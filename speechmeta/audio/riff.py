"""WAV files whose headers do not tell the truth about the sound behind them.

Recorders crash before they complete a header, append to a finished file, write the sound in
several `data` chunks, or join files end to end; programs that write into a pipe state a
length that they do not know; RIFX is the same file in big-endian order. Here the chunks are
walked, and where FFmpeg would misread them it is given a plain file made of the same bytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import numpy as np

from speechmeta.audio.source import Bytes

UNKNOWN_LENGTH = 0x7FFF0000
"""From here on a stated length means "not known": 0x7FFFFFFF less the header's size is what sox
and others write into a pipe, 0xFFFFFFFF what FFmpeg does."""

SHORTEST_APPENDED_SECONDS = 0.05
"""Fewer bytes behind the last chunk are padding."""

_GSM = 0x0031
_PCM = (0x0001, 0x0003)
_EXTENSIBLE = 0xFFFE
_MOST_CHUNKS = 10_000
_SWAP = {2: "u2", 4: "u4", 8: "u8"}


@dataclass(frozen=True)
class Part:
    """A stretch of the original: `width` is that of big-endian samples to be turned, or 0."""

    offset: int
    size: int
    width: int = 0


class Splice:
    """A header and stretches of another file, read as one file."""

    def __init__(self, content: Bytes, header: bytes, parts: list[Part]) -> None:
        self._content, self._header, self._parts = content, header, parts
        self.size = len(header) + sum(part.size for part in parts)

    def read_at(self, offset: int, count: int) -> bytes:
        found = [self._header[offset : offset + count]]
        wanted = count - len(found[0])
        at = max(0, offset - len(self._header))
        for part in self._parts:
            if wanted <= 0:
                break
            if at >= part.size:
                at -= part.size
                continue
            data = self._read_part(part, at, min(wanted, part.size - at))
            found.append(data)
            wanted -= len(data)
            at = 0
        return b"".join(found)

    def _read_part(self, part: Part, at: int, count: int) -> bytes:
        if not part.width:
            return self._content.read_at(part.offset + at, count)
        first = at // part.width * part.width
        last = -(-(at + count) // part.width) * part.width
        data = self._content.read_at(part.offset + first, last - first)
        data = data[: len(data) // part.width * part.width]
        if part.width == 3:
            turned = np.frombuffer(data, np.uint8).reshape(-1, 3)[:, ::-1].tobytes()
        else:
            turned = np.frombuffer(data, _SWAP[part.width]).byteswap().tobytes()
        return turned[at - first : at - first + count]


@dataclass
class RiffFacts:
    """What the chunks of a WAV file say.

    Attributes:
        content: what FFmpeg is to read; None where the file can be read as it is.
        seconds: length of the sound by its bytes; None if the header does not give a rate.
        lengths_unknown: the header states no length, so none can fall short.
        warnings: for the report.
    """

    content: Splice | None = None
    seconds: float | None = None
    lengths_unknown: bool = False
    warnings: list[str] = field(default_factory=list)


@dataclass
class _Walk:
    form: bytes = b""
    parts: list[Part] = field(default_factory=list)
    repeated: int = 0
    joined: int = 0
    appended: int = 0
    unfinished: bool = False
    unknown: bool = False
    foreign: int = 0
    cut: bool = False


def examine(content: Bytes, name: str) -> RiffFacts | None:
    """Walks the chunks; None if the file is no WAV file or has no format or sound."""
    head = content.read_at(0, 12)
    if len(head) < 12 or head[:4] not in (b"RIFF", b"RIFX") or head[8:] != b"WAVE":
        return None
    order = ">" if head[:4] == b"RIFX" else "<"
    walk = _walk(content, order)
    if len(walk.form) < 16 or not walk.parts:
        return None
    kind, _, rate, per_second, align, bits = struct.unpack(order + "HHIIHH", walk.form[:16])
    if kind == _EXTENSIBLE and len(walk.form) >= 26:
        kind = struct.unpack(order + "H", walk.form[24:26])[0]
    if kind in _PCM and align:
        per_second = rate * align
    size = sum(part.size for part in walk.parts)
    facts = RiffFacts(lengths_unknown=walk.unknown or walk.unfinished)
    facts.seconds = size / per_second if per_second else None
    facts.warnings = _warnings(walk, name, per_second)
    # Of a file that is cut, the header has to go on saying how much there was.
    odd_end = kind == _GSM and align and size % align and not walk.cut
    if odd_end:
        last = walk.parts[-1]
        walk.parts[-1] = Part(last.offset, max(0, last.size - size % align), last.width)
    several = len(walk.parts) > 1 or walk.appended
    if several or odd_end or facts.lengths_unknown or order == ">":
        width = bits // 8 if order == ">" and kind in _PCM else 0
        parts = [Part(part.offset, part.size, width if width > 1 else 0) for part in walk.parts]
        facts.content = Splice(content, _header(walk.form, order), parts)
    return facts


def _walk(content: Bytes, order: str) -> _Walk:
    walk = _Walk()
    position = 12
    for _ in range(_MOST_CHUNKS):
        head = content.read_at(position, 8)
        left = content.size - position - 8
        if left < 0 or len(head) < 8:
            break
        tag, size = head[:4], struct.unpack(order + "I", head[4:])[0]
        if tag == b"data":
            unknown = size >= UNKNOWN_LENGTH and size > left
            if size == 0 and left > 0 and not _is_chunk(content, position + 8, order):
                unknown = walk.unfinished = True
            walk.unknown |= unknown
            walk.cut |= size > left and not unknown
            walk.repeated += bool(walk.parts)
            size = left if unknown else min(size, left)
            if size:
                walk.parts.append(Part(position + 8, size))
        elif tag == b"fmt " and not walk.form:
            walk.form = content.read_at(position + 8, min(size, 4096))
        elif tag in (b"RIFF", b"RIFX") and content.read_at(position + 8, 4) == b"WAVE":
            if walk.parts and not _same_form(content, position + 12, order, walk.form):
                walk.foreign = content.size - position
                break
            walk.joined += 1
            walk.repeated -= 1  # its data chunk is the next recording's first
            position += 12
            continue
        elif walk.parts and not _is_chunk(content, position, order):
            _append(walk, content, position, order)
            break
        position += 8 + size + (size & 1)
        if size & 1 and content.read_at(position - 1, 4) in (b"data", b"RIFF", b"LIST"):
            position -= 1  # written without the padding byte
    return walk


def _is_chunk(content: Bytes, position: int, order: str) -> bool:
    """Whether a chunk that ends within the file begins there."""
    head = content.read_at(position, 8)
    if len(head) < 8 or not all(chr(byte).isalnum() or byte in b" _" for byte in head[:4]):
        return False
    if any(byte >= 128 for byte in head[:4]):
        return False
    size = struct.unpack(order + "I", head[4:])[0]
    return head[:4] == b"data" or position + 8 + size <= content.size + 1


def _same_form(content: Bytes, position: int, order: str, form: bytes) -> bool:
    for _ in range(64):
        head = content.read_at(position, 8)
        if len(head) < 8:
            return False
        size = struct.unpack(order + "I", head[4:])[0]
        if head[:4] == b"fmt ":
            return content.read_at(position + 8, 16) == form[:16]
        position += 8 + size + (size & 1)
    return False


def _append(walk: _Walk, content: Bytes, position: int, order: str) -> None:
    """Takes what lies behind the last chunk for sound, unless it is a tag or padding."""
    rest = content.size - position
    begin = content.read_at(position, 4096)
    if begin[:3] in (b"TAG", b"ID3") or not begin.strip(b"\0"):
        return
    per_second = struct.unpack(order + "I", walk.form[8:12])[0] if len(walk.form) >= 12 else 0
    if rest < SHORTEST_APPENDED_SECONDS * per_second:
        return
    last = walk.parts[-1]
    # Odd lengths are padded to even ones; appended sound has no padding before it.
    end = last.offset + last.size
    start = end if position - end <= 1 else position
    walk.parts.append(Part(start, content.size - start))
    walk.appended = content.size - start


def _warnings(walk: _Walk, name: str, per_second: int) -> list[str]:
    def seconds(size: int) -> str:
        return f"{size / per_second:.2f} s" if per_second else f"{size} bytes"

    warnings = []
    if walk.unfinished:
        warnings.append(
            f"{name} has a header that was never completed (the recorder may have crashed); "
            "it was read to its end"
        )
    if walk.joined:
        warnings.append(
            f"{name} is {walk.joined + 1} recordings joined end to end; all were read, one after "
            "the other"
        )
    if walk.repeated > 0:
        warnings.append(
            f"{name} holds its sound in {walk.repeated + 1} parts; all were read, one after the "
            "other"
        )
    if walk.appended:
        warnings.append(
            f"{name} holds {seconds(walk.appended)} of sound more than its header states; it was "
            "read to its end"
        )
    if walk.foreign:
        warnings.append(
            f"{name} is followed by another recording in another format ({walk.foreign} bytes), "
            "which is left out; split the file to analyse it"
        )
    return warnings


def _header(form: bytes, order: str) -> bytes:
    """A little-endian header that states no length."""
    if order == ">":
        numbers = struct.unpack(">HHIIHH", form[:16])
        rest = form[16:]
        if len(rest) >= 2:
            rest = rest[1::-1] + rest[2:]
        if len(rest) >= 10 and numbers[0] == _EXTENSIBLE:
            bits, mask = struct.unpack(">HI", rest[2:8])
            first, second, third = struct.unpack(">IHH", form[24:32])
            guid = struct.pack("<IHH", first, second, third) + form[32:40]
            rest = rest[:2] + struct.pack("<HI", bits, mask) + guid
        form = struct.pack("<HHIIHH", *numbers) + rest
    chunk = b"fmt " + struct.pack("<I", len(form)) + form + b"\0" * (len(form) & 1)
    return b"RIFF\xff\xff\xff\xffWAVE" + chunk + b"data\xff\xff\xff\xff"
