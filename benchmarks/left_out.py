"""Loud speech that the speech detector leaves out, found by the second look, and what it costs.

    python benchmarks/left_out.py --data ../shared/speech [--clips 20] [--minutes 10]

Clips of single sources, the emotional ones by emotion, follow each other with a second of faint
noise between them, every other group over a telephone (8 kHz). Of speech it is told how many
seconds are loud (within 20 dB of the loudest) and in no turn, without and with the second look; of
what is no speech, how many seconds become turns. Clips are those of the `train` manifest for
speech and of `dev` for the rest: its heads learnt no sound of esc50 and urbansound8k. Last, seconds
of the processor for a call of some minutes with and without it. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from speechmeta.audio.loading import load_audio, resample
from speechmeta.audio.telephone import CODECS, over_the_line
from speechmeta.pipeline.analyzer import Analyzer
from speechmeta.pipeline.options import CallOptions
from speechmeta.pipeline.plan import prepare_call
from speechmeta.segmentation.turns import TurnOptions
from speechmeta.training.manifest import read_rows

RATE = 16_000
EMOTIONAL = ("ravdess", "savee", "emodb-german")
OTHER_SPEECH = ("speechocean762", "commonvoice-6.1-other", "librispeech-train-clean-5")
LINES = [codec for codec in CODECS if codec in ("mulaw", "gsm", "amr")]
LOUD_DB = 20.0
WINDOW = 0.032


def groups(data: Path, clips: int) -> dict[tuple[str, bool], list[Path]]:
    """Audio files by name and whether they are speech."""
    found: dict[tuple[str, bool], list[Path]] = defaultdict(list)
    for manifest, wants_speech in (("train.jsonl", True), ("dev.jsonl", False)):
        for row in read_rows(data / manifest):
            source = str(row.keys["dataset"])
            if row.keys["speech"] is not wants_speech:
                continue
            if wants_speech and source in EMOTIONAL:
                name = f"{source}, {row.keys['emotion_source']}"
            elif not wants_speech or source in OTHER_SPEECH:
                name = source
            else:
                continue
            found[name, wants_speech].append(row.audio)
    random = np.random.default_rng(0)
    return {
        key: [files[int(i)] for i in random.permutation(len(files))[:clips]]
        for key, files in sorted(found.items())
    }


def joined(files: list[Path], telephone: bool) -> tuple[np.ndarray, int]:
    """Clips with pauses, each with its peak at half of full scale, and their rate."""
    random = np.random.default_rng(0)
    rate = 8000 if telephone else RATE
    parts: list[np.ndarray] = [np.zeros(rate)]
    for number, file in enumerate(files):
        wave = load_audio(file).resampled(RATE)[0][: 8 * RATE]
        if telephone:
            wave = resample(over_the_line(wave, RATE, LINES[number % len(LINES)]), RATE, rate)
        parts += [0.5 * wave / max(1e-4, float(np.abs(wave).max())), np.zeros(rate)]
    whole = np.concatenate(parts)
    return (whole + random.normal(0, 1e-3, len(whole))).astype(np.float32), rate


def outside(wave: np.ndarray, rate: int, turns: list[tuple[float, float]]) -> tuple[float, float]:
    """Seconds that are loud, and those of them in no turn."""
    size = round(WINDOW * rate)
    count = len(wave) // size
    power = np.square(wave[: count * size].reshape(count, size)).mean(1)
    loud = 10 * np.log10(power + 1e-12) > 10 * np.log10(power.max()) - LOUD_DB
    free = np.ones(count, bool)
    for start, end in turns:
        free[int(start / WINDOW) : int(np.ceil(end / WINDOW))] = False
    return float(loud.sum() * WINDOW), float((loud & free).sum() * WINDOW)


def turns_of(
    wave: np.ndarray, rate: int, analyzer: Analyzer, second_look: bool
) -> list[tuple[float, float]]:
    options = CallOptions(speakers=1, turns=TurnOptions(second_look=second_look))
    plan = prepare_call((wave, rate), options, judge=analyzer.speech_judge).plan
    return [(turn.start / plan.rate, turn.end / plan.rate) for turn in plan.turns]


def cost(analyzer: Analyzer, files: list[Path], minutes: float) -> dict[str, float]:
    """Seconds of the processor for one call, without and with the second look."""
    wave, rate = joined(files, True)
    call = np.resize(wave, round(60 * minutes * rate))
    found = {}
    for name, second_look in (("without", False), ("with", True)):
        start = time.process_time()
        analyzer.analyze_call((call, rate), speakers=1, turns=TurnOptions(second_look=second_look))
        found[f"processor_seconds_{name}"] = round(time.process_time() - start, 1)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/speech"))
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=10.0)
    given = parser.parse_args()
    if not (given.data / "dev.jsonl").is_file():
        print(json.dumps({"skipped": f"no recordings at {given.data / 'dev.jsonl'}"}))
        return 0
    analyzer = Analyzer()
    chosen = groups(given.data, given.clips)
    rows: dict[str, dict[str, float | bool]] = {}
    for number, ((name, speech), files) in enumerate(chosen.items()):
        telephone = number % 2 == 1
        wave, rate = joined(files, telephone)
        before, after = (turns_of(wave, rate, analyzer, look) for look in (False, True))
        loud, lost = outside(wave, rate, before)
        row = {
            "speech": speech,
            "telephone": telephone,
            "loud_seconds": round(loud, 1),
            "outside_before": round(lost, 1),
            "outside_after": round(outside(wave, rate, after)[1], 1),
            "turn_seconds_before": round(sum(end - start for start, end in before), 1),
            "turn_seconds_after": round(sum(end - start for start, end in after), 1),
        }
        rows[name] = row
        print(f"{name:32} {json.dumps(row)}", file=sys.stderr, flush=True)
    names = {True: "speech", False: "no speech"}
    sums = {
        names[kind]: {
            key: round(sum(float(row[key]) for row in rows.values() if row["speech"] is kind), 1)
            for key in ("loud_seconds", "outside_before", "outside_after",
                        "turn_seconds_before", "turn_seconds_after")
        }
        for kind in (True, False)
    }  # fmt: skip
    mixed = [*chosen["speechocean762", True], *chosen["ravdess, angry", True],
             *chosen["esc50", False][:4]]  # fmt: skip
    result = {"benchmark": "left_out", "clips": given.clips, "groups": rows, "sums": sums,
              "minutes": given.minutes, **cost(analyzer, mixed, given.minutes)}  # fmt: skip
    for name, row in rows.items():
        print(f"{name:32} {json.dumps(row)}")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
