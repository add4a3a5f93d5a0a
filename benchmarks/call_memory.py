"""Peak memory of a long stereo call: of the call alone, or of all with the bundled checkpoint.

    python benchmarks/call_memory.py [--minutes 120] [--rate 8000] [--mono]
    python benchmarks/call_memory.py --minutes 10 --limits 60:7000 120:7000 240:14000

The call is two flite voices that take turns, written to a temporary WAV file. Without `--limits`
the decoder answers at once, so that what is measured, above what was there before, is decoding of
the file, turns, speakers and the report. With them the bundled checkpoint analyses the call, in a
process of its own for each pair: seconds of audio in one pass of the encoder, positions of the
encoder in one batch of the decoder (`speechmeta.models.whisper_meta.recognition`). Its peak is
the whole process's. Prints a table and, last, one JSON line.
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
    "Yes.",
    "I moved to another town three weeks ago, and since then two of your letters went to the old "
    "house. The people who live there now were kind enough to bring them to me, but I do not want "
    "to ask them for that again, so it would be good if you could change it in all of your books.",
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


def measured(analyzer: Analyzer, path: Path) -> dict[str, Any]:
    """One analysis: seconds of the processor and on the wall, turns, what was covered."""
    wall, cpu = time.perf_counter(), time.process_time()
    report = analyzer.analyze_call(path)
    return {
        "turns": len(report.turns),
        "words": sum(len((turn.meta.transcript or "").split()) for turn in report.turns),
        "coverage": report.coverage.model_dump(),
        "seconds": round(time.perf_counter() - wall, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
    }


def with_checkpoint(path: Path, limits: str) -> dict[str, Any]:
    """In this process: the bundled checkpoint with other limits of its batches."""
    from speechmeta.models.whisper_meta import recognition

    seconds, positions = limits.split(":")
    # Constants of the module: what suits is written there, and needs no option.
    vars(recognition).update(ENCODER_SECONDS=float(seconds), DECODER_POSITIONS=int(positions))
    analyzer = Analyzer()
    loaded = resident_mb()
    found = measured(analyzer, path)
    return {"limits": limits, **found, "mb_loaded": round(loaded), "peak_mb": round(peak_mb())}


def table(path: Path, limits: list[str]) -> list[dict[str, Any]]:
    """One row a pair of limits, each measured in a process of its own."""
    print(
        f"{'encoder s':>9} {'positions':>9} {'CPU s':>6} {'wall s':>6} {'peak MB':>8} {'words':>6}"
    )
    rows = []
    for pair in limits:
        command = [sys.executable, __file__, "--child", str(path), "--limits", pair]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        row = json.loads(done.stdout.splitlines()[-1])
        seconds, positions = pair.split(":")
        print(
            f"{seconds:>9} {positions:>9} {row['cpu_seconds']:>6.1f} {row['seconds']:>6.1f} "
            f"{row['peak_mb']:>8} {row['words']:>6}",
            flush=True,
        )
        rows.append(row)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--rate", type=int, default=8000)
    parser.add_argument("--mono", action="store_true")
    parser.add_argument("--limits", nargs="+", metavar="SECONDS:POSITIONS")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(with_checkpoint(given.child, given.limits[0])))
        return 0
    channels = 1 if given.mono else 2
    call = {"minutes": given.minutes, "rate": given.rate, "channels": channels}
    with tempfile.TemporaryDirectory() as folder:
        short, path = Path(folder) / "short.wav", Path(folder) / "call.wav"
        write_call(path, given.minutes, given.rate, channels)
        if given.limits:
            rows = table(path, given.limits)
            print(json.dumps({"benchmark": "call_memory", **call, "rows": rows}))
            return 0
        write_call(short, 0.5, given.rate, channels)
        analyzer = Analyzer.from_engine(InstantEngine())
        analyzer.analyze_call(short)  # what is loaded on the way is not the call's
        before = resident_mb()
        result = {"benchmark": "call_memory", **call, **measured(analyzer, path)}
        result["mb_before"] = round(before, 1)
        result["peak_mb_above"] = round(peak_mb() - before, 1)
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
