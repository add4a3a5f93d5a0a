"""Tunes Whisper's ears to clips of any length and its words to these speakers and lines.

Three things are asked of the student at once: encoder states as the padded original has them
(relative L2; futo-org/whisper-acft), the written words (cross entropy), and the original
decoder's own distribution over them (Kullback-Leibler), so that what it knew is kept.
"""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, SequentialSampler
from transformers import Trainer, TrainingArguments, WhisperForConditionalGeneration

from speechmeta.training.logs import log_readably
from speechmeta.training.whisper_meta.draws import IGNORED, Batches
from speechmeta.training.whisper_meta.layers import decode, encode

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Steps:
    """How a run goes.

    Attributes:
        steps: updates.
        encoder_rate, decoder_rate: highest learning rates; up over `warmup` steps, then a cosine
            down to a twentieth.
        states_weight, original_weight: of L2 and of the original's distribution, beside the words.
        batches: in a step, shared out among the processes where several learn together.
        save_every: steps from checkpoint to checkpoint.
        seed: of what torch draws.
    """

    steps: int
    encoder_rate: float = 1e-4
    decoder_rate: float = 3e-5
    warmup: int = 60
    states_weight: float = 3.0
    original_weight: float = 0.5
    batches: int = 2
    save_every: int = 60
    seed: int = 14


class TaughtWhisper(WhisperForConditionalGeneration):
    """Whisper whose forward gives the loss of a batch of `Batches`."""

    original: Any = None
    parts: dict[str, float]

    def begin(self, original: WhisperForConditionalGeneration, steps: Steps) -> None:
        """Takes the frozen original's decoder as teacher and freezes the vocabulary."""
        decoder = copy.deepcopy(original.model.decoder).requires_grad_(False).eval()
        # Not a module of this model: it is neither trained nor saved.
        object.__setattr__(self, "original", decoder.to(torch.bfloat16))
        self.weights = steps
        self.parts = {}
        self.model.encoder.embed_positions.requires_grad_(False)
        self.model.decoder.embed_tokens.requires_grad_(False)

    def forward(
        self,
        features: torch.Tensor,
        mask: torch.Tensor,
        tokens: torch.Tensor,
        labels: torch.Tensor,
        words_weight: torch.Tensor,
        original_weight: torch.Tensor,
        states: torch.Tensor,
        states_mask: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """`loss` (), as `Batches` describes the arguments."""
        vocabulary = self.original.embed_tokens.weight.T
        with torch.autocast("cpu", torch.bfloat16):
            encoded = encode(self.model.encoder, features, mask)
            hidden = decode(self.model.decoder, tokens, encoded, mask)
            asked = labels != IGNORED
            logits = hidden[asked] @ vocabulary
        known = states_mask[..., None]
        wanted = states * known
        distance = ((encoded.float() - wanted) * known).square().sum()
        distance = distance / wanted.square().sum().clamp(min=1e-6)
        log_probs = logits.float().log_softmax(-1)
        rows, places = asked.nonzero(as_tuple=True)
        weights = torch.where(places == 0, 1.0, words_weight[rows])
        loss = -log_probs.gather(1, labels[asked][:, None])[:, 0]
        words = (loss * weights).sum() / len(rows)
        # Behind <|startoftranscript|> the original would tell languages apart: not asked here.
        compared = (original_weight[rows] > 0) & (places > 0)
        kept = log_probs.new_zeros(())
        if bool(compared.any()):
            taught = original_weight > 0
            with torch.no_grad():
                own = decode(
                    self.original, tokens[taught], states[taught].bfloat16(), states_mask[taught]
                )
                own_asked = asked[taught].clone()
                own_asked[:, 0] = False
                target = own[own_asked] @ vocabulary
                target = target.float().log_softmax(-1)
            apart = (target.exp() * (target - log_probs[compared])).sum(-1)
            kept = (apart * original_weight[rows[compared]]).sum() / len(rows)
        self.parts = {
            "states": float(distance.detach()),
            "words": float(words.detach()),
            "original": float(kept.detach()),
        }
        total = words + self.weights.states_weight * distance
        return {"loss": total + self.weights.original_weight * kept}


class _Tuner(Trainer):
    """transformers' Trainer over whole batches, with a learning rate for each side."""

    def __init__(self, steps: Steps, **arguments: Any) -> None:
        self.plan = steps
        super().__init__(**arguments)
        self.sums: dict[str, list[float]] = {}

    def get_train_dataloader(self) -> DataLoader[Any]:
        loader = DataLoader(
            self.train_dataset,
            sampler=SequentialSampler(self.train_dataset),
            collate_fn=_only,
        )
        prepared: DataLoader[Any] = self.accelerator.prepare(loader)
        return prepared

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        encoder: list[torch.nn.Parameter] = []
        decoder: list[torch.nn.Parameter] = []
        for name, weight in self.model.named_parameters():
            if weight.requires_grad:
                (encoder if name.startswith("model.encoder.") else decoder).append(weight)
        self.optimizer: Any = torch.optim.AdamW(
            [
                {"params": encoder, "lr": self.plan.encoder_rate},
                {"params": decoder, "lr": self.plan.decoder_rate},
            ],
            betas=(0.9, 0.98),
            weight_decay=0.0,
            fused=True,
        )
        return self.optimizer

    def compute_loss(self, model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
        output = model(**inputs)
        for name, value in self.accelerator.unwrap_model(model).parts.items():
            self.sums.setdefault(name, []).append(value)
        return output["loss"]

    def log(self, logs: dict[str, float], *rest: Any, **named: Any) -> None:
        for name, values in self.sums.items():
            logs[name] = round(sum(values) / len(values), 4)
        self.sums = {}
        super().log(logs, *rest, **named)


def _processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _only(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return rows[0]


def checkpoints(folder: Path) -> Iterator[Path]:
    """Checkpoints of a run in order of their steps."""
    found = folder.glob("checkpoint-*")
    yield from sorted(found, key=lambda path: int(path.name.rsplit("-", 1)[1]))


def tune(whisper: str, batches: Batches, steps: Steps, folder: Path, resume: bool = False) -> Path:
    """Tunes a Whisper model; the result lies in `folder/tuned`.

    Args:
        whisper: folder or name of the original, which is start and teacher at once.
        batches: `steps.batches` for each step.
        steps: lengths, rates, weights.
        folder: of checkpoints and of the result.
        resume: go on from the newest checkpoint.
    """
    original = WhisperForConditionalGeneration.from_pretrained(whisper, trust_remote_code=False)
    model = TaughtWhisper.from_pretrained(
        whisper, attn_implementation="sdpa", trust_remote_code=False
    )
    model.begin(original, steps)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps.steps,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=max(1, steps.batches // _processes()),
        learning_rate=steps.encoder_rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.05},
        warmup_steps=steps.warmup,
        max_grad_norm=1.0,
        logging_steps=10,
        save_steps=steps.save_every,
        save_total_limit=2,
        seed=steps.seed,
        use_cpu=True,
        ddp_backend="gloo" if _processes() > 1 else None,
        ddp_find_unused_parameters=False,
        report_to=[],
        remove_unused_columns=False,
        disable_tqdm=True,
    )
    trainer = _Tuner(steps, model=model, args=arguments, train_dataset=batches)
    log_readably(trainer, _LOG)
    trainer.train(resume_from_checkpoint=resume and any(checkpoints(folder)))
    trainer.save_model(str(folder / "tuned"))
    return folder / "tuned"
