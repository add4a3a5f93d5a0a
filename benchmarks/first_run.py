"""How long `speechmeta analyze` takes from nothing to JSON, and where that goes.

    python benchmarks/first_run.py [--runs 3] [--audio examples/call.wav]

Seconds of the processor (user and system, all threads) say what the program costs on a machine
that has other work as well; seconds on the wall are worth something on an idle one alone. Prints
the stages of one start, then the runs of the whole command; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

_STAGES = """
import json, sys, time
from speechmeta.cli.startup import let_threads_sleep, without_garbage_collection
let_threads_sleep()
marks = [("Python", time.process_time())]
def mark(name):
    marks.append((name, time.process_time()))
with without_garbage_collection():
    import torch
    mark("import torch")
    import transformers.models.whisper.modeling_whisper
    mark("import transformers' Whisper")
    import speechmeta.pipeline.analyzer, speechmeta.models.whisper_meta.recognition
    mark("import speechmeta")
    analyzer = speechmeta.pipeline.analyzer.Analyzer()
    mark("load the model")
analyzer.analyze_call(sys.argv[1])
mark("the recording")
analyzer.analyze_call(sys.argv[1])
mark("the recording once more")
print(json.dumps(marks))
"""


def stages(audio: str) -> dict[str, float]:
    """Seconds of the processor by stage, in a process of its own."""
    command = [sys.executable, "-c", _STAGES, audio]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    found, before = {}, 0.0
    for name, at in json.loads(done.stdout.splitlines()[-1]):
        found[name] = round(at - before, 2)
        before = at
    return found


def run(audio: str) -> tuple[float, float]:
    """One run of the command: seconds on the wall, seconds of the processor."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "speechmeta.cli", "analyze", audio, "--json"]
    subprocess.run(command, capture_output=True, check=True, cwd=ROOT)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--audio", default=str(ROOT / "examples" / "call.wav"))
    args = parser.parse_args()
    found = stages(args.audio)
    print(f"{'stage':<28} {'CPU s':>6}")
    for name, seconds in found.items():
        print(f"{name:<28} {seconds:>6.2f}")
    print(f"\n{'whole command':<28} {'CPU s':>6} {'wall s':>6}")
    runs = []
    for number in range(args.runs):
        wall, cpu = run(args.audio)
        runs.append((cpu, wall))
        print(f"{f'run {number + 1}':<28} {cpu:>6.2f} {wall:>6.2f}")
    result = {
        "benchmark": "first_run",
        "cpu_seconds": round(min(cpu for cpu, _ in runs), 2),
        "wall_seconds": round(min(wall for _, wall in runs), 2),
        "stages": found,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
