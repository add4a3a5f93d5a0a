"""`speechmeta serve`: the HTTP server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from speechmeta.errors import require_extra

from .console import print_note
from .flags import CALL, MODEL, SERVE, STORE, add_command

if TYPE_CHECKING:
    from speechmeta.pipeline.options import CallOptions, ModelOptions
    from speechmeta.server.options import ServeOptions
    from speechmeta.store.options import StoreOptions


def register(app: typer.Typer) -> None:
    add_command(
        app, "serve", serve, {"call": CALL, "model": MODEL, "options": SERVE, "store": STORE}
    )


def serve(
    *, call: CallOptions, model: ModelOptions, options: ServeOptions, store: StoreOptions
) -> int:
    """Serve OpenAI's transcription interface, reports of calls, and jobs over HTTP.

    Options of calls are the defaults of requests; GET /docs shows what requests may say.
    """
    for module in (
        "fastapi", "uvicorn", "websockets", "python_multipart", "prometheus_client", "httpx2",
    ):  # fmt: skip
        require_extra(module, "server", "the server")
    from speechmeta.server.running import address_of, listen, serve
    from speechmeta.server.web import Server

    server = Server(model, options, call, sink=store.sink)
    with listen(options) as listening:
        server.start()
        try:
            address = address_of(listening)
            serve(server, listening, lambda: print_note(f"listening on {address} (Ctrl-C ends it)"))
        finally:
            server.close()
    return 0
