"""SpeechLLM under LoRA: what a clip teaches, as the checkpoint's own layout writes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from speechmeta.decoding.layout import TextLayout
from speechmeta.models.speechllm import SpeechLLMProcessor
from speechmeta.schema import LABEL_FIELDS
from speechmeta.training.finetune.clips import LoadedClip
from speechmeta.training.finetune.config import LoraConfig
from speechmeta.training.manifest import Clip

IGNORED = -100

SAVED = ("multi_modal_projector",)
"""Trained as a whole: the connector is small, and new recordings are new to it first."""


def adapted_modules(lora: LoraConfig) -> str:
    """A regular expression for the names of the linear layers that are adapted."""
    decoder = r"language_model\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    encoder = r"audio_tower\..*\.(q_proj|k_proj|v_proj|out_proj)"
    return f"({decoder}|{encoder})" if lora.encoder else decoder


def taught_values(clip: Clip, layout: TextLayout) -> dict[str, str]:
    """The fields that a clip knows, and their values as the layout writes them."""
    if not clip.speech:
        return {"SpeechActivity": "False"}
    values = {"SpeechActivity": "True"}
    # A quotation mark would end the value; the grammar allows none either.
    said = " ".join((clip.transcript or "").replace('"', "'").replace("\\", " ").split())
    if said:
        values["Transcript"] = layout.transcript_lead + said
    for field in LABEL_FIELDS:
        if field in clip.labels:
            label = clip.labels[field]
            values[field] = label.lower() if "lower" in layout.label_cases else label
    return values


class SpeechLLMCollator:
    """Batches of `SpeechLLMForConditionalGeneration.forward`, the loss on the answer alone.

    The instruction asks for the fields that the clip knows; the answer is tokenized as a whole,
    as the published checkpoints' training did.
    """

    def __init__(self, processor: SpeechLLMProcessor) -> None:
        self._processor = processor

    def __call__(self, items: Sequence[LoadedClip]) -> dict[str, torch.Tensor]:
        """`input_values`, `audio_attention_mask` (batch, samples), and `input_ids`,
        `attention_mask`, `labels` (batch, tokens), padded on the right."""
        processor, layout = self._processor, self._processor.layout
        tokenizer: Any = processor.tokenizer
        batch: dict[str, torch.Tensor] = dict(processor.prepare_audio([i.wave for i in items]))
        rows: list[tuple[list[int], list[int]]] = []
        for item in items:
            values = taught_values(item.clip, layout)
            before, after = processor.prompt_ids(layout.instruction_for(values) or None)
            places = [processor.audio_token_id] * processor.num_audio_tokens(len(item.wave))
            answer = tokenizer(layout.render(values), add_special_tokens=False)["input_ids"]
            rows.append(([*before, *places, *after], [*answer, tokenizer.eos_token_id]))
        width = max(len(prompt) + len(answer) for prompt, answer in rows)
        filler = tokenizer.eos_token_id
        batch["input_ids"] = torch.full((len(rows), width), filler)
        batch["attention_mask"] = torch.zeros(len(rows), width, dtype=torch.long)
        batch["labels"] = torch.full((len(rows), width), IGNORED)
        for number, (prompt, answer) in enumerate(rows):
            stop = len(prompt) + len(answer)
            batch["input_ids"][number, :stop] = torch.tensor([*prompt, *answer])
            batch["attention_mask"][number, :stop] = 1
            batch["labels"][number, len(prompt) : stop] = torch.tensor(answer)
        return batch
