"""Which channels of a recording carry a speaker of their own, and which are copies or dead.

`ChannelSurvey` looks at the whole recording once, block by block; `plan_channels` decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from speechmeta.audio.types import FloatArray
from speechmeta.errors import UsageError
from speechmeta.segmentation.crosstalk import fast_length

ChannelMode = Literal["auto", "mono", "split"]
CHANNEL_MODES: tuple[str, ...] = get_args(ChannelMode)

SAME_SIGNAL = 0.8
"""Correlation from which two channels carry the same signal for a moment."""

SAME_SHARE = 0.99
"""Share of moments that have to be the same for one channel to be a copy of another."""

MAX_DELAY_SECONDS = 0.05
"""Longest delay between two copies that is looked for."""

DEAD_DB = -90.0
"""A channel that never gets louder than this (RMS over 2 s, dB full scale) is dead ..."""
DEAD_BESIDE_DB = -70.0
"""... and so is one below this beside a channel that is louder by `DEAD_GAP_DB`."""
DEAD_GAP_DB = 40.0

_MOMENT_SECONDS = 2.0
_ACTIVE_DB = 30.0
_MIN_DIFFERENT = 10
_MAX_LAGGED_CHANNELS = 8


@dataclass(frozen=True)
class Signal:
    """One signal to be analysed, made of one channel or mixed from several.

    Attributes:
        channel: the channel under which its turns are reported.
        sources: (channel, weight) of the mix.
        covers: all channels whose content it stands for, copies included.
    """

    channel: int
    sources: tuple[tuple[int, float], ...]
    covers: tuple[int, ...]

    def of(self, block: FloatArray) -> FloatArray:
        """The signal's samples (n,) of a block (channels, n)."""
        if len(self.sources) == 1:
            channel, weight = self.sources[0]
            only: FloatArray = block[channel]
            return only if weight == 1 else only * np.float32(weight)
        indices = [channel for channel, _ in self.sources]
        weights = np.array([weight for _, weight in self.sources], np.float32)
        mixed: FloatArray = weights @ block[indices]
        return mixed


@dataclass(frozen=True)
class ChannelPlan:
    """What is analysed, and what was found on the way there.

    Attributes:
        signals: in order of their channel; empty if every channel is dead.
        dead: channels without a signal.
        copies: copy -> the channel whose signal it carries.
        warnings: the same in words.
    """

    signals: tuple[Signal, ...]
    dead: tuple[int, ...] = ()
    copies: tuple[tuple[int, int], ...] = ()
    warnings: tuple[str, ...] = ()


