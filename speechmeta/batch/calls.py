"""Folder runs of calls: what `Analyzer.analyze_call` does, with its halves in two processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from speechmeta.audio.rawformats import RawRules
from speechmeta.batch.job import Ask, ModelFacts, Spill, Waveform
from speechmeta.pipeline.options import CallOptions, ModelOptions
from speechmeta.pipeline.plan import CallPlan, prepare_call
from speechmeta.pipeline.report import assemble_call
from speechmeta.pipeline.second_look import Judge
from speechmeta.schema import CallReport

if TYPE_CHECKING:
    from speechmeta.diarization.embeddings import Embedder, Matrix
    from speechmeta.diarization.same_voice import VoiceSpread
    from speechmeta.pipeline.analyzer import Analyzer


@dataclass(frozen=True)
class CallJob:
    """Prepares calls in worker processes and assembles their reports."""

    options: CallOptions = field(default_factory=CallOptions)

    def settings(self) -> dict[str, Any]:
        """The options as plain JSON types, for the journal."""
        return self.options.model_dump(mode="json")

    @property
    def raw_rules(self) -> RawRules:
        """Which files of the folder have no header."""
        return RawRules.parse(self.options.raw)

    def warm_up(self) -> None:
        """Loads what every file needs; one thread, as the other cores have workers too."""
        import torch

        torch.set_num_threads(1)
        if self.options.vad:
            from speechmeta.segmentation.vad import VAD_RATES, SileroVad

            for rate in VAD_RATES:
                SileroVad(rate, channels=1)

    def prepare(self, path: str, spill: Spill, ask: Ask) -> CallPlan:
        """Finds channels, turns and speakers; embeddings of voices come from the model.

        Raises:
            AudioError: the file cannot be used.
        """
        speaker_model = self.options.speaker_model

        def judge() -> Judge | None:
            able: bool = ask(JudgeRequest())
            return (lambda clips: ask(JudgeRequest(tuple(clips)))) if able else None

        call = prepare_call(
            path, self.options, lambda: _DistantEmbedder(ask, speaker_model), judge=judge
        )
        for clip, fields in zip(call.clips(), call.plan.clip_fields, strict=True):
            spill(clip, fields)
        return call.plan

    def assemble(self, prepared: CallPlan, records: Sequence[Any], model: ModelFacts) -> CallReport:
        """The report of one call."""
        return assemble_call(
            prepared, records, model.info, model.label_sets, model.abstain_below, model.fields
        )


@dataclass(frozen=True)
class EmbedRequest:
    """Asks for the embeddings of clips; without clips, for the `distance` and `spread` of the
    embedder.

    Attributes:
        speaker_model: what embeds them; see `CallOptions`.
    """

    clips: tuple[Waveform, ...] | None = None
    speaker_model: str | None = None


@dataclass(frozen=True)
class JudgeRequest:
    """Asks how probable speech is in clips (samples,) at 16 kHz; without clips, whether the model
    can tell."""

    clips: tuple[Waveform, ...] | None = None


class _DistantEmbedder:
    """An `Embedder` whose model is in another process."""

    def __init__(self, ask: Ask, speaker_model: str | None) -> None:
        self._ask = ask
        self._speaker_model = speaker_model
        self.distance: float
        self.spread: VoiceSpread | None
        self.distance, self.spread = ask(EmbedRequest(None, speaker_model))

    def embed(self, clips: Sequence[Waveform]) -> Matrix:
        arrays = tuple(np.asarray(clip) for clip in clips)
        vectors: Matrix = self._ask(EmbedRequest(arrays, self._speaker_model))
        return vectors


class CallModel:
    """An `Analyzer` as a folder run needs it."""

    def __init__(self, analyzer: Analyzer, options: CallOptions) -> None:
        self._analyzer = analyzer
        self._options = options
        # What the model does not give is said before the first file.
        analyzer.asked_fields(options)
        self._embedders: dict[str | None, Embedder] = {}

    @property
    def facts(self) -> ModelFacts:
        analyzer = self._analyzer
        return ModelFacts(
            analyzer.info, analyzer.label_sets, analyzer.thresholds(), analyzer.fields
        )

    def decode(
        self, waveforms: Sequence[Waveform], asked: Sequence[Sequence[str]]
    ) -> Sequence[Any]:
        """A `DecodedRecord` or an error for each clip (samples,) at 16 kHz and its fields."""
        words = self._options.needs_words(self._analyzer.engine.gives_words)
        return self._analyzer.decode_each(waveforms, asked, words)

    def answer(self, request: EmbedRequest | JudgeRequest) -> Any:
        """Embeddings of voices, for calls with several speakers on one channel; or whether loud
        sound is speech."""
        if isinstance(request, JudgeRequest):
            judge = self._analyzer.speech_judge()
            if judge is None or request.clips is None:
                return judge is not None
            return judge(request.clips)
        embedder = self._embedders.get(request.speaker_model)
        if embedder is None:
            make = self._analyzer.embedder_source(request.speaker_model)
            embedder = self._embedders[request.speaker_model] = make()
        if request.clips is None:
            return embedder.distance, embedder.spread
        return embedder.embed(request.clips)


@dataclass(frozen=True)
class AnalyzerSource:
    """Loads an `Analyzer`.

    Attributes:
        model: which one, and how it runs.
        options: of the calls, as the model's part depends on some of them.
    """

    model: ModelOptions = field(default_factory=ModelOptions)
    options: CallOptions = field(default_factory=CallOptions)

    def settings(self) -> dict[str, Any]:
        """What results depend on, for the journal."""
        names = (
            *("model", "dtype", "heads", "language", "hotwords", "beams"),
            *("transcriber", "transcriber_model"),
            *("call_schema", "llm", "llm_model", "llm_context", "llm_answer"),
        )
        return {name: getattr(self.model, name) for name in names}

    def load(self) -> CallModel:
        from speechmeta.pipeline.analyzer import Analyzer

        # Call fields are filled in by the run itself, see `FolderOptions.finish`.
        return CallModel(Analyzer(**self.model.for_speech()), self.options)


@dataclass(frozen=True)
class LoadedAnalyzer:
    """An `Analyzer` that is there already; it stays in this process."""

    analyzer: Analyzer
    options: CallOptions = field(default_factory=CallOptions)

    def load(self) -> CallModel:
        return CallModel(self.analyzer, self.options)
