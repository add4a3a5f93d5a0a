"""Who speaks when: calls on one channel made of speakers that no training has heard.

    python benchmarks/diarization.py --data ../shared/speech [--calls 8] [--words 4]

`mono_calls.py` says how a call is made; there are as many of two speakers as of three and of four.
Each is diarized as it is and over a telephone (8 kHz, mu-law, GSM and AMR in turn), with the number
of speakers given and found. Reported are the diarization error (0.25 s around each boundary of the
reference left out, overlap scored) and its parts, how often the right number was found, the
backchannels given to the right speaker, and with --words, for as many calls, words under the wrong
speaker and the labels of a voice against those of its turns. Only speakers of the `test` half of
dev are used; `--half tune` and `--half train` are for choosing. Longer calls of two:

    python benchmarks/diarization.py --half train --seconds 400 --speakers 2 --calls 4

No recording occurs twice in a call. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from mono_calls import RATE, MonoCall, mix, pieces_of

from speechmeta.audio.loading import load_audio
from speechmeta.audio.telephone import CODECS, over_the_line
from speechmeta.diarization.selection import load_embedder
from speechmeta.eval.metrics.der import DiarizationError, diarization_error, matched_speakers
from speechmeta.pipeline.options import CallOptions
from speechmeta.pipeline.plan import CallPlan, prepare_call
from speechmeta.training.manifest import Clip, read_manifest
from speechmeta.training.splits import read_halves

FEWEST_SECONDS = 9.0
"""A speaker's speech of which a call is made; more where it is longer than `SECONDS`."""
SECONDS = 75.0
COLLAR = 0.25
LINES = [codec for codec in CODECS if codec in ("mulaw", "gsm", "amr")]
COUNTS = (2, 3, 4)

Call = tuple[MonoCall, list[Clip]]


def clips_of(data: Path, half: str) -> list[Clip]:
    """Speech of known speakers: of a half of dev, or of train what is free for commercial use."""
    manifest = data / ("train.jsonl" if half == "train" else "dev.jsonl")
    clips = [
        clip for clip in read_manifest(manifest)
        if clip.speech and clip.speaker and clip.duration >= 1.0
    ]  # fmt: skip
    if half == "train":
        return [clip for clip in clips if clip.commercial]
    halves = read_halves(manifest)
    return [clip for clip in clips if halves[clip.audio] == half]


def make_calls(
    clips: Sequence[Clip],
    count: int,
    seed: int,
    seconds: float = SECONDS,
    counts: Sequence[int] = COUNTS,
) -> Iterator[Call]:
    """`count` calls of each number of speakers, and a clip of each speaker for its labels; sources
    take turns."""
    by_source: dict[str, dict[str, list[Clip]]] = defaultdict(lambda: defaultdict(list))
    for clip in clips:
        by_source[clip.dataset][str(clip.speaker)].append(clip)
    for speakers in counts:
        random = np.random.default_rng([seed, speakers])
        fewest = max(FEWEST_SECONDS, 0.65 * (seconds - SECONDS) / speakers)
        eligible = {
            source: [
                name
                for name, own in sorted(by_name.items())
                if sum(clip.duration for clip in own) >= fewest
            ]
            for source, by_name in sorted(by_source.items())
        }
        sources = [source for source, names in eligible.items() if len(names) >= speakers]
        made = 0
        for number in range(10 * count):
            if made == count or not sources:
                break
            source = sources[number % len(sources)]
            names = eligible[source]
            chosen = [names[int(index)] for index in random.permutation(len(names))[:speakers]]
            own = [by_source[source][name] for name in chosen]
            each = max(60.0, 1.2 * seconds / speakers)
            pieces = [pieces_of(_waves(clips, random, each), random, (1.0, 5.0)) for clips in own]
            call = mix(pieces, random, seconds)
            if len({who for *_, who in call.truth}) == speakers:
                made += 1
                yield call, [clips[0] for clips in own]


def _waves(
    clips: Sequence[Clip], random: np.random.Generator, seconds: float = 60.0
) -> list[np.ndarray]:
    """About so much of a speaker."""
    waves: list[np.ndarray] = []
    for index in random.permutation(len(clips)):
        if sum(len(wave) for wave in waves) < seconds * RATE:
            waves.append(load_audio(clips[int(index)].audio).resampled(RATE)[0])
    return waves


def telephone(wave: np.ndarray, number: int) -> np.ndarray:
    """(samples,) at 16 kHz to what an 8 kHz line with one of the codecs makes of it."""
    heard = over_the_line(wave, RATE, LINES[number % len(LINES)])
    return np.asarray(soxr.resample(heard, RATE, 8000), dtype=np.float32)


def segments(plan: CallPlan) -> list[tuple[float, float, str]]:
    return [(turn.start / plan.rate, turn.end / plan.rate, turn.speaker) for turn in plan.turns]


def backchannels_right(
    call: MonoCall, answer: Sequence[tuple[float, float, str]]
) -> list[tuple[bool, bool]]:
    """For each backchannel, whether it is over another's speech, and whether most of what was
    found there is its speaker's."""
    names = matched_speakers(call.truth, answer)
    found = []
    for start, end, who, over in call.backchannels:
        shares: dict[str, float] = defaultdict(float)
        for first, last, speaker in answer:
            shares[speaker] += max(0.0, min(end, last) - max(start, first))
        best = max(shares, key=lambda name: shares[name], default="")
        found.append((over, bool(best) and shares[best] > 0 and names.get(best) == who))
    return found


