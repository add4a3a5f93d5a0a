"""Training of DeSTA's Q-Former alone: Whisper and the language model stay as they are.

The manifest is what `speechmeta train construct` writes: JSON Lines with `audio`, `prompt`,
`response`, and if wanted `transcript` and `system`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from speechmeta.audio.loading import load_audio
from speechmeta.decoding.memory import out_of_memory
from speechmeta.errors import DatasetError, ModelError, SpeechMetaError, UsageError
from speechmeta.models.desta2.loading import find_checkpoint, load_desta
from speechmeta.models.desta2.modeling_desta2 import DestaForConditionalGeneration
from speechmeta.models.desta2.processing_desta2 import NO_SPEECH, ChatTurn, DestaProcessor
from speechmeta.models.desta2.published import (
    is_published,
    load_connector,
    read_config,
    save_published,
)
from speechmeta.models.desta2.windows import mono_16k, split_windows
from speechmeta.models.weights import ordinary_modes, quiet_transformers

IGNORED = -100
"""Label of positions that carry no loss: all but the response."""


@dataclass(frozen=True)
class QFormerOptions:
    """Settings of a run.

    Attributes:
        model: the checkpoint to start from, in a published layout.
        manifest: the training manifest.
        output: folder of the run; the result lies in its folder `final`.
        epochs, batch_size, learning_rate, warmup_steps, seed: as usual.
        accumulate: batches for one step.
        max_steps: ends the run earlier; 0 for no limit.
        save_steps: a checkpoint every this many steps.
        fresh: start from a random Q-Former in place of the checkpoint's.
        device, dtype, quantization, local_files_only: as for `ChatModel.from_pretrained`.
        gradient_checkpointing: less memory for more time in the language model.
    """

    model: str
    manifest: Path
    output: Path
    epochs: float = 1.0
    batch_size: int = 4
    learning_rate: float = 1e-4
    warmup_steps: int = 0
    accumulate: int = 1
    max_steps: int = 0
    save_steps: int = 500
    seed: int = 0
    fresh: bool = False
    device: str = "auto"
    dtype: str = "auto"
    quantization: str | None = None
    local_files_only: bool = False
    gradient_checkpointing: bool = False


class ChatExamples(Dataset[dict[str, Any]]):
    """Examples of a training manifest as ids, labels and log-mel windows."""

    def __init__(
        self, manifest: Path, model: DestaForConditionalGeneration, processor: DestaProcessor
    ) -> None:
        self.lines = _read_lines(manifest)
        self.folder = manifest.parent
        # Hours into a run would be late to learn of it.
        for line in self.lines:
            if not (self.folder / line["audio"]).is_file():
                raise DatasetError(
                    f"{manifest} names {line['audio']}, which is not there",
                    "relative paths are taken from the manifest's folder",
                )
        self.model = model
        self.processor = processor
        self._texts: dict[str, list[str]] = {}

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> dict[str, Any]:
        line = self.lines[index]
        path = self.folder / line["audio"]
        waveform = mono_16k(load_audio(path))
        windows = split_windows(waveform)
        features = self.processor.features([waveform[w.start : w.end] for w in windows])
        given = line.get("transcript")
        if given is not None:
            texts = [""] * (len(windows) - 1) + [given or NO_SPEECH]
        else:
            texts = self._transcripts(str(path), features, [w.speech for w in windows])
        turns = []
        if line.get("system"):
            turns.append(ChatTurn("system", (line["system"],)))
        if self.processor.variant == "desta2":
            turns += [ChatTurn("audio", (0,)), ChatTurn("user", (line["prompt"],))]
        else:
            turns.append(ChatTurn("user", (0, "\n", line["prompt"])))
        prompt = self.processor.prompt(turns, [texts]).ids
        end = self.processor.tokenizer.eos_token_id
        response = [*self.processor.tokenize(line["response"]), end]
        return {
            "input_ids": prompt + response,
            "labels": [IGNORED] * len(prompt) + response,
            "input_features": features,
        }

    def _transcripts(self, key: str, features: torch.Tensor, speech: list[bool]) -> list[str]:
        """Whisper's transcript of every window with speech, asked for only once."""
        if key not in self._texts:
            texts = [NO_SPEECH] * len(speech)
            asked = [i for i, found in enumerate(speech) if found]
            if asked:
                place = self.model.multi_modal_projector.layer_weights.device
                with torch.no_grad(), quiet_transformers():
                    found = self.model.get_audio_features(features[asked].to(place))
                    ids = self.model.transcribe(found.last_hidden_state)
                for i, text in zip(asked, self.processor.transcripts(ids), strict=True):
                    texts[i] = text
            self._texts[key] = texts
        return self._texts[key]


@dataclass(frozen=True)
class ChatCollator:
    """Pads on the right; windows of all rows follow each other, as the model takes them."""

    pad_id: int

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        width = max(len(item["input_ids"]) for item in items)

        def padded(name: str, filler: int) -> torch.Tensor:
            return torch.tensor(
                [item[name] + [filler] * (width - len(item[name])) for item in items]
            )

        lengths = torch.tensor([len(item["input_ids"]) for item in items])
        return {
            "input_ids": padded("input_ids", self.pad_id),
            "labels": padded("labels", IGNORED),
            "attention_mask": (torch.arange(width) < lengths[:, None]).long(),
            "input_features": torch.cat([item["input_features"] for item in items]),
        }


