"""How the server serves, each option stated once."""

from __future__ import annotations

import ipaddress
from typing import Literal
from urllib.parse import urlsplit

from pydantic import field_validator

from speechmeta.settings import OptionError, Options, option

WHO = "Who is served"
WHAT = "Recordings and jobs"
LOAD = "Load"


class ServeOptions(Options):
    """How `speechmeta serve` listens, whom it answers, and what it takes on.

    Raises:
        UsageError: an option is not known or cannot take its value.
    """

    host: str = option("127.0.0.1", "Address to listen on.", panel=WHO)
    port: int = option(8000, "Port to listen on; 0 takes a free one.", panel=WHO, ge=0, le=65535)
    api_key_file: str | None = option(
        None,
        "File with one API key a line; clients send one as `Authorization: Bearer KEY`.",
        unset="no keys, which only loopback may have",
        metavar="FILE",
        panel=WHO,
    )
    without_keys: bool = option(
        False, "Listen on other addresses than loopback without API keys.", panel=WHO
    )
    allow_host: tuple[str, ...] | None = option(
        None,
        "Names of this server beside loopback's that requests may be for, such as that of a "
        "proxy in front of it.",
        unset="none; with keys, or on another address than loopback, any",
        metavar="NAME,...",
        panel=WHO,
    )
    root: tuple[str, ...] | None = option(
        None,
        "Folders whose recordings clients may name by path; no others are read.",
        unset="none",
        metavar="DIR,...",
        panel=WHAT,
    )
    state: str | None = option(
        None,
        "Folder in which jobs are kept, so that a server that is killed finishes them when it is "
        "started again.",
        unset="no jobs",
        metavar="DIR",
        panel=WHAT,
    )
    keep_hours: float = option(
        24.0, "Hours after which the result of a job is deleted.", panel=WHAT, gt=0.0
    )
    webhook: tuple[str, ...] | None = option(
        None,
        "Servers that may be told of the end of a job, such as https://hooks.example.com.",
        unset="none",
        metavar="ORIGIN,...",
        panel=WHAT,
    )
    webhook_secret_file: str | None = option(
        None,
        "File with the secret by which webhooks are signed.",
        unset="none; webhooks need one",
        metavar="FILE",
        panel=WHAT,
    )
    max_upload_mb: int = option(
        500, "Largest request in MB, which is the largest recording.", panel=LOAD, ge=1
    )
    max_queue: int = option(
        32,
        "Requests that are worked on or wait; more are told to come back later (429).",
        panel=LOAD,
        ge=1,
    )
    max_jobs: int = option(
        1000, "Jobs that wait; more are told to come back later (429).", panel=LOAD, ge=1
    )
    max_live: int = option(
        16, "Live calls at a time; more are told to come back later (429).", panel=LOAD, ge=1
    )
    live_hours: float = option(
        4.0, "Hours after which a live call is ended, with its report.", panel=LOAD, gt=0.0
    )
    request_seconds: float = option(
        600.0, "Seconds after which a request is given up; jobs have no such limit.", panel=LOAD,
        gt=0.0,
    )  # fmt: skip
    reading_seconds: float = option(
        600.0,
        "Seconds that reading a recording and finding its turns may take.",
        panel=LOAD,
        gt=0.0,
    )
    client_seconds: float = option(
        30.0,
        "Seconds for which a client may send nothing, or take nothing, before it is cut off.",
        panel=LOAD,
        gt=0.0,
    )
    drain_seconds: int = option(
        30, "Seconds that requests have to end when the server is asked to stop.", panel=LOAD, ge=0
    )
    readers: int | None = option(
        None,
        "Processes that decode audio and find turns.",
        unset="half of the cores, at least 2 and at most 8",
        panel=LOAD,
        ge=1,
    )
    log_format: Literal["text", "json"] = option(
        "text",
        "How requests are logged on stderr; neither names recordings nor quotes them.",
        panel=LOAD,
    )

    @field_validator("webhook")
    @classmethod
    def _origins(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for origin in value or ():
            parts = urlsplit(origin)
            whole = parts.scheme in ("http", "https") and parts.hostname and not parts.username
            if not whole or parts.path.strip("/") or parts.query or parts.fragment:
                raise OptionError(
                    f"{origin!r} is no origin", "give one such as https://hooks.example.com",
                    "webhook",
                )  # fmt: skip
        return value

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


__all__ = ["ServeOptions"]
