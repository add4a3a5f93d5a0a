"""Who speaks when on one channel: clustering, embeddings, and the error measure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fakes import FakeEngine
from tiny import tiny_clips, tiny_speechllm
from voices import SENTENCES, make_call, speak

from speechmeta.diarization.clustering import absorb_small, cluster
from speechmeta.diarization.diarizer import diarize
from speechmeta.diarization.embeddings import (
    EncoderEmbedder,
    SpeakerProjection,
    VerificationEmbedder,
    unit,
)
from speechmeta.diarization.selection import load_embedder
from speechmeta.errors import ModelError, UsageError
from speechmeta.eval.metrics.der import diarization_error
from speechmeta.pipeline import plan
from speechmeta.pipeline.analyzer import Analyzer
from speechmeta.segmentation.turns import Speech

pytestmark = pytest.mark.slow

RATE = 8000
HOP = 64


def voices_at(owners: Sequence[int], spread: float = 0.15, size: int = 16) -> np.ndarray:
    random = np.random.default_rng(0)
    centres = unit(random.standard_normal((max(owners) + 1, size)))
    return unit(centres[list(owners)] + spread * random.standard_normal((len(owners), size)) / 4)


class PitchEmbedder:
    """Tells voices apart by the share of energy above 1 kHz; enough for two flite voices."""

    distance = 1.0
    spread = None

    def embed(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        rows = []
        for clip in clips:
            size = 512
            frames = clip[: len(clip) // size * size].reshape(-1, size) * np.hanning(size)
            spectra = np.abs(np.fft.rfft(frames, axis=1))
            spectra = spectra[spectra.sum(1) > np.median(spectra.sum(1))]
            flat = np.fft.rfft(spectra / spectra.sum(1, keepdims=True), axis=1)
            # The cepstrum's peak: pitch.
            rows.append(np.abs(flat).mean(0)[:48] ** 0.5)
        vectors = np.array(rows, dtype=np.float64)
        return unit(vectors - vectors.mean(0)) if len(rows) > 1 else unit(vectors)


def test_clusters_by_number_and_by_distance() -> None:
    owners = [0] * 10 + [1] * 8 + [2] * 6
    vectors = voices_at(owners)
    for labels in (cluster(vectors, 0.5), cluster(vectors, 0.0, 3)):
        assert len(set(labels)) == 3
        assert len({(owner, label) for owner, label in zip(owners, labels, strict=True)}) == 3
    assert len(set(cluster(vectors, 0.5, 2))) == 2
    assert list(cluster(vectors[:1], 0.5)) == [0]
    assert len(set(cluster(vectors[:2], 0.5, 5))) == 2


def test_long_calls_are_clustered_in_stretches() -> None:
    random = np.random.default_rng(1)
    owners = list(random.integers(0, 3, 5000))
    labels = cluster(voices_at(owners), 0.5)
    assert len({(owner, label) for owner, label in zip(owners, labels, strict=True)}) == 3
    by_number = cluster(voices_at(owners), 0.5, 3)
    assert len({(owner, label) for owner, label in zip(owners, by_number, strict=True)}) == 3


def test_small_clusters_are_no_speakers() -> None:
    vectors = voices_at([0] * 10 + [1] * 10 + [2])
    labels = absorb_small(vectors, cluster(vectors, 0.5), 2)
    assert len(set(labels)) == 2
    assert set(absorb_small(vectors[:1], np.zeros(1, np.int64), 5)) == {0}


def test_speech_is_divided_where_it_is_quiet() -> None:
    levels = np.full(20 * RATE // HOP, 1.0, np.float32)
    levels[round(6.1 * RATE / HOP) + np.arange(5)] = 1e-4

    def embed(windows: Sequence[tuple[int, int]]) -> np.ndarray:
        owners = [0 if (start + end) / 2 < 6.1 * RATE else 1 for start, end in windows]
        return voices_at(owners)

    runs = [Speech(0, 12 * RATE), Speech(13 * RATE, 13 * RATE + 800)]
    for speakers in (None, 2):
        found = diarize(runs, embed, levels, distance=0.5, rate=RATE, hop=HOP, speakers=speakers)
        assert [part.speaker for part in found] == [0, 1, 1]
        assert found[0].end / RATE == pytest.approx(6.12, abs=0.05)
        assert (found[0].start, found[-1].end) == (0, 13 * RATE + 800)
    one = diarize(runs, embed, levels, distance=0.5, rate=RATE, hop=HOP, speakers=1)
    assert [part.speaker for part in one] == [0, 0]
    assert diarize([], embed, levels, distance=0.5, rate=RATE, hop=HOP) == []
    with pytest.raises(UsageError):
        diarize(runs, embed, levels, distance=0.5, rate=RATE, hop=HOP, speakers=0)


@pytest.mark.parametrize("speakers", [None, 2])
def test_mono_call_of_two_voices(monkeypatch: pytest.MonkeyPatch, speakers: int | None) -> None:
    call = make_call(voices=("rms", "slt"))
    mixed = call.waveform.sum(0)
    monkeypatch.setattr(Analyzer, "embedder_source", lambda *args: PitchEmbedder)
    analyzer = Analyzer.from_engine(FakeEngine())
    report = analyzer.analyze_call((mixed, call.rate), speakers=speakers)
    answer = [(turn.start, turn.end, turn.speaker) for turn in report.turns]
    assert {turn.speaker for turn in report.turns} == {"speaker_0", "speaker_1"}
    assert diarization_error(call.truth, answer).rate < 0.15
    assert [item.speaker for item in report.speakers] == ["speaker_0", "speaker_1"]
    named = analyzer.analyze_call((mixed, call.rate), roles=["agent", "customer"])
    assert [turn.speaker for turn in named.turns][:2] == ["agent", "customer"]
    # Embedded a few clips at a time, the result is the same.
    monkeypatch.setattr(plan, "_EMBED_TOGETHER", 10_000)
    again = analyzer.analyze_call((mixed, call.rate), speakers=speakers)
    assert [turn.speaker for turn in again.turns] == [turn.speaker for turn in report.turns]


def test_encoder_embeddings_do_not_depend_on_the_batch() -> None:
    model, processor = tiny_speechllm(0)
    clips = tiny_clips(5)
    embedder = EncoderEmbedder(model, processor, layer=1)
    together = embedder.embed(clips)
    assert together.shape == (5, 64)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0)
    alone = np.concatenate([embedder.embed([clip]) for clip in clips])
    np.testing.assert_allclose(together, alone, atol=1e-4)
    assert EncoderEmbedder(model, processor, layer=-1).layer == 2
    small = EncoderEmbedder(model, processor, layer=1, batch_seconds=1.0).embed(clips)
    np.testing.assert_allclose(small, together, atol=1e-4)
    assert np.isfinite(embedder.embed([np.zeros(10, np.float32)])).all()


def test_a_layer_that_the_encoder_does_not_have() -> None:
    model, processor = tiny_speechllm(0)
    with pytest.raises(ModelError, match="hidden states 0 to 2, not number 4"):
        EncoderEmbedder(model, processor, layer=4)
    with pytest.raises(ModelError, match="choose a layer from 0 to 2"):
        EncoderEmbedder(model, processor).pool_layers(tiny_clips(3), [1, 5])
    # Weights may be smaller than float32.
    exact = EncoderEmbedder(model, processor).embed(tiny_clips(3))
    model.audio_tower.to(torch.bfloat16)
    rough = EncoderEmbedder(model, processor).embed(tiny_clips(3))
    assert float((rough * exact).sum(1).min()) > 0.97


def test_an_encoder_without_hidden_states(monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = tiny_speechllm(0)
    monkeypatch.setattr(
        model.audio_tower, "forward", lambda *_, **__: SimpleNamespace(hidden_states=None)
    )
    with pytest.raises(ModelError, match="no hidden states"):
        EncoderEmbedder(model, processor)


def test_projection_is_kept_beside_the_checkpoint(tmp_path: Path) -> None:
    model, processor = tiny_speechllm(0)
    random = np.random.default_rng(0)
    made = SpeakerProjection(random.random(64), random.random((64, 8)), 0.4, 2)
    made.save(tmp_path)
    model.config.name_or_path = str(tmp_path)
    embedder = load_embedder("encoder", model, processor)
    assert isinstance(embedder, EncoderEmbedder)
    assert (embedder.layer, embedder.distance) == (2, 0.4)
    assert embedder.embed(tiny_clips(2)).shape == (2, 8)
    made.__class__(made.mean, made.matrix, 0.4, 9).save(tmp_path)
    with pytest.raises(ModelError, match="hidden states 0 to 2, not number 9"):
        load_embedder("encoder", model, processor)
    made.__class__(made.mean[:62], made.matrix[:62], 0.4, 1).save(tmp_path)
    with pytest.raises(ModelError, match="vectors of 62 numbers, layer 1 of the encoder gives 64"):
        load_embedder("encoder", model, processor)
    (tmp_path / "speaker_projection.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match="not a speaker projection"):
        load_embedder("encoder", model, processor)
    with pytest.raises(ModelError, match="no encoder"):
        load_embedder("encoder", model)
    assert SpeakerProjection.load(tmp_path / "absent") is None


def test_voiceprints_tell_voices_apart() -> None:
    embedder = load_embedder(None)
    halves = []
    for voice in ("rms", "slt"):
        for text in SENTENCES[:3]:
            halves.append(speak(text, voice, 16000))
    vectors = embedder.embed(halves)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0)
    np.testing.assert_allclose(embedder.embed([0.1 * halves[0]]), vectors[:1], atol=1e-3)
    distances = 1 - vectors @ vectors.T
    same = np.concatenate([distances[:3, :3].ravel(), distances[3:, 3:].ravel()])
    assert same.max() < distances[:3, 3:].min()
    assert same.max() < embedder.distance < distances[:3, 3:].mean()
    assert np.isfinite(embedder.embed([np.zeros(10, np.float32)])).all()


@pytest.mark.parametrize("speakers", [None, 2])
def test_mono_call_with_the_packaged_voiceprint(speakers: int | None) -> None:
    call = make_call(voices=("rms", "slt"))
    report = Analyzer.from_engine(FakeEngine()).analyze_call(
        (call.waveform.sum(0), call.rate), speakers=speakers
    )
    answer = [(turn.start, turn.end, turn.speaker) for turn in report.turns]
    assert diarization_error(call.truth, answer).rate < 0.15


def save_xvector(folder: Path) -> Path:
    """A random checkpoint in the layout of microsoft/wavlm-base-plus-sv."""
    from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMForXVector

    torch.manual_seed(0)
    config = WavLMConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(16, 16, 16),
        conv_kernel=(10, 8, 4),
        conv_stride=(5, 8, 8),
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        tdnn_dim=(16, 16, 32),
        tdnn_kernel=(5, 3, 1),
        tdnn_dilation=(1, 2, 1),
        xvector_output_dim=24,
        use_weighted_layer_sum=True,
    )
    WavLMForXVector(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return folder


def test_verification_model_of_the_hub(tmp_path: Path) -> None:
    folder = save_xvector(tmp_path / "sv")
    model, processor = tiny_speechllm(0)
    embedder = load_embedder(str(folder), model, processor, local_files_only=True)
    assert isinstance(embedder, VerificationEmbedder)
    vectors = embedder.embed(tiny_clips(3, seconds=(0.6, 1.5)))
    assert vectors.shape == (3, 24)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0)
    assert 0 < embedder.distance < 1


def test_verification_models_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no folder"):
        VerificationEmbedder(str(tmp_path / "absent"), local_files_only=True)
    with pytest.raises(ModelError, match="cannot be loaded"):
        VerificationEmbedder("microsoft/no-such-model", local_files_only=True)


def test_error_rate_by_hand() -> None:
    truth = [(0.0, 4.0, "a"), (5.0, 9.0, "b")]
    assert diarization_error(truth, [(0, 4, 1), (5, 9, 2)]).rate == 0
    swapped = diarization_error(truth, [(0, 4, "b"), (5, 9, "a")])
    assert swapped.rate == 0, "names do not matter"
    one = diarization_error(truth, [(0.0, 9.0, "x")])
    assert (one.missed, one.false_alarm, one.confusion, one.speech) == (0, 1, 4, 8)
    assert one.rate == pytest.approx(5 / 8)
    late = diarization_error(truth, [(1.0, 4.0, 1), (5.0, 8.0, 2), (8.0, 9.0, 1)])
    assert (late.missed, late.false_alarm, late.confusion) == (1, 0, 1)
    # Both talk from 3 to 4; only one is heard.
    both = diarization_error([(0, 4, "a"), (3, 6, "b")], [(0, 3.5, 1), (3.5, 6, 2)])
    assert (both.missed, both.confusion, both.speech) == (1, 0, 7)
    assert diarization_error(truth, []).rate == 1
    assert diarization_error(truth, [(0.2, 4.2, 1), (5, 9, 2)], collar=0.25).rate == 0
    assert (one + swapped).rate == pytest.approx(5 / 16)
    with pytest.raises(ValueError, match="no speech"):
        diarization_error([], truth)
