"""Call-like speech from text-to-speech voices, as a training manifest.

Run as `python -m speechmeta.training.synthesize`; needs Debian's `flite` (voices rms, slt,
awb, kal16) or `espeak-ng`.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from speechmeta.audio.loading import probe_audio
from speechmeta.errors import DatasetError
from speechmeta.training.text import normalize_transcript

FLITE_VOICES = {"rms": "Male", "slt": "Female", "awb": "Male", "kal16": "Male"}
ESPEAK_VOICES = {"en-us": "Male", "en-gb": "Male", "en-us+f3": "Female", "en-gb+f2": "Female"}

_DIGITS = "zero one two three four five six seven eight nine oh".split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
_MONTHS = (
    "january february march april may june july august september october november december"
).split()
_ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth twentieth".split()
_FRAMES = (
    "my account number is {digits}",
    "the order number is {digits}",
    "my phone number is {digits}",
    "it is {digits}",
    "{digits}",
    "that will be {number} dollars and {number} cents",
    "i was charged {number} dollars on {month} {ordinal}",
    "can i come on {month} {ordinal} at {number}",
    "my name is spelled {letters}",
    "the postcode is {letters} {digits}",
    "thank you for calling how can i help you today",
    "could you please give me your {thing}",
    "i would like to {action} my {thing}",
    "i have been waiting for {number} minutes",
    "let me check that for you one moment please",
    "your {thing} has been {done}",
    "i am sorry to hear that",
    "is there anything else i can help you with",
    "no that is all thank you goodbye",
    "can you hold the line please",
    "i want to speak to a manager about my {thing}",
    "my {thing} has not arrived yet",
    "when will my {thing} be {done}",
)
_THINGS = (
    "account number;order;refund;invoice;delivery;booking;card;password;address;subscription;"
    "policy;parcel;payment;balance;email address;phone number;contract;bill;internet connection"
).split(";")
_ACTIONS = "cancel;change;check;confirm;pay;return;track;update;renew;close;open".split(";")
_DONE = "sent;cancelled;confirmed;updated;delivered;refunded;shipped;approved;closed".split(";")


def call_sentences(rng: random.Random) -> Iterator[str]:
    """Endless made-up service sentences in words: numbers, spelling, dates, payments."""
    while True:
        yield rng.choice(_FRAMES).format(
            digits=" ".join(rng.choices(_DIGITS, k=rng.randint(3, 8))),
            number=rng.choice([*_DIGITS[1:10], *_TEENS, *_TENS, f"{rng.choice(_TENS)} five"]),
            month=rng.choice(_MONTHS),
            ordinal=rng.choice(_ORDINALS),
            letters=" ".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 6))),
            thing=rng.choice(_THINGS),
            action=rng.choice(_ACTIONS),
            done=rng.choice(_DONE),
        )


def dialogue_sentences(path: Path) -> list[str]:
    """Utterances of a `side<TAB>utterance` file (may be gzipped) that have no digits."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        texts = (normalize_transcript(line.rstrip("\n").split("\t")[-1]) for line in file)
        return [text for text in texts if text and 2 <= len(text.split()) <= 16]


def synthesize(
    voice: str, text: str, target: Path, stretch: float = 1.0
) -> list[tuple[str, float]]:
    """Speaks a text into a WAV file.

    Args:
        voice: a flite voice, or an espeak-ng voice as `espeak:NAME`.
        stretch: duration relative to the voice's own; 1.1 is slower.

    Returns:
        The phones and their ends in seconds, which flite tells; nothing for espeak-ng.

    Raises:
        DatasetError: the program is missing or fails.
    """
    engine, _, name = voice.rpartition(":")
    if engine == "espeak":
        command = [
            "espeak-ng",
            "-v",
            name,
            "-s",
            str(round(160 / stretch)),
            "-w",
            str(target),
            text,
        ]
    else:
        command = ["flite", "-voice", name, "--setf", f"duration_stretch={stretch}"]
        command += ["-psdur", "-t", text, "-o", str(target)]
    if shutil.which(command[0]) is None:
        raise DatasetError(f"{command[0]} is not installed", f"apt-get install {command[0]}")
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode or not target.exists():
        raise DatasetError(f"{command[0]} failed: {done.stderr.decode(errors='replace')[:200]}")
    if engine == "espeak":
        return []
    pairs = (item.rpartition(":") for item in done.stdout.decode().split())
    return [(phone, float(end)) for phone, _, end in pairs]


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes `OUT/manifest.jsonl` and its WAV files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--dialogues", type=Path, help="side<TAB>utterance file")
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    rng = random.Random(options.seed)
    made_up = call_sentences(rng)
    dialogues = dialogue_sentences(options.dialogues) if options.dialogues else []
    options.out.mkdir(parents=True, exist_ok=True)
    voices = {**FLITE_VOICES, **{f"espeak:{name}": sex for name, sex in ESPEAK_VOICES.items()}}
    names = list(voices)
    weights = [3 if name in ("rms", "slt") else 2 if name in FLITE_VOICES else 1 for name in names]

    def speak(job: tuple[int, str, str, float]) -> dict[str, object]:
        number, voice, text, stretch = job
        target = options.out / f"{number:05d}.wav"
        phones = synthesize(voice, text, target, stretch)
        return {
            "audio": target.name,
            "duration": probe_audio(target).duration,
            "dataset": "synthetic",
            "speaker": voice,
            "speech": True,
            "transcript": text,
            "gender": voices[voice],
            "commercial": True,
            "phones": phones,
        }

    jobs = [
        (
            number,
            rng.choices(names, weights)[0],
            rng.choice(dialogues) if dialogues and rng.random() < 0.6 else next(made_up),
            rng.uniform(0.85, 1.2),
        )
        for number in range(options.count)
    ]
    with ThreadPoolExecutor(2) as pool, (options.out / "manifest.jsonl").open("w") as file:
        for row in pool.map(speak, jobs):
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
