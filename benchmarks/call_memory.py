"""Peak memory of a long stereo call above what was there before, without the model's share.

    python benchmarks/call_memory.py [--minutes 120] [--rate 8000] [--mono]

The call is two flite voices that take turns, written to a temporary WAV file; the decoder
answers at once, so that what is measured is decoding, turns, speakers and the report. The
last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from speechmeta.audio.loading import load_audio, resample
from speechmeta.decoding.record import DecodedRecord
from speechmeta.pipeline.analyzer import Analyzer
from speechmeta.schema import DEFAULT_LABEL_SETS, FIELDS, LabelSets, ModelInfo

TEXTS = (
    "Thank you for calling, how can I help you today?",
    "I would like to change the address on my account, please.",
    "Certainly, could you tell me the number of your contract?",
    "Yes, one moment please, I have to look for it, it was here yesterday.",
)


class InstantEngine:
    """Says "words" of every clip."""

    info = ModelInfo(name="none", architecture="none", device="cpu", dtype="float32")
    fields = FIELDS
    label_sets: LabelSets = DEFAULT_LABEL_SETS
    thresholds: Mapping[str, float] = MappingProxyType({})
    max_seconds = 30.0
    batch_size = 8

    def decode(
        self, waveforms: Any, fields: Any = None, instruction: Any = None, word_times: bool = False
    ) -> Any:
        table = {"Neutral": 0.6, "Happy": 0.1, "Sad": 0.1, "Anger": 0.1, "Frustrated": 0.1}
        return [
            DecodedRecord(
                {"SpeechActivity": True, "Transcript": "some words", "Emotion": "Neutral"},
                {"SpeechActivity": {"True": 1.0, "False": 0.0}, "Emotion": table},
            )
            for _ in waveforms
        ]


def write_call(path: Path, minutes: float, rate: int, channels: int) -> None:
    """A call of two voices that take turns."""
    voices = []
    for number, text in enumerate(TEXTS):
        spoken = path.with_suffix(f".{number}.wav")
        voice = ("rms", "slt")[number % 2]
        subprocess.run(["flite", "-voice", voice, "-t", text, "-o", str(spoken)], check=True)
        audio = load_audio(spoken)
        voices.append(resample(audio.mono(), audio.sample_rate, rate))
    random = np.random.default_rng(0)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        left, number = round(minutes * 60 * rate), 0
        while left > 0:
            said = voices[number % len(voices)]
            part = 30 * random.standard_normal((len(said) + rate // 2, channels))
            part[: len(said), number % channels] += 20000 * said
            part = part[:left]
            file.writeframes(part.astype("<i2").tobytes())
            left -= len(part)
            number += 1


def peak_mb() -> float:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def resident_mb() -> float:
    """Resident memory of this process now (Linux); its largest so far elsewhere."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return peak_mb()
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--rate", type=int, default=8000)
    parser.add_argument("--mono", action="store_true")
    given = parser.parse_args()
    channels = 1 if given.mono else 2
    with tempfile.TemporaryDirectory() as folder:
        short, path = Path(folder) / "short.wav", Path(folder) / "call.wav"
        write_call(short, 0.5, given.rate, channels)
        write_call(path, given.minutes, given.rate, channels)
        analyzer = Analyzer.from_engine(InstantEngine())
        analyzer.analyze_call(short)  # what is loaded on the way is not the call's
        before = resident_mb()
        start = time.perf_counter()
        report = analyzer.analyze_call(path)
        seconds = time.perf_counter() - start
    result = {
        "benchmark": "call_memory",
        "minutes": given.minutes,
        "rate": given.rate,
        "channels": channels,
        "turns": len(report.turns),
        "coverage": report.coverage.model_dump(),
        "seconds": round(seconds, 1),
        "mb_before": round(before, 1),
        "peak_mb_above": round(peak_mb() - before, 1),
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
