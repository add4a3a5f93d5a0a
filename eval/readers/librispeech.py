"""Reader of LibriSpeech (OpenSLR 12) as its archives unpack.

torchaudio's reader gives neither gender nor clips that are broken or missing, which have to
be counted; so this one reads the files itself.
"""

from __future__ import annotations

from pathlib import Path

from speechmeta.errors import DatasetError

from ..types import Clip, Dataset
from .label_maps import LabelMapper
from .source_files import choose_split, find_root, read_lines

SPLITS = (
    "test-clean",
    "test-other",
    "dev-clean",
    "dev-other",
    "train-clean-5",
    "dev-clean-2",
    "train-clean-100",
    "train-clean-360",
    "train-other-500",
)
"""The official splits, those of Mini LibriSpeech (OpenSLR 31) among them."""


def read_librispeech(path: Path, split: str | None) -> Dataset:
    """Clips of one split, `test-clean` by default.

    Args:
        path: the folder that holds `LibriSpeech/`, that folder itself, or one split's folder.

    Raises:
        DatasetError: no split is found, or a transcript line has no text.
        UsageError: the split is not there.
    """
    if path.name in SPLITS and split in (None, path.name):
        root, chosen = path.parent, path.name
    else:
        found = find_root(path, [*SPLITS, "SPEAKERS.TXT"], ["LibriSpeech"])
        if found is None:
            raise DatasetError(
                f"{path} is not a LibriSpeech folder",
                f"it should hold LibriSpeech/ with one of {', '.join(SPLITS[:4])}",
            )
        root = found
        known = [name for name in SPLITS if (root / name).is_dir()]
        chosen = choose_split(split, known, "test-clean" if "test-clean" in known else known[0])
    mapper = LabelMapper("librispeech")
    genders = _genders(root)
    clips, orphans = [], 0
    for transcripts in sorted((root / chosen).glob("*/*/*.trans.txt")):
        orphans += len(list(transcripts.parent.glob("*.flac")))
        for line in read_lines(transcripts):
            name, _, text = line.partition(" ")
            if not name:
                continue
            if not text.strip():
                raise DatasetError(f"{transcripts}: {name} has no text", "unpack the archive again")
            speaker = name.split("-")[0]
            audio = transcripts.parent / f"{name}.flac"
            orphans -= audio.exists()
            clips.append(
                Clip(
                    id=name,
                    audio=audio,
                    dataset=f"librispeech-{chosen}",
                    speaker=speaker,
                    speech=True,
                    transcript=text.strip(),
                    labels=mapper.labels(gender=genders.get(speaker)),
                )
            )
    notes = ["Gender is from SPEAKERS.TXT."] if genders else ["No SPEAKERS.TXT: no gender."]
    if orphans:
        notes.append(f"{orphans} recordings have no transcript and are left out.")
    return Dataset("librispeech", str(path), chosen, clips, mapper.report(), tuple(notes))


def _genders(root: Path) -> dict[str, str]:
    # "; ID  |SEX| SUBSET           |MINUTES| NAME", and names may hold a bar themselves.
    path = root / "SPEAKERS.TXT"
    if not path.exists():
        return {}
    rows = (line.split("|") for line in read_lines(path) if not line.startswith(";"))
    return {cells[0].strip(): cells[1].strip() for cells in rows if len(cells) > 1}
