"""What a fine-tuning run is made of, read from YAML or TOML."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from speechmeta.errors import UsageError
from speechmeta.training.augment import AugmentOptions


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid")


class DataConfig(_Section):
    """The recordings.

    Attributes:
        manifests: JSONL files to train on.
        evaluation: JSONL files on which the loss is measured, if any.
        max_seconds: longer clips are left out: an audio language model sees a clip as a whole.
        commercial_only: leave out sources that forbid commercial use.
    """

    manifests: list[Path] = Field(min_length=1)
    evaluation: list[Path] = Field(default_factory=list)
    max_seconds: float = Field(30.0, gt=0)
    commercial_only: bool = False


class LoraConfig(_Section):
    """The adapter (Hu et al., arXiv 2106.09685), as in `peft.LoraConfig`.

    Attributes:
        rank, alpha, dropout: of every adapted matrix.
        encoder: adapt the audio encoder's attention as well as the decoder's.
    """

    rank: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    dropout: float = Field(0.05, ge=0, lt=1)
    encoder: bool = False


class TrainConfig(_Section):
    """One run.

    Attributes:
        model: the checkpoint to start from, a folder or hub id.
        output: folder of the run.
        trainer: any of transformers' `TrainingArguments`, over the defaults of
            `speechmeta.training.finetune.trainer`.
    """

    model: str
    output: Path
    data: DataConfig
    lora: LoraConfig = Field(default_factory=LoraConfig)
    augment: AugmentOptions = Field(default_factory=AugmentOptions)
    trainer: dict[str, Any] = Field(default_factory=dict)


def read_config(path: Path) -> TrainConfig:
    """Reads a training config; its relative paths are relative to the working folder.

    Raises:
        UsageError: the file is missing or not readable, or a key or value is not known.
    """
    # PyYAML comes with transformers.
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        data = tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text)
        return TrainConfig.model_validate(data)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", "check the path") from error
    except (tomllib.TOMLDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path} is not valid {path.suffix}: {error}", "mend the file") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise UsageError(
            f"{path}: {place}: {first['msg']}", "see docs/training.md for the keys"
        ) from error
