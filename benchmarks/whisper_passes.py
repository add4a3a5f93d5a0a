"""Where the time of a batch goes in a Whisper checkpoint of ours: features, encoder, heads, passes.

    python benchmarks/whisper_passes.py --model FOLDER

Clips are sentences of synthetic voices. Times are seconds of the processor (all threads), the
smallest of several rounds. Prints a table for each way of running and ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from word_times import SENTENCES, VOICES, speak

PARTS = (
    "features",
    "encoder",
    "label heads",
    "memory's keys and values",
    "decoder layers",
    "vocabulary product",
    "choosing tokens",
    "all else",
)


class Clock:
    """Adds up processor seconds by part."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)

    def watch(self, owner: Any, name: str, part: str) -> None:
        """Times a method from now on."""
        inner: Callable[..., Any] = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            begin = time.process_time()
            result = inner(*args, **kwargs)
            self.parts[part] += time.process_time() - begin
            self.calls[part] += 1
            return result

        setattr(owner, name, timed)


def measure(args: argparse.Namespace, waves: list[Any], dtype: str, fast: bool) -> dict[str, Any]:
    """Seconds by part of one way of running."""
    from speechmeta.decoding.decoders import CrossAttentionDecoder
    from speechmeta.decoding.session import Session
    from speechmeta.models.loading import load_speech_model

    model: Any = load_speech_model(args.model, args.device, dtype, len(waves))
    if not fast:
        model.transcripts.decoder = CrossAttentionDecoder(model.model.whisper, fast=False)
        model._layers = None
    clock, decoder = Clock(), model.transcripts.decoder
    clock.watch(model.processor, "features", "features")
    clock.watch(model.model, "encode", "encoder")
    clock.watch(model.model, "classify", "label heads")
    clock.watch(decoder, "start", "memory's keys and values")
    clock.watch(decoder, "forward", "decoder layers")
    clock.watch(decoder, "head", "vocabulary product")
    scores = Session._scores
    clock.watch(Session, "_scores", "choosing tokens")
    rounds = []
    for _ in range(args.rounds + 1):
        clock.parts.clear()
        clock.calls.clear()
        begin = time.process_time()
        records = model.decode(waves)
        total = time.process_time() - begin
        parts = dict(clock.parts)
        parts["all else"] = total - sum(parts.values())
        rounds.append((total, parts, clock.calls["decoder layers"]))
    Session._scores = scores  # type: ignore[method-assign]
    total, parts, passes = min(rounds[1:], key=lambda item: item[0])
    tokens = sum(getattr(record, "transcript_tokens", 0) for record in records)
    return {"seconds": total, "parts": parts, "passes": passes, "tokens": tokens}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=None, help="a checkpoint; default: the bundled")
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--ways", default="bfloat16,bfloat16-modules,float32")
    args = parser.parse_args(argv)
    if shutil.which("flite") is None:
        sys.exit("flite is not installed")
    import torch

    spoken = [
        speak(text, voice) for voice in VOICES for text in SENTENCES[: max(1, args.clips // 3)]
    ]
    known = [item.waveform for item in spoken if item is not None]
    waves = [known[number % len(known)] for number in range(args.clips)]
    audio = sum(map(len, waves)) / 16_000
    print(f"{args.clips} clips, {audio:.0f} s of audio, {torch.get_num_threads()} threads\n")
    results = {}
    for way in args.ways.split(","):
        dtype, _, modules = way.partition("-")
        result = measure(args, waves, dtype, not modules)
        results[way] = round(audio / result["seconds"], 1)
        print(
            f"{way}: {result['seconds']:.2f} s, {results[way]} times real time, "
            f"{result['passes']} passes for {result['tokens']} tokens"
        )
        for part in PARTS:
            seconds = result["parts"].get(part, 0.0)
            print(f"  {part:<26} {seconds:>7.3f} s {seconds / result['seconds']:>6.1%}")
        print()
    print(json.dumps({"clips": args.clips, "audio": round(audio, 1), "times_real_time": results}))


if __name__ == "__main__":
    main()
