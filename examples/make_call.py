"""Makes examples/call.wav and call.json: a short service call spoken by two flite voices.

    python examples/make_call.py

The agent (voice rms) is on the left channel, the customer (voice slt) on the right, at
8 kHz like a telephone recording. Needs the program `flite` (Debian: apt-get install flite);
the same flite gives the same bytes. call.json holds what is said and when.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import wave
from pathlib import Path

import numpy as np
import numpy.typing as npt

from speechmeta.audio.loading import load_audio

RATE = 8000
SPEAKERS = (("agent", "rms"), ("customer", "slt"))
PAUSES = (0.3, 0.4, 0.3, 0.5, 0.35, 0.45, 0.3, 0.4)
"""Seconds before each turn."""
PEAK = 0.6

TURNS = (
    (0, "Thank you for calling. How can I help you?"),
    (1, "Hello, I would like to book a table for two people."),
    (0, "Of course. What kind of food would you like?"),
    (1, "Italian food in the city, please."),
    (0, "And what time should I book it for?"),
    (1, "Seven o'clock in the evening, please."),
    (0, "Your table is booked. Can I help with anything else?"),
    (1, "No, that is all. Thank you very much."),
)


def speak(text: str, voice: str) -> npt.NDArray[np.float32]:
    """One sentence at 8 kHz, shape (samples,), without flite's silence at both ends."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        subprocess.run(["flite", "-voice", voice, "-t", text, "-o", str(path)], check=True)
        samples = load_audio(path).resampled(RATE)[0]
    loud = np.flatnonzero(np.abs(samples) > 0.01 * np.abs(samples).max())
    margin = RATE // 20
    trimmed: npt.NDArray[np.float32] = samples[max(0, loud[0] - margin) : loud[-1] + margin]
    trimmed *= np.float32(PEAK / np.abs(trimmed).max())
    return trimmed


def main() -> int:
    folder = Path(__file__).resolve().parent
    spoken = [(channel, text, speak(text, SPEAKERS[channel][1])) for channel, text in TURNS]
    length = sum(len(samples) for _, _, samples in spoken) + round(sum(PAUSES) * RATE)
    call = np.zeros((length + round(0.3 * RATE), len(SPEAKERS)), np.float32)
    turns = []
    position = 0
    for (channel, text, samples), pause in zip(spoken, PAUSES, strict=True):
        position += round(pause * RATE)
        call[position : position + len(samples), channel] = samples
        end = position + len(samples)
        turns.append(
            {
                "start": round(position / RATE, 3),
                "end": round(end / RATE, 3),
                "channel": channel,
                "speaker": SPEAKERS[channel][0],
                "text": text,
            }
        )
        position = end
    with wave.open(str(folder / "call.wav"), "wb") as file:
        file.setnchannels(len(SPEAKERS))
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.round(call * 32767).astype("<i2").tobytes())
    truth = {"audio": "call.wav", "sample_rate": RATE, "turns": turns}
    (folder / "call.json").write_text(json.dumps(truth, indent=2) + "\n")
    print(f"{len(turns)} turns, {len(call) / RATE:.1f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
