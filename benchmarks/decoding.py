"""Seconds per record of four ways to decode: free, with a logits processor, plain, the engine.

Same weights, same prompts, one process, alternating order, warm-up; medians and spread. The
transcript is driven to a fixed length in every contender, because random weights do not stop
by themselves. The last line is one JSON object.

    python benchmarks/decoding.py                 # HuBERT-XL + TinyLlama, random weights
    python benchmarks/decoding.py --size tiny     # seconds: whether it runs at all
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from contenders import Scripted, backends, generate
from driven import DrivenEngine, DrivenReference
from sizes import SENTENCES, clips, random_model

from speechmeta.decoding.engine import Engine
from speechmeta.decoding.grammar import Grammar
from speechmeta.decoding.inputs import Prompt, PromptBuilder
from speechmeta.decoding.options import DecodeOptions
from speechmeta.decoding.record import DecodedRecord
from speechmeta.decoding.reference import ReferenceEngine
from speechmeta.decoding.transcript import TranscriptWriter
from speechmeta.schema import FIELDS, LABEL_FIELDS

FREE_TOKENS = 80
"""What unconstrained generation is given; a published answer takes about as many."""


@dataclass
class Timing:
    """One contender's rounds: seconds of the encoder and the decoder per clip."""

    encoder: list[float] = field(default_factory=list)
    decoder: list[float] = field(default_factory=list)

    @property
    def total(self) -> list[float]:
        return [one + other for one, other in zip(self.encoder, self.decoder, strict=True)]


class Bench:
    """Models, prompts and contenders of one run."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.device = args.device
        if self.device == "auto":
            self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.dtype = getattr(torch, args.dtype)
        self.reference, self.processor = self._load(torch.float32)
        self.model = self.reference if self.dtype == torch.float32 else self._load(self.dtype)[0]
        self.waves = clips(args.clips)
        plain = ReferenceEngine(self.model, self.processor)
        self.grammar = plain.grammars.get(FIELDS)
        self.driven = driven_tokens(self.grammar, args.tokens)
        self.options = DecodeOptions(
            batch_size=1, tree_nodes=args.tree_nodes, max_transcript_tokens=args.tokens
        )
        self.free = PromptBuilder(self.reference, self.processor, self.options)
        self.plain = DrivenReference(self.model, self.processor, self.options, self.driven)
        self.single = DrivenEngine(self.model, self.processor, self.options, self.driven)
        self.records: dict[str, list[DecodedRecord]] = {}
        self.grammars = backends(self.model, self.processor.tokenizer, self.grammar)
        self.passes: dict[str, float] = {}

    def _load(self, dtype: torch.dtype) -> tuple[Any, Any]:
        return random_model(self.args.size, dtype, self.device)

    def batched(self, batch_size: int) -> Engine:
        options = dataclasses.replace(self.options, batch_size=batch_size)
        return DrivenEngine(self.model, self.processor, options, self.driven)

    def now(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def prompts(self, builder: PromptBuilder, waves: Sequence[np.ndarray]) -> list[Prompt]:
        found = [builder.build([wave], FIELDS, None)[0] for wave in waves]
        return [item for item in found if isinstance(item, Prompt)]

    def run_free(self, waves: Sequence[np.ndarray], timing: Timing) -> None:
        started = self.now()
        prompts = self.prompts(self.free, waves)
        middle = self.now()
        for prompt in prompts:
            generate(self.reference, prompt, FREE_TOKENS, exact=True)
        self._note(timing, started, middle, len(waves))

    def run_backend(self, name: str, waves: Sequence[np.ndarray], timing: Timing) -> None:
        scripts = [
            self.grammar.table.encode_start(record.text) for record in self.records["engine"]
        ]
        started = self.now()
        prompts = self.prompts(self.single.prompts, waves)
        middle = self.now()
        steps = 0
        for prompt, script in zip(prompts, scripts, strict=False):
            processor = self.grammars[name]
            if hasattr(processor.inner, "reset"):
                processor.inner.reset()
            end = self.model.config.text_config.eos_token_id
            tokens = generate(
                self.model, prompt, len(script) + 1, [Scripted(script, end), processor]
            )
            if tokens != script:
                raise SystemExit(f"{name} did not write the driven answer")
            steps += len(tokens) + 1
        self._note(timing, started, middle, len(waves))
        self.passes[name] = steps / len(waves)

    def run_engine(
        self, name: str, engine: Any, waves: Sequence[np.ndarray], timing: Timing, batch: bool
    ) -> None:
        started = self.now()
        if batch:
            built = engine.prompts.build(waves, FIELDS, None)
        else:
            built = self.prompts(engine.prompts, waves)
        middle = self.now()
        if batch:
            found = engine.decode_prompts(built, self.grammar)
        else:
            found = [engine.decode_prompts([prompt], self.grammar)[0] for prompt in built]
        self._note(timing, started, middle, len(waves))
        self.records[name] = [item for item in found if isinstance(item, DecodedRecord)]
        if len(self.records[name]) < len(waves):
            raise SystemExit(f"{name}: {next(i for i in found if isinstance(i, Exception))}")
        self.passes[name] = statistics.mean(item.forward_passes for item in self.records[name])

    def _note(self, timing: Timing, started: float, middle: float, count: int) -> None:
        timing.encoder.append((middle - started) / count)
        timing.decoder.append((self.now() - middle) / count)

    def compare(self) -> dict[str, Timing]:
        """All contenders in alternating order; the slow ones get the first few clips."""
        few = self.waves[: self.args.slow_clips]
        size = self.args.batch_size
        many = self.batched(size)
        contenders: dict[str, Callable[[Timing], None]] = {
            "engine": lambda t: self.run_engine("engine", self.single, self.waves, t, False),
            f"engine, batch {size}": lambda t: self.run_engine("batch", many, self.waves, t, True),
            "plain engine": lambda t: self.run_engine("plain", self.plain, few, t, False),
            "free, float32": lambda t: self.run_free(few, t),
        }
        for name in self.grammars:
            contenders[name] = lambda t, name=name: self.run_backend(  # type: ignore[misc]
                name, few, t
            )
        for contender in contenders.values():
            contender(Timing())
        for processor in self.grammars.values():
            processor.seconds, processor.calls = 0.0, 0
        timings = {name: Timing() for name in contenders}
        names = list(contenders)
        for number in range(self.args.rounds):
            for name in names if number % 2 == 0 else reversed(names):
                contenders[name](timings[name])
        return timings

    def sweep(self) -> list[dict[str, float]]:
        """Throughput at several batch sizes, for accelerators."""
        rows = []
        for size in (1, 8, 32, 128):
            engine, waves = self.batched(size), clips(max(size, 8))
            best = Timing()
            for number in range(3):
                timing = Timing()
                self.run_engine("sweep", engine, waves, timing, True)
                if number:
                    best.encoder += timing.encoder
                    best.decoder += timing.decoder
            seconds = statistics.median(best.total)
            audio = sum(map(len, waves)) / 16_000 / len(waves)
            rows.append(
                {"batch_size": size, "clips_per_second": 1 / seconds, "rtfx": audio / seconds}
            )
        return rows


def driven_tokens(grammar: Grammar, count: int) -> tuple[int, ...]:
    """The first tokens of a sentence as the decoder's tokenizer writes it."""
    text = grammar.layout.transcript_lead + " ".join(SENTENCES[:4])
    return tuple(grammar.table.encode(text)[:count])


