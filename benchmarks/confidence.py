"""What `transcript_confidence` is worth: word errors when the least sure clips are left out.

    python benchmarks/confidence.py --data ../shared/speech [--model FOLDER] [--clips 40]

Clips with words of one half of dev.jsonl (`speechmeta.training.splits`), at most so many of a
source; word errors over all of them after Whisper's English normaliser. Prints a table and ends
with one JSON line.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

SHARES = (0.0, 0.05, 0.1, 0.2, 0.3)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/speech"))
    parser.add_argument("--half", choices=("tune", "test"), default="test")
    parser.add_argument("--model", default=None, help="a checkpoint; default: the bundled")
    parser.add_argument("--clips", type=int, default=40, help="at most so many of a source")
    parser.add_argument("--dtype", default="auto")
    args = parser.parse_args(argv)

    import jiwer
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    from speechmeta import Analyzer
    from speechmeta.audio.loading import load_audio
    from speechmeta.training.manifest import read_manifest
    from speechmeta.training.splits import read_halves

    manifest = args.data / "dev.jsonl"
    halves = read_halves(manifest)
    counts: dict[str, int] = defaultdict(int)
    clips = []
    for clip in read_manifest(manifest):
        wanted = halves[clip.audio] == args.half and clip.transcript and clip.duration < 29
        if wanted and counts[clip.dataset] < args.clips:
            counts[clip.dataset] += 1
            clips.append(clip)
    given = {} if args.model is None else {"model": args.model}
    analyzer = Analyzer(**given, dtype=args.dtype)
    normal = EnglishTextNormalizer({})
    rows: list[tuple[float, str, str]] = []
    for start in range(0, len(clips), 64):
        some = clips[start : start + 64]
        waves = [load_audio(clip.audio).resampled(16_000)[0] for clip in some]
        records = analyzer.decode(waves, ("Transcript",))
        for clip, record in zip(some, records, strict=True):
            reference = normal(clip.transcript or "")
            if not reference or not hasattr(record, "values"):
                continue
            # Where nothing was written there is nothing to be unsure of.
            sure = record.transcript_confidence
            text = normal(str(record.values["Transcript"]))
            rows.append((1.0 if sure is None else sure, reference, text))
    rows.sort()

    def errors(kept: Sequence[tuple[float, str, str]]) -> float:
        return 100 * float(jiwer.wer([row[1] for row in kept], [row[2] for row in kept]))

    print(f"{len(rows)} clips\n{'left out':>8} {'below':>7} {'WER %':>7}")
    found = {}
    for share in SHARES:
        first = round(share * len(rows))
        found[f"{share:.2f}"] = round(errors(rows[first:]), 2)
        print(f"{share:>8.0%} {rows[first][0]:>7.3f} {found[f'{share:.2f}']:>7.2f}")
    tenths = [rows[len(rows) * i // 10 : len(rows) * (i + 1) // 10] for i in range(10)]
    print("\nWER % by tenth, the least sure first: ", *(f"{errors(part):.1f}" for part in tenths))
    print(json.dumps({"clips": len(rows), "half": args.half, "wer_without": found}))


if __name__ == "__main__":
    main()
