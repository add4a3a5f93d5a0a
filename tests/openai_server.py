"""A local server with OpenAI's API that answers as a test wants, and fails in many ways."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Asked:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Reply:
    """What is sent back.

    Attributes:
        body: bytes as they are; else JSON.
        pause: seconds before the answer.
        cut: the connection ends in the middle of the body.
        drip: seconds between the bytes of the body.
    """

    body: object = ""
    status: int = 200
    kind: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    pause: float = 0.0
    cut: bool = False
    drip: float = 0.0


Answer = Callable[[Asked, int], Reply]
"""From a request and its number, from 0, to what is sent back."""


@dataclass
class Fake:
    """A running server.

    Attributes:
        address: up to and with `/v1`.
        asked: the requests so far.
        most: so many were being answered at the same time.
    """

    address: str
    asked: list[Asked] = field(default_factory=list)
    most: int = 0


@contextmanager
def serving(answer: Answer) -> Iterator[Fake]:
    """Runs a server on a free port of this machine."""
    lock = threading.Lock()
    open_now = 0

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            nonlocal open_now
            size = int(self.headers.get("Content-Length") or 0)
            asked = Asked(self.path, dict(self.headers.items()), self.rfile.read(size))
            with lock:
                number = len(fake.asked)
                fake.asked.append(asked)
                open_now += 1
                fake.most = max(fake.most, open_now)
            try:
                self._send(answer(asked, number))
            except (BrokenPipeError, ConnectionResetError):
                pass
            finally:
                with lock:
                    open_now -= 1

        def _send(self, reply: Reply) -> None:
            time.sleep(reply.pause)
            body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            for name, value in {"Content-Type": reply.kind, **reply.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if reply.cut:
                self.wfile.write(body[: len(body) // 2])
                self.close_connection = True
                return
            if not reply.drip:
                self.wfile.write(body)
                return
            for byte in body:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(reply.drip)

        def log_message(self, *_: object) -> None:
            """Tests have no use for it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    fake = Fake(f"http://127.0.0.1:{server.server_port}/v1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
