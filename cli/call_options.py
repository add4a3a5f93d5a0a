"""The options of calls and models that `analyze` and `batch` have in common, listed once.

    @grouped
    def command(call: CallFlags = CALL, model: ModelFlags = MODEL) -> int: ...

typer sees the options of a group in the place of the parameter that holds it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, get_type_hints

from . import options, turn_options


@dataclass(frozen=True)
class CallFlags:
    """What is asked of each call."""

    fields: options.Fields = None
    min_confidence: options.MinConfidence = None
    channels: options.ChannelsOption = options.Channels.AUTO
    roles: options.Roles = None
    vad: options.Vad = True
    vad_threshold: turn_options.Threshold = None
    min_pause: turn_options.MinPause = turn_options.MIN_PAUSE
    min_turn: turn_options.MinTurn = turn_options.MIN_TURN
    max_turn: turn_options.MaxTurn = turn_options.MAX_TURN
    padding: turn_options.Padding = turn_options.PADDING
    speakers: turn_options.Speakers = None
    speaker_model: turn_options.SpeakerModel = None
    word_times: turn_options.WordTimes = False
    redact: turn_options.Redact = False

    def arguments(self) -> dict[str, Any]:
        """As `CallOptions` and `Analyzer.analyze_call` name them.

        Raises:
            UsageError: a field is not known, a name is empty, a number makes no sense.
        """
        from speechmeta.schema import check_fields

        return {
            "fields": check_fields(self.fields),
            "channels": self.channels.value,
            "roles": options.split_names(self.roles),
            "vad": self.vad,
            "turns": turn_options.collect(
                self.vad_threshold, self.min_pause, self.min_turn, self.max_turn, self.padding
            ),
            "speakers": self.speakers,
            "speaker_model": self.speaker_model,
            "word_times": self.word_times,
            "redact": self.redact,
            "min_confidence": self.min_confidence,
        }


@dataclass(frozen=True)
class ModelFlags:
    """Which model, and how it runs."""

    model: options.Model = None
    device: options.Device = "auto"
    compute_type: options.ComputeTypeOption = options.ComputeType.AUTO
    batch_size: options.BatchSize = 8
    local_files_only: options.LocalFilesOnly = False

    def arguments(self) -> dict[str, Any]:
        """As `Analyzer` and `AnalyzerSource` name them."""
        return {
            "model": self.model,
            "device": self.device,
            "dtype": self.compute_type.value,
            "batch_size": self.batch_size,
            "local_files_only": self.local_files_only,
        }


CALL = CallFlags()
MODEL = ModelFlags()


def grouped(command: Callable[..., int]) -> Callable[..., int]:
    """Lists the options of the groups among a command's parameters as its own.

    A parameter is a group when its default is a dataclass; the values in it are the defaults
    of the options.
    """
    signature = inspect.signature(command)
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {}
    listed: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        group = parameter.default
        if not is_dataclass(group):
            listed.append(parameter.replace(annotation=hints[name]))
            continue
        groups[name] = group
        kinds = get_type_hints(type(group), include_extras=True)
        listed += [
            parameter.replace(
                name=field.name, annotation=kinds[field.name], default=getattr(group, field.name)
            )
            for field in fields(group)
        ]

    @functools.wraps(command)
    def called(**given: Any) -> int:
        for name, group in groups.items():
            own = {field.name: given.pop(field.name) for field in fields(group)}
            given[name] = type(group)(**own)
        return command(**given)

    called.__signature__ = signature.replace(parameters=listed)  # type: ignore[attr-defined]
    return called
