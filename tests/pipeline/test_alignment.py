"""Word times: forced alignment on a CTC head whose answer is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_clips, tiny_speechllm

from speechmeta.decoding.engine import Engine
from speechmeta.errors import ModelError
from speechmeta.pipeline.alignment import WordAligner, shifted
from speechmeta.pipeline.analyzer import Analyzer
from speechmeta.schema import Word


def spelling_aligner(
    text: str, places: list[int], frames: int, monkeypatch: pytest.MonkeyPatch
) -> WordAligner:
    """An aligner whose CTC head gives each token of the text at the given frame."""
    model, processor = tiny_speechllm(0, ctc_head=True)
    aligner = WordAligner(model, processor)
    ids, _ = aligner._tokens(text.split())
    assert len(ids) == len(places), ids
    logits = torch.zeros(1, frames, model.config.text_config.vocab_size)
    logits[..., model.config.text_config.pad_token_id] = 10.0
    for token, frame in zip(ids, places, strict=True):
        logits[0, frame, token] = 20.0

    class Features:
        ctc_logits = logits
        encoder_lengths = torch.tensor([frames])

    monkeypatch.setattr(type(model), "get_audio_features", lambda *args: Features())
    return aligner


def test_words_are_where_the_head_hears_them(monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = tiny_speechllm(0, ctc_head=True)
    text = "yes i got it"
    ids, owners = WordAligner(model, processor)._tokens(text.split())
    assert sorted(set(owners)) == [0, 1, 2, 3]
    assert owners == sorted(owners)
    places = [10 + 5 * index for index in range(len(ids))]
    aligner = spelling_aligner(text, places, 100, monkeypatch)
    words = aligner.align([np.zeros(64_640, np.float32)], [text])[0]
    assert words is not None
    assert [word.word for word in words] == text.split()
    for owner, word in enumerate(words):
        mine = [place for place, other in zip(places, owners, strict=True) if other == owner]
        # Frames of 40 ms; the first is centred 600 samples into the clip.
        assert word.start == pytest.approx(mine[0] * 0.04, abs=0.03)
        assert word.end == pytest.approx((mine[-1] + 1) * 0.04, abs=0.03)
        assert word.score > 0.9


def test_own_spelling_and_punctuation_stay() -> None:
    model, processor = tiny_speechllm(0, ctc_head=True)
    clips = [np.tile(clip, 3) for clip in tiny_clips(3, seconds=(1.5, 2.0))]
    texts = ["Yes,  I got it.", "", "été naïve"]
    found = WordAligner(model, processor).align(clips, texts)
    for words, text, clip in zip(found, texts, clips, strict=True):
        assert words is not None
        assert [word.word for word in words] == text.split()
        times = [time for word in words for time in (word.start, word.end)]
        assert times == sorted(times)
        assert all(0 <= time <= len(clip) / 16000 for time in times)
    alone = [
        WordAligner(model, processor).align([c], [t])[0] for c, t in zip(clips, texts, strict=True)
    ]
    for together, single in zip(found, alone, strict=True):
        assert [w.start for w in together or []] == pytest.approx([w.start for w in single or []])
    parts = WordAligner(model, processor, batch_seconds=0.1).align(clips, texts)
    assert [[w.word for w in words or []] for words in parts] == [t.split() for t in texts]


def test_a_transcript_that_is_too_long_has_no_words() -> None:
    model, processor = tiny_speechllm(0, ctc_head=True)
    found = WordAligner(model, processor).align(
        [np.zeros(4000, np.float32), np.zeros(32_000, np.float32)], ["word " * 200, "yes"]
    )
    assert found[0] is None
    assert found[1] is not None


def test_without_a_head() -> None:
    with pytest.raises(ModelError, match="no CTC head"):
        WordAligner(*tiny_speechllm(0))


def test_in_a_report() -> None:
    model, processor = tiny_speechllm(3, ctc_head=True)
    engine: Any = Engine(model, processor)
    engine.processor = processor
    analyzer = Analyzer.from_engine(engine)
    noise = 0.1 * np.random.default_rng(0).standard_normal(3 * 16000)
    report = analyzer.analyze_call((noise, 16000), vad=False, word_times=True)
    for turn in report.turns:
        if turn.meta.transcript:
            aligned = turn.words is not None or "words_not_aligned" in turn.flags
            assert aligned
            if turn.words:
                assert [w.word for w in turn.words] == turn.meta.transcript.split()


def test_shifted() -> None:
    word = Word(word="a", start=0.5, end=0.75, score=1.0)
    assert shifted([word], 2.0) == [Word(word="a", start=2.5, end=2.75, score=1.0)]
