"""What rules find in a report: `find_alerts(report, rules)`.

Rules see what the document shows, redacted where that was asked, and nothing else.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from speechmeta.pipeline.conversation import distribution, spoken, talk_runs
from speechmeta.pipeline.rules import (
    WORD,
    Feeling,
    Interruptions,
    NotSaid,
    Rule,
    RuleSet,
    Said,
    Silence,
    TalkShare,
    compiled,
    plain,
    words_of,
)
from speechmeta.schema import Alert, CallReport, Turn

PHRASE_PAUSE_SECONDS = 2.0
"""A phrase goes on in the speaker's next turn after a pause of at most this length."""

PATTERN_SECONDS = 1.0
"""Of the processor's time that a pattern may take for one call."""

PATTERNS_SECONDS = 5.0
"""The same for all patterns together."""

Window = tuple[float, float]


def find_alerts(report: CallReport, rules: RuleSet) -> tuple[list[Alert], list[str]]:
    """The alerts in order of time, and warnings of rules that could not be judged."""
    call = _Call(report)
    alerts: list[Alert] = []
    notes: list[str] = []
    for rule in rules.rule:
        start, end = rule.window(call.duration)
        if start >= end:
            continue  # the call is too short for the rule to look at anything
        reason = call.unjudged(rule)
        if reason:
            notes.append(f"the rule {rule.name!r} was not judged: {reason}")
            continue
        try:
            for alert in call.alerts(rule, (start, end)):
                alerts.append(alert)
        except TimeoutError:
            notes.append(
                f"the rule {rule.name!r} was given up: its pattern takes more than "
                f"{PATTERN_SECONDS:g} s for this call, or all patterns more than "
                f"{PATTERNS_SECONDS:g} s"
            )
    alerts.sort(key=lambda alert: (alert.start, alert.end))
    return alerts, notes


@dataclass(frozen=True)
class _Token:
    """A word of a turn, from `start` to `end` in the characters of its transcript."""

    word: str
    turn: int
    start: int
    end: int