class Tally:
    """What is counted over calls of one kind."""

    def __init__(self) -> None:
        self.errors: dict[str, DiarizationError] = {}
        self.numbers: list[tuple[int, int]] = []
        self.backchannels: list[tuple[bool, bool]] = []

    def add(self, call: MonoCall, plan: CallPlan, asked: bool) -> DiarizationError:
        answer = segments(plan)
        count = len({who for *_, who in call.truth})
        error = diarization_error(call.truth, answer, COLLAR)
        for key in (f"{count} speakers", "all"):
            name = f"{key}, number {'given' if asked else 'found'}"
            self.errors[name] = self.errors.get(name, DiarizationError(0, 0, 0, 0)) + error
        if not asked:
            self.numbers.append((count, len({speaker for *_, speaker in answer})))
            self.backchannels += backchannels_right(call, answer)
        return error

    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, error in sorted(self.errors.items()):
            found[name] = {
                "der": round(error.rate, 4),
                "confusion": round(error.confusion / error.speech, 4),
                "missed": round(error.missed / error.speech, 4),
                "false_alarm": round(error.false_alarm / error.speech, 4),
                "speech_seconds": round(error.speech, 1),
            }
        right = [true == heard for true, heard in self.numbers]
        found["right_number"] = round(float(np.mean(right)), 4)
        for count in sorted({true for true, _ in self.numbers}):
            own = [true == heard for true, heard in self.numbers if true == count]
            found[f"right_number_of_{count}"] = f"{sum(own)} of {len(own)}"
        for over, name in ((False, "in_pauses"), (True, "over_speech")):
            own = [good for above, good in self.backchannels if above == over]
            found[f"backchannels_{name}"] = f"{sum(own)} of {len(own)}"
        return found


def words_and_labels(calls: Sequence[Call], speaker_model: str | None) -> dict[str, Any]:
    """Words under the wrong speaker, and labels of voices and of their turns that are right."""
    from speechmeta.pipeline.analyzer import Analyzer

    analyzer = Analyzer()
    wrong = words = 0
    right: dict[str, list[bool]] = defaultdict(list)
    for call, clips in calls:
        report = analyzer.analyze_call(
            (call.waveform, RATE), channels="mono", word_times=True, speaker_model=speaker_model
        )
        answer = [(turn.start, turn.end, turn.speaker) for turn in report.turns]
        names = matched_speakers(call.truth, answer)
        for turn in report.turns:
            for word in turn.words or []:
                middle = (word.start + word.end) / 2
                said = {who for start, end, who in call.truth if start <= middle < end}
                if said:
                    words += 1
                    wrong += names.get(turn.speaker) not in said
            owner = names.get(turn.speaker)
            for field in ("Gender", "Age"):
                if owner is not None and (label := clips[owner].labels.get(field)):
                    right[f"{field} of turns"].append(turn.meta.value(field) == label)
        for voice in report.speakers:
            owner = names.get(voice.speaker)
            for field, pooled in (("Gender", voice.gender), ("Age", voice.age)):
                if owner is not None and pooled and (label := clips[owner].labels.get(field)):
                    right[f"{field} of voices"].append(pooled.value == label)
    return {
        "words": words,
        "words_under_the_wrong_speaker": round(wrong / max(1, words), 4),
        **{name: f"{sum(good)} of {len(good)}" for name, good in sorted(right.items())},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/speech"))
    parser.add_argument("--half", choices=("test", "tune", "train"), default="test")
    parser.add_argument("--calls", type=int, default=8, help="of each number of speakers")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of a call, about")
    parser.add_argument("--speakers", type=int, nargs="+", default=COUNTS, help="in a call")
    parser.add_argument("--words", type=int, default=0, help="calls whose words are looked at")
    parser.add_argument("--speaker-model", default=None)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if not (given.data / "dev.jsonl").is_file():
        print(json.dumps({"skipped": f"no recordings at {given.data / 'dev.jsonl'}"}))
        return 0
    embedder = load_embedder(given.speaker_model, local_files_only=True)
    clips = clips_of(given.data, given.half)
    calls = list(make_calls(clips, given.calls, given.seed, given.seconds, given.speakers))
    tallies = {"wideband": Tally(), "telephone": Tally()}
    seconds = spent = 0.0
    for number, (call, heads) in enumerate(calls):
        count = len(heads)
        line = f"call {number}: {heads[0].dataset}, {count} speakers"
        heard = {
            "wideband": (call.waveform, RATE),
            "telephone": (telephone(call.waveform, number), 8000),
        }
        for kind, source in heard.items():
            for asked in (count, None):
                start = time.process_time()
                options = CallOptions(channels="mono", speakers=asked)
                plan = prepare_call(source, options, lambda: embedder).plan
                spent += time.process_time() - start
                seconds += len(call.waveform) / RATE
                error = tallies[kind].add(call, plan, asked is not None)
                told = "given" if asked else f"found {len({t.speaker for t in plan.turns})}"
                line += f"; {kind} {told} {error.rate:.1%}"
        print(line, file=sys.stderr, flush=True)
    result: dict[str, Any] = {
        "benchmark": "diarization",
        "half": given.half,
        "calls": len(calls),
        "seconds": round(sum(len(call.waveform) for call, _ in calls) / RATE),
        "speaker_model": given.speaker_model or "voiceprint",
        "audio_seconds_per_processor_second": round(seconds / spent, 1),
        **{kind: tally.result() for kind, tally in tallies.items()},
    }
    if given.words:
        result["words"] = words_and_labels(calls[: given.words], given.speaker_model)
    for kind in tallies:
        print(f"{kind}:")
        for name, value in result[kind].items():
            print(f"  {name:32} {json.dumps(value) if isinstance(value, dict) else value}")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
