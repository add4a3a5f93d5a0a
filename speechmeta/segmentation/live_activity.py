"""A call that still goes on: its speech and levels so far, by what a file is searched with.

What a file tells as a whole is told here from what was heard up to now: offsets and the gain for
faint channels by the seconds so far, copies and leaks by the stretch that is not yet decided.
Everything decided is forgotten, so that memory does not grow with the call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from speechmeta.audio.recording import BLOCK_WINDOWS
from speechmeta.audio.types import FloatArray
from speechmeta.segmentation.channels import (
    ChannelPlan,
    ChannelSurvey,
    Signal,
    plan_channels,
)
from speechmeta.segmentation.levels import LevelSpread
from speechmeta.segmentation.live_sharing import LiveSharing
from speechmeta.segmentation.turns import (
    LEVELS_PER_WINDOW,
    Speech,
    TurnOptions,
    in_samples,
    speech_regions,
)
from speechmeta.segmentation.vad import WINDOW_SECONDS, SileroVad
from speechmeta.segmentation.voice_activity import boost_of, powers_of, signal_rows

FIRST_WINDOWS = 32
"""Nothing is decided before the detector has heard this much, which it warms up on."""

REFRESH_WINDOWS = 32
"""How often offsets, gains and the mix are looked at anew."""

TOGETHER_WINDOWS = 4
"""So many windows are looked at together, 128 ms, unless a moment matters before: one at a time
costs nearly as much as four."""

SHARED_WINDOWS = 8
"""So many windows are compared between channels at a time: a quarter of a second, which is less
than the pause after which a turn has ended."""

BoolArray = npt.NDArray[np.bool_]


class LiveActivity:
    """Speech probabilities and levels of every signal, from the last decided moment to now.

    Args:
        channels: of the blocks. rate: 8000 or 16000 Hz.
        mode: see `plan_channels`.
        options: for the speech threshold.

    Attributes:
        base: the first window that is kept. windows: how many there were.
        samples: how many were taken, those of an incomplete window included.
        signals: by row.
        together: how many windows are waited for before they are looked at.
        audio: (signals, samples) from window `base` on, as the model gets them.
    """

    def __init__(self, channels: int, rate: int, mode: str, options: TurnOptions) -> None:
        self.rate = rate
        self.window = round(rate * WINDOW_SECONDS)
        self.hop = self.window // LEVELS_PER_WINDOW
        self.signals = _first_signals(channels, mode)
        self.base = self.windows = self.samples = 0
        self.together = TOGETHER_WINDOWS
        rows = len(self.signals)
        self.audio = np.zeros((rows, 0), np.float32)
        self._mode = mode
        self._survey = ChannelSurvey(channels, rate)
        self._spread = LevelSpread(channels, self.window)
        self._offsets = np.zeros((channels, 1), np.float32)
        self._boost = np.ones((rows, 1), np.float32)
        self._detector = SileroVad(rate, rows)
        threshold = options.threshold_at(rate)
        self._sharing = LiveSharing(rows, self.window, rate, threshold, BLOCK_WINDOWS)
        self._rest = np.zeros((channels, 0), np.float32)
        self._unshared = np.zeros((rows, 0), np.float32)
        self._shared = 0
        self._refreshed = 0
        self._probabilities = np.zeros((rows, 0), np.float32)
        self._levels = np.zeros((rows, 0), np.float32)
        self._foreign = np.zeros((rows, 0), np.bool_)

    @property
    def probabilities(self) -> FloatArray:
        """(signals, windows) from `base` on; zero where speech counts for another signal."""
        return np.where(self._foreign, np.float32(0), self._probabilities)

    @property
    def levels(self) -> FloatArray:
        """(signals, 4 * windows) mean power of 8 ms each, from `base` on."""
        return self._levels

    @property
    def wanted(self) -> int:
        """Samples that are missing before anything is looked at."""
        return self._wanted_windows * self.window - self._rest.shape[1]

    @property
    def _wanted_windows(self) -> int:
        return self.together if self.windows else FIRST_WINDOWS

    def push(self, block: FloatArray) -> bool:
        """Takes samples (channels, n); tells whether windows were looked at."""
        self.samples += block.shape[1]
        self._rest = np.concatenate([self._rest, block], axis=1)
        count = self._rest.shape[1] // self.window
        if count < self._wanted_windows:
            return False
        whole, self._rest = np.split(self._rest, [count * self.window], axis=1)
        self._look(whole)
        return True

    def finish(self) -> ChannelPlan:
        """Takes what is left as the end of the call; returns what is known of its channels."""
        missing = -self._rest.shape[1] % self.window
        rest = np.pad(self._rest, ((0, 0), (0, missing)))
        self._rest = rest[:, :0]
        if rest.shape[1]:
            self._look(rest, last=True)
        self._share(1)
        self._survey.finish()
        return plan_channels(self._survey, self._mode)

    def forget(self, window: int) -> None:
        """Drops what lies before a window."""
        count = min(window, self._shared) - self.base
        if count <= 0:
            return
        self._sharing.forget(self._probabilities[:, :count])
        self._probabilities = self._probabilities[:, count:].copy()
        self._foreign = self._foreign[:, count:].copy()
        self._levels = self._levels[:, LEVELS_PER_WINDOW * count :].copy()
        self.audio = self.audio[:, self.window * count :].copy()
        self.base += count

    def _look(self, whole: FloatArray, last: bool = False) -> None:
        count = whole.shape[1] // self.window
        self._survey.push(whole)
        self._spread.push(whole)
        if self.windows + count >= self._refreshed + REFRESH_WINDOWS or not self.windows:
            self._refresh(whole)
        rows = signal_rows(whole - self._offsets, self.signals)
        speech = self._detector.push(rows * self._boost)
        if last and speech.shape[1] < count:
            speech = np.concatenate([speech, self._detector.finish()], axis=1)
        self.windows += count
        kept = signal_rows(whole, self.signals)
        self.audio = np.concatenate([self.audio, kept], axis=1)
        self._probabilities = np.concatenate([self._probabilities, speech], axis=1)
        self._levels = np.concatenate(
            [self._levels, powers_of(rows, self.hop, self.window)], axis=1
        )
        self._foreign = np.pad(self._foreign, ((0, 0), (0, count)))
        self._unshared = np.concatenate([self._unshared, rows], axis=1)
        self._share(SHARED_WINDOWS)

    def _refresh(self, whole: FloatArray) -> None:
        """What the whole of a file would say, by what was heard so far."""
        self._refreshed = self.windows + whole.shape[1] // self.window
        heard = bool(np.isfinite(self._survey.loudest_db).any())
        if heard:
            self._offsets = self._survey.offsets()[:, None]
        else:
            mean = whole.mean(axis=1, keepdims=True, dtype=np.float64)
            self._offsets = mean.astype(np.float32)
        if self._mode == "mono" and heard:
            (mix,) = plan_channels(self._survey, self._mode, keep_dead=True).signals
            # Turns that were told stand under the first one's channel.
            self.signals = (replace(mix, channel=0),)
        self._boost = boost_of(self._spread.gains(), self.signals)

    def _share(self, least: int) -> None:
        """Compares the channels over what was not yet compared, if that is enough."""
        count = self._unshared.shape[1] // self.window
        if count < least:
            return
        first = self._shared - self.base
        self._sharing.push(self._unshared, self._probabilities[:, first : first + count])
        self._unshared = self._unshared[:, :0]
        self._shared += count
        known = self._shared - self.base
        if len(self.signals) < 2:
            # Nobody else could have said it.
            return
        copies = self._mode != "split"
        found, _ = self._sharing.foreign(self._probabilities[:, :known], copies)
        self._foreign[:, :known] = found
        if self._mode == "auto":
            for copy in self._survey.copy_of():
                self._foreign[copy, :known] = True


def _first_signals(channels: int, mode: str) -> tuple[Signal, ...]:
    """A signal for every channel, or one of all."""
    if mode == "mono":
        sources = tuple((channel, 1 / channels) for channel in range(channels))
        return (Signal(0, sources, tuple(range(channels))),)
    return tuple(Signal(channel, ((channel, 1.0),), (channel,)) for channel in range(channels))


@dataclass(frozen=True)
class Stretch:
    """Runs of speech of one signal that only short pauses divide, in order of time.

    Attributes:
        ended: whether the pause that ends it has passed.
    """

    runs: tuple[Speech, ...]
    ended: bool

    @property
    def start(self) -> int:
        return self.runs[0].start

    @property
    def end(self) -> int:
        return self.runs[-1].end

    @property
    def spoken(self) -> int:
        """Samples of speech."""
        return sum(run.samples for run in self.runs)


class Stretches:
    """The stretches of one signal while the call goes on.

    Args:
        options: their pauses. rate: Hz. window: samples of a window.

    Attributes:
        floor: sample before which all is decided.
        quiet: samples of pause after which a stretch has ended.
    """

    def __init__(self, options: TurnOptions, rate: int, window: int) -> None:
        self.floor = 0
        self._carried = False
        self._window = window
        self._threshold = options.threshold_at(rate)
        self._pause = options.min_pause_seconds * rate
        # The context of a turn reaches into the pause by at most half of it.
        self.quiet = max(self._pause, 2 * options.padding_seconds * rate)

    def look(
        self, probabilities: FloatArray, base: int, samples: int, ended: bool = False
    ) -> list[Stretch]:
        """What is not yet decided; all but the last have ended.

        Args:
            probabilities: (windows,) from window `base` on, up to now.
            samples: of the call so far.
            ended: whether nothing follows.
        """
        first = max(0, self.floor // self._window - base)
        part = probabilities[first:]
        if self._carried:
            part = np.concatenate([np.ones(1, np.float32), part])
            first -= 1
        now = min(samples, (base + len(probabilities)) * self._window)
        regions = [
            (base + first + one, base + first + other)
            for one, other in speech_regions(part, self._threshold)
        ]
        runs = [
            Speech(max(run.start, self.floor), run.end)
            for run in in_samples(regions, self._window, now)
            if run.end > self.floor
        ]
        groups: list[list[Speech]] = []
        for run in runs:
            if groups and run.start - groups[-1][-1].end < self._pause:
                groups[-1].append(run)
            else:
                groups.append([run])
        last = len(groups) - 1
        return [
            Stretch(tuple(group), ended or index < last or now - group[-1].end >= self.quiet)
            for index, group in enumerate(groups)
        ]

    def decided(self, sample: int, runs: Sequence[Speech] = ()) -> None:
        """Everything before a sample is decided.

        Args:
            runs: of the stretch; where one goes on over the sample, so does speech.
        """
        self.floor = max(self.floor, sample)
        self._carried = any(run.start < sample < run.end for run in runs)


__all__ = ["LiveActivity", "Stretch", "Stretches"]
