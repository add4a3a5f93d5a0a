"""Engines that write a given transcript, for weights that do not stop by themselves.

Every pass is made as it would be; only the choice is not the model's. SpeechActivity is always
True, since nothing else would be written without it.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from speechmeta.decoding.engine import Engine
from speechmeta.decoding.grammar import Grammar, Option
from speechmeta.decoding.layout import SPEECH_VALUES
from speechmeta.decoding.options import DecodeOptions
from speechmeta.decoding.record import DecodedRecord
from speechmeta.decoding.reference import ReferenceEngine
from speechmeta.decoding.session import Plan, Results, Row, Session
from speechmeta.decoding.transcript import TranscriptWriter
from speechmeta.decoding.trees import LabelStep, TranscriptStep


def _spoken(options: Sequence[Option], chosen: Option) -> Option:
    return next((o for o in options if SPEECH_VALUES.get(o.label)), chosen)


def _write(writer: TranscriptWriter, token: int, left: int) -> None:
    writer.push(token)
    if writer.done and left:
        raise SystemExit("the driven transcript ended before its last token")


class DrivenEngine(Engine):
    """`Engine` with a script; its options' budget is the script's length."""

    def __init__(
        self, model: Any, processor: Any, options: DecodeOptions, script: Sequence[int]
    ) -> None:
        super().__init__(model, processor, options)
        self._script = script

    def _label(
        self, step: LabelStep, results: Results, grammar: Grammar, record: DecodedRecord
    ) -> tuple[Option, int]:
        chosen, number = super()._label(step, results, grammar, record)
        if grammar.fields[step.index] == "SpeechActivity":
            chosen = _spoken(step.options, chosen)
            record.values["SpeechActivity"] = True
            number = step.options.index(chosen)
        return chosen, number

    def _transcript(
        self,
        session: Session[Any],
        row: Row,
        step: TranscriptStep,
        results: Results,
        grammar: Grammar,
        writer: TranscriptWriter,
        record: DecodedRecord,
    ) -> Generator[Plan, Results, list[int]]:
        fed = len(step.start.tokens)
        session.keep(row, step.path[:fed])
        record.forced_tokens += fed
        for place, token in enumerate(self._script):
            if place:
                yield Plan([self._script[place - 1]], after_chain=True, place=writer.place_index)
            _write(writer, token, len(self._script) - place - 1)
        record.transcript_tokens = len(writer.tokens)
        record.sampled_tokens += len(writer.tokens)
        return [self._script[-1]]


class DrivenReference(ReferenceEngine):
    """`ReferenceEngine` with a script."""

    def __init__(
        self, model: Any, processor: Any, options: DecodeOptions, script: Sequence[int]
    ) -> None:
        super().__init__(model, processor, options)
        self._script = script

    def _label(
        self,
        decoder: Any,
        grammar: Grammar,
        index: int,
        consumed: int | None,
        record: DecodedRecord,
    ) -> Option:
        if grammar.fields[index] != "SpeechActivity":
            return super()._label(decoder, grammar, index, consumed, record)
        options = grammar.options(index, consumed)
        chosen = _spoken(options, options[0])
        for option in options:
            decoder.score(option.tokens)
        for token in chosen.tokens:
            decoder.feed(token)
        return chosen

    def _transcript(
        self,
        decoder: Any,
        grammar: Grammar,
        prompt: Any,
        consumed: int | None,
        record: DecodedRecord,
    ) -> TranscriptWriter:
        start = grammar.transcript_start(consumed)
        writer = TranscriptWriter(grammar.transcript, self.options, len(self._script))
        for token in start.tokens:
            decoder.feed(token)
        record.forced_tokens += len(start.tokens)
        for place, token in enumerate(self._script):
            _write(writer, token, len(self._script) - place - 1)
            decoder.feed(token)
        record.transcript_tokens = len(writer.tokens)
        record.sampled_tokens += len(writer.tokens)
        return writer
