"""How often rare names are written right with hotwords and without, on synthetic voices.

    python benchmarks/hotwords.py --model FOLDER

Each name is said in a sentence; with hotwords all names are given in every prompt, as a user who
has a list of customers and products would. Prints a table and ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from speechmeta.audio.types import FloatArray

NAMES = (
    *("Zyntara", "Brellwick", "Korvane", "Ostrevia", "Quillmar", "Dravenport", "Melphora"),
    *("Tessarine", "Voxley", "Halbrecht", "Fenworth", "Ardolane", "Grisham", "Luminex"),
    *("Perrigold", "Stravanik", "Wexcombe", "Norquist", "Calvareth", "Jandrell", "Omnivance"),
    *("Ruthven", "Thalberg", "Yarborough"),
)
SENTENCES = (
    "I am calling from {} about the order of last week.",
    "Could you please connect me with {} in the sales office?",
    "The invoice of {} has not arrived yet.",
)
VOICES = ("slt", "rms", "awb")


def speak(text: str, voice: str) -> FloatArray:
    """A sentence of a synthetic voice, (samples,) float32 at 16 kHz."""
    from speechmeta.audio.loading import load_audio

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sentence.wav"
        subprocess.run(["flite", "-voice", voice, "-t", text, "-o", str(path)], check=True)
        return np.asarray(load_audio(path).resampled(16_000)[0], dtype=np.float32)


def right(names: Sequence[str], texts: Sequence[str]) -> list[bool]:
    """Whether each text has its name as a word of its own, in any case."""
    return [
        re.search(rf"\b{name}\b", text, re.IGNORECASE) is not None
        for name, text in zip(names, texts, strict=True)
    ]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=None, help="a Whisper checkpoint; default: the bundled")
    parser.add_argument("--names", type=int, default=len(NAMES))
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(argv)
    if shutil.which("flite") is None:
        sys.exit("flite is not installed")

    from speechmeta import Analyzer

    names = NAMES[: args.names]
    waves = [
        speak(SENTENCES[number % 3].format(name), VOICES[number // 3 % 3])
        for number, name in enumerate(names)
    ]
    given = {"device": args.device} | ({} if args.model is None else {"model": args.model})
    texts = {}
    for kind, hotwords in (("without", None), ("with", ", ".join(names))):
        analyzer = Analyzer(**given, hotwords=hotwords)
        records = analyzer.decode(waves, ("Transcript",))
        texts[kind] = [str(getattr(record, "values", {}).get("Transcript")) for record in records]
    found = {kind: right(names, own) for kind, own in texts.items()}
    for number, name in enumerate(names):
        marks = "  ".join("right" if found[kind][number] else "wrong" for kind in texts)
        print(f"{name:<12} {marks}  {texts['with'][number]}")
    result = {"names": len(names), **{kind: sum(own) for kind, own in found.items()}}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
