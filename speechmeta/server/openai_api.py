"""`POST /v1/audio/transcriptions` and `GET /v1/models`, as OpenAI's clients know them.

https://platform.openai.com/docs/api-reference/audio/createTranscription. What is beyond: the
options of calls are fields too, and segments carry our labels as `speechmeta`.
"""

from __future__ import annotations

import math
import time
import zlib
from typing import Any, Literal, get_args

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from speechmeta.errors import UsageError
from speechmeta.pipeline.options import CallOptions
from speechmeta.pipeline.policy import asks
from speechmeta.schema import CallReport, Turn
from speechmeta.server.calls_api import FILE, LANGUAGE, OPTIONS, PROMPT, json_response
from speechmeta.server.hearing import on_its_way, report_of
from speechmeta.server.parameters import call_options, form_schema
from speechmeta.server.problems import Refused
from speechmeta.server.served import Served
from speechmeta.server.uploads import received
from speechmeta.settings import OptionError
from speechmeta.writers.files import printable
from speechmeta.writers.structured import compact
from speechmeta.writers.subtitles import SrtWriter, VttWriter

ResponseFormat = Literal["json", "text", "srt", "verbose_json", "vtt"]
Granularity = Literal["word", "segment"]

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
        served.refuse_if_full()
        begun = time.monotonic()
        async with received(request, served.uploads, served.roots) as incoming:
            given = incoming.given
            check_model(served, given.pop("model", None))
            language, prompt = given.pop("language", None), given.pop("prompt", None)
            form = _choice(given.pop("response_format", "json"), ResponseFormat, "response_format")
            wanted = _granularities(given, form)
            _check_temperature(given.pop("temperature", None))
            options = _transcript_options(call_options(served.call, given), form, wanted)
            async with on_its_way(
                request, served, incoming, options, language or None, prompt or None
            ) as hearing:
                report = await report_of(request, served, incoming, hearing, begun)
        return written(report, form, wanted)

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


def _granularities(given: dict[str, Any], form: str) -> tuple[str, ...]:
    name = "timestamp_granularities"
    # Clients write lists with brackets; a single value may come without.
    found = [*given.pop(f"{name}[]", []), *filter(None, [given.pop(name, None)])]
    if found and form != "verbose_json":
        raise OptionError(
            f"{name} go with verbose_json only, not with {form}",
            "add response_format=verbose_json", name,
        )  # fmt: skip
    return tuple(_choice(value, Granularity, name) for value in found) or ("segment",)


def _check_temperature(value: Any) -> None:
    try:
        cold = value is None or float(value) == 0.0
    except (TypeError, ValueError):
        cold = False
    if not cold:
        raise OptionError(
            f"temperature is {value!r}, and nothing is drawn at random here",
            "send 0, or leave it out",
            "temperature",
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
    text = " ".join(str(turn.meta.transcript) for turn in spoken)
    if form == "text":
        return PlainTextResponse(text + "\n")
    several = len({turn.speaker for turn in spoken}) > 1
    if form == "srt":
        return PlainTextResponse(SrtWriter(speakers=several).text(report))
    if form == "vtt":
        return Response(VttWriter(speakers=several).text(report), media_type="text/vtt")
    if form == "json":
        return json_response(compact({"text": text}))
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
