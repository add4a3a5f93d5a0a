"""Redaction of a report: transcripts, words, and the times at which private things were said."""

from __future__ import annotations

from collections.abc import Sequence

from speechmeta.pipeline.redaction.marks import Find
from speechmeta.pipeline.redaction.search import find_private, replaced
from speechmeta.pipeline.redaction.tokens import Utterance
from speechmeta.schema import CallReport, RedactedSpan, Turn, Word


def redact_report(report: CallReport, keep_words: bool = True) -> CallReport:
    """The report with the transcripts and words of all turns redacted.

    `redactions` gives the seconds at which something private was said: from its first word to
    its last where the words' times are known, else the whole turn.

    Args:
        keep_words: whether the turns keep their words; without, they only served for the times.
    """
    turns, spans = redact_turns(report.turns, keep_words)
    # A server that failed may have said in its answer what it was sent or heard.
    failures = [
        item.model_copy(update={"message": _hidden(item.message)}) for item in report.failures
    ]
    return report.model_copy(update={"turns": turns, "redactions": spans, "failures": failures})


def redact_turns(
    given: Sequence[Turn], keep_words: bool = True
) -> tuple[list[Turn], list[RedactedSpan]]:
    """The turns of a conversation redacted, and what was found in them; see `redact_report`."""
    order = sorted(range(len(given)), key=lambda index: given[index].start)
    turns = list(given)
    in_texts = _found([_spoken(turns[i], turns[i].meta.transcript or "") for i in order])
    in_words = _found([_spoken(turns[i], _text_of(turns[i])) for i in order])
    spans: list[RedactedSpan] = []
    for index, found, timed in zip(order, in_texts, in_words, strict=True):
        turn = turns[index]
        spans += _times(index, turn, found, timed)
        turns[index] = _redacted(turn, found, timed, keep_words)
    return turns, spans


def _hidden(text: str) -> str:
    return replaced(text, _found([Utterance(text)])[0])


def redact_words(words: Sequence[Word]) -> list[Word]:
    """Words with times: those of one find become one word from its first to its last."""
    text = " ".join(word.word for word in words)
    return _replaced_words(words, find_private([Utterance(text)])[0])


def _found(utterances: Sequence[Utterance]) -> list[list[Find]]:
    return find_private(utterances)


def _spoken(turn: Turn, text: str) -> Utterance:
    return Utterance(text, turn.speaker, turn.start, turn.end)


def _text_of(turn: Turn) -> str:
    # A turn whose words have no times still stands between those that have.
    return " ".join(word.word for word in turn.words or []) or turn.meta.transcript or ""


def _redacted(turn: Turn, found: Sequence[Find], timed: Sequence[Find], keep_words: bool) -> Turn:
    update: dict[str, object] = {}
    if turn.meta.transcript and found:
        # model_copy keeps which fields were asked for; the transcript is one of them.
        update["meta"] = turn.meta.model_copy(
            update={"transcript": replaced(turn.meta.transcript, found)}
        )
    if turn.words is not None:
        update["words"] = _replaced_words(turn.words, timed) if keep_words else None
    return turn.model_copy(update=update)


def _times(
    index: int, turn: Turn, found: Sequence[Find], timed: Sequence[Find]
) -> list[RedactedSpan]:
    if turn.words:
        return [
            RedactedSpan(
                turn=index,
                start=turn.words[first].start,
                end=turn.words[last].end,
                mark=item.mark,
            )
            for item, (first, last) in zip(timed, _places(turn.words, timed), strict=True)
        ]
    return [
        RedactedSpan(turn=index, start=turn.start, end=turn.end, mark=item.mark) for item in found
    ]


def _places(words: Sequence[Word], found: Sequence[Find]) -> list[tuple[int, int]]:
    """First and last word of each find in the words' text."""
    bounds = []
    place = 0
    for word in words:
        bounds.append((place, place + len(word.word)))
        place += len(word.word) + 1
    result = []
    for item in found:
        inside = [
            i for i, (start, end) in enumerate(bounds) if start < item.end and end > item.start
        ]
        result.append((inside[0], inside[-1]))
    return result


def _replaced_words(words: Sequence[Word], found: Sequence[Find]) -> list[Word]:
    text = " ".join(word.word for word in words)
    result: list[Word] = []
    taken = 0
    place = 0
    begins = []
    for word in words:
        begins.append(place)
        place += len(word.word) + 1
    for item, (first, last) in zip(found, _places(words, found), strict=True):
        # Punctuation on either side of the find stays, as it does in the transcript.
        before = text[begins[first] : item.start] if first >= taken else ""
        after = text[item.end : begins[last] + len(words[last].word)]
        if first < taken:
            # Two finds within one written word: the word is theirs together.
            result[-1] = result[-1].model_copy(
                update={"word": f"{result[-1].word}{item.mark}", "end": words[last].end}
            )
            taken = last + 1
            continue
        result += words[taken:first]
        result.append(
            words[first].model_copy(
                update={
                    "word": f"{before}{item.mark}{_own(after, found, item)}",
                    "end": words[last].end,
                    "probability": min(w.probability for w in words[first : last + 1]),
                }
            )
        )
        taken = last + 1
    return [*result, *words[taken:]]


def _own(after: str, found: Sequence[Find], item: Find) -> str:
    """What stays of a word behind a find, up to the next find in the same word."""
    nearest = min((other.start for other in found if other.start >= item.end), default=None)
    return after if nearest is None else after[: max(0, nearest - item.end)]
