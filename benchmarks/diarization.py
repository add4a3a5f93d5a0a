"""Diarization error on mono calls mixed from speakers that no training has heard.

    python benchmarks/diarization.py --data ../shared/speech [--calls 30] [--telephone]

Each call alternates between speakers of one source, so that microphones do not give them
away, with pauses of 0.3 to 1.2 s. The reference is the energy of the clips themselves. Each
call is diarized with the number of speakers given and found; calls of one speaker are among
them. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from speechmeta.audio.loading import SAMPLE_RATE, load_audio
from speechmeta.audio.telephone import over_the_line
from speechmeta.diarization.selection import ENCODER, load_embedder
from speechmeta.eval.metrics.der import DiarizationError, diarization_error
from speechmeta.models.loading import load_model
from speechmeta.pipeline.options import CallOptions
from speechmeta.pipeline.plan import prepare_call
from speechmeta.training.manifest import Clip, read_manifest

FEWEST_SECONDS = 8.0
PIECE_SECONDS = (1.5, 7.0)


def pieces_of(clips: list[Clip], random: np.random.Generator) -> list[np.ndarray]:
    """Stretches of a speaker's clips, without silence at their ends, equally loud."""
    found = []
    for clip in clips:
        wave = load_audio(clip.audio).resampled(SAMPLE_RATE)[0]
        envelope = np.convolve(np.abs(wave), np.full(800, 1 / 800), "same")
        loud = np.flatnonzero(envelope > 0.1 * np.percentile(envelope, 95))
        wave = wave[loud[0] : loud[-1] + 1]
        while len(wave) > PIECE_SECONDS[0] * SAMPLE_RATE:
            length = round(random.uniform(*PIECE_SECONDS) * SAMPLE_RATE)
            part, wave = wave[:length], wave[length:]
            if len(part) >= PIECE_SECONDS[0] * SAMPLE_RATE:
                found.append(0.07 * part / np.sqrt(np.square(part).mean()))
    return found


def mix(
    speakers: list[list[np.ndarray]], random: np.random.Generator, turns: int
) -> tuple[np.ndarray, list[tuple[float, float, int]]]:
    """A call in which the speakers alternate, and who talks when."""
    parts, truth = [np.zeros(SAMPLE_RATE // 2)], []
    place = SAMPLE_RATE // 2
    left = [list(pieces) for pieces in speakers]
    for turn in range(turns):
        who = turn % len(speakers)
        if not left[who]:
            break
        piece = left[who].pop(0)
        pause = np.zeros(round(random.uniform(0.3, 1.2) * SAMPLE_RATE))
        truth.append((place / SAMPLE_RATE, (place + len(piece)) / SAMPLE_RATE, who))
        parts += [piece, pause]
        place += len(piece) + len(pause)
    call = np.concatenate(parts)
    noise = 10 ** (-55 / 20) * random.standard_normal(len(call))
    return np.asarray(call + noise, dtype=np.float32), truth


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/speech"))
    parser.add_argument("--split", default="dev")
    parser.add_argument("--calls", type=int, default=30)
    parser.add_argument("--speakers", type=int, nargs="+", default=[1, 2, 2, 3])
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--telephone", action="store_true")
    parser.add_argument("--model", default=None)
    parser.add_argument("--speaker-model", default=None)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    manifest = given.data / f"{given.split}.jsonl"
    if not manifest.is_file():
        print(json.dumps({"skipped": f"no recordings at {manifest}"}))
        return 0
    random = np.random.default_rng(given.seed)
    by_source: dict[str, dict[str, list[Clip]]] = defaultdict(lambda: defaultdict(list))
    for clip in read_manifest(manifest):
        if clip.speech and clip.speaker and clip.duration >= PIECE_SECONDS[0]:
            by_source[clip.dataset][clip.speaker].append(clip)
    eligible = {
        source: sorted(
            name
            for name, clips in speakers.items()
            if sum(clip.duration for clip in clips) >= FEWEST_SECONDS
        )
        for source, speakers in by_source.items()
    }
    eligible = {k: v for k, v in eligible.items() if len(v) >= max(given.speakers)}
    sources = sorted(eligible)
    model = processor = None
    if given.speaker_model == ENCODER:
        model, processor = load_model(given.model, local_files_only=True)
    embedder = load_embedder(given.speaker_model, model, processor, local_files_only=True)
    nothing = DiarizationError(0, 0, 0, 0)
    totals: dict[str, DiarizationError] = defaultdict(lambda: nothing)
    right_count = 0
    seconds = spent = 0.0
    for number in range(given.calls):
        source = sources[number % len(sources)]
        count = given.speakers[number // len(sources) % len(given.speakers)]
        names = [eligible[source][i] for i in random.permutation(len(eligible[source]))[:count]]
        voices = [pieces_of(by_source[source][name], random) for name in names]
        call, truth = mix(voices, random, given.turns)
        count = len({who for _, _, who in truth})
        if given.telephone:
            call = over_the_line(call, SAMPLE_RATE, "none")
        line = f"call {number}: {source}, {count} speakers, {len(call) / SAMPLE_RATE:.0f} s"
        for kind, asked in (("given", count), ("found", None)):
            start = time.perf_counter()
            options = CallOptions(channels="mono", speakers=asked)
            plan = prepare_call((call, SAMPLE_RATE), options, lambda: embedder).plan
            spent += time.perf_counter() - start
            seconds += len(call) / SAMPLE_RATE
            answer = [(turn.start / plan.rate, turn.end / plan.rate, turn.speaker)
                      for turn in plan.turns]  # fmt: skip
            error = diarization_error(truth, answer)
            totals[f"{kind}_{'one' if count == 1 else 'several'}"] += error
            totals[kind] += error
            heard = len({speaker for _, _, speaker in answer})
            line += f"; number {kind}: {error.rate:.1%}"
            if asked is None:
                right_count += heard == count
                line += f" with {heard}"
        print(line, file=sys.stderr)
    result: dict[str, Any] = {
        "benchmark": "diarization",
        "calls": given.calls,
        "split": given.split,
        "sources": sources,
        "telephone": given.telephone,
        "model": (given.model or "bundled") if model is not None else None,
        "speaker_model": given.speaker_model or "voiceprint",
        "right_number_of_speakers": round(right_count / given.calls, 4),
        "audio_seconds_per_second": round(seconds / spent, 1),
    }
    for kind, error in sorted(totals.items()):
        result[kind] = {
            "der": round(error.rate, 4),
            "confusion": round(error.confusion / error.speech, 4),
            "missed": round(error.missed / error.speech, 4),
            "false_alarm": round(error.false_alarm / error.speech, 4),
            "speech_seconds": round(error.speech, 1),
        }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
