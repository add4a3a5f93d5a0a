"""Ears and words of the bundled checkpoint, from Whisper and manifests, by one YAML file.

    speechmeta train recipes/whisper_meta/bundled.yaml

Decoded audio, the plan, the original's answers and checkpoints are kept in the work folder, so a
run that was stopped continues where it was.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from speechmeta.errors import UsageError
from speechmeta.models.weights import ordinary_modes
from speechmeta.training.manifest import Clip, read_clips
from speechmeta.training.recipe_files import family, read_recipe_file
from speechmeta.training.whisper_meta.draws import NOTHING, Batches, Draw, Sounds, plan_batches
from speechmeta.training.whisper_meta.features import SAMPLES_PER_FRAME
from speechmeta.training.whisper_meta.greedy import read_vocabulary
from speechmeta.training.whisper_meta.items import (
    Item,
    SourcePlan,
    plan_items,
    read_items,
    write_items,
)
from speechmeta.training.whisper_meta.short_words import TRAIN_VOICES, say_short_words
from speechmeta.training.whisper_meta.store import AudioStore, build_store
from speechmeta.training.whisper_meta.teacher import ask_teacher
from speechmeta.training.whisper_meta.texts import target_texts

if TYPE_CHECKING:
    from speechmeta.training.whisper_meta.tuning import Steps

_LOG = logging.getLogger(__name__)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Source(_Section):
    """How a source is used.

    Attributes:
        clips, crops, joins, long_joins: what the padded original is asked about; see `SourcePlan`.
        trust: how much its answers on these count beside the true words, 0 to 1.
        share: of draws; relative to the other sources.
        later_share: of draws from step `later` on; None: the same.
    """

    clips: int = Field(0, ge=0)
    crops: int = Field(0, ge=0)
    joins: int = Field(0, ge=0)
    long_joins: int = Field(0, ge=0)
    trust: float = Field(1.0, ge=0, le=1)
    share: float = Field(gt=0)
    later_share: float | None = Field(None, gt=0)

    @property
    def plan(self) -> SourcePlan:
        return SourcePlan(self.clips, self.crops, self.joins, self.long_joins)


class StepsSection(_Section):
    """As `speechmeta.training.whisper_meta.tuning.Steps`, and the size of a step.

    Attributes:
        batch_seconds: audio of a batch.
        batches: in a step.
        later: the step from which `later_share` counts.
    """

    steps: int = Field(gt=0)
    batch_seconds: float = Field(60.0, gt=0)
    batches: int = Field(2, gt=0)
    later: int | None = None
    encoder_rate: float = Field(1e-4, gt=0)
    decoder_rate: float = Field(3e-5, gt=0)
    warmup: int = Field(60, ge=0)
    states_weight: float = Field(3.0, ge=0)
    original_weight: float = Field(0.5, ge=0)
    save_every: int = Field(60, gt=0)


class WordsRecipe(_Section):
    """All of a run.

    Attributes:
        family: tells this recipe from others of `speechmeta train`.
        whisper: the original, a folder or a name on the hub; multilingual.
        manifests: JSONL; rows that are not free for commercial use are left out.
        work: folder for all that is made on the way.
        output: the checkpoint.
        seed: of every choice.
        sources: by `dataset`; sources not named are left out.
        no_speech_share: of draws, relative to the sources' shares.
        trailing: (low, high) seconds of silence behind a clip in training.
        trailing_silence: what the checkpoint asks for when it is used.
        sounds: changes of the audio, see `Sounds`.
        steps: of tuning.
        encoder_mix, decoder_mix: share of the tuned weights in the finished ones, the rest is
            the original's.
        short_words: whether synthetic voices say the short answers of a call.
    """

    family: Literal["whisper_meta"]
    whisper: str
    manifests: list[Path] = Field(min_length=1)
    work: Path
    output: Path
    seed: int = 14
    sources: dict[str, Source] = Field(min_length=1)
    no_speech_share: float = Field(0.07, ge=0)
    trailing: tuple[float, float] = (0.4, 1.3)
    trailing_silence: float = Field(1.0, ge=0)
    min_seconds: float = Field(0.5, ge=0)
    sounds: dict[str, Any] = Field(default_factory=dict)
    steps: StepsSection
    encoder_mix: float = Field(1.0, ge=0, le=1)
    decoder_mix: float = Field(1.0, ge=0, le=1)
    short_words: bool = True


def is_recipe(path: Path) -> bool:
    """Whether a config file of `speechmeta train` is for this recipe."""
    return family(path) == "whisper_meta"


def read_recipe(path: Path) -> WordsRecipe:
    """See `speechmeta.training.recipe_files.read_recipe_file`."""
    return read_recipe_file(path, WordsRecipe, "recipes/whisper_meta/bundled.yaml")


def run_recipe(recipe: WordsRecipe, resume: bool = False) -> Path:
    """Everything from decoding to the finished checkpoint, whose folder it gives.

    Args:
        recipe: all of it.
        resume: go on from the newest checkpoint of tuning; what was made before tuning is kept
            in any case.

    Raises:
        UsageError: the work folder holds checkpoints and `resume` is off, or no clip is left.
    """
    if not resume and any((recipe.work / "tuning").glob("checkpoint-*")):
        raise UsageError(
            f"{recipe.work} holds checkpoints of an earlier run",
            "go on with --resume, or name another work folder",
        )
    import torch
    from transformers import WhisperForConditionalGeneration

    from speechmeta.training.whisper_meta.export import export
    from speechmeta.training.whisper_meta.measure import mixed
    from speechmeta.training.whisper_meta.tuning import tune

    torch.manual_seed(recipe.seed)
    batches, steps = prepare(recipe)
    tuned_folder = tune(recipe.whisper, batches, steps, recipe.work / "tuning", resume)
    if int(os.environ.get("RANK", "0")):
        # Of processes that learn together the first finishes.
        return recipe.output
    original = WhisperForConditionalGeneration.from_pretrained(
        recipe.whisper, trust_remote_code=False
    )
    tuned = WhisperForConditionalGeneration.from_pretrained(tuned_folder, trust_remote_code=False)
    weights = mixed(
        original.state_dict(), tuned.state_dict(), recipe.encoder_mix, recipe.decoder_mix
    )
    tuned.load_state_dict(weights)
    made = export(tuned, recipe.whisper, recipe.output, recipe.trailing_silence, recipe.min_seconds)
    ordinary_modes(recipe.output)
    return made


def prepare(recipe: WordsRecipe) -> tuple[Batches, Steps]:
    """Decodes, plans, asks the original; what tuning needs."""
    from transformers import AutoConfig, AutoTokenizer

    from speechmeta.training.whisper_meta.tuning import Steps

    manifests = list(recipe.manifests)
    if recipe.short_words:
        manifests.append(say_short_words(recipe.work / "short-words", TRAIN_VOICES, recipe.seed))
    clips = read_clips(manifests, commercial_only=True)
    wanted = [clip for clip in clips if clip.dataset in recipe.sources or not clip.speech]
    audio = build_store(wanted, recipe.work / "audio")
    teacher_folder = recipe.work / "teacher"
    items = _items(recipe, wanted, audio, teacher_folder / "items.jsonl")
    teacher = ask_teacher(items, audio, recipe.whisper, teacher_folder)
    texts = target_texts(items, teacher)
    items = [item for item in items if item.name in texts or item.name in teacher.answers]
    config = AutoConfig.from_pretrained(recipe.whisper, trust_remote_code=False)
    tokenizer = AutoTokenizer.from_pretrained(recipe.whisper, trust_remote_code=False)
    tokens = {
        name: tokenizer.encode(" " + text, add_special_tokens=False) for name, text in texts.items()
    }
    section = recipe.steps
    steps = Steps(seed=recipe.seed, **section.model_dump(exclude={"batch_seconds", "later"}))
    try:
        sounds = Sounds(**recipe.sounds)
    except TypeError as error:
        raise UsageError(
            f"sounds: {error}", "see speechmeta.training.whisper_meta.draws"
        ) from error
    return (
        Batches(
            _plan(recipe, items),
            items,
            tokens,
            audio,
            teacher,
            [clip for clip in wanted if not clip.speech],
            sounds,
            recipe.trailing,
            {name: source.trust for name, source in recipe.sources.items()},
            read_vocabulary(tokenizer),
            config.num_mel_bins,
            config.max_source_positions * SAMPLES_PER_FRAME,
        ),
        steps,
    )


def _items(recipe: WordsRecipe, clips: Sequence[Clip], audio: AudioStore, path: Path) -> list[Item]:
    if path.exists():
        return read_items(path)
    plans = {name: source.plan for name, source in recipe.sources.items()}
    items = plan_items(clips, audio, plans, recipe.seed)
    if not items:
        raise UsageError(
            "no clip of the manifests is of a source that the recipe names",
            "name sources as the manifests' `dataset` does",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_items(items, path)
    _LOG.info("%d items, %d of them taught", len(items), sum(item.taught for item in items))
    return items


def _plan(recipe: WordsRecipe, items: Sequence[Item]) -> list[list[Draw]]:
    section = recipe.steps
    shares = {name: source.share for name, source in recipe.sources.items()}
    shares[NOTHING] = recipe.no_speech_share
    first = section.steps if section.later is None else min(section.later, section.steps)
    count = section.batches
    plan = plan_batches(items, shares, first * count, section.batch_seconds, recipe.seed)
    if first < section.steps:
        later = {
            name: source.later_share or source.share for name, source in recipe.sources.items()
        }
        later[NOTHING] = recipe.no_speech_share
        rest = (section.steps - first) * count
        plan += plan_batches(items, later, rest, section.batch_seconds, recipe.seed + 1)
    return plan
