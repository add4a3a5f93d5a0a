"""The options as keyword arguments, for type checkers: `analyze_call("a.wav", redact=True)`.

What they mean, their defaults and limits stand once, in `CallOptions` and `ModelOptions`; a test
holds the names here to theirs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TypedDict

from speechmeta.audio.limits import Limits
from speechmeta.pipeline.options import ComputeType
from speechmeta.pipeline.policy import PolicyName
from speechmeta.pipeline.rules import RuleSet
from speechmeta.segmentation.channels import ChannelMode
from speechmeta.segmentation.turns import TurnOptions


class CallArguments(TypedDict, total=False):
    """`CallOptions`, single fields."""

    fields: Sequence[str] | Mapping[str, str | Sequence[str]] | str | None
    policy: PolicyName
    rules: RuleSet | Mapping[str, object] | str | os.PathLike[str] | None
    min_confidence: float | None
    redact: bool
    word_times: bool
    channels: ChannelMode
    roles: Sequence[str] | None
    raw: str | None
    vad: bool
    turns: TurnOptions
    limits: Limits
    speakers: int | None
    speaker_model: str | None


class EngineArguments(TypedDict, total=False):
    """`ModelOptions` without the model's name."""

    device: str
    dtype: ComputeType
    batch_size: int | None
    heads: str | None
    language: str | None
    hotwords: str | None
    beams: int
    local_files_only: bool
    transcriber: str | os.PathLike[str] | None
    transcriber_model: str | None
    transcriber_key_variable: str | None
    transcriber_timeout: float
    transcriber_requests: int
    call_schema: Sequence[str] | None
    llm: str | os.PathLike[str] | None
    llm_model: str | None
    llm_key_variable: str | None
    llm_timeout: float
    llm_context: int | None
    llm_answer: int


class ModelArguments(EngineArguments, total=False):
    """`ModelOptions`, single fields."""

    model: str | os.PathLike[str] | None


class AnalysisArguments(CallArguments, ModelArguments, total=False):
    """Both."""


__all__ = ["AnalysisArguments", "CallArguments", "EngineArguments", "ModelArguments"]
