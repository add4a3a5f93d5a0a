"""A call from its recording to its report, in two halves around the model.

    call = prepare_call("call.wav", options, embedder)     # turns, speakers
    records = [decode(clip) for clip in call.clips()]      # the model's part
    report = assemble_call(call.plan, records, model, label_sets)

The first half needs no model (but an embedder where one channel holds several speakers), and
its plan is small and can be pickled, so that a folder run can prepare calls in
other processes and decode the turns of many calls together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from speechmeta.audio.clock import Missing
from speechmeta.audio.loading import AudioSource
from speechmeta.audio.recording import Cut, Recording
from speechmeta.audio.types import FloatArray
from speechmeta.errors import ModelError, UsageError
from speechmeta.pipeline.cutting import cut_clips
from speechmeta.pipeline.options import CallOptions
from speechmeta.pipeline.policy import Decision, decide
from speechmeta.pipeline.second_look import JudgeSource, look_again
from speechmeta.pipeline.sides import Sides, find_sides
from speechmeta.pipeline.two_voices import Told, second_voices, with_second_voices
from speechmeta.schema import AudioInfo, Peaks
from speechmeta.segmentation.channels import Signal
from speechmeta.segmentation.chunking import divide
from speechmeta.segmentation.turns import (
    Speech,
    TurnOptions,
    find_turns,
)
from speechmeta.segmentation.voice_activity import VoiceActivity, find_voice_activity

if TYPE_CHECKING:
    from speechmeta.diarization.embeddings import Embedder, Matrix

WHOLE_FILE_PIECE_SECONDS = 30.0
"""Without turns the file is decoded in pieces of this length and joined again."""

DIARIZE_SECONDS = 4.0
"""With less speech than this on its only channel a call is taken for one speaker's."""

_EMBED_TOGETHER = 64

EmbedderSource = Callable[[], "Embedder"]


@dataclass(frozen=True)
class PlannedTurn:
    """A turn that is to be decoded; times in samples of the plan's rate.

    Attributes:
        row: its signal.
        pieces: clips (start, end) that the model gets, one but for whole files.
        alone: the part that no other turn of the signal has; None for all of it.
        loudness_db: RMS in dB full scale; None for digital silence.
    """

    row: int
    speaker: str
    start: int
    end: int
    pieces: tuple[tuple[int, int], ...]
    loudness_db: float | None
    alone: tuple[int, int] | None = None

    @property
    def counted(self) -> tuple[int, int]:
        """The part that counts as covered."""
        return (self.start, self.end) if self.alone is None else self.alone


@dataclass(frozen=True)
class CallPlan:
    """All that is known of a call before the model gets it; small and picklable.

    Attributes:
        audio: of the file.
        options: those that the report has to follow.
        rate: Hz of the times in samples. samples: length.
        signals: what is analysed, by row.
        turns: in order of time.
        clips: (turn, piece) of each clip, in the order in which they are cut out.
        speakers: all names and channels (None where several are mixed).
        skipped: samples of speech left out for being too short, by row.
        dead: number of channels without a signal.
        decisions: by speaker, the fields that are asked for.
        warnings: for the report.
        missing: stretches for which the recording has no sound.
        peaks: the recording's outline.
    """

    audio: AudioInfo
    options: CallOptions
    rate: int
    samples: int
    signals: tuple[Signal, ...]
    turns: tuple[PlannedTurn, ...]
    clips: tuple[tuple[int, int], ...]
    speakers: tuple[tuple[str, int | None], ...]
    skipped: tuple[int, ...]
    dead: int
    decisions: Mapping[str, Decision]
    warnings: tuple[str, ...]
    missing: tuple[Missing, ...] = ()
    peaks: Peaks | None = None

    @property
    def clip_fields(self) -> list[tuple[str, ...]]:
        """The fields that are asked of each clip, in the order of `clips`."""
        return [self.decisions[self.turns[turn].speaker].fields for turn, _ in self.clips]


def plan_pieces(plan: CallPlan) -> list[tuple[int, int]]:
    """First and last sample of each of `plan.clips`, in that order."""
    return [plan.turns[turn].pieces[piece] for turn, piece in plan.clips]


class PreparedCall:
    """A plan, and the recording from which its clips are cut."""

    def __init__(self, plan: CallPlan, recording: Recording) -> None:
        self.plan = plan
        self._recording = recording

    def clips(self) -> Iterator[FloatArray]:
        """The waveforms (samples,) at 16 kHz in the order of `plan.clips`.

        Raises:
            AudioError: the file is no longer what it was.
        """
        plan = self.plan
        cuts = [
            Cut(plan.turns[turn].row, *bounds)
            for (turn, _), bounds in zip(plan.clips, plan_pieces(plan), strict=True)
        ]
        yield from cut_clips(self._recording, plan.signals, cuts)


