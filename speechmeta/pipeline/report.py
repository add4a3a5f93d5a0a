"""From a call's plan and its decoded clips to the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from speechmeta.decoding.joining import join_records
from speechmeta.decoding.record import DecodedRecord, TimedWord
from speechmeta.errors import DecodingError, SpeechMetaError
from speechmeta.pipeline.alerts import find_alerts
from speechmeta.pipeline.conversation import measure, summarize
from speechmeta.pipeline.plan import CallPlan, PlannedTurn
from speechmeta.pipeline.redaction import redact_report
from speechmeta.schema import (
    FIELDS,
    AppliedPolicy,
    CallReport,
    Coverage,
    LabelSets,
    ModelInfo,
    PartFailure,
    SpeakerFields,
    Turn,
    Word,
)

Outcome = DecodedRecord | SpeechMetaError
"""What decoding gave for one clip."""

OVERLAPPED_SECONDS = 0.1
"""Two turns with less time in common merely touch."""

NOT_ALIGNED = "words_not_aligned"
"""Flag of a turn with a transcript the times of whose words were not found."""


def assemble_call(
    plan: CallPlan,
    outcomes: Sequence[Outcome],
    model: ModelInfo,
    label_sets: LabelSets,
    abstain_below: float | Mapping[str, float] = 0.0,
    given: Sequence[str] = FIELDS,
) -> CallReport:
    """Makes the report.

    A turn that could not be decoded is left out, counted as skipped and named in the warnings.

    Args:
        outcomes: one for each of `plan.clips`, in that order.
        label_sets: the checkpoint's.
        abstain_below: the checkpoint's, one number or one by field, for calls that were asked for
            without a `min_confidence`.
        given: the fields that the model gives.

    Raises:
        SpeechMetaError: not one turn could be decoded; the first turn's error.
    """
    if len(outcomes) != len(plan.clips):
        raise DecodingError(
            f"the call has {len(plan.clips)} clips, and {len(outcomes)} were decoded",
            "give one record for each clip, in order",
        )
    asked = plan.options.min_confidence
    threshold = abstain_below if asked is None else asked
    by_turn: dict[int, dict[int, Outcome]] = {}
    for (number, piece), item in zip(plan.clips, outcomes, strict=True):
        by_turn.setdefault(number, {})[piece] = item
    turns: list[Turn] = []
    overlapped = overlapped_turns(plan.turns, plan.rate)
    warnings = list(plan.warnings)
    errors: list[SpeechMetaError] = []
    speech = [0.0] * len(plan.signals)
    skipped = [float(samples) for samples in plan.skipped]
    absent = [_Absence(plan, signal.channel) for signal in plan.signals]
    unwritten: dict[tuple[str, str], list[int]] = {}
    for index, planned in enumerate(plan.turns):
        pieces = [by_turn[index][piece] for piece in range(len(planned.pieces))]
        failed = [item for item in pieces if isinstance(item, SpeechMetaError)]
        if failed:
            errors.append(failed[0])
            skipped[planned.row] += absent[planned.row].present(planned)
            warnings.append(
                f"{planned.start / plan.rate:.2f} to {planned.end / plan.rate:.2f} s of channel "
                f"{plan.signals[planned.row].channel} could not be analysed: {failed[0].message}"
            )
            continue
        good = [item for item in pieces if isinstance(item, DecodedRecord)]
        if (why := next((r.no_transcript for r in good if r.no_transcript), None)) is not None:
            unwritten.setdefault((why.message, why.hint), []).append(len(turns))
        turn = turn_of(plan, planned, good, label_sets, threshold, overlapped[index])
        turns.append(turn)
        if turn.meta.speech_activity is not False:
            speech[planned.row] += absent[planned.row].present(planned)
    if errors and not turns:
        raise errors[0]
    report = CallReport(
        audio=plan.audio,
        model=model,
        turns=turns,
        speakers=[
            summarize(turns, plan.audio.duration, name, channel, threshold)
            for name, channel in plan.speakers
        ],
        conversation=measure(turns, plan.audio.duration, [name for name, _ in plan.speakers]),
        coverage=_coverage(plan, speech, skipped),
        failures=[
            PartFailure(part="transcript", message=message, hint=hint, turns=numbers)
            for (message, hint), numbers in unwritten.items()
        ],
        policy=_applied(plan, given),
        warnings=warnings,
    ).with_peaks(plan.peaks)
    if plan.options.redact:
        report = redact_report(report, keep_words=plan.options.word_times)
    report = report.model_copy(update={"turns": [words_within(turn) for turn in report.turns]})
    if plan.options.rules is None:
        return report
    # Of the redacted report: an alert quotes what was said.
    alerts, notes = find_alerts(report, plan.options.rules)
    return report.model_copy(update={"alerts": alerts, "warnings": [*report.warnings, *notes]})


def words_within(turn: Turn) -> Turn:
    """The turn with its words between its start and its end.

    A clip has a little more around the turn, and the first word may begin there. What is
    silenced for redaction is made of the times before this.
    """
    if not turn.words:
        return turn
    words = [
        word.model_copy(
            update={
                "start": min(max(word.start, turn.start), turn.end),
                "end": min(max(word.end, turn.start), turn.end),
            }
        )
        for word in turn.words
    ]
    return turn.model_copy(update={"words": words})


def _applied(plan: CallPlan, given: Sequence[str]) -> AppliedPolicy:
    speakers = []
    for name, decision in plan.decisions.items():
        final = decision.given_by(given)
        left_out = {field: final.left_out[field] for field in FIELDS if field in final.left_out}
        speakers.append(SpeakerFields(speaker=name, fields=list(final.fields), left_out=left_out))
    return AppliedPolicy(name=plan.options.policy, speakers=speakers)


def turn_of(
    plan: CallPlan,
    planned: PlannedTurn,
    records: Sequence[DecodedRecord],
    label_sets: LabelSets,
    threshold: float | Mapping[str, float],
    overlapped: bool = False,
) -> Turn:
    """One turn of a report.

    Args:
        planned: one like those of `plan.turns`. records: of its pieces.
        threshold: labels less probable than this are left out, one number or one by field.
    """
    lengths = [(end - start) / plan.rate for start, end in planned.pieces]
    record = join_records(records, lengths)
    meta = record.to_meta(label_sets, threshold)
    flags = list(meta.flags)
    words: list[Word] | None = None
    if plan.options.needs_words(any(item.words for item in records)) and meta.transcript:
        spoken = [
            (item, start / plan.rate)
            for item, (start, _) in zip(records, planned.pieces, strict=True)
            if item.values.get("Transcript")
        ]
        if any(item.words is None for item, _ in spoken):
            if plan.options.word_times:
                flags.append(NOT_ALIGNED)
        else:
            words = [
                _word(word.shifted(start)) for item, start in spoken for word in item.words or []
            ]
    sure = record.transcript_confidence if meta.transcript else None
    return Turn(
        start=round(planned.start / plan.rate, 3),
        end=round(planned.end / plan.rate, 3),
        channel=plan.signals[planned.row].channel,
        speaker=planned.speaker,
        meta=meta,
        confidence={name: round(value, 4) for name, value in meta.confidence.items()},
        transcript_confidence=None if sure is None else round(sure, 4),
        language=record.language if meta.transcript else None,
        loudness_db=planned.loudness_db,
        overlapped=overlapped or None,
        words=words,
        flags=flags,
    )


def overlapped_turns(turns: Sequence[PlannedTurn], rate: int) -> list[bool]:
    """Of each turn whether another speaker's turn has at least 0.1 s of its time.

    Args:
        turns: in order of time. rate: Hz of their times.
    """
    found = [False] * len(turns)
    going_on: list[int] = []
    for index, turn in enumerate(turns):
        going_on = [other for other in going_on if turns[other].end > turn.start]
        for other in going_on:
            both = min(turns[other].end, turn.end) - turn.start
            if turns[other].speaker != turn.speaker and both >= OVERLAPPED_SECONDS * rate:
                found[index] = found[other] = True
        going_on.append(index)
    return found


class EndedTurns:
    """The turns of a plan as their clips are decoded, one after the other.

    Args:
        plan, label_sets, abstain_below: as of `assemble_call`, whose turns these are.
    """

    def __init__(
        self,
        plan: CallPlan,
        label_sets: LabelSets,
        abstain_below: float | Mapping[str, float] = 0.0,
    ) -> None:
        self._plan, self._label_sets = plan, label_sets
        asked = plan.options.min_confidence
        self._threshold = abstain_below if asked is None else asked
        self._overlapped = overlapped_turns(plan.turns, plan.rate)
        self._clips = iter(plan.clips)
        self._decoded: dict[tuple[int, int], Outcome] = {}
        self.count = 0
        """Turns that ended, those that could not be decoded among them."""

    def add(self, outcomes: Sequence[Outcome]) -> list[Turn]:
        """Takes the next clips' outcomes; returns the turns that are whole with them.

        A turn comes when all before it have: their order is that of the report.
        """
        # The outcomes first: `zip` takes one more of what comes before the shortest.
        pairs = zip(outcomes, self._clips, strict=False)
        self._decoded.update((clip, outcome) for outcome, clip in pairs)
        ended: list[Turn] = []
        while self.count < len(self._plan.turns):
            planned = self._plan.turns[self.count]
            keys = [(self.count, piece) for piece in range(len(planned.pieces))]
            if not all(key in self._decoded for key in keys):
                break
            found = [self._decoded.pop(key) for key in keys]
            good = [item for item in found if isinstance(item, DecodedRecord)]
            if len(good) == len(found):
                over = self._overlapped[self.count]
                turn = turn_of(self._plan, planned, good, self._label_sets, self._threshold, over)
                ended.append(words_within(turn))
            self.count += 1
        return ended


class _Absence:
    """How much of a channel's turns the recording has no sound for."""

    def __init__(self, plan: CallPlan, channel: int) -> None:
        parts = sorted(
            (part.start * plan.rate, part.end * plan.rate)
            for part in plan.missing
            if part.first_channel <= channel < part.first_channel + part.channels
        )
        self._starts = np.array([start for start, _ in parts])
        self._sums = np.concatenate([[0.0], np.cumsum([end - start for start, end in parts])])
        self._ends = np.array([end for _, end in parts])

    def present(self, turn: PlannedTurn) -> float:
        """Samples of the turn that are there and in no other turn of its signal."""
        start, end = turn.counted
        if not self._starts.size:
            return end - start
        return end - start - (self._until(end) - self._until(start))

    def _until(self, sample: int) -> float:
        index = int(np.searchsorted(self._starts, sample))
        beyond = max(0.0, float(self._ends[index - 1]) - sample) if index else 0.0
        return float(self._sums[index]) - beyond


def _word(word: TimedWord) -> Word:
    return Word(
        word=word.word,
        start=round(word.start, 3),
        end=round(word.end, 3),
        probability=round(word.probability, 4),
    )


def _coverage(plan: CallPlan, speech: Sequence[float], skipped: Sequence[float]) -> Coverage:
    """Seconds over all channels: a signal counts for every channel it stands for."""
    total = plan.audio.duration * plan.audio.channels
    covers = [len(signal.covers) for signal in plan.signals]
    spoken = sum(n * count for n, count in zip(speech, covers, strict=True)) / plan.rate
    lost = sum(n * count for n, count in zip(skipped, covers, strict=True)) / plan.rate
    absent = sum((part.end - part.start) * part.channels for part in plan.missing)
    spoken, lost = round(spoken, 6), round(lost, 6)
    absent = round(min(absent, max(0.0, total - spoken - lost)), 6)
    return Coverage(
        speech_seconds=spoken,
        non_speech_seconds=round(max(0.0, total - spoken - lost - absent), 6),
        skipped_seconds=lost,
        missing_seconds=absent,
    )