class QFormerTrainer(Trainer):
    """`Trainer` whose checkpoints hold the connector, not the billions that stay frozen."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.args.output_dir or ".")
        save_published(self.model, folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_connector(self.model, Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        raise UsageError("the best checkpoint is not kept track of", "evaluate them yourself")


def freeze_all_but_connector(model: DestaForConditionalGeneration) -> None:
    """Leaves gradients to the Q-Former only, and keeps the rest out of training mode."""
    model.requires_grad_(False)
    model.multi_modal_projector.requires_grad_(True)

    def train(mode: bool = True) -> DestaForConditionalGeneration:
        model.training = mode
        model.audio_tower.train(False)
        model.language_model.train(False)
        model.multi_modal_projector.train(mode)
        return model

    model.train = train


class _Figures(TrainerCallback):
    """Hands on what `Trainer` logs; by itself it prints to stdout."""

    def __init__(self, hand_on: Callable[[dict[str, float]], None]) -> None:
        self.hand_on = hand_on

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self.hand_on(dict(logs or {}))


def train_qformer(
    options: QFormerOptions,
    resume: bool = False,
    on_log: Callable[[dict[str, float]], None] | None = None,
) -> Path:
    """Trains the Q-Former on a manifest.

    Args:
        resume: go on from the newest checkpoint of `options.output`, if there is one.
        on_log: called with figures such as `loss` and `epoch` every 10 steps and at the end.

    Returns:
        the folder of the trained checkpoint, in the published layout, with absolute names of
        Whisper and of the decoder where these are folders.

    Raises:
        DatasetError: the manifest is broken. ModelError: the checkpoint is. UsageError: the
            folder holds another run and `resume` is off.
    """
    newest = _newest_checkpoint(options.output)
    if newest is not None and not resume:
        raise UsageError(
            f"{options.output} holds checkpoints of an earlier run",
            "resume it, or name another folder",
        )
    start = find_checkpoint(options.model, options.local_files_only)
    if not is_published(read_config(start)):
        raise UsageError(
            f"{options.model} is in no published layout, and a run writes that layout, which "
            "names Whisper and the decoder",
            "start from the published checkpoint or from a run's folder `final`",
        )
    torch.manual_seed(options.seed)
    model, processor = load_desta(
        options.model,
        options.device,
        options.dtype,
        options.local_files_only,
        options.quantization,
    )
    _make_names_absolute(model, options.model)
    if options.fresh:
        model.multi_modal_projector = type(model.multi_modal_projector)(model.config)
        model.multi_modal_projector.apply(model._init_weights)
        model.multi_modal_projector.to(next(model.audio_tower.parameters()).device)
    freeze_all_but_connector(model)
    if options.gradient_checkpointing:
        model.language_model.gradient_checkpointing_enable({"use_reentrant": False})
    examples = ChatExamples(options.manifest, model, processor)
    trainer = QFormerTrainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(options.output),
            num_train_epochs=options.epochs,
            max_steps=options.max_steps or -1,
            per_device_train_batch_size=options.batch_size,
            gradient_accumulation_steps=options.accumulate,
            learning_rate=options.learning_rate,
            warmup_steps=options.warmup_steps,
            lr_scheduler_type="cosine",
            save_steps=options.save_steps,
            logging_steps=10,
            seed=options.seed,
            report_to=[],
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            use_cpu=options.device == "cpu",
            disable_tqdm=True,
        ),
        train_dataset=examples,
        data_collator=ChatCollator(processor.tokenizer.eos_token_id),
    )
    trainer.remove_callback(PrinterCallback)
    if on_log is not None:
        trainer.add_callback(_Figures(on_log))
    try:
        trainer.train(resume_from_checkpoint=str(newest) if newest is not None else None)
    except SpeechMetaError:
        raise
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise ModelError(
            "training ran out of memory",
            "lower batch_size, or use gradient_checkpointing or quantization",
        ) from error
    final = options.output / "final"
    save_published(model, final)
    ordinary_modes(options.output)
    return final


def _newest_checkpoint(output: Path) -> Path | None:
    found = [
        (int(path.name.removeprefix("checkpoint-")), path)
        for path in output.glob("checkpoint-*")
        if path.name.removeprefix("checkpoint-").isdigit()
        # Written last: a checkpoint that was cut off lacks it.
        and (path / "trainer_state.json").is_file()
    ]
    return max(found)[1] if found else None


def _make_names_absolute(model: DestaForConditionalGeneration, checkpoint: str) -> None:
    folder = Path(checkpoint)
    for name in ("audio_name", "text_name"):
        inside = folder / str(getattr(model.config, name))
        if inside.is_dir():
            setattr(model.config, name, str(inside.resolve()))


def _read_lines(manifest: Path) -> list[dict[str, Any]]:
    try:
        lines = manifest.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DatasetError(f"cannot read {manifest}: {error.strerror}", "check the path") from error
    result = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            missing = [key for key in ("audio", "prompt", "response") if not row[key]]
            kinds = [row[key] for key in ("audio", "prompt", "response")]
            kinds += [row[key] for key in ("transcript", "system") if row.get(key) is not None]
            if not all(isinstance(value, str) for value in kinds if value):
                raise TypeError("a value is not text")
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(
                f"{manifest}, line {number}: {type(error).__name__}: {error}",
                "a line has audio, prompt and response; see speechmeta train construct",
            ) from error
        if missing:
            raise DatasetError(f"{manifest}, line {number} has an empty {missing[0]}", "fill it")
        result.append(row)
    if not result:
        raise DatasetError(f"{manifest} has no lines", "see speechmeta train construct")
    return result


__all__ = [
    "ChatCollator",
    "ChatExamples",
    "QFormerOptions",
    "QFormerTrainer",
    "freeze_all_but_connector",
    "train_qformer",
]
