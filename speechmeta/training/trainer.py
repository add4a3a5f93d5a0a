"""The training loop: transformers' `Trainer` with SpeechLLM's losses, batches and schedule."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import (
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from speechmeta.errors import DatasetError
from speechmeta.training import parallel
from speechmeta.training.average import average_into, check_parts
from speechmeta.training.batches import TARGETS, Collator, EpochLoader, SecondsSampler
from speechmeta.training.build import build
from speechmeta.training.cache import AudioCache
from speechmeta.training.config import TrainConfig
from speechmeta.training.dataset import ClipDataset
from speechmeta.training.language import save_language_models
from speechmeta.training.losses import ctc_loss, label_losses, text_losses
from speechmeta.training.manifest import read_clips
from speechmeta.training.masked import MaskedPrediction
from speechmeta.training.optimizer import build_optimizer, trapezoid

logger = logging.getLogger(__name__)

_FORCED_LOSS = 0.02
_PROGRESS_FILE = "progress.json"
_SUMMARY_FILE = "training.json"


class SpeechLLMTrainer(Trainer):
    """`Trainer` with the loss of transcripts, labels and CTC, and batches by seconds."""

    def __init__(
        self, train_config: TrainConfig, phone_names: Sequence[str], **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.optimizer: torch.optim.Optimizer | None
        self.lr_scheduler: LambdaLR | None
        self.config = train_config
        self.started = time.monotonic()
        self.elapsed_before = 0.0
        self._agreed = 0.0
        width, phones = self.model.config.audio_config.hidden_size, len(phone_names)
        self.phone_head = nn.Linear(width, phones).to(self.args.device) if phones else None
        self.masked = None
        if train_config.optim.masked_first:
            self.masked = MaskedPrediction(self.model.audio_tower).to(self.args.device)
        self._sums: dict[str, float] = {}
        self._count = 0

    @property
    def elapsed(self) -> float:
        """Seconds of training, those before a resume included; the same in all processes."""
        if parallel.world() > 1:
            return self._agreed
        return self.elapsed_before + time.monotonic() - self.started

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        groups = [] if self.optimizer is None else self.optimizer.param_groups
        parameters = [parameter for group in groups for parameter in group["params"]]
        own = self.elapsed_before + time.monotonic() - self.started
        self._agreed = parallel.average_gradients(parameters, own)
        return loss

    def progress(self) -> float:
        """The share of the run that is done, by time or by steps, whichever is further."""
        optim = self.config.optim
        by_steps = self.state.global_step / optim.max_steps
        by_time = self.elapsed / (optim.minutes * 60) if optim.minutes else 0.0
        return float(min(1.0, max(by_steps, by_time)))

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        optim = self.config.optim
        if self.optimizer is None:
            parts = nn.ModuleList([self.model])
            parts.extend(part for part in (self.phone_head, self.masked) if part is not None)
            self.optimizer = build_optimizer(
                parts, optim.learning_rate, optim.adam_learning_rate, optim.weight_decay
            )
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> LambdaLR:
        optim = self.config.optim
        if self.lr_scheduler is None:
            factor = trapezoid(self.progress, optim.warmup_steps, optim.decay_share)
            self.lr_scheduler = LambdaLR(optimizer or self.create_optimizer(), factor)
        return self.lr_scheduler

    def get_train_dataloader(self) -> DataLoader[Any]:
        optim = self.config.optim
        sampler = SecondsSampler(
            self.train_dataset,
            optim.batch_seconds,
            optim.seed,
            optim.short_first,
            (parallel.rank(), parallel.world()),
        )
        return EpochLoader(
            self.train_dataset,
            batch_sampler=sampler,
            collate_fn=self.data_collator,
            num_workers=optim.workers,
            prefetch_factor=4 if optim.workers else None,
            persistent_workers=optim.workers > 0,
        )

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        inputs = dict(inputs)
        extra = {name: inputs.pop(name) for name in TARGETS}
        optim = self.config.optim
        outputs = None
        losses: dict[str, torch.Tensor] = {}
        if self.masked is not None and self.progress() < optim.masked_first:
            with torch.autocast(self.args.device.type, torch.bfloat16, enabled=optim.bf16):
                losses["masked"] = self.masked(
                    self.model.audio_tower, inputs["input_values"], inputs["audio_attention_mask"]
                )
            self._note(losses)
            return (losses["masked"], None) if return_outputs else losses["masked"]
        if self.progress() < optim.encoder_first:
            # A decoder that cannot hear yet only teaches the connector constants.
            with torch.autocast(self.args.device.type, torch.bfloat16, enabled=optim.bf16):
                features = self.model.get_audio_features(
                    inputs["input_values"], inputs["audio_attention_mask"]
                )
            total = features.ctc_logits.new_zeros(())
        else:
            outputs = model(**inputs, use_cache=False)
            features = outputs.audio_features
            losses = text_losses(outputs.logits, extra)
            total = (
                losses["transcript"]
                + optim.label_loss * losses["label"]
                + _FORCED_LOSS * losses["forced"]
            )
        losses["ctc"] = ctc_loss(features, extra, self.model.config)
        total = total + optim.ctc_loss * losses["ctc"]
        if features.label_logits is not None:
            for name, loss in label_losses(features.label_logits, extra).items():
                losses[name] = loss
                total = total + optim.label_head_loss * loss
        if self.phone_head is not None and bool((extra["phones"] >= 0).any()):
            heard = self.phone_head(features.encoder_hidden.float())
            losses["phone"] = functional.cross_entropy(
                heard.transpose(1, 2), extra["phones"], ignore_index=-100
            )
            total = total + optim.phone_loss * losses["phone"]
        self._note(losses)
        return (total, outputs) if return_outputs else total

    def _note(self, losses: Mapping[str, torch.Tensor]) -> None:
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value.detach())
        self._count += 1

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if self._count:
            logs = {**logs, **{f"loss_{n}": v / self._count for n, v in self._sums.items()}}
            logs["progress"] = round(self.progress(), 4)
            self._sums, self._count = {}, 0
        if parallel.rank() == 0:
            super().log(logs, *args, **kwargs)


class _Clock(TrainerCallback):
    """Stops at the time limit, saves by the minute, and remembers the time across resumes."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.trainer: SpeechLLMTrainer | None = None
        self.saved = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.trainer is None:
            return
        if self.trainer.progress() >= 1.0:
            control.should_training_stop = True
            control.should_save = True
        if time.monotonic() - self.saved > self.config.optim.save_minutes * 60:
            control.should_save = True
        # One process writes for all.
        control.should_save &= parallel.rank() == 0
        for share in self.config.optim.keep:
            folder = self.config.output / f"at-{share:g}"
            if self.trainer.progress() >= share and parallel.rank() == 0 and not folder.exists():
                self.trainer.model.save_pretrained(folder)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.saved = time.monotonic()
        if self.trainer is not None:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            elapsed = {"elapsed_seconds": self.trainer.elapsed}
            (folder / _PROGRESS_FILE).write_text(json.dumps(elapsed))


