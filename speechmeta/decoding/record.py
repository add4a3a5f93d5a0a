"""What decoding gives for one clip, before it is validated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from speechmeta.errors import SpeechMetaError
from speechmeta.schema import LABEL_FIELDS, LabelSets, SpeakerMeta, threshold_of

TRUNCATED = "transcript_truncated"
LOOP = "transcript_loop"
TRANSCRIPT_FAILED = "transcript_failed"
"""Another model was to write the transcript and did not."""


@dataclass(frozen=True)
class TimedWord:
    """One word of a transcript, in the transcript's own spelling.

    Attributes:
        start, end: seconds from the start of the clip.
        probability: of its tokens, as the model wrote them.
    """

    word: str
    start: float
    end: float
    probability: float

    def shifted(self, seconds: float) -> TimedWord:
        """The word this many seconds later."""
        return replace(self, start=self.start + seconds, end=self.end + seconds)


@dataclass
class DecodedRecord:
    """One record as a checkpoint wrote it.

    Attributes:
        values: by field name; SpeechActivity is a bool, labels are spelled as in the label
            set, and None where there is no speech.
        probabilities: by field name, the model's probability of each value of a closed set.
        text: the text as the checkpoint writes it; its layout need not be valid JSON.
        flags: `transcript_truncated` where the budget ended the transcript,
            `transcript_loop` where a repetition did.
        forced_tokens: tokens for which the grammar left no choice.
        sampled_tokens: tokens that the model chose.
        forward_passes: passes through the decoder that this record took part in.
        transcript_tokens: those of the sampled tokens that are the transcript's.
        words: of the transcript, with times; None where they were not asked for or not found.
        transcript_confidence: how sure the model is of the transcript, 0 to 1, where it says.
        abstain_below: by label field, the probability below which the checkpoint gives no label
            of this clip.
        language: of the transcript, as it was given or detected; None where the model has one only.
        no_transcript: what kept another model from writing the transcript, or a piece of it.
    """

    values: dict[str, bool | str | None]
    probabilities: dict[str, dict[str, float]] = field(default_factory=dict)
    text: str = ""
    flags: tuple[str, ...] = ()
    forced_tokens: int = 0
    sampled_tokens: int = 0
    forward_passes: int = 0
    transcript_tokens: int = 0
    abstain_below: dict[str, float] = field(default_factory=dict)
    words: list[TimedWord] | None = None
    transcript_confidence: float | None = None
    language: str | None = None
    no_transcript: SpeechMetaError | None = None

    def to_meta(
        self, label_sets: LabelSets, min_confidence: float | Mapping[str, float] = 0.0
    ) -> SpeakerMeta:
        """The validated result.

        Args:
            label_sets: the checkpoint's, by field name.
            min_confidence: a label whose probability is below this becomes None: one number, or
                the checkpoint's own ones by field, beside which `abstain_below` counts.
        """
        confidence = {name: max(table.values()) for name, table in self.probabilities.items()}
        values = {
            name: None if name in LABEL_FIELDS and confidence.get(name, 1.0) < limit else value
            for name, value in self.values.items()
            for limit in [self._limit(name, min_confidence)]
        }
        return SpeakerMeta.model_validate(
            {
                **values,
                "probabilities": self.probabilities,
                "flags": self.flags,
            },
            context={"label_sets": label_sets},
        )

    def _limit(self, field: str, min_confidence: float | Mapping[str, float]) -> float:
        limit = threshold_of(field, min_confidence)
        if isinstance(min_confidence, Mapping):
            limit = max(limit, self.abstain_below.get(field, 0.0))
        return limit
