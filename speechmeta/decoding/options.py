"""The options of decoding, in one object that every engine takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from speechmeta.decoding.layout import SPEECH_VALUES
from speechmeta.errors import ModelError, SpeechMetaError, UsageError

if TYPE_CHECKING:
    from speechmeta.decoding.grammar import Option


@dataclass(frozen=True)
class DecodeOptions:
    """How records are decoded.

    Attributes:
        batch_size: most records that are decoded together; halved when memory runs out.
        bucket_ratio: waveforms are encoded together while the shortest has at least this
            share of the longest one's samples; the rest would be padding.
        encoder_seconds: most seconds of audio, padding included, in one encoder pass.
        max_tokens_per_second: the transcript's budget in tokens per second of audio.
        min_budget: the smallest budget, in tokens, for short clips.
        max_transcript_tokens: the largest budget, in tokens; None leaves it to the length
            of the audio and to the decoder's context.
        loop_max_period: repetitions of up to so many tokens are looked for.
        loop_repeats: so many repetitions in a row make a loop ...
        loop_min_tokens: ... when they are at least so many tokens together.
        label_temperature: by field name; probabilities of labels are raised to the power
            of 1 / temperature and normalised again (calibration), before `label_prior`. 1 where it
            is not given.
        label_head_weight: by field name; weight of the encoder's label head against the decoder,
            0 to 1, where the checkpoint has one. 0 where it is not given.
        label_prior: by field name, by label, how common it was in training; probabilities are
            divided by it, so that what is rare among the recordings is not rare among the answers.
        tree_nodes: most tokens of one forward pass that scores several fields, the later
            ones under every option of the earlier ones. 0: one field a pass.
        transcript_search: `greedy` takes the decoder's best token at each step; `ctc` takes
            candidates from the CTC head's beam and scores them with the decoder in one pass.
        ctc_beam: candidates of the CTC search.
        ctc_weight: weight of the CTC head's log probability against the decoder's, 0 to 1.
        ngram_weight: in the CTC search, weight of the log probability of the checkpoint's n-gram
            model; 0, or a checkpoint without one, leaves the search to the CTC head.
        word_weight: in the CTC search, weight of the log probability of the checkpoint's word
            model; 0, or a checkpoint without one, leaves words to the n-gram.
        ctc_token_bonus: in the CTC search, added for each token.
        length_bonus: added to a candidate's score per token.
        beams: transcripts of a cross-attention decoder that are followed at the same time; 1 takes
            the best token at each step.
        compile_step: run the decode step through `torch.compile` with static shapes. The
            first records wait for the compiler.
        driven_transcript: token ids that replace the choices in the transcript, which is
            closed after them; SpeechActivity is then True. For measurements on weights that do
            not stop by themselves.
    """

    batch_size: int = 8
    bucket_ratio: float = 0.8
    encoder_seconds: float = 240.0
    max_tokens_per_second: float = 16.0
    min_budget: int = 16
    max_transcript_tokens: int | None = None
    loop_max_period: int = 16
    loop_repeats: int = 4
    loop_min_tokens: int = 12
    label_temperature: Mapping[str, float] = field(default_factory=dict)
    label_head_weight: Mapping[str, float] = field(default_factory=dict)
    label_prior: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    tree_nodes: int = 80
    transcript_search: Literal["greedy", "ctc"] = "greedy"
    ctc_beam: int = 8
    ctc_weight: float = 0.5
    ngram_weight: float = 0.0
    word_weight: float = 0.0
    ctc_token_bonus: float = 0.0
    length_bonus: float = 0.0
    beams: int = 1
    compile_step: bool = False
    driven_transcript: tuple[int, ...] = ()

    @classmethod
    def for_checkpoint(cls, config: object, **options: Any) -> DecodeOptions:
        """What a checkpoint's config asks for, under what the caller asks for.

        Raises:
            ModelError: the config names an option that there is not, or a value it cannot take.
        """
        wanted = dict(getattr(config, "decoding", None) or {})
        try:
            cls(**wanted)
        except (TypeError, SpeechMetaError) as error:
            raise ModelError(
                f"the checkpoint's config asks for decoding that is not known: {error}",
                "mend `decoding` in its config.json, or update speechmeta",
            ) from error
        return cls(**{**wanted, **options})

    def __post_init__(self) -> None:
        positive = (
            "batch_size",
            "bucket_ratio",
            "encoder_seconds",
            "max_tokens_per_second",
            "min_budget",
            "loop_max_period",
            "beams",
            "ctc_beam",
        )
        for name in positive:
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} is {getattr(self, name)}", "it has to be above 0")
        if self.loop_repeats < 2:
            raise UsageError(f"loop_repeats is {self.loop_repeats}", "it has to be at least 2")
        if any(not value > 0 for value in self.label_temperature.values()):
            raise UsageError("a label_temperature is not above 0", "1 leaves probabilities as is")
        if any(not 0 <= value <= 1 for value in self.label_head_weight.values()):
            raise UsageError("a label_head_weight is not from 0 to 1", "0 leaves it out")
        if any(not share > 0 for shares in self.label_prior.values() for share in shares.values()):
            raise UsageError("a label_prior is not above 0", "leave out labels that never occurred")
        if not 0 <= self.ctc_weight <= 1:
            raise UsageError(f"ctc_weight is {self.ctc_weight}", "it has to be from 0 to 1")
        if self.transcript_search not in ("greedy", "ctc"):
            raise UsageError(
                f"transcript_search is {self.transcript_search!r}", "choose greedy or ctc"
            )

    @property
    def searches_ctc(self) -> bool:
        """Whether transcripts come from the CTC head's candidates."""
        return self.transcript_search == "ctc" and not self.driven_transcript

    def label_options(self, field: str) -> dict[str, Any]:
        """What `speechmeta.decoding.labels.choose` takes for a field."""
        return {
            "temperature": self.label_temperature.get(field, 1.0),
            "weight": self.label_head_weight.get(field, 0.0),
            "prior": self.label_prior.get(field),
        }

    def drive(self, field: str, options: Sequence[Option], chosen: Option) -> Option:
        """The option to write: where transcripts are driven, every record has speech."""
        if field != "SpeechActivity" or not self.driven_transcript:
            return chosen
        return next(option for option in options if SPEECH_VALUES[option.label])

    def budget(self, seconds: float) -> int:
        """Most tokens of the transcript of so many seconds of audio."""
        tokens = max(self.min_budget, int(seconds * self.max_tokens_per_second) + 1)
        if self.max_transcript_tokens is not None:
            tokens = min(tokens, max(1, self.max_transcript_tokens))
        return tokens
