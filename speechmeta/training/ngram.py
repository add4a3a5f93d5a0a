"""The n-gram model of a checkpoint, from the transcripts and texts of its training config.

A finished run has one; `python -m speechmeta.training.ngram CONFIG FOLDER` makes it anew.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from speechmeta.decoding.ngram import NgramModel
from speechmeta.models.speechllm import SpeechLLMProcessor
from speechmeta.training.config import TrainConfig, read_config
from speechmeta.training.manifest import Clip, read_clips
from speechmeta.training.synthesize import dialogue_sentences
from speechmeta.training.text import normalize_transcript

_TRANSCRIPT_TIMES = 4
"""What was really said counts more than what somebody typed ..."""
_MOST_TIMES = 40
"""... but a sentence that hundreds of speakers read is one sentence."""


def estimate_ngram(config: TrainConfig, clips: Sequence[Clip], processor: Any) -> NgramModel:
    """Counts the n-grams of all transcripts and texts, in the tokens of `processor`."""
    tokenizer, lead = processor.tokenizer, processor.layout.transcript_lead

    def sentences() -> Iterator[tuple[str, int]]:
        times: dict[str, int] = {}
        for clip in clips:
            text = normalize_transcript(clip.transcript) if clip.transcript else None
            if text:
                times[text] = min(times.get(text, 0) + _TRANSCRIPT_TIMES, _MOST_TIMES)
        yield from times.items()
        for path in config.data.text:
            for text in dialogue_sentences(path):
                yield text, 1

    texts, counts = zip(*sentences(), strict=True)
    ids = tokenizer([lead + text for text in texts], add_special_tokens=False)["input_ids"]
    return NgramModel.estimate(
        zip(ids, counts, strict=True),
        len(tokenizer),
        tokenizer.eos_token_id,
        config.model.ngram_order,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("folder", type=Path, help="the checkpoint")
    options = parser.parse_args(arguments)
    config = read_config(options.config)
    processor = SpeechLLMProcessor.from_pretrained(options.folder)
    clips = read_clips(config.data.manifests, config.data.commercial_only)
    estimate_ngram(config, clips, processor).save(options.folder)


if __name__ == "__main__":
    main()
