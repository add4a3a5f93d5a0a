"""Finds where a channel only carries the other side's voice, leaked in.

A microphone picks up the other party from the earpiece, and a hybrid returns an echo: what
arrives is the other channel, quieter, late and filtered. So a stretch is a leak where
another channel is clearly louder and explains most of its energy through a short filter. A
quiet speaker who talks over a loud one is not explained that way, and stays.
"""

from __future__ import annotations

from copy import copy

import numpy as np
import numpy.typing as npt

from speechmeta.audio.types import FloatArray

BoolArray = npt.NDArray[np.bool_]

LOUDER_DB = 6.0
"""By how much the source of a leak is louder than the leak."""

EXPLAINED = 0.5
"""Share of a stretch's energy from which it is a leak."""

MAX_DELAY_SECONDS = 0.45
"""Longest delay of a leak; the echo of a long-distance or mobile call."""

ALIKE = 0.6
"""Share of a stretch's energy that another channel of like level has to explain for the two
to carry the same voice: what a speech codec or a noise of its own leaves of a copy."""

LOUDER_RATIO = 10 ** (LOUDER_DB / 10)
FILTER_SECONDS = 0.004
_SOURCE_DELAYS = (0.0, 0.1, 0.2, 0.3, 0.4)
SEGMENT_WINDOWS = 16
HOP_WINDOWS = SEGMENT_WINDOWS // 2
_MAX_SOURCES = 3


def leaked_windows(block: FloatArray, speech: BoolArray, window: int, rate: int) -> BoolArray:
    """Which windows of speech are leaked in from another row; see `shared_windows`."""
    return shared_windows(block, speech, window, rate)[0]


def shared_windows(
    block: FloatArray, speech: BoolArray, window: int, rate: int
) -> tuple[BoolArray, BoolArray]:
    """Which windows of speech another row carries too.

    Args:
        block: (rows, samples), the signals of a call at `rate` Hz.
        speech: (rows, windows), where the speech detector finds speech.
        window: samples of a window; `windows * window` may exceed the samples.

    Returns:
        what is leaked in from a louder row: (rows, windows), a subset of `speech`; and what
        a row of like level carries too: (rows, other rows, windows).
    """
    rows, windows = speech.shape
    if rows < 2 or not speech.any():
        alike = np.zeros((rows, rows, windows), np.bool_)
        return np.zeros((rows, windows), np.bool_), alike
    votes = Votes(rows, window, rate)
    votes.push(block, speech)
    for first in segment_starts(windows):
        votes.add(first)
    return votes.result()


def segment_starts(windows: int) -> list[int]:
    """The first windows of the segments in which so many windows are compared."""
    last_start = max(0, windows - SEGMENT_WINDOWS)
    return sorted({*range(0, last_start + 1, HOP_WINDOWS), last_start})


