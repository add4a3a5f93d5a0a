"""Checkpoints of the hub on this machine: fetched whole before they are needed, and removed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import scan_cache_dir
from huggingface_hub.errors import CacheNotFound

from speechmeta.errors import ModelError, UsageError
from speechmeta.models.hub import CHECKPOINT_PATTERNS, Source, find_checkpoint
from speechmeta.models.loading import BUNDLED_NAME
from speechmeta.trust import read_json_object

_TEXT_PATTERNS = (*CHECKPOINT_PATTERNS, "*.txt", "*.model")


@dataclass(frozen=True)
class Kept:
    """A model in the hub's cache: its folder and its size in bytes."""

    name: str
    folder: Path
    size: int


def download(name: str) -> Path:
    """Fetches a checkpoint, and the models that its config names; returns its folder.

    Nothing is loaded, so that it needs no more memory than copying files.

    Raises:
        UsageError: it is a folder, or the bundled checkpoint.
        ModelError: it cannot be found or reached.
    """
    if name == BUNDLED_NAME or Path(name).exists():
        raise UsageError(f"{name} is on this machine already", "name a model of the hub")
    source = find_checkpoint(name)
    config = read_json_object(source.folder / "config.json")
    # Here, not above: each family imports torch.
    from speechmeta.models.desta2.published import is_published as is_desta

    if is_desta(config):
        from speechmeta.models.desta2.loading import find_checkpoint as find_desta

        folder = find_desta(name, False)
        for key in ("whisper_model_id", "encoder_model_id", "llama_model_id", "llm_model_id"):
            if isinstance(config.get(key), str):
                _beside(source, config[key])
        return folder
    if isinstance(config.get("llm_model_name"), str):
        from speechmeta.models.speechllm.published import fetch_companions

        fetch_companions(source)
    return source.folder


def _beside(source: Source, name: str) -> None:
    if source.beside(name, "config.json") is None:
        source.fetch(name, _TEXT_PATTERNS)


def kept_models() -> list[Kept]:
    """The models in the hub's cache, whoever fetched them, by name."""
    try:
        found = scan_cache_dir()
    except CacheNotFound:
        return []
    kept = [
        Kept(repo.repo_id, Path(repo.repo_path), repo.size_on_disk)
        for repo in found.repos
        if repo.repo_type == "model"
    ]
    return sorted(kept, key=lambda item: item.name)


def remove(name: str) -> Kept:
    """Removes a model from the hub's cache; returns what went.

    Raises:
        UsageError: it is the bundled checkpoint or a folder.
        ModelError: it is not in the cache.
    """
    if name == BUNDLED_NAME or Path(name).is_dir():
        raise UsageError(f"{name} is not in the hub's cache", "only what was fetched is removed")
    found = next((item for item in kept_models() if item.name == name), None)
    if found is None:
        raise ModelError(f"the model {name} is not on this machine", "see speechmeta models")
    cache = scan_cache_dir()
    commits = [
        revision.commit_hash
        for repo in cache.repos
        if repo.repo_id == name and repo.repo_type == "model"
        for revision in repo.revisions
    ]
    cache.delete_revisions(*commits).execute()
    return found


__all__ = ["Kept", "download", "kept_models", "remove"]
