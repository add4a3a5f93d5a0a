"""How a finished checkpoint is best decoded: search weights and label temperatures.

Run as `python -m speechmeta.training.tune CHECKPOINT MANIFEST`; it writes `decoding` into the
checkpoint's config.json. Speakers are split in two halves by name: one half chooses, the other
shows what the choice is worth.
"""

from __future__ import annotations

import argparse
import itertools
import json
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jiwer
import numpy as np

from speechmeta.audio import SAMPLE_RATE, load_audio
from speechmeta.decoding.engine import Engine
from speechmeta.decoding.options import DecodeOptions
from speechmeta.decoding.record import DecodedRecord
from speechmeta.errors import DatasetError
from speechmeta.models.speechllm import load_model
from speechmeta.schema import LABEL_FIELDS, check_fields
from speechmeta.training.manifest import Clip, read_manifest
from speechmeta.training.text import normalize_transcript

NGRAM_WEIGHTS = (0.0, 0.2, 0.4, 0.6)
TOKEN_BONUSES = (0.0, 1.0, 2.0)
CTC_WEIGHTS = (0.5, 0.8, 1.0)
LABEL_HEAD_WEIGHTS = (0.0, 0.5, 1.0)
_TEMPERATURES = np.geomspace(1.0, 5.0, 65)
"""Never below 1: what made one half of the dev speakers surer made the other half wronger."""


def first_half(clip: Clip) -> bool:
    """Whether a clip's speaker is among those that choose."""
    return bool(zlib.crc32(f"{clip.dataset} {clip.speaker}".encode()) % 2)


