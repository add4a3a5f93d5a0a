"""From audio to results: `Analyzer` owns a model, the functions use one that is kept.

generate_meta("turn.wav")                                   # SpeakerMeta
analyze_call("call.wav", roles=["agent", "customer"])       # CallReport
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Self, Unpack
from weakref import WeakKeyDictionary, WeakValueDictionary

import numpy as np
import numpy.typing as npt

from speechmeta.audio.foreign import audio_errors
from speechmeta.audio.limits import Limits
from speechmeta.audio.loading import AudioSource, load_audio
from speechmeta.audio.rawformats import RawRules
from speechmeta.decoding.joining import join_records
from speechmeta.decoding.no_speech import holds_no_speech, record_without_speech
from speechmeta.decoding.record import DecodedRecord
from speechmeta.errors import SpeechMetaError, UsageError
from speechmeta.models.base import Drafted, SpeechJudge, SpeechModel, given_fields
from speechmeta.models.loading import load_speech_model
from speechmeta.pipeline.arguments import (
    AnalysisArguments,
    CallArguments,
    EngineArguments,
    ModelArguments,
)
from speechmeta.pipeline.callfields.making import filler_of
from speechmeta.pipeline.cutting import model_clip
from speechmeta.pipeline.options import CallOptions, ModelOptions, divided
from speechmeta.pipeline.plan import EmbedderSource, plan_pieces, prepare_call
from speechmeta.pipeline.policy import named_fields, possible_fields
from speechmeta.pipeline.progress import CallProgress, OnProgress, stage_of
from speechmeta.pipeline.report import EndedTurns, Outcome, assemble_call
from speechmeta.pipeline.rules import check_labels
from speechmeta.pipeline.second_look import Judge
from speechmeta.pipeline.stream import CallStream, Step, Steps
from speechmeta.schema import CallReport, LabelSets, ModelInfo, SpeakerMeta, Turn
from speechmeta.segmentation.chunking import cut_quietly
from speechmeta.visible import visible_line

if TYPE_CHECKING:
    from pathlib import Path

    from speechmeta.diarization.embeddings import Embedder

Waveform = npt.NDArray[np.float32]

_LOG = logging.getLogger(__name__)

_FIRST_CLIPS = 8
"""Clips that are decoded together at the beginning, so that turns soon come; then twice as many
each time, up to four batches."""


class Analyzer:
    """Takes audio to `SpeakerMeta` or `CallReport` with one model, loaded once.

    Analyzers with the same options, and the functions of this module, share the loaded model.

    Args:
        model: a folder or a hub id; None for the bundled checkpoint.
        options: the others of `ModelOptions`, such as `device`, `dtype` and `heads`.

    Raises:
        ModelError: the checkpoint cannot be found, reached or read.
        UsageError: an option is not understood.
    """

    def __init__(self, model: str | Path | None = None, **options: Unpack[EngineArguments]) -> None:
        self.options = ModelOptions(model=model, **options)
        # What is wrong with a schema is said before minutes go into loading models.
        self._filler = filler_of(self.options)
        self.engine: SpeechModel = _engine_of(self.options)

    @classmethod
    def from_engine(cls, engine: SpeechModel, *, local_files_only: bool = False) -> Self:
        """An analyzer whose model is there already.

        Args:
            engine: decodes the clips.
            local_files_only: never use the network, such as for a speaker model.
        """
        analyzer = cls.__new__(cls)
        analyzer.options = ModelOptions(local_files_only=local_files_only)
        analyzer.engine = engine
        analyzer._filler = None
        return analyzer

    @property
    def info(self) -> ModelInfo:
        """The model as it appears in a report."""
        return self.engine.info

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that the model gives."""
        return self.engine.fields

    @property
    def label_sets(self) -> LabelSets:
        """The values that each label of this checkpoint can take."""
        return self.engine.label_sets

    def thresholds(self, min_confidence: float | None = None) -> float | Mapping[str, float]:
        """The probability below which labels are left out: the caller's, or the checkpoint's own
        ones by field.

        Raises:
            UsageError: it is not between 0 and 1.
        """
        if min_confidence is None:
            return self.engine.thresholds
        if not 0.0 <= min_confidence <= 1.0:
            raise UsageError(f"min_confidence is {min_confidence}", "give a number from 0 to 1")
        return float(min_confidence)

    def generate_meta(
        self,
        audio: AudioSource,
        fields: Sequence[str] | None = None,
        min_confidence: float | None = None,
        instruction: str | None = None,
        raw: str | None = None,
        limits: Limits | None = None,
    ) -> SpeakerMeta:
        """Analyses one clip as one voice; several channels are mixed.

        Args:
            audio: a path, file object, bytes, or `(waveform, sample_rate)`.
            fields: the fields to fill; None for all that the model gives.
            min_confidence: labels less probable than this become None; by default the
                checkpoint's own thresholds, field by field.
            instruction: the prompt's wording for checkpoints that take one.
            raw: how headerless clips are read; see `load_audio`.
            limits: what a clip may have and take; see `load_audio`.

        Raises:
            AudioError: the audio cannot be used.
            UsageError: a field is not known, or `raw` is not understood.
        """
        asked = (fields, min_confidence, instruction, raw, limits)
        result = self.generate_meta_batch([audio], *asked)[0]
        if isinstance(result, SpeechMetaError):
            raise result
        return result

    def generate_meta_batch(
        self,
        audios: Sequence[AudioSource],
        fields: Sequence[str] | None = None,
        min_confidence: float | None = None,
        instruction: str | None = None,
        raw: str | None = None,
        limits: Limits | None = None,
    ) -> list[SpeakerMeta | SpeechMetaError]:
        """Analyses several clips, each as `generate_meta` would.

        Returns:
            in the order given, a result or the error of that clip; one bad clip
            does not affect the others.

        Raises:
            UsageError: one clip was given instead of several, or an option cannot be.
        """
        if isinstance(audios, (str, bytes, os.PathLike)):
            raise UsageError("one clip was given", "give a list of them, or call generate_meta")
        asked = given_fields(self.engine, fields)
        thresholds = self.thresholds(min_confidence)
        RawRules.parse(raw)
        waveforms: list[Waveform | SpeechMetaError] = []
        for source in audios:
            try:
                clip = load_audio(source, raw=raw, limits=limits)
                with audio_errors(clip.path or "the clip"):
                    waveforms.append(model_clip(clip.mono(), clip.sample_rate))
            except SpeechMetaError as error:
                waveforms.append(error)
        records = iter(
            self.decode([w for w in waveforms if not isinstance(w, Exception)], asked, instruction)
        )
        results: list[SpeakerMeta | SpeechMetaError] = []
        for item in waveforms:
            outcome = item if isinstance(item, SpeechMetaError) else next(records)
            if isinstance(outcome, DecodedRecord) and outcome.no_transcript is not None:
                outcome = outcome.no_transcript
            results.append(
                outcome
                if isinstance(outcome, SpeechMetaError)
                else outcome.to_meta(self.label_sets, thresholds)
            )
        return results

    def analyze_call(
        self,
        audio: AudioSource,
        options: CallOptions | None = None,
        *,
        on_progress: OnProgress | None = None,
        **overrides: Unpack[CallArguments],
    ) -> CallReport:
        """Analyses a recording turn by turn, however long it is.

        Args:
            audio: a path, file object, bytes, or `(waveform, sample_rate)`.
            options: what is asked of the call; None for the defaults.
            on_progress: called with a `CallProgress` some times a second.
            overrides: single fields of `CallOptions`, such as `roles=["agent", "customer"]`.

        Raises:
            AudioError: the audio cannot be used.
            ModelError: a model that an option needs is not there.
            UsageError: an option is not understood or does not fit the recording.
        """
        return self.stream(audio, options, on_progress=on_progress, **overrides).report

    def stream(
        self,
        audio: AudioSource,
        options: CallOptions | None = None,
        *,
        on_progress: OnProgress | None = None,
        **overrides: Unpack[CallArguments],
    ) -> CallStream:
        """The turns of a recording as they end, by `for` or `async for`; then its report.

        Nothing is read before the first turn is asked for.

        Args:
            audio: see `analyze_call`, as for all others.
            options: what is asked of the call.
            on_progress: called with a `CallProgress` some times a second.
            overrides: single fields of `CallOptions`.

        Raises:
            UsageError: an option is not understood; what else can go wrong does so while the
                turns are taken, see `analyze_call`.
        """
        chosen = CallOptions.of(options, dict(overrides))
        return CallStream(self.analysis(audio, chosen, on_progress))

    def analysis(
        self, audio: AudioSource, chosen: CallOptions, on_progress: OnProgress | None = None
    ) -> Steps:
        """`analyze_call` step by step: yields what each step brought, returns the report. Who
        stops asking stops the work; several analyses may take turns at the model.

        Raises:
            SpeechMetaError: see `analyze_call`.
        """

        planned = False

        def on_read(run: int, seconds: float, duration: float | None) -> None:
            # The last run is told by its turns.
            if on_progress is not None and not planned:
                on_progress(CallProgress(stage_of(run), seconds, duration))

        self.asked_fields(chosen)
        embedder = self.embedder_source(chosen.speaker_model)
        call = prepare_call(audio, chosen, embedder, on_read, self.speech_judge)
        plan, planned = call.plan, True
        fields = iter(plan.clip_fields)
        words = chosen.needs_words(self.engine.gives_words)
        names = tuple(name for name, _ in plan.speakers)
        ended = EndedTurns(plan, self.label_sets, self.thresholds())
        lengths = [(end - start) / plan.rate for start, end in plan_pieces(plan)]
        total, done = sum(lengths) or 1.0, 0.0
        outcomes: list[Outcome] = []
        fresh: list[Turn] = []
        _LOG.info(
            "%s: %.1f s, %d turns of %d speakers",
            visible_line(plan.audio.path or "recording"),
            plan.audio.duration, len(plan.turns), len(names),
        )  # fmt: skip
        clips = call.clips()
        size = min(_FIRST_CLIPS, 4 * self.engine.batch_size)
        while True:
            share = done / total * plan.audio.duration
            progress = CallProgress(
                "turns", share, plan.audio.duration, ended.count, len(plan.turns)
            )
            if on_progress is not None:
                on_progress(progress)
            # Numbers that are read out over several turns are found when all are there.
            yield Step(progress, plan.audio, names, () if chosen.redact else tuple(fresh))
            # A few batches at a time: enough to sort clips by length, few enough for any memory.
            if not (group := list(itertools.islice(clips, size))):
                break
            wanted = list(itertools.islice(fields, len(group)))
            decoded = self.decode_each(group, wanted, words)
            done += sum(lengths[len(outcomes) : len(outcomes) + len(group)])
            outcomes += decoded
            fresh = ended.add(decoded)
            size = min(2 * size, 4 * self.engine.batch_size)
        report = assemble_call(
            plan, outcomes, self.info, self.label_sets, self.thresholds(), self.fields
        )
        report = self.finish(report)
        if chosen.redact:
            yield Step(progress, plan.audio, names, tuple(report.turns))
        return report

    def finish(self, report: CallReport) -> CallReport:
        """The report with the call fields that the options ask for.

        It has to be redacted before, where that was asked: the text model sees it as it is.
        """
        return report if self._filler is None else self._filler.fill(report)

    def asked_fields(self, options: CallOptions) -> tuple[str, ...]:
        """The fields that calls will have for at least one speaker, in the schema's order.

        Raises:
            UsageError: the model does not give one that is asked for by name or by a rule.
        """
        if named := named_fields(options.fields):
            given_fields(self.engine, named)
        if options.rules is not None:
            check_labels(options.rules, self.fields, self.label_sets, self.info.name)
        asked = possible_fields(options.policy, options.fields, options.roles)
        return tuple(name for name in self.fields if name in asked)

    def embedder_source(self, speaker_model: str | None = None) -> EmbedderSource:
        """What makes the embedder that tells speakers apart, when one is needed.

        Args:
            speaker_model: see `speechmeta.diarization.selection.load_embedder`.
        """

        def make() -> Embedder:
            from speechmeta.diarization.selection import load_embedder

            return load_embedder(
                speaker_model,
                getattr(self.engine, "model", None),
                getattr(self.engine, "processor", None),
                self.options.local_files_only,
            )

        return make

    def speech_judge(self) -> Judge | None:
        """What says whether loud sound is speech; None from a model without a head for it."""
        engine = self.engine
        if not isinstance(engine, SpeechJudge) or not engine.judges_speech:
            return None

        def judge(waveforms: Sequence[Waveform]) -> list[float | None]:
            with _turn_at(engine):
                return engine.speech_probabilities(waveforms)

        return judge

    def decode_each(
        self,
        waveforms: Sequence[Waveform],
        fields: Sequence[Sequence[str]],
        word_times: bool = False,
        drafts: Sequence[str | None] | None = None,
    ) -> list[DecodedRecord | SpeechMetaError]:
        """Like `decode`, with fields for each waveform: clips are decoded together with those of
        the same fields, so that nothing is computed of a clip but what is asked of it. Fields
        that the model does not give are left out; a clip without any never reaches it.
        """
        given = drafts or [None] * len(waveforms)
        groups: dict[tuple[str, ...], list[int]] = {}
        for row, names in enumerate(fields):
            asked = tuple(name for name in self.fields if name in names)
            groups.setdefault(asked, []).append(row)
        results: list[DecodedRecord | SpeechMetaError] = [DecodedRecord({}) for _ in waveforms]
        for asked, rows in groups.items():
            if not asked:
                continue
            words = word_times and "Transcript" in asked
            own = [given[row] for row in rows]
            decoded = self.decode(
                [waveforms[row] for row in rows], asked, word_times=words, drafts=own
            )
            for row, result in zip(rows, decoded, strict=True):
                results[row] = result
        return results

    def decode(
        self,
        waveforms: Sequence[Waveform],
        fields: Sequence[str] | None = None,
        instruction: str | None = None,
        word_times: bool = False,
        drafts: Sequence[str | None] | None = None,
    ) -> list[DecodedRecord | SpeechMetaError]:
        """Decodes waveforms (samples,) at 16 kHz of any length, in their order.

        Those longer than a model's window are decoded in pieces and joined. What can hold no
        speech (`speechmeta.decoding.no_speech`) never reaches the model.

        Args:
            drafts: see `speechmeta.models.base.Drafted`; of no use to a model that takes none.
        """
        pieces = [cut_quietly(waveform, self.engine.max_seconds) for waveform in waveforms]
        engine = self.engine
        asked = given_fields(engine, fields)
        flat: list[Waveform] = []
        guesses: list[str | None] = []
        silent: list[bool] = []
        given = drafts or [None] * len(waveforms)
        for waveform, bounds, draft in zip(waveforms, pieces, given, strict=True):
            for start, end in bounds:
                piece = waveform[start:end]
                silent.append(holds_no_speech(piece))
                if not silent[-1]:
                    flat.append(piece)
                    guesses.append(draft if start == 0 else None)
        decoded: list[DecodedRecord | SpeechMetaError] = []
        with _turn_at(engine):
            if flat and drafts and isinstance(engine, Drafted) and engine.takes_drafts:
                decoded = engine.decode(flat, fields, instruction, word_times, guesses)
            elif flat:
                decoded = engine.decode(flat, fields, instruction, word_times)
        heard = iter(decoded)
        outcomes = iter(
            [record_without_speech(asked) if nobody else next(heard) for nobody in silent]
        )
        results: list[DecodedRecord | SpeechMetaError] = []
        for bounds in pieces:
            mine = [next(outcomes) for _ in bounds]
            errors = [item for item in mine if isinstance(item, SpeechMetaError)]
            good = [item for item in mine if not isinstance(item, SpeechMetaError)]
            lengths = [(end - start) / 16000 for start, end in bounds]
            results.append(errors[0] if errors else join_records(good, lengths))
        return results