class Votes:
    """What the segments of a block say of each of its windows.

    Args:
        rows: signals. window: samples of a window. rate: Hz.

    Attributes:
        windows: how many there are.
    """

    def __init__(self, rows: int, window: int, rate: int) -> None:
        self._window, self._rate = window, rate
        self._block = np.zeros((rows, 0), np.float32)
        self._cumulated = np.zeros((rows, 1))
        self._speech = np.zeros((rows, 0), np.bool_)
        self._leaked = np.zeros((rows, 0))
        self._counted = np.zeros((rows, 0))
        self._shares = np.zeros((rows, rows, 0))

    @property
    def windows(self) -> int:
        return self._speech.shape[1]

    def push(self, block: FloatArray, speech: BoolArray) -> None:
        """Takes samples (rows, n) and where there is speech in them, (rows, windows)."""
        power = np.cumsum(np.square(block, dtype=np.float64), axis=1) + self._cumulated[:, -1:]
        self._cumulated = np.concatenate([self._cumulated, power], axis=1)
        self._block = np.concatenate([self._block, block], axis=1)
        self._speech = np.concatenate([self._speech, speech], axis=1)
        count = speech.shape[1]
        self._leaked = np.pad(self._leaked, ((0, 0), (0, count)))
        self._counted = np.pad(self._counted, ((0, 0), (0, count)))
        self._shares = np.pad(self._shares, ((0, 0), (0, 0), (0, count)))

    def copy(self) -> Votes:
        """The same votes, to which others are added."""
        other = copy(self)
        other._leaked, other._counted = self._leaked.copy(), self._counted.copy()
        other._shares = self._shares.copy()
        return other

    def last(self, windows: int) -> FloatArray:
        """The last samples (rows, windows * samples of a window)."""
        return self._block[:, self._block.shape[1] - windows * self._window :]

    def add(self, first: int) -> None:
        """Counts the segment that begins at a window."""
        last = min(self.windows, first + SEGMENT_WINDOWS)
        talking = self._speech[:, first:last].any(axis=1)
        if not talking.any():
            return
        cumulated, rate, rows = self._cumulated, self._rate, len(self._speech)
        begin, end = first * self._window, min(last * self._window, self._block.shape[1])
        if end - begin < 4 * self._window:
            return
        energy = cumulated[:, end] - cumulated[:, begin]
        # What arrives late was played earlier: its source may be silent by now.
        late = [round(delay * rate) for delay in _SOURCE_DELAYS]
        played = np.max(
            [
                cumulated[:, max(0, end - shift)] - cumulated[:, max(0, begin - shift)]
                for shift in late
            ],
            axis=0,
        )
        for row in np.flatnonzero(talking):
            others = np.arange(rows) != row
            ratio = LOUDER_RATIO * energy[row]
            louder = np.flatnonzero(others & (played > ratio))
            louder = louder[np.argsort(-played[louder])][:_MAX_SOURCES]
            near = others & (played <= ratio) & (played * LOUDER_RATIO >= energy[row])
            found = {
                int(source): explained_share(
                    self._block[row], self._block[source], begin, end, rate
                )
                for source in (*louder, *np.flatnonzero(near)[:_MAX_SOURCES])
            }
            for source, share in found.items():
                self._shares[row, source, first:last] += share
            best = max((found[int(source)] for source in louder), default=0.0)
            self._leaked[row, first:last] += best
            self._counted[row, first:last] += 1

    def result(self) -> tuple[BoolArray, BoolArray]:
        """As `shared_windows`."""
        counted = np.maximum(self._counted, 1)
        leaked = self._speech & (self._leaked >= EXPLAINED * counted)
        return leaked, self._speech[:, None, :] & (self._shares >= ALIKE * counted[:, None, :])


def explained_share(
    target: FloatArray, source: FloatArray, begin: int, end: int, rate: int
) -> float:
    """Share (0 to 1) of the energy of `target[begin:end]` that a short filter of `source` gives.

    The filter has 4 ms, around the delay of up to 450 ms at which the two agree best.
    """
    reach = round(MAX_DELAY_SECONDS * rate)
    taps = round(FILTER_SECONDS * rate)
    received = target[begin:end].astype(np.float64)
    energy = float(received @ received)
    if energy <= 0.0:
        return 0.0
    # The source up to `reach` before, and a filter's length after for echoes aligned early.
    lower = max(0, begin - reach - taps)
    played = source[lower : min(len(source), end + reach)].astype(np.float64)
    length = fast_length(len(played) + len(received))
    spectrum = np.fft.rfft(played, length)
    cross = np.fft.irfft(np.fft.rfft(received, length).conj() * spectrum, length)
    # cross[k] = sum over n of received[n] * played[n + k]: received is late by (begin - lower) - k.
    shifts = np.arange(len(played) - len(received) + 1)
    cross = cross[: len(shifts)]
    best = int(np.argmax(np.abs(cross)))
    first = int(np.clip(best - taps // 2, 0, max(0, len(shifts) - taps)))
    chosen = cross[first : first + taps]
    # Autocorrelation of the stretch that the filter sees.
    stretch = played[first : first + len(received) + len(chosen)]
    size = fast_length(2 * len(stretch))
    auto = np.fft.irfft(np.square(np.abs(np.fft.rfft(stretch, size))), size)[: len(chosen)]
    if auto[0] <= 0.0:
        return 0.0
    auto[0] *= 1.0 + 1e-4
    places = np.arange(len(chosen))
    filter_taps = np.linalg.solve(auto[np.abs(places[:, None] - places)], chosen)
    return float(np.clip(filter_taps @ chosen / energy, 0.0, 1.0))


def fast_length(samples: int) -> int:
    """The power of two from which a transform of this many samples does not wrap around."""
    return 1 << max(0, samples - 1).bit_length()