def grammar_ms(grammar: Grammar, vocabulary: int, device: str, steps: int = 400) -> float:
    """What the grammar adds to a decode step at batch 1: the mask, and the writer's state."""
    masks = torch.from_numpy(grammar.transcript.masks).flatten(0, 1).to(device)
    logits = torch.randn(1, vocabulary, device=device)
    options = DecodeOptions(min_budget=steps + 1, loop_repeats=steps + 1)
    writer = TranscriptWriter(grammar.transcript, options, steps + 1)
    masked, free = [], []
    for _ in range(steps):
        going_on = (t for t, state in grammar.transcript.moves[writer.place[0]].items())
        token = next(t for t in going_on if grammar.transcript.moves[writer.place[0]][t] >= 0)
        started = time.perf_counter()
        allowed = masks[torch.tensor([writer.place_index], device=device)]
        scores = logits[:, : allowed.shape[1]].masked_fill(~allowed, -torch.inf)
        scores.max(-1).indices.tolist()
        writer.push(token)
        masked.append(time.perf_counter() - started)
        started = time.perf_counter()
        logits.max(-1).indices.tolist()
        free.append(time.perf_counter() - started)
    return 1e3 * (statistics.median(masked) - statistics.median(free))


def validity(count: int) -> tuple[float, float]:
    """The share of valid records from random tiny weights, and of forced closes among them."""
    valid = forced = made = seed = 0
    while made < count:
        model, processor = random_model("tiny", torch.float32, "cpu", seed)
        weights = torch.Generator().manual_seed(seed)
        for name, weight in model.language_model.named_parameters():
            if weight.ndim > 1:
                scale = 0.6 if "lm_head" not in name else 2.0
                weight.copy_(scale * torch.randn(weight.shape, generator=weights))
        options = DecodeOptions(batch_size=100, min_budget=4 + seed % 20)
        engine = Engine(model, processor, options)
        grammar = engine.grammars.get(FIELDS)
        size = min(500, count - made)
        width = model.config.text_config.hidden_size
        prompts = [
            Prompt(3 * torch.randn(5 + number % 7, width, generator=weights), 0.2)
            for number in range(size)
        ]
        for record in engine.decode_prompts(prompts, grammar):
            if not isinstance(record, DecodedRecord):
                continue
            forced += bool(record.flags)
            try:
                meta = record.to_meta(model.config.label_sets)
                valid += list(json.loads(meta.model_dump_json())) == list(FIELDS)
            except ValueError:
                continue
        made += size
        seed += 1
    return valid / count, forced / count


