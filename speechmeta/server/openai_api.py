"""`POST /v1/audio/transcriptions` and `GET /v1/models`, as OpenAI's clients know them.

https://platform.openai.com/docs/api-reference/audio/createTranscription. What is beyond: the
options of calls are fields too, and segments carry our labels as `speechmeta`.
"""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from typing import Any, Literal, get_args

from fastapi import APIRouter, Request
from fastapi.sse import format_sse_event
from starlette.responses import PlainTextResponse, Response

from speechmeta.errors import SpeechMetaError, UsageError
from speechmeta.pipeline.options import CallOptions
from speechmeta.pipeline.policy import asks
from speechmeta.schema import CallReport, Turn
from speechmeta.server.calls_api import (
    FILE,
    LANGUAGE,
    OPTIONS,
    PROMPT,
    json_response,
)
from speechmeta.server.hearing import on_its_way, report_of
from speechmeta.server.parameters import call_options, form_schema, switch, text_of
from speechmeta.server.problems import Refused, body_of
from speechmeta.server.served import Served
from speechmeta.server.streaming import streamed
from speechmeta.server.uploads import received
from speechmeta.settings import OptionError
from speechmeta.writers.files import printable
from speechmeta.writers.structured import compact
from speechmeta.writers.subtitles import SrtWriter, VttWriter

ResponseFormat = Literal["json", "text", "srt", "verbose_json", "vtt", "diarized_json"]
Granularity = Literal["word", "segment"]

STREAMED = ("json", "text", "diarized_json")
"""Formats that go with `stream`."""

ALIAS = "whisper-1"
"""The name that most clients send; it stands for whatever model is loaded."""

_FORM: dict[str, dict[str, Any]] = {
    "file": FILE,
    "model": {"type": "string", "description": "As `GET /v1/models` lists it."},
    "language": LANGUAGE,
    "prompt": PROMPT,
    "response_format": {
        "type": "string", "enum": list(get_args(ResponseFormat)), "default": "json"
    },
    "timestamp_granularities[]": {
        "type": "array", "items": {"type": "string", "enum": list(get_args(Granularity))}
    },
    "temperature": {"type": "number", "description": "0, or left out."},
    "stream": {
        "type": "boolean", "default": False,
        "description": "Server-sent events turn by turn, with json, text and diarized_json.",
    },
    "chunking_strategy": {
        "type": "string", "enum": ["auto"],
        "description": "Speech is always cut at pauses.",
    },
}  # fmt: skip


def router(served: Served) -> APIRouter:
    """The routes that OpenAI's API has."""
    routes = APIRouter(tags=["OpenAI"])

    @routes.post(
        "/v1/audio/transcriptions",
        summary="Transcribe a recording",
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    "multipart/form-data": {
                        "schema": {**form_schema(**_FORM, options=OPTIONS),
                                   "required": ["file", "model"]}
                    }
                },
            }
        },
    )  # fmt: skip
    async def transcriptions(request: Request) -> Response:
        begun = time.monotonic()
        async with AsyncExitStack() as stack:
            visit = stack.enter_context(served.visit(request))
            incoming = await stack.enter_async_context(
                received(request, served.uploads, served.roots)
            )
            given = incoming.given
            check_model(served, given.pop("model", None))
            language, prompt = text_of(given, "language"), text_of(given, "prompt")
            form = _choice(given.pop("response_format", "json"), ResponseFormat, "response_format")
            wanted = _granularities(given, form)
            _check_temperature(given.pop("temperature", None))
            _check_chunking(given.pop("chunking_strategy", None))
            stream = switch(given.pop("stream", False), "stream")
            if stream and form not in STREAMED:
                raise OptionError(
                    f"stream does not go with {form}", f"choose from {', '.join(STREAMED)}",
                    "stream",
                )  # fmt: skip
            options = _transcript_options(call_options(served.call, given), form, wanted)
            hearing = await stack.enter_async_context(
                on_its_way(served, visit, incoming, options, language, prompt)
            )
            if stream:
                words = _Events(form)
                return await streamed(request, served, incoming, hearing, begun, words, stack)
            report = await report_of(request, served, incoming, hearing, begun)
            return written(report, form, wanted)
        raise AssertionError("a request is answered above")

    @routes.get("/v1/models", summary="List the models that can be named")
    async def models() -> dict[str, Any]:
        info = served.service.model.facts.info
        more = {name: value for name, value in info.model_dump().items() if name != "name"}
        names = dict.fromkeys((printable(info.name), ALIAS))
        return {"object": "list", "data": [_model(name, served.created, more) for name in names]}

    @routes.get("/v1/models/{name:path}", summary="One of these models")
    async def model(name: str) -> dict[str, Any]:
        check_model(served, name)
        info = served.service.model.facts.info.model_dump()
        info.pop("name")
        return _model(name, served.created, info)

    return routes


