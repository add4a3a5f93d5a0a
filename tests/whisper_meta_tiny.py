"""Small random Whisper checkpoints for tests, with a tokenizer in Whisper's order made in code."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from speechmeta.models.whisper_meta import (
    WhisperMetaConfig,
    WhisperMetaForConditionalGeneration,
    WhisperMetaProcessor,
)
from speechmeta.schema import DEFAULT_LABEL_SETS

SENTENCES = [
    "Yes, I got it. Thank you for calling, how can I help you today?",
    "The weather is nice and the train leaves at nine in the morning.",
    "Could you please repeat your name and the number of your order?",
    "No, that is not what I said. I want to speak with your manager!",
    "crème brûlée für zwölf Personen, señor",
]
LANGUAGES = ("en", "de", "fr")
SECONDS = 4
"""What the tiny models hear at most, in place of Whisper's 30 s."""


@functools.cache
def tiny_whisper_tokenizer(multilingual: bool = True) -> PreTrainedTokenizerFast:
    """Byte-level BPE with Whisper's special tokens after the text tokens, in Whisper's order."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES * 4, trainer)
    languages = LANGUAGES if multilingual else ()
    special = [
        "<|endoftext|>",
        "<|startoftranscript|>",
        *(f"<|{language}|>" for language in languages),
        "<|translate|>",
        "<|transcribe|>",
        "<|startoflm|>",
        "<|startofprev|>",
        "<|nospeech|>",
        "<|notimestamps|>",
    ]
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in special])
    # Timestamps are added tokens of Whisper that are not special.
    stamps = [f"<|{step * 0.02:.2f}|>" for step in range(SECONDS * 50 + 1)]
    tokenizer.add_tokens([AddedToken(name, special=False) for name in stamps])
    start = tokenizer.token_to_id("<|startoftranscript|>")
    no_times = tokenizer.token_to_id("<|notimestamps|>")
    end = tokenizer.token_to_id("<|endoftext|>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|startoftranscript|> <|notimestamps|> $A <|endoftext|>",
        special_tokens=[
            ("<|startoftranscript|>", start),
            ("<|notimestamps|>", no_times),
            ("<|endoftext|>", end),
        ],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )


def tiny_whisper(
    seed: int = 0, *, multilingual: bool = True, mel_bins: int = 80, spread: float = 0.3
) -> tuple[WhisperForConditionalGeneration, PreTrainedTokenizerFast, WhisperFeatureExtractor]:
    """transformers' own model with random weights, its tokenizer and feature extractor.

    Args:
        spread: standard deviation of the decoder's weights; large values make it opinionated.
    """
    tokenizer = tiny_whisper_tokenizer(multilingual)
    ids = tokenizer.get_vocab()
    end, start = ids["<|endoftext|>"], ids["<|startoftranscript|>"]
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        num_mel_bins=mel_bins,
        max_source_positions=SECONDS * 50,
        max_target_positions=96,
        decoder_start_token_id=start,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        begin_suppress_tokens=[ids["Ġ"], end],
        suppress_tokens=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = WhisperForConditionalGeneration(config).train(False)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.ndim > 1 and "embed_positions" not in name:
                    weight.normal_(0, spread)
    languages = {f"<|{name}|>": ids[f"<|{name}|>"] for name in LANGUAGES} if multilingual else {}
    tasks = {"transcribe": ids["<|transcribe|>"], "translate": ids["<|translate|>"]}
    model.generation_config = GenerationConfig(
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        decoder_start_token_id=start,
        max_length=96,
        alignment_heads=[[1, 0], [1, 1]],
        return_timestamps=False,
        is_multilingual=multilingual,
        no_timestamps_token_id=ids["<|notimestamps|>"],
        begin_suppress_tokens=[ids["Ġ"], end],
        suppress_tokens=[ids["!"], ids["<|startofprev|>"], ids["<|nospeech|>"]],
        **({"lang_to_id": languages, "task_to_id": tasks} if multilingual else {}),
    )
    extractor = WhisperFeatureExtractor(feature_size=mel_bins, chunk_length=SECONDS)
    return model, tokenizer, extractor


def save_whisper(folder: Path, **kwargs: Any) -> Path:
    """A tiny plain Whisper checkpoint in transformers' layout."""
    model, tokenizer, extractor = tiny_whisper(**kwargs)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return folder


def tiny_heads(*, file: str = "heads.safetensors", **fields: Any) -> dict[str, Any]:
    """A set of label heads as it stands in `WhisperMetaConfig.heads`."""
    sets: dict[str, list[str]] = {"SpeechActivity": ["true", "false"], **DEFAULT_LABEL_SETS}
    return {
        "file": file,
        "fields": {
            field: {"labels": labels, "temperature": 1.0, "prior": {}, "abstain_below": 0.0}
            | fields.get(field, {})
            for field, labels in sets.items()
        },
        "data": ["made in code"],
        "licence": "Apache-2.0",
    }


def tiny_whisper_meta(
    seed: int = 0,
    *,
    variable_length: bool = True,
    heads: dict[str, Any] | None = None,
    default_heads: str | None = None,
    config: dict[str, Any] | None = None,
    **kwargs: Any,
) -> tuple[WhisperMetaForConditionalGeneration, WhisperMetaProcessor]:
    """A tiny model of this family and its processor; `kwargs` as of `tiny_whisper`."""
    inner, tokenizer, extractor = tiny_whisper(seed, **kwargs)
    settings: dict[str, Any] = {
        "whisper_config": inner.config,
        "variable_length": variable_length,
        "heads": heads,
        "default_heads": default_heads,
        "language": "en" if kwargs.get("multilingual", True) else None,
        **({"trailing_silence": 0.5, "min_seconds": 0.5} if variable_length else {}),
        **(config or {}),
    }
    meta = WhisperMetaConfig(**settings)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = WhisperMetaForConditionalGeneration(meta).train(False)
    model.whisper.load_state_dict(inner.state_dict())
    model.set_generation_config(inner.generation_config)
    return model, WhisperMetaProcessor.for_config(meta, extractor, tokenizer)


def edit_json(path: Path, **values: Any) -> None:
    """Sets keys of a JSON file."""
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, **values}))
