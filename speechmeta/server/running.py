"""The server on a socket, until it is asked to stop."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Callable
from importlib.util import find_spec
from types import FrameType

import uvicorn

from speechmeta.errors import UsageError
from speechmeta.server.log_lines import set_up
from speechmeta.server.options import ServeOptions
from speechmeta.server.patience import PromptHeaders
from speechmeta.server.web import Server

SWITCH_SECONDS = 0.0005
"""How long a thread may keep the interpreter from others. The model's gives it away with every
operation, and at Python's 5 ms waits longer for it than most operations take (docs/live.md)."""

MAX_CONNECTIONS = 1000
"""More than these get 503 at once, and one address may have half of them."""

MAX_HEADER_BYTES = 32 * 1024

MAX_MESSAGE_BYTES = 256 * 1024
"""Of a live call: 8 s of one channel at 16 kHz."""

OPEN_FILES = 4 * MAX_CONNECTIONS
"""Each connection is one, and what clients send is others."""


def listen(options: ServeOptions) -> socket.socket:
    """The socket of a server.

    Raises:
        UsageError: the address cannot be used.
    """
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        return socket.create_server((options.host, options.port), family=family, backlog=512)
    except OSError as error:
        raise UsageError(
            f"cannot listen on {options.host} port {options.port}: {error.strerror or error}",
            "choose another with --host and --port",
        ) from error


def address_of(listening: socket.socket) -> str:
    """`http://127.0.0.1:8000`."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def prepared(server: Server, on_start: Callable[[], None] | None = None) -> uvicorn.Server:
    """uvicorn with an application, not yet running.

    Args:
        server: started.
        on_start: called when requests are answered.
    """
    options = server.served.options
    set_up(options.log_format)

    class Told(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started and on_start is not None:
                on_start()

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            # Nobody new, and live calls end in good order before their connections do.
            for serving in self.servers:
                serving.close()
            for listening in sockets or []:
                listening.close()
            await server.served.hall.end_all(options.drain_seconds)
            await super().shutdown(sockets)

    return Told(
        uvicorn.Config(
            server.app,
            http=PromptHeaders,
            # `speechmeta serve` asks for it; who serves the application without has no live calls.
            ws="websockets-sansio" if find_spec("websockets") else "none",
            ws_max_size=MAX_MESSAGE_BYTES,
            # Of a client that is read slowly the answers to pings wait as well.
            ws_ping_timeout=None,
            # What is small on the wire stays small here.
            ws_per_message_deflate=False,
            loop="asyncio",
            lifespan="on",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=MAX_CONNECTIONS,
            h11_max_incomplete_event_size=MAX_HEADER_BYTES,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=options.drain_seconds,
        )
    )


def _allow_open_files() -> None:
    """Most systems let a process have 1024, which connections alone could use up."""
    try:
        import resource
    except ImportError:
        return  # Windows has no such limit
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def serve(server: Server, listening: socket.socket, on_start: Callable[[], None]) -> None:
    """Serves until SIGTERM or SIGINT, then lets requests end for a while."""
    _allow_open_files()
    sys.setswitchinterval(SWITCH_SECONDS)
    # uvicorn sends itself the signal once more when it is done, which would end the process
    # before anything is tidied up.
    before = {number: signal.signal(number, _heard) for number in _SIGNALS}
    try:
        prepared(server, on_start).run(sockets=[listening])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _heard(number: int, frame: FrameType | None) -> None:
    """The signal was obeyed already."""
