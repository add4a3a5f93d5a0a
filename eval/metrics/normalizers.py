"""Text normalisers by name; a report says exactly which one its word errors rest on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from speechmeta.errors import DatasetError, UsageError

NORMALIZERS = {
    "whisper-english": "Whisper's English normaliser: case, punctuation, fillers, contractions, "
    "numbers, spellings where a map is given",
    "whisper-basic": "Whisper's normaliser for other languages: case, punctuation, brackets",
    "lower": "lower case and single spaces",
    "none": "single spaces",
}


@dataclass(frozen=True)
class Normalizer:
    """A function of text, and what to call it in a report."""

    name: str
    description: str
    function: Callable[[str], str]

    def __call__(self, text: str) -> str:
        return " ".join(self.function(text).split())


def load_normalizer(
    name: str = "whisper-english", spelling_map: str | Path | None = None
) -> Normalizer:
    """The normaliser of that name.

    Args:
        name: one of `NORMALIZERS`.
        spelling_map: a JSON file of British to American spellings, such as `english.json` of
            openai/whisper or `normalizer.json` of a Whisper checkpoint. transformers ships the
            normaliser without one.

    Raises:
        UsageError: there is no such normaliser, or this one takes no spelling map.
        DatasetError: the map cannot be read.
    """
    import transformers

    if name not in NORMALIZERS:
        raise UsageError(f"unknown normaliser {name!r}", f"choose from {', '.join(NORMALIZERS)}")
    if spelling_map is not None and name != "whisper-english":
        raise UsageError(f"{name} takes no spelling map", "it belongs to whisper-english")
    origin = f"transformers {transformers.__version__}"
    if name == "whisper-english":
        from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

        spellings, digest = _read_map(spelling_map)
        suffix = f"spelling map {digest}" if spellings else "no spelling map"
        return Normalizer(
            name=f"whisper-english ({suffix})",
            description=f"EnglishTextNormalizer of {origin}, "
            + (
                f"with a spelling map of {len(spellings)} words (SHA-256 {digest})"
                if spellings
                else "which ships no British-to-American spelling map: spellings stay as they are"
            ),
            function=EnglishTextNormalizer(spellings),
        )
    if name == "whisper-basic":
        from transformers.models.whisper.english_normalizer import BasicTextNormalizer

        return Normalizer(name, f"BasicTextNormalizer of {origin}", BasicTextNormalizer())
    function = str.lower if name == "lower" else str
    return Normalizer(name, NORMALIZERS[name], function)


def _read_map(path: str | Path | None) -> tuple[dict[str, str], str]:
    if path is None:
        return {}, ""
    try:
        data = Path(path).read_bytes()
        spellings = json.loads(data)
    except (OSError, ValueError) as error:
        raise DatasetError(f"cannot read the spelling map {path}: {error}", "check it") from error
    if not isinstance(spellings, dict) or not all(isinstance(v, str) for v in spellings.values()):
        raise DatasetError(f"the spelling map {path} is not an object of strings", "check it")
    return spellings, hashlib.sha256(data).hexdigest()[:12]
