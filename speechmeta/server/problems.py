"""What a client is told when something is wrong: a status, and the message and hint as JSON."""

from __future__ import annotations

from typing import Any

from speechmeta.errors import (
    AudioError,
    DecodingError,
    ModelError,
    OutputError,
    SpeechMetaError,
    UsageError,
)
from speechmeta.writers.files import printable


class Refused(SpeechMetaError):
    """A request that the server does not take, with the HTTP status that says so.

    Args:
        retry_after: seconds after which it may be sent again.
    """

    def __init__(
        self, status: int, message: str, hint: str = "", retry_after: int | None = None
    ) -> None:
        super().__init__(message, hint)
        self.status = status
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        return Refused, (self.status, self.message, self.hint, self.retry_after)


class Busy(Refused):
    """There is no room for another request."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(
            429,
            "the server has as much to do as it takes on",
            f"try again in {retry_after} s",
            retry_after,
        )


class Stopped(Refused):
    """The server ends; what it was at is not done, and is nobody's fault."""

    def __init__(self) -> None:
        super().__init__(503, "the server is being stopped", "send the request again", 5)


class TookTooLong(Refused):
    """A request that was given up."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            504,
            f"there was no result after {seconds:g} s",
            "send long recordings to /v1/jobs, which has no such limit",
        )


_STATUSES: tuple[tuple[type[SpeechMetaError], int], ...] = (
    (UsageError, 400),
    (AudioError, 422),
    (OutputError, 507),
    (DecodingError, 503),
    (ModelError, 503),
)


def status_of(error: SpeechMetaError) -> int:
    """The HTTP status: 4xx for what is the request's fault, 5xx for what is the server's."""
    if isinstance(error, Refused):
        return error.status
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)


def body_of(error: SpeechMetaError) -> dict[str, Any]:
    """The error as JSON: ours, and under `error` as OpenAI's clients read it."""
    status = status_of(error)
    message, hint = printable(error.message), printable(error.hint)
    family = "server_error" if status >= 500 else "invalid_request_error"
    return {
        "message": message,
        "hint": hint,
        "type": type(error).__name__,
        "error": {
            "message": f"{message} ({hint})" if hint else message,
            "type": "rate_limit_error" if status == 429 else family,
            "param": getattr(error, "option", None) or None,
            "code": type(error).__name__,
        },
    }


def as_told(error: SpeechMetaError | tuple[str, str]) -> SpeechMetaError:
    """An error as a client may see it: of one that nobody foresaw only the kind."""
    if isinstance(error, SpeechMetaError):
        return error
    return SpeechMetaError(
        f"the analysis failed ({error[0]})", "this is a fault of speechmeta; its log says more"
    )
