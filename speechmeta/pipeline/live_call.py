"""A call that still goes on: sound in, clips for the model out, turns and at last the report.

    call = LiveCall(options, model, rate=8000, channels=2)
    call.push(block)                                  # (channels, samples)
    for ask in call.asks(): ...                       # decode ask.clip, then call.answer(...)
    for news in call.news(): ...                      # turns that ended, partial words
    call.finish()                                     # then the last asks, and call.report()

Holds no thread and no socket. Turns, clips and the report are made by the functions that make them
of a file; what a file tells only as a whole is told from what was heard (docs/live.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from speechmeta.audio.peaks import PeakMeter
from speechmeta.audio.types import FloatArray
from speechmeta.decoding.record import DecodedRecord
from speechmeta.errors import SpeechMetaError, UsageError
from speechmeta.pipeline.conversation import measure, summarize
from speechmeta.pipeline.cutting import model_clip
from speechmeta.pipeline.options import CallOptions
from speechmeta.pipeline.plan import (
    CallPlan,
    EmbedderSource,
    PlannedTurn,
    asked_speakers,
    fewer_speakers,
    shared_name,
)
from speechmeta.pipeline.policy import Decision, decide
from speechmeta.pipeline.redaction import Utterance, redact, redact_turns, settled
from speechmeta.pipeline.report import Outcome, assemble_call, turn_of, words_within
from speechmeta.schema import (
    FIELDS,
    AudioInfo,
    CallReport,
    Conversation,
    LabelSets,
    ModelInfo,
    SpeakerSummary,
    Turn,
)
from speechmeta.segmentation.channels import Signal
from speechmeta.segmentation.live_activity import (
    TOGETHER_WINDOWS,
    LiveActivity,
    Stretch,
    Stretches,
)
from speechmeta.segmentation.turns import Speech, find_turns
from speechmeta.segmentation.vad import VAD_RATES
from speechmeta.segmentation.voice_activity import loudness_of

if TYPE_CHECKING:
    from speechmeta.diarization.embeddings import Matrix
    from speechmeta.diarization.live_speakers import CutOut, LiveSpeakers, Talk

STEP_WINDOWS = 16
"""Longer blocks are taken in steps of so many windows, so that nothing depends on their size."""

PARTIAL_SECONDS = 1.0
"""Talk after which the words of a turn in progress are looked at again."""

SETTLED_SECONDS = 3.0
"""Talk of another after which a change of speaker on one channel stands."""

LOOK_SECONDS = 1.0
"""How often speakers on one channel are told apart within a stretch of talk."""

_WORDS = ("SpeechActivity", "Transcript")
_LOOKED_AT = 60
"""Turns of the past that may still change, by their speaker or by what is private in them."""
_UNSEEN = 15


@dataclass(frozen=True)
class LiveModel:
    """What a call needs to know of the model; as `batch.job.ModelFacts`."""

    info: ModelInfo
    label_sets: LabelSets
    abstain_below: float | Mapping[str, float] = 0.0
    fields: Sequence[str] = FIELDS


@dataclass(frozen=True)
class Ask:
    """A clip (samples,) at 16 kHz that the model is to decode, and the fields that are asked.

    Attributes:
        optional: for partial words alone, which a busy model need not give.
        draft: what was last heard of the same turn, which its transcript may begin with.
    """

    number: int
    clip: FloatArray
    fields: tuple[str, ...]
    optional: bool = False
    draft: str | None = None


@dataclass(frozen=True)
class TurnEnded:
    """A turn; `number` counts from 0 in the order in which turns ended."""

    number: int
    turn: Turn


@dataclass(frozen=True)
class TurnFailed:
    """A turn that could not be decoded; the report counts it as skipped."""

    number: int
    start: float
    end: float
    channel: int
    error: SpeechMetaError


@dataclass(frozen=True)
class PartialWords:
    """Words of a turn in progress; `speaker` is None where it is not yet told."""

    start: float
    end: float
    channel: int
    speaker: str | None
    transcript: str


@dataclass(frozen=True)
class Renamed:
    """Turns on a shared channel that another speaker is now taken to have said."""

    numbers: tuple[int, ...]
    speaker: str


News = TurnEnded | TurnFailed | PartialWords | Renamed


@dataclass
class _Clip:
    """One clip, asked for early or when its turn had ended."""

    number: int
    planned: PlannedTurn
    outcome: Outcome | None = None
    said: _Said | None = None


@dataclass
class _Said:
    """A turn that has ended.

    Attributes:
        talk: where its voice is told from others', and `place` where that begins.
    """

    number: int
    planned: PlannedTurn
    outcome: Outcome | None = None
    turn: Turn | None = None
    told: bool = False
    talk: Talk | None = None
    place: int = 0


@dataclass
class _Side:
    """One signal.

    Attributes:
        since: where its last turn ended. rest: whether the turn in progress was cut there.
        looked: where speakers were last told apart. partial: up to where words were last asked.
        heard: where the turn begins that was decoded last, and its words so far.
        paused: the stretch whose clips were asked for early.
    """

    row: int
    stretches: Stretches
    since: int | None = None
    rest: bool = False
    looked: int = 0
    partial: int = 0
    skipped: int = 0
    heard: tuple[int, str] | None = None
    paused: tuple[Speech, ...] = ()
    asked: int | None = None
    """The clip that is being decoded for partial words."""
    talk: tuple[tuple[Speech, ...], Talk] | None = None
    vectors: dict[tuple[int, int], Matrix] = field(default_factory=dict)


class LiveCall:
    """A call from its first sample to its report.

    Args:
        options: what is asked; `vad` has to be on.
        model: of the one that decodes.
        rate: 8000 or 16000 Hz.
        channels: of the blocks; of several each is one party, on a single one voices are told
            apart unless `options.speakers` is 1.
        embedder: makes what tells voices apart, when that is needed; None where there is nothing.
        codec: FFmpeg's name, for the document.
        partials: whether words of turns in progress are wanted.

    Attributes:
        spare: whether the model has time for words of turns in progress.
        pausing: whether somebody may just have ended: then a clip will soon be asked for.

    Raises:
        UsageError: the options cannot be had of a call that goes on.
    """

    def __init__(
        self,
        options: CallOptions,
        model: LiveModel,
        *,
        rate: int,
        channels: int,
        embedder: EmbedderSource | None = None,
        codec: str | None = None,
        partials: bool = True,
    ) -> None:
        _check(options, rate, channels)
        self.options, self.model = options, model
        self.rate, self.channels, self._codec = rate, channels, codec
        self._activity = LiveActivity(channels, rate, options.channels, options.turns)
        self._peaks = PeakMeter(rate)
        self._unmetered: list[FloatArray] = []
        rows = range(len(self._activity.signals))
        window = self._activity.window
        self._sides = [_Side(row, Stretches(options.turns, rate, window)) for row in rows]
        self._speakers: LiveSpeakers | None = None
        if len(self._sides) == 1 and options.speakers != 1:
            self._speakers = _speakers(options, embedder, rate, self._activity.hop)
        self._names = [self._name(row) for row in rows] if self._speakers is None else []
        if self._speakers is not None:
            self._names = list(options.roles or [shared_name(options, 0)])
        self._decisions: dict[str, Decision] = {}
        self._decide(self._names)
        # What the finders look back for is only there when a turn has ended.
        self._wanted = partials and not options.redact
        self.spare, self.pausing = True, False
        self._clips: dict[int, _Clip] = {}
        self._by_bounds: dict[tuple[int, int, int, tuple[str, ...]], _Clip] = {}
        self._said: list[_Said] = []
        self._asks: list[Ask] = []
        self._dropped: list[int] = []
        self._news: list[News] = []
        self._count = 0
        self._finished = False
        self._dead = 0
        self._absent: set[int] = set()
        self._copies: dict[int, int] = {}
        self._warnings: list[str] = []
        asked = options.min_confidence
        self._threshold = model.abstain_below if asked is None else asked

    @property
    def seconds(self) -> float:
        """Of the call so far."""
        return self._activity.samples / self.rate

    @property
    def wanted(self) -> int:
        """Samples that are missing before anything new is looked at."""
        return self._activity.wanted

    @property
    def names(self) -> list[str]:
        """Of those who may talk, as far as they are known."""
        return list(self._names)

    @property
    def turns(self) -> int:
        """How many have ended."""
        return len(self._said)

    @property
    def complete(self) -> bool:
        """Whether `report` can be had."""
        return self._finished and all(said.outcome is not None for said in self._said)

    def push(self, block: FloatArray) -> None:
        """Takes samples (channels, n), full scale at 1.0."""
        step = STEP_WINDOWS * self._activity.window
        for first in range(0, block.shape[1], step):
            part = block[:, first : first + step]
            self._unmetered.append(part)
            if self._activity.push(part):
                self._meter()
                self._follow()

    def _meter(self) -> None:
        if self._unmetered:
            self._peaks.add(np.concatenate(self._unmetered, axis=1))
            self._unmetered = []

    def finish(self) -> None:
        """Nothing follows: what is open ends here."""
        self._meter()
        plan = self._activity.finish()
        self._dead = len(plan.dead)
        self._copies = dict(plan.copies)
        self._absent = {*plan.dead, *self._copies}
        self._warnings += plan.warnings
        self._finished = True
        self._follow()

    def asks(self) -> list[Ask]:
        """New clips for the model."""
        asks, self._asks = self._asks, []
        return asks

    def dropped(self) -> list[int]:
        """Numbers of clips whose outcome nobody waits for any more."""
        dropped, self._dropped = self._dropped, []
        return dropped

    def news(self) -> list[News]:
        """What has come about since this was last asked."""
        news, self._news = self._news, []
        return news

    def answer(self, number: int, outcome: Outcome | None) -> None:
        """Takes what the model made of a clip; None where an optional one was left out."""
        clip = self._clips.pop(number, None)
        if clip is None:
            return
        if outcome is None:
            self._by_bounds = {key: c for key, c in self._by_bounds.items() if c is not clip}
            side = self._sides[clip.planned.row]
            if side.asked == number:
                # Asked for again as soon as the model has time.
                side.asked, side.partial = None, 0
            return
        clip.outcome = outcome
        side = self._sides[clip.planned.row]
        if side.asked == number:
            side.asked = None
        if isinstance(outcome, DecodedRecord) and (text := outcome.values.get("Transcript")):
            side.heard = clip.planned.start, str(text)
        if clip.said is not None:
            self._decoded(clip.said, outcome)
        elif self._shows_partials() and clip.planned.start >= side.stretches.floor:
            self._show(clip, outcome)

    def running(self) -> tuple[Conversation, list[SpeakerSummary]]:
        """The measures of the call so far, and those of each speaker with its labels."""
        turns = [said.turn for said in self._said if said.turn is not None]
        turns.sort(key=lambda turn: (turn.start, turn.end, turn.channel))
        names = self._spoken_names()
        return (
            measure(turns, self.seconds, [name for name, _ in names]),
            [
                summarize(turns, self.seconds, name, channel, self._threshold)
                for name, channel in names
            ],
        )

    def report(self) -> CallReport:
        """The document of the whole call.

        Raises:
            SpeechMetaError: not one turn could be decoded.
        """
        order = sorted(self._said, key=_place)
        outcomes = [said.outcome for said in order if said.outcome is not None]
        plan = self._plan([said.planned for said in order], whole=True)
        report = assemble_call(
            plan,
            outcomes,
            self.model.info,
            self.model.label_sets,
            self.model.abstain_below,
            self.model.fields,
        )
        if self.options.redact:
            self._tell_rest(order, report.turns)
        return report

    # From sound to turns.

    def _follow(self) -> None:
        probabilities = self._activity.probabilities
        self._activity.together = TOGETHER_WINDOWS
        self.pausing = False
        for side in self._sides:
            row, base = probabilities[side.row], self._activity.base
            while found := side.stretches.look(row, base, self._activity.samples, self._finished):
                stretch = _from_floor(found[0], side)
                if stretch.ended:
                    self._close(side, stretch)
                elif not self._cut_long(side, stretch):
                    self._ahead(side, stretch)
                    self._hurry(side, stretch)
                    break
            else:
                self._quiet(side)
        self._forget()

    def _close(self, side: _Side, stretch: Stretch) -> None:
        turns, skipped, talk = self._turns(side, stretch)
        if talk is not None and self._speakers is not None:
            self._speakers.remember(talk, self._sound(side.row, stretch.start))
        for planned in turns:
            self._end(planned, talk, stretch.start)
        side.skipped += skipped
        side.since = turns[-1].end if turns else side.since
        side.rest, side.partial, side.looked = False, 0, 0
        side.talk, side.vectors = None, {}
        side.stretches.decided(stretch.end)
        self._rename()

    def _cut_long(self, side: _Side, stretch: Stretch) -> bool:
        """Decides the beginning of a stretch whose end is far; tells whether it did."""
        limit = round(self.options.turns.speech_limit_seconds * self.rate)
        if self._speakers is not None:
            return self._cut_shared(side, stretch, limit)
        shortest = self.options.turns.min_turn_seconds * self.rate
        # From here on the first cut does not depend on where the stretch ends.
        if stretch.end - stretch.start < limit + limit // 4 or stretch.spoken < shortest:
            return False
        self._decide_first(side, stretch, self._turns(side, stretch)[0][0], None)
        return True

    def _cut_shared(self, side: _Side, stretch: Stretch, limit: int) -> bool:
        since = max(side.looked, stretch.start)
        if stretch.end - since < LOOK_SECONDS * self.rate:
            return False
        if stretch.end - stretch.start < (SETTLED_SECONDS + LOOK_SECONDS) * self.rate:
            return False
        side.looked = stretch.end
        turns, _, talk = self._turns(side, stretch)
        if len(turns) < 2:
            return False
        first = turns[0]
        same = [first]
        for turn in turns[1:]:
            if turn.speaker != first.speaker or turn.start != same[-1].end:
                break
            same.append(turn)
        if len(same) > 1:
            stands = same[-1].end - first.start >= limit + limit // 4
        else:
            talked = sum(turn.end - turn.start for turn in turns[1:])
            stands = talked >= SETTLED_SECONDS * self.rate
        if not stands:
            return False
        self._decide_first(side, stretch, first, talk)
        side.looked = 0
        return True

    def _decide_first(
        self, side: _Side, stretch: Stretch, first: PlannedTurn, talk: Talk | None
    ) -> None:
        if talk is not None and self._speakers is not None:
            # What was said so far is compared with what follows.
            own = [
                Speech(run.start, min(run.end, first.end), run.speaker)
                for run in stretch.runs
                if run.start < first.end
            ]
            part = self._told(side, Stretch(tuple(own), True), {})
            self._speakers.remember(part, self._sound(side.row, stretch.start))
            talk = part
        self._end(first, talk, stretch.start)
        side.since, side.rest = first.end, self._speakers is None
        side.talk, side.vectors = None, {}
        side.stretches.decided(first.end, stretch.runs)

    def _turns(self, side: _Side, stretch: Stretch) -> tuple[list[PlannedTurn], int, Talk | None]:
        """The turns of a stretch as far as it is known, the samples skipped, and who talks."""
        activity, row = self._activity, side.row
        origin = activity.base * activity.window
        talk: Talk | None = None
        runs: Sequence[Speech] = stretch.runs
        if self._speakers is not None:
            if side.talk is None or side.talk[0] != stretch.runs:
                side.talk = stretch.runs, self._told(side, stretch, side.vectors)
            talk = side.talk[1]
            runs = [
                Speech(part.start + stretch.start, part.end + stretch.start, part.speaker)
                for part in talk.parts
            ]
        now = activity.samples if self._finished else activity.windows * activity.window
        since = None if side.since is None else side.since - origin
        found = find_turns(
            [Speech(run.start - origin, run.end - origin, run.speaker) for run in runs],
            activity.levels[row],
            self.options.turns,
            rate=self.rate,
            hop=activity.hop,
            samples=now - origin,
            begin=-origin,
            since=since,
        )
        turns = []
        for span in found.spans:
            loudness = loudness_of(activity.levels[row], activity.hop, span.start, span.end)
            name = self._name(row if self._speakers is None else span.speaker)
            bounds = (span.clip_start + origin, span.clip_end + origin)
            turns.append(
                PlannedTurn(row, name, span.start + origin, span.end + origin, (bounds,), loudness)
            )
        return turns, found.skipped_samples, talk

    def _told(self, side: _Side, stretch: Stretch, vectors: dict[tuple[int, int], Matrix]) -> Talk:
        """Who talks when in a stretch."""
        if self._speakers is None:
            raise RuntimeError("every channel has one speaker")
        activity = self._activity
        first = stretch.start // activity.hop - activity.base * activity.window // activity.hop
        own = [Speech(run.start - stretch.start, run.end - stretch.start) for run in stretch.runs]
        sound = self._sound(side.row, stretch.start)
        return self._speakers.tell(own, activity.levels[side.row, first:].copy(), sound, vectors)

    def _sound(self, row: int, start: int) -> CutOut:
        def cut(first: int, last: int) -> FloatArray:
            return self._clip(row, start + first, start + last)

        return cut

    def _clip(self, row: int, start: int, end: int) -> FloatArray:
        """A part of a signal at the model's rate."""
        origin = self._activity.base * self._activity.window
        samples = self._activity.audio[row, max(0, start - origin) : end - origin].copy()
        return model_clip(samples, self.rate)

    def _forget(self) -> None:
        """Drops sound before anything that is open, with the context that a clip may take."""
        padding = round(self.options.turns.padding_seconds * self.rate)
        edge = self._activity.windows * self._activity.window
        for side in self._sides:
            edge = min(edge, side.stretches.floor)
        self._activity.forget(max(0, edge - 2 * padding) // self._activity.window)

    def _quiet(self, side: _Side) -> None:
        """Nothing is open on a side: all that was heard of it is decided."""
        now = self._activity.windows * self._activity.window
        padding = round(self.options.turns.padding_seconds * self.rate)
        # Speech that begins now may have begun a little earlier, by what other channels say.
        side.stretches.decided(now - max(2 * padding, self.rate))
        side.rest, side.partial, side.looked = False, 0, 0
        side.talk, side.vectors = None, {}

    # Early looks at what is open.

    def _ahead(self, side: _Side, stretch: Stretch) -> None:
        activity = self._activity
        now = activity.windows * activity.window
        padding = round(self.options.turns.padding_seconds * self.rate)
        if now - stretch.end >= padding:
            if side.paused == stretch.runs:
                return
            # Should the pause last, this is the turn: it is decoded meanwhile.
            side.paused = stretch.runs
            asked = [
                self._asked(planned, self._decisions[planned.speaker].fields).number
                for planned in self._turns(side, stretch)[0]
            ]
            # What still waits from earlier pauses holds fewer words of the same turn.
            self._drop(side, lambda clip: clip.outcome is None and clip.number not in asked)
            return
        if not self._shows_partials() or side.asked is not None or self._asks or not self.spare:
            return
        if now > stretch.end:
            # Either the pause lasts, or there will be more to tell.
            return
        if now - max(side.partial, stretch.start) < PARTIAL_SECONDS * self.rate:
            return
        side.partial = now
        longest = round(self.options.turns.max_turn_seconds * self.rate)
        start = max(stretch.start, now - longest)
        speaker = self._names[side.row] if self._speakers is None else ""
        bounds = (max(activity.base * activity.window, start - padding), now)
        planned = PlannedTurn(side.row, speaker, start, now, (bounds,), None)
        fields = tuple(name for name in _WORDS if self._all_may(name))
        side.asked = self._asked(planned, fields, optional=True).number

    def _hurry(self, side: _Side, stretch: Stretch) -> None:
        """Has the detector look when the pause is as long as something waits for."""
        activity = self._activity
        silent = activity.windows * activity.window - stretch.end
        padding = round(self.options.turns.padding_seconds * self.rate)
        self.pausing |= 0 < silent < padding
        for moment in (padding, side.stretches.quiet):
            if silent < moment:
                windows = math.ceil((moment - silent) / activity.window)
                activity.together = min(activity.together, windows)
                return

    def _asked(
        self, planned: PlannedTurn, fields: tuple[str, ...], optional: bool = False
    ) -> _Clip:
        """The clip of a turn, new or asked for before."""
        start, end = planned.pieces[0]
        key = (planned.row, start, end, fields)
        clip = self._by_bounds.get(key)
        if clip is None:
            clip = _Clip(self._count, planned)
            self._count += 1
            self._by_bounds[key] = self._clips[clip.number] = clip
            sound = self._clip(planned.row, start, end)
            heard = self._sides[planned.row].heard
            draft = heard[1] if heard is not None and heard[0] == planned.start else None
            self._asks.append(Ask(clip.number, sound, fields, optional, draft))
        return clip

    def _show(self, clip: _Clip, outcome: Outcome) -> None:
        if not isinstance(outcome, DecodedRecord):
            return
        text = outcome.values.get("Transcript")
        planned = clip.planned
        if text:
            self._news.append(
                PartialWords(
                    round(planned.start / self.rate, 3),
                    round(planned.end / self.rate, 3),
                    self._activity.signals[planned.row].channel,
                    planned.speaker or None,
                    str(text),
                )
            )

    # From turns to what is told of them.

    def _end(self, planned: PlannedTurn, talk: Talk | None, place: int) -> None:
        said = _Said(len(self._said), planned, talk=talk, place=place)
        self._said.append(said)
        for old in self._said[-_LOOKED_AT - 1 : -_LOOKED_AT]:
            old.talk = None
        clip = self._asked(planned, self._decisions[planned.speaker].fields)
        clip.said, clip.planned = said, planned
        if clip.outcome is not None:
            self._decoded(said, clip.outcome)
        # Other clips of what is decided now are of no use.
        side = self._sides[planned.row]
        self._drop(side, lambda clip: clip.planned.start < planned.end)

    def _drop(self, side: _Side, useless: Callable[[_Clip], bool]) -> None:
        """Forgets clips of a side that no turn took; a pause that did not last leaves some."""
        for key, clip in list(self._by_bounds.items()):
            if clip.planned.row != side.row or not useless(clip):
                continue
            del self._by_bounds[key]
            if clip.said is None and self._clips.pop(clip.number, None) is not None:
                self._dropped.append(clip.number)
                self._asks = [ask for ask in self._asks if ask.number != clip.number]
                side.asked = None if side.asked == clip.number else side.asked

    def _decoded(self, said: _Said, outcome: Outcome) -> None:
        said.outcome = outcome
        rate = self.rate
        if isinstance(outcome, SpeechMetaError):
            said.told = True
            channel = self._activity.signals[said.planned.row].channel
            start, end = round(said.planned.start / rate, 3), round(said.planned.end / rate, 3)
            if self.options.redact:
                # A server that failed may say in its answer what it heard.
                outcome = type(outcome)(redact(outcome.message), redact(outcome.hint))
            self._news.append(TurnFailed(said.number, start, end, channel, outcome))
        else:
            plan = self._plan()
            said.turn = turn_of(
                plan, said.planned, [outcome], self.model.label_sets, self._threshold
            )
        if self.options.redact:
            self._tell_settled()
        elif said.turn is not None:
            said.told = True
            self._news.append(TurnEnded(said.number, words_within(said.turn)))

    def _tell_settled(self) -> None:
        """Tells the turns that whatever follows leaves as they are."""
        order = sorted(self._said, key=_place)
        # Of the first turns that are looked at what was said before them is not seen.
        unseen = _UNSEEN if len(order) > _LOOKED_AT else 0
        order = order[-_LOOKED_AT:]
        still = min(side.stretches.floor for side in self._sides)
        known: list[_Said] = []
        for said in order:
            if said.outcome is None or (said.planned.start >= still and not self._finished):
                break
            known.append(said)
        known = [said for said in known if said.turn is not None]
        turns = [said.turn for said in known if said.turn is not None]
        count = min(
            settled([_utterance(turn, turn.meta.transcript or "") for turn in turns]),
            settled([_utterance(turn, _words_of(turn)) for turn in turns]),
        )
        redacted, _ = redact_turns(turns, self.options.word_times)
        for said, turn in list(zip(known, redacted, strict=True))[unseen:count]:
            self._tell(said, words_within(turn))

    def _tell_rest(self, order: Sequence[_Said], turns: Sequence[Turn]) -> None:
        good = [said for said in order if said.turn is not None]
        for said, turn in zip(good, turns, strict=True):
            self._tell(said, turn)

    def _tell(self, said: _Said, turn: Turn) -> None:
        if not said.told:
            said.told = True
            self._news.append(TurnEnded(said.number, turn))

    def _rename(self) -> None:
        """Turns whose voice is now told to be another's, where both may be known alike."""
        if len({decision.fields for decision in self._decisions.values()}) > 1:
            return
        changed: dict[str, list[int]] = {}
        for said in self._said[-_LOOKED_AT:]:
            if said.talk is None:
                continue
            start, end = said.planned.start - said.place, said.planned.end - said.place
            name = self._name(said.talk.speaker_of(start, end))
            if name == said.planned.speaker:
                continue
            said.planned = replace(said.planned, speaker=name)
            if said.turn is not None:
                said.turn = said.turn.model_copy(update={"speaker": name})
                if said.told:
                    changed.setdefault(name, []).append(said.number)
        self._news += [Renamed(tuple(numbers), name) for name, numbers in changed.items()]

    # Names and what may be known of them.

    def _name(self, number: int) -> str:
        """Of a signal, or of a voice on a shared one."""
        if self._speakers is not None:
            name = shared_name(self.options, number)
            if name not in self._decisions:
                self._names.append(name)
                self._decide(self._names)
            return name
        signal = self._activity.signals[number]
        roles = self.options.roles
        return roles[number] if roles else f"speaker_{signal.channel}"

    def _decide(self, names: Sequence[str]) -> None:
        options = self.options
        self._decisions, notes = decide(names, options.policy, options.fields, options.roles)
        self._notes = notes

    def _shows_partials(self) -> bool:
        """Whether words may be told before it is known whose they are."""
        return self._wanted and self._all_may("Transcript")

    def _all_may(self, name: str) -> bool:
        """Whether a field is computed of everybody who may talk."""
        return name in self.model.fields and all(
            name in decision.fields for decision in self._decisions.values()
        )

    def _spoken_names(self) -> list[tuple[str, int | None]]:
        """Speakers in the order of the report, with their channel if they have it alone."""
        signals = self._activity.signals
        if self._speakers is None and len(self._sides) > 1:
            spoken = {said.planned.row for said in self._said}
            return [
                (self._name(side.row), signals[side.row].channel)
                for side in self._sides
                if side.row in spoken or signals[side.row].channel not in self._absent
            ]
        channel = signals[0].channel if len(signals[0].sources) == 1 else None
        order = sorted(self._said, key=_place)
        return [(name, channel) for name in dict.fromkeys(said.planned.speaker for said in order)]

    def _missed(self, names: Sequence[tuple[str, int | None]]) -> list[str]:
        """What is to be said of speakers who were asked for and not found, if there was speech."""
        asked = asked_speakers(self.options)
        if self._speakers is None or asked is None or not names or len(names) >= asked:
            return []
        planned = [said.planned for said in self._said]
        spoken = sum(end - start for start, end in (turn.counted for turn in planned))
        return [fewer_speakers(asked, len(names), spoken / self.rate)]

    def _with_copies(self, signal: Signal) -> Signal:
        """A signal that stands for the channels that turned out to carry it too."""
        own = [copy for copy, original in self._copies.items() if original == signal.channel]
        return replace(signal, covers=(*signal.covers, *own)) if own else signal

    def _plan(self, turns: Sequence[PlannedTurn] = (), whole: bool = False) -> CallPlan:
        """The call's plan with these turns, as a file's would be.

        Args:
            whole: also what only the report needs.
        """
        names = self._spoken_names() if whole else []
        decisions = {name: self._decisions[name] for name, _ in names if name in self._decisions}
        activity = self._activity
        return CallPlan(
            audio=AudioInfo(
                path=None,
                duration=round(self.seconds, 6),
                sample_rate=self.rate,
                channels=self.channels,
                codec=self._codec,
            ),
            options=self.options,
            rate=self.rate,
            samples=activity.samples,
            signals=tuple(map(self._with_copies, activity.signals)),
            turns=tuple(turns),
            clips=tuple((index, 0) for index in range(len(turns))),
            speakers=tuple(names),
            skipped=tuple(side.skipped for side in self._sides),
            dead=self._dead,
            decisions=decisions,
            warnings=tuple(dict.fromkeys([*self._warnings, *self._missed(names), *self._notes])),
            peaks=self._peaks.peaks() if whole else None,
        )


def _check(options: CallOptions, rate: int, channels: int) -> None:
    if rate not in VAD_RATES:
        raise UsageError(f"the rate is {rate} Hz", "live calls come at 8000 or 16000 Hz")
    if channels not in (1, 2):
        raise UsageError(f"there are {channels} channels", "live calls have one or two")
    if not options.vad:
        raise UsageError(
            "a live call has turns only by voice activity", "leave vad out, or send the file"
        )
    many = channels > 1 and options.channels != "mono"
    if many and options.roles is not None and len(options.roles) != channels:
        raise UsageError(
            f"{len(options.roles)} roles were given for {channels} channels",
            "name one for each channel, in their order",
        )
    if many and options.speakers not in (None, channels):
        raise UsageError(
            f"{options.speakers} speakers were asked for, but each of {channels} channels is one",
            "leave speakers out, or mix the channels with channels=mono",
        )


def _speakers(
    options: CallOptions, embedder: EmbedderSource | None, rate: int, hop: int
) -> LiveSpeakers:
    from speechmeta.diarization.live_speakers import LiveSpeakers

    asked = asked_speakers(options)
    made = None if embedder is None or asked == 1 else embedder()
    if made is None and asked not in (None, 1):
        raise UsageError(
            "this checkpoint cannot tell speakers apart: it has no encoder for that",
            "send a channel for each",
        )
    return LiveSpeakers(made, rate, hop, asked)


def _from_floor(stretch: Stretch, side: _Side) -> Stretch:
    """The rest of a turn that was cut begins at the cut, though that may be in a pause."""
    if not side.rest:
        return stretch
    first, *others = stretch.runs
    floor = side.stretches.floor
    return Stretch((Speech(floor, first.end), *others), stretch.ended)


def _place(said: _Said) -> tuple[int, int, int]:
    return said.planned.start, said.planned.end, said.planned.row


def _utterance(turn: Turn, text: str) -> Utterance:
    return Utterance(text, turn.speaker, turn.start, turn.end)


def _words_of(turn: Turn) -> str:
    return " ".join(word.word for word in turn.words or []) or turn.meta.transcript or ""


__all__ = [
    "Ask",
    "LiveCall",
    "LiveModel",
    "News",
    "PartialWords",
    "Renamed",
    "TurnEnded",
    "TurnFailed",
]
