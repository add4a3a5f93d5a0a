"""Small trees in the official layouts of the data sets, from tones with known words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile


def write_tone(path: Path, seconds: float = 0.5, rate: int = 16000, pitch: float = 220.0) -> Path:
    """A tone as WAV, FLAC, MP3 or Ogg Opus, by the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    times = np.arange(round(seconds * rate)) / rate
    wave = (0.2 * np.sin(2 * np.pi * pitch * times)).astype(np.float32)
    if path.suffix == ".opus":
        soundfile.write(path, wave, rate, format="OGG", subtype="OPUS")
    else:
        soundfile.write(path, wave, rate)
    return path


def librispeech(root: Path) -> Path:
    """Two speakers of test-clean, one chapter each, and one clip of test-other."""
    base = root / "LibriSpeech"
    lines = {
        ("test-clean", "61", "70968"): ["HE BEGAN A CONFUSED COMPLAINT", "GOLDEN HAIR"],
        ("test-clean", "121", "121726"): ["ALSO A POPULAR CONTRIVANCE"],
        ("test-other", "367", "130732"): ["LOBSTERS AND LOBSTERS"],
    }
    for (split, speaker, chapter), texts in lines.items():
        folder = base / split / speaker / chapter
        for number, _ in enumerate(texts):
            write_tone(folder / f"{speaker}-{chapter}-{number:04d}.flac", 0.4 + 0.1 * number)
        (folder / f"{speaker}-{chapter}.trans.txt").write_text(
            "".join(f"{speaker}-{chapter}-{i:04d} {text}\n" for i, text in enumerate(texts))
        )
    (base / "SPEAKERS.TXT").write_text(
        "; Some pipe (|) separated metadata about all LibriSpeech speakers\n"
        ";ID  |SEX| SUBSET           |MINUTES| NAME\n"
        "61   | M | test-clean       | 8.08  | Paul-Gabriel Wiener\n"
        "121  | F | test-clean       | 8.13  | Nikolle Doolin\n"
        "367  | F | test-other       | 8.01  | K | a name with a bar\n"
    )
    return root


CV_ROWS: list[dict[str, str]] = [
    {"client_id": "c1", "path": "common_voice_en_1.mp3", "sentence": 'He said "no" twice.',
     "age": "fourties", "gender": "male", "accent": "england"},
    {"client_id": "c1", "path": "common_voice_en_2.mp3", "sentence": "The second clip.",
     "age": "fourties", "gender": "male", "accent": "england"},
    {"client_id": "c2", "path": "common_voice_en_3.mp3", "sentence": "Another voice.",
     "age": "sixties", "gender": "female", "accent": "bermuda"},
    {"client_id": "c3", "path": "common_voice_en_4.mp3", "sentence": "No metadata here.",
     "age": "", "gender": "other", "accent": ""},
]  # fmt: skip

CV_NEW = {
    "male": "male_masculine",
    "female": "female_feminine",
    "other": "non-binary",
    "england": "England English|Yorkshire",
    "bermuda": "A made-up accent",
}


