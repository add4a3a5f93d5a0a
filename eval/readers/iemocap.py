"""Reader of IEMOCAP's full release, with the two protocols of the literature.

Protocol 4: anger, happy with excited, neutral, sad. Protocol 5: the same and frustrated. The
five sessions are the folds of leave-one-session-out; no speaker is in two sessions.
torchaudio's reader gives neither the transcripts nor the gender and drops other codes
silently, so this one reads the files itself.
"""

from __future__ import annotations

import re
from pathlib import Path

from speechmeta.errors import DatasetError, UsageError

from ..types import Clip, Dataset
from .label_maps import LabelMapper
from .source_files import choose_split, find_root, read_lines

CLASSES = {
    4: ("Happy", "Sad", "Anger", "Neutral"),
    5: ("Happy", "Sad", "Anger", "Neutral", "Frustrated"),
}

# "[6.2901 - 8.2357]\tSes01F_impro01_F000\tneu\t[2.5000, 2.5000, 2.5000]"
EVALUATION = re.compile(r"^\[(?P<start>[\d.]+) - (?P<end>[\d.]+)\]\t(?P<name>\S+)\t(?P<code>\w+)\t")
# "Ses01F_impro01_F000 [006.2901-008.2357]: Excuse me."
TRANSCRIPT = re.compile(r"^(?P<name>Ses\S+) \[[\d.]+\s*-\s*[\d.]+\]:\s*(?P<text>.*)$")


def read_iemocap(path: Path, split: str | None, classes: int) -> Dataset:
    """Clips of one session (`session1` to `session5`) or of all five, the default.

    Args:
        path: `IEMOCAP_full_release/`, or the folder that holds it.
        split: the session, which is the test fold of leave-one-session-out, or `all`.
        classes: 4 or 5.

    Raises:
        DatasetError: no session is found, or an utterance has no transcript.
        UsageError: there is no such session, or another number of classes.
    """
    if classes not in CLASSES:
        raise UsageError(f"IEMOCAP has no {classes}-class protocol here", "choose 4 or 5")
    root = find_root(path, ["Session[1-5]"], ["IEMOCAP_full_release", "IEMOCAP", "*"])
    if root is None:
        raise DatasetError(
            f"{path} is not an IEMOCAP folder", "it should hold Session1 to Session5"
        )
    sessions = [name for name in (f"Session{i}" for i in range(1, 6)) if (root / name).is_dir()]
    known = ["all", *(name.lower() for name in sessions)]
    chosen = choose_split(None if split is None else split.lower(), known, "all")
    mapper = LabelMapper("iemocap")
    codes = LabelMapper(f"iemocap-{classes}")
    clips: list[Clip] = []
    for session in sessions:
        if chosen in ("all", session.lower()):
            clips += _session(root / session, mapper, codes)
    notes = (
        f"Emotion: {classes}-class protocol, {', '.join(CLASSES[classes])}; excited is merged "
        "into Happy. Accuracy is the literature's weighted accuracy, UAR the unweighted one.",
        "Utterances of other emotion codes count for words and gender, not for Emotion.",
        "A prediction of Emotion is the most probable of the protocol's classes.",
    )
    mapping = {**mapper.report(), **codes.report()}
    return Dataset(
        "iemocap",
        str(path),
        chosen,
        clips,
        mapping,
        notes,
        {"Emotion": CLASSES[classes]},
        "session",
    )


def _session(folder: Path, mapper: LabelMapper, codes: LabelMapper) -> list[Clip]:
    clips = []
    evaluations = folder / "dialog" / "EmoEvaluation"
    # The release holds resource forks of macOS, "._Ses01F_impro01.txt".
    tables = sorted(file for file in evaluations.glob("Ses*.txt") if file.is_file())
    if not tables:
        raise DatasetError(f"{evaluations} holds no evaluations", "unpack the archive again")
    for table in tables:
        texts = _transcripts(folder / "dialog" / "transcriptions" / table.name)
        for line in read_lines(table):
            match = EVALUATION.match(line)
            if match is None:
                continue
            name = match["name"]
            if name not in texts:
                raise DatasetError(f"{name} of {table} has no transcript", "unpack it again")
            # The letter before the number is who speaks; that of the dialogue's name is who
            # wore the motion capture markers.
            gender = name.rsplit("_", 1)[1][0]
            clips.append(
                Clip(
                    id=name,
                    audio=folder / "sentences" / "wav" / table.stem / f"{name}.wav",
                    dataset="iemocap",
                    speaker=f"{name[:5]}{gender}",
                    duration=float(match["end"]) - float(match["start"]),
                    speech=True,
                    transcript=texts[name],
                    labels={
                        **mapper.labels(gender=gender),
                        **codes.labels(emotion=match["code"]),
                    },
                    groups={
                        "session": folder.name,
                        "style": "scripted" if "script" in table.stem else "improvised",
                    },
                )
            )
    return clips


def _transcripts(path: Path) -> dict[str, str]:
    matches = (TRANSCRIPT.match(line) for line in read_lines(path))
    return {match["name"]: match["text"].strip() for match in matches if match}
