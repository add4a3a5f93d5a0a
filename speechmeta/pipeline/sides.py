"""Which channels hold a party of their own, and what the parties are called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from speechmeta.pipeline.options import CallOptions
from speechmeta.segmentation.channels import Signal
from speechmeta.segmentation.voice_activity import VoiceActivity

SPOKEN_SECONDS = 0.25
"""A channel with less speech than this holds no party, whatever its level."""


@dataclass(frozen=True)
class Sides:
    """The parties of a call by signal.

    Attributes:
        shared: one signal holds the whole call, so its speakers are to be told apart.
        names: row of the signal -> name of its party; rows that hold no party are left out.
        warnings: for the report.
    """

    shared: bool
    names: dict[int, str]
    warnings: tuple[str, ...] = ()

    def name(self, row: int, signal: Signal) -> str:
        """The name of a signal's party, or of what little sound there is where there is none."""
        return self.names.get(row, f"speaker_{signal.channel}")


def find_sides(options: CallOptions, channels: int, activity: VoiceActivity) -> Sides:
    """Decides from where speech was found.

    Args:
        channels: of the recording.
    """
    signals = activity.plan.signals
    rows = list(range(len(signals)))
    spoken = [row for row in rows if _speech_seconds(options, activity, row) >= SPOKEN_SECONDS]
    notes = _repeat_warnings(activity, spoken)
    if _is_shared(options, channels, activity, spoken):
        row = spoken[0] if spoken else 0
        if len(signals) > 1 and not activity.repeats:
            notes.append(
                f"only channel {signals[row].channel} holds speech; it was taken for the whole call"
            )
        names = {row: options.roles[0] if options.roles else f"speaker_{signals[row].channel}"}
        return Sides(True, names if signals else {}, tuple(notes))
    if not options.roles:
        # A party that says nothing is one anyway; a repeated channel is none.
        repeated = {row for row, _, _ in activity.repeats if row not in spoken}
        return Sides(
            False,
            {row: f"speaker_{signals[row].channel}" for row in rows if row not in repeated},
            tuple(notes),
        )
    if len(options.roles) == channels:
        names = {row: options.roles[signals[row].channel] for row in rows}
        return Sides(False, names, tuple(notes))
    live = rows if len(options.roles) == len(rows) or not spoken else spoken
    names = {row: f"speaker_{signals[row].channel}" for row in live}
    names.update(zip(live, options.roles, strict=False))
    given = ", ".join(f"{names[row]} is channel {signals[row].channel}" for row in live)
    notes.append(
        f"{len(options.roles)} roles were given for {channels} channels; in order of the channels "
        f"that hold speech: {given or 'there is none'}"
    )
    if unused := options.roles[len(live) :]:
        notes.append(f"no channel is left for {', '.join(unused)}")
    return Sides(False, names, tuple(notes))


def _speech_seconds(options: CallOptions, activity: VoiceActivity, row: int) -> float:
    if not options.vad:
        return activity.duration
    return sum(run.samples for run in activity.speech(row, options.turns)) / activity.rate


def _is_shared(
    options: CallOptions, channels: int, activity: VoiceActivity, spoken: Sequence[int]
) -> bool:
    """Whether one signal may hold several speakers, and the others none."""
    signals = activity.plan.signals
    if options.channels == "split" or not signals:
        return False
    if len(signals) > 1:
        if len(spoken) != 1 or not options.vad:
            return False
        if activity.repeats:
            return True
    elif options.channels == "mono" or channels == 1 or activity.plan.copies:
        return True
    # One live channel of several: named channels say whose it is; otherwise it may as well
    # be a mono call recorded on one side.
    return not options.roles or len(options.roles) != channels


def _repeat_warnings(activity: VoiceActivity, spoken: Sequence[int]) -> list[str]:
    channel = [signal.channel for signal in activity.plan.signals]
    notes = []
    for row, other, seconds in activity.repeats:
        if row in spoken:
            notes.append(
                f"channel {channel[row]} also carries {seconds:.1f} s of the speech of channel "
                f"{channel[other]}; it counts for channel {channel[other]} alone"
            )
        else:
            notes.append(
                f"channel {channel[row]} repeats the speech of channel {channel[other]} "
                f"({seconds:.1f} s); it was analysed once"
            )
    return notes
