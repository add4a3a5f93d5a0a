"""Random Whisper models of a few thousand weights, with a vocabulary like the published ones."""

from __future__ import annotations

import functools

import torch
from tiny import SENTENCES
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

LANGUAGES = ("en", "de", "ja")


@functools.cache
def whisper_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level pieces, then the control tokens in Whisper's order, then timestamps."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*SENTENCES * 4, "東京へ行きます。"] * 2, trainer)
    names = ["endoftext", "startoftranscript", *LANGUAGES, "translate", "transcribe"]
    names += ["startoflm", "startofprev", "nospeech", "notimestamps"]
    tokenizer.add_special_tokens([AddedToken(f"<|{name}|>", special=True) for name in names])
    # As published: timestamps are added, but not marked as special.
    times = [AddedToken(f"<|{0.02 * step:.2f}|>", special=False) for step in range(20)]
    tokenizer.add_tokens(times)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def tiny_whisper(
    seed: int = 0, multilingual: bool = True, spread: float = 0.2, attention: str = "sdpa"
) -> tuple[WhisperForConditionalGeneration, PreTrainedTokenizerFast]:
    """A random model in evaluation mode, and its tokenizer.

    Args:
        seed: of the weights.
        multilingual: whether the prompt names a language and a task.
        spread: standard deviation of the decoder's weights; large values make it opinionated.
        attention: transformers' name of the implementation.
    """
    tokenizer = whisper_tokenizer()
    find = tokenizer.backend_tokenizer.token_to_id
    end = find("<|endoftext|>")
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        d_model=32,
        # More encoder layers than decoder layers, which `num_hidden_layers` cannot tell.
        encoder_layers=3,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        num_mel_bins=8,
        max_source_positions=50,
        max_target_positions=96,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        decoder_start_token_id=find("<|startoftranscript|>"),
        attn_implementation=attention,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = WhisperForConditionalGeneration(config).eval()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.ndim > 1 and "embed_positions" not in name:
                    weight.normal_(0, spread)
    model.generation_config = GenerationConfig(
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        decoder_start_token_id=find("<|startoftranscript|>"),
        is_multilingual=multilingual,
        no_timestamps_token_id=find("<|notimestamps|>"),
        return_timestamps=False,
        alignment_heads=[[0, 1], [1, 0], [1, 3]],
        max_length=96,
    )
    if multilingual:
        model.generation_config.lang_to_id = {f"<|{c}|>": find(f"<|{c}|>") for c in LANGUAGES}
        model.generation_config.task_to_id = {"transcribe": find("<|transcribe|>")}
    return model.requires_grad_(False), tokenizer


def tiny_memory(rows: int, seed: int = 0, positions: int = 50) -> torch.Tensor:
    """Random encoder states, (rows, positions, 32)."""
    return torch.randn(rows, positions, 32, generator=torch.Generator().manual_seed(seed))