class _Events:
    """OpenAI's events of one call: text as it comes, speakers' segments where they were asked for,
    and the whole text at the end. The deltas together are that text."""

    def __init__(self, form: str) -> None:
        self._form = form
        self._told = 0

    def turns(self, turns: Sequence[Turn]) -> Iterator[bytes]:
        for turn in turns:
            text = str(turn.meta.transcript or "")
            if not text:
                continue
            number = self._told
            self._told += 1
            if self._form == "diarized_json":
                yield _data(_speakers_segment(number, turn))
            delta = f" {text}" if number else text
            yield _data({"type": "transcript.text.delta", "delta": delta})

    async def report(self, report: CallReport) -> Iterable[bytes]:
        # With redaction, and where nothing was told before, all of it comes now.
        rest = [turn for turn in report.turns if turn.meta.transcript][self._told :]
        done = {"type": "transcript.text.done", "text": _text(report)}
        return [*self.turns(rest), _data(done)]

    def error(self, error: SpeechMetaError) -> bytes:
        return _data(body_of(error))


def _data(event: dict[str, Any]) -> bytes:
    return format_sse_event(data_str=compact(event))


def _model(name: str, created: int, info: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "speechmeta",
        "speechmeta": info,
    }


def check_model(served: Served, name: Any) -> None:
    """Sees that the model that is asked for is the one that is loaded.

    Raises:
        UsageError: none was named. Refused: it is another one.
    """
    if not name:
        raise OptionError("no model was named", f"send model={ALIAS}", "model")
    own = printable(served.service.model.facts.info.name)
    if name not in (own, ALIAS):
        raise Refused(
            404,
            f"the model {printable(str(name))[:80]!r} is not here",
            f"this server has {own}, which answers to {ALIAS} too",
        )


def _choice(value: Any, kind: Any, name: str) -> Any:
    if value not in get_args(kind):
        raise OptionError(f"{name} is {value!r}", f"choose from {', '.join(get_args(kind))}", name)
    return value


def _listed(value: Any) -> list[Any]:
    """The values of a field that may be a list, a single value, or left out."""
    return value if isinstance(value, list) else [] if value in (None, "") else [value]


def _granularities(given: dict[str, Any], form: str) -> tuple[str, ...]:
    name = "timestamp_granularities"
    # Clients write lists with brackets; a single value may come without.
    found = [*_listed(given.pop(f"{name}[]", None)), *_listed(given.pop(name, None))]
    if found and form != "verbose_json":
        raise OptionError(
            f"{name} go with verbose_json only, not with {form}",
            "add response_format=verbose_json", name,
        )  # fmt: skip
    return tuple(_choice(value, Granularity, name) for value in found) or ("segment",)


def _check_temperature(value: Any) -> None:
    try:
        cold = value is None or float(value) == 0.0
    except (TypeError, ValueError, OverflowError):
        cold = False
    if not cold:
        raise OptionError(
            f"temperature is {value!r}, and nothing is drawn at random here",
            "send 0, or leave it out",
            "temperature",
        )


def _check_chunking(value: Any) -> None:
    if value not in (None, "auto"):
        raise OptionError(
            "speech is cut at pauses only",
            "send chunking_strategy=auto, or leave it out; min_pause and the like set how",
            "chunking_strategy",
        )


