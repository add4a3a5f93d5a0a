"""Where a checkpoint's files are: a folder, the hub's local cache, or the hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from speechmeta.errors import ModelError

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")

CHECKPOINT_PATTERNS = ("*.json", "*.safetensors", "tokenizer.model", "merges.txt", "*.jinja")
"""What is fetched of a checkpoint: never code, never pickled weights."""


@dataclass(frozen=True)
class Source:
    """A checkpoint's folder on this machine, and how other models it names may be had.

    Attributes:
        folder: holds `config.json`.
        local_files_only: nothing is fetched; what is not here is an error.
    """

    folder: Path
    local_files_only: bool = False

    def beside(self, name: str, *files: str) -> Path | None:
        """The folder of a named model in or beside the checkpoint that holds one of `files`."""
        places = [self.folder, self.folder.parent]
        # Hub ids keep their owner's folder in some copies and lose it in others.
        candidates = [root / part for root in places for part in (name, Path(name).name)]
        for folder in candidates:
            if folder.resolve() == self.folder.resolve():
                continue
            if any((folder / file).is_file() for file in files):
                return folder
        return None

    def cached(self, name: str, file: str) -> Path | None:
        """The hub's local cache folder of a model, where it holds `file`."""
        if not _HUB_ID.fullmatch(name):
            return None
        found = try_to_load_from_cache(name, file)
        return Path(found).parent if isinstance(found, str) else None

    def fetch(self, name: str, patterns: Sequence[str]) -> Path:
        """Files of a model from the hub or its local cache.

        Raises:
            ModelError: they cannot be had; says whether that is for lack of network, of access
                or of the model.
        """
        if not _HUB_ID.fullmatch(name):
            raise ModelError(
                f"the checkpoint {self.folder} names a model {name!r} that is not beside it",
                f"put its folder into {self.folder}",
            )
        return _download(name, patterns, self.local_files_only)


def find_checkpoint(
    name_or_path: str | Path,
    local_files_only: bool = False,
    patterns: Sequence[str] = CHECKPOINT_PATTERNS,
) -> Source:
    """Finds a checkpoint by folder or hub id, and fetches it where it is not here yet.

    Args:
        patterns: of the files that are fetched.

    Raises:
        ModelError: it cannot be found or reached, or has no `config.json`.
    """
    folder = Path(name_or_path)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(
                f"the folder {folder} has no config.json", "name the folder of a checkpoint"
            )
        return Source(folder, local_files_only)
    name = str(name_or_path)
    if folder.exists() or folder.is_absolute() or not _HUB_ID.fullmatch(name):
        raise ModelError(
            f"there is no checkpoint {name}",
            "give a folder with config.json, or a hub id such as skit-ai/speechllm-2B",
        )
    return Source(_download(name, patterns, local_files_only), local_files_only)


def revision_of(folder: str | Path) -> str | None:
    """The commit of a checkpoint in the hub's cache; None for other folders."""
    place = Path(folder)
    return place.name if place.parent.name == "snapshots" else None


def _download(name: str, patterns: Sequence[str], local_files_only: bool) -> Path:
    try:
        folder = Path(
            snapshot_download(
                name, allow_patterns=list(patterns), local_files_only=local_files_only
            )
        )
    except GatedRepoError as error:
        raise ModelError(
            f"the hub model {name} needs its owner's permission",
            "ask for access, then hf auth login",
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(f"the hub has no model {name}", "check the name") from error
    except HFValidationError as error:
        raise ModelError(f"{name!r} is not a hub id", "check the name") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        why = "and fetching is switched off" if local_files_only else "and the hub is out of reach"
        raise ModelError(
            f"the model {name} is not on this machine {why}",
            f"with a network, run `hf download {name}`, or leave the model out for the bundled one",
        ) from error
    # HTTPError is that of the HTTP library in use, httpx or httpx2 by the hub's version.
    except (HfHubHTTPError, HTTPError, OSError) as error:
        raise ModelError(
            f"cannot fetch {name} from the hub: {next(iter(str(error).splitlines()), 'no answer')}",
            "check the network, or give a local folder",
        ) from error
    if not any(any(folder.glob(pattern)) for pattern in patterns):
        raise ModelError(
            f"the hub model {name} has none of {', '.join(patterns)}", "check the name"
        )
    return folder
