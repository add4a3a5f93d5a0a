"""From audio to results: `Analyzer` owns a model, the functions use one that is kept.

generate_meta("turn.wav")                                   # SpeakerMeta
analyze_call("call.wav", roles=["agent", "customer"])       # CallReport
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from speechmeta.audio import Audio, AudioSource, load_audio, resample
from speechmeta.decoding.record import DecodedRecord
from speechmeta.errors import SpeechMetaError, UsageError
from speechmeta.schema import (
    CallReport,
    Coverage,
    LabelSets,
    ModelInfo,
    SpeakerMeta,
    Turn,
    check_fields,
)
from speechmeta.windows import cut_quietly, join_records

if TYPE_CHECKING:
    from pathlib import Path

Waveform = npt.NDArray[np.float32]
ChannelMode = Literal["auto", "mono", "split"]

SAME_CHANNELS_CORRELATION = 0.98
"""Two channels that correlate more than this are one recording stored twice."""

BUNDLED_NAME = "bundled"
"""What the bundled checkpoint is called in results."""


class Decoder(Protocol):
    """What `Analyzer` needs of `speechmeta.decoding.engine.Engine`."""

    model: Any

    def decode(
        self,
        waveforms: Sequence[Waveform],
        fields: Sequence[str] | None = None,
        instruction: str | None = None,
    ) -> list[DecodedRecord | SpeechMetaError]: ...


@dataclass(frozen=True)
class Segment:
    """A stretch of one channel that is to become a `Turn`.

    Attributes:
        start, end: seconds of the file.
        channel: index in the file; 0 for a mix.
        speaker: name.
        waveform: (samples,) at 16 kHz.
    """

    start: float
    end: float
    channel: int
    speaker: str
    waveform: Waveform


class Analyzer:
    """Takes audio to `SpeakerMeta` or `CallReport` with one model, loaded once.

    Args:
        model: a folder or a hub id; None for the bundled checkpoint.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        dtype: `auto`, `float32`, `bfloat16`, `float16` or `int8`.
        batch_size: turns that are decoded together.
        local_files_only: never reach for the network.
        engine: a decoder to use in place of loading a model; the other arguments then
            have no part in it.

    Raises:
        ModelError: the checkpoint cannot be found, reached or read.
        UsageError: an option is not understood, or given along with `engine`.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int = 8,
        local_files_only: bool = False,
        *,
        engine: Decoder | None = None,
    ) -> None:
        if engine is not None:
            if (model, device, dtype, batch_size, local_files_only) != (
                None, "auto", "auto", 8, False,
            ):  # fmt: skip
                raise UsageError(
                    "model options were given along with a finished engine",
                    "set them where the engine is made",
                )
            self.engine = engine
            self.name = str(getattr(engine.model.config, "name_or_path", "") or BUNDLED_NAME)
            return
        from speechmeta.decoding.engine import Engine
        from speechmeta.decoding.options import DecodeOptions
        from speechmeta.models.speechllm import load_model

        loaded, processor = load_model(
            model, device=device, dtype=dtype, local_files_only=local_files_only
        )
        self.engine = Engine(loaded, processor, DecodeOptions(batch_size=batch_size))
        self.name = BUNDLED_NAME if model is None else str(model)

    @property
    def info(self) -> ModelInfo:
        """The model as it stands in a report."""
        model = self.engine.model
        return ModelInfo(
            name=self.name,
            architecture=model.config.model_type,
            device=str(model.device),
            dtype=str(model.dtype).removeprefix("torch."),
        )

    @property
    def label_sets(self) -> LabelSets:
        """The values that each label of this checkpoint can take."""
        sets: LabelSets = self.engine.model.config.label_sets
        return sets

    def generate_meta(
        self,
        audio: AudioSource,
        fields: Sequence[str] | None = None,
        min_confidence: float | None = None,
        instruction: str | None = None,
    ) -> SpeakerMeta:
        """Analyses one clip as one voice; several channels are mixed.

        Args:
            audio: a path, file object, bytes, or `(waveform, sample_rate)`.
            fields: the fields to fill; None for all six.
            min_confidence: labels less probable than this become None.
            instruction: the prompt's wording for checkpoints that take one.

        Raises:
            AudioError: the audio cannot be used.
            UsageError: a field is not known.
        """
        result = self.generate_meta_batch([audio], fields, min_confidence, instruction)[0]
        if isinstance(result, SpeechMetaError):
            raise result
        return result

    def generate_meta_batch(
        self,
        audios: Sequence[AudioSource],
        fields: Sequence[str] | None = None,
        min_confidence: float | None = None,
        instruction: str | None = None,
    ) -> list[SpeakerMeta | SpeechMetaError]:
        """Analyses several clips, each as `generate_meta` would.

        Returns:
            in the order given, a result or the error of that clip; one bad clip never
            costs the others.
        """
        asked = check_fields(fields)
        threshold = check_confidence(min_confidence)
        waveforms: list[Waveform | SpeechMetaError] = []
        for source in audios:
            try:
                clip = load_audio(source)
                waveforms.append(resample(clip.mono(), clip.sample_rate, 16000))
            except SpeechMetaError as error:
                waveforms.append(error)
        records = iter(
            self.decode([w for w in waveforms if not isinstance(w, Exception)], asked, instruction)
        )
        results: list[SpeakerMeta | SpeechMetaError] = []
        for item in waveforms:
            outcome = item if isinstance(item, SpeechMetaError) else next(records)
            results.append(
                outcome
                if isinstance(outcome, SpeechMetaError)
                else outcome.to_meta(self.label_sets, threshold)
            )
        return results

    def analyze_call(
        self,
        audio: AudioSource,
        *,
        fields: Sequence[str] | None = None,
        channels: ChannelMode = "auto",
        roles: Sequence[str] | None = None,
        min_confidence: float | None = None,
    ) -> CallReport:
        """Analyses a recording, each of its voices as one turn.

        Args:
            audio: a path, file object, bytes, or `(waveform, sample_rate)`.
            fields: the fields to fill; None for all six.
            channels: `mono` mixes them, `split` takes each for one speaker, `auto` splits
                two channels that differ.
            roles: the speakers' names by channel.
            min_confidence: labels less probable than this become None.

        Raises:
            AudioError: the audio cannot be used.
            UsageError: a field is not known, or there are not as many roles as channels.
        """
        asked = check_fields(fields)
        threshold = check_confidence(min_confidence)
        recording = load_audio(audio)
        segments = whole_file_segments(recording, channels, roles)
        records = self.decode([segment.waveform for segment in segments], asked)
        turns = []
        for segment, record in zip(segments, records, strict=True):
            if isinstance(record, SpeechMetaError):
                raise record
            turns.append(make_turn(segment, record.to_meta(self.label_sets, threshold)))
        heard = sum(
            turn.end - turn.start for turn in turns if turn.meta.speech_activity is not False
        )
        # A mix stands for all of its channels.
        speech = heard * recording.channels / len(segments)
        total = recording.duration * recording.channels
        return CallReport(
            audio=recording.info,
            model=self.info,
            turns=turns,
            coverage=Coverage(
                speech_seconds=speech, non_speech_seconds=total - speech, skipped_seconds=0.0
            ),
            warnings=list(recording.warnings),
        )

    def decode(
        self,
        waveforms: Sequence[Waveform],
        fields: Sequence[str] | None = None,
        instruction: str | None = None,
    ) -> list[DecodedRecord | SpeechMetaError]:
        """Decodes waveforms (samples,) at 16 kHz of any length, in their order.

        Those longer than a model's window are decoded in pieces and joined.
        """
        pieces = [cut_quietly(waveform) for waveform in waveforms]
        flat = [
            waveform[start:end]
            for waveform, bounds in zip(waveforms, pieces, strict=True)
            for start, end in bounds
        ]
        outcomes = iter(self.engine.decode(flat, fields, instruction) if flat else [])
        results: list[DecodedRecord | SpeechMetaError] = []
        for bounds in pieces:
            mine = [next(outcomes) for _ in bounds]
            errors = [item for item in mine if isinstance(item, SpeechMetaError)]
            good = [item for item in mine if not isinstance(item, SpeechMetaError)]
            lengths = [(end - start) / 16000 for start, end in bounds]
            results.append(errors[0] if errors else join_records(good, lengths))
        return results


