"""Word errors of a Whisper original, padded and short, and of the checkpoint tuned from it.

    python benchmarks/words.py ORIGINAL CHECKPOINT --data ../shared/speech [--half test]
        [--clips N] [--bfloat16] [--only ours]

Greedy, Whisper's English normaliser, wideband and over a G.711 line, by source, on one half of
dev.jsonl (`speechmeta.training.splits`); clips without speech: the share that was given words,
before and behind the decoder's own <|nospeech|>. Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, WhisperForConditionalGeneration

from speechmeta.training.manifest import Clip, read_manifest
from speechmeta.training.splits import read_halves
from speechmeta.training.whisper_meta.measure import transcribe, word_errors
from speechmeta.training.whisper_meta.store import build_store


def load(folder: Path, dtype: torch.dtype) -> tuple[Any, float]:
    """Whisper inside a checkpoint of either layout, and the silence it wants behind a clip."""
    config = json.loads((folder / "config.json").read_text())
    if config["model_type"] == "whisper_meta":
        from speechmeta.models.whisper_meta import WhisperMetaForConditionalGeneration

        meta = WhisperMetaForConditionalGeneration.from_pretrained(folder, trust_remote_code=False)
        return meta.whisper.to(dtype).eval(), float(config["trailing_silence"])
    model = WhisperForConditionalGeneration.from_pretrained(
        folder, dtype=dtype, trust_remote_code=False
    )
    return model.eval(), 1.0


def some(clips: list[Clip], count: int | None) -> list[Clip]:
    """At most `count` clips of each source."""
    grouped: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        if count is None or len(grouped[clip.dataset]) < count:
            grouped[clip.dataset].append(clip)
    return [clip for group in grouped.values() for clip in group]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("original", type=Path)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, default=Path("../shared/speech"))
    parser.add_argument("--half", choices=("tune", "test"), default="test")
    parser.add_argument("--clips", type=int, help="at most so many of a source")
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--only", choices=("ours", "original"), help="leave the other out")
    given = parser.parse_args()
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    manifest = given.data / "dev.jsonl"
    halves = read_halves(manifest)
    clips = [clip for clip in read_manifest(manifest) if halves[clip.audio] == given.half]
    # A transcript, or nothing to write; languages other than English have neither.
    clips = [clip for clip in clips if clip.duration < 29 and (clip.transcript or not clip.speech)]
    clips = some(clips, given.clips)
    normal = EnglishTextNormalizer({})
    dtype = torch.bfloat16 if given.bfloat16 else torch.float32
    runs = [
        ("original padded", given.original, True, False),
        ("original short", given.original, False, False),
        ("ours short", given.checkpoint, False, False),
        ("original padded, telephone", given.original, True, True),
        ("ours short, telephone", given.checkpoint, False, True),
    ]
    table: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        audio = build_store(clips, Path(folder))
        for name, path, padded, telephone in runs:
            if given.only and not name.startswith(given.only):
                continue
            model, trailing = load(path, dtype)
            tokenizer = AutoTokenizer.from_pretrained(given.original, trust_remote_code=False)
            heard = transcribe(
                model, tokenizer, clips, audio, None if padded else trailing, telephone
            )
            table[name] = word_errors(heard, normal)
            quiet = [one for one in heard if not one.clip.speech]
            for source, row in word_errors(quiet, normal, 0.5).items():
                table[name][source]["with words behind <|nospeech|>"] = row["with words"]
            print(f"\n{name}")
            for source, row in table[name].items():
                values = "  ".join(f"{key} {value:g}" for key, value in row.items())
                print(f"  {source:36} {values}", flush=True)
    print(json.dumps({"half": given.half, "clips": len(clips), "table": table}))


if __name__ == "__main__":
    main()
