"""The vLLM backend against a fake of vLLM's interface that runs the tiny decoder."""

from __future__ import annotations

import sys
import types
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from outlines_core import Index
from tiny import TAUGHT, taught_speechllm, taught_values, tiny_clips, tiny_speechllm

from speechmeta.decoding.engine import Engine
from speechmeta.decoding.layout import COMPACT_LAYOUT, PUBLISHED_LAYOUT, TextLayout
from speechmeta.decoding.options import DecodeOptions
from speechmeta.decoding.record import DecodedRecord
from speechmeta.decoding.vllm_backend import VllmEngine, start_vllm
from speechmeta.decoding.vocabulary import TokenTable
from speechmeta.errors import UsageError
from speechmeta.schema import FIELDS


@dataclass
class StructuredOutputsParams:
    regex: str


@dataclass
class SamplingParams:
    temperature: float
    max_tokens: int
    logprobs: int
    structured_outputs: StructuredOutputsParams


@dataclass
class Logprob:
    logprob: float


@dataclass
class Completion:
    token_ids: list[int]
    finish_reason: str
    logprobs: list[dict[int, Logprob]] = field(default_factory=list)


@dataclass
class RequestOutput:
    outputs: list[Completion]


class FakeLLM:
    """`vllm.LLM` with a model in this process: greedy, under a regular expression."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.table = model, TokenTable(tokenizer)
        self.eos = tokenizer.eos_token_id
        self.requests = 0

    def generate(
        self, prompts: list[dict[str, torch.Tensor]], parameters: list[SamplingParams]
    ) -> list[RequestOutput]:
        self.requests += len(prompts)
        return [
            RequestOutput([self._one(prompt["prompt_embeds"], given)])
            for prompt, given in zip(prompts, parameters, strict=True)
        ]

    def _one(self, embeds: torch.Tensor, given: SamplingParams) -> Completion:
        assert given.temperature == 0.0
        index = Index(given.structured_outputs.regex, self.table.outlines_vocabulary)
        state = index.get_initial_state()
        done = Completion([], "length")
        table = self.model.get_input_embeddings()
        while len(done.token_ids) < given.max_tokens:
            scores = self.model(inputs_embeds=embeds[None]).logits[0, -1].log_softmax(-1)
            top = scores.topk(given.logprobs)
            done.logprobs.append(
                {
                    int(token): Logprob(float(value))
                    for token, value in zip(top.indices, top.values, strict=True)
                }
            )
            allowed = sorted(index.get_allowed_tokens(state))
            token = allowed[int(scores[allowed].argmax())]
            done.token_ids.append(token)
            if token == self.eos:
                done.finish_reason = "stop"
                break
            state = index.get_next_state(state, token)
            embeds = torch.cat([embeds, table(torch.tensor([token]))])
        return done


@pytest.fixture
def fake_vllm(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("vllm")
    parameters = types.ModuleType("vllm.sampling_params")
    module.SamplingParams = SamplingParams  # type: ignore[attr-defined]
    module.LLM = lambda **options: options  # type: ignore[attr-defined]
    parameters.StructuredOutputsParams = StructuredOutputsParams  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", parameters)
    return module


@pytest.mark.usefixtures("fake_vllm")
@pytest.mark.parametrize("layout", [COMPACT_LAYOUT, PUBLISHED_LAYOUT])
def test_same_values_as_the_engine(layout: TextLayout) -> None:
    model, processor, clips = taught_speechllm("llama", layout)
    llm = FakeLLM(model.language_model, processor.tokenizer)
    ours = Engine(model, processor).decode(clips)
    theirs = VllmEngine(model, processor, llm).decode(clips)
    assert llm.requests == len(clips)
    for number in range(len(TAUGHT)):
        one, other = ours[number], theirs[number]
        assert isinstance(one, DecodedRecord)
        assert isinstance(other, DecodedRecord)
        assert one.values == other.values == taught_values(number)
        assert one.text == other.text
        assert other.flags == ()
        for name, probabilities in one.probabilities.items():
            assert other.probabilities[name] == pytest.approx(probabilities, abs=0.02)
        other.to_meta(model.config.label_sets)


@pytest.mark.usefixtures("fake_vllm")
@pytest.mark.parametrize("layout", [COMPACT_LAYOUT, PUBLISHED_LAYOUT])
def test_a_cut_transcript_is_closed_and_the_labels_follow(layout: TextLayout) -> None:
    """Random weights never stop: every transcript is cut, and labels come all the same."""
    model, processor = tiny_speechllm(1, "pieces", layout)
    llm = FakeLLM(model.language_model, processor.tokenizer)
    options = DecodeOptions(max_transcript_tokens=3)
    flags = set()
    for record in VllmEngine(model, processor, llm, options).decode(tiny_clips(3), FIELDS[1:]):
        assert isinstance(record, DecodedRecord), record
        meta = record.to_meta(model.config.label_sets)
        assert all(meta.value(name) is not None for name in FIELDS[1:])
        flags.add(record.flags)
    assert ("transcript_truncated",) in flags


def test_without_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    model, processor = tiny_speechllm(0)
    with pytest.raises(UsageError, match="vLLM is not installed"):
        VllmEngine(model, processor, None).decode(tiny_clips(1))


@pytest.mark.usefixtures("fake_vllm")
def test_the_decoder_is_written_for_vllm(tmp_path: Any) -> None:
    model, processor = tiny_speechllm(0)
    started = start_vllm(model, processor, tmp_path, gpu_memory_utilization=0.5)
    assert started == {
        "model": str(tmp_path),
        "enable_prompt_embeds": True,
        "gpu_memory_utilization": 0.5,
    }
    assert (tmp_path / "config.json").is_file()
    assert (tmp_path / "tokenizer.json").is_file()
