"""Sounds of calls that are no speech, made for tests; each (samples,) with its peak at 0.5."""

from __future__ import annotations

import numpy as np

Waveform = np.ndarray


def _tones(rate: int, seconds: float, *hertz: float) -> Waveform:
    time = np.arange(round(rate * seconds)) / rate
    waves: Waveform = np.stack([np.sin(2 * np.pi * h * time) for h in hertz])
    return np.asarray(waves.sum(axis=0))


def _gaps(wave: Waveform, rate: int, on: float, off: float) -> Waveform:
    time = np.arange(len(wave)) / rate
    return wave * (time % (on + off) < on)


def _keys(rate: int, digits: str, seconds: float) -> Waveform:
    rows, columns = (697, 770, 852, 941), (1209, 1336, 1477)
    parts = []
    for digit in digits:
        place = 10 if digit == "0" else int(digit) - 1
        parts += [
            _tones(rate, seconds, rows[place // 3], columns[place % 3]),
            np.zeros(round(0.08 * rate)),
        ]
    return np.concatenate(parts)


def _music(rate: int, roots: tuple[float, ...], beat: float, decay: float) -> Waveform:
    """Chords, plucked or held, with a bass."""
    parts = []
    for root in roots:
        time = np.arange(round(beat * rate)) / rate
        chord = np.zeros(len(time))
        for step in (0, 4, 7, 12):
            for harmonic in range(1, 6):
                hertz = root * 2 ** (step / 12) * harmonic
                if hertz < 0.45 * rate:
                    chord += np.sin(2 * np.pi * hertz * time) / harmonic**1.5
        chord += 2 * np.sin(2 * np.pi * root / 2 * time)
        parts.append(chord * np.exp(-decay * time))
    return np.concatenate(parts)


def _drums(rate: int, random: np.random.Generator) -> Waveform:
    wave = np.zeros(round(2.5 * rate))
    for number in range(10):
        time = np.arange(round(0.12 * rate)) / rate
        hit = random.standard_normal(len(time)) if number % 2 else np.sin(2 * np.pi * 80 * time)
        at = round(number * 0.25 * rate)
        wave[at : at + len(hit)] += hit * np.exp(-40 * time)
    return wave


def no_speech(rate: int) -> dict[str, Waveform]:
    """All of them by name."""
    random = np.random.default_rng(7)
    time = np.arange(round(2.5 * rate)) / rate
    breath = random.standard_normal(len(time)) * (0.5 + 0.5 * np.sin(2 * np.pi * 0.3 * time))
    sweep = np.sin(2 * np.pi * (600 * time + 200 / (2 * np.pi) * np.sin(2 * np.pi * 1.5 * time)))
    carrier = np.sin(
        2 * np.pi * 1800 * time
        + np.pi * np.repeat(random.integers(0, 2, -(-len(time) // 40)), 40)[: len(time)]
    )
    vibrato = np.cumsum(440 + 6 * np.sin(2 * np.pi * 5 * time)) / rate
    found = {
        "ring-back, Europe": _gaps(_tones(rate, 3, 425), rate, 1.0, 3.0),
        "ring-back, America": _gaps(_tones(rate, 3, 440, 480), rate, 2.0, 1.0),
        "engaged": _gaps(_tones(rate, 2.5, 480, 620), rate, 0.5, 0.5),
        "number unobtainable": np.concatenate([_tones(rate, 0.33, h) for h in (950, 1400, 1800)]),
        "dial tone": _tones(rate, 2.5, 350, 440),
        "keys": _keys(rate, "159420", 0.15),
        "keys, held": _keys(rate, "52", 1.2),
        "fax": _gaps(_tones(rate, 2.5, 1100), rate, 0.5, 3.0),
        "modem": carrier,
        "hiss": random.standard_normal(len(time)),
        "waves of hiss": breath,
        "mains hum": _tones(rate, 2.5, 50, 100, 150, 250),
        "music, plucked": _music(rate, (220, 174.6, 261.6, 196), 0.5, 3.0),
        "music, held": _music(rate, (130.8, 146.8, 98), 1.0, 0.2),
        "music, quick": _music(rate, (329.6, 293.7, 261.6, 293.7, 329.6, 392), 0.22, 6.0),
        "a fiddle": sum(np.sin(2 * np.pi * k * vibrato) / k for k in range(1, 7)),
        "drums": _drums(rate, random),
        "siren": sweep,
        "beeps": _gaps(_tones(rate, 2.5, 1000), rate, 0.1, 0.9),
        "clicks": np.where(random.random(len(time)) < 0.002, 1.0, 0.0),
    }  # fmt: skip
    return {name: np.asarray(0.5 * w / np.abs(w).max(), np.float32) for name, w in found.items()}
