"""Format following: how often the answer parses, is valid and holds exactly what was asked for.

    python benchmarks/format_following.py --count 10000 -o benchmarks/results/format-following
    python benchmarks/format_following.py --llm Qwen/Qwen2-Audio-7B-Instruct --count 500 \\
        -o runs/qwen2-audio

Short windows of a manifest's recordings as they are, in noise, over telephone codecs, at odd
sample rates, clipped, cut off, nearly empty, without speech (`speechmeta.eval.hard_clips`), each
with fields of its own; a third of them with the three tasks of ISA-Bench's kind: transcript, gender
and emotion in one JSON. The best published model follows there in 91 to 93 % of its answers (other
recordings and prompts). Writes OUTPUT.json and OUTPUT.txt; answers are kept in OUTPUT.records.jsonl
as they come, and `--resume` goes on with them, also with a larger `--count`.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

SEED = 20_271


def table(result: dict[str, Any]) -> str:
    """The counts as text."""
    lines = [f"{'':34} {'clips':>6} {'parse':>6} {'valid':>6} {'exact':>6} {'follow %':>9}"]
    rows = {name: result["counts"][name] for name in ("all", "three tasks in one JSON")}
    rows |= result["counts"]["by condition"]
    rows |= {f"{n} fields": row for n, row in result["counts"]["by number of fields"].items()}
    for name, row in rows.items():
        share = row["follows_share"]
        lines.append(
            f"{name:34} {row['n']:6} {row['parses']:6} {row['valid']:6} {row['exact_fields']:6} "
            f"{'-' if share is None else f'{100 * share:.2f}':>9}"
        )
    whole = result["counts"]["all"]
    forgiven, sure = whole["follows_with_code_fence_share"], whole["at_least_95"]
    lines.append(
        f"{whole['unreadable']} clips could not be read, {whole['errors']} got no answer; with a "
        f"code fence forgiven: {100 * forgiven:.2f} %; 95 % sure of at least {100 * sure:.2f} %"
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--manifest", type=Path, default=Path("../shared/speech/dev.jsonl"))
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--model", help="a model of this package; the bundled one by default")
    parser.add_argument("--llm", help="an audio language model of transformers in its place")
    parser.add_argument("--batch-size", type=int, default=200, help="clips that are made at once")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("-o", "--output", type=Path, required=True, help="without an ending")
    given = parser.parse_args()
    from speechmeta.eval.format_following import AnalyzerAnswers, Asking, as_dataset, summarise
    from speechmeta.eval.hard_clips import hard_clips
    from speechmeta.eval.run import Journal, RunOptions, run
    from speechmeta.training.splits import read_halves

    halves = read_halves(given.manifest)
    sources = sorted(path for path, half in halves.items() if half == "test")
    clips = hard_clips(sources, given.count, SEED)
    system: Any
    if given.llm:
        from speechmeta.eval.audio_llm import AudioLLM

        system = AudioLLM(given.llm)
    else:
        from speechmeta import Analyzer

        system = AnalyzerAnswers(Analyzer(model=given.model))
    asking = Asking(system, clips)
    journal = Journal(
        given.output.with_suffix(".records.jsonl"),
        {"system": asking.describe(), "seed": SEED, "manifest": str(given.manifest)},
        resume=given.resume,
    )
    size = 1 if given.llm else given.batch_size
    every = max(1, given.count // 20)

    def show(done: int, total: int, _: object) -> None:
        if done % every == 0:
            print(f"{done} of {total}", file=sys.stderr, flush=True)

    records = run(as_dataset(clips), asking, journal, RunOptions(batch_size=size), show)
    result = {
        "kind": "speechmeta-format-following",
        "system": asking.describe(),
        "command": shlex.join(["python", *sys.argv]),
        "seed": SEED,
        "counts": summarise(records, system.label_sets),
    }
    text = table(result)
    print(text)
    given.output.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    given.output.with_suffix(".txt").write_text(f"# {result['command']}\n{text}\n", "utf-8")


if __name__ == "__main__":
    main()