def common_voice(root: Path, release: str) -> Path:
    """Four clips of three speakers in the columns of Corpus 4 or Corpus 20."""
    old = release == "4"
    base = root / ("en" if old else "cv-corpus-20.0-2024-12-06/en")
    columns = ["client_id", "path", "sentence", "up_votes", "down_votes", "age", "gender", "accent"]
    if not old:
        columns = [
            "client_id", "path", "sentence_id", "sentence", "sentence_domain", "up_votes",
            "down_votes", "age", "gender", "accents", "variant", "locale", "segment",
        ]  # fmt: skip
    lines = ["\t".join(columns)]
    for row in CV_ROWS:
        write_tone(base / "clips" / row["path"], 0.6)
        cells = {"up_votes": "2", "down_votes": "0", "locale": "en", **row}
        if not old:
            cells["gender"] = CV_NEW[row["gender"]]
            cells["accents"] = CV_NEW.get(row["accent"], "")
        lines.append("\t".join(cells.get(column, "") for column in columns))
    (base / "test.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if not old:
        durations = "".join(f"{row['path']}\t600\n" for row in CV_ROWS)
        (base / "clip_durations.tsv").write_text("clip\tduration[ms]\n" + durations)
    return root


IEMOCAP_CODES = ["neu", "hap", "exc", "ang", "fru", "sad", "xxx", "sur"]


def iemocap(root: Path) -> Path:
    """Five sessions, one improvised dialogue each, with every kind of emotion code."""
    for session in range(1, 6):
        folder = root / "IEMOCAP_full_release" / f"Session{session}"
        name = f"Ses0{session}F_impro01"
        evaluation = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
        words = []
        for number, code in enumerate(IEMOCAP_CODES):
            speaker = "F" if number % 2 else "M"
            clip = f"{name}_{speaker}{number:03d}"
            start, end = 10.0 * number, 10.0 * number + 0.5
            evaluation += [
                f"[{start:.4f} - {end:.4f}]\t{clip}\t{code}\t[2.5000, 2.5000, 2.5000]",
                "C-E2:\tNeutral;\t()",
                "A-E3:\tval 3; act 2; dom  2;\t()",
                "",
            ]
            words.append(f"{clip} [{start:08.4f}-{end:08.4f}]: Line {code} of the play.")
            write_tone(folder / "sentences" / "wav" / name / f"{clip}.wav", 0.5)
        (folder / "dialog" / "EmoEvaluation").mkdir(parents=True)
        (folder / "dialog" / "EmoEvaluation" / f"{name}.txt").write_text("\n".join(evaluation))
        # What macOS left in the release.
        (folder / "dialog" / "EmoEvaluation" / f"._{name}.txt").write_bytes(b"\x00\x05\x16\x07")
        (folder / "dialog" / "transcriptions").mkdir()
        words.insert(1, "M: (a line without an utterance)")
        (folder / "dialog" / "transcriptions" / f"{name}.txt").write_text("\n".join(words) + "\n")
    return root


def spoken_words(root: Path, combined: bool) -> Path:
    """Three words; the splits in one table or in one a split."""
    rows = [
        ("TEST", "yes/common_voice_en_10.opus", "yes", "True", "s1", "MALE"),
        ("TEST", "no/common_voice_en_11.opus", "no", "True", "s2", "FEMALE"),
        ("TEST", "no/common_voice_en_12.opus", "no", "False", "s3", "OTHER"),
        ("DEV", "stop/common_voice_en_13.opus", "stop", "True", "s4", "NAN"),
    ]
    for row in rows:
        write_tone(root / "en" / "clips" / row[1], 1.0, 48000)
    if combined:
        lines = ["SET,LINK,WORD,VALID,SPEAKER,GENDER", *(",".join(row) for row in rows)]
        (root / "en_splits.csv").write_text("\n".join(lines) + "\n")
    else:
        for split in ("dev", "test"):
            part = [",".join(row[1:]) for row in rows if row[0] == split.upper()]
            text = "\n".join(["LINK,WORD,VALID,SPEAKER,GENDER", *part]) + "\n"
            (root / f"en_{split}.csv").write_text(text)
    return root


def manifest(path: Path, rows: list[dict[str, Any]], audio: bool = True) -> Path:
    """A JSONL manifest, with a tone for every clip whose path is relative."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for row in rows:
        name = row.get("audio") or row.get("audio_filepath")
        if audio and isinstance(name, str) and not Path(name).is_absolute():
            write_tone(path.parent / name, float(row.get("duration") or 0.5))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


OURS: list[dict[str, Any]] = [
    {"audio": "clips/a.opus", "duration": 0.7, "dataset": "one", "speaker": "p1", "speech": True,
     "transcript": "Hello there, Mr. Smith", "gender": "Female", "age": "Young",
     "accent": "America", "emotion": "Happy"},
    {"audio": "clips/b.opus", "duration": 0.5, "dataset": "one", "speaker": "p1", "speech": True,
     "transcript": "TWENTY FIVE DOLLARS", "gender": "Female", "age": "Young", "accent": None,
     "emotion": "Sad"},
    {"audio": "clips/c.wav", "duration": 0.9, "dataset": "two", "speaker": "p2", "speech": True,
     "transcript": None, "gender": "Male", "age": "Senior", "accent": "Europe", "emotion": None},
    {"audio": "clips/d.wav", "duration": 0.6, "dataset": "noise", "speaker": None, "speech": False,
     "transcript": None, "gender": None, "age": None, "accent": None, "emotion": None},
    {"audio": "clips/e.wav", "duration": 0.4, "dataset": "two", "speaker": "p2", "speech": True,
     "transcript": "uh", "gender": "Male", "age": "Senior", "accent": "Europe", "emotion": None},
]  # fmt: skip
"""A manifest in this project's keys; the last reference is empty after normalisation."""