class _Call:
    """A report, and what several rules look up in it."""

    def __init__(self, report: CallReport) -> None:
        self.report = report
        self.duration = report.audio.duration
        names = [speaker.speaker for speaker in report.speakers]
        self.speakers = list(dict.fromkeys([*names, *(turn.speaker for turn in report.turns)]))
        self.order = sorted(
            range(len(report.turns)), key=lambda i: (report.turns[i].start, report.turns[i].end)
        )
        self._tokens: dict[str, list[_Token]] = {}
        self._patterns_left = PATTERNS_SECONDS

    def speakers_of(self, rule: Rule) -> list[str]:
        """Those that the rule is for."""
        if isinstance(rule, Silence):
            return self.speakers
        return [name for name in self.speakers if rule.is_for(name)]

    def has(self, speaker: str, field: str, whole: bool) -> bool:
        """Whether a field was computed of a speaker's turns; `whole`: of every one of them, as it
        may have failed in some."""
        mine = [field in t.meta.fields for t in self.report.turns if t.speaker == speaker]
        if mine:
            return all(mine) if whole else any(mine)
        policy = self.report.policy
        return policy is not None and any(
            item.speaker == speaker and field in item.fields for item in policy.speakers
        )

    def unjudged(self, rule: Rule) -> str:
        """Why the rule says nothing of this call; empty where it does."""
        speakers = self.speakers_of(rule)
        if isinstance(rule, Silence):
            return ""
        if not speakers:
            if rule.role is None:
                return "" if isinstance(rule, NotSaid) else "nobody was heard"
            return f"no speaker is called {rule.role!r}; --roles names them"
        if rule.needs is None:
            return ""
        # What nobody said can only be known where all words are.
        whole = isinstance(rule, NotSaid)
        without = [name for name in speakers if not self.has(name, rule.needs, whole)]
        if without and (whole or len(without) == len(speakers)):
            return f"there is no {rule.needs} of {', '.join(without)}"
        return ""

    def alerts(self, rule: Rule, window: Window) -> Iterator[Alert]:
        """What one rule finds.

        Raises:
            TimeoutError: its pattern takes too long.
        """
        if isinstance(rule, Said):
            yield from self._said(rule, window)
        elif isinstance(rule, NotSaid):
            if next(self._said(rule, window), None) is None:
                role = self.speakers_of(rule)[0] if rule.role is not None else None
                yield _alert(rule, window, speaker=role)
        elif isinstance(rule, Silence):
            yield from self._silences(rule, window)
        elif isinstance(rule, Interruptions):
            yield from self._interruptions(rule, window)
        elif isinstance(rule, Feeling):
            yield from self._feelings(rule, window)
        else:
            yield from self._shares(rule, window)

    def _said(self, rule: Said | NotSaid, window: Window) -> Iterator[Alert]:
        """The first match of each turn that is in the window."""
        phrases = [words_of(phrase) for phrase in rule.phrases]
        left = min(PATTERN_SECONDS, self._patterns_left)
        for speaker in self.speakers_of(rule):
            matches = self._phrases(speaker, phrases)
            for index in self._turns_of([speaker]):
                turn = self.report.turns[index]
                text = turn.meta.transcript or ""
                spans = list(matches.get(index, ()))
                if rule.pattern is not None and text:
                    if left <= 0:
                        raise TimeoutError
                    begun = time.process_time()
                    try:
                        found = compiled(rule.pattern).finditer(text, timeout=left)
                        # A match without characters is none.
                        spans += [item.span() for item in found if item.group()]
                    finally:
                        spent = time.process_time() - begun
                        left -= spent
                        self._patterns_left -= spent
                timed = [(*_times(turn, *span), span) for span in spans]
                inside = [item for item in timed if window[0] <= item[0] < window[1]]
                if inside:
                    start, end, span = min(inside)
                    yield _alert(rule, (start, end), index, turn.speaker, text[slice(*span)])

    def _phrases(
        self, speaker: str, phrases: Sequence[list[str]]
    ) -> dict[int, list[tuple[int, int]]]:
        """By turn, the places in it at which one of the phrases begins."""
        tokens = self._tokens_of(speaker)
        wanted = {phrase[0] for phrase in phrases}
        found: dict[int, list[tuple[int, int]]] = {}
        for place, token in enumerate(tokens):
            if token.word not in wanted:
                continue
            for phrase in phrases:
                part = tokens[place : place + len(phrase)]
                if [item.word for item in part] == phrase and self._is_one(part):
                    # Of a phrase that goes on in the next turn, what this one has.
                    last = [item for item in part if item.turn == token.turn][-1]
                    found.setdefault(token.turn, []).append((token.start, last.end))
                    break
        return found

    def _is_one(self, tokens: Sequence[_Token]) -> bool:
        turns = self.report.turns
        return all(
            turns[after.turn].start - turns[before.turn].end <= PHRASE_PAUSE_SECONDS
            for before, after in itertools.pairwise(tokens)
            if before.turn != after.turn
        )

    def _tokens_of(self, speaker: str) -> list[_Token]:
        if speaker not in self._tokens:
            self._tokens[speaker] = [
                _Token(plain(match.group()), index, match.start(), match.end())
                for index in self._turns_of([speaker])
                for match in WORD.finditer(self.report.turns[index].meta.transcript or "")
            ]
        return self._tokens[speaker]

    def _turns_of(self, speakers: Sequence[str]) -> Iterator[int]:
        """Indices of the turns with speech, in order of time."""
        for index in self.order:
            turn = self.report.turns[index]
            if turn.speaker in speakers and turn.meta.speech_activity is not False:
                yield index

    def _turn_at(self, seconds: float, speaker: str | None = None) -> int | None:
        """The first turn that begins at a time or later; of a speaker, the one nearest to it."""
        indices = list(self._turns_of([speaker] if speaker is not None else self.speakers))
        if speaker is None:
            later = (i for i in indices if self.report.turns[i].start >= seconds - 1e-3)
            return next(later, None)
        return min(indices, key=lambda i: abs(self.report.turns[i].start - seconds), default=None)

    def _silences(self, rule: Silence, window: Window) -> Iterator[Alert]:
        talk = sorted((run.start, run.end) for run in talk_runs(self.report.turns))
        quiet_from = window[0]
        for start, end in [*talk, (window[1], window[1])]:
            until = min(start, window[1])
            if until - quiet_from > rule.over:
                yield _alert(
                    rule,
                    (quiet_from, until),
                    self._turn_at(until) if start < window[1] else None,
                    value=until - quiet_from,
                )
            quiet_from = max(quiet_from, end)

    def _interruptions(self, rule: Interruptions, window: Window) -> Iterator[Alert]:
        found = self.report.conversation.interruptions
        for speaker in self.speakers_of(rule):
            times = [
                (item.at, item.at + (item.overlap_seconds or 0.0))
                for item in found
                if item.by == speaker and window[0] <= item.at < window[1]
            ]
            if len(times) > rule.over:
                turn = self._turn_at(times[rule.over][0], speaker)
                span = (times[0][0], times[-1][1])
                yield _alert(rule, span, turn, speaker, value=float(len(times)))

    def _feelings(self, rule: Feeling, window: Window) -> Iterator[Alert]:
        for speaker in self.speakers_of(rule):
            stretch: list[int] = []
            inside = [
                index
                for index in self._turns_of([speaker])
                if window[0] <= self.report.turns[index].start < window[1]
            ]
            for index in inside:
                if self._probability(index, rule) >= rule.probability:
                    stretch.append(index)
                    continue
                yield from self._felt(rule, stretch, speaker)
                stretch = []
            yield from self._felt(rule, stretch, speaker)

    def _felt(self, rule: Feeling, stretch: Sequence[int], speaker: str) -> Iterator[Alert]:
        turns = [self.report.turns[index] for index in stretch]
        seconds = sum(turn.end - turn.start for turn in turns)
        if not turns or seconds <= rule.over:
            return
        mean = sum(
            self._probability(index, rule) * (turn.end - turn.start)
            for index, turn in zip(stretch, turns, strict=True)
        ) / max(seconds, 1e-9)
        span = (turns[0].start, turns[-1].end)
        yield _alert(rule, span, stretch[0], speaker, rule.emotion, mean)

    def _probability(self, index: int, rule: Feeling) -> float:
        return distribution(self.report.turns[index], "Emotion").get(rule.emotion, 0.0)

    def _shares(self, rule: TalkShare, window: Window) -> Iterator[Alert]:
        talk = dict.fromkeys(self.speakers, 0.0)
        for run in talk_runs(spoken(self.report.turns)):
            talk[run.speaker] += max(0.0, min(run.end, window[1]) - max(run.start, window[0]))
        total = sum(talk.values())
        for speaker in self.speakers_of(rule) if total > 0 else ():
            share = talk[speaker] / total
            over = rule.over is not None and share > rule.over
            under = rule.under is not None and share < rule.under
            if over or under:
                yield _alert(rule, window, speaker=speaker, value=share)


def _alert(
    rule: Rule,
    span: Window,
    turn: int | None = None,
    speaker: str | None = None,
    text: str | None = None,
    value: float | None = None,
) -> Alert:
    return Alert(
        rule=rule.name,
        when=rule.when,
        start=round(span[0], 3),
        end=round(span[1], 3),
        turn=turn,
        speaker=speaker,
        text=text,
        value=None if value is None else round(value, 4),
    )


def _times(turn: Turn, start: int, end: int) -> Window:
    """When characters of a transcript were said: by the words' times, else the whole turn."""
    words = turn.words or []
    if " ".join(word.word for word in words) != turn.meta.transcript:
        return turn.start, turn.end
    place, inside = 0, []
    for word in words:
        if place < end and place + len(word.word) > start:
            inside.append(word)
        place += len(word.word) + 1
    if not inside:
        return turn.start, turn.end
    return inside[0].start, inside[-1].end


__all__ = ["find_alerts"]
