"""The run: transformers' `Trainer` over a checkpoint with a LoRA adapter, merged at the end."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch

from speechmeta.errors import UsageError, require_extra
from speechmeta.models.weights import ordinary_modes
from speechmeta.training.finetune.clips import ClipDataset
from speechmeta.training.finetune.config import TrainConfig
from speechmeta.training.finetune.speechllm import SAVED, SpeechLLMCollator, adapted_modules
from speechmeta.training.manifest import read_clips

logger = logging.getLogger(__name__)

SUMMARY_FILE = "training.json"

DEFAULTS: dict[str, Any] = {
    "num_train_epochs": 3,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 4,
    "gradient_accumulation_steps": 4,
    "learning_rate": 1e-4,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.03,
    "logging_steps": 10,
    "save_strategy": "epoch",
    "save_total_limit": 2,
    "dataloader_num_workers": 2,
    "seed": 0,
}
"""`TrainingArguments` where the config's `trainer` says nothing."""

_OURS = ("output_dir", "remove_unused_columns", "label_names")


def training_arguments(config: TrainConfig) -> Any:
    """transformers' `TrainingArguments` of a run.

    Raises:
        MissingExtraError: the extra `train` is not installed.
        UsageError: the config names an argument that there is not, or a value it cannot take.
    """
    for module in ("accelerate", "peft"):
        require_extra(module, "train", "training")
    from transformers import TrainingArguments

    taken = sorted(set(config.trainer) & set(_OURS))
    if taken:
        raise UsageError(f"trainer.{taken[0]} is set by the run itself", "leave it out")
    on_gpu = torch.cuda.is_available()
    given = {
        **DEFAULTS,
        "bf16": on_gpu and torch.cuda.is_bf16_supported(),
        "use_cpu": not on_gpu,
        "report_to": [],
        "eval_strategy": "epoch" if config.data.evaluation else "no",
        **config.trainer,
    }
    try:
        return TrainingArguments(
            output_dir=str(config.output),
            remove_unused_columns=False,
            label_names=["labels"],
            **given,
        )
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"trainer: {error}", "the keys are those of transformers' TrainingArguments"
        ) from error


def train(config: TrainConfig, resume: bool = False) -> Path:
    """Fine-tunes a checkpoint and writes it, the adapter merged, to `config.output / "final"`.

    Args:
        resume: go on from the newest checkpoint in `config.output`.

    Raises:
        SpeechMetaError: the config, the checkpoint or the data cannot be used.
    """
    # The caller's thread may be in inference mode, in which nothing learns.
    with torch.inference_mode(False), torch.enable_grad():
        return _train(config, resume)


def _train(config: TrainConfig, resume: bool) -> Path:
    import peft
    from transformers import Trainer, set_seed

    from speechmeta.models.speechllm import load_model
    from speechmeta.training.logs import log_readably

    arguments = training_arguments(config)
    if resume and not any(config.output.glob("checkpoint-*")):
        raise UsageError(f"nothing to resume in {config.output}", "start without --resume")
    clips = read_clips(config.data.manifests, config.data.commercial_only)
    dataset = ClipDataset(clips, config.data.max_seconds, config.augment)
    evaluation = (
        ClipDataset(read_clips(config.data.evaluation), config.data.max_seconds)
        if config.data.evaluation
        else None
    )
    set_seed(arguments.seed)
    model, processor = load_model(
        config.model,
        device=arguments.device,
        dtype=torch.bfloat16 if arguments.bf16 else torch.float32,
    )
    # An optimizer's small steps would be lost in half precision.
    model.multi_modal_projector.float()
    adapted = peft.get_peft_model(
        model,
        peft.LoraConfig(
            r=config.lora.rank,
            lora_alpha=config.lora.alpha,
            lora_dropout=config.lora.dropout,
            target_modules=adapted_modules(config.lora),
            modules_to_save=list(SAVED),
        ),
    )
    trainer = Trainer(
        model=adapted,
        args=arguments,
        train_dataset=dataset,
        eval_dataset=evaluation,
        data_collator=SpeechLLMCollator(processor),
    )
    log_readably(trainer, logger)
    trainer.train(resume_from_checkpoint=resume)
    final = config.output / "final"
    if not trainer.is_world_process_zero():
        return final
    trainable, everything = adapted.get_nb_trainable_parameters()
    merged = adapted.merge_and_unload()
    merged.save_pretrained(final)
    processor.save_pretrained(final)
    summary = {
        "model": config.model,
        "steps": trainer.state.global_step,
        "parameters": everything,
        "trained_parameters": trainable,
        "clips": len(dataset),
        "hours_of_audio": round(sum(clip.duration for clip in dataset.clips) / 3600, 2),
        "lora": config.lora.model_dump(),
    }
    (final / SUMMARY_FILE).write_text(json.dumps(summary, indent=2) + "\n")
    ordinary_modes(config.output)
    logger.info(
        "trained %d steps on %d clips, %.2f hours",
        summary["steps"],
        len(dataset),
        summary["hours_of_audio"],
    )
    return final