def whole_file_segments(
    recording: Audio, channels: ChannelMode, roles: Sequence[str] | None
) -> list[Segment]:
    """The whole recording as one segment, or one a channel.

    Raises:
        UsageError: there are not as many roles as segments, or the mode is not known.
    """
    if channels not in ("auto", "mono", "split"):
        raise UsageError(f"unknown channels mode {channels!r}", "choose auto, mono or split")
    if channels == "auto":
        split = recording.channels == 2 and not _are_same(recording.waveform)
    else:
        split = channels == "split"
    rows = recording.waveform if split else recording.mono()[None]
    if roles is not None and len(roles) != len(rows):
        raise UsageError(
            f"{len(roles)} roles were given for {len(rows)} channels",
            "give one role a channel; --channels split keeps channels apart",
        )
    waveforms = resample(rows, recording.sample_rate, 16000)
    return [
        Segment(
            start=0.0,
            end=recording.duration,
            channel=number,
            speaker=roles[number] if roles else f"speaker_{number}",
            waveform=waveform,
        )
        for number, waveform in enumerate(waveforms)
    ]


def make_turn(segment: Segment, meta: SpeakerMeta) -> Turn:
    """A `Turn` as it is reported: times to the millisecond, probabilities to four digits."""
    return Turn(
        start=round(segment.start, 3),
        end=round(segment.end, 3),
        channel=segment.channel,
        speaker=segment.speaker,
        meta=meta,
        confidence={field: round(value, 4) for field, value in meta.confidence.items()},
        flags=list(meta.flags),
    )


