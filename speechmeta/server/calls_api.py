"""`POST /v1/analyze`: a recording in, its report out, at the end or turn by turn."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from typing import Any

from fastapi import APIRouter, Request
from fastapi.sse import format_sse_event
from starlette.responses import Response

from speechmeta.errors import SpeechMetaError
from speechmeta.schema import CallReport, Turn
from speechmeta.server.hearing import on_its_way, report_of
from speechmeta.server.parameters import call_options, form_schema, switch, text_of
from speechmeta.server.problems import body_of
from speechmeta.server.served import Served
from speechmeta.server.streaming import streamed
from speechmeta.server.uploads import Incoming, received
from speechmeta.visible import visible_json
from speechmeta.writers.structured import compact, document

FILE: dict[str, Any] = {"type": "string", "format": "binary", "description": "The recording."}
PATH: dict[str, Any] = {
    "type": "string",
    "description": "A recording below a folder of the server (--root).",
}
STREAM: dict[str, Any] = {
    "type": "boolean",
    "default": False,
    "description": "Server-sent events: `turn` for each turn, then `report` or `error`.",
}
LANGUAGE: dict[str, Any] = {
    "type": "string",
    "description": "Language that is spoken, such as en or de.",
}
PROMPT: dict[str, Any] = {"type": "string", "description": "Names and terms to expect."}
OPTIONS: dict[str, Any] = {
    "type": "string",
    "description": "Options as one JSON object, with the keys of a config file.",
}


def body(*, stream: bool = False, **more: dict[str, Any]) -> dict[str, Any]:
    """What a route takes, for the OpenAPI page."""
    own = {"file": FILE, "path": PATH, **({"stream": STREAM} if stream else {}), **more}
    schema = form_schema(**own, language=LANGUAGE, prompt=PROMPT, options=OPTIONS)
    named = {name: value for name, value in schema["properties"].items() if name != "file"}
    return {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": schema},
                "application/json": {"schema": {**schema, "properties": named}},
            },
        }
    }


def json_response(text: str, status: int = 200) -> Response:
    """A document that is text already."""
    return Response(text, status, media_type="application/json")


def router(served: Served) -> APIRouter:
    """The route of reports."""
    routes = APIRouter(tags=["calls"])

    @routes.post(
        "/v1/analyze",
        openapi_extra=body(stream=True),
        summary="Analyse a recording",
        response_description="The document of `speechmeta analyze --json`.",
    )
    async def analyze(request: Request) -> Response:
        begun = time.monotonic()
        async with AsyncExitStack() as stack:
            visit = stack.enter_context(served.visit(request))
            incoming = await stack.enter_async_context(
                received(request, served.uploads, served.roots)
            )
            given = incoming.given
            stream = switch(given.pop("stream", False), "stream")
            language, prompt = text_of(given, "language"), text_of(given, "prompt")
            options = call_options(served.call, given)
            hearing = await stack.enter_async_context(
                on_its_way(served, visit, incoming, options, language, prompt)
            )
            if stream:
                words = _Events(served, incoming)
                return await streamed(request, served, incoming, hearing, begun, words, stack)
            report = await report_of(request, served, incoming, hearing, begun)
            return json_response(compact(await _told(served, incoming, report)))
        raise AssertionError("a request is answered above")

    return routes


async def _told(served: Served, incoming: Incoming, report: CallReport) -> dict[str, Any]:
    """The document of a report, which says so if the server's database lacks it."""
    data = document(report)
    if served.keeper is None:
        return data
    return await served.keeper.kept(incoming.path, data)


class _Events:
    """Events of one call: `turn` each, then `report` or `error`."""

    def __init__(self, served: Served, incoming: Incoming) -> None:
        self._served, self._incoming = served, incoming

    def turns(self, turns: Sequence[Turn]) -> Iterator[bytes]:
        for turn in turns:
            yield _event("turn", visible_json(turn.model_dump_json()))

    async def report(self, report: CallReport) -> Iterable[bytes]:
        return [_event("report", compact(await _told(self._served, self._incoming, report)))]

    def error(self, error: SpeechMetaError) -> bytes:
        return _event("error", compact(body_of(error)))


def _event(name: str, text: str) -> bytes:
    return format_sse_event(event=name, data_str=text)
