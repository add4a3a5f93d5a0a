"""Folder runs against a loop over `generate_meta`; growth of time and memory.

    python benchmarks/folder.py            # about five minutes on two cores
    python benchmarks/folder.py --quick    # less than one, for a look

Generates stereo telephone calls with flite (Debian: apt-get install flite) or from the
recordings of a folder, and measures

1. the loop that a user would write: one call after the other, its turns found by
   `prepare_call`, `generate_meta` for each turn;
2. `speechmeta batch` over the same calls, with the model in the main process and in several;
3. how the batch's time and memory grow with the number of files and with their length.

The model is loaded and warm before anything is timed. Memory is the resident set of the run's
processes together, sampled 20 times a second. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import wave
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from speechmeta.audio.loading import load_audio
from speechmeta.batch.calls import AnalyzerSource, CallJob, LoadedAnalyzer
from speechmeta.batch.journal import Entry
from speechmeta.batch.local import EngineOptions, LocalEngine, Outcome
from speechmeta.batch.runner import FolderOptions, run_folder
from speechmeta.pipeline.analyzer import Analyzer
from speechmeta.pipeline.options import CallOptions, ModelOptions
from speechmeta.pipeline.plan import prepare_call

RATE = 8000
VOICES = ("slt", "rms", "awb", "kal16")
SENTENCES = (
    "Thank you for calling.",
    "How can I help you today?",
    "I would like to change my address.",
    "Could you tell me the number of your contract?",
    "One moment please.",
    "There is no hurry.",
    "It is under all the other papers.",
    "I have been waiting for three weeks.",
    "I am sorry to hear that.",
    "Let me look into it.",
    "Is there anything else?",
    "No, that was all.",
)

Samples = npt.NDArray[np.float32]


def sentences(folder: Path | None) -> list[Samples]:
    """Clips of speech, (samples,) at 8 kHz, peak 0.5, 0.5 to 4 seconds each."""
    clips = []
    if folder is not None:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        for path in files[:48]:
            samples = load_audio(path).resampled(RATE)[0]
            clips.append(samples[: 4 * RATE])
    elif shutil.which("flite"):
        with tempfile.TemporaryDirectory() as temporary:
            target = os.path.join(temporary, "speech.wav")
            for voice in VOICES:
                for text in SENTENCES:
                    subprocess.run(["flite", "-voice", voice, "-t", text, "-o", target], check=True)
                    clips.append(load_audio(target).resampled(RATE)[0])
    else:
        sys.exit("folder.py: no speech: install flite, or name recordings with --speech FOLDER")
    return [
        (0.5 * clip / max(float(np.abs(clip).max()), 1e-6)).astype(np.float32)
        for clip in clips
        if len(clip) > RATE // 2
    ]


def write_call(
    path: Path, clips: Sequence[Samples], seconds: float, every: float, seed: int
) -> None:
    """A stereo call of `seconds`: somebody speaks every `every` seconds, in turn."""
    rng = np.random.default_rng(seed)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(RATE)
        # Piece by piece, as hours of audio would not fit in memory.
        for number in range(max(1, round(seconds / every))):
            piece = rng.normal(0, 1e-3, (round(every * RATE), 2)).astype(np.float32)
            clip = clips[int(rng.integers(len(clips)))][: len(piece) - RATE // 2]
            piece[RATE // 4 : RATE // 4 + len(clip), number % 2] += clip
            file.writeframes((piece * 32767).astype("<i2").tobytes())


class Memory:
    """Samples the resident memory of this process and its children; `peak` in MB."""

    def __init__(self) -> None:
        self.peak = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:
        self.peak = resident_mb()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            self.peak = max(self.peak, resident_mb())


def resident_mb() -> float:
    """Resident memory of this process and all below it."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int(
                (folder / "stat").read_text().rpartition(")")[2].split()[1]
            )
        except (OSError, IndexError):
            continue
    own = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in own} - own:
        own |= more
    pages = 0
    for pid in own:
        try:
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        except OSError:
            continue
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class WarmEngine:
    """An engine that stays for the next run."""

    def __init__(self, engine: LocalEngine) -> None:
        self._engine = engine

    def run(self, entries: Iterator[Entry], root: bytes) -> Iterator[Outcome]:
        return self._engine.run(entries, root)

    def close(self) -> None:
        """Left open; `main` closes what it made."""


