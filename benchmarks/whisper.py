"""Words, speed and memory beside faster-whisper and transformers, on calls of known words.

    python benchmarks/whisper.py --manifest ../shared/speech/dev.jsonl --calls 20 --threads 2 \\
        --whisper runs/whisper-base --ctranslate2 FOLDER

Makes stereo calls of two to five minutes (8 kHz, mu-law, narrow band) from clips of the manifest's
`test` half that have words: two speakers, one a channel, taking turns with pauses. Every system
runs in a process of its own, one after the other, on the same files and threads:

- ours: `Analyzer.analyze_call`, six fields, by compute type;
- faster-whisper (CTranslate2, int8, the same base weights in its own format): each channel
  by itself with `vad_filter`, unbatched and by `BatchedInferencePipeline`; words only;
- transformers' ASR pipeline on the padded original, windows of 30 s; words only.

Models are loaded and warmed up before the clock starts. CPU seconds are those of the process: on a
machine that does other work too they compare where wall time does not. Prints a table and, last,
one JSON line. faster-whisper is not a dependency: `pip install faster-whisper`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import wave
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

RATE = 8000
SEED = 20_262
SYSTEMS = (
    "ours", "ours-float32", "ours-int8", "faster-whisper", "faster-whisper-batched", "transformers",
)  # fmt: skip

Transcribe = Callable[[Path], list[str]]
"""A call's words, one text a channel."""


def make_calls(manifest: Path, folder: Path, count: int) -> list[dict[str, Any]]:
    """Writes calls and returns their paths, seconds and words by channel."""
    import soxr

    from speechmeta.audio.loading import load_audio
    from speechmeta.audio.telephone import over_the_line
    from speechmeta.training.splits import read_halves

    halves = read_halves(manifest)
    voices: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for line in manifest.read_text().splitlines():
        row = json.loads(line)
        path = manifest.parent / row["audio"]
        wanted = row["speech"] and row["transcript"] and row["dataset"] not in ("fsdd", "ravdess")
        if wanted and halves.get(path) == "test":
            voices[row["dataset"], str(row["speaker"])].append({**row, "path": str(path)})
    draw = random.Random(SEED)
    calls = []
    names = sorted(voices)
    for number in range(count):
        wanted_seconds = draw.uniform(120, 300)
        sides: list[list[np.ndarray]] = [[], []]
        words: list[list[str]] = [[], []]
        length = 0
        pools = [[], []]  # type: list[list[dict[str, Any]]]
        while length < wanted_seconds * RATE:
            side = len(words[0]) > len(words[1])
            if not pools[side]:
                pools[side] = list(voices[draw.choice(names)])
                draw.shuffle(pools[side])
            row = pools[side].pop()
            audio = load_audio(row["path"])
            sound = soxr.resample(audio.waveform.mean(axis=0), audio.sample_rate, RATE)
            pause = round(draw.uniform(0.3, 1.5) * RATE)
            quiet = np.zeros(pause + len(sound), np.float32)
            quiet[pause:] = sound
            sides[side].append(quiet)
            sides[not side].append(np.zeros_like(quiet))
            words[side].append(row["transcript"])
            length += len(quiet)
        both = np.stack([np.concatenate(part) for part in sides])
        noise = np.random.default_rng(SEED + number).normal(0, 1e-3, both.shape)
        heard = over_the_line((both + noise).astype(np.float32), RATE, "mulaw")
        path = folder / f"call_{number:02}.wav"
        with wave.open(str(path), "wb") as file:
            file.setnchannels(2)
            file.setsampwidth(2)
            file.setframerate(RATE)
            file.writeframes((np.clip(heard.T, -1, 1) * 32767).astype("<i2").tobytes())
        calls.append(
            {
                "path": str(path),
                "seconds": length / RATE,
                "words": [" ".join(part) for part in words],
            }
        )
    return calls


def ours(compute_type: str, args: argparse.Namespace) -> Transcribe:
    from speechmeta import Analyzer

    analyzer = Analyzer(device="cpu", dtype=compute_type)

    def transcribe(path: Path) -> list[str]:
        report = analyzer.analyze_call(path)
        report.model_dump_json()
        texts = ["", ""]
        for turn in report.turns:
            texts[turn.channel] += " " + (turn.meta.transcript or "")
        return texts

    return transcribe


def faster_whisper(batched: bool, args: argparse.Namespace) -> Transcribe:
    from faster_whisper import BatchedInferencePipeline, WhisperModel
    from faster_whisper.audio import decode_audio

    model: Any = WhisperModel(
        str(args.ctranslate2), device="cpu", compute_type="int8", cpu_threads=args.threads
    )
    options: dict[str, Any] = {"language": "en", "beam_size": 1, "vad_filter": True}
    if batched:
        model = BatchedInferencePipeline(model)
        options["batch_size"] = 8

    def transcribe(path: Path) -> list[str]:
        sides = decode_audio(str(path), split_stereo=True)
        return [
            " ".join(segment.text for segment in model.transcribe(side, **options)[0])
            for side in sides
        ]

    return transcribe


