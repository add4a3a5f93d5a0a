"""A finished training run as a checkpoint to ship: float16, and nothing that only training needs.

Run as `python -m speechmeta.training.export RUN/final speechmeta/checkpoints/bundled`.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from speechmeta.models.speechllm import load_model

_KEPT = ("training.json",)


def export_checkpoint(source: Path, target: Path) -> int:
    """Writes the checkpoint `source` to the folder `target` in float16.

    Other files of the target, such as its model card, stay.

    Returns:
        The bytes of the weights.
    """
    model, processor = load_model(source, device="cpu", dtype="float32")
    # What inference never reads would only make the configs longer and the encoder slower.
    for name in ("mask_time_prob", "mask_feature_prob"):
        setattr(model.config.audio_config, name, 0.0)
    if hasattr(model.audio_tower, "masked_spec_embed"):
        del model.audio_tower.masked_spec_embed
    model.to(torch.float16).save_pretrained(target)
    processor.save_pretrained(target)
    for name in _KEPT:
        if (source / name).is_file():
            shutil.copy(source / name, target / name)
    return sum(path.stat().st_size for path in target.glob("*.safetensors"))


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args(arguments)
    size = export_checkpoint(options.source, options.target)
    print(f"{options.target}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