def prepare_call(
    source: AudioSource,
    options: CallOptions,
    embedder: EmbedderSource | None = None,
    on_read: Callable[[int, float, float | None], None] | None = None,
    judge: JudgeSource | None = None,
) -> PreparedCall:
    """Finds channels, turns and speakers of a recording.

    Args:
        source: as for `speechmeta.audio.loading.load_audio`.
        embedder: makes the embedder when several speakers have to be told apart; None where
            there is none, so that one channel is one speaker.
        on_read: called while the recording is gone through with the number of the run, from 0,
            the seconds read, and those that there are (None where they are not known yet).
        judge: gives what loud sound is shown to in which no speech was found, see
            `pipeline.second_look`; None where nobody is to be asked.

    Raises:
        AudioError: the audio cannot be used.
        UsageError: speakers are to be told apart without an embedder.
    """
    from speechmeta.segmentation.vad import WINDOW_SECONDS, vad_rate

    recording = Recording(source, vad_rate, WINDOW_SECONDS, options.raw, options.limits, on_read)
    activity = find_voice_activity(recording, options.channels, options.turns, options.vad)
    warnings = [*recording.warnings, *activity.plan.warnings]
    if judge is not None and options.vad and options.turns.second_look:
        activity, notes = look_again(recording, activity, options.turns, judge)
        warnings += notes
    sides = find_sides(options, recording.channels, activity)
    shared = sides.shared
    warnings += sides.warnings
    if not shared and options.speakers not in (None, len(sides.names)):
        warnings.append(
            f"{options.speakers} speakers were asked for, but the call has "
            f"{len(sides.names)} channels with a speaker each; --channels mono mixes them"
        )
    turns: list[PlannedTurn] = []
    skipped = [0] * len(activity.plan.signals)
    for row, signal in enumerate(activity.plan.signals):
        if not options.vad:
            turns.append(_whole(activity, row, sides.name(row, signal)))
        elif shared and row not in sides.names:
            continue
        elif shared:
            found, skipped[row], notes = _shared_turns(recording, activity, row, options, embedder)
            turns += found
            warnings += notes
        else:
            name = sides.name(row, signal)
            speech = activity.speech(row, options.turns)
            found, skipped[row] = _turns_of(activity, row, [name], speech, options.turns)
            turns += found
    turns.sort(key=lambda turn: (turn.start, turn.end, turn.row))
    order = [
        (index, piece) for index, turn in enumerate(turns) for piece in range(len(turn.pieces))
    ]
    order.sort(key=lambda item: (turns[item[0]].pieces[item[1]][1], item))
    speakers = _speakers(sides, activity, turns)
    names = list(dict.fromkeys([name for name, _ in speakers] + [turn.speaker for turn in turns]))
    decisions, notes = decide(names, options.policy, options.fields, options.roles)
    warnings += notes
    if shared and len({item.fields for item in decisions.values()}) > 1:
        warnings.append(
            f"{' and '.join(names)} share a channel, and which turn is whose was told by voice and "
            "may be wrong: a field that is left out for one may be computed of some of its turns"
        )
    plan = CallPlan(
        audio=recording.info,
        options=options,
        rate=activity.rate,
        samples=activity.samples,
        signals=activity.plan.signals,
        turns=tuple(turns),
        clips=tuple(order),
        speakers=speakers,
        skipped=tuple(skipped),
        dead=len(activity.plan.dead),
        decisions=decisions,
        warnings=tuple(dict.fromkeys(warnings)),
        missing=recording.missing,
        peaks=recording.peaks,
    )
    return PreparedCall(plan, recording)


def _speakers(
    sides: Sides, activity: VoiceActivity, turns: Sequence[PlannedTurn]
) -> tuple[tuple[str, int | None], ...]:
    signals = activity.plan.signals
    if not sides.shared:
        spoken = {turn.row for turn in turns}
        return tuple(
            (sides.name(row, signal), signal.channel)
            for row, signal in enumerate(signals)
            if row in sides.names or row in spoken
        )
    signal = signals[min(sides.names, default=0)]
    channel = signal.channel if len(signal.sources) == 1 else None
    return tuple((name, channel) for name in dict.fromkeys(turn.speaker for turn in turns))


def _whole(activity: VoiceActivity, row: int, speaker: str) -> PlannedTurn:
    limit = round(WHOLE_FILE_PIECE_SECONDS * activity.rate)
    pieces = divide(0, activity.samples, limit, activity.levels[row], activity.hop)
    loudness = activity.loudness(row, 0, activity.samples)
    return PlannedTurn(row, speaker, 0, activity.samples, tuple(pieces), loudness)


