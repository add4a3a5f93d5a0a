"""Finding the recordings of a folder: by content, at any depth, in a stable order.

Extensions lie, so the first bytes decide. A file that only its extension calls audio is
taken too: an empty or broken `call.wav` has to end as an error record, not in silence.
"""

from __future__ import annotations

import fnmatch
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from speechmeta.audio.rawformats import NAMES, RawRules
from speechmeta.errors import UsageError
from speechmeta.writers.files import TEMPORARY_PREFIX, printable

HEAD_BYTES = 4096

_NAMES = (
    "aac ac3 aif aifc aiff amr ape au avi awb caf flac gsm m4a m4b mka mkv mov mp2 mp3 mp4 mpga "
    "oga ogg opus snd sph tta voc w64 wav wave webm wma wv 3gp 3g2 dts eac3 flv f4a m2ts mj2 mpc "
    "mpeg mpg mts ra rf64 rm shn spx ts wmv"
)
EXTENSIONS = frozenset(_NAMES.split()) | frozenset(NAMES)

_SIGNATURES = (
    b"fLaC",
    b"OggS",
    b"ID3",
    b".snd",
    b"caff",
    b"#!AMR",
    b"MAC ",
    b"wvPk",
    b"TTA1",
    b"FLV\x01",
    b"NIST_1A",
    b"Creative Voice File",
    b"\x1a\x45\xdf\xa3",  # Matroska, WebM
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",  # ASF: wma
    b"riff\x2e\x91\xcf\x11",  # Sony Wave64
)
_CHUNKED = {
    b"RIFF": (b"WAVE", b"AVI "),
    b"RIFX": (b"WAVE",),
    b"RF64": (b"WAVE",),
    b"BW64": (b"WAVE",),
    b"FORM": (b"AIFF", b"AIFC"),
}
_IMAGE_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"avif", b"avis", b"crx "})
_APPLE_DOUBLE = b"\x00\x05\x16\x07"

_MP3_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
_MP3_KBITS = {
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 1): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 1): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


@dataclass(frozen=True)
class FoundFile:
    """A file that a run will analyse.

    Attributes:
        relative: its path below the root, as the bytes that the system keeps.
        size: in bytes.
    """

    relative: bytes
    size: int


@dataclass
class Discovery:
    """What a walk saw beside the files that it yielded.

    Attributes:
        others: files that are not audio by content or by name, counted by kind (`.txt`).
        excluded: files that the globs left out.
        notes: folders that could not be read, loops of links, files of special kinds.
    """

    others: Counter[str] = field(default_factory=Counter)
    excluded: int = 0
    notes: list[str] | None = None

    @property
    def ignored(self) -> int:
        """All of `others`."""
        return self.others.total()

    def ignore(self, name: bytes) -> None:
        """Counts a file that is not a recording."""
        self.others[kind_of(name)] += 1

    def note(self, text: str) -> None:
        self.notes = [*(self.notes or []), text]


def find_audio(
    root: str | os.PathLike[str],
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    skip: Sequence[str | os.PathLike[str]] = (),
    seen: Discovery | None = None,
    strict: bool = False,
    raw: RawRules | None = None,
) -> Iterator[FoundFile]:
    """Yields the recordings below `root`, sorted by the bytes of their paths within a folder.

    Links are followed; a folder that was walked already, as in a loop, is not walked again.

    Args:
        include: globs; with any, only files that match one are taken.
        exclude: globs of files and folders to leave out. A glob without `/` is matched
            against names, one with `/` against the path below the root; `*` matches `/` too.
        skip: folders that are left out, such as the output's.
        seen: counts of what was left out.
        strict: take every file that the globs take, whatever is inside; what is not a recording
            then ends as an error.
        raw: files that a pattern of these rules calls headerless are recordings.

    Raises:
        UsageError: `root` is not a folder.
    """
    if not os.path.isdir(root):
        raise UsageError(f"{printable(root)} is not a folder", "give a folder of recordings")
    seen = seen if seen is not None else Discovery()
    base = os.fsencode(root)
    wanted, unwanted = Globs(include), Globs(exclude)
    visited = {_identity(os.fsencode(folder)) for folder in skip if os.path.isdir(folder)}
    # Folders still to walk, last first: a stack keeps the order and bounds the depth.
    stack = [b""]
    while stack:
        folder = stack.pop()
        path = os.path.join(base, folder) if folder else base
        try:
            identity = _identity(path)
            entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        except OSError as error:
            seen.note(f"{printable(path)}: {os.strerror(error.errno or 0)}")
            continue
        if identity in visited:
            # The output folder and a second way to the same folder end here.
            continue
        visited.add(identity)
        below = []
        for entry in entries:
            relative = os.path.join(folder, entry.name) if folder else entry.name
            if unwanted.match(relative):
                seen.excluded += 1
            elif os.path.isdir(entry.path):
                below.append(relative)
            else:
                found = _candidate(base, relative, wanted, seen, strict, raw or RawRules())
                if found is not None:
                    yield found
        stack.extend(reversed(below))


