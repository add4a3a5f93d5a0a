"""Speaker models by name: pyannote.audio and NeMo by stand-ins of the same interface, transformers'
by random checkpoints, and names that lead nowhere."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from fakes import FakeEngine
from voices import make_call

from speechmeta.diarization.embeddings import VerificationEmbedder
from speechmeta.diarization.selection import load_embedder
from speechmeta.diarization.toolkits import (
    NEMO_DISTANCE,
    PYANNOTE_DISTANCE,
    ForeignEmbedder,
    is_nemo,
    is_pyannote,
)
from speechmeta.errors import ModelError
from speechmeta.pipeline.analyzer import Analyzer
from speechmeta.settings import OptionError

pytestmark = pytest.mark.slow


def clips() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    lengths = (24000, 24000, 1600, 12000)
    return [random.standard_normal(n).astype(np.float32) for n in lengths]


def pooled(waves: torch.Tensor) -> torch.Tensor:
    """(n, samples) to (n, 3), of each wave alone."""
    return torch.stack([waves.mean(1), waves.std(1), waves.abs().amax(1)], dim=1)


class PyannoteEmbedding:
    """As `PretrainedSpeakerEmbedding`: (n, 1, samples) to an array (n, size)."""

    def __init__(self, embedding: str, device: torch.device | None = None) -> None:
        self.embedding, self.device = embedding, device

    def to(self, device: torch.device) -> PyannoteEmbedding:
        self.device = device
        return self

    def __call__(self, waveforms: torch.Tensor, masks: object = None) -> np.ndarray:
        assert waveforms.ndim == 3
        assert waveforms.shape[1] == 1
        return pooled(waveforms[:, 0]).numpy()


class PyannotePipeline:
    """As a `SpeakerDiarization` pipeline of pyannote.audio, as far as it is used."""

    def __init__(self) -> None:
        self._embedding = PyannoteEmbedding("inner")

    @classmethod
    def from_pretrained(cls, checkpoint: str) -> PyannotePipeline | None:
        return None if "gated" in checkpoint else cls()

    def parameters(self, instantiated: bool = False) -> dict[str, Any]:
        assert instantiated
        return {"clustering": {"method": "centroid", "threshold": 0.65}}


class NemoModel:
    """As `EncDecSpeakerLabelModel`: logits and embeddings of padded waves."""

    frozen = False

    @classmethod
    def from_pretrained(cls, name: str) -> NemoModel:
        if "missing" in name:
            raise FileNotFoundError(f"Model {name} was not found\nmore lines")
        return cls()

    @classmethod
    def restore_from(cls, path: str, map_location: object = None) -> NemoModel:
        assert Path(path).is_file()
        return cls()

    def freeze(self) -> None:
        self.frozen = True

    def to(self, device: torch.device) -> NemoModel:
        return self

    def __call__(
        self, input_signal: torch.Tensor, input_signal_length: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.frozen
        assert input_signal_length.tolist() == [input_signal.shape[1]] * len(input_signal)
        return torch.zeros(len(input_signal), 2), pooled(input_signal)


def module(name: str, **parts: object) -> ModuleType:
    made = ModuleType(name)
    made.__dict__.update(parts)
    return made


@pytest.fixture
def toolkits(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {
        "pyannote": module("pyannote"),
        "pyannote.audio": module("pyannote.audio", Pipeline=PyannotePipeline),
        "pyannote.audio.pipelines": module("pyannote.audio.pipelines"),
        "pyannote.audio.pipelines.speaker_verification": module(
            "speaker_verification", PretrainedSpeakerEmbedding=PyannoteEmbedding
        ),
        "nemo": module("nemo"),
        "nemo.collections": module("nemo.collections"),
        "nemo.collections.asr": module("nemo.collections.asr"),
        "nemo.collections.asr.models": module("models", EncDecSpeakerLabelModel=NemoModel),
    }
    for name, stand_in in found.items():
        monkeypatch.setitem(sys.modules, name, stand_in)


@pytest.mark.usefixtures("toolkits")
@pytest.mark.parametrize(
    ("name", "distance"),
    [
        ("pyannote/embedding", PYANNOTE_DISTANCE),
        ("pyannote/speaker-diarization-3.1", 0.65),
        ("nvidia/speakerverification_en_titanet_large", NEMO_DISTANCE),
        ("titanet_large", NEMO_DISTANCE),
    ],
)
def test_models_of_other_toolkits(name: str, distance: float) -> None:
    embedder = load_embedder(name)
    assert isinstance(embedder, ForeignEmbedder)
    assert embedder.distance == distance
    waves = clips()
    vectors = embedder.embed(waves)
    assert vectors.shape == (4, 3)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0)
    for index in (0, 1, 3):
        expected = pooled(torch.from_numpy(waves[index])[None])[0].double().numpy()
        np.testing.assert_allclose(
            vectors[index], expected / np.linalg.norm(expected), rtol=1e-5, atol=1e-6
        )


@pytest.mark.usefixtures("toolkits")
def test_a_nemo_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.nemo"
    path.write_bytes(b"")
    assert load_embedder(str(path), local_files_only=True).embed(clips()).shape == (4, 3)


@pytest.mark.usefixtures("toolkits")
def test_a_pyannote_folder(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("pipeline: {}")
    assert load_embedder(str(tmp_path), local_files_only=True).distance == 0.65


@pytest.mark.usefixtures("toolkits")
def test_what_cannot_be_had_is_one_line() -> None:
    for name, told in (
        ("pyannote/gated-diarization", "conditions"),
        ("nvidia/missing", "was not found"),
    ):
        with pytest.raises(ModelError, match=told) as caught:
            load_embedder(name)
        assert "\n" not in caught.value.message
        assert caught.value.hint


def test_a_network_that_gives_nothing() -> None:
    embedder = ForeignEmbedder(lambda waves: np.full((len(waves), 2), np.nan), 0.5, "odd")
    with pytest.raises(ModelError, match="no embedding"):
        embedder.embed(clips())


@pytest.mark.parametrize("name", ["pyannote/embedding", "nvidia/titanet"])
def test_toolkits_that_are_not_installed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("pyannote", "pyannote.audio", "nemo", "nemo.collections.asr.models"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModelError, match="not installed") as caught:
        load_embedder(name)
    assert "pip install" in caught.value.hint


def test_names() -> None:
    assert is_pyannote("pyannote/embedding")
    assert not is_pyannote("microsoft/wavlm-base-plus-sv")
    assert is_nemo("nvidia/speakerverification_en_titanet_large")
    assert is_nemo("voices.nemo")
    assert not is_nemo("microsoft/wavlm-base-plus-sv")


@pytest.mark.parametrize("family", ["WavLM", "UniSpeechSat", "Wav2Vec2"])
def test_families_of_transformers(family: str, tmp_path: Path) -> None:
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        conv_dim=(16, 16, 16), conv_kernel=(10, 8, 4), conv_stride=(5, 8, 8),
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2, tdnn_dim=(16, 16, 32),
        tdnn_kernel=(5, 3, 1), tdnn_dilation=(1, 2, 1), xvector_output_dim=24,
    )  # fmt: skip
    getattr(transformers, f"{family}ForXVector")(config).save_pretrained(tmp_path)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    embedder = load_embedder(str(tmp_path), local_files_only=True)
    assert isinstance(embedder, VerificationEmbedder)
    vectors = embedder.embed(clips()[:2])
    assert vectors.shape == (2, 24)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0)


@pytest.mark.parametrize("name", ["pyannote/embedding", "absent/folder", "nvidia/titanet"])
def test_a_call_is_answered_without_the_model(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("pyannote", "pyannote.audio", "nemo", "nemo.collections.asr.models"):
        monkeypatch.setitem(sys.modules, package, None)
    call = make_call(turns=4)
    analyzer = Analyzer.from_engine(FakeEngine(), local_files_only=True)
    report = analyzer.analyze_call(
        (call.waveform.sum(0), call.rate), speakers=2, speaker_model=name
    )
    usual = analyzer.analyze_call((call.waveform.sum(0), call.rate), speakers=2)
    assert [turn.speaker for turn in report.turns] == [turn.speaker for turn in usual.turns]
    notes = [note for note in report.warnings if "voiceprint" in note]
    assert len(notes) == 1
    assert name in notes[0]
    assert "\n" not in notes[0]


def test_unused_names_need_not_exist() -> None:
    call = make_call(turns=2)
    analyzer = Analyzer.from_engine(FakeEngine(), local_files_only=True)
    report = analyzer.analyze_call((call.waveform, call.rate), speaker_model="absent/folder")
    assert not [note for note in report.warnings if "absent" in note]


def test_absurd_numbers_of_speakers_are_answered() -> None:
    call = make_call(turns=2)
    analyzer = Analyzer.from_engine(FakeEngine())
    for count in (9, 500, 1000):
        report = analyzer.analyze_call((call.waveform.sum(0), call.rate), speakers=count)
        assert report.turns
        assert any(f"{count} speakers were asked for" in note for note in report.warnings)
    with pytest.raises(OptionError, match="speakers is 1000000000"):
        analyzer.analyze_call((call.waveform.sum(0), call.rate), speakers=10**9)
    roles = [f"role {number}" for number in range(40)]
    report = analyzer.analyze_call((call.waveform, call.rate), roles=roles)
    assert [turn.speaker for turn in report.turns] == ["role 0", "role 1"]
    assert any("40 roles were given for 2 channels" in note for note in report.warnings)
    assert any("no channel is left for role 2" in note for note in report.warnings)
