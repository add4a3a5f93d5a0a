"""Short answers of a call, said by synthetic voices: single words that no recording source has."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from speechmeta.errors import DatasetError

DATASET = "short-words"
WORDS = {
    "yeah": "Yeah.", "okay": "Okay.", "[[m'hm]]": "Mhm.", "uh huh": "Uh-huh.",
    "right": "Right.", "sure": "Sure.", "thanks": "Thanks.", "yes": "Yes.", "no": "No.",
    "hello": "Hello.", "hi": "Hi.", "bye": "Bye.", "great": "Great.", "fine": "Fine.",
    "please": "Please.", "sorry": "Sorry.", "what?": "What?", "good": "Good.",
    "correct": "Correct.", "all right": "All right.", "thank you": "Thank you.",
    "of course": "Of course.", "not yet": "Not yet.", "I see": "I see.",
    "one moment": "One moment.", "go ahead": "Go ahead.", "hold on": "Hold on.",
    "no problem": "No problem.", "yep": "Yep.", "nope": "Nope.", "really?": "Really?",
    "exactly": "Exactly.", "maybe": "Maybe.", "never": "Never.", "well": "Well.", "oh": "Oh.",
    "yes please": "Yes, please.", "no thanks": "No, thanks.", "that's right": "That's right.",
    "good morning": "Good morning.", "got it": "Got it.", "why?": "Why?", "who?": "Who?",
}  # fmt: skip
"""What a voice is given, and how it is written."""
TRAIN_VOICES = (
    "flite:kal", "flite:rms", "flite:slt", "en-us", "en-us+f2", "en-us+m3", "en-us+f4",
    "en-gb", "en-gb+m4", "en-gb-scotland", "en-gb-scotland+f3", "en-029+m1", "en-us+m7",
)  # fmt: skip


def say_short_words(folder: Path, voices: Sequence[str], seed: int) -> Path:
    """Writes a clip a word and voice, and their manifest.

    Returns:
        Path of the manifest; one that exists is taken as it is.

    Raises:
        DatasetError: flite or espeak-ng is missing or fails.
    """
    manifest = folder / "manifest.jsonl"
    if manifest.exists():
        return manifest
    import soundfile

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    rows = []
    for voice in voices:
        for number, (spoken, written) in enumerate(WORDS.items()):
            name = f"{voice.replace(':', '-').replace('+', '-')}-{number}.wav"
            if not _say(voice, spoken, folder / name, rng):
                continue
            wave, rate = soundfile.read(folder / name, dtype="float32")
            rows.append(
                {
                    "audio": name, "duration": len(wave) / rate, "dataset": DATASET,
                    "speaker": voice, "speech": True, "transcript": written, "commercial": True,
                }
            )  # fmt: skip
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return manifest


def _say(voice: str, text: str, path: Path, rng: np.random.Generator) -> bool:
    """Whether the voice can say it: flite knows no phonemes of espeak-ng."""
    if voice.startswith("flite:"):
        if text.startswith("[["):
            return False
        stretch = f"duration_stretch={rng.uniform(0.8, 1.3):.2f}"
        command = ["flite", "-voice", voice[6:], "--setf", stretch, "-t", text, "-o", str(path)]
    else:
        speed, pitch = str(int(rng.uniform(120, 200))), str(int(rng.uniform(30, 70)))
        command = ["espeak-ng", "-v", voice, "-s", speed, "-p", pitch, "-w", str(path), text]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise DatasetError(
            f"{command[0]} cannot say short words: {error}", "install flite and espeak-ng"
        ) from error
    return True
