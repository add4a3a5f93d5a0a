"""The options of decoding, in one object that every engine takes."""

from __future__ import annotations

from dataclasses import dataclass

from speechmeta.errors import UsageError


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
        loop_max_period: repetitions of up to this many tokens are looked for.
        loop_repeats: this many repetitions in a row make a loop ...
        loop_min_tokens: ... when they are at least this many tokens together.
        tree_nodes: most tokens of one forward pass that scores several fields, the later
            ones under every option of the earlier ones. 0: one field a pass.
        beams: transcripts of a cross-attention decoder that are followed at the same time; 1 takes
            the best token at each step.
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
    tree_nodes: int = 80
    beams: int = 1

    def __post_init__(self) -> None:
        positive = (
            "batch_size",
            "bucket_ratio",
            "encoder_seconds",
            "max_tokens_per_second",
            "min_budget",
            "loop_max_period",
            "beams",
        )
        for name in positive:
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} is {getattr(self, name)}", "it has to be above 0")
        if self.loop_repeats < 2:
            raise UsageError(f"loop_repeats is {self.loop_repeats}", "it has to be at least 2")

    def budget(self, seconds: float) -> int:
        """Most tokens of the transcript of this many seconds of audio."""
        tokens = max(self.min_budget, int(seconds * self.max_tokens_per_second) + 1)
        if self.max_transcript_tokens is not None:
            tokens = min(tokens, max(1, self.max_transcript_tokens))
        return tokens
