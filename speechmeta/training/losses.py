"""What training minimises, beside masked prediction: losses of text, labels and CTC."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from speechmeta.training.dataset import CLOSED_SETS, LABEL, TRANSCRIPT


def text_losses(logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weighted mean cross entropies of transcript, label and forced tokens.

    Args:
        logits: (batch, tokens, vocabulary).
        batch: `labels`, `kinds` and `weights`, (batch, tokens), as the collator makes them.
    """
    targets, kinds, weights = (
        batch[name][:, 1:].reshape(-1) for name in ("labels", "kinds", "weights")
    )
    flat = logits[:, :-1].reshape(-1, logits.shape[-1])
    counted = targets != -100
    losses = functional.cross_entropy(flat[counted].float(), targets[counted], reduction="none")
    losses = losses * weights[counted]
    kinds = kinds[counted]
    result = {}
    for name, chosen in (
        ("transcript", kinds == TRANSCRIPT),
        ("label", kinds == LABEL),
        ("forced", kinds > LABEL),
    ):
        result[name] = losses[chosen].sum() / chosen.sum().clamp(min=1)
    return result


def label_losses(
    logits: dict[str, torch.Tensor], batch: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """By closed field of which a clip is labelled, the label head's mean weighted cross entropy.

    Args:
        logits: by field (batch, values).
        batch: `classes`, the share of each value of each field in turn, (batch, values), zeros
            where unknown, and `class_weights`, (batch, fields).
    """
    result = {}
    sizes = [len(values) for values in CLOSED_SETS.values()]
    shares = batch["classes"].split(sizes, -1)
    for place, name in enumerate(CLOSED_SETS):
        known = shares[place].sum(-1) > 0
        if bool(known.any()):
            losses = functional.cross_entropy(
                logits[name][known].float(), shares[place][known], reduction="none"
            )
            # Over the whole batch: a field that few clips know must not shout when one does.
            total = (losses * batch["class_weights"][known, place]).sum()
            result[name] = total / len(known)
    return result


def ctc_loss(features: Any, batch: dict[str, torch.Tensor], config: Any) -> torch.Tensor:
    """Mean CTC loss per target token over the clips whose transcript is known."""
    lengths = batch["ctc_lengths"]
    known = lengths > 0
    if not bool(known.any()):
        nothing: torch.Tensor = features.ctc_logits.sum() * 0.0
        return nothing
    # Clips without speech have an empty target, which teaches nothing but blanks.
    log_probs = features.ctc_logits[known].float().log_softmax(-1).transpose(0, 1)
    loss = functional.ctc_loss(
        log_probs,
        batch["ctc_targets"],
        features.encoder_lengths[known],
        lengths[known],
        blank=config.text_config.pad_token_id,
        reduction="sum",
        zero_infinity=True,
    )
    mean: torch.Tensor = loss / lengths[known].sum()
    return mean
