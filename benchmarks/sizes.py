"""The models that benchmarks/decoding.py runs on: full size and tiny."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Wav2Vec2FeatureExtractor

from speechmeta.decoding.layout import PUBLISHED_LAYOUT
from speechmeta.models.speechllm import (
    SpeechLLMConfig,
    SpeechLLMForConditionalGeneration,
    SpeechLLMProcessor,
)
from speechmeta.schema import DEFAULT_LABEL_SETS

HUBERT_XL = {
    "model_type": "hubert",
    "hidden_size": 1280,
    "num_hidden_layers": 48,
    "num_attention_heads": 16,
    "intermediate_size": 5120,
    "feat_extract_norm": "layer",
    "conv_bias": True,
    "do_stable_layer_norm": True,
}
"""facebook/hubert-xlarge-ll60k."""

TINYLLAMA = {
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
    "vocab_size": 32000,
}
"""TinyLlama/TinyLlama-1.1B-Chat-v1.0."""

_TINY_AUDIO = {
    "model_type": "hubert",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": [16] * 7,
    "num_conv_pos_embedding_groups": 4,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
}
_TINY_TEXT = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "vocab_size": 1200,
}

SENTENCES = (
    "good morning thank you for calling my name is anna how can i help you with your order today",
    "yes hello i ordered a lamp two weeks ago and it still has not come could you please look",
    "of course may i have the number of the order it begins with a letter and has seven digits",
    "no that is not right i was told it would arrive on friday and i am really not happy about it",
    "crème brûlée señor für zwölf personen naïve façade",
)


def llama_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """A byte-fallback tokenizer in Llama's shape, filled up to a vocabulary of some size.

    The published decoder's tokenizer is not ours to ship. What matters to a grammar is the
    number and the shape of the entries: made-up words take the place of the ones not learnt.
    """
    special = ["<unk>", "<s>", "</s>"]
    learner = Tokenizer(models.BPE(unk_token="<unk>"))
    learner.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    learner.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    texts = list(SENTENCES) * 3
    for field, labels in DEFAULT_LABEL_SETS.items():
        texts += [PUBLISHED_LAYOUT.render({field: label.lower()}) for label in labels]
    trainer = trainers.BpeTrainer(vocab_size=800, special_tokens=special, show_progress=False)
    learner.train_from_iterator(texts, trainer)
    learned = learner.get_vocab()
    order = [*special, *(f"<0x{byte:02X}>" for byte in range(256))]
    order += [token for token in sorted(learned, key=learned.__getitem__) if token not in special]
    known, random = set(order), np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    while len(order) < size:
        word = "▁" * int(random.integers(2)) + "".join(
            random.choice(letters, int(random.integers(3, 9)))
        )
        if word not in known:
            known.add(word)
            order.append(word)
    merges = [
        tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair)
        for pair in json.loads(learner.to_str())["model"]["merges"]
    ]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={token: index for index, token in enumerate(order)},
            merges=merges,
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = learner.normalizer
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
    )


def random_model(
    size: str, dtype: torch.dtype, device: str, seed: int = 0
) -> tuple[SpeechLLMForConditionalGeneration, SpeechLLMProcessor]:
    """A model of the published architecture with random weights.

    Args:
        size: `full` (HuBERT-XL and TinyLlama) or `tiny`.
        dtype, device: of the weights, which are made there directly.
        seed: of the weights.
    """
    audio, text = (HUBERT_XL, TINYLLAMA) if size == "full" else (_TINY_AUDIO, _TINY_TEXT)
    tokenizer = llama_tokenizer(int(str(text["vocab_size"])))
    special = {
        name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")
    }
    config = SpeechLLMConfig(
        audio_config=dict(audio),
        text_config={**text, **special},
        layout=PUBLISHED_LAYOUT.to_dict(),
    )
    with torch.device("meta"):
        model = SpeechLLMForConditionalGeneration(config)
    model = model.to(dtype).to_empty(device=device).train(False).requires_grad_(False)
    _fill(model, device, seed)
    processor = SpeechLLMProcessor.for_config(
        config, Wav2Vec2FeatureExtractor(do_normalize=True), tokenizer
    )
    return model, processor


def _fill(model: Any, device: str, seed: int) -> None:
    """Fills two billion weights in seconds: one random block, repeated."""
    block = 0.02 * torch.randn(1_000_003, generator=torch.Generator().manual_seed(seed))
    for name, weight in model.named_parameters():
        if weight.ndim == 1:
            weight.fill_(0.0 if name.endswith("bias") else 1.0)
            continue
        flat = weight.view(-1)
        source = block.to(device, weight.dtype)
        for start in range(0, len(flat), len(source)):
            part = flat[start : start + len(source)]
            part.copy_(source[: len(part)])
    # Buffers that are computed and not stored came out of the meta device empty.
    decoder = model.language_model.get_decoder()
    rotary = type(decoder.rotary_emb)(model.config.text_config)
    decoder.rotary_emb = rotary.to(device)


def clips(count: int, seconds: tuple[float, float] = (3.0, 5.0)) -> list[np.ndarray]:
    """Seeded noise in the shape of syllables; what it says does not matter here."""
    random = np.random.default_rng(0)
    made = []
    for _ in range(count):
        samples = int(16_000 * random.uniform(*seconds))
        times = np.arange(samples) / 16_000
        envelope = 0.5 + 0.5 * np.sin(2 * np.pi * 4 * times)
        made.append((0.1 * envelope * random.standard_normal(samples)).astype(np.float32))
    return made
