"""Telling other servers that a job has ended: only those that are allowed, and signed.

Signatures are those of https://www.standardwebhooks.com: an HMAC with SHA-256 of id, time and
body in the header `webhook-signature`, so that libraries in most languages check them.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from urllib.parse import urlsplit

from speechmeta.errors import UsageError
from speechmeta.server.jobs import Job
from speechmeta.server.keys import MIN_CHARACTERS, read_lines
from speechmeta.server.options import ServeOptions
from speechmeta.server.problems import Refused
from speechmeta.settings import OptionError
from speechmeta.writers.files import printable

PREFIX = "whsec_"
"""What a secret may begin with that is base64, as the standard's libraries write it."""

RETRY_SECONDS = (5.0, 30.0, 120.0, 600.0, 3600.0)
"""Pauses between the attempts to call a webhook."""

TIMEOUT_SECONDS = 10.0


class Webhooks:
    """The webhooks that may be called, and how.

    Args:
        origins: scheme, host and port of the servers that may be told.
        secret: by which calls are signed.
    """

    def __init__(self, origins: tuple[str, ...] = (), secret: bytes = b"") -> None:
        self._origins = {_origin(origin) for origin in origins}
        self._secret = secret

    def checked(self, url: str) -> str:
        """A client's webhook, if it may be called.

        Raises:
            OptionError: it is no address. Refused: it is not at an allowed server.
        """
        try:
            origin, parts = _origin(url), urlsplit(url)
        except ValueError:
            origin, parts = None, None
        if origin is None or parts is None or parts.username or not url.isprintable():
            raise OptionError(f"webhook is {url[:200]!r}", "it has to be an address", "webhook")
        if origin not in self._origins:
            raise Refused(
                403,
                f"this server does not call {printable(url)[:200]}",
                "its --webhook lists the servers that it may tell",
            )
        return url

    def message(self, job: Job) -> tuple[bytes, dict[str, str]]:
        """The body and the headers that tell of a job's end."""
        data = {
            "type": f"job.{job.status}",
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(job.ended)),
            "data": {"id": job.id, "status": job.status},
        }
        body = json.dumps(data).encode("utf-8")
        moment = str(int(time.time()))
        return body, {
            "content-type": "application/json",
            "webhook-id": f"job_{job.id}",
            "webhook-timestamp": moment,
            "webhook-signature": self.signature(f"job_{job.id}", moment, body),
        }

    def signature(self, number: str, moment: str, body: bytes) -> str:
        """`v1,` and the HMAC of `number.moment.body` as base64."""
        signed = b".".join([number.encode("ascii"), moment.encode("ascii"), body])
        digest = hmac.new(self._secret, signed, hashlib.sha256).digest()
        return f"v1,{base64.b64encode(digest).decode('ascii')}"


def _origin(url: str) -> tuple[str, str, int] | None:
    parts = urlsplit(url)
    ports = {"http": 80, "https": 443}
    if parts.scheme not in ports or not parts.hostname:
        return None
    return parts.scheme, parts.hostname.lower(), parts.port or ports[parts.scheme]


def load_webhooks(options: ServeOptions) -> Webhooks:
    """Webhooks as the server's options have them.

    Raises:
        UsageError: there is no good secret, or one without webhooks.
    """
    if not options.webhook:
        if options.webhook_secret_file is not None:
            raise UsageError("a webhook secret was given without --webhook", "add --webhook ORIGIN")
        return Webhooks()
    if options.state is None:
        raise UsageError("webhooks tell of jobs, and there are none", "add --state DIR")
    if options.webhook_secret_file is None:
        raise UsageError(
            "webhooks are signed, and there is no secret", "add --webhook-secret-file FILE"
        )
    lines = read_lines(options.webhook_secret_file)
    name = printable(options.webhook_secret_file)
    if len(lines) != 1 or len(lines[0]) < MIN_CHARACTERS:
        raise UsageError(
            f"{name} holds no secret of {MIN_CHARACTERS} or more characters",
            "openssl rand -hex 32 makes one",
        )
    secret = lines[0]
    if not secret.startswith(PREFIX):
        return Webhooks(options.webhook, secret.encode("utf-8"))
    try:
        return Webhooks(options.webhook, base64.b64decode(secret[len(PREFIX) :], validate=True))
    except ValueError:
        raise UsageError(f"{name} begins with {PREFIX} and is no base64", "make another") from None
