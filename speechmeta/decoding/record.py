"""What decoding gives for one clip, before it is validated."""

from __future__ import annotations

from dataclasses import dataclass, field

from speechmeta.schema import LABEL_FIELDS, LabelSets, SpeakerMeta

TRUNCATED = "transcript_truncated"
LOOP = "transcript_loop"


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
    """

    values: dict[str, bool | str | None]
    probabilities: dict[str, dict[str, float]] = field(default_factory=dict)
    text: str = ""
    flags: tuple[str, ...] = ()
    forced_tokens: int = 0
    sampled_tokens: int = 0
    forward_passes: int = 0
    transcript_tokens: int = 0

    def to_meta(self, label_sets: LabelSets, min_confidence: float = 0.0) -> SpeakerMeta:
        """The validated result.

        Args:
            label_sets: the checkpoint's, by field name.
            min_confidence: a label whose probability is below this becomes None.
        """
        confidence = {name: max(table.values()) for name, table in self.probabilities.items()}
        values = {
            name: None
            if name in LABEL_FIELDS and confidence.get(name, 1.0) < min_confidence
            else value
            for name, value in self.values.items()
        }
        return SpeakerMeta.model_validate(
            {
                **values,
                "confidence": confidence,
                "probabilities": self.probabilities,
                "flags": self.flags,
            },
            context={"label_sets": label_sets},
        )