def _transcript_options(options: CallOptions, form: str, wanted: tuple[str, ...]) -> CallOptions:
    """What the answer needs: words alone cost no labels where nobody sees them."""
    overrides: dict[str, Any] = {}
    if form != "verbose_json" and options.fields is None:
        overrides["fields"] = ("SpeechActivity", "Transcript")
    elif not asks(options.fields, "Transcript"):
        raise UsageError("a transcription was asked for without Transcript", "add it to the fields")
    if "word" in wanted:
        overrides["word_times"] = True
    found: CallOptions = options.updated(overrides)
    return found


def written(report: CallReport, form: str, wanted: tuple[str, ...]) -> Response:
    """The report in one of OpenAI's formats."""
    spoken = [turn for turn in report.turns if turn.meta.transcript]
    text = _text(report)
    if form == "text":
        return PlainTextResponse(text + "\n")
    several = len({turn.speaker for turn in spoken}) > 1
    if form == "srt":
        return PlainTextResponse(SrtWriter(speakers=several).text(report))
    if form == "vtt":
        return Response(VttWriter(speakers=several).text(report), media_type="text/vtt")
    if form == "json":
        return json_response(compact({"text": text}))
    if form == "diarized_json":
        segments = [_speakers_segment(number, turn) for number, turn in enumerate(spoken)]
        seconds = round(report.audio.duration, 3)
        whole = {"task": "transcribe", "duration": seconds, "text": text, "segments": segments}
        return json_response(compact(whole))
    data: dict[str, Any] = {
        "task": "transcribe",
        "language": language_name(report),
        "duration": round(report.audio.duration, 3),
        "text": text,
    }
    if "segment" in wanted:
        data["segments"] = [_segment(number, turn) for number, turn in enumerate(spoken)]
    if "word" in wanted:
        data["words"] = [
            {"word": word.word, "start": word.start, "end": word.end}
            for turn in spoken
            for word in turn.words or []
        ]
    data["speechmeta"] = report.model_dump(
        mode="json", include={"schema_version", "model", "speakers", "conversation", "coverage",
                              "warnings"},
    )  # fmt: skip
    return json_response(compact(data))


def _text(report: CallReport) -> str:
    return " ".join(str(turn.meta.transcript) for turn in report.turns if turn.meta.transcript)


def _speakers_segment(number: int, turn: Turn) -> dict[str, Any]:
    """A turn as `diarized_json` and its events have it."""
    return {
        "type": "transcript.text.segment",
        "id": f"seg_{number}",
        "start": turn.start,
        "end": turn.end,
        "speaker": printable(turn.speaker),
        "text": str(turn.meta.transcript),
    }


def _segment(number: int, turn: Turn) -> dict[str, Any]:
    text = str(turn.meta.transcript)
    raw = text.encode("utf-8")
    sure = turn.transcript_confidence
    return {
        "id": number,
        "seek": round(100 * turn.start),
        "start": turn.start,
        "end": turn.end,
        "text": text,
        "tokens": [],
        "temperature": 0.0,
        # As a confidence is the mean probability of tokens, this is what one such token has.
        "avg_logprob": round(math.log(max(sure, 1e-6)), 4) if sure is not None else 0.0,
        "compression_ratio": round(len(raw) / len(zlib.compress(raw)), 4),
        "no_speech_prob": round(1.0 - turn.confidence.get("SpeechActivity", 1.0), 4),
        "speechmeta": {
            name: value
            for name, value in turn.model_dump(mode="json").items()
            if name not in ("start", "end", "Transcript", "words")
        },
    }


def language_name(report: CallReport) -> str:
    """The language as OpenAI writes it, such as `english`: the one that most was spoken in."""
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    code = report.model.language
    if code is None:
        seconds: dict[str, float] = {}
        for turn in report.turns:
            if turn.language is not None:
                seconds[turn.language] = seconds.get(turn.language, 0.0) + turn.end - turn.start
        code = max(seconds, key=lambda name: seconds[name]) if seconds else None
    if code is None:
        return "unknown"
    return str(LANGUAGES.get(code, code))
