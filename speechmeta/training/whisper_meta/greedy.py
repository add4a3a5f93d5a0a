"""Greedy words of a Whisper model from encoder states, many clips at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from speechmeta.training.whisper_meta.layers import decode

if TYPE_CHECKING:
    import torch
    from transformers import WhisperForConditionalGeneration

PROMPT = (50258, 50259, 50359, 50363)
"""<|startoftranscript|> <|en|> <|transcribe|> <|notimestamps|> of the multilingual vocabulary."""
END = 50257
NO_SPEECH = 50362


def greedy(
    model: WhisperForConditionalGeneration,
    states: torch.Tensor,
    mask: torch.Tensor | None = None,
    most: int = 200,
    end_first: bool = True,
) -> tuple[list[list[int]], torch.Tensor]:
    """The likeliest tokens, one after another.

    Args:
        model: multilingual Whisper.
        states: (batch, frames, width) of its encoder.
        mask: (batch, frames), true where a row has frames.
        most: tokens at most.
        end_first: whether a transcript may be empty.

    Returns:
        Token ids of each row without prompt and end, and (batch,) the probability of
        <|nospeech|> behind <|startoftranscript|>.
    """
    import torch
    from transformers import DynamicCache, EncoderDecoderCache

    batch = states.shape[0]
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    tokens = torch.tensor(PROMPT)[None].repeat(batch, 1)
    rows: list[list[int]] = [[] for _ in range(batch)]
    done = [False] * batch
    no_speech = torch.zeros(batch)
    for step in range(most):
        hidden = decode(model.model.decoder, tokens, states, mask, cache)
        logits = hidden[:, -1] @ model.model.decoder.embed_tokens.weight.T
        if step == 0:
            first = hidden[:, 0] @ model.model.decoder.embed_tokens.weight.T
            no_speech = first.float().softmax(-1)[:, NO_SPEECH]
            logits[:, 220] = -torch.inf
            if not end_first:
                logits[:, END] = -torch.inf
        logits[:, END + 1 :] = -torch.inf
        chosen = logits.argmax(-1)
        for row, token in enumerate(chosen.tolist()):
            done[row] = done[row] or token == END
            if not done[row]:
                rows[row].append(token)
        if all(done):
            break
        tokens = chosen[:, None]
    return rows, no_speech
