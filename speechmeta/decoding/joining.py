"""One record out of those of consecutive pieces of one voice."""

from __future__ import annotations

from collections.abc import Sequence

from speechmeta.decoding.record import DecodedRecord, TimedWord
from speechmeta.schema import LABEL_FIELDS


def join_records(records: Sequence[DecodedRecord], seconds: Sequence[float]) -> DecodedRecord:
    """One record for consecutive pieces of one voice.

    It is speech if any piece is; transcripts and words are put together, and the probabilities
    of labels and the confidence in the transcript are averaged over the pieces with speech,
    weighted by their length.

    Args:
        records: of the pieces, in order.
        seconds: the length of each.
    """
    if len(records) == 1:
        return records[0]
    spoken = [
        (record, length)
        for record, length in zip(records, seconds, strict=True)
        if record.values.get("SpeechActivity") is not False
    ]
    voiced = spoken or list(zip(records, seconds, strict=True))
    values = dict(voiced[0][0].values)
    probabilities = {}
    for field in voiced[0][0].probabilities:
        # Whether there is speech is a matter of all pieces, how it sounds of those with speech.
        pieces = voiced if field in LABEL_FIELDS else zip(records, seconds, strict=True)
        probabilities[field] = _average(
            [(record.probabilities[field], length) for record, length in pieces]
        )
        if field in LABEL_FIELDS and spoken:
            values[field] = max(probabilities[field], key=probabilities[field].__getitem__)
    if any("Transcript" in record.values for record, _ in voiced):
        texts = [str(record.values.get("Transcript") or "") for record, _ in voiced]
        values["Transcript"] = " ".join(text.strip() for text in texts if text.strip())
    return DecodedRecord(
        values=values,
        probabilities=probabilities,
        text="\n".join(record.text for record in records),
        flags=tuple(dict.fromkeys(flag for record in records for flag in record.flags)),
        forced_tokens=sum(record.forced_tokens for record in records),
        sampled_tokens=sum(record.sampled_tokens for record in records),
        forward_passes=sum(record.forward_passes for record in records),
        transcript_tokens=sum(record.transcript_tokens for record in records),
        words=_joined_words(voiced, records, seconds),
        transcript_confidence=_confidence(voiced),
        language=max(voiced, key=lambda item: item[1])[0].language,
        no_transcript=next((r.no_transcript for r in records if r.no_transcript), None),
    )


def _average(tables: Sequence[tuple[dict[str, float], float]]) -> dict[str, float]:
    total = sum(length for _, length in tables)
    return {
        value: sum(table[value] * length for table, length in tables) / total
        for value in tables[0][0]
    }


def _joined_words(
    voiced: Sequence[tuple[DecodedRecord, float]],
    records: Sequence[DecodedRecord],
    seconds: Sequence[float],
) -> list[TimedWord] | None:
    """The words of the pieces with speech, from the start of the first; None if one has none.

    A piece whose transcript another model failed to write is no reason to lose the others' words.
    """
    voiced = [(record, length) for record, length in voiced if record.no_transcript is None]
    if any(record.words is None for record, _ in voiced):
        return None
    chosen = {id(record) for record, _ in voiced}
    words: list[TimedWord] = []
    start = 0.0
    for record, length in zip(records, seconds, strict=True):
        if id(record) in chosen:
            words += [word.shifted(start) for word in record.words or []]
        start += length
    return words


def _confidence(voiced: Sequence[tuple[DecodedRecord, float]]) -> float | None:
    known = [
        (record.transcript_confidence, length)
        for record, length in voiced
        if record.transcript_confidence is not None
    ]
    total = sum(length for _, length in known)
    return sum(value * length for value, length in known) / total if total else None
