"""Greedy words of a Whisper model from encoder states, many clips at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from speechmeta.training.whisper_meta.layers import decode

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase, WhisperForConditionalGeneration


@dataclass(frozen=True)
class Vocabulary:
    """Ids of a multilingual vocabulary's special tokens, and of the token of a bare space.

    `no_timestamps` closes the prompt; `no_speech` stands behind `start` where nobody speaks.
    """

    start: int
    language: int
    transcribe: int
    no_timestamps: int
    no_speech: int
    end: int
    blank: int

    @property
    def prompt(self) -> tuple[int, ...]:
        """<|startoftranscript|> <|en|> <|transcribe|> <|notimestamps|>."""
        return self.start, self.language, self.transcribe, self.no_timestamps


def read_vocabulary(tokenizer: PreTrainedTokenizerBase, language: str = "en") -> Vocabulary:
    """Of a Whisper tokenizer.

    Raises:
        ModelError: it has no tokens of languages or of speech that is missing.
    """
    from speechmeta.errors import ModelError

    ids = tokenizer.get_vocab()
    # Older files of the multilingual vocabulary call <|nospeech|> <|nocaptions|>.
    silent = "<|nospeech|>" if "<|nospeech|>" in ids else "<|nocaptions|>"
    try:
        return Vocabulary(
            start=ids["<|startoftranscript|>"],
            language=ids[f"<|{language}|>"],
            transcribe=ids["<|transcribe|>"],
            no_timestamps=ids["<|notimestamps|>"],
            no_speech=ids[silent],
            end=ids["<|endoftext|>"],
            blank=ids["\u0120"],
        )
    except KeyError as error:
        raise ModelError(
            f"the tokenizer has no token {error}", "start from a multilingual Whisper"
        ) from error


def greedy(
    model: WhisperForConditionalGeneration,
    vocabulary: Vocabulary,
    states: torch.Tensor,
    mask: torch.Tensor | None = None,
    most: int = 200,
) -> tuple[list[list[int]], torch.Tensor]:
    """The likeliest tokens, one after another.

    Args:
        model: multilingual Whisper.
        vocabulary: of its tokenizer.
        states: (batch, frames, width) of its encoder.
        mask: (batch, frames), true where a row has frames.
        most: tokens at most.

    Returns:
        Token ids of each row without prompt and end, and (batch,) the probability of
        <|nospeech|> behind <|startoftranscript|>.
    """
    import torch
    from transformers import DynamicCache, EncoderDecoderCache

    batch = states.shape[0]
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    tokens = torch.tensor(vocabulary.prompt)[None].repeat(batch, 1)
    rows: list[list[int]] = [[] for _ in range(batch)]
    done = [False] * batch
    no_speech = torch.zeros(batch)
    for step in range(most):
        hidden = decode(model.model.decoder, tokens, states, mask, cache)
        logits = hidden[:, -1] @ model.model.decoder.embed_tokens.weight.T
        if step == 0:
            first = hidden[:, 0] @ model.model.decoder.embed_tokens.weight.T
            no_speech = first.float().softmax(-1)[:, vocabulary.no_speech]
            logits[:, vocabulary.blank] = -torch.inf
        logits[:, vocabulary.end + 1 :] = -torch.inf
        chosen = logits.argmax(-1)
        for row, token in enumerate(chosen.tolist()):
            done[row] = done[row] or token == vocabulary.end
            if not done[row]:
                rows[row].append(token)
        if all(done):
            break
        tokens = chosen[:, None]
    return rows, no_speech
