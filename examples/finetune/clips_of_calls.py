"""Cuts analysed calls into clips with a manifest, for you to correct and train on.

    python examples/finetune/clips_of_calls.py calls/ runs/mine

Writes runs/mine/clips/*.wav (16 kHz, one turn each) and two manifests, train.jsonl and dev.jsonl,
in which no call is in both. Labels and words are the bundled model's: listen, correct what is
wrong, and delete what you are not sure of (a label that is missing teaches nothing). A model that
is trained on its own guesses learns nothing new.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import soundfile

from speechmeta import Analyzer, SpeechMetaError
from speechmeta.audio.loading import load_audio, resample

RATE = 16000
LEAST_SECONDS = 0.5
"""Shorter turns hold too little of a voice."""
DEV_SHARE = 4
"""Every n-th call is kept for `dev.jsonl`."""


def rows_of_call(analyzer: Analyzer, path: Path, folder: Path) -> list[dict[str, object]]:
    """The clips of one call, written to the folder, and what the model says of each."""
    report = analyzer.analyze_call(path)
    audio = load_audio(path)
    rows: list[dict[str, object]] = []
    for number, turn in enumerate(report.turns):
        if turn.end - turn.start < LEAST_SECONDS:
            continue
        first, last = round(turn.start * audio.sample_rate), round(turn.end * audio.sample_rate)
        channel = audio.waveform[turn.channel]
        wave = resample(channel[first:last], audio.sample_rate, RATE)
        clip = folder / "clips" / f"{path.stem}-{number:04}.wav"
        clip.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(clip, wave, RATE)
        meta = turn.meta
        row = {
            "audio": str(clip.relative_to(folder)),
            "duration": round(len(wave) / RATE, 3),
            "dataset": "our-calls",
            "speaker": f"{path.stem}-{turn.speaker}",
            "speech": meta.speech_activity,
            "transcript": meta.transcript,
            "gender": meta.gender,
            "age": meta.age,
            "accent": meta.accent,
            "emotion": meta.emotion,
            "commercial": True,  # our own recordings
        }
        rows.append({key: value for key, value in row.items() if value is not None})
    return rows


def main(calls: Path, folder: Path) -> int:
    analyzer = Analyzer()
    manifests: dict[str, list[dict[str, object]]] = {"train": [], "dev": []}
    paths = sorted(path for path in calls.iterdir() if path.is_file())
    for number, path in enumerate(paths):
        try:
            rows = rows_of_call(analyzer, path, folder)
        except SpeechMetaError as error:
            print(f"{path}: {error}", file=sys.stderr)
            continue
        manifests["dev" if number % DEV_SHARE == DEV_SHARE - 1 else "train"] += rows
    for name, rows in manifests.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
        print(f"{folder / name}.jsonl: {len(rows)} clips")
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