class ChannelSurvey:
    """Levels of all channels and likeness of all pairs, from a stream of blocks.

    Two channels are compared in moments of 2 s, at any gain, polarity and a delay of up to
    50 ms (with more than 8 channels: no delay), so that a loud announcement on
    both sides does not make two speakers one. A pair that has differed often enough is not
    looked at again, which makes an ordinary two-sided call cheap.
    """

    def __init__(self, channels: int, rate: int) -> None:
        self.loudest_db = np.full(channels, -np.inf)
        self.polarity = np.ones((channels, channels))
        self._rate = rate
        self._means: list[npt.NDArray[np.float32]] = []
        self._moment = round(_MOMENT_SECONDS * rate)
        self._held = np.zeros((channels, 0), np.float32)
        self._same = np.zeros((channels, channels), np.int64)
        self._different = np.zeros((channels, channels), np.int64)
        self._open = np.triu(np.ones((channels, channels), np.bool_), 1)

    def push(self, block: FloatArray) -> None:
        """Takes samples (channels, n)."""
        self._held = np.concatenate([self._held, block], axis=1)
        count = self._held.shape[1] // self._moment
        for index in range(count):
            self._look(self._held[:, index * self._moment : (index + 1) * self._moment])
        self._held = self._held[:, count * self._moment :]

    def finish(self) -> None:
        """Looks at the incomplete last moment, if there is no other or it is long enough."""
        rest = self._held.shape[1]
        if rest and (rest * 4 >= self._moment or not np.isfinite(self.loudest_db).any()):
            self._look(self._held)
        self._held = self._held[:, :0]

    def offsets(self) -> FloatArray:
        """The constant offset of each channel (channels,): the median over its moments."""
        if not self._means:
            return np.zeros(len(self.loudest_db), np.float32)
        middle: FloatArray = np.median(np.stack(self._means), axis=0).astype(np.float32)
        return middle

    def copy_of(self) -> dict[int, int]:
        """Copies and the first channel that carries the same signal."""
        found: dict[int, int] = {}
        seen = self._same + self._different
        copies = self._open & (seen > 0) & (self._same >= SAME_SHARE * seen)
        for first, second in np.argwhere(copies):
            if int(first) not in found:
                found.setdefault(int(second), int(first))
        return found

    def _look(self, moment: FloatArray) -> None:
        # A constant offset is not a signal, and would make all channels alike.
        mean = moment.mean(axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
        if moment.any():
            self._means.append(mean[:, 0])
        centred = moment - mean
        power = np.square(centred, dtype=np.float64).mean(axis=1)
        level = 10 * np.log10(np.maximum(power, 1e-20))
        self.loudest_db = np.maximum(self.loudest_db, level)
        if not self._open.any():
            return
        active = (level > DEAD_BESIDE_DB) & (level > self.loudest_db - _ACTIVE_DB)
        pairs = self._open & (active[:, None] | active[None, :])
        if not pairs.any():
            return
        likeness = self._likeness(centred, power, pairs)
        same = pairs & (np.abs(likeness) >= SAME_SIGNAL)
        self._same += same
        self._different += pairs & ~same
        self.polarity = np.where(same, np.sign(likeness), self.polarity)
        often = np.maximum(_MIN_DIFFERENT, (1 - SAME_SHARE) * (self._same + self._different))
        self._open &= self._different <= often

    def _likeness(
        self,
        centred: FloatArray,
        power: npt.NDArray[np.float64],
        pairs: npt.NDArray[np.bool_],
    ) -> npt.NDArray[np.float64]:
        """Signed correlation of largest size over the delays, for the asked pairs."""
        channels, samples = centred.shape
        scale = np.sqrt(np.maximum(power, 1e-20) * samples)
        if channels > _MAX_LAGGED_CHANNELS:
            return np.asarray((centred @ centred.T) / np.outer(scale, scale), dtype=np.float64)
        reach = min(round(MAX_DELAY_SECONDS * self._rate), samples - 1)
        length = fast_length(samples + reach)
        spectra = np.fft.rfft(centred, length, axis=1)
        likeness = np.zeros((channels, channels))
        for first, second in np.argwhere(pairs):
            product = np.fft.irfft(spectra[first] * spectra[second].conj(), length)
            lags = np.concatenate([product[: reach + 1], product[length - reach :]])
            best = lags[np.argmax(np.abs(lags))]
            likeness[first, second] = best / (scale[first] * scale[second])
        return likeness


def plan_channels(
    survey: ChannelSurvey, mode: str = "auto", keep_dead: bool = False
) -> ChannelPlan:
    """Decides what to analyse.

    Args:
        survey: of the whole recording.
        mode: `auto`: one signal for every channel that is neither dead nor a copy. `mono`:
            one signal, mixed from the channels that are not dead. `split`: one signal for
            every channel that is not dead, copies included.
        keep_dead: where all channels are dead, take the first for a signal anyway.

    Raises:
        UsageError: no such mode.
    """
    if mode not in CHANNEL_MODES:
        raise UsageError(f"channels {mode!r} is not known", f"choose {', '.join(CHANNEL_MODES)}")
    levels = survey.loudest_db
    channels = len(levels)
    loudest = float(levels.max())
    dead = [
        channel
        for channel in range(channels)
        if levels[channel] < DEAD_DB
        or (levels[channel] < DEAD_BESIDE_DB and levels[channel] < loudest - DEAD_GAP_DB)
    ]
    live = [channel for channel in range(channels) if channel not in dead]
    copies = {
        copy: original
        for copy, original in survey.copy_of().items()
        if copy in live and original in live
    }
    warnings = []
    if channels > 1 and live:
        warnings += _dead_warning(dead)
    if not live:
        warnings.append("the recording is silent: no channel carries a signal")
        if keep_dead:
            live, dead = dead[:1], dead[1:]
    if mode == "mono":
        return ChannelPlan(_mono(survey, live), tuple(dead), (), tuple(warnings))
    if mode == "split":
        signals = tuple(Signal(channel, ((channel, 1.0),), (channel,)) for channel in live)
        if copies:
            warnings.append(
                "channels "
                + ", ".join(f"{copy} and {original}" for copy, original in copies.items())
                + " carry the same signal; as asked, each was analysed"
            )
        return ChannelPlan(signals, tuple(dead), (), tuple(warnings))
    originals = [channel for channel in live if channel not in copies]
    signals = tuple(
        Signal(
            channel,
            ((channel, 1.0),),
            (channel, *(copy for copy, original in copies.items() if original == channel)),
        )
        for channel in originals
    )
    for original in sorted(set(copies.values())):
        same = [copy for copy in sorted(copies) if copies[copy] == original]
        many = len(same) > 1
        warnings.append(
            f"channel{'s' if many else ''} {_listed(same)} carr{'y' if many else 'ies'} the same "
            f"signal as channel {original}; it was analysed once"
        )
    return ChannelPlan(signals, tuple(dead), tuple(sorted(copies.items())), tuple(warnings))


def _mono(survey: ChannelSurvey, live: Sequence[int]) -> tuple[Signal, ...]:
    if not live:
        return ()
    # A channel wired in opposite phase would cancel its copy out.
    sign = {channel: float(survey.polarity[live[0], channel]) for channel in live}
    sources = tuple((channel, sign[channel] / len(live)) for channel in live)
    return (Signal(live[0], sources, tuple(live)),)


def _dead_warning(dead: Sequence[int]) -> list[str]:
    if not dead:
        return []
    return [
        f"channel{'s' if len(dead) > 1 else ''} {_listed(dead)} "
        f"carr{'y' if len(dead) > 1 else 'ies'} no signal and {'were' if len(dead) > 1 else 'was'} "
        "not analysed"
    ]


def _listed(channels: Sequence[int]) -> str:
    """0, 1, 2, 3, 7 as "0-3 and 7"."""
    groups: list[list[int]] = []
    for channel in channels:
        if groups and channel == groups[-1][-1] + 1:
            groups[-1].append(channel)
        else:
            groups.append([channel])
    parts = []
    for group in groups:
        if len(group) > 2:
            parts.append(f"{group[0]}-{group[-1]}")
        else:
            parts += [str(channel) for channel in group]
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + f" and {parts[-1]}"