def tune_search(
    model: Any, processor: Any, clips: Sequence[Clip], beam: int = 24
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The best search for transcripts, and the table of all that were tried.

    Each row of the table has the options, and the word error rates of both halves.
    """
    asked = check_fields(["SpeechActivity", "Transcript"])
    prompts = _encoded(model, processor, clips, asked)
    rows: list[dict[str, Any]] = []

    def measure(**options: Any) -> None:
        engine = Engine(model, processor, DecodeOptions(batch_size=16, **options))
        records = engine.decode_prompts(prompts, engine.grammars.get(asked))
        rates = {}
        for name, half in (("first", True), ("second", False)):
            pairs = [
                (normalize_transcript(clip.transcript or ""), _text(record))
                for clip, record in zip(clips, records, strict=True)
                if first_half(clip) is half
            ]
            said = [text for text, _ in pairs if text]
            rates[name] = jiwer.wer(said, [heard for text, heard in pairs if text])
        rows.append({**options, **rates})
        print(json.dumps(rows[-1]), flush=True)

    measure(transcript_search="greedy")
    for weight, bonus in itertools.product(NGRAM_WEIGHTS, TOKEN_BONUSES):
        if weight or not bonus:
            measure(
                transcript_search="ctc",
                ctc_beam=beam,
                ctc_weight=0.8,
                ngram_weight=weight,
                ctc_token_bonus=bonus,
            )
    best = min(rows, key=lambda row: row["first"])
    if best["transcript_search"] == "ctc":
        for weight in CTC_WEIGHTS:
            if weight != best["ctc_weight"]:
                measure(**{**_options(best), "ctc_weight": weight})
        best = min(rows, key=lambda row: row["first"])
    return _options(best), rows


def _options(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in ("first", "second")}


def tune_labels(
    model: Any, processor: Any, clips: Sequence[Clip]
) -> tuple[dict[str, float], dict[str, float], dict[str, dict[str, float]]]:
    """By label field the label head's weight and the temperature with the least log loss.

    Returns:
        Weights, temperatures, and what they do for both halves.
    """
    asked = check_fields(["SpeechActivity", *LABEL_FIELDS])
    prompts = _encoded(model, processor, clips, asked)
    best: dict[str, tuple[float, float, float, dict[str, float]]] = {}
    for weight in LABEL_HEAD_WEIGHTS if model.label_head is not None else (0.0,):
        options = DecodeOptions(
            batch_size=16, label_head_weight=dict.fromkeys(LABEL_FIELDS, weight)
        )
        engine = Engine(model, processor, options)
        records = engine.decode_prompts(prompts, engine.grammars.get(asked))
        temperatures, report = tune_temperatures(records, clips)
        for field, figures in report.items():
            loss = figures["log loss of the first half, after"]
            if field not in best or loss < best[field][0]:
                best[field] = (loss, weight, temperatures[field], figures)
            print(json.dumps({"field": field, "label_head_weight": weight, **figures}), flush=True)
    return (
        {field: weight for field, (_, weight, _, _) in best.items()},
        {field: temperature for field, (_, _, temperature, _) in best.items()},
        {field: figures for field, (_, _, _, figures) in best.items()},
    )


def tune_temperatures(
    records: Sequence[Any], clips: Sequence[Clip]
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """By label field the temperature with the least log loss, and what it does for both halves."""
    known: dict[str, list[tuple[bool, np.ndarray, int]]] = defaultdict(list)
    for clip, record in zip(clips, records, strict=True):
        if not isinstance(record, DecodedRecord):
            continue
        for field, label in clip.labels.items():
            probabilities = record.probabilities.get(field, {})
            if label in probabilities:
                row = np.log(np.array(list(probabilities.values())) + 1e-12)
                known[field].append((first_half(clip), row, list(probabilities).index(label)))
    temperatures: dict[str, float] = {}
    report: dict[str, dict[str, float]] = {}
    for field, items in known.items():
        halves = {
            half: [(row, right) for chosen, row, right in items if chosen is half]
            for half in (True, False)
        }
        if not all(halves.values()):
            continue

        def loss(temperature: float, half: bool, rows: Any = halves) -> float:
            return float(
                np.mean([-_softened(row, temperature)[right] for row, right in rows[half]])
            )

        best = min(_TEMPERATURES, key=lambda value: loss(value, True))
        temperatures[field] = round(float(best), 3)
        report[field] = {
            f"log loss of the {name} half, {when}": round(loss(value, half), 4)
            for name, half in (("first", True), ("second", False))
            for when, value in (("before", 1.0), ("after", best))
        }
    return temperatures, report


def _softened(log_probs: np.ndarray, temperature: float) -> np.ndarray:
    scaled = log_probs / temperature
    result: np.ndarray = scaled - np.logaddexp.reduce(scaled)
    return result


def _encoded(model: Any, processor: Any, clips: Sequence[Clip], fields: Sequence[str]) -> Any:
    """What the decoder reads of each clip: the same for all ways to decode it."""
    waves = [load_audio(clip.audio).resampled(SAMPLE_RATE).mean(0) for clip in clips]
    builder = Engine(model, processor, DecodeOptions(batch_size=16)).prompts
    return builder.build(waves, fields, None)


def _text(record: Any) -> str:
    return str(record.values.get("Transcript") or "") if isinstance(record, DecodedRecord) else ""


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--clips", type=int, default=300, help="most clips for the search")
    parser.add_argument("--beam", type=int, default=24)
    parser.add_argument("--abstain-below", type=float, default=0.5)
    options = parser.parse_args(arguments)
    clips = [clip for clip in read_manifest(options.manifest) if clip.speech]
    spoken = [clip for clip in clips if clip.transcript and normalize_transcript(clip.transcript)]
    if not spoken:
        raise DatasetError("no clip has a transcript", "give a manifest with transcripts")
    rng = np.random.default_rng(0)
    some = [spoken[place] for place in rng.permutation(len(spoken))[: options.clips]]
    model, processor = load_model(options.checkpoint)
    search, _ = tune_search(model, processor, some, options.beam)
    labelled = [clip for clip in clips if clip.labels]
    weights, temperatures, report = tune_labels(model, processor, labelled)
    print(json.dumps(report, indent=1))
    path = options.checkpoint / "config.json"
    config = json.loads(path.read_text())
    config["decoding"] = {
        **search,
        "label_head_weight": weights,
        "label_temperature": temperatures,
    }
    config["abstain_below"] = options.abstain_below
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    print(json.dumps(config["decoding"]))


if __name__ == "__main__":
    main()