def train(config: TrainConfig, resume: bool = False) -> Path:
    """Trains a checkpoint and writes it, in float32, to `config.output / "final"`.

    Args:
        resume: go on from the newest checkpoint in `config.output`.

    Raises:
        SpeechMetaError: the config or the data cannot be used.
    """
    count = config.optim.processes
    if count > 1 and not torch.cuda.is_available():
        # Decoded before the processes part.
        AudioCache(
            read_clips(config.data.manifests, config.data.commercial_only), config.data.cache
        )
        parallel.run(_train, (config, resume), count, config.output / ".meet")
    else:
        # The caller's thread may be in inference mode, in which nothing learns.
        with torch.inference_mode(False), torch.enable_grad():
            _train(config, resume)
    return config.output / "final"


def train_in_turn(configs: Sequence[TrainConfig], resume: bool = False) -> list[Path]:
    """Trains one run after the other; each may start from what those before it wrote.

    Args:
        resume: leave finished runs as they are, and go on where the first other one stopped.

    Returns:
        The folders of the finished checkpoints.

    Raises:
        SpeechMetaError: as in `train`.
    """
    finals = []
    for config in configs:
        final = config.output / "final"
        if resume and (final / _SUMMARY_FILE).is_file():
            logger.info("already trained: %s", final)
        else:
            train(config, resume and any(config.output.glob("checkpoint-*")))
        finals.append(final)
    return finals


def _train(config: TrainConfig, resume: bool) -> None:
    # Before there are processes to tell apart: all start with the same weights.
    set_seed(config.optim.seed)
    check_parts(config.model.average)
    clips = read_clips(config.data.manifests, config.data.commercial_only)
    cache = AudioCache(clips, config.data.cache)
    model, processor = build(config, clips)
    dataset = ClipDataset(clips, cache, processor, config)
    optim = config.optim
    clock = _Clock(config)
    trainer = SpeechLLMTrainer(
        config,
        dataset.phone_names,
        model=model,
        args=TrainingArguments(
            output_dir=str(config.output),
            max_steps=optim.max_steps,
            gradient_accumulation_steps=optim.accumulation,
            max_grad_norm=1.0,
            bf16=optim.bf16,
            use_cpu=not torch.cuda.is_available(),
            logging_steps=20,
            save_strategy="no",
            save_total_limit=2,
            report_to=[],
            seed=optim.seed,
            remove_unused_columns=False,
            disable_tqdm=True,
        ),
        train_dataset=dataset,
        data_collator=Collator(
            processor,
            optim.token_noise,
            model.config.text_config.vocab_size,
            model.config.text_config.pad_token_id,
        ),
        callbacks=[clock],
    )
    clock.trainer = trainer
    config.output.mkdir(parents=True, exist_ok=True)
    checkpoint = None
    if resume:
        found = sorted(
            config.output.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1])
        )
        if not found:
            raise DatasetError(f"nothing to resume in {config.output}", "start without --resume")
        checkpoint = str(found[-1])
        progress = json.loads((found[-1] / _PROGRESS_FILE).read_text())
        trainer.elapsed_before = progress["elapsed_seconds"]
    torch.manual_seed(config.optim.seed + 1000 * parallel.rank())
    trainer.train(resume_from_checkpoint=checkpoint)
    if parallel.rank() > 0:
        return
    final = config.output / "final"
    if config.model.average:
        average_into(model, config.model.average)
    model.config.decoding = {
        **(model.config.decoding or {}),
        **config.model.decoding,
        "label_prior": dataset.label_shares(),
    }
    model.save_pretrained(final)
    processor.save_pretrained(final)
    save_language_models(config, clips, processor, final)
    summary = {
        "steps": trainer.state.global_step,
        "minutes": round(trainer.elapsed / 60, 1),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "hours_of_audio": round(sum(map(cache.seconds, range(len(cache)))) / 3600, 2),
    }
    (final / _SUMMARY_FILE).write_text(json.dumps(summary, indent=2) + "\n")
    logger.info("trained: %s", summary)
