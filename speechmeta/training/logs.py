"""What a training run says: one readable line of figures in place of `Trainer`'s raw dicts."""

from __future__ import annotations

import logging
from typing import Any

from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback

_NAMES = {"learning_rate": "learning rate", "grad_norm": "gradient", "eval_loss": "loss on eval"}
_KEPT = ("loss", "eval_loss", "learning_rate", "grad_norm", "train_loss")


class FigureLines(TrainerCallback):
    """Logs `step 20 of 300, epoch 0.2: loss 1.234, learning rate 0.0001`."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        figures = [
            f"{_NAMES.get(name, name.replace('_', ' '))} {float(logs[name]):.4g}"
            for name in _KEPT
            if name in (logs or {})
        ]
        if figures and state.is_world_process_zero:
            self._logger.info(
                "step %d of %d, epoch %.2f: %s",
                state.global_step,
                state.max_steps,
                state.epoch or 0.0,
                ", ".join(figures),
            )


def log_readably(trainer: Trainer, logger: logging.Logger) -> None:
    """Puts `FigureLines` in the place of what prints by itself."""
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(FigureLines(logger))
