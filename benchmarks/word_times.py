"""How far written word times are from the true ones, on synthetic voices that tell theirs.

    python benchmarks/word_times.py --model FOLDER

flite prints when each of its phones ends (`-psdur`); the phones of each word, spoken alone, are
counted off along the sentence. Sentences where they do not add up are left out, and so are those
of which the model gets a word wrong. Prints a table and ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from speechmeta.audio.types import FloatArray

VOICES = ("slt", "rms", "awb")
SENTENCES = (
    "Thank you for calling, how can I help you today?",
    "I would like to change the address on my account.",
    "Certainly, could you tell me the number of your contract?",
    "The quick brown fox jumps over the lazy dog near the river bank.",
    "Yes, one moment please, I have to look for it.",
    "Take all the time that you need, there is no hurry.",
    "We moved to another city at the end of last month.",
    "Please send the letter to my office and not to my house.",
)


@dataclass(frozen=True)
class Spoken:
    """A sentence of a synthetic voice.

    Attributes:
        waveform: (samples,) float32 at 16 kHz.
        words: with their starts and ends in seconds.
    """

    waveform: FloatArray
    words: tuple[tuple[str, float, float], ...]


def phones(text: str, voice: str, path: Path) -> list[tuple[str, float]]:
    """The phones of a text with the second in which each ends; the speech goes to `path`."""
    said = subprocess.run(
        ["flite", "-voice", voice, "-t", text, "-o", str(path), "-psdur"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    found = (item.rsplit(":", 1) for item in said.split())
    return [(name, float(end)) for name, end in found]


def speak(text: str, voice: str) -> Spoken | None:
    """A sentence and when its words are said; None where that cannot be told."""
    from speechmeta.audio.loading import load_audio

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sentence.wav"
        segments, before = [], 0.0
        for name, end in phones(text, voice, path):
            segments.append((name, before, end))
            before = end
        waveform = load_audio(path).resampled(16_000)[0]
        segments = [segment for segment in segments if segment[0] != "pau"]
        words, place = [], 0
        for word in text.split():
            alone = phones(word, voice, Path(folder) / "word.wav")
            count = sum(name != "pau" for name, _ in alone)
            if not count or place + count > len(segments):
                return None
            words.append((word, segments[place][1], segments[place + count - 1][2]))
            place += count
    if place != len(segments):
        return None
    return Spoken(np.asarray(waveform, dtype=np.float32), tuple(words))


def plain(text: str) -> str:
    """A word without case and marks."""
    return re.sub(r"[^a-z0-9]", "", text.lower())


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=None, help="a Whisper checkpoint; default: the bundled")
    parser.add_argument("--sentences", type=int, default=len(SENTENCES))
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(argv)
    if shutil.which("flite") is None:
        sys.exit("flite is not installed")

    from speechmeta import Analyzer
    from speechmeta.audio.telephone import over_the_line

    given = {} if args.model is None else {"model": args.model}
    analyzer = Analyzer(**given, device=args.device)
    spoken = [
        item
        for number, text in enumerate(SENTENCES[: args.sentences])
        if (item := speak(text, VOICES[number % len(VOICES)])) is not None
    ]
    result: dict[str, object] = {"sentences": len(spoken)}
    print(f"{'band':<10} {'words':>6} {'median start':>13} {'90 %':>7} {'median end':>11}")
    for band in ("wideband", "telephone"):
        starts, ends = [], []
        waves = [
            item.waveform if band == "wideband" else over_the_line(item.waveform, 16_000)
            for item in spoken
        ]
        records = analyzer.decode(waves, ("Transcript",), word_times=True)
        for item, record in zip(spoken, records, strict=True):
            words = getattr(record, "words", None) or []
            if [plain(word.word) for word in words] != [plain(word) for word, _, _ in item.words]:
                continue
            for word, (_, start, end) in zip(words, item.words, strict=True):
                starts.append(abs(word.start - start))
                ends.append(abs(word.end - end))
        row = {
            "words": len(starts),
            "start_median": round(float(np.median(starts)), 3),
            "start_90": round(float(np.quantile(starts, 0.9)), 3),
            "end_median": round(float(np.median(ends)), 3),
        }
        result[band] = row
        print(
            f"{band:<10} {row['words']:>6} {row['start_median']:>11.3f} s {row['start_90']:>5.3f} s"
            f" {row['end_median']:>9.3f} s"
        )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
