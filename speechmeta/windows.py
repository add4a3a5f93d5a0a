"""Long audio in pieces that a model was made for, and one record out of theirs.

Speech models silently cut or degrade beyond the length they were trained on. Here a long
waveform is cut at its quietest places, every piece is decoded, and the records are joined:
nothing is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from speechmeta.audio import SAMPLE_RATE
from speechmeta.decoding.record import DecodedRecord
from speechmeta.schema import LABEL_FIELDS

MAX_WINDOW_SECONDS = 30.0
"""Longest piece that is decoded at once."""

SEARCH_SHARE = 0.4
"""Share of a piece, at its end, in which the quietest place is looked for."""

FRAME_SECONDS = 0.1
"""Length over which loudness is measured: longer than the closure of a stop consonant, so
that a cut falls between words."""


def cut_quietly(
    waveform: npt.NDArray[np.float32], max_seconds: float = MAX_WINDOW_SECONDS
) -> list[tuple[int, int]]:
    """Bounds (start, end) in samples of pieces of at most `max_seconds`, without gaps.

    Args:
        waveform: (samples,) at 16 kHz.
    """
    longest = max(1, round(max_seconds * SAMPLE_RATE))
    frame = max(1, min(round(FRAME_SECONDS * SAMPLE_RATE), longest // 4))
    bounds = []
    start = 0
    while len(waveform) - start > longest:
        first = start + round(longest * (1 - SEARCH_SHARE))
        stretch = waveform[first : start + longest].astype(np.float64)
        sums = np.concatenate([[0.0], np.cumsum(stretch**2)])
        energy = sums[frame:] - sums[:-frame]
        end = first + int(energy.argmin()) + frame // 2
        bounds.append((start, end))
        start = end
    return [*bounds, (start, len(waveform))]


def join_records(records: Sequence[DecodedRecord], seconds: Sequence[float]) -> DecodedRecord:
    """One record for consecutive pieces of one voice.

    It is speech if any piece is; transcripts are put together, and the probabilities of
    labels are averaged over the pieces with speech, weighted by their length.

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
    heard = spoken or list(zip(records, seconds, strict=True))
    values = dict(heard[0][0].values)
    probabilities = {}
    for field in heard[0][0].probabilities:
        # Whether there is speech is a matter of all pieces, how it sounds of those with speech.
        pieces = heard if field in LABEL_FIELDS else zip(records, seconds, strict=True)
        probabilities[field] = _average(
            [(record.probabilities[field], length) for record, length in pieces]
        )
        if field in LABEL_FIELDS and spoken:
            values[field] = max(probabilities[field], key=probabilities[field].__getitem__)
    if "Transcript" in values:
        texts = [str(record.values["Transcript"] or "") for record, _ in heard]
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
    )


def _average(tables: Sequence[tuple[dict[str, float], float]]) -> dict[str, float]:
    total = sum(length for _, length in tables)
    return {
        value: sum(table[value] * length for table, length in tables) / total
        for value in tables[0][0]
    }