def transformers_pipeline(args: argparse.Namespace) -> Transcribe:
    import soxr
    from transformers import pipeline

    from speechmeta.audio.loading import load_audio

    asr = pipeline(
        "automatic-speech-recognition",
        model=str(args.whisper),
        chunk_length_s=30,
        batch_size=4,
        trust_remote_code=False,
    )
    if asr.tokenizer.pad_token_id is None:  # the packages' tokenizer names none
        asr.tokenizer.pad_token_id = asr.model.config.eos_token_id

    def transcribe(path: Path) -> list[str]:
        audio = load_audio(path)
        return [
            asr(
                {"raw": soxr.resample(side, audio.sample_rate, 16000), "sampling_rate": 16000},
                generate_kwargs={"language": "en", "task": "transcribe"},
            )["text"]
            for side in audio.waveform
        ]

    return transcribe


def run(system: str, args: argparse.Namespace) -> dict[str, Any]:
    """Runs one system in this process."""
    import torch

    torch.set_num_threads(args.threads)
    if system.startswith("ours"):
        transcribe = ours(system.partition("-")[2] or "auto", args)
    elif system.startswith("faster-whisper"):
        transcribe = faster_whisper(system.endswith("batched"), args)
    else:
        transcribe = transformers_pipeline(args)
    calls = json.loads(Path(args.list).read_text())
    transcribe(Path(min(calls, key=lambda call: call["seconds"])["path"]))
    wall, cpu = time.perf_counter(), time.process_time()
    texts = [transcribe(Path(call["path"])) for call in calls]
    return {
        "system": system,
        "wall_s": round(time.perf_counter() - wall, 2),
        "cpu_s": round(time.process_time() - cpu, 2),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "texts": texts,
    }


def word_errors(calls: list[dict[str, Any]], texts: list[list[str]]) -> float:
    """Corpus WER in percent over all channels, after Whisper's English normaliser."""
    import jiwer

    from speechmeta.eval.metrics.normalizers import load_normalizer

    normalize = load_normalizer("whisper-english")
    wanted = [normalize(text) for call in calls for text in call["words"]]
    heard = [normalize(text) for pair in texts for text in pair]
    kept = [(a, b) for a, b in zip(wanted, heard, strict=True) if a]
    return 100 * float(jiwer.wer([a for a, _ in kept], [b for _, b in kept]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--manifest", type=Path, default=Path("../shared/speech/dev.jsonl"))
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--whisper", type=Path, help="base in transformers' layout")
    parser.add_argument("--ctranslate2", type=Path, help="base in CTranslate2's layout")
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--list", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        print(json.dumps(run(args.only, args)))
        return
    with tempfile.TemporaryDirectory() as folder:
        calls = make_calls(args.manifest, Path(folder), args.calls)
        args.list = str(Path(folder) / "calls.json")
        Path(args.list).write_text(json.dumps(calls))
        seconds = sum(call["seconds"] for call in calls)
        print(f"{len(calls)} stereo calls, {seconds / 60:.1f} minutes, {args.threads} threads")
        print(
            f"{'system':24} {'wall s':>8} {'CPU s':>8} {'x real time':>11} {'MB':>6} {'WER %':>6}"
        )
        rows = []
        for system in args.systems.split(","):
            command = [sys.executable, __file__, "--only", system, "--list", args.list]
            command += ["--threads", str(args.threads)]
            for name in ("whisper", "ctranslate2"):
                if getattr(args, name):
                    command += [f"--{name}", str(getattr(args, name))]
            environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            if done.returncode:
                print(f"{system:24} failed: {done.stderr.strip().splitlines()[-1]}")
                continue
            row = json.loads(done.stdout.strip().splitlines()[-1])
            row["wer"] = round(word_errors(calls, row.pop("texts")), 2)
            row["rtfx"] = round(seconds / row["wall_s"], 1)
            row["rtfx_cpu"] = round(seconds * args.threads / row["cpu_s"], 1)
            rows.append(row)
            print(
                f"{system:24} {row['wall_s']:8.1f} {row['cpu_s']:8.1f} {row['rtfx']:11.1f} "
                f"{row['peak_mb']:6} {row['wer']:6.2f}",
                flush=True,
            )
        print(
            json.dumps(
                {"calls": len(calls), "seconds": round(seconds, 1), "threads": args.threads,
                 "rows": rows}
            )
        )  # fmt: skip


if __name__ == "__main__":
    main()
