"""Small random models for tests: a tokenizer trained in code, and every part of SpeechLLM."""

from __future__ import annotations

import functools
import json
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Wav2Vec2FeatureExtractor

from speechmeta.decoding.layout import COMPACT_LAYOUT, PUBLISHED_LAYOUT, TextLayout
from speechmeta.models.speechllm import (
    SpeechLLMConfig,
    SpeechLLMForConditionalGeneration,
    SpeechLLMProcessor,
)
from speechmeta.schema import DEFAULT_LABEL_SETS

SENTENCES = [
    "yes i got it thank you for calling how can i help you today",
    "the weather is nice and the train leaves at nine in the morning",
    "could you please repeat your name and the number of your order",
    "no no no that is not what i said i want to speak with your manager",
    "crème brûlée für zwölf personen, señor",
]


def _corpus() -> list[str]:
    texts = []
    for layout in (COMPACT_LAYOUT, PUBLISHED_LAYOUT):
        for number, sentence in enumerate(SENTENCES * 4):
            values = {"SpeechActivity": "True", "Transcript": layout.transcript_lead + sentence}
            for field, labels in DEFAULT_LABEL_SETS.items():
                label = labels[number % len(labels)]
                values[field] = label.lower() if "lower" in layout.label_cases else label
            texts.append(layout.render(values))
    return texts


@functools.cache
def tiny_tokenizer(kind: str = "llama", size: int = 600) -> PreTrainedTokenizerFast:
    """A byte-pair tokenizer trained on a few records.

    Args:
        kind: `llama` (spaces as ▁, byte fallback) or `bytes` (GPT-2's byte level).
        size: of the vocabulary.
    """
    if kind == "bytes":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=["<s>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(_corpus(), trainer)
    else:
        special = ["<unk>", "<s>", "</s>"]
        learner = Tokenizer(models.BPE(unk_token="<unk>"))
        learner.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        # Without words the trainer would take whole sentences; Llama's has whole words at most.
        learner.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
        trainer = trainers.BpeTrainer(
            vocab_size=size - 256, special_tokens=special, show_progress=False
        )
        learner.train_from_iterator(_corpus(), trainer)
        vocabulary = learner.get_vocab()
        learned = sorted(vocabulary, key=lambda token: vocabulary[token])[len(special) :]
        order = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *learned]
        merges = _merges(learner)
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
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        unk_token="<unk>" if kind == "llama" else None,
    )


