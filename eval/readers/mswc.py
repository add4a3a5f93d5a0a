"""Reader of the Multilingual Spoken Words Corpus, English part (MLCommons, v1.0).

The splits archive holds `en_splits.csv` (SET,LINK,WORD,VALID,SPEAKER,GENDER) and one file a
split without the first column; the audio archive holds `clips/<word>/<clip>.opus`.
"""

from __future__ import annotations

from pathlib import Path

from speechmeta.errors import DatasetError

from ..types import Clip, Dataset
from .label_maps import LabelMapper
from .source_files import choose_split, find_root, read_table

SPLITS = ("train", "dev", "test")
NEEDED = ("LINK", "WORD", "SPEAKER", "GENDER")
TABLES = ("en_splits.csv", *(f"en_{name}.csv" for name in SPLITS))


def read_mswc(path: Path, split: str | None) -> Dataset:
    """Clips of one split, `test` by default; rows that are not VALID are counted and left out.

    Args:
        path: a folder with `clips/` or `en/clips/` and the tables, side by side or one above.

    Raises:
        DatasetError: the tables or the clips are not found, or columns are missing.
        UsageError: the split is not there.
    """
    audio = find_root(path, ["clips"], ["en", "audio/en", "*/en", "*"])
    tables = find_root(path, TABLES, ["en", "splits/en", "splits", "*/en", "*"])
    if audio is None or tables is None:
        raise DatasetError(
            f"{path} is not a Multilingual Spoken Words folder",
            "it should hold en/clips/ and en_splits.csv or en_test.csv",
        )
    combined = tables / "en_splits.csv"
    known = [s for s in SPLITS if combined.exists() or (tables / f"en_{s}.csv").exists()]
    chosen = choose_split(split, known, "test")
    single = tables / f"en_{chosen}.csv"
    table = single if single.exists() else combined
    mapper = LabelMapper("mswc")
    clips, invalid = [], 0
    for number, row in read_table(table, ",", quoted=True):
        missing = [name for name in NEEDED if name not in row or not row["LINK"]]
        if missing or (table == combined and "SET" not in row):
            raise DatasetError(f"{table}, line {number}: columns are missing", str(NEEDED))
        if row.get("SET", chosen).lower() != chosen:
            continue
        if row.get("VALID", "True").lower() != "true":
            invalid += 1
            continue
        clips.append(
            Clip(
                id=row["LINK"],
                audio=audio / "clips" / row["LINK"],
                dataset=f"mswc-{chosen}",
                speaker=row["SPEAKER"] or None,
                duration=1.0,
                speech=True,
                transcript=row["WORD"],
                labels=mapper.labels(gender=row["GENDER"]),
            )
        )
    notes = (
        "Every clip is one second around one word.",
        f"{invalid} rows that the corpus marks as not valid are left out.",
    )
    return Dataset("mswc", str(path), chosen, clips, mapper.report(), notes)