def check_confidence(min_confidence: float | None) -> float:
    """A probability; None is 0.

    Raises:
        UsageError: it is not between 0 and 1.
    """
    if min_confidence is None:
        return 0.0
    if not 0.0 <= min_confidence <= 1.0:
        raise UsageError(f"min_confidence is {min_confidence}", "give a number from 0 to 1")
    return float(min_confidence)


def _are_same(waveform: Waveform) -> bool:
    first, second = waveform.astype(np.float64)
    power = float(np.sqrt((first @ first) * (second @ second)))
    if power == 0.0:
        return not first.any() and not second.any()
    return float(first @ second) / power > SAME_CHANNELS_CORRELATION


@lru_cache(maxsize=1)
def _kept_analyzer(model: str | None, device: str, dtype: str, local_files_only: bool) -> Analyzer:
    return Analyzer(model, device=device, dtype=dtype, local_files_only=local_files_only)


def generate_meta(
    audio: AudioSource,
    fields: Sequence[str] | None = None,
    *,
    model: str | Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    min_confidence: float | None = None,
    local_files_only: bool = False,
) -> SpeakerMeta:
    """`Analyzer.generate_meta` with a model that is kept for the next call."""
    name = None if model is None else str(model)
    analyzer = _kept_analyzer(name, device, dtype, local_files_only)
    return analyzer.generate_meta(audio, fields, min_confidence)


def analyze_call(
    audio: AudioSource,
    *,
    model: str | Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    local_files_only: bool = False,
    **options: Any,
) -> CallReport:
    """`Analyzer.analyze_call` with a model that is kept for the next call.

    Args:
        options: those of `Analyzer.analyze_call`.
    """
    name = None if model is None else str(model)
    analyzer = _kept_analyzer(name, device, dtype, local_files_only)
    return analyzer.analyze_call(audio, **options)