def _merges(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    pairs = (item.split(" ") if isinstance(item, str) else item for item in merges)
    return [(first, second) for first, second in pairs]


def tiny_speechllm(
    seed: int = 0,
    vocab: str = "llama",
    layout: TextLayout = COMPACT_LAYOUT,
    *,
    norm: str = "layer",
    spread: float = 0.3,
    label_sets: dict[str, list[str]] | None = None,
    audio_config: dict[str, Any] | None = None,
) -> tuple[SpeechLLMForConditionalGeneration, SpeechLLMProcessor]:
    """A random model of a few thousand weights, and its processor.

    Args:
        seed: of the weights.
        vocab: the kind of tokenizer, see `tiny_tokenizer`.
        layout: the text that the checkpoint writes.
        norm: `layer` or `group`, the encoder front-end's normalisation.
        spread: standard deviation of the decoder's weights; large values make it opinionated.
        label_sets, audio_config: as in the config; the encoder is a HuBERT by default.
    """
    tokenizer = tiny_tokenizer(vocab)
    config = SpeechLLMConfig(
        audio_config=audio_config
        or {
            "model_type": "hubert",
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 48,
            "conv_dim": [16, 16, 16],
            "conv_kernel": [400, 3, 3],
            "conv_stride": [160, 2, 2],
            "num_feat_extract_layers": 3,
            "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 4,
            "feat_extract_norm": norm,
            "do_stable_layer_norm": norm == "layer",
        },
        text_config={
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 1024,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        },
        label_sets=label_sets,
        layout=layout.to_dict(),
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = SpeechLLMForConditionalGeneration(config).train(False)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.ndim > 1 and not name.startswith("audio_tower"):
                    weight.normal_(0, spread)
    processor = SpeechLLMProcessor.for_config(config, Wav2Vec2FeatureExtractor(), tokenizer)
    return model, processor


def tiny_clips(count: int, seed: int = 0, seconds: tuple[float, float] = (0.4, 2.0)) -> list[Any]:
    """Noise clips of different lengths, each (samples,) float32 at 16 kHz."""
    random = np.random.default_rng(seed)
    return [
        (0.1 * random.standard_normal(int(16_000 * random.uniform(*seconds)))).astype(np.float32)
        for _ in range(count)
    ]


TAUGHT = [
    {"Transcript": "yes i got it", "Gender": "Female", "Age": "Young", "Emotion": "Happy"},
    {"Transcript": "the train leaves at nine", "Gender": "Male", "Age": "Senior"},
    {"Transcript": "für zwölf personen", "Gender": "Female", "Accent": "Europe"},
    {"Transcript": "no", "Emotion": "Anger", "Accent": "South-East-Asia"},
    {"SpeechActivity": "False"},
]
"""What `taught_speechllm` answers to the first clips of `tiny_clips`; see `taught_values`."""


def taught_values(number: int) -> dict[str, Any]:
    """The record that the taught model gives for its number-th clip."""
    given = TAUGHT[number]
    if given.get("SpeechActivity") == "False":
        return {"SpeechActivity": False, "Transcript": ""} | dict.fromkeys(DEFAULT_LABEL_SETS)
    labels = {field: given.get(field, labels[0]) for field, labels in DEFAULT_LABEL_SETS.items()}
    return {"SpeechActivity": True, "Transcript": given["Transcript"], **labels}


@functools.cache
def taught_speechllm(
    vocab: str = "llama", layout: TextLayout = COMPACT_LAYOUT
) -> tuple[SpeechLLMForConditionalGeneration, SpeechLLMProcessor, list[Any]]:
    """A tiny model that was taught a few records by heart, its processor, and their clips.

    It writes its layout as a trained checkpoint does: canonical tokens, high probabilities.
    """
    model, processor = tiny_speechllm(3, vocab, layout, spread=0.08)
    clips = tiny_clips(len(TAUGHT), seed=11)
    texts = []
    for number in range(len(TAUGHT)):
        values = taught_values(number)
        if not values["SpeechActivity"]:
            known = {"SpeechActivity": "False"}
        else:
            known = {
                field: str(value).lower()
                if "lower" in layout.label_cases and field in DEFAULT_LABEL_SETS
                else str(value)
                for field, value in values.items()
            }
            known["Transcript"] = layout.transcript_lead + known["Transcript"]
        texts.append(layout.render(known))
    targets = [processor.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    inputs = processor(audio=clips, sampling_rate=16_000)
    # Prompts are padded on the left already; so are prompt and answer together.
    rows = [
        torch.cat([ids[mask.bool()], torch.tensor(target)])
        for ids, mask, target in zip(
            inputs["input_ids"], inputs["attention_mask"], targets, strict=True
        )
    ]
    width = max(map(len, rows))
    ids = torch.stack([torch.nn.functional.pad(row, (width - len(row), 0)) for row in rows])
    mask = torch.stack(
        [torch.arange(width) >= width - len(row) for row in rows],
    ).long()
    labels = torch.full_like(ids, -100)
    for row, target in zip(labels, targets, strict=True):
        row[-len(target) :] = torch.tensor(target)
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(0)
        parameters = [
            *model.language_model.parameters(),
            *model.multi_modal_projector.parameters(),
        ]
        optimizer = torch.optim.Adam(parameters, lr=4e-3)
        for _ in range(120):
            logits = model(
                input_ids=ids,
                attention_mask=mask,
                input_values=inputs["input_values"],
                audio_attention_mask=inputs["audio_attention_mask"],
            ).logits
            loss = torch.stack(
                [
                    torch.nn.functional.cross_entropy(row[:-1], wanted[1:], ignore_index=-100)
                    for row, wanted in zip(logits, labels, strict=True)
                ]
            ).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.train(False).requires_grad_(False), processor, clips
