"""The contenders of benchmarks/decoding.py: each takes prompts and gives records' text."""

from __future__ import annotations

import copy
import importlib.util
import time
from collections.abc import Sequence
from typing import Any

import outlines
import torch
from outlines.backends import get_regex_logits_processor
from outlines.backends.outlines_core import OutlinesCoreLogitsProcessor

from speechmeta.decoding.grammar import Grammar
from speechmeta.decoding.inputs import Prompt


class Scripted:
    """Drives a `generate` loop to a given answer, so that all contenders write the same.

    Random weights would tokenize the fixed text in ways no trained model does, and never stop.
    """

    def __init__(self, script: Sequence[int], end: int) -> None:
        self.script = [*script, end]
        self.step = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        wanted = self.script[min(self.step, len(self.script) - 1)]
        self.step += 1
        scores[:, wanted] = 1e4
        return scores


class Timed:
    """A logits processor and the seconds it took."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.seconds = 0.0
        self.calls = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        started = time.perf_counter()
        result: torch.Tensor = self.inner(input_ids, scores)
        self.seconds += time.perf_counter() - started
        self.calls += 1
        return result


def backends(model: Any, tokenizer: Any, grammar: Grammar) -> dict[str, Timed]:
    """A logits processor of each grammar engine that is installed.

    outlines gets our index: its own reading of Llama-shaped vocabularies depends on the
    tokenizer's class. xgrammar and llguidance come through outlines' adapters.
    """
    found = {"outlines": Timed(OutlinesCoreLogitsProcessor(grammar.automaton.index, "torch"))}
    for name in ("xgrammar", "llguidance"):
        if importlib.util.find_spec(name) is not None:
            steerable = outlines.from_transformers(model.language_model, copy.deepcopy(tokenizer))
            found[name] = Timed(get_regex_logits_processor(name, steerable, grammar.regex))
    return found


def generate(
    model: Any,
    prompt: Prompt,
    tokens: int,
    processors: Sequence[Any] = (),
    exact: bool = False,
) -> list[int]:
    """transformers' `generate` over one prompt; token ids without the end token."""
    text = model.config.text_config
    output = model.language_model.generate(
        inputs_embeds=prompt.embeds[None],
        attention_mask=torch.ones(1, len(prompt.embeds), device=prompt.embeds.device).long(),
        logits_processor=list(processors),
        do_sample=False,
        max_new_tokens=tokens,
        min_new_tokens=tokens if exact else None,
        pad_token_id=text.pad_token_id,
        eos_token_id=text.eos_token_id,
    )
    return [int(token) for token in output[0] if int(token) != text.eos_token_id]
