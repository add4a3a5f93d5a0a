"""Calls on one channel, put together from recordings of single speakers.

The speakers of a call come from one source, so that microphones do not give them away. They
take turns in random order with pauses of 0.05 to 1.2 s, or begin up to 1 s before the other has
ended; backchannels of 0.3 to 1 s are said in a pause of the other's or over it. What is true of
a call follows from the levels of the recordings it is made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

RATE = 16_000
FRAME = 160
LEVEL = 0.05
PAUSE_SECONDS = 0.3
"""Shorter pauses are part of the speech around them (NIST's rule)."""

Segment = tuple[float, float, int]


@dataclass
class MonoCall:
    """
    Attributes:
        waveform: (samples,) at 16 kHz.
        truth: (start, end, speaker) of speech in seconds.
        backchannels: the same of each backchannel, and whether it is said over another's speech.
    """

    waveform: np.ndarray
    truth: list[Segment] = field(default_factory=list)
    backchannels: list[tuple[float, float, int, bool]] = field(default_factory=list)


def speech_of(wave: np.ndarray) -> list[tuple[int, int]]:
    """Stretches of speech of a clean recording in samples, by level."""
    count = len(wave) // FRAME
    if not count:
        return []
    power = np.square(wave[: count * FRAME].reshape(count, FRAME)).mean(1)
    power = np.convolve(power, np.full(3, 1 / 3), "same")
    loud = power > 1e-3 * np.percentile(power, 95)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], loud.astype(int), [0]])))
    found: list[list[int]] = []
    for first, end in edges.reshape(-1, 2):
        if found and (first - found[-1][1]) * FRAME < PAUSE_SECONDS * RATE:
            found[-1][1] = end
        else:
            found.append([first, end])
    return [(a * FRAME, b * FRAME) for a, b in found if (b - a) * FRAME >= 0.08 * RATE]


def trimmed(wave: np.ndarray) -> np.ndarray:
    """Without what is not speech at its ends, at one level."""
    runs = speech_of(wave)
    if not runs:
        return wave[:0]
    wave = wave[runs[0][0] : runs[-1][1]]
    return np.asarray(LEVEL * wave / np.sqrt(np.square(wave).mean()), dtype=np.float32)


def pieces_of(
    waves: Sequence[np.ndarray], random: np.random.Generator, seconds: tuple[float, float]
) -> list[np.ndarray]:
    """Recordings of one speaker cut at quiet points into stretches of about these lengths."""
    found = []
    for whole in waves:
        wave = trimmed(whole)
        while len(wave) >= seconds[0] * RATE:
            length = round(random.uniform(*seconds) * RATE)
            if length < len(wave):
                length = quiet_point(wave, length)
            part, wave = trimmed(wave[:length]), wave[length:]
            if len(part) >= seconds[0] * RATE:
                found.append(part)
    order = random.permutation(len(found))
    return [found[index] for index in order]


def quiet_point(wave: np.ndarray, near: int, reach: float = 0.4) -> int:
    """The quietest 50 ms within `reach` seconds of a sample."""
    first = max(FRAME, near - round(reach * RATE))
    last = min(len(wave) - 5 * FRAME, near + round(reach * RATE))
    places = np.arange(first, max(first + 1, last), FRAME)
    powers = [np.square(wave[at : at + 5 * FRAME]).mean() for at in places]
    return int(places[int(np.argmin(powers))]) + 2 * FRAME


def backchannel_of(piece: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """0.3 to 1 s with a sound, cut out of a piece at quiet points."""
    best = piece[:0]
    for _ in range(6):
        length = round(random.uniform(0.3, 1.0) * RATE)
        start = int(random.integers(0, max(1, len(piece) - length)))
        start = quiet_point(piece, start, 0.15)
        end = quiet_point(piece, min(start + length, len(piece) - 1), 0.15)
        part = trimmed(piece[start:end])
        if 0.3 * RATE <= len(part) <= 1.0 * RATE and len(speech_of(part)) == 1:
            return part
        if len(best) < len(part) <= RATE:
            best = part
    return best


def mix(
    speakers: Sequence[Sequence[np.ndarray]],
    random: np.random.Generator,
    seconds: float,
    *,
    overlap: float = 0.2,
    backchannels: float = 0.35,
) -> MonoCall:
    """A call of about `seconds`; ends early where the speakers have no pieces left.

    Args:
        speakers: the pieces of each.
        overlap: share of turns that begin before the one before has ended.
        backchannels: share of turns of 2.5 s and more in which another says something short.
    """
    left = [list(pieces) for pieces in speakers]
    gains = 10 ** (random.uniform(-4, 4, len(speakers)) / 20)
    placed: list[tuple[int, np.ndarray, int]] = []
    short: list[tuple[float, float, int, bool]] = []
    end, who = RATE // 2, -1
    while end < seconds * RATE:
        others = [index for index in range(len(left)) if index != who and left[index]]
        if not others:
            break
        chance = np.array([len(left[index]) for index in others], dtype=float)
        who = others[int(random.choice(len(others), p=chance / chance.sum()))]
        piece = left[who].pop()
        if placed and random.random() < overlap:
            start = end - round(min(random.uniform(0.2, 1.0), len(piece) / RATE / 2) * RATE)
        else:
            start = end + round(random.uniform(0.05, 1.2) * RATE)
        placed.append((start, piece, who))
        end = max(end, start + len(piece))
        listeners = [index for index in range(len(left)) if index != who and left[index]]
        if len(piece) < 2.5 * RATE or not listeners or random.random() >= backchannels:
            continue
        other = listeners[int(random.integers(len(listeners)))]
        sound = backchannel_of(left[other][0], random)
        if len(sound) < 0.3 * RATE:
            continue
        over = bool(random.random() < 0.5)
        if over:
            at = start + int(random.integers(RATE, len(piece) - len(sound) - RATE // 4))
        else:
            at = end + round(random.uniform(0.05, 0.3) * RATE)
        placed.append((at, sound, other))
        short.append((at / RATE, (at + len(sound)) / RATE, other, over))
        if not over:
            end = at + len(sound)
            if left[who]:
                # Whoever was talking goes on.
                start = end + round(random.uniform(0.05, 0.4) * RATE)
                piece = left[who].pop()
                placed.append((start, piece, who))
                end = start + len(piece)
    call = 10 ** (-60 / 20) * random.standard_normal(end + RATE // 2)
    truth = []
    for start, piece, speaker in placed:
        call[start : start + len(piece)] += gains[speaker] * piece
        truth += [((start + a) / RATE, (start + b) / RATE, speaker) for a, b in speech_of(piece)]
    peak = float(np.abs(call).max())
    return MonoCall((call / max(1.0, peak)).astype(np.float32), sorted(truth), short)
