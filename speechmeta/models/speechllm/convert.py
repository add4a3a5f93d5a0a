"""From the published layout to our own, with equal logits."""

from __future__ import annotations

from pathlib import Path

from speechmeta.errors import OutputError
from speechmeta.models.speechllm.loading import load_model
from speechmeta.models.weights import ordinary_modes


def convert_checkpoint(
    source: str | Path, target: Path, dtype: str = "float32", local_files_only: bool = False
) -> None:
    """Writes a checkpoint as `config.json`, safetensors, processor and tokenizer files.

    Args:
        source: a folder or hub id in any layout that `load_model` takes.
        target: a folder that is empty or does not exist.

    Raises:
        ModelError: the source cannot be loaded.
        OutputError: the target cannot be written, or holds files.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise OutputError(f"{target} exists and is not empty", "name a new folder")
    model, processor = load_model(
        source, device="cpu", dtype=dtype, local_files_only=local_files_only
    )
    try:
        model.save_pretrained(target)
        processor.save_pretrained(target)
        ordinary_modes(target)
    except OSError as error:
        raise OutputError(
            f"cannot write {target}: {error.strerror}", "check space and rights"
        ) from (error)
