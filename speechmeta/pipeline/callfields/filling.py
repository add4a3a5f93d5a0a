"""Fills the call fields of a report: asks, checks, asks again, and puts windows together."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from pydantic import ValidationError

from speechmeta.decoding.confined import check_size, confined
from speechmeta.decoding.structured import schema_text
from speechmeta.errors import DecodingError, SpeechMetaError, UsageError
from speechmeta.models.text.base import Messages, TextModel
from speechmeta.pipeline.callfields.question import (
    Question,
    encoded,
    form_of,
    merging,
    windows,
)
from speechmeta.pipeline.callfields.schemas import CallSchema
from speechmeta.schema import CallReport, FilledForm, PartFailure
from speechmeta.visible import visible_line

CLOSED = "answer_closed"
"""Flag of an answer that would have gone on at the end of its budget."""

NO_WORDS = "no_words"
"""Flag of a call in which nothing was said that could be asked about."""

_FENCE = re.compile(r"\s*```(?:json)?\s*\n(.*?)\n\s*```\s*", re.DOTALL)
_SHOWN = 300


class Filler:
    """Fills reports with what a text model answers by some schemas.

    Args:
        model: the text model.
        schemas: what is to be filled in.
        budget: most tokens of an answer.

    Raises:
        UsageError: answers cannot be held to one of the schemas.
    """

    def __init__(self, model: TextModel, schemas: Sequence[CallSchema], budget: int) -> None:
        self._model, self._schemas, self._budget = model, list(schemas), budget
        for schema in self._schemas:
            try:
                model.check(form_of(schema, [0]))
            except UsageError as error:
                raise UsageError(
                    f"the call schema {schema.name}: {error.message}", error.hint
                ) from error

    def fill(self, report: CallReport) -> CallReport:
        """The report with `call_fields`; a schema that could not be filled is among its failures.

        What is private has to be redacted before: the model sees the turns as the report has them.
        """
        found: dict[str, FilledForm] = {}
        failures = list(report.failures)
        for schema in self._schemas:
            try:
                found[schema.name] = self._filled(report, schema)
            except SpeechMetaError as error:
                message = f"{schema.name}: {visible_line(error.message)[:_SHOWN]}"
                failures.append(PartFailure(part="call_fields", message=message, hint=error.hint))
        model = report.model.model_copy(update={"llm": self._model.name})
        return report.model_copy(
            update={"call_fields": found, "failures": failures, "model": model}
        ).with_peaks(report.peaks)

    def _filled(self, report: CallReport, schema: CallSchema) -> FilledForm:
        questions = windows(report, schema, self._model, self._budget)
        if not questions:
            return FilledForm(value=None, flags=[NO_WORDS])
        flags: dict[str, None] = {}
        answers: list[Mapping[str, Any]] = [self._asked(q, schema, flags) for q in questions]
        turns = [turn for question in questions for turn in question.turns]
        while len(answers) > 1:
            steps = merging(answers, turns, schema, self._model, self._budget)
            answers = [
                self._asked(step, schema, flags) if isinstance(step, Question) else step
                for step in steps
            ]
        return FilledForm(
            value=answers[0]["fields"],
            evidence={name: sorted(set(cited)) for name, cited in answers[0]["evidence"].items()},
            parts=len(questions),
            flags=list(flags),
        )

    def _asked(
        self, question: Question, schema: CallSchema, flags: dict[str, None]
    ) -> dict[str, Any]:
        """An answer that fits; asked for as often as makes sense.

        Raises:
            SpeechMetaError: there is none.
        """
        form = form_of(schema, question.turns)
        messages = question.messages
        fault = ""
        for _ in range(self._model.attempts):
            answer = self._model.answer(messages, form, self._budget)
            try:
                value = _parsed(answer.text, form, schema)
            except DecodingError as error:
                fault = error.message
                if answer.closed:
                    fault = f"it was cut at {self._budget} tokens"
                messages = self._again(question, fault)
                continue
            if answer.closed:
                flags[CLOSED] = None
            return value
        times = f" in {self._model.attempts} answers" if self._model.attempts > 1 else ""
        raise DecodingError(
            f"{self._model.name} did not keep to the schema{times}: {fault}",
            "raise --llm-answer, simplify the schema, or take a better model",
        )

    def _again(self, question: Question, fault: str) -> Messages:
        """The question with what was wrong. One message: not every template takes two in a row."""
        *before, last = question.messages
        why = encoded(fault, self._model)
        text = f"{last['content']}\n\nAn earlier answer did not fit: {why}"
        return [*before, {**last, "content": text}]


def _parsed(text: str, form: Mapping[str, Any], schema: CallSchema) -> dict[str, Any]:
    """The value of an answer.

    Raises:
        DecodingError: it breaks the schema.
    """
    fenced = _FENCE.fullmatch(text)
    try:
        check_size(text)
        value = json.loads(fenced[1] if fenced else text, parse_constant=_no_number)
        line = json.dumps(value, ensure_ascii=False)
        line.encode()
    except UsageError as error:
        raise DecodingError("it is too long, or nested too deeply") from error
    except (ValueError, RecursionError) as error:
        raise DecodingError("it is not JSON") from error
    fault: str | None = confined("fault", schema_text(dict(form)), line)
    if fault is not None:
        raise DecodingError(visible_line(fault)[:_SHOWN])
    found: dict[str, Any] = value
    if schema.model is not None:
        try:
            instance = schema.model.model_validate(found["fields"])
            found["fields"] = json.loads(instance.model_dump_json())
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise DecodingError(f"{place}: {first['msg']}") from error
        except Exception as error:  # whatever a validator of the user's class raises
            raise DecodingError(f"{schema.name} refused it: {type(error).__name__}") from error
    return found


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


__all__ = ["CLOSED", "NO_WORDS", "Filler"]
