"""What a telephone, a room and a bystander do to speech; all on 16 kHz float waveforms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import soxr

from speechmeta.audio.loading import SAMPLE_RATE
from speechmeta.audio.telephone import Codec, over_the_line


@dataclass(frozen=True)
class AugmentOptions:
    """How often and how strongly training audio is changed.

    Attributes:
        speed: probability of another speed, `speed_range` the factors.
        telephone: probability of the telephone band at 8 kHz, half of it with G.711.
        noise: probability of background noise, at `snr_db` (low, high) decibels.
        gain_db: (low, high) of a random level.
        reverb: probability of a synthetic room.
    """

    speed: float = 0.5
    speed_range: tuple[float, float] = (0.9, 1.1)
    telephone: float = 0.35
    noise: float = 0.35
    snr_db: tuple[float, float] = (5.0, 25.0)
    gain_db: tuple[float, float] = (-12.0, 3.0)
    reverb: float = 0.1


def change_speed(wave: np.ndarray, factor: float) -> np.ndarray:
    """Plays faster (factor over 1) or slower; pitch moves with it."""
    return np.asarray(soxr.resample(wave, SAMPLE_RATE * factor, SAMPLE_RATE, quality="LQ"))


def telephone_band(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """8 kHz, about 300 to 3400 Hz, with G.711 half of the time."""
    band = (rng.uniform(150, 320), rng.uniform(3300, 3800)) if rng.random() < 0.6 else None
    codec: Codec = "mulaw" if rng.random() < 0.5 else "none"
    return over_the_line(wave, SAMPLE_RATE, codec, band)


def add_noise(wave: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """Adds noise, repeated or cut to length, at a signal-to-noise ratio in dB."""
    noise = np.resize(noise, len(wave))
    power = float(np.mean(wave**2)) / (float(np.mean(noise**2)) + 1e-12)
    return np.asarray(wave + noise * np.sqrt(power / 10 ** (snr_db / 10)), dtype=np.float32)


def add_reverb(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A small room: exponentially decaying noise as impulse response, 0.1 to 0.4 s."""
    length = int(rng.uniform(0.1, 0.4) * SAMPLE_RATE)
    tail = rng.standard_normal(length) * np.exp(-6.9 * np.arange(length) / length)
    response = rng.uniform(0.02, 0.1) * tail
    response[0] = 1.0
    size = 1 << (len(wave) + length - 1).bit_length()
    wet = np.fft.irfft(np.fft.rfft(wave, size) * np.fft.rfft(response, size), size)
    return wet[: len(wave)].astype(np.float32)


def augment(
    wave: np.ndarray,
    rng: np.random.Generator,
    options: AugmentOptions,
    noises: Sequence[Callable[[], np.ndarray]],
) -> np.ndarray:
    """One random version of a waveform (samples,); `noises` load background recordings."""
    if rng.random() < options.speed:
        wave = change_speed(wave, rng.uniform(*options.speed_range))
    if rng.random() < options.reverb:
        wave = add_reverb(wave, rng)
    if noises and rng.random() < options.noise:
        noise = noises[int(rng.integers(len(noises)))]()
        if len(noise):
            start = int(rng.integers(len(noise)))
            wave = add_noise(wave, np.roll(noise, -start), rng.uniform(*options.snr_db))
    gain = 10 ** (rng.uniform(*options.gain_db) / 20)
    wave = np.clip(wave * gain, -1.0, 1.0).astype(np.float32)
    if rng.random() < options.telephone:
        wave = telephone_band(wave, rng)
    return wave


def non_speech(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Made-up audio without speech: silence, hum, noises, tones, clicks, hold music."""
    count = int(seconds * SAMPLE_RATE)
    time = np.arange(count) / SAMPLE_RATE
    kind = int(rng.integers(6))
    level = 10 ** (rng.uniform(-60, -6) / 20)
    if kind == 0:
        wave = np.zeros(count)
        if rng.random() < 0.7:
            wave = rng.standard_normal(count) * 10 ** (rng.uniform(-96, -60) / 20)
        return wave.astype(np.float32)
    if kind == 1:
        slope = rng.uniform(0, 2)
        spectrum = np.fft.rfft(rng.standard_normal(count))
        spectrum /= np.maximum(np.arange(len(spectrum)), 1.0) ** (slope / 2)
        wave = np.fft.irfft(spectrum, count)
    elif kind == 2:
        base = rng.choice([50, 60, 100, 120, 350, 425, 440, 480, 1000])
        wave = sum(rng.random() * np.sin(2 * np.pi * base * k * time) for k in range(1, 5))
        if rng.random() < 0.5:
            wave = wave * (np.sin(2 * np.pi * rng.uniform(0.2, 2) * time) > 0)
    elif kind == 3:
        wave = np.zeros(count)
        places = rng.integers(0, max(count, 1), size=max(1, int(seconds * rng.uniform(0.3, 6))))
        wave[places] = rng.standard_normal(len(places))
        wave = np.convolve(wave, np.exp(-np.arange(400) / rng.uniform(5, 80)), "same")
    elif kind == 4:
        # DTMF-like pairs of tones.
        rows, columns = (697, 770, 852, 941), (1209, 1336, 1477, 1633)
        step = (time * rng.uniform(2, 6)).astype(int)
        steps = int(step.max(initial=0)) + 1
        row, column = rng.choice(rows, steps)[step], rng.choice(columns, steps)[step]
        wave = np.sin(2 * np.pi * row * time) + np.sin(2 * np.pi * column * time)
        wave = wave * ((time * 10) % 2 < rng.uniform(0.5, 2))
    else:
        wave = _hold_music(rng, time)
    peak = float(np.abs(wave).max(initial=0.0)) + 1e-9
    return (wave / peak * level).astype(np.float32)


def _hold_music(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    tempo = rng.uniform(1.5, 5.0)
    scale = np.array([0, 2, 4, 5, 7, 9, 11, 12])
    step = (time * tempo).astype(int)
    steps = int(step.max(initial=0)) + 1
    phase_in_step = time * tempo - step
    envelope = np.exp(-phase_in_step * rng.uniform(0.5, 5.0))
    wave = np.zeros_like(time)
    for octave, gain in ((1, 1.0), (0, 0.6), (0, 0.5)):
        notes = rng.choice(scale, steps) + 12 * octave
        frequency = 220 * 2 ** (notes[step] / 12)
        phase = 2 * np.pi * np.cumsum(frequency) / SAMPLE_RATE
        for harmonic in range(1, int(rng.integers(2, 6))):
            wave += gain * envelope * np.sin(harmonic * phase) / harmonic ** rng.uniform(1, 2)
    return wave