@dataclass
class Bench:
    """The model, warm engines, and a place for files."""

    folder: Path
    analyzer: Analyzer
    source: AnalyzerSource
    batch_size: int
    workers: int

    def engine(self, model_processes: int) -> LocalEngine:
        spill = self.folder / f"spill-{model_processes}"
        spill.mkdir()
        use = EngineOptions(
            workers=self.workers, batch_size=self.batch_size, model_processes=model_processes
        )
        source: Any = self.source if model_processes else LoadedAnalyzer(self.analyzer)
        return LocalEngine(CallJob(), source, use, spill)

    def batch(self, engine: LocalEngine, root: Path, files: int) -> dict[str, float]:
        """One folder run over the first `files` of a folder's recordings."""
        chosen = self.folder / "chosen"
        out = self.folder / "out"
        for path in (chosen, out):
            shutil.rmtree(path, ignore_errors=True)
        chosen.mkdir()
        for path in sorted(root.iterdir())[:files]:
            os.link(path, chosen / path.name)
        before = resident_mb()
        with Memory() as memory:
            result = run_folder(
                chosen,
                out,
                CallJob(),
                self.source,
                FolderOptions(),
                make_engine=lambda *_: WarmEngine(engine),
            )
        if result.counts.failed or result.counts.done != files:
            sys.exit(f"folder.py: {result.counts}; see {out / 'results.jsonl'}")
        return {
            "seconds": result.seconds,
            "audio_seconds": result.audio_seconds,
            "peak_mb": memory.peak,
            "above_mb": memory.peak - before,
        }

    def loop(self, root: Path, files: int, limit: float) -> dict[str, float]:
        """The loop that a user would write, over at most `limit` seconds of calls."""
        begun = time.perf_counter()
        done = 0
        audio = 0.0
        for path in sorted(root.iterdir())[:files]:
            call = prepare_call(path, CallOptions())
            for clip in call.clips():
                self.analyzer.generate_meta((clip, 16000))
            audio += call.plan.audio.duration
            done += 1
            if time.perf_counter() - begun > limit:
                break
        return {"calls": done, "seconds": time.perf_counter() - begun, "audio_seconds": audio}


def fold(measured: dict[float, float]) -> float:
    """The largest departure from proportional growth, as a share of the last point's rate."""
    rates = {size: seconds / size for size, seconds in measured.items()}
    last = rates[max(rates)]
    return max(abs(rate / last - 1) for rate in rates.values())


def row(*cells: object) -> None:
    print(
        "  ".join(f"{cell:>14}" if number else f"{cell:<26}" for number, cell in enumerate(cells))
    )


def number(value: float, digits: int = 1) -> str:
    return f"{value:.{digits}f}"


