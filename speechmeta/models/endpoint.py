"""A server with OpenAI's API: several requests at a time, each with a limit of time and size.

The official client makes the requests and repeats those that failed for a while (429, 5xx, lost
connections), with growing pauses. What is added: a limit of time for a request with all its
repetitions, a limit of what is read, no redirects, and no key for a server that it was not meant
for.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from speechmeta.errors import EndpointError, SpeechMetaError, UsageError, require_extra
from speechmeta.visible import visible_line

if TYPE_CHECKING:
    from httpx2 import AsyncByteStream, Request, Response
    from openai import AsyncOpenAI

T = TypeVar("T")

LARGEST_ANSWER = 4 << 20
"""Bytes that are read of one answer."""

RETRIES = 4
CONNECT_SECONDS = 10.0
_OPENAI_HOST = "api.openai.com"
_OPENAI_KEY = "OPENAI_API_KEY"
_SHOWN = 200

_HEADERS = frozenset(
    "host accept accept-encoding connection content-length content-type transfer-encoding "
    "user-agent".split()
)
_ACCOUNT_HEADERS = frozenset({"openai-organization", "openai-project"})


def is_address(name: str) -> bool:
    """Whether a model's name is the address of a server."""
    return bool(re.match(r"https?://", name, re.IGNORECASE))


