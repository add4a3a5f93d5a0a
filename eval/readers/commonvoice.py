"""Reader of Mozilla Common Voice, from Corpus 4 (the first with TSV files) on.

The columns changed over the releases: `accent` became `accents` (Corpus 8), a free text that
may name several; `female` and `male` became `female_feminine` and `male_masculine` (Corpus
17); `variant`, `sentence_id` and `sentence_domain` were added. Columns are read by name.
torchaudio's reader decodes a clip to give its row, so that one broken file would end a run.
"""

from __future__ import annotations

from pathlib import Path

from speechmeta.errors import DatasetError

from ..types import Clip, Dataset
from .label_maps import LabelMapper
from .source_files import choose_split, find_root, read_table

NOT_SPLITS = frozenset(
    ("reported", "validated_sentences", "unvalidated_sentences", "clip_durations")
)
"""TSV files of a release that list no clips."""

NEEDED = ("client_id", "path", "sentence")


def read_commonvoice(path: Path, split: str | None) -> Dataset:
    """Clips of one split, `test` by default.

    Args:
        path: the language's folder (`en/`), or one above it.

    Raises:
        DatasetError: no TSV files are found, or columns are missing.
        UsageError: the split is not there.
    """
    root = find_root(path, ["*.tsv"], ["en", "cv-corpus-*/en", "*/en", "*"])
    if root is None:
        raise DatasetError(
            f"{path} is not a Common Voice folder", "it should hold test.tsv and clips/, or en/"
        )
    known = sorted(file.stem for file in root.glob("*.tsv") if file.stem not in NOT_SPLITS)
    chosen = choose_split(split, known, "test")
    mapper = LabelMapper("commonvoice")
    durations = _durations(root)
    clips = []
    table = root / f"{chosen}.tsv"
    for number, row in read_table(table, "\t", quoted=False):
        missing = [name for name in NEEDED if name not in row]
        if missing or not row["path"]:
            raise DatasetError(
                f"{table}, line {number}: no {', '.join(missing or ['path'])}", "unpack it again"
            )
        # Corpus 4 leaves the extension out in some languages' tables.
        name = row["path"] if Path(row["path"]).suffix else row["path"] + ".mp3"
        clips.append(
            Clip(
                id=row["path"],
                audio=root / "clips" / name,
                dataset=f"commonvoice-{chosen}",
                speaker=row["client_id"] or None,
                duration=durations.get(name),
                speech=True,
                transcript=row["sentence"],
                labels=mapper.labels(
                    gender=row.get("gender"),
                    age=row.get("age"),
                    accent=row.get("accents") or row.get("accent"),
                ),
            )
        )
    notes = ("Gender, age and accent are the speakers' own statements.",)
    return Dataset("commonvoice", str(path), chosen, clips, mapper.report(), notes)


def _durations(root: Path) -> dict[str, float]:
    # Since Corpus 15: clip and duration[ms].
    path = root / "clip_durations.tsv"
    if not path.exists():
        return {}
    durations = {}
    for number, row in read_table(path, "\t", quoted=False):
        value = row.get("duration[ms]") or row.get("duration") or ""
        try:
            durations[row["clip"]] = float(value) / 1000
        except (KeyError, ValueError) as error:
            raise DatasetError(f"{path}, line {number}: {error}", "unpack the archive") from error
    return durations
