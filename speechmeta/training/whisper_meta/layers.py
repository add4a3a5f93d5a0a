"""Whisper's encoder and decoder over rows of different lengths.

transformers' own forwards insist on 3000 feature frames and let the decoder see all of the encoder,
so their layers are walked through here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers.models.whisper.modeling_whisper import WhisperDecoder, WhisperEncoder


def encode(
    encoder: WhisperEncoder, features: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """The encoder's last hidden state over as many frames as there are.

    Args:
        encoder: of a Whisper model.
        features: (batch, mel, 2 * frames), rows padded with 0.0 as convolutions pad.
        mask: (batch, frames), true where a row has frames; None where all rows are full.

    Returns:
        (batch, frames, width).
    """
    from torch.nn.functional import gelu

    hidden = gelu(encoder.conv1(features))
    if mask is not None:
        # What lies behind a row's end must look to the second convolution as its own padding.
        fine = mask.repeat_interleave(2, dim=1)[:, None, :]
        hidden = hidden * fine.to(hidden.dtype)
    hidden = gelu(encoder.conv2(hidden)).transpose(1, 2)
    positions = encoder.embed_positions.weight[: hidden.shape[1]]
    # In the type of the activations: under autocast a float32 sum would be cast at every layer.
    hidden = hidden + positions.to(hidden.dtype)
    additive = _additive(mask, hidden.dtype)
    for layer in encoder.layers:
        hidden = layer(hidden, additive)
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
    normed: torch.Tensor = encoder.layer_norm(hidden)
    return normed


def decode(
    decoder: WhisperDecoder,
    tokens: torch.Tensor,
    states: torch.Tensor,
    mask: torch.Tensor | None = None,
    cache: Any = None,
) -> torch.Tensor:
    """The decoder's last hidden state behind each token.

    Args:
        decoder: of a Whisper model.
        tokens: (batch, tokens) ids, those that `cache` does not hold yet.
        states: (batch, frames, width) of the encoder.
        mask: (batch, frames), true where a row has frames.
        cache: transformers' EncoderDecoderCache, or None to see all tokens at once.

    Returns:
        (batch, tokens, width).
    """
    import torch

    seen = cache.get_seq_length() if cache is not None else 0
    positions = torch.arange(seen, seen + tokens.shape[1])
    hidden = decoder.embed_tokens(tokens) + decoder.embed_positions.weight[positions]
    hidden = hidden.to(states.dtype)
    additive = _additive(mask, states.dtype)
    for layer in decoder.layers:
        # Without a mask a layer is causal by itself; one token sees all that the cache holds.
        hidden = layer(hidden, None, states, additive, cache, cache is not None)
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
    normed: torch.Tensor = decoder.layer_norm(hidden)
    return normed


def _additive(mask: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    """(batch, 1, 1, frames): 0 where a row has frames, very low elsewhere; None if all have."""
    import torch

    if mask is None or bool(mask.all()):
        return None
    additive = torch.zeros(mask.shape, dtype=dtype)
    return additive.masked_fill(~mask, torch.finfo(dtype).min)[:, None, None, :]
