"""A training config of a few seconds, and its recordings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from speechmeta.training.config import TrainConfig

ROWS: list[dict[str, Any]] = [
    {"transcript": "Hello there.", "gender": "Female", "emotion": "Happy", "commercial": True},
    {"transcript": "GOOD BYE", "gender": "Male", "age": "Senior"},
    {"transcript": None, "accent": "Africa", "phones": [["pau", 0.1], ["aa", 0.4], ["pau", 0.6]]},
    {"speech": False},
]


def tiny_config(tmp_path: Path) -> TrainConfig:
    """Writes twelve short clips and their manifest; trains a model of a few thousand weights."""
    rng = np.random.default_rng(0)
    with (tmp_path / "train.jsonl").open("w") as file:
        for number, row in enumerate(ROWS * 3):
            seconds = 0.6 + 0.1 * number
            samples = rng.standard_normal(int(16_000 * seconds)) * 0.1
            soundfile.write(tmp_path / f"{number}.wav", samples, 16_000)
            row = {"audio": f"{number}.wav", "duration": seconds, "dataset": "noise", **row}
            file.write(json.dumps(row) + "\n")
    return TrainConfig.model_validate(
        {
            "output": tmp_path / "run",
            "data": {"manifests": [tmp_path / "train.jsonl"], "cache": tmp_path / "cache"},
            "model": {
                "vocab_size": 320,
                "encoder": {
                    "hidden_size": 32,
                    "stages": [1, 1, 1],
                    "num_attention_heads": 2,
                    "intermediate_size": 64,
                    "subsampling_channels": 4,
                },
                "decoder": {
                    "hidden_size": 32,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 2,
                    "num_key_value_heads": 2,
                    "intermediate_size": 64,
                },
            },
            "optim": {"max_steps": 4, "batch_seconds": 4, "workers": 0, "bf16": False},
        }
    )