def _candidate(
    base: bytes, relative: bytes, wanted: Globs, seen: Discovery, strict: bool, raw: RawRules
) -> FoundFile | None:
    if not is_considered(relative, wanted, seen):
        return None
    name = os.path.basename(relative)
    path = os.path.join(base, relative)
    named_audio = is_named_audio(relative, raw)
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            # Opening a pipe would wait for ever.
            seen.note(f"{printable(path)}: not a regular file")
            return None
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        # A link to nowhere or a file that may not be read: its record will say so.
        if named_audio or strict:
            return FoundFile(relative, 0)
        seen.ignore(name)
        return None
    audio = named_audio and not head.startswith(_APPLE_DOUBLE)
    if not (audio or is_recording(head)) and not strict:
        seen.ignore(name)
        return None
    return FoundFile(relative, status.st_size)


def _identity(path: bytes) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def is_considered(relative: bytes, wanted: Globs, seen: Discovery) -> bool:
    """Whether a file is looked at: it is none that a writer left, and is asked for; what is not is
    counted."""
    if os.path.basename(relative).startswith(os.fsencode(TEMPORARY_PREFIX)):
        return False
    if wanted and not wanted.match(relative):
        seen.excluded += 1
        return False
    return True


def is_named_audio(relative: bytes, raw: RawRules) -> bool:
    """Whether a file's ending, or a rule, says that it is a recording."""
    ending = os.path.splitext(relative)[1][1:].lower().decode("ascii", "replace")
    return ending in EXTENSIONS or raw.names(os.fsdecode(relative))


def is_recording(head: bytes) -> bool:
    """Whether a file's first bytes say that it is a recording, whatever it is called."""
    return not head.startswith(_APPLE_DOUBLE) and looks_like_audio(head)


def looks_like_audio(head: bytes) -> bool:
    """Whether the first bytes of a file (up to `HEAD_BYTES`) are those of an audio container."""
    if head.startswith(_SIGNATURES):
        return True
    if head[8:12] in _CHUNKED.get(head[:4], ()):
        return True
    if head[4:8] == b"ftyp":
        return head[8:12] not in _IMAGE_BRANDS
    return _is_mpeg_audio(head) or _is_adts(head) or _is_mpeg_stream(head)


def _is_mpeg_stream(head: bytes) -> bool:
    """Program streams, and transport streams: packets of 188 or 192 bytes with a sync byte."""
    if head.startswith(b"\x00\x00\x01\xba"):
        return True
    for size, first in ((188, 0), (192, 4)):
        places = range(first, min(len(head), first + 8 * size), size)
        if len(places) > 3 and all(head[place] == 0x47 for place in places):
            return True
    return False


def kind_of(name: bytes) -> str:
    """What files are counted by: the ending of the name in small letters, `.txt`."""
    ending = os.path.splitext(os.path.basename(name))[1].lower()
    return printable(ending) if ending else "no ending"


def _is_mpeg_audio(head: bytes) -> bool:
    # A sync word alone is in many files; the next frame has to begin where this one ends.
    length = _mpeg_frame(head)
    if length is None:
        return False
    return length + 4 > len(head) or _mpeg_frame(head[length:]) is not None


def _mpeg_frame(head: bytes) -> int | None:
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    kbits, rate, padding = head[2] >> 4, head[2] >> 2 & 3, head[2] >> 1 & 1
    # Layer I is extinct, and FF FE is how UTF-16 text begins.
    if version == 1 or layer in (0, 3) or kbits in (0, 15) or rate == 3:
        return None
    bits = _MP3_KBITS[version == 3, layer][kbits - 1] * 1000
    hertz = _MP3_RATES[version][rate]
    samples = 1152 if layer == 2 or version == 3 else 576
    return samples // 8 * bits // hertz + padding


def _is_adts(head: bytes) -> bool:
    if len(head) < 7 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0:
        return False
    length = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    following = head[length : length + 2]
    return length > 7 and (len(following) < 2 or following[0] == 0xFF)


class Globs:
    """Glob patterns over paths that need not be UTF-8, see `find_audio`."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._names = [_compiled(text) for text in patterns if "/" not in text.rstrip("/")]
        self._paths = [_compiled(text) for text in patterns if "/" in text.rstrip("/")]

    def __bool__(self) -> bool:
        return bool(self._names or self._paths)

    def match(self, relative: bytes) -> bool:
        """Whether one of them takes this path below the root."""
        path = os.fsdecode(relative).replace(os.sep, "/")
        name = path.rsplit("/", 1)[-1]
        return any(glob.match(name) for glob in self._names) or any(
            glob.match(path) for glob in self._paths
        )


def _compiled(pattern: str) -> re.Pattern[str]:
    if not pattern.strip("/"):
        raise UsageError(f"{pattern!r} is not a glob", "give one such as '*.wav' or 'old/*'")
    return re.compile(fnmatch.translate(pattern.strip("/")))
