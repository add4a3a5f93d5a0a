"""Small random DeSTA checkpoints in both published layouts, of any shape."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from speechmeta.models.desta2 import DestaConfig
from speechmeta.models.desta2.modeling_desta2 import DestaConnector

CORPUS = [
    "Describe the audio. Is the customer angry? Why? yes no true false",
    "You are a helpful voice assistant. The agent repeats the number of the order.",
    '{"angry": true, "why": "because the train was late", "score": 7}',
    "a\n\nb\n\nc",
    "<start_audio><end_audio> 0 1 2 3 4 5 6 7 8 9, . ! ' crème brûlée",
]
LLAMA_TEMPLATE = (
    "{% for message in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
    "{{ '<|start_header_id|>' ~ message['role'] ~ '<|end_header_id|>\n\n'"
    " ~ (message['content'] | trim) ~ '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
# Llama 3's splitting of text; a blank line is one piece.
LLAMA_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA_SPECIAL = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|reserved_special_token_87|>",
]
WHISPER_SPECIAL = [
    "<|endoftext|>",
    "<|startoftranscript|>",
    "<|en|>",
    "<|de|>",
    "<|translate|>",
    "<|transcribe|>",
    "<|startoflm|>",
    "<|startofprev|>",
    "<|nocaptions|>",
    "<|notimestamps|>",
]


@dataclass(frozen=True)
class Shape:
    """What a checkpoint looks like."""

    variant: str = "desta25"
    seed: int = 0
    whisper: str = "whisper-tiny"
    encoder_layers: int = 4
    d_model: int = 24
    heads: int = 3
    mel_bins: int = 80
    prompt_size: int = 5
    qformer_layers: int = 2
    llm_width: int = 32
    llm_layers: int = 2
    adds_bos: bool = True
    tied: bool = False


def _bpe(special: list[str], size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    tokenizer.add_special_tokens(special)
    return tokenizer


def _save_llama(folder: Path, shape: Shape) -> None:
    tokenizer = _bpe(LLAMA_SPECIAL, 400)
    bos = tokenizer.get_vocab()[LLAMA_SPECIAL[0]]
    if shape.adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{LLAMA_SPECIAL[0]} $A", special_tokens=[(LLAMA_SPECIAL[0], bos)]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=LLAMA_SPECIAL[0],
        eos_token="<|eot_id|>",
        chat_template=LLAMA_TEMPLATE,
    )
    fast.save_pretrained(folder)
    torch.manual_seed(shape.seed + 1)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=shape.llm_width,
        intermediate_size=64,
        num_hidden_layers=shape.llm_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        initializer_range=0.3,
        bos_token_id=bos,
        eos_token_id=fast.eos_token_id,
        pad_token_id=None,
        tie_word_embeddings=shape.tied,
    )
    model = LlamaForCausalLM(config)
    model.generation_config.eos_token_id = [bos + 1, fast.eos_token_id]
    model.to(torch.bfloat16).save_pretrained(folder)


def _save_whisper(folder: Path, shape: Shape) -> None:
    tokenizer = _bpe(WHISPER_SPECIAL, 300)
    ids = {token: tokenizer.token_to_id(token) for token in WHISPER_SPECIAL}
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        unk_token="<|endoftext|>",
    ).save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = "WhisperTokenizer"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    backend = json.loads(tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(backend["vocab"]))
    (folder / "merges.txt").write_text(
        "#version: 0.2\n" + "\n".join(" ".join(pair) for pair in backend["merges"])
    )
    WhisperFeatureExtractor(feature_size=shape.mel_bins).save_pretrained(folder)
    torch.manual_seed(shape.seed + 2)
    end = ids["<|endoftext|>"]
    model = WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=tokenizer.get_vocab_size(),
            num_mel_bins=shape.mel_bins,
            d_model=shape.d_model,
            encoder_layers=shape.encoder_layers,
            decoder_layers=1,
            encoder_attention_heads=shape.heads,
            decoder_attention_heads=shape.heads,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
            max_target_positions=200,
            init_std=0.3,
            pad_token_id=end,
            bos_token_id=end,
            eos_token_id=end,
            decoder_start_token_id=ids["<|startoftranscript|>"],
        )
    )
    generation = model.generation_config
    generation.update(
        is_multilingual=True,
        lang_to_id={"<|en|>": ids["<|en|>"], "<|de|>": ids["<|de|>"]},
        task_to_id={"transcribe": ids["<|transcribe|>"], "translate": ids["<|translate|>"]},
        no_timestamps_token_id=ids["<|notimestamps|>"],
        max_length=60,
        suppress_tokens=[ids[token] for token in WHISPER_SPECIAL[1:]],
        begin_suppress_tokens=[end],
    )
    model.save_pretrained(folder)


def make_checkpoint(folder: Path, shape: Shape = Shape(), **changes: Any) -> Path:
    """Writes a checkpoint; `changes` go into its config.json."""
    audio_name, text_name = f"openai/{shape.whisper}", "meta-llama/tiny"
    _save_whisper(folder / audio_name, shape)
    _save_llama(folder / text_name, shape)
    layers = [2, 5, 8, 11] if shape.whisper == "whisper-small" else [0, 1, 2, 3]
    desta2 = shape.variant == "desta2"
    config = DestaConfig(
        audio_config=WhisperConfig.from_pretrained(folder / audio_name),
        text_config=LlamaConfig.from_pretrained(folder / text_name),
        variant=shape.variant,
        tapped_states=[layer + (not desta2) for layer in layers],
        prompt_size=shape.prompt_size,
        qformer_layers=2 if desta2 else shape.qformer_layers,
    )
    torch.manual_seed(shape.seed)
    connector = DestaConnector(config)
    for parameter in connector.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    weights = {name: tensor.clone() for name, tensor in connector.state_dict().items()}
    raw: dict[str, Any]
    if desta2:
        raw = {
            "model_type": "DestaModel",
            "llama_model_id": text_name,
            "whisper_model_id": audio_name,
            "prompt_size": shape.prompt_size,
            "auto_map": {"AutoModel": "modeling_desta.DestaModel"},
        }
        torch.save(weights, folder / "qformer_connector.pth")
    else:
        raw = {
            "model_type": "desta25",
            "connector_mode": "qformer_1",
            "encoder_model_id": audio_name,
            "llm_model_id": text_name,
            "prompt_size": shape.prompt_size,
            "qformer_num_hidden_layers": shape.qformer_layers,
            "target_layer_ids": layers,
            "audio_locator": "<|AUDIO|>",
            "placeholder_token": "<|reserved_special_token_87|>",
            "use_lora": False,
        }
        save_file(
            {f"perception.connector.{name}": tensor for name, tensor in weights.items()},
            folder / "model.safetensors",
        )
    (folder / "config.json").write_text(json.dumps({**raw, **changes}))
    return folder
