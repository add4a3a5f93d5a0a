"""The language models of a checkpoint's CTC search, from the transcripts and texts of its config.

A finished run has them; `python -m speechmeta.training.language CONFIG FOLDER` makes them anew.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from speechmeta.decoding.ngram import NgramModel
from speechmeta.decoding.words import WordModel
from speechmeta.errors import DatasetError
from speechmeta.models.speechllm import SpeechLLMProcessor
from speechmeta.training.config import TrainConfig, read_config
from speechmeta.training.manifest import Clip, read_clips
from speechmeta.training.prose import open_text
from speechmeta.training.synthesize import dialogue_sentences
from speechmeta.training.text import normalize_transcript

_SPOKEN_TIMES = 4
"""What people say counts more than what they write ..."""
_MOST_TIMES = 40
"""... but a sentence that hundreds of speakers read is one sentence."""
_SPELLING_EVERY = 7
"""Each so many sentences of prose go into the n-gram of tokens: spelling needs no more."""


def sentences(
    config: TrainConfig, clips: Sequence[Clip], every: int = 1
) -> Iterator[tuple[str, int]]:
    """Normalised sentences of all transcripts and texts, and how many times each counts.

    Args:
        every: of prose, each so many sentences.

    Raises:
        DatasetError: a file of prose cannot be read.
    """
    times: dict[str, int] = {}
    for clip in clips:
        text = normalize_transcript(clip.transcript) if clip.transcript else None
        if text:
            times[text] = min(times.get(text, 0) + _SPOKEN_TIMES, _MOST_TIMES)
    yield from times.items()
    for path in config.data.text:
        for text in dialogue_sentences(path):
            yield text, _SPOKEN_TIMES
    for path, count in config.data.prose.items():
        try:
            with open_text(path, "r") as lines:
                for number, line in enumerate(lines):
                    if number % every == 0 and line.strip():
                        yield line.strip(), count
        except (OSError, UnicodeDecodeError, EOFError) as error:
            raise DatasetError(
                f"cannot read the prose {path}: {error}",
                "python -m speechmeta.training.prose writes it",
            ) from error


def estimate_ngram(config: TrainConfig, clips: Sequence[Clip], processor: Any) -> NgramModel:
    """Counts the n-grams of tokens in the tokenizer of `processor`."""
    tokenizer, lead = processor.tokenizer, processor.layout.transcript_lead
    known: dict[str, list[int]] = {}

    def tokens_of(text: str) -> list[int]:
        # The tokenizer never looks beyond a space, and most words have been seen.
        ids: list[int] = []
        for word in text.split():
            spelled = known.get(word)
            if spelled is None:
                spelled = tokenizer(lead + word, add_special_tokens=False)["input_ids"]
                known[word] = spelled
            ids += spelled
        return ids

    return NgramModel.estimate(
        ((tokens_of(text), times) for text, times in sentences(config, clips, _SPELLING_EVERY)),
        len(tokenizer),
        tokenizer.eos_token_id,
        config.model.ngram_order,
        config.model.ngram_least,
    )


def save_language_models(
    config: TrainConfig, clips: Sequence[Clip], processor: Any, folder: Path
) -> None:
    """Estimates what the config asks for into a checkpoint's folder.

    Raises:
        DatasetError: a text cannot be read.
        UsageError: an order does not fit the vocabulary, or there is no text.
    """
    if config.model.ngram_order:
        estimate_ngram(config, clips, processor).save(folder)
    if config.model.word_order:
        WordModel.estimate(
            sentences(config, clips),
            config.model.word_count,
            config.model.word_order,
            config.model.word_least,
        ).save(folder)


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("folder", type=Path, help="the checkpoint")
    options = parser.parse_args(arguments)
    config = read_config(options.config)
    processor = SpeechLLMProcessor.from_pretrained(options.folder)
    clips = read_clips(config.data.manifests, config.data.commercial_only)
    save_language_models(config, clips, processor, options.folder)


if __name__ == "__main__":
    main()
