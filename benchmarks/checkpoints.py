"""What checkpoints know before any search: CTC losses by source, and the label head's labels.

    python benchmarks/checkpoints.py runs/bundled-3/final runs/bundled-4/final \
        [--train ../shared/speech/train.jsonl] [--dev ../shared/speech/dev.jsonl] [--clips 40]

Losses are nats per token of clips that are not augmented, of training and of dev speakers: how far
they are apart says how much a run has learned by heart. Labels are those of the label head alone,
on dev, after `--temperature` and without the training's class shares (`label_prior`). Clips are
cut at 20 seconds. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from speechmeta.audio.loading import SAMPLE_RATE, load_audio
from speechmeta.eval.metrics.labelscores import LabelCase, score_labels
from speechmeta.models.speechllm import load_model
from speechmeta.schema import DEFAULT_LABEL_SETS
from speechmeta.training.dataset import CLOSED_SETS
from speechmeta.training.losses import ctc_loss
from speechmeta.training.manifest import Clip, read_manifest
from speechmeta.training.text import normalize_transcript

_SECONDS = 20.0


def features_of(model: Any, processor: Any, clips: Sequence[Clip]) -> Any:
    """What the encoder and its heads say of a batch of clips."""
    waves = [
        load_audio(clip.audio).resampled(SAMPLE_RATE).mean(0)[: int(_SECONDS * SAMPLE_RATE)]
        for clip in clips
    ]
    batch = processor.prepare_audio(waves)
    with torch.inference_mode():
        return model.get_audio_features(batch["input_values"], batch["audio_attention_mask"])


def ctc_losses(model: Any, processor: Any, clips: Sequence[Clip], count: int) -> dict[str, float]:
    """By source the CTC loss a token, over at most `count` clips with a transcript."""
    sources: dict[str, list[tuple[Clip, str]]] = defaultdict(list)
    for clip in clips:
        text = normalize_transcript(clip.transcript) if clip.transcript else None
        if text and clip.duration <= _SECONDS:
            sources[clip.dataset].append((clip, text))
    random = np.random.default_rng(0)
    result = {}
    for source, items in sorted(sources.items()):
        total = tokens = 0.0
        for place in random.permutation(len(items))[:count]:
            clip, text = items[place]
            ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
            target = {"ctc_targets": torch.tensor(ids), "ctc_lengths": torch.tensor([len(ids)])}
            features = features_of(model, processor, [clip])
            total += float(ctc_loss(features, target, model.config)) * len(ids)
            tokens += len(ids)
        result[source] = round(total / tokens, 3)
    return result


def label_scores(
    model: Any, processor: Any, clips: Sequence[Clip], temperature: float
) -> dict[str, dict[str, float]]:
    """By field accuracy, UAR, log loss and calibration error of the label head."""
    known = sorted((clip for clip in clips if clip.labels), key=lambda clip: clip.duration)
    priors = (model.config.decoding or {}).get("label_prior", {})
    cases: dict[str, list[LabelCase]] = defaultdict(list)
    for start in range(0, len(known), 8):
        part = known[start : start + 8]
        logits = features_of(model, processor, part).label_logits
        for row, clip in enumerate(part):
            for field, label in clip.labels.items():
                prior = priors.get(field, {})
                shares = torch.tensor([prior.get(value, 1.0) for value in CLOSED_SETS[field]])
                scores = logits[field][row].float().log_softmax(-1) / temperature - shares.log()
                values = dict(zip(CLOSED_SETS[field], scores.softmax(-1).tolist(), strict=True))
                best = max(values, key=lambda value: values[value])
                speaker = f"{clip.dataset} {clip.speaker}"
                cases[field].append(LabelCase(speaker, label, best, probabilities=values))
    result = {}
    for field, items in cases.items():
        scores = score_labels(items, DEFAULT_LABEL_SETS[field])
        assert scores is not None
        right = [case.probabilities[case.reference] for case in items if case.probabilities]
        result[field] = {
            "n": len(items),
            "accuracy": round(scores["accuracy"], 4),
            "uar": round(scores["uar"], 4),
            "log_loss": round(float(-np.mean(np.log(np.array(right) + 1e-9))), 4),
            "ece": round(scores["ece"], 4),
            "ece_by_chance": round(scores["ece_by_chance"], 4),
            "recalls": {
                name: round(item["recall"], 3)
                for name, item in scores["per_class"].items()
                if item["support"]
            },
        }
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoints", nargs="+", type=Path)
    parser.add_argument("--train", type=Path, default=Path("../shared/speech/train.jsonl"))
    parser.add_argument("--dev", type=Path, default=Path("../shared/speech/dev.jsonl"))
    parser.add_argument("--clips", type=int, default=40, help="most clips of a source for CTC")
    parser.add_argument("--temperature", type=float, default=1.0)
    given = parser.parse_args()
    missing = [path for path in (given.train, given.dev) if not path.is_file()]
    if missing:
        print(json.dumps({"skipped": f"no recordings at {missing[0]}"}))
        return 0
    manifests = {
        split: [clip for clip in read_manifest(path) if clip.speech]
        for split, path in (("train", given.train), ("dev", given.dev))
    }
    losses = Table("checkpoint", "source", "CTC, train", "CTC, dev")
    labels = Table(
        "checkpoint", "field", "accuracy", "UAR", "log loss", "ECE (by chance)", "recall"
    )
    result: dict[str, Any] = {"benchmark": "checkpoints", "temperature": given.temperature}
    for path in given.checkpoints:
        model, processor = load_model(path, device="cpu", local_files_only=True)
        ctc = {
            split: ctc_losses(model, processor, clips, given.clips)
            for split, clips in manifests.items()
        }
        for source in sorted({*ctc["train"], *ctc["dev"]}):
            losses.add_row(
                str(path), source, *(str(ctc[split].get(source, "-")) for split in manifests)
            )
        scores = label_scores(model, processor, manifests["dev"], given.temperature)
        for field in DEFAULT_LABEL_SETS:
            if field in scores:
                item = scores[field]
                labels.add_row(
                    str(path), field, f"{item['accuracy']:.1%}", f"{item['uar']:.1%}",
                    f"{item['log_loss']:.3f}", f"{item['ece']:.1%} ({item['ece_by_chance']:.1%})",
                    ", ".join(f"{name} {value:.0%}" for name, value in item["recalls"].items()),
                )  # fmt: skip
        result[str(path)] = {"ctc": ctc, "labels": scores}
    console = Console(width=160)
    console.print(losses)
    console.print(labels)
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