@torch.no_grad()
def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    bench = Bench(args)
    timings = bench.compare()
    records = bench.records["engine"]
    forced = sum(record.forced_tokens for record in records)
    share = forced / (forced + sum(record.sampled_tokens for record in records))
    own_ms = grammar_ms(bench.grammar, bench.model.config.text_config.vocab_size, bench.device)
    step_ms = 1e3 * statistics.median(timings["engine"].decoder) / bench.passes["engine"]
    outlines_ms = 1e3 * bench.grammars["outlines"].seconds / bench.grammars["outlines"].calls
    batch = f"engine, batch {args.batch_size}"
    medians = {name: statistics.median(timing.total) for name, timing in timings.items()}
    decoder = {name: statistics.median(timing.decoder) for name, timing in timings.items()}

    print(f"{'contender':<18}{'s/clip':>9}{'spread':>16}{'decoder s':>11}{'passes':>8}")
    keys = {batch: "batch", "plain engine": "plain", "free, float32": "free"}
    bench.passes["free"] = FREE_TOKENS
    for name, timing in timings.items():
        spread = f"{min(timing.total):.3f}-{max(timing.total):.3f}"
        passes = bench.passes.get(keys.get(name, name), float("nan"))
        print(f"{name:<18}{medians[name]:>9.3f}{spread:>16}{decoder[name]:>11.3f}{passes:>8.1f}")
    audio = statistics.mean(len(wave) for wave in bench.waves) / 16_000
    encoder = {
        name: 1e3 * statistics.median(timings[name].encoder) / audio for name in ("engine", batch)
    }
    print(f"encoder: {encoder['engine']:.1f} ms a second of audio, {encoder[batch]:.1f} batched")
    valid, closes = validity(args.records) if args.records else (float("nan"), float("nan"))
    print(f"valid JSON: {valid:.2%} of {args.records:,} records, {closes:.0%} closed by force")
    print(f"grammar: {own_ms:.3f} ms a step of {step_ms:.1f} ms; outlines {outlines_ms:.3f} ms")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if bench.device == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**20
    print(f"peak memory: {peak:,.0f} MB")
    result: dict[str, Any] = {
        "size": args.size,
        "dtype": args.dtype,
        "device": bench.device,
        "batch_size": args.batch_size,
        "forward_passes_per_record": bench.passes["engine"],
        "transcript_tokens": len(bench.driven),
        "labels": len(LABEL_FIELDS),
        "forced_share": round(share, 4),
        "valid_share": valid,
        "grammar_ms_per_step": round(own_ms, 4),
        "grammar_share_of_step": round(own_ms / step_ms, 4),
        "outlines_ms_per_step": round(outlines_ms, 4),
        "decoder_speedup_vs_outlines": round(decoder["outlines"] / decoder["engine"], 3),
        "end_to_end_speedup_vs_unconstrained": round(medians["free, float32"] / medians[batch], 3),
        "seconds_per_clip": {name: round(value, 4) for name, value in medians.items()},
        "decoder_seconds": {name: round(value, 4) for name, value in decoder.items()},
        "encoder_ms_per_audio_second": {name: round(ms, 2) for name, ms in encoder.items()},
        "passes": bench.passes,
        "tree_nodes": args.tree_nodes,
        "peak_memory_mb": round(peak),
        "rounds": args.rounds,
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
    }
    if bench.device == "cuda":
        result["machine"] = torch.cuda.get_device_name()
        result["sweep"] = bench.sweep()
        for row in result["sweep"]:
            print(row)
    print(json.dumps(result))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", choices=["full", "tiny"], default="full")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="bfloat16")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--slow-clips", type=int, help="clips for the slow contenders")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--tokens", type=int, default=20, help="of the driven transcript")
    parser.add_argument("--tree-nodes", type=int, default=DecodeOptions().tree_nodes)
    parser.add_argument("--records", type=int, default=10_000, help="of the validity count")
    args = parser.parse_args(argv)
    full = args.size == "full"
    args.rounds = args.rounds or (2 if full else 5)
    args.slow_clips = args.slow_clips or (2 if full else args.clips)
    return args


if __name__ == "__main__":
    main()
