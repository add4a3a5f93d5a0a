"""What each request asks of the model, and a model that answers lane by lane."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from speechmeta.batch.calls import CallModel
from speechmeta.batch.job import Asked, ModelFacts, ModelOrder, Waveform
from speechmeta.batch.workers import Ask
from speechmeta.models.base import told
from speechmeta.pipeline.options import CallOptions, ModelOptions

if TYPE_CHECKING:
    from speechmeta.models.base import SpeechModel
    from speechmeta.pipeline.analyzer import Analyzer


@dataclass(frozen=True)
class Lane:
    """What is known of a call when the model gets its turns; those of one lane share batches.

    Attributes:
        words: whether their times are wanted.
        language, hotwords: None for what the model was loaded with.
    """

    words: bool = False
    language: str | None = None
    hotwords: str | None = None


@dataclass(frozen=True)
class Wanted:
    """What is asked of one clip; `draft` is what its transcript may begin with."""

    fields: tuple[str, ...]
    draft: str | None = None


class LaneModel(CallModel):
    """An `Analyzer` that is told something else in every lane."""

    def __init__(self, analyzer: Analyzer) -> None:
        super().__init__(analyzer, CallOptions())
        self.analyzer = analyzer

    @property
    def engine(self) -> SpeechModel:
        return self.analyzer.engine

    def lane(
        self, options: CallOptions, language: str | None = None, hotwords: str | None = None
    ) -> Lane:
        """The lane of a call.

        Raises:
            UsageError: the model does not give a field, does not know the language, or takes no
                hotwords.
        """
        told(self.engine, language, hotwords)
        self.analyzer.asked_fields(options)
        return Lane(options.needs_words(self.engine.gives_words), language, hotwords)

    def facts_of(self, lane: Lane) -> ModelFacts:
        """The facts as a report of the lane states them."""
        info = told(self.engine, lane.language, lane.hotwords).info
        return replace(self.facts, info=info)

    def decode_lane(
        self, waveforms: Sequence[Waveform], asked: Sequence[Wanted | Sequence[str]], lane: Lane
    ) -> Sequence[Any]:
        """A `DecodedRecord` or an error for each clip (samples,) at 16 kHz.

        Args:
            asked: of each; of turns of a recording their fields alone.
        """
        from speechmeta.pipeline.analyzer import Analyzer

        engine = told(self.engine, lane.language, lane.hotwords)
        analyzer = self.analyzer if engine is self.engine else Analyzer.from_engine(engine)
        wanted = [item if isinstance(item, Wanted) else Wanted(tuple(item)) for item in asked]
        fields = [item.fields for item in wanted]
        return analyzer.decode_each(waveforms, fields, lane.words, [item.draft for item in wanted])


class LaneTask:
    """As `batch.job.ModelTask`, for a model with lanes; runs in a thread.

    Args:
        load: makes the analyzer.
    """

    def __init__(self, load: ModelOptions | Analyzer) -> None:
        self._load = load
        self.model: LaneModel | None = None

    def start(self) -> ModelFacts:
        from speechmeta.pipeline.analyzer import Analyzer

        given = self._load
        self.model = LaneModel(
            Analyzer(**dict(given)) if isinstance(given, ModelOptions) else given
        )
        return self.model.facts

    def run(self, payload: ModelOrder, ask: Ask) -> Any:
        if self.model is None:
            raise RuntimeError("the task was not started")
        if isinstance(payload, Asked):
            return self.model.answer(payload.request)
        lane = payload[0].lane
        if not isinstance(lane, Lane):
            raise TypeError(f"a lane was expected, not {lane!r}")
        waveforms = [turn.read() for turn in payload]
        return list(self.model.decode_lane(waveforms, [turn.asked for turn in payload], lane))


__all__ = ["Lane", "LaneModel", "LaneTask", "Wanted"]
