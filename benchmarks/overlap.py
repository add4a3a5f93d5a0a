"""Two voices at once on one channel: how well single moments and stretches are told.

    python benchmarks/overlap.py --data ../shared/speech [--calls 8] [--half test]

Calls of `mono_calls.py` with speakers of dev, as they are and over a telephone (8 kHz; mu-law, GSM
and AMR in turn), with the number of speakers given. Told is where turns of two speakers overlap, as
the product has them. Of every 40 ms it is asked whether two talk: precision, recall and F1, once
for all frames and once without those within 0.1 s of a change of the truth. Of stretches: one of
the truth of 0.2 s and more is found if a quarter of it is; one that is told is right if a quarter
of it is true. The diarization error and the backchannels without and with it. Then the network by
itself on single voices, clean, with noise, music and echo: the share of the time that it calls two
voices. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from diarization import backchannels_right, clips_of, make_calls, segments, telephone
from mono_calls import RATE, MonoCall

from speechmeta.audio.loading import load_audio, resample
from speechmeta.diarization.overlap import OverlapDetector, packaged_detector
from speechmeta.diarization.second_speaker import FRAME_SECONDS, overlapped
from speechmeta.diarization.selection import load_embedder
from speechmeta.eval.metrics.der import DiarizationError, diarization_error
from speechmeta.pipeline.options import CallOptions
from speechmeta.pipeline.plan import prepare_call
from speechmeta.segmentation.turns import TurnOptions
from speechmeta.training.manifest import read_manifest
from speechmeta.training.splits import read_halves

COLLAR = 0.1
FOUND_SHARE = 0.25
SHORTEST = 0.2

Spans = list[tuple[float, float]]
Answer = list[tuple[float, float, str]]


def count_of(segments: Sequence[tuple[float, float, Any]], frames: int) -> np.ndarray:
    """(frames,) how many talk in the middle of each."""
    middles = (np.arange(frames) + 0.5) * FRAME_SECONDS
    talking = np.zeros(frames, int)
    for speaker in {who for *_, who in segments}:
        own = np.zeros(frames, bool)
        for start, end, who in segments:
            if who == speaker:
                own |= (middles >= start) & (middles < end)
        talking += own
    return talking


def inner(both: np.ndarray) -> np.ndarray:
    """Frames away from where the truth changes."""
    reach = round(COLLAR / FRAME_SECONDS)
    edges = np.flatnonzero(np.diff(both.astype(int)))
    kept = np.ones(len(both), bool)
    for edge in edges:
        kept[max(0, edge - reach + 1) : edge + reach + 1] = False
    return kept


def spans_of(mask: np.ndarray) -> Spans:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    return [(a * FRAME_SECONDS, b * FRAME_SECONDS) for a, b in edges.reshape(-1, 2)]


def share_in(span: tuple[float, float], others: Spans) -> float:
    both = sum(max(0.0, min(span[1], b) - max(span[0], a)) for a, b in others)
    return both / (span[1] - span[0])


def scores(right: float, told: float, true: float) -> dict[str, float]:
    precision, recall = right / max(1, told), right / max(1, true)
    f1 = 2 * precision * recall / max(1e-9, precision + recall)
    return {"precision": round(precision, 3), "recall": round(recall, 3), "f1": round(f1, 3)}


def measured(items: Sequence[tuple[MonoCall, Answer]]) -> dict[str, Any]:
    """Of calls and the turns that were told of them."""
    frames = np.zeros(3)
    inside = np.zeros(3)
    truths = found = stretches = right = 0
    for call, answer in items:
        count = round(len(call.waveform) / RATE / FRAME_SECONDS)
        both, told = count_of(call.truth, count) >= 2, count_of(answer, count) >= 2
        kept = inner(both)
        frames += [(told & both).sum(), told.sum(), both.sum()]
        inside += [(told & both & kept).sum(), (told & kept).sum(), (both & kept).sum()]
        spans = spans_of(told)
        true = [span for span in spans_of(both) if span[1] - span[0] >= SHORTEST]
        truths += len(true)
        found += sum(share_in(span, spans) >= FOUND_SHARE for span in true)
        stretches += len(spans)
        right += sum(share_in(span, spans_of(both)) >= FOUND_SHARE for span in spans)
    return {
        "frames": scores(*frames),
        "frames_without_edges": scores(*inside),
        "stretches_found": f"{found} of {truths}",
        "stretches_right": f"{right} of {stretches}",
        "true_seconds": round(float(frames[2]) * FRAME_SECONDS, 1),
        "told_seconds": round(float(frames[1]) * FRAME_SECONDS, 1),
    }


def diarized(items: Sequence[tuple[MonoCall, Answer]]) -> dict[str, Any]:
    """The diarization error (collar 0.25 s), and backchannels with the right speaker."""
    error = DiarizationError(0, 0, 0, 0)
    over: list[bool] = []
    for call, answer in items:
        error += diarization_error(call.truth, answer, 0.25)
        over += [good for above, good in backchannels_right(call, answer) if above]
    return {
        "der": round(error.rate, 4),
        "missed": round(error.missed / error.speech, 4),
        "false_alarm": round(error.false_alarm / error.speech, 4),
        "backchannels_over_speech": f"{sum(over)} of {len(over)}",
    }


def single_voices(data: Path, half: str, count: int) -> dict[str, list[np.ndarray]]:
    """Half a minute of each of some voices, clean and disturbed."""
    manifest = data / "dev.jsonl"
    halves = read_halves(manifest)
    random = np.random.default_rng(5)
    by_voice: dict[str, list[Path]] = {}
    noises = []
    for clip in read_manifest(manifest):
        if halves[clip.audio] != half:
            continue
        if clip.speech and clip.speaker and clip.duration >= 2:
            by_voice.setdefault(f"{clip.dataset} {clip.speaker}", []).append(clip.audio)
        elif not clip.speech and clip.dataset in ("esc50", "urbansound8k-fold10"):
            noises.append(clip.audio)
    names = sorted(name for name, files in by_voice.items() if len(files) >= 3)
    found: dict[str, list[np.ndarray]] = {}
    for number in random.permutation(len(names))[:count]:
        files = by_voice[names[int(number)]][:8]
        wave = np.concatenate([load_audio(file).resampled(RATE)[0] for file in files])[: 30 * RATE]
        wave = wave / (np.sqrt(np.square(wave).mean()) + 1e-9) * 0.05
        noise = load_audio(noises[int(random.integers(len(noises)))]).resampled(RATE)[0]
        noise = np.resize(noise, len(wave))
        noise = noise / (np.sqrt(np.square(noise).mean()) + 1e-9) * 0.05
        late = np.concatenate([np.zeros(RATE // 5), wave[: -RATE // 5]])
        time_ = np.arange(len(wave)) / RATE
        root = 2 ** (np.floor(time_ * 2) % 5 * 3 / 12)
        music = sum(np.sin(2 * np.pi * 196 * step * root * time_) for step in (1, 1.26, 1.5, 2))
        music = music / np.sqrt(np.square(music).mean()) * 0.05
        kinds = {
            "clean": wave,
            "sounds 15 dB below": wave + noise * 10 ** (-15 / 20),
            "hiss 15 dB below": wave + random.normal(0, 0.05, len(wave)) * 10 ** (-15 / 20),
            "music 15 dB below": wave + music * 10 ** (-15 / 20),
            "echo 200 ms, 15 dB below": wave + late * 10 ** (-15 / 20),
            "telephone": resample(telephone(wave.astype(np.float32), int(number)), 8000, RATE),
        }
        for name, heard in kinds.items():
            found.setdefault(name, []).append(np.asarray(heard, np.float32))
    return found


def wrongly_told(detector: OverlapDetector, waves: Sequence[np.ndarray]) -> float:
    """Share of the time."""
    told = sum(
        end - start
        for wave in waves
        for start, end in overlapped(detector.probabilities(wave), detector.threshold, 0, RATE)
    )
    return round(told / sum(len(wave) for wave in waves), 4)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/speech"))
    parser.add_argument("--half", choices=("test", "tune"), default="test")
    parser.add_argument("--calls", type=int, default=8, help="of each number of speakers")
    parser.add_argument("--voices", type=int, default=12)
    given = parser.parse_args()
    if not (given.data / "dev.jsonl").is_file():
        print(json.dumps({"skipped": f"no recordings at {given.data / 'dev.jsonl'}"}))
        return 0
    detector = packaged_detector()
    embedder = load_embedder(None)
    heard: dict[str, dict[bool, list[tuple[MonoCall, Answer]]]] = {
        kind: {False: [], True: []} for kind in ("wideband", "telephone")
    }
    calls = list(make_calls(clips_of(given.data, given.half), given.calls, 0))
    for number, (call, clips) in enumerate(calls):
        for kind, source in (
            ("wideband", (call.waveform, RATE)),
            ("telephone", (telephone(call.waveform, number), 8000)),
        ):
            for overlap in (False, True):
                options = CallOptions(
                    channels="mono", speakers=len(clips), turns=TurnOptions(overlap=overlap)
                )
                plan = prepare_call(source, options, lambda: embedder).plan
                heard[kind][overlap].append((call, segments(plan)))
        print(f"call {number}", file=sys.stderr, flush=True)
    singles = single_voices(given.data, given.half, given.voices)
    spent = time.process_time()
    wrong = {name: wrongly_told(detector, waves) for name, waves in singles.items()}
    spent = time.process_time() - spent
    seconds = sum(len(wave) for waves in singles.values() for wave in waves) / RATE
    result: dict[str, Any] = {
        "benchmark": "overlap",
        "half": given.half,
        "calls": len(calls),
        "seconds_per_band": round(sum(len(call.waveform) for call, _ in calls) / RATE),
        "threshold": detector.threshold,
        "audio_seconds_per_processor_second": round(seconds / max(1e-9, spent)),
        **{kind: measured(found[True]) for kind, found in heard.items()},
        "without": {kind: diarized(found[False]) for kind, found in heard.items()},
        "with": {kind: diarized(found[True]) for kind, found in heard.items()},
        "network_on_single_voices": wrong,
    }
    for name, value in result.items():
        print(f"{name}: {json.dumps(value)}")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
