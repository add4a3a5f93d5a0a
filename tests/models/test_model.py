"""The model family in transformers' conventions."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_speechllm
from transformers import AutoConfig, AutoModel, AutoProcessor
from transformers.models.wavlm.modeling_wavlm import WavLMAttention

from speechmeta.errors import AudioError, ModelError, UsageError
from speechmeta.models.speechllm import (
    SpeechLLMConfig,
    SpeechLLMForConditionalGeneration,
    SpeechLLMProcessor,
    load_model,
)
from speechmeta.models.speechllm.quantization import Int8Linear
from speechmeta.models.speechllm.wavlm_attention import WavLMSdpaAttention


@pytest.fixture(scope="module")
def tiny() -> tuple[SpeechLLMForConditionalGeneration, SpeechLLMProcessor]:
    return tiny_speechllm(seed=0)


def wave(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(int(seconds * 16_000)).astype(np.float32)


def test_save_and_load_round_trip(tiny: Any, tmp_path: Path) -> None:
    model, processor = tiny
    inputs = processor(audio=wave(1.0), sampling_rate=16_000)
    with torch.inference_mode():
        before = model(**inputs).logits
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert sorted(path.suffix for path in tmp_path.glob("model*")) == [".safetensors"]
    for loaded, its_processor in (
        (AutoModel.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)),
        load_model(tmp_path, device="cpu"),
    ):
        assert isinstance(loaded, SpeechLLMForConditionalGeneration)
        assert its_processor.layout == processor.layout
        again = its_processor(audio=wave(1.0), sampling_rate=16_000)
        with torch.inference_mode():
            assert torch.equal(loaded.eval()(**again).logits, before)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), SpeechLLMConfig)


def test_constructors_do_no_io(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = SpeechLLMConfig.from_dict(tiny[0].config.to_dict())

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a constructor opened a file or a connection")

    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    with torch.device("meta"):
        SpeechLLMForConditionalGeneration(config)


def test_config_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="'bert' model"):
        SpeechLLMConfig(audio_config={"model_type": "bert"})


def test_audio_positions_are_counted_exactly(tiny: Any) -> None:
    model, processor = tiny
    for samples in [1, 400, processor.min_samples, processor.min_samples + 1, 16_000, 23_457]:
        prepared = processor.prepare_audio([wave(2.0)[:samples]])
        with torch.inference_mode():
            features = model.get_audio_features(**prepared)
        assert features.embeds.shape[1] == processor.num_audio_tokens(samples)
        assert features.lengths.tolist() == [processor.num_audio_tokens(samples)]


def test_padded_batch_equals_single_clips(tiny: Any) -> None:
    model, processor = tiny
    waves = [wave(1.7, 1), wave(0.4, 2), wave(1.1, 3)]
    with torch.inference_mode():
        batch = model.get_audio_features(**processor.prepare_audio(waves))
        for row, clip in enumerate(waves):
            alone = model.get_audio_features(**processor.prepare_audio([clip]))
            count = int(batch.lengths[row])
            assert count == int(alone.lengths[0])
            assert torch.allclose(batch.embeds[row, :count], alone.embeds[0], atol=1e-4)


@pytest.mark.parametrize("change", [-1, 1])
def test_mismatching_audio_positions(tiny: Any, change: int) -> None:
    model, processor = tiny
    inputs = processor(audio=wave(1.0), sampling_rate=16_000)
    ids = inputs["input_ids"]
    audio = torch.full((1, 1), model.config.audio_token_id)
    place = int((ids[0] == model.config.audio_token_id).nonzero()[0])
    inputs["input_ids"] = (
        torch.cat([ids[:, :place], audio, ids[:, place:]], 1)
        if change > 0
        else torch.cat([ids[:, :place], ids[:, place + 1 :]], 1)
    )
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    with pytest.raises(ValueError, match="audio positions, the audio has"):
        model(**inputs)


def test_audio_positions_without_audio(tiny: Any) -> None:
    model, processor = tiny
    ids = processor(audio=wave(1.0), sampling_rate=16_000)["input_ids"]
    with pytest.raises(ValueError, match="there is no audio"):
        model(input_ids=ids)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft's own calls into transformers
def test_lora_adapter_loads(tiny: Any, tmp_path: Path) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model

    model, processor = tiny_speechllm(seed=3)
    inputs = processor(audio=wave(1.0), sampling_rate=16_000)
    lora = LoraConfig(
        r=2, target_modules=r"language_model.*\.(q_proj|v_proj)", init_lora_weights=False
    )
    with torch.inference_mode():
        plain = model(**inputs).logits
        adapted = get_peft_model(model, lora).eval()
        expected = adapted(**inputs).logits
    adapted.save_pretrained(tmp_path)
    assert (expected - plain).abs().max() > 1e-4
    fresh, _ = tiny_speechllm(seed=3)
    loaded = PeftModel.from_pretrained(fresh, tmp_path).eval()
    with torch.inference_mode():
        assert torch.allclose(loaded(**inputs).logits, expected, atol=1e-6)


def test_wavlm_attention_equals_that_of_transformers() -> None:
    torch.manual_seed(0)
    theirs = WavLMAttention(embed_dim=24, num_heads=3).eval()
    ours = WavLMSdpaAttention(embed_dim=24, num_heads=3).eval()
    ours.load_state_dict(theirs.state_dict())
    hidden = torch.randn(2, 17, 24)
    with torch.inference_mode():
        expected = theirs(hidden)[0]
        assert (ours(hidden)[0] - expected).abs().max() < 1e-5
    # While it is trained, the bias needs gradients and takes another path.
    assert (ours(hidden)[0] - expected).abs().max() < 1e-5
    mask = torch.ones(2, 17, dtype=torch.bool)
    mask[1, 9:] = False
    with torch.inference_mode():
        padded = ours(hidden, mask)[0][1, :9]
        alone = ours(hidden[1:, :9])[0][0]
    assert (padded - alone).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"audio": None, "sampling_rate": 16_000}, AudioError, "no audio"),
        ({"audio": wave(0.1), "sampling_rate": 8_000}, AudioError, "8000"),
        ({"audio": np.zeros((2, 99)), "sampling_rate": 16_000}, AudioError, "shape"),
        ({"audio": np.zeros(0), "sampling_rate": 16_000}, AudioError, "no samples"),
        ({"audio": np.full(99, np.nan), "sampling_rate": 16_000}, AudioError, "NaN"),
        ({"audio": wave(0.1), "sampling_rate": 16_000, "padding": True}, UsageError, "padding"),
    ],
)
def test_the_processor_refuses_what_it_cannot_take(
    tiny: Any, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        tiny[1](**arguments)


def test_int8_stays_close_to_bfloat16(tiny: Any, tmp_path: Path) -> None:
    model, processor = tiny
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    inputs = processor(audio=wave(1.0), sampling_rate=16_000)
    half, _ = load_model(tmp_path, device="cpu", dtype="bfloat16")
    small, _ = load_model(tmp_path, device="cpu", dtype="int8")
    with torch.inference_mode():
        expected = half(**inputs).logits.float().flatten()
        got = small(**inputs).logits.float().flatten()
    assert torch.corrcoef(torch.stack([expected, got]))[0, 1] > 0.99
    linears = [m for m in small.language_model.model.layers.modules() if "Linear" in str(type(m))]
    assert {type(module).__name__ for module in linears} == {"Int8Linear"}


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_int8_layers_stay_close_to_their_originals(rows: int) -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(64, 32).bfloat16()
    inputs = torch.randn(1, rows, 64, dtype=torch.bfloat16)
    with torch.inference_mode():
        error = (Int8Linear(linear)(inputs) - linear(inputs)).float().abs().max()
    assert error < 0.05


def test_what_is_not_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no checkpoint"):
        load_model(tmp_path / "absent")
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ModelError, match="'llama' model"):
        load_model(tmp_path)
    with pytest.raises(UsageError, match="unknown device"):
        load_model(tmp_path, device="abacus")
    with pytest.raises(UsageError, match="unknown dtype"):
        load_model(tmp_path, device="cpu", dtype="int3")
