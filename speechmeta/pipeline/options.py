"""What can be asked of a call and of the model, each option stated once.

`analyze_call`, the commands and their config files, folder runs and the page are all filled in
from these two classes. How to add an option: docs/contributing/add-an-option.md.
"""

from __future__ import annotations

import os
import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, field_validator, model_validator

from speechmeta.audio.limits import Limits
from speechmeta.audio.rawformats import RawRules
from speechmeta.errors import UsageError
from speechmeta.models.endpoint import is_address
from speechmeta.pipeline.policy import PolicyName, asks, check_agreement, check_rules
from speechmeta.pipeline.rules import RuleSet, check_fit, checked_rules
from speechmeta.segmentation.channels import ChannelMode
from speechmeta.segmentation.turns import TurnOptions
from speechmeta.settings import OptionError, Options, option

AUDIO = "Audio"
MODEL = "Model"
OUTPUT = "Output"
TRANSCRIBER = "Transcriber"
CALL_FIELDS = "Call fields"
TURNS = "Turns and speakers"

ComputeType = Literal["auto", "float32", "bfloat16", "float16", "int8"]


def _path_as_text(value: object) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


class CallOptions(Options):
    """What is asked of a call.

    Raises:
        UsageError: an option is not known, cannot take its value, or contradicts another.
    """

    fields: tuple[str, ...] | dict[str, tuple[str, ...]] | None = option(
        None,
        "Fields to fill in: SpeechActivity, Transcript, Gender, Age, Accent, Emotion; all or none. "
        "By role with agent=Transcript, and again for the next one; * is every other role.",
        unset="all that the policy and the model give",
        metavar="[ROLE=]NAME,...",
        panel=OUTPUT,
    )
    policy: PolicyName = option(
        "all",
        "What may be known of whom: all; eu-workplace (no emotion of agents, traits only by "
        "--fields); transcript-only. What it leaves out is not computed "
        "(docs/responsible-use.md).",
        panel=OUTPUT,
    )
    min_confidence: float | None = option(
        None,
        "Labels less probable than this (0 to 1) become null.",
        unset="what the checkpoint says",
        panel=OUTPUT,
        ge=0.0,
        le=1.0,
    )
    rules: RuleSet | None = option(
        None,
        "TOML file with rules: alerts for what is said or not said, silence, interruptions, "
        "emotions and shares of talk (docs/rules.md).",
        unset="no alerts",
        metavar="FILE",
        panel=OUTPUT,
    )
    redact: bool = option(
        False,
        "Replace numbers that are read out, codes, dates of birth, e-mail addresses and postcodes "
        "in every output.",
        panel=OUTPUT,
    )
    word_times: bool = option(
        False, "Add the times of the words; subtitles follow them.", panel=OUTPUT
    )
    channels: ChannelMode = option(
        "auto",
        "split takes each channel as one speaker, mono mixes them; auto is like split, but "
        "analyses copies of a channel only once and leaves dead channels out.",
        panel=AUDIO,
    )
    roles: tuple[str, ...] | None = option(
        None,
        "Names of the speakers by channel, such as agent,customer; where one channel holds the "
        "whole call, in the order in which they first talk.",
        unset="speaker_0, speaker_1 and so on",
        metavar="NAME,...",
        panel=AUDIO,
    )
    raw: str | None = option(
        None,
        "Read recordings without a header, such as codec=mulaw,rate=8000,channels=2; for some "
        "names: '*.rec: codec=alaw; *.bin: codec=s16le' (docs/recordings.md).",
        unset="by the name's ending",
        metavar="RULES",
        panel=AUDIO,
    )
    vad: bool = option(
        True,
        "Find turns by voice activity; without it, each channel is one turn from start to end.",
        panel=TURNS,
    )
    turns: TurnOptions = TurnOptions()
    limits: Limits = Limits()
    speakers: int | None = option(
        None,
        "How many speakers share one channel.",
        unset="as many as there are roles, or what is found",
        panel=TURNS,
        ge=1,
        le=1000,
    )
    speaker_model: str | None = option(
        None,
        "What tells speakers on one channel apart: voiceprint (in the package), encoder (the "
        "checkpoint's own), or a speaker verification model such as microsoft/wavlm-base-plus-sv; "
        "pyannote/... and nvidia/... where those packages are installed.",
        unset="voiceprint",
        panel=TURNS,
    )

    @field_validator("fields", mode="before")
    @classmethod
    def _known_fields(cls, value: object) -> Any:
        return check_rules(value)

    @field_validator("rules", mode="before")
    @classmethod
    def _readable_alerts(cls, value: Any) -> Any:
        return checked_rules(value)

    @field_validator("raw")
    @classmethod
    def _readable_rules(cls, value: str | None) -> str | None:
        RawRules.parse(value)
        return value

    @field_validator("roles")
    @classmethod
    def _names_of_their_own(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and (not value or not all(value) or len(set(value)) < len(value)):
            raise OptionError(
                f"the roles are {', '.join(map(repr, value)) or 'none'}",
                "give every speaker a different name",
                "roles",
            )
        return value

    @model_validator(mode="after")
    def _agree(self) -> Self:
        check_agreement(self.policy, self.fields, self.roles)
        if self.rules is not None:
            check_fit(self.rules, self.policy, self.fields, self.roles)
        if self.word_times and not asks(self.fields, "Transcript"):
            raise UsageError("word times were asked for without Transcript", "add it to the fields")
        return self

    def needs_words(self, given: bool) -> bool:
        """Whether words are wanted with their times: to be written, or, where the model gives
        them, to say when something private was said."""
        private = self.redact and asks(self.fields, "Transcript")
        return self.word_times or (private and given)

    @classmethod
    def of(cls, options: CallOptions | None, overrides: dict[str, Any]) -> CallOptions:
        """`options` (None for the defaults) with single ones replaced, checked.

        Raises:
            UsageError: they are of another kind, such as a dict.
        """
        if options is not None and not isinstance(options, CallOptions):
            raise UsageError(
                f"the options are of type {type(options).__name__}",
                "give CallOptions(...), or single options by name: roles=[...]",
            )
        chosen: CallOptions = (options or cls()).updated(overrides)
        return chosen


class ModelOptions(Options):
    """Which model, and how it runs.

    Raises:
        UsageError: an option is not known or cannot take its value.
    """

    model: Annotated[str | None, BeforeValidator(_path_as_text)] = option(
        None,
        "Checkpoint: a folder or a hub id, of this project, of Whisper (openai/whisper-small, "
        "distil-whisper/distil-large-v3) or of SpeechLLM (skit-ai/speechllm-2B).",
        unset="the bundled checkpoint, offline",
        panel=MODEL,
    )
    device: str = option("auto", "auto, cpu, cuda, cuda:N or mps.", panel=MODEL)
    dtype: ComputeType = option(
        "auto",
        "Number format of the weights. auto: half precision on GPUs; on a CPU float32, but "
        "bfloat16 for Whisper where the CPU supports it.",
        flag="compute-type",
        panel=MODEL,
    )
    batch_size: int | None = option(
        None,
        "Turns that are decoded together.",
        unset="64 for Whisper, 8 for SpeechLLM",
        panel=MODEL,
        ge=1,
    )
    heads: str | None = option(
        None,
        "Which label heads of the bundled checkpoint: open (learned from recordings that allow "
        "commercial use) or research (from all).",
        unset="the checkpoint's own choice: open",
        panel=MODEL,
    )
    language: str | None = option(
        None,
        "Language that is spoken, such as en or German.",
        unset="the checkpoint's own; a multilingual Whisper finds it out turn by turn",
        panel=MODEL,
    )
    hotwords: str | None = option(
        None,
        "Names and terms that Whisper is told to expect, separated by commas.",
        unset="none",
        panel=MODEL,
    )
    beams: int = option(
        1,
        "Transcripts that Whisper follows at the same time; 1 takes the best token at each step.",
        panel=MODEL,
        ge=1,
        le=16,
    )
    local_files_only: bool = option(
        False, "Never use the network; only what is already on this machine.", panel=MODEL
    )

    transcriber: Annotated[str | None, BeforeValidator(_path_as_text)] = option(
        None,
        "What writes the transcripts instead of the model: a Whisper, another speech recognition "
        "model of transformers, or the address of a server with OpenAI's API "
        "(docs/transcribers.md).",
        unset="the model itself",
        metavar="NAME_OR_URL",
        panel=TRANSCRIBER,
    )
    transcriber_model: str | None = option(
        None, "The transcriber's name at the server.", unset="none", panel=TRANSCRIBER
    )
    transcriber_key_variable: str | None = option(
        None,
        "Environment variable that holds the server's key.",
        unset="OPENAI_API_KEY for api.openai.com; other servers are given no key",
        panel=TRANSCRIBER,
    )
    transcriber_timeout: float = option(
        120.0,
        "Seconds in which the server has to answer for one turn, repetitions included.",
        panel=TRANSCRIBER,
        gt=0.0,
    )
    transcriber_requests: int = option(
        4, "Turns that the server is sent at a time.", panel=TRANSCRIBER, ge=1, le=256
    )

    call_schema: tuple[str, ...] | None = option(
        None,
        "Fields of the whole call that --llm fills in: summary, reason, resolution, promises, "
        "complaint, next-step, a .json file with a JSON Schema, or module:Class of pydantic, which "
        "is imported (docs/call-fields.md).",
        unset="none",
        metavar="SCHEMA,...",
        panel=CALL_FIELDS,
    )
    llm: Annotated[str | None, BeforeValidator(_path_as_text)] = option(
        None,
        "What fills in call fields: a language model of transformers by folder or hub id, a .gguf "
        "file, or the address of a server with OpenAI's API.",
        unset="none",
        metavar="NAME_OR_URL",
        panel=CALL_FIELDS,
    )
    llm_model: str | None = option(
        None, "The text model's name at the server.", unset="none", panel=CALL_FIELDS
    )
    llm_key_variable: str | None = option(
        None,
        "Environment variable that holds the server's key.",
        unset="OPENAI_API_KEY for api.openai.com; other servers are given no key",
        panel=CALL_FIELDS,
    )
    llm_timeout: float = option(
        300.0,
        "Seconds in which the server has to give one answer, repetitions included.",
        panel=CALL_FIELDS,
        gt=0.0,
    )
    llm_context: int | None = option(
        None,
        "Tokens of a question and its answer; longer calls are asked about in parts.",
        unset="the model's own, at most 16384",
        panel=CALL_FIELDS,
        ge=512,
    )
    llm_answer: int = option(1024, "Most tokens of an answer.", panel=CALL_FIELDS, ge=16)

    @field_validator("device")
    @classmethod
    def _known_device(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
            raise OptionError(
                f"unknown device {value!r}", "choose from auto, cpu, cuda, cuda:N, mps", "device"
            )
        return value

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        if (self.llm is None) != (self.call_schema is None):
            raise UsageError(
                "--llm and --call-schema go together, and one of them was given",
                "add --call-schema summary, or --llm NAME_OR_URL",
            )
        for name, where, model in (
            ("transcriber", self.transcriber, self.transcriber_model),
            ("llm", self.llm, self.llm_model),
        ):
            address = where is not None and is_address(where)
            if address and not model:
                raise UsageError(
                    f"the {name} is a server, and no model of it is named",
                    f"add --{name}-model NAME",
                )
            if model and not address:
                raise UsageError(
                    f"a model of the {name} was named without the address of its server",
                    f"add --{name} http://127.0.0.1:8000/v1",
                )
        return self

    def for_speech(self) -> dict[str, Any]:
        """The options of the model that hears, without those of the text model."""
        return {
            name: getattr(self, name)
            for name in type(self).model_fields
            if name != "call_schema" and not name.startswith("llm")
        }


def divided(options: dict[str, Any]) -> tuple[ModelOptions, dict[str, Any]]:
    """Takes the model's options out of a mix of both; returns them and the rest."""
    own = {name: value for name, value in options.items() if name in ModelOptions.model_fields}
    rest = {name: value for name, value in options.items() if name not in own}
    return ModelOptions(**own), rest


__all__ = ["CallOptions", "ChannelMode", "ComputeType", "ModelOptions", "TurnOptions", "divided"]