def _turns_of(
    activity: VoiceActivity,
    row: int,
    names: Sequence[str],
    speech: Sequence[Speech],
    options: TurnOptions,
    seconds: Sequence[Speech] = (),
) -> tuple[list[PlannedTurn], int]:
    """Turns of a signal and the samples skipped; `names` by the number of the speaker, `seconds`
    who talks beside the speaker of `speech`."""
    found = find_turns(
        speech,
        activity.levels[row],
        options,
        rate=activity.rate,
        hop=activity.hop,
        samples=activity.samples,
    )
    told = with_second_voices(found.spans, seconds, activity.rate)
    turns = [_planned(activity, row, names[turn.span.speaker], turn) for turn in told]
    return turns, found.skipped_samples


def _planned(activity: VoiceActivity, row: int, speaker: str, told: Told) -> PlannedTurn:
    span = told.span
    return PlannedTurn(
        row=row,
        speaker=speaker,
        start=span.start,
        end=span.end,
        pieces=((span.clip_start, span.clip_end),),
        loudness_db=activity.loudness(row, span.start, span.end),
        alone=(told.first, told.last),
    )


def _shared_turns(
    recording: Recording,
    activity: VoiceActivity,
    row: int,
    options: CallOptions,
    embedder: EmbedderSource | None,
) -> tuple[list[PlannedTurn], int, list[str]]:
    """Turns of a signal that several speakers may share, skipped samples, and warnings."""
    asked = asked_speakers(options)
    speech = activity.speech(row, options.turns)
    seconds = sum(run.samples for run in speech) / activity.rate
    warnings = []
    if asked == 1 or not speech or (asked is None and seconds < DIARIZE_SECONDS):
        embedder = None
    elif embedder is None:
        if asked is not None:
            raise UsageError(
                "this checkpoint cannot tell speakers apart: it has no encoder for that",
                "name a speaker verification model with --speaker-model",
            )
        warnings.append("no speaker model available; treating the call as one speaker")
    if embedder is not None:
        from speechmeta.diarization.diarizer import diarize

        voices, notes = _voices(embedder, options.speaker_model)
        warnings += notes
        speech = diarize(
            speech,
            lambda windows: _embed(recording, activity, row, windows, voices),
            activity.levels[row],
            distance=voices.distance,
            rate=activity.rate,
            hop=activity.hop,
            speakers=asked,
            spread=voices.spread,
        )
    found = max((run.speaker for run in speech), default=0) + 1
    beside: list[Speech] = []
    if found > 1 and options.turns.overlap:
        from speechmeta.diarization.overlap import packaged_detector

        beside = second_voices(recording, activity, row, speech, packaged_detector())
    if asked is not None and speech and found < asked:
        warnings.append(fewer_speakers(asked, found, seconds))
    names = [shared_name(options, number) for number in range(found)]
    return *_turns_of(activity, row, names, speech, options.turns, beside), warnings


def _voices(embedder: EmbedderSource, speaker_model: str | None) -> tuple[Embedder, Sequence[str]]:
    """The embedder, and a warning where the package's own takes the place of one that was named
    but cannot be had: a call is worth more than a name.

    Raises:
        ModelError: the package's own cannot be loaded.
    """
    from speechmeta.diarization.selection import VOICEPRINT, load_embedder

    try:
        return embedder(), ()
    except ModelError as error:
        if speaker_model in (None, VOICEPRINT):
            raise
        note = f"{error.message}; {VOICEPRINT} told the speakers apart instead ({error.hint})"
        return load_embedder(VOICEPRINT), (note,)


def asked_speakers(options: CallOptions) -> int | None:
    """How many speakers a channel of several is said to have; None to find out."""
    return options.speakers or (len(options.roles) if options.roles else None)


def fewer_speakers(asked: int, found: int, seconds: float) -> str:
    """The warning that fewer speakers were found than were asked for, in seconds of speech."""
    return (
        f"{asked} speakers were asked for, but only {found} {'was' if found == 1 else 'were'} "
        f"told apart in {seconds:.1f} s of speech"
    )


def shared_name(options: CallOptions, number: int) -> str:
    """What a speaker on a channel of several is called, numbered in order of first talking."""
    if options.roles and number < len(options.roles):
        return options.roles[number]
    return f"speaker_{number}"


def _embed(
    recording: Recording,
    activity: VoiceActivity,
    row: int,
    windows: Sequence[tuple[int, int]],
    embedder: Embedder,
) -> Matrix:
    """Embeds stretches of a signal a few at a time, in their order."""
    order = sorted(range(len(windows)), key=lambda index: windows[index][1])
    cuts = [Cut(row, *windows[index]) for index in order]
    parts: list[Matrix] = []
    group: list[FloatArray] = []
    for clip in cut_clips(recording, activity.plan.signals, cuts):
        group.append(clip)
        if len(group) == _EMBED_TOGETHER:
            parts.append(embedder.embed(group))
            group = []
    if group:
        parts.append(embedder.embed(group))
    vectors = np.concatenate(parts)
    back = np.empty(len(order), np.int64)
    back[order] = np.arange(len(order))
    result: Matrix = vectors[back]
    return result
