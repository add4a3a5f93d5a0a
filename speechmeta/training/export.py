"""A finished training run as a checkpoint to ship: float16, with its language models.

Run as `python -m speechmeta.training.export RUN/final speechmeta/checkpoints/bundled`.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from speechmeta.decoding.ngram import NGRAM_FILE
from speechmeta.decoding.words import WORDS_FILE
from speechmeta.models.speechllm import load_model

_KEPT = ("training.json", NGRAM_FILE, WORDS_FILE)


def export_checkpoint(source: Path, target: Path) -> int:
    """Writes the checkpoint `source` to the folder `target` in float16.

    Other files of the target, such as its model card, stay.

    Returns:
        The bytes of the weights.
    """
    model, processor = load_model(source, device="cpu", dtype="float32")
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