_TURNS: WeakKeyDictionary[SpeechModel, threading.Lock] = WeakKeyDictionary()
_TURNS_LOCK = threading.Lock()


def _turn_at(engine: SpeechModel) -> threading.Lock:
    """The lock of an engine: its cache is for one thread at a time."""
    with _TURNS_LOCK:
        return _TURNS.setdefault(engine, threading.Lock())


_Key = tuple[ModelOptions, int]
_ENGINES: WeakValueDictionary[_Key, SpeechModel] = WeakValueDictionary()
_LOADING = threading.Lock()


def _engine_of(options: ModelOptions) -> SpeechModel:
    """The loaded model of these options: one for all who ask, while anybody holds it."""
    key = options, _changed(options.model)
    with _LOADING:
        engine = _ENGINES.get(key)
        if engine is None:
            begun = time.monotonic()
            engine = load_speech_model(**options.for_speech())
            _ENGINES[key] = engine
            _LOG.info(
                "loaded %s on %s in %.1f s",
                engine.info.name, engine.info.device, time.monotonic() - begun,
            )  # fmt: skip
        return engine


def _changed(model: str | None) -> int:
    """When a local checkpoint last changed: one that is trained again is loaded again."""
    if model is None or not os.path.isdir(model):
        return 0
    return max((entry.stat().st_mtime_ns for entry in os.scandir(model)), default=0)


