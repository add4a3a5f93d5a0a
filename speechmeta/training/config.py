"""What a training run is made of, read from YAML or TOML."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from speechmeta.decoding.options import DecodeOptions
from speechmeta.errors import SpeechMetaError, UsageError
from speechmeta.training.augment import AugmentOptions


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid")


class DataConfig(_Section):
    """The recordings.

    Attributes:
        manifests: JSONL files to train on.
        text: gzipped or plain `side<TAB>utterance` files for the tokenizer's vocabulary.
        prose: files of normalised sentences for the language models of the search, as
            `speechmeta.training.prose` writes them, and how many times each sentence counts.
        cache: folder for the decoded audio.
        weights: how often a source is drawn, by its `dataset` name; 1 where not named.
        max_seconds: longer clips are cut at random and lose their transcript for that time.
        crops: by source, the share of its draws that hear `crop_seconds` from anywhere in a longer
            clip, for its labels alone: many short views of a voice in place of a few long ones.
        generated_non_speech: share of clips, relative to the recorded ones, that are made up
            without speech.
        commercial_only: leave out sources that forbid commercial use.
    """

    manifests: list[Path]
    text: list[Path] = Field(default_factory=list)
    prose: dict[Path, int] = Field(default_factory=dict)
    cache: Path = Path("runs/cache")
    weights: dict[str, float] = Field(default_factory=dict)
    max_seconds: float = 16.0
    crops: dict[str, float] = Field(default_factory=dict)
    crop_seconds: float = Field(5.0, gt=0)
    generated_non_speech: float = 0.02
    commercial_only: bool = False


class ModelConfig(_Section):
    """The checkpoint from scratch: sizes in transformers' terms.

    Attributes:
        ngram_order: tokens of the longest n-gram in the model that the CTC search leans on; 0
            for none.
        ngram_least: how often n-grams of two, three, ... tokens have to occur to be kept; the
            last number holds for all longer ones.
        word_order, word_least: the same for the n-grams of whole words; order 0 for none.
        word_count: words that the search knows at most.
        label_dropout: of the encoder's label head.
        average: folders of earlier checkpoints, and their shares of the finished weights.
        decoding: how the finished checkpoint asks to be decoded, in the terms of `DecodeOptions`,
            until `speechmeta.training.calibrate` finds better.
    """

    vocab_size: int = 768
    encoder: dict[str, Any] = Field(default_factory=dict)
    decoder: dict[str, Any] = Field(default_factory=dict)
    margin_seconds: float = 0.32
    ngram_order: int = 4
    ngram_least: list[int] = Field(default_factory=lambda: [1, 2, 4], min_length=1)
    word_order: int = 3
    word_least: list[int] = Field(default_factory=lambda: [1, 2], min_length=1)
    word_count: int = Field(60_000, ge=1, le=65_534)
    label_dropout: float = Field(0.1, ge=0, lt=1)
    average: dict[Path, float] = Field(default_factory=dict)
    decoding: dict[str, Any] = Field(default_factory=dict)
    initial: Path | None = None
    """A checkpoint of ours to start from in place of random weights."""

    @field_validator("decoding")
    @classmethod
    def _known_decoding(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            DecodeOptions(**value)
        except (TypeError, SpeechMetaError) as error:
            raise ValueError(str(error)) from error
        return value


class OptimConfig(_Section):
    """The loop.

    Attributes:
        minutes: time limit; the learning rate follows whatever is further along, the time or
            the steps, so that a run of a fixed time ends with a learning rate of zero.
        learning_rate: of Muon, 0 for AdamW alone; `adam_learning_rate` of everything else.
        batch_seconds: padded audio in one batch of one process.
        processes: how many learn together on a CPU, each with its share of PyTorch's threads and
            its own batches; a GPU is used by one.
        short_first: the first epoch goes from short clips to long ones.
        label_loss, ctc_loss: weights beside the transcript's loss of 1.
        label_head_loss: weight of each field's loss of the encoder's label head.
        phone_loss: weight of telling the phone of every frame of synthetic speech, by a head that
            only trains: CTC finds its first alignments ten times sooner.
        masked_first: the first share of the run, in which the encoder learns from audio alone to
            tell what was hidden from it (`speechmeta.training.masked`).
        encoder_first: the first share of the run, in which CTC and the label head train the encoder
            alone.
        label_balance: labels weigh by their frequency to the power of minus this.
        speaker_balance: and by the number of their speaker's clips to the power of minus this.
        age_doubt: years of doubt (a standard deviation) about where one age group ends and the next
            begins: the label head learns shares of groups for a speaker near a bound, where the
            age is known; 0 for none.
        keep: shares of the run after which its weights are kept, in `output/at-SHARE`.
        token_noise: share of transcript tokens that the decoder sees replaced at random, so
            that it listens instead of trusting what was said before.
    """

    max_steps: int = 10_000
    minutes: float | None = None
    learning_rate: float = 2e-3
    adam_learning_rate: float = 5e-4
    warmup_steps: int = 200
    decay_share: float = 0.6
    batch_seconds: float = 140.0
    accumulation: int = 1
    short_first: bool = False
    label_loss: float = 0.5
    ctc_loss: float = 1.0
    label_head_loss: float = 0.5
    phone_loss: float = 0.5
    masked_first: float = Field(0.0, ge=0, lt=1)
    encoder_first: float = 0.0
    label_balance: float = 0.5
    speaker_balance: float = 0.5
    age_doubt: float = Field(0.0, ge=0)
    keep: list[float] = Field(default_factory=list)
    token_noise: float = 0.1
    weight_decay: float = 0.02
    save_minutes: float = 10.0
    seed: int = 0
    bf16: bool = True
    workers: int = 1
    processes: int = 1


class TrainConfig(_Section):
    output: Path
    data: DataConfig
    model: ModelConfig = Field(default_factory=ModelConfig)
    optim: OptimConfig = Field(default_factory=OptimConfig)
    augment: AugmentOptions = Field(default_factory=AugmentOptions)


def read_config(path: Path) -> TrainConfig:
    """Reads a training config; its relative paths are relative to the working folder.

    Raises:
        UsageError: the file is missing or not readable, or a key or value is not known.
    """
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
            f"{path}: {place}: {first['msg']}",
            "see docs/training.md for the keys",
        ) from error