@dataclass(frozen=True)
class Endpoint:
    """One server, and how it is asked.

    Attributes:
        address: up to and with `/v1`; without a user, a query or a fragment, since it stands in
            reports.
        key_variable: the environment variable with the key; None: `OPENAI_API_KEY` for OpenAI's own
            server, and no key for any other.
        seconds: for one request with its repetitions.
        concurrency: requests at a time.

    Raises:
        UsageError: the address is none, the variable is not set, or it cannot wait so long.
        MissingExtraError: the client is not installed.
    """

    address: str
    key_variable: str | None = None
    seconds: float = 120.0
    concurrency: int = 4

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.address)
            host, _ = parts.hostname, parts.port
        except ValueError:
            parts, host = urlsplit(""), None
        if parts.scheme.lower() not in ("http", "https") or not host:
            raise UsageError(
                "the address of the server cannot be read", "such as http://127.0.0.1:8000/v1"
            )
        if "@" in parts.netloc or parts.query or parts.fragment:
            # Not shown: what is in it may be secret.
            raise UsageError(
                f"the address of the server {host} holds a user, a query or a fragment",
                "give the key by an environment variable, and the address up to /v1",
            )
        self._key()
        require_extra("openai", "endpoints", "a server as a model")

    @property
    def is_openai(self) -> bool:
        """Whether the server is OpenAI's own."""
        parts = urlsplit(self.address)
        return parts.hostname == _OPENAI_HOST and parts.scheme.lower() == "https"

    def _key(self) -> str | None:
        name = self.key_variable
        if name is None:
            return os.environ.get(_OPENAI_KEY) if self.is_openai else None
        key = os.environ.get(name, "").strip()
        if not key:
            # The name is not shown: some give the key itself here.
            raise UsageError(
                "the environment variable that is to hold the server's key is not set",
                "give the variable's name, not the key, and set it",
            )
        if not (key.isascii() and key.isprintable()):
            raise UsageError(
                f"the key in {name} holds characters that no key has", "set the variable again"
            )
        return key

    def check_offline(self, offline: bool) -> None:
        """Sees that the server is on this machine, where nothing else may be reached.

        Raises:
            UsageError: it is not.
        """
        host = urlsplit(self.address).hostname or ""
        if offline and host not in ("localhost", "::1") and not host.startswith("127."):
            raise UsageError(
                f"{self.address} is on another machine, and the network is switched off",
                "leave --local-files-only out",
            )

    def each(
        self, requests: Sequence[Callable[[AsyncOpenAI], Awaitable[T]]]
    ) -> list[T | SpeechMetaError]:
        """Makes several requests; in their order, what each gave or why it gave nothing.

        Once the server cannot be reached, refuses the key or knows no such model, the requests that
        have not begun yet are not made.
        """
        from anyio.from_thread import start_blocking_portal

        # A loop in a thread of its own, as the caller's may have one that runs (notebooks do).
        with start_blocking_portal() as portal:
            return portal.call(self._all, requests)

    async def _all(
        self, requests: Sequence[Callable[[AsyncOpenAI], Awaitable[T]]]
    ) -> list[T | SpeechMetaError]:
        gate = asyncio.Semaphore(self.concurrency)
        down: list[EndpointError] = []

        async def one(request: Callable[[AsyncOpenAI], Awaitable[T]]) -> T | SpeechMetaError:
            async with gate:
                if down:
                    return down[0]
                try:
                    async with asyncio.timeout(self.seconds):
                        return await request(client)
                except SpeechMetaError as error:
                    return error
                except Exception as error:
                    # Whatever a server's bytes make the client raise is that server's fault.
                    explained, over = self._explained(error)
                    if over:
                        down.append(explained)
                    return explained

        async with self._client() as client:
            return list(await asyncio.gather(*map(one, requests)))

    def _client(self) -> AsyncOpenAI:
        import httpx2
        from openai import AsyncOpenAI

        key = self._key()

        kept = _HEADERS | (_ACCOUNT_HEADERS if self.is_openai else frozenset())

        async def strip(request: Request) -> None:
            # What the environment says of an account at OpenAI is no other server's business.
            for name in set(request.headers) - kept:
                del request.headers[name]
            if key is not None:
                request.headers["authorization"] = f"Bearer {key}"

        return AsyncOpenAI(
            api_key=key or "none",
            base_url=self.address,
            max_retries=RETRIES,
            timeout=httpx2.Timeout(self.seconds, connect=min(CONNECT_SECONDS, self.seconds)),
            default_headers={"Accept-Encoding": "identity"},
            http_client=httpx2.AsyncClient(
                follow_redirects=False, event_hooks={"request": [strip], "response": [self._bound]}
            ),
        )

    async def _bound(self, response: Response) -> None:
        """Called with each response before its body is read."""
        import httpx2

        if response.headers.get("content-encoding", "identity") != "identity":
            raise EndpointError(f"{self.address} packed its answer, which was not asked for")
        stream = response.stream
        assert isinstance(stream, httpx2.AsyncByteStream)  # AsyncClient gives no other
        response.stream = _bounded(stream, self.address)

    def _explained(self, error: Exception) -> tuple[EndpointError, bool]:
        """The error in our words, and whether there is no use in asking again."""
        import httpx2
        import openai

        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, EndpointError):
                return cause, False
            if isinstance(cause, (httpx2.ConnectError, httpx2.ConnectTimeout)):
                return EndpointError(
                    f"{self.address} cannot be reached: {_line(str(cause)) or 'no answer'}",
                    "check that the server runs, and its address",
                ), True
            cause = cause.__cause__
        if isinstance(error, (TimeoutError, openai.APITimeoutError)):
            return EndpointError(
                f"{self.address} gave no answer within {self.seconds:g} s",
                "give it more time, or fewer requests at a time",
            ), False
        if isinstance(error, openai.APIStatusError):
            code = error.status_code
            over = code in (401, 403, 404)
            hint = "check the address, the model's name and the key" if over else ""
            said = self._without_key(_said(error.body))
            return EndpointError(f"{self.address} answered {code}{said}", hint), over
        if isinstance(error, openai.APIConnectionError):
            why = self._without_key(_line(str(error.__cause__ or error)))
            return EndpointError(
                f"{self.address} broke the connection off: {why}",
                "look into the server's log; it may not bear this request",
            ), False
        why = self._without_key(_line(str(error)))
        return EndpointError(
            f"{self.address} gave an answer that cannot be read: {type(error).__name__}: {why}",
            "check that it speaks OpenAI's API",
        ), False

    def _without_key(self, text: str) -> str:
        """What a server or a library says, in case it repeats the key."""
        key = self._key()
        return text.replace(key, "[key]") if key else text


def _said(body: object) -> str:
    """The message in an error's body."""
    inner = body.get("error", body) if isinstance(body, dict) else body
    message = inner.get("message") if isinstance(inner, dict) else inner
    return f": {_line(message)}" if isinstance(message, str) and message else ""


def _line(text: str) -> str:
    """The first line of a foreign text, as it may be shown."""
    return visible_line(next(iter(text.splitlines()), ""))[:_SHOWN]


def _bounded(stream: AsyncByteStream, address: str) -> AsyncByteStream:
    """A response's bytes up to `LARGEST_ANSWER`.

    Raises:
        EndpointError: there are more.
    """
    import httpx2

    class Bounded(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            total = 0
            async for part in stream:
                total += len(part)
                if total > LARGEST_ANSWER:
                    raise EndpointError(
                        f"{address} answered with more than {LARGEST_ANSWER >> 20} MiB"
                    )
                yield part

        async def aclose(self) -> None:
            await stream.aclose()

    return Bounded()


__all__ = ["Endpoint", "is_address"]