_KEPT: list[Analyzer] = []


def _kept_analyzer(options: ModelOptions) -> Analyzer:
    """An analyzer of the functions below; the last one is kept, and with it its model."""
    analyzer = Analyzer(**dict(options))
    _KEPT[:] = [analyzer]
    return analyzer


def generate_meta(
    audio: AudioSource,
    fields: Sequence[str] | None = None,
    *,
    min_confidence: float | None = None,
    raw: str | None = None,
    limits: Limits | None = None,
    **options: Unpack[ModelArguments],
) -> SpeakerMeta:
    """`Analyzer.generate_meta` with a model that is kept for the next call.

    Args:
        options: of `ModelOptions`.
    """
    analyzer = _kept_analyzer(ModelOptions(**options))
    return analyzer.generate_meta(audio, fields, min_confidence, raw=raw, limits=limits)


def analyze_call(
    audio: AudioSource,
    options: CallOptions | None = None,
    *,
    on_progress: OnProgress | None = None,
    **overrides: Unpack[AnalysisArguments],
) -> CallReport:
    """`Analyzer.analyze_call` with a model that is kept for the next call.

    Args:
        options: what is asked of the call; None for the defaults.
        on_progress: see `Analyzer.analyze_call`.
        overrides: single fields of `CallOptions` and of `ModelOptions`.
    """
    model, call = divided(dict(overrides))
    analyzer = _kept_analyzer(model)
    return analyzer.analyze_call(audio, options, on_progress=on_progress, **call)
