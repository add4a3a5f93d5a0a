"""Around every request: a number, a key, a line in the log, and errors as JSON."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse

from speechmeta.errors import SpeechMetaError
from speechmeta.server.clients import client_of
from speechmeta.server.keys import Keys
from speechmeta.server.log_lines import place_of
from speechmeta.server.metrics import Metrics
from speechmeta.server.patience import Left
from speechmeta.server.problems import Busy, Refused, as_told, body_of, status_of
from speechmeta.web_safety import AsgiApp, Message, Receive, Send

log = logging.getLogger("speechmeta.server")

CLIENT_LEFT = 499
"""The status in log and metrics of a request whose client did not wait for the answer."""

TOO_SLOW = 408

BUSY_SECONDS = 5
"""When to come again where others are sending as much as is taken."""

_DRAIN_BYTES = 8 << 20
_DRAIN_SECONDS = 5.0


class Envelope:
    """ASGI middleware: counts, logs and names every request, and answers for what goes wrong.

    Args:
        keys: who may ask.
        max_bytes: largest body that a request may have.
        max_together: bytes that all requests that are being answered may have, as what they sent
            lies on the disk meanwhile. One client may have half of them.
    """

    def __init__(
        self, app: AsgiApp, keys: Keys, metrics: Metrics, max_bytes: int, max_together: int
    ) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._max_together = max_together
        self._together: Counter[str] = Counter()
        self._keys = keys
        self._metrics = metrics

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.monotonic()
        number = secrets.token_hex(8)
        status = 0
        whole = False
        size = 0
        client = ""

        async def followed() -> Message:
            nonlocal whole, size
            message = await receive()
            more = len(message.get("body", b""))
            size += more
            self._together[client] += more
            if size > self._max_bytes:
                raise of_http(HTTPException(413))
            if self._is_too_much(client):
                raise Busy(BUSY_SECONDS)
            whole = message["type"] != "http.request" or not message.get("more_body", False)
            return message

        async def numbered(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if status >= 400 and status != TOO_SLOW and not whole:
                    await _drain(followed)
                message["headers"] = [
                    *message.get("headers", []),
                    (b"x-request-id", number.encode("ascii")),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        scope.setdefault("state", {})
        kind = ""
        try:
            request = Request(scope)
            owner = scope["state"]["owner"] = self._keys.owner(request)
            client = scope["state"]["client"] = client_of(owner, (scope.get("client") or ("",))[0])
            announced = request.headers.get("content-length", "0")
            if not announced.isdecimal() or int(announced) > self._max_bytes:
                raise of_http(HTTPException(413))
            await self._app(scope, followed, numbered)
        except asyncio.CancelledError:
            status = status or CLIENT_LEFT
            raise
        except (ClientDisconnect, Left):
            status = CLIENT_LEFT
        except Exception as error:
            told = _known(error)
            kind = type(error).__name__
            if told is None:
                log.error("fault", extra={"id": number, "kind": kind, "where": place_of(error)})
                told = as_told((kind, ""))
            if status:
                status = CLIENT_LEFT  # half an answer cannot be taken back
            else:
                await error_response(told)(scope, followed, numbered)
        finally:
            self._give_back(client, size)
            route = getattr(scope.get("route"), "path", "none")
            seconds = time.monotonic() - begun
            kind = kind or scope["state"].get("kind", "")
            more = {name: scope["state"][name] for name in ("audio_seconds", "turns", "job")
                    if name in scope["state"]}  # fmt: skip
            self._metrics.request(_method(scope), route, status, seconds)
            if kind or status == CLIENT_LEFT:
                self._metrics.error(kind or "ClientLeft")
            log.info(
                "request",
                extra={
                    "id": number,
                    "method": _method(scope),
                    "route": route,
                    "status": status,
                    "seconds": round(seconds, 3),
                    **more,
                    **({"kind": kind} if kind else {}),
                },
            )

    def _is_too_much(self, client: str) -> bool:
        most = self._max_together
        return self._together.total() > most or self._together[client] > most / 2

    def _give_back(self, client: str, size: int) -> None:
        self._together[client] -= size
        if not self._together[client]:
            del self._together[client]


def _method(scope: Message) -> str:
    """A client may call a method anything."""
    known = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
    return str(scope["method"]) if scope["method"] in known else "other"


def _known(error: Exception) -> SpeechMetaError | None:
    if isinstance(error, SpeechMetaError):
        return error
    if isinstance(error, HTTPException):
        return of_http(error)
    return None


def of_http(error: HTTPException) -> Refused:
    """What the framework refuses: no such address, a body that is too large, a bad form."""
    hints = {
        404: ("there is nothing at this address", "GET /docs lists what there is"),
        405: ("this address takes another method", "GET /docs lists what there is"),
        413: ("the request is larger than this server takes", "--max-upload-mb is its limit"),
    }
    message, hint = hints.get(error.status_code, (str(error.detail), "GET /docs says what to send"))
    return Refused(error.status_code, message, hint)


def error_response(error: SpeechMetaError) -> JSONResponse:
    """The answer that an error becomes."""
    headers = {}
    if isinstance(error, Refused):
        if error.retry_after is not None:
            headers["Retry-After"] = str(error.retry_after)
        if error.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(body_of(error), status_of(error), headers)


async def _drain(receive: Receive) -> None:
    """Takes what a client is still sending, so that it comes to read the answer."""
    size = 0

    async def take() -> None:
        nonlocal size
        while size < _DRAIN_BYTES:
            message = await receive()
            size += len(message.get("body", b""))
            if message["type"] != "http.request" or not message.get("more_body", False):
                return

    try:
        await asyncio.wait_for(take(), _DRAIN_SECONDS)
    except (TimeoutError, Exception):
        return


def note(request: Request, **values: Any) -> None:
    """Adds to the request's line in the log."""
    for name, value in values.items():
        setattr(request.state, name, value)
