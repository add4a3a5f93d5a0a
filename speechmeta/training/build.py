"""The model that a run begins with."""

from __future__ import annotations

from typing import Any

import torch
from transformers import LlamaConfig, Wav2Vec2FeatureExtractor

from speechmeta.audio.loading import SAMPLE_RATE
from speechmeta.decoding.layout import COMPACT_LAYOUT
from speechmeta.models.speechllm import (
    SpeechLLMConfig,
    SpeechLLMForConditionalGeneration,
    SpeechLLMProcessor,
)
from speechmeta.models.speechllm.conformer import LogMelConformerConfig
from speechmeta.schema import DEFAULT_LABEL_SETS
from speechmeta.training.config import TrainConfig
from speechmeta.training.manifest import Clip
from speechmeta.training.synthesize import dialogue_sentences
from speechmeta.training.text import normalize_transcript, train_tokenizer

_ENCODER_DEFAULTS: dict[str, Any] = {
    "mask_time_prob": 0.06,
    "mask_feature_count": 2,
}
_DECODER_DEFAULTS: dict[str, Any] = {
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 768,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}


def build(
    config: TrainConfig, clips: list[Clip]
) -> tuple[SpeechLLMForConditionalGeneration, SpeechLLMProcessor]:
    """A model from scratch with its own tokenizer, or from `config.model.initial`."""
    if config.model.initial is not None:
        initial = SpeechLLMConfig.from_pretrained(config.model.initial)
        # What training hides (of the spectrogram, of the layers) may change; sizes that do not fit
        # fail to load.
        initial.audio_config.update(config.model.encoder)
        initial.label_dropout = config.model.label_dropout
        return (
            SpeechLLMForConditionalGeneration.from_pretrained(
                config.model.initial, config=initial, dtype=torch.float32
            ),
            SpeechLLMProcessor.from_pretrained(config.model.initial),
        )
    texts = [
        text
        for clip in clips
        if clip.transcript and (text := normalize_transcript(clip.transcript))
    ]
    for path in config.data.text:
        texts += dialogue_sentences(path)[:20_000]
    tokenizer = train_tokenizer(texts, config.model.vocab_size, COMPACT_LAYOUT, DEFAULT_LABEL_SETS)
    decoder = LlamaConfig(
        **{
            **_DECODER_DEFAULTS,
            "vocab_size": len(tokenizer),
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            **config.model.decoder,
        }
    )
    encoder = {"model_type": LogMelConformerConfig.model_type, **config.model.encoder}
    if encoder["model_type"] == LogMelConformerConfig.model_type:
        encoder = {**_ENCODER_DEFAULTS, **encoder}
    model_config = SpeechLLMConfig(
        audio_config=encoder,
        text_config=decoder,
        layout=COMPACT_LAYOUT.to_dict(),
        ctc_head=True,
        ctc_conditioning=True,
        label_conditioning=True,
        label_dropout=config.model.label_dropout,
    )
    model = SpeechLLMForConditionalGeneration(model_config)
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    margin = int(config.model.margin_seconds * SAMPLE_RATE)
    return model, SpeechLLMProcessor.for_config(model_config, extractor, tokenizer, margin)
