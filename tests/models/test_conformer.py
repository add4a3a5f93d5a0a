"""The log-mel conformer: frames, padding, precision, and the label head behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_clips, tiny_speechllm
from torchaudio.transforms import MelSpectrogram
from transformers import AutoModel

from speechmeta.decoding.engine import Engine
from speechmeta.decoding.options import DecodeOptions
from speechmeta.decoding.record import DecodedRecord
from speechmeta.decoding.reference import ReferenceEngine
from speechmeta.models.speechllm import (
    SpeechLLMConfig,
    SpeechLLMForConditionalGeneration,
    load_model,
)
from speechmeta.models.speechllm.conformer import (
    LogMelConformerConfig,
    LogMelConformerModel,
    log_mel,
)
from speechmeta.models.speechllm.quantization import Int8Linear

TINY: dict[str, Any] = {
    "num_mel_bins": 20,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "stages": [1, 2, 1],
    "subsampling_channels": 4,
}


@pytest.fixture
def encoder() -> LogMelConformerModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder: LogMelConformerModel = LogMelConformerModel(LogMelConformerConfig(**TINY))
        encoder.train(False)
        return encoder


def padded(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    noise = torch.Generator().manual_seed(1)
    waves = torch.zeros(len(lengths), max(lengths))
    mask = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    for row, length in enumerate(lengths):
        waves[row, :length] = torch.randn(length, generator=noise)
        mask[row, :length] = 1
    return waves, mask


# Odd and even numbers of frames: the middle stage takes frames in pairs.
@pytest.mark.parametrize("lengths", [[16_000, 9_000, 4_321], [16_640, 15_360, 8_000]])
def test_padded_batch_equals_single_clips(encoder: Any, lengths: list[int]) -> None:
    waves, mask = padded(lengths)
    with torch.inference_mode():
        together = encoder(waves, mask)
        for row, length in enumerate(lengths):
            alone = encoder(waves[row : row + 1, :length])
            frames = alone.last_hidden_state.shape[1]
            torch.testing.assert_close(
                together.last_hidden_state[row, :frames], alone.last_hidden_state[0]
            )
            torch.testing.assert_close(together.pooled[row], alone.pooled[0])


@pytest.mark.parametrize("samples", [3_000, 8_000, 8_159, 8_160, 20_001])
def test_frame_counts_follow_the_config(encoder: Any, samples: int) -> None:
    count = samples
    for kernel, stride in zip(encoder.config.conv_kernel, encoder.config.conv_stride, strict=True):
        count = (count - kernel) // stride + 1
    with torch.inference_mode():
        assert encoder(torch.randn(1, samples)).last_hidden_state.shape[1] == count


def test_bands_are_torchaudios() -> None:
    wave = torch.randn(2, 9_000)
    reference = MelSpectrogram(
        16_000, n_fft=512, win_length=400, hop_length=160, n_mels=40, f_min=20.0, f_max=7600.0,
        center=False,
    )(wave)  # fmt: skip
    torch.testing.assert_close(
        log_mel(wave, 40), (((reference + 1e-2).log() - 1) / 3).transpose(1, 2), atol=1e-4, rtol=0
    )


def test_half_precision_stays_close(encoder: Any) -> None:
    waves, mask = padded([16_000, 9_000])
    with torch.inference_mode():
        exact = encoder(waves, mask).last_hidden_state
        rough = encoder.to(torch.bfloat16)(waves, mask).last_hidden_state
    assert rough.dtype == torch.bfloat16
    assert float((rough.float() - exact).abs().mean()) < 0.02


def test_training_hides_parts_of_the_spectrogram() -> None:
    config = LogMelConformerConfig(**TINY, mask_time_prob=0.2, mask_feature_count=1)
    encoder = LogMelConformerModel(config)
    waves, mask = padded([32_000])
    bands = log_mel(waves, config.num_mel_bins)
    share = torch.stack([(encoder._hide(bands) == 0).float().mean() for _ in range(50)]).mean()
    assert 0.15 < float(share) < 0.6
    with torch.no_grad():
        trained = [encoder(waves, mask).last_hidden_state for _ in range(2)]
        heard = [encoder.train(False)(waves, mask).last_hidden_state for _ in range(2)]
    assert not torch.equal(*trained)
    assert torch.equal(*heard)


def test_training_leaves_out_layers() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = LogMelConformerModel(LogMelConformerConfig(**TINY, layerdrop=0.5))
        waves, mask = padded([8_000])
        encoder.train(False)
        whole = encoder(waves, mask).last_hidden_state
        assert torch.equal(encoder(waves, mask).last_hidden_state, whole)
        encoder.train()
        outputs = [encoder(waves, mask).last_hidden_state for _ in range(40)]
        different = {tuple(output.flatten().tolist()) for output in outputs}
        # Four layers are in or out: at most sixteen networks.
        assert 6 < len(different) <= 16


def test_round_trip(encoder: Any, tmp_path: Path) -> None:
    encoder.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    waves, mask = padded([16_000])
    with torch.inference_mode():
        assert torch.equal(
            again(waves, mask).last_hidden_state, encoder(waves, mask).last_hidden_state
        )


@pytest.mark.parametrize("encoder_type", ["logmel_conformer", "hubert"])
def test_label_head_reaches_the_decoder(encoder_type: str, tmp_path: Path) -> None:
    audio: dict[str, Any] = {"model_type": encoder_type, **TINY}
    if encoder_type == "hubert":
        audio = {
            "model_type": "hubert", "hidden_size": 32, "num_hidden_layers": 1,
            "num_attention_heads": 2, "intermediate_size": 48, "conv_dim": [16, 16, 16],
            "conv_kernel": [400, 3, 3], "conv_stride": [160, 2, 2], "num_feat_extract_layers": 3,
            "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
            "feat_extract_norm": "layer", "do_stable_layer_norm": True,
        }  # fmt: skip
    config = SpeechLLMConfig(
        audio_config=audio,
        text_config={
            "model_type": "llama", "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48,
            "num_hidden_layers": 1, "num_attention_heads": 2, "pad_token_id": 0,
        },
        ctc_head=True,
        ctc_conditioning=True,
        label_conditioning=True,
    )  # fmt: skip
    model = SpeechLLMForConditionalGeneration(config).train(False)
    waves, mask = padded([16_000, 12_000])
    with torch.inference_mode():
        features = model.get_audio_features(waves, mask)
        alone = model.get_audio_features(waves[1:, :12_000])
    assert {name: logits.shape[1] for name, logits in features.label_logits.items()} == {
        "SpeechActivity": 2, "Gender": 2, "Age": 3, "Accent": 7, "Emotion": 5,
    }  # fmt: skip
    for name, logits in alone.label_logits.items():
        torch.testing.assert_close(features.label_logits[name][1:], logits, atol=1e-4, rtol=1e-4)
    model.save_pretrained(tmp_path)
    loaded = SpeechLLMForConditionalGeneration.from_pretrained(tmp_path).train(False)
    with torch.inference_mode():
        again = loaded.get_audio_features(waves, mask)
    for name, logits in features.label_logits.items():
        assert torch.equal(again.label_logits[name], logits), name
    torch.testing.assert_close(again.embeds, features.embeds)
    with torch.inference_mode():
        model.label_head.feedback.weight.add_(1.0)
        changed = model.get_audio_features(waves, mask)
    assert not torch.allclose(changed.embeds, features.embeds)


def test_int8_decodes_as_bfloat16_does(tmp_path: Path) -> None:
    model, processor = tiny_speechllm(
        ctc_head=True, audio_config={"model_type": "logmel_conformer", **TINY}
    )
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    clips = tiny_clips(3)
    records = {}
    for dtype in ("bfloat16", "int8"):
        loaded, its = load_model(tmp_path, device="cpu", dtype=dtype)
        records[dtype] = Engine(loaded, its).decode(clips)
    names = [name for name, module in loaded.named_modules() if isinstance(module, Int8Linear)]
    assert any(name.endswith("convolution.out_proj") for name in names)
    for exact, rough in zip(records["bfloat16"], records["int8"], strict=True):
        assert isinstance(exact, DecodedRecord)
        assert isinstance(rough, DecodedRecord)
        rough.to_meta(model.config.label_sets)  # valid, whatever it says
        for field, probabilities in exact.probabilities.items():
            for label, probability in rough.probabilities.get(field, {}).items():
                assert probability == pytest.approx(probabilities[label], abs=0.1)


def test_label_head_and_decoder_decide_together() -> None:
    model, processor = tiny_speechllm(
        audio_config={"model_type": "logmel_conformer", **TINY}, label_conditioning=True
    )
    clips = tiny_clips(3)

    def gender(weight: float, engine: Any = Engine) -> list[dict[str, float]]:
        options = DecodeOptions(label_head_weight={"Gender": weight})
        records = engine(model, processor, options).decode(clips, ["Gender"])
        return [record.probabilities["Gender"] for record in records]

    inputs = [processor.prepare_audio([clip]) for clip in clips]
    with torch.inference_mode():
        features = [model.get_audio_features(item["input_values"]) for item in inputs]
    heads = [(item.label_logits or {})["Gender"][0].softmax(-1) for item in features]
    for head, alone, both, plain, decoder in zip(
        heads, gender(1.0), gender(0.5), gender(0.5, ReferenceEngine), gender(0.0), strict=True
    ):
        assert alone["Female"] == pytest.approx(float(head[0]), abs=1e-4)
        assert decoder["Female"] != pytest.approx(alone["Female"], abs=1e-3)
        # Half the weight each: the geometric mean, normalised.
        female = (alone["Female"] * decoder["Female"]) ** 0.5
        male = (alone["Male"] * decoder["Male"]) ** 0.5
        assert both["Female"] == pytest.approx(female / (female + male), abs=1e-4)
        assert plain["Female"] == pytest.approx(both["Female"], abs=1e-4)