def measure(bench: Bench, clips: list[Samples], arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs everything and prints the tables."""
    calls = bench.folder / "calls"
    calls.mkdir()
    for index in range(arguments.calls):
        write_call(calls / f"{index:04d}.wav", clips, arguments.seconds, arguments.every, index)
    found: dict[str, Any] = {}

    bench.loop(calls, 2, 60.0)
    loop = bench.loop(calls, arguments.calls, arguments.loop_limit)
    found["loop"] = loop = {**loop, **rates(loop, loop["calls"])}
    row("", "calls", "seconds", "calls/minute", "RTFx", "peak MB")
    row(
        "loop over generate_meta",
        int(loop["calls"]),
        number(loop["seconds"]),
        number(loop["calls_per_minute"]),
        number(loop["rtfx"]),
        "",
    )
    engines: list[tuple[float, LocalEngine]] = []
    for processes in arguments.model_processes:
        engine = bench.engine(processes)
        bench.batch(engine, calls, min(arguments.calls, 8 * max(1, processes)))
        run = bench.batch(engine, calls, arguments.calls)
        run = {**run, **rates(run, arguments.calls)}
        run["speedup"] = run["calls_per_minute"] / loop["calls_per_minute"]
        name = f"batch, {processes} processes" if processes else "batch, model in main"
        found[f"batch_{processes}"] = run
        row(
            name,
            arguments.calls,
            number(run["seconds"]),
            number(run["calls_per_minute"]),
            number(run["rtfx"]),
            number(run["peak_mb"], 0),
            f"{run['speedup']:.2f} x loop",
        )
        engines.append((run["speedup"], engine))
    found["speedup"], engine = max(engines, key=lambda item: item[0])

    print()
    row("files", "seconds", "s/file", "peak MB", "above start")
    growth = {}
    memory = {}
    for files in arguments.growth:
        run = bench.batch(engine, calls, files)
        growth[files] = run["seconds"]
        memory[files] = run["peak_mb"]
        row(
            files,
            number(run["seconds"]),
            number(run["seconds"] / files, 3),
            number(run["peak_mb"], 0),
            number(run["above_mb"], 0),
        )
    found["files"] = {"seconds": growth, "peak_mb": memory, "departure": fold(growth)}

    print()
    row("minutes a file", "files", "seconds", "s/minute", "peak MB", "above start")
    growth, memory = {}, {}
    for minutes, files in arguments.lengths:
        root = bench.folder / f"long-{minutes}"
        root.mkdir()
        for index in range(files):
            write_call(root / f"{index}.wav", clips, 60 * minutes, arguments.sparse, index)
        run = bench.batch(engine, root, files)
        growth[minutes] = run["seconds"] / files
        memory[minutes] = run["peak_mb"]
        row(
            minutes,
            files,
            number(run["seconds"]),
            number(run["seconds"] / files / minutes, 3),
            number(run["peak_mb"], 0),
            number(run["above_mb"], 0),
        )
        shutil.rmtree(root)
    found["lengths"] = {"seconds": growth, "peak_mb": memory, "departure": fold(growth)}
    for _, engine in engines:
        engine.close()
    return found


def rates(run: dict[str, float], calls: float) -> dict[str, float]:
    return {
        "calls_per_minute": 60 * calls / run["seconds"],
        "rtfx": run["audio_seconds"] / run["seconds"],
    }


def pairs(text: str) -> list[tuple[int, int]]:
    """`1x20,10x3` as [(1, 20), (10, 3)]."""
    found = []
    for item in text.split(","):
        minutes, _, files = item.partition("x")
        found.append((int(minutes), int(files or 1)))
    return found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    numbers = lambda text: [int(item) for item in text.split(",")]  # noqa: E731
    parser.add_argument("--model", help="checkpoint; the bundled one without it")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument(
        "--model-processes", type=numbers, default=[0, 2], help="0 is the main process"
    )
    parser.add_argument("--speech", type=Path, help="folder of recordings in place of flite")
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=12.0, help="length of a call")
    parser.add_argument("--every", type=float, default=3.0, help="seconds from turn to turn")
    parser.add_argument("--loop-limit", type=float, default=75.0, help="seconds for the loop")
    parser.add_argument("--growth", type=numbers, default=[50, 100, 200])
    parser.add_argument(
        "--lengths", type=pairs, default=pairs("1x60,10x6,120x1"), help="minutes x files"
    )
    parser.add_argument("--sparse", type=float, default=20.0, help="the same in long calls")
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.calls, arguments.loop_limit = 20, 15.0
        arguments.growth, arguments.lengths = [5, 10, 20], pairs("1x6,6x1")
    if max(arguments.growth) > arguments.calls:
        parser.error("--growth counts calls: --calls has to be at least its largest number")
    return arguments


def main() -> None:
    arguments = parse()
    clips = sentences(arguments.speech)
    source = AnalyzerSource(
        ModelOptions(
            model=arguments.model,
            device=arguments.device,
            batch_size=arguments.batch_size,
            local_files_only=True,
        )
    )
    analyzer = Analyzer(**dict(source.model))
    info = analyzer.info
    with tempfile.TemporaryDirectory(prefix="speechmeta-bench-") as folder:
        bench = Bench(
            Path(folder), analyzer, replace(source), arguments.batch_size, arguments.workers
        )
        print(
            f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores; model "
            f"{info.name} on {info.device}, {info.dtype}; calls of {arguments.seconds:g} s\n"
        )
        found = measure(bench, clips, arguments)
    print(
        json.dumps(
            {
                "benchmark": "folder",
                "cores": os.cpu_count(),
                "model": info.model_dump(),
                "call_seconds": arguments.seconds,
                "batch_size": arguments.batch_size,
                **found,
            }
        )
    )


if __name__ == "__main__":
    main()
