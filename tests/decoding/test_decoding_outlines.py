"""Our engines against outlines' own logits processor in transformers' `generate`."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from typing import Any

import outlines
import pytest
import torch
from outlines.backends import get_regex_logits_processor
from outlines.backends.outlines_core import OutlinesCoreLogitsProcessor
from tiny import TAUGHT, taught_speechllm, taught_values, tiny_clips, tiny_speechllm

from speechmeta.decoding.engine import Engine
from speechmeta.decoding.inputs import Prompt, PromptBuilder
from speechmeta.decoding.layout import COMPACT_LAYOUT, PUBLISHED_LAYOUT, TextLayout
from speechmeta.decoding.options import DecodeOptions
from speechmeta.decoding.reference import ReferenceEngine
from speechmeta.schema import DEFAULT_LABEL_SETS, FIELDS

# outlines applies its masks through torch.compile, whose modules are full of old interfaces.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.slow,
]

CASES = pytest.mark.parametrize(
    ("vocab", "layout"),
    [
        ("llama", COMPACT_LAYOUT),
        ("llama", PUBLISHED_LAYOUT),
        ("bytes", COMPACT_LAYOUT),
        ("bytes", PUBLISHED_LAYOUT),
    ],
    ids=["llama-compact", "llama-published", "bytes-compact", "bytes-published"],
)


@pytest.fixture(autouse=True)
def _no_compiler() -> Iterator[None]:
    """outlines compiles the kernel that applies its masks; here only its values count."""
    with torch.compiler.set_stance("force_eager"):
        yield


def generate(model: Any, prompt: Prompt, processor: Any, limit: int) -> list[int]:
    processor.reset()
    output = model.language_model.generate(
        inputs_embeds=prompt.embeds[None],
        attention_mask=torch.ones(1, len(prompt.embeds), dtype=torch.long),
        logits_processor=[processor],
        do_sample=False,
        max_new_tokens=limit,
    )
    return [int(token) for token in output[0] if token != model.config.text_config.eos_token_id]


@CASES
def test_same_tokens_on_random_weights(vocab: str, layout: TextLayout) -> None:
    """With tokenization left to the model, the grammar's index allows what outlines allows."""
    model, processor = tiny_speechllm(5, vocab, layout)
    plain = ReferenceEngine(model, processor)
    index = plain.grammars.get(FIELDS).automaton.index
    theirs = OutlinesCoreLogitsProcessor(index, "torch")
    for clip in tiny_clips(3, seed=2):
        [prompt] = PromptBuilder(model, processor, DecodeOptions()).build([clip], FIELDS, None)
        assert isinstance(prompt, Prompt)
        ours = plain.greedy_tokens(clip, max_new_tokens=90)
        assert ours == generate(model, prompt, theirs, 90)


def parse(text: str, layout: TextLayout) -> dict[str, Any]:
    data = json.loads(re.sub(r",\s*}", "}", text))
    by_case = {label.lower(): label for labels in DEFAULT_LABEL_SETS.values() for label in labels}
    values: dict[str, Any] = {
        field: by_case.get(value.lower(), value) for field, value in data.items()
    }
    values["SpeechActivity"] = values["SpeechActivity"] == "True"
    values["Transcript"] = values.get("Transcript", "").strip()
    return {field: values.get(field) for field in FIELDS}


@pytest.mark.parametrize(
    ("vocab", "layout"),
    # Each vocabulary and each layout once: a model has to learn before it is compared.
    [("llama", PUBLISHED_LAYOUT), ("bytes", COMPACT_LAYOUT)],
    ids=["llama-published", "bytes-compact"],
)
def test_same_values_as_outlines(vocab: str, layout: TextLayout) -> None:
    """A model that has learnt its layout: outlines' public processor, our engines."""
    model, processor, clips = taught_speechllm(vocab, layout)
    engine = Engine(model, processor)
    # A copy of the tokenizer: outlines changes the one it is given.
    steerable = outlines.from_transformers(model.language_model, copy.deepcopy(processor.tokenizer))
    theirs = get_regex_logits_processor(
        "outlines_core", steerable, engine.grammars.get(FIELDS).regex
    )
    prompts = PromptBuilder(model, processor, DecodeOptions()).build(clips, FIELDS, None)
    ours = engine.decode(clips)
    plain = ReferenceEngine(model, processor).decode(clips)
    learnt = 0
    for number in range(len(TAUGHT)):
        prompt = prompts[number]
        assert isinstance(prompt, Prompt)
        text = processor.tokenizer.decode(generate(model, prompt, theirs, 150))
        values = parse(text, layout)
        learnt += values == taught_values(number)
        assert ours[number].values == values  # type: ignore[union-attr]
        assert plain[number].values == values  # type: ignore[union-attr]
        assert ours[number].text == text.strip()  # type: ignore[union-attr]

    # Else the model would be too undecided for the comparison to mean anything.
    assert learnt >= len(TAUGHT) - 1
