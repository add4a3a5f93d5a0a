"""How a finished checkpoint is best decoded: search weights and label temperatures.

Run as `python -m speechmeta.training.calibrate CHECKPOINT MANIFEST`; it writes `decoding` into the
checkpoint's config.json. Speakers are split in two halves by name: for the search one half chooses
and the other shows what the choice is worth; temperatures have to hold from half to half.
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

from speechmeta.audio.loading import SAMPLE_RATE, load_audio
from speechmeta.decoding.engine import Engine
from speechmeta.decoding.options import DecodeOptions
from speechmeta.decoding.record import DecodedRecord
from speechmeta.errors import DatasetError
from speechmeta.models.speechllm import load_model
from speechmeta.schema import LABEL_FIELDS, check_fields
from speechmeta.training.manifest import Clip, read_manifest
from speechmeta.training.text import normalize_transcript

SEARCHED: dict[str, tuple[float, ...]] = {
    "ctc_token_bonus": (0.0, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5),
    "word_weight": (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
    "ngram_weight": (0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8),
    "ctc_weight": (0.5, 0.8, 1.0),
}
"""What the search for transcripts is tried with; one option is changed at a time."""
_START = {"ctc_token_bonus": 2.0, "word_weight": 0.5, "ngram_weight": 0.5, "ctc_weight": 0.8}
LABEL_HEAD_WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
_TEMPERATURES = np.geomspace(0.5, 5.0, 93)


def first_half(clip: Clip) -> bool:
    """Whether a clip's speaker is among those that choose."""
    return bool(zlib.crc32(f"{clip.dataset} {clip.speaker}".encode()) % 2)


def spread(clips: Sequence[Clip], count: int) -> list[Clip]:
    """At most `count` clips, drawn so that no source has more than others have to give."""
    rng = np.random.default_rng(0)
    sources: dict[str, list[Clip]] = defaultdict(list)
    for place in rng.permutation(len(clips)):
        sources[clips[place].dataset].append(clips[place])
    rounds = itertools.zip_longest(*sources.values())
    return [clip for clip in itertools.chain.from_iterable(rounds) if clip is not None][:count]


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
    names = [name for name in SEARCHED if _useful(name, model)]
    measure(transcript_search="ctc", ctc_beam=beam, **{name: _START[name] for name in names})
    best = rows[-1]
    improved = True
    while improved:
        improved = False
        for name, step in itertools.product(names, (1, -1)):
            while True:
                place = SEARCHED[name].index(best[name]) + step
                if not 0 <= place < len(SEARCHED[name]):
                    break
                changed = {**_options(best), name: SEARCHED[name][place]}
                if any(_options(row) == changed for row in rows):
                    break
                measure(**changed)
                if rows[-1]["first"] >= best["first"]:
                    break
                best, improved = rows[-1], True
    return _options(min(rows, key=lambda row: row["first"])), rows


def _useful(name: str, model: Any) -> bool:
    needed = {"ngram_weight": "ngram", "word_weight": "words"}
    return name not in needed or getattr(model, needed[name], None) is not None


def _options(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in ("first", "second")}


def tune_labels(
    model: Any, processor: Any, clips: Sequence[Clip]
) -> tuple[dict[str, float], dict[str, float], dict[str, dict[str, float]]]:
    """By label field the label head's weight and the temperature with the least log loss.

    Returns:
        Weights, temperatures, and what they do.
    """
    prior = (model.config.decoding or {}).get("label_prior", {})
    asked = check_fields(["SpeechActivity", *LABEL_FIELDS])
    prompts = _encoded(model, processor, clips, asked)
    best: dict[str, tuple[float, float, dict[str, float]]] = {}
    for weight in LABEL_HEAD_WEIGHTS if model.label_head is not None else (0.0,):
        options = DecodeOptions(
            batch_size=16,
            label_head_weight=dict.fromkeys(LABEL_FIELDS, weight),
        )
        engine = Engine(model, processor, options)
        records = engine.decode_prompts(prompts, engine.grammars.get(asked))
        for field, (temperature, report) in tune_temperatures(records, clips, prior).items():
            if field not in best or report["tuned"] < best[field][2]["tuned"]:
                best[field] = (weight, temperature, report)
            print(json.dumps({"field": field, "label_head_weight": weight, **report}), flush=True)
    return (
        {field: weight for field, (weight, _, _) in best.items()},
        {field: temperature for field, (_, temperature, _) in best.items()},
        {field: report for field, (_, _, report) in best.items()},
    )


def tune_temperatures(
    records: Sequence[Any],
    clips: Sequence[Clip],
    priors: Mapping[str, Mapping[str, float]] | None = None,
) -> dict[str, tuple[float, dict[str, float]]]:
    """By label field the temperature with the least log loss, and the log losses.

    Args:
        records: decoded without temperatures and priors.
        priors: as `DecodeOptions.label_prior`, taken out after the temperature.

    Returns:
        By field the temperature, and the log loss `untuned`, `crossed` (each half of the speakers
        under the temperature that the other half chose) and `tuned` (all under the one that all
        chose). Where the crossed loss is no better than the untuned, the temperature is 1: what
        one half of the speakers teaches does not hold for the other.
    """
    known: dict[str, list[tuple[bool, np.ndarray, np.ndarray, int]]] = defaultdict(list)
    for clip, record in zip(clips, records, strict=True):
        if not isinstance(record, DecodedRecord):
            continue
        for field, label in clip.labels.items():
            probabilities = record.probabilities.get(field, {})
            if label in probabilities:
                row = np.log(np.array(list(probabilities.values())) + 1e-12)
                prior = (priors or {}).get(field, {})
                common = np.log([prior.get(value, 1.0) for value in probabilities])
                right = list(probabilities).index(label)
                known[field].append((first_half(clip), row, common, right))
    result: dict[str, tuple[float, dict[str, float]]] = {}
    for field, items in known.items():
        halves = [[item[1:] for item in items if item[0] is half] for half in (True, False)]
        if not all(halves):
            continue
        together = halves[0] + halves[1]
        crossed = sum(
            _loss(half, _best_temperature(other)) * len(half)
            for half, other in (halves, halves[::-1])
        )
        untuned, crossed = _loss(together, 1.0), crossed / len(together)
        temperature = _best_temperature(together) if crossed < untuned else 1.0
        result[field] = (
            round(temperature, 3),
            {
                "temperature": round(temperature, 3),
                "untuned": round(untuned, 4),
                "crossed": round(crossed, 4),
                "tuned": round(_loss(together, temperature), 4),
            },
        )
    return result


_Rows = Sequence[tuple[np.ndarray, np.ndarray, int]]
"""Log probabilities, log shares that are taken out of them, and the place of the right label."""


def _loss(rows: _Rows, temperature: float) -> float:
    """Mean log loss."""
    losses = []
    for log_probs, common, right in rows:
        scaled = log_probs / temperature - common
        losses.append(np.logaddexp.reduce(scaled) - scaled[right])
    return float(np.mean(losses))


def _best_temperature(rows: _Rows) -> float:
    return float(min(_TEMPERATURES, key=lambda value: _loss(rows, value)))


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
    some = spread(spoken, options.clips)
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
    prior = (model.config.decoding or {}).get("label_prior")
    if prior:
        config["decoding"]["label_prior"] = prior
    config["abstain_below"] = options.abstain_below
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    print(json.dumps(config["decoding"]))


if __name__ == "__main__":
    main()
