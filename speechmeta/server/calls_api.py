"""`POST /v1/analyze`: a recording in, its report out, at the end or turn by turn."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

from fastapi import APIRouter, Request
from fastapi.sse import EventSourceResponse, format_sse_event
from starlette.responses import Response

from speechmeta.errors import SpeechMetaError
from speechmeta.schema import CallReport
from speechmeta.server.hearing import (
    Hearing,
    accounted,
    on_its_way,
    report_of,
    told,
    unless_left,
    without_our_paths,
)
from speechmeta.server.parameters import call_options, form_schema, switch, text_of
from speechmeta.server.problems import body_of
from speechmeta.server.served import Served
from speechmeta.server.uploads import Incoming, received
from speechmeta.visible import visible_json
from speechmeta.writers.structured import compact, document

PING_SECONDS = 15.0
"""A stream says something at least so often, so that nobody between takes it for dead."""

PING = format_sse_event(comment="still at it")

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
        served.refuse_if_full()
        begun = time.monotonic()
        async with AsyncExitStack() as stack:
            incoming = await stack.enter_async_context(
                received(request, served.uploads, served.roots)
            )
            given = incoming.given
            stream = switch(given.pop("stream", False), "stream")
            language, prompt = text_of(given, "language"), text_of(given, "prompt")
            options = call_options(served.call, given)
            hearing = await stack.enter_async_context(
                on_its_way(request, served, incoming, options, language, prompt)
            )
            if not stream:
                report = await report_of(request, served, incoming, hearing, begun)
                return json_response(compact(await _told(served, incoming, report)))
            # What is refused at once is refused with a status.
            first = await unless_left(request, hearing)
            events = _events(request, served, incoming, hearing, begun, first, stack.pop_all())
            return EventSourceResponse(events, headers={"Cache-Control": "no-store"})
        raise AssertionError("a request is answered above")

    return routes


async def _told(served: Served, incoming: Incoming, report: CallReport) -> dict[str, Any]:
    """The document of a report, which says so if the server's database lacks it."""
    data = document(report)
    if served.keeper is None:
        return data
    return await served.keeper.kept(incoming.path, data)


async def _events(
    request: Request,
    served: Served,
    incoming: Incoming,
    hearing: Hearing,
    begun: float,
    first: Any,
    stack: AsyncExitStack,
) -> AsyncIterator[bytes]:
    async with stack:
        try:
            async for news in told(request, hearing, first, PING_SECONDS):
                if news is None:
                    yield PING
                elif isinstance(news, CallReport):
                    report = accounted(request, served, incoming, news, begun)
                    yield _event("report", compact(await _told(served, incoming, report)))
                else:
                    for turn in news:
                        yield _event("turn", visible_json(turn.model_dump_json()))
        except SpeechMetaError as error:
            served.metrics.error(type(error).__name__)
            yield _event("error", compact(body_of(without_our_paths(error, incoming))))


def _event(name: str, text: str) -> bytes:
    return format_sse_event(event=name, data_str=text)
