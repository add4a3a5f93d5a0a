"""SpeechLLM's published table, for reading beside a run; it is not comparable with one."""

from __future__ import annotations

from typing import Any

PROTOCOL = (
    "SpeechLLM's own table (skit-ai/SpeechLLM, README at f44d361). The only evaluation code in "
    "that repository, trainer.py test_step, is teacher-forced: every predicted token is the "
    "argmax after the correct previous tokens. Word error rates are means over utterances, "
    "and lower-casing is the only normalisation. A free-running corpus WER cannot be compared "
    "with them; --teacher-forced reproduces their protocol."
)

COLUMNS = {
    "librispeech_clean_wer": "LibriSpeech clean WER %",
    "librispeech_other_wer": "LibriSpeech other WER %",
    "librispeech_clean_gender": "LibriSpeech clean gender",
    "librispeech_other_gender": "LibriSpeech other gender",
    "commonvoice_wer": "Common Voice WER %",
    "commonvoice_gender": "Common Voice gender",
    "commonvoice_age": "Common Voice age",
    "commonvoice_accent": "Common Voice accent",
}

ROWS: tuple[tuple[str, tuple[float, ...]], ...] = (
    (
        "speechllm-2B (HuBERT-XL + TinyLlama)",
        (6.73, 9.13, 0.9496, 0.9217, 25.66, 0.8680, 0.6041, 0.6959),
    ),
    (
        "speechllm-1.5B (WavLM-L + TinyLlama)",
        (11.51, 16.68, 0.9594, 0.9297, 26.02, 0.9476, 0.6498, 0.8121),
    ),
)


DATASETS = {"librispeech": "librispeech_", "commonvoice": "commonvoice_"}
"""The data sets that the table is about, and how the names of their columns begin."""


def published_table(dataset: str) -> dict[str, Any] | None:
    """The table as it appears in a report's JSON, with its protocol.

    None where it says nothing of the data set."""
    if dataset not in DATASETS:
        return None
    return {
        "protocol": PROTOCOL,
        "rows": [
            {"checkpoint": name, **dict(zip(COLUMNS, values, strict=True))} for name, values in ROWS
        ],
    }
