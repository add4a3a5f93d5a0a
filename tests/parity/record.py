"""What the published SpeechLLM code computes on the checkpoints of `checkpoints.py`, as .npz files.

    python tests/parity/record.py

The reference is skit-ai/SpeechLLM at f44d361 (`model/encoder.py`, `model/connector.py`,
`huggingface/hf_repo/model.py`) in transformers' and PyTorch's own parts; nothing of this package
runs here, so that the package is held against something else than itself. Run it only when a
checkpoint of `checkpoints.py` changes: the files are there to notice when results do.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    Wav2Vec2FeatureExtractor,
)

sys.path.insert(0, str(Path(__file__).parents[1]))
from parity.checkpoints import (
    HERE,
    INSTRUCTION,
    KINDS,
    SAMPLE_RATE,
    WIDTH_AUDIO,
    WIDTH_TEXT,
    write_checkpoint,
)
from parity.checkpoints import clip as make_clip

TOKENS = 24


def part(folder: Path, prefix: str) -> dict[str, torch.Tensor]:
    """The tensors below a prefix, without it."""
    tensors = load_file(folder / "model.safetensors")
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


@torch.inference_mode()
def reference(folder: Path, kind: str) -> dict[str, np.ndarray]:
    """The recorded arrays, as the README of the fixtures beside the repository names them."""
    encoder = AutoModel.from_config(AutoConfig.from_pretrained(folder / kind)).eval()
    encoder.load_state_dict(part(folder, "audio_encoder.encoder."))
    half = WIDTH_TEXT // 2
    connector = nn.Sequential(
        nn.ReLU(),
        nn.Conv1d(WIDTH_AUDIO, half, 5),
        nn.ReLU(),
        nn.Conv1d(half, WIDTH_TEXT, 5, stride=2),
        nn.ReLU(),
        nn.Conv1d(WIDTH_TEXT, WIDTH_TEXT, 5),
    )
    connector.load_state_dict(part(folder, "connector.layer."))
    decoder = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder / "llm")).eval()
    decoder.load_state_dict(part(folder, "llm_model."))
    tokenizer = AutoTokenizer.from_pretrained(folder / "llm")
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(folder / "processor")

    wave = extractor(make_clip(), sampling_rate=SAMPLE_RATE, return_tensors="pt").input_values
    hidden = encoder(wave).last_hidden_state
    speech = connector(hidden.transpose(1, 2)).transpose(1, 2)
    pieces = [
        f"Instruction:\n{INSTRUCTION}\n\nInput: \n<speech>",
        "</speech>\n\nOutput:",
        "\n<s>",
    ]
    embed = decoder.get_input_embeddings()
    texts = [
        embed(tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids)
        for text in pieces
    ]
    inputs = torch.cat([texts[0], speech, *texts[1:]], dim=1)
    generated = decoder.generate(
        inputs_embeds=inputs,
        attention_mask=torch.ones(inputs.shape[:2], dtype=torch.long),
        max_new_tokens=TOKENS,
        min_new_tokens=TOKENS,
        do_sample=False,
        pad_token_id=tokenizer.eos_token_id,
    )
    return {
        "encoder_hidden": hidden.numpy(),
        "speech_embeds": speech.numpy(),
        "inputs_embeds": inputs.numpy(),
        "last_logits": decoder(inputs_embeds=inputs).logits[:, -1].numpy(),
        "generated_ids": generated.numpy(),
    }


def main() -> None:
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            arrays = reference(write_checkpoint(kind, Path(folder) / "checkpoint"), kind)
        np.savez_compressed(HERE / f"{kind}.npz", **arrays)  # type: ignore[arg-type]
        size = (HERE / f"{kind}.npz").stat().st_size
        print(f"{kind}: {size / 1000:.0f} kB, {arrays['generated_ids'][0, :8].tolist()} ...")


if __name__ == "__main__":
    main()
