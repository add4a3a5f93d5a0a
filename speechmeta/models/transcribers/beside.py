"""A model whose transcripts are another's: speech, labels and word times stay its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from speechmeta.decoding.record import TRANSCRIPT_FAILED, DecodedRecord
from speechmeta.errors import SpeechMetaError, UsageError
from speechmeta.models.base import Aligner, SpeechJudge, SpeechModel, Waveform, given_fields
from speechmeta.models.transcribers.base import (
    InstructableTranscriber,
    Transcriber,
    Transcript,
)
from speechmeta.schema import FIELDS, LabelSets, ModelInfo


class TranscribedBeside:
    """A `SpeechModel` made of a model and a transcriber.

    The model is asked for everything but the transcript, so that its decoder writes none; only
    clips in which it hears speech go to the transcriber. Where word times are asked for and the
    transcriber gives none, the model aligns the transcript's words if it can.

    A clip without a transcript because the transcriber failed keeps its labels: its record has no
    Transcript, the flag `transcript_failed`, and says why.
    """

    def __init__(self, model: SpeechModel, transcriber: Transcriber) -> None:
        self.base, self.transcriber = model, transcriber

    def told(self, language: str | None, hotwords: str | None) -> TranscribedBeside:
        """See `speechmeta.models.base.Instructable`: it is the transcriber that is told."""
        if not isinstance(self.transcriber, InstructableTranscriber):
            what = "language" if hotwords is None else "hotwords"
            raise UsageError(
                f"the transcriber {self.transcriber.name} takes no {what}", "leave it out"
            )
        return TranscribedBeside(self.base, self.transcriber.told(language, hotwords))

    @property
    def model(self) -> object:
        """The base's network, for what else it can do (see `Analyzer.embedder_source`)."""
        return getattr(self.base, "model", None)

    @property
    def processor(self) -> object:
        """The base's."""
        return getattr(self.base, "processor", None)

    @property
    def judges_speech(self) -> bool:
        return isinstance(self.base, SpeechJudge) and self.base.judges_speech

    def speech_probabilities(self, waveforms: Sequence[Waveform]) -> list[float | None]:
        """See `speechmeta.models.base.SpeechJudge`: the base's."""
        if not isinstance(self.base, SpeechJudge):
            raise UsageError(
                f"the model {self.base.info.name} has no head for SpeechActivity",
                "the bundled model has one: leave --model out",
            )
        return self.base.speech_probabilities(waveforms)

    @property
    def info(self) -> ModelInfo:
        return self.base.info.model_copy(
            update={"transcriber": self.transcriber.name, "language": self.transcriber.language}
        )

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(name for name in FIELDS if name in (*self.base.fields, "Transcript"))

    @property
    def label_sets(self) -> LabelSets:
        return self.base.label_sets

    @property
    def thresholds(self) -> Mapping[str, float]:
        return self.base.thresholds

    @property
    def max_seconds(self) -> float:
        return min(self.base.max_seconds, self.transcriber.max_seconds)

    @property
    def batch_size(self) -> int:
        return self.base.batch_size

    @property
    def gives_words(self) -> bool:
        return isinstance(self.base, Aligner)

    def decode(
        self,
        waveforms: Sequence[Waveform],
        fields: Sequence[str] | None = None,
        instruction: str | None = None,
        word_times: bool = False,
    ) -> list[DecodedRecord | SpeechMetaError]:
        """See `speechmeta.models.base.SpeechModel.decode`."""
        asked = given_fields(self, fields)
        if "Transcript" not in asked:
            return self.base.decode(waveforms, asked, instruction)
        own = [name for name in asked if name != "Transcript"]
        if "SpeechActivity" in self.base.fields and "SpeechActivity" not in own:
            own.append("SpeechActivity")
        records: list[DecodedRecord | SpeechMetaError] = (
            self.base.decode(waveforms, own, instruction)
            if own
            else [DecodedRecord({}) for _ in waveforms]
        )
        heard = [
            row
            for row, record in enumerate(records)
            if isinstance(record, DecodedRecord)
            and record.values.get("SpeechActivity", True) is not False
        ]
        texts = self._texts([waveforms[row] for row in heard], word_times) if heard else []
        by_row = dict(zip(heard, texts, strict=True))
        return [
            record
            if isinstance(record, SpeechMetaError)
            else _together(record, by_row.get(row, Transcript("")), asked)
            for row, record in enumerate(records)
        ]

    def _texts(
        self, waveforms: Sequence[Waveform], word_times: bool
    ) -> list[Transcript | SpeechMetaError]:
        found = self.transcriber.transcribe(waveforms, word_times)
        if not word_times or not isinstance(self.base, Aligner):
            return found
        bare = [
            (row, item)
            for row, item in enumerate(found)
            if isinstance(item, Transcript) and item.words is None and item.text.strip()
        ]
        aligned = self.base.align(
            [waveforms[row] for row, _ in bare], [item.text for _, item in bare]
        )
        for (row, item), words in zip(bare, aligned, strict=True):
            found[row] = Transcript(item.text, item.language, item.confidence, words, item.flags)
        return found


def _together(
    record: DecodedRecord, written: Transcript | SpeechMetaError, asked: Sequence[str]
) -> DecodedRecord:
    """The record with the transcript in its place, and without what nobody asked for."""
    values = {name: value for name, value in record.values.items() if name in asked}
    probabilities = {name: p for name, p in record.probabilities.items() if name in asked}
    if isinstance(written, SpeechMetaError):
        record.flags = (*record.flags, TRANSCRIPT_FAILED)
        record.no_transcript = written
    else:
        text = written.text.strip()
        values["Transcript"] = text
        record.text, record.language = text, written.language
        record.flags = (*record.flags, *written.flags)
        record.words = written.words if text else []
        record.transcript_confidence = written.confidence if text else None
    record.values = {name: values[name] for name in FIELDS if name in values}
    record.probabilities = probabilities
    return record


__all__ = ["TranscribedBeside"]
