"""The server on a Ray cluster: replicas that have a model each, and a door in front of them.

    serve run speechmeta.server.ray_serve:application replicas=2 model=/models/x root=/data/calls

Each replica is the application of `speechmeta serve`. The door takes a request whole before a
replica gets it, and gives it to another one if that one dies: Ray Serve itself answers 500 for
what a dead replica was at. Analysing a recording twice changes nothing, so it can be repeated.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from speechmeta.errors import MissingExtraError, UsageError, require_extra
from speechmeta.pipeline.options import CallOptions, ModelOptions
from speechmeta.server.keys import Keys, load_keys
from speechmeta.server.log_lines import set_up
from speechmeta.server.metrics import Metrics
from speechmeta.server.options import ServeOptions
from speechmeta.server.problems import Busy, Refused
from speechmeta.server.running import MAX_CONNECTIONS
from speechmeta.server.web import Server, stand_around
from speechmeta.settings import changed, entries
from speechmeta.web_safety import Message, Receive, Send

if TYPE_CHECKING:
    from speechmeta.pipeline.analyzer import Analyzer

log = logging.getLogger("speechmeta.server")

REPLICA, DOOR = "speechmeta", "speechmeta-door"

ATTEMPTS = 3
"""So many replicas may die over a request: it could be what kills them."""

_IN_MEMORY = 1 << 20
_CHUNK = 1 << 20
_EVENTS = b"text/event-stream"

MakeModel = Callable[[], "Analyzer"]
"""Picklable; makes a model where it is to be."""


class Replica:
    """A whole server but for its sockets, in a process of its own.

    Args:
        model: which to load, or a function that makes one.
    """

    def __init__(
        self, model: ModelOptions | MakeModel, options: ServeOptions, call: CallOptions
    ) -> None:
        set_up(options.log_format)
        loaded = model if isinstance(model, ModelOptions) else model()
        # The door has looked at keys and names.
        self._server = Server(loaded, options.updated({"api_key_file": None}), call)
        self._server.start()

    def check_health(self) -> None:
        """Asked by Ray Serve, which starts another replica in the place of one that raises."""
        if self._server.served.service.is_broken:
            raise RuntimeError("the model's thread ended")

    async def answer(self, scope: Message, body: list[Any]) -> AsyncIterator[Message]:
        """The messages of an ASGI response.

        Args:
            scope: of the request, picklable.
            body: a reference to its bytes, (n,) uint8; in a list, so that it stays a reference.
        """
        data = await body[0]
        messages: asyncio.Queue[Message] = asyncio.Queue()
        at = 0

        async def receive() -> Message:
            nonlocal at
            if at > len(data):
                # What comes next is the client's leaving, by which this task is cancelled.
                await asyncio.Event().wait()
            piece = data[at : at + _CHUNK].tobytes()
            at += _CHUNK
            more = at < len(data)
            if not more:
                at = len(data) + 1
            return {"type": "http.request", "body": piece, "more_body": more}

        running = asyncio.ensure_future(self._server.app(scope, receive, messages.put))
        try:
            while True:
                waiting = asyncio.ensure_future(messages.get())
                await asyncio.wait({waiting, running}, return_when=asyncio.FIRST_COMPLETED)
                if not waiting.done():
                    waiting.cancel()
                    running.result()
                    return
                message = waiting.result()
                yield message
                if _is_last(message):
                    await running
                    return
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await running

    def __del__(self) -> None:
        # Ray Serve calls it when it is done with a replica; one whose start failed has no server.
        if hasattr(self, "_server"):
            self._server.close()


def _is_last(message: Message) -> bool:
    return message["type"] == "http.response.body" and not message.get("more_body", False)


class Door:
    """ASGI application: takes requests whole, and hands them on.

    Args:
        handle: of the replicas.
        local_only: without keys, nobody from elsewhere is answered.
    """

    def __init__(self, handle: Any, metrics: Metrics, local_only: bool) -> None:
        self._handle = handle.options(stream=True)
        self._metrics = metrics
        self._local_only = local_only

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            # A live call lives in one process, and could not go on in another.
            await send({"type": "websocket.close", "code": 1008})
            return
        if self._local_only and not _is_near(scope):
            raise Refused(
                403,
                "without API keys this machine alone is answered",
                "deploy it with api_key_file=FILE, or without_keys=true if everybody may use it",
            )
        reference = await _stored(receive)
        answering = asyncio.ensure_future(self._answer(_forwarded(scope), reference, send))
        leaving = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                answering.result()
        finally:
            for task in (answering, leaving):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task

    async def _answer(self, scope: Message, reference: Any, send: Send) -> None:
        """Answers with what a replica says; nothing is sent of an answer that is not whole, but
        for events, which are sent as they come.

        Raises:
            Busy: all have as much to do as they take on.
            Refused: replica after replica died.
        """
        from ray.exceptions import RayActorError
        from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

        for _ in range(ATTEMPTS):
            held: list[Message] = []
            begun = events = False
            try:
                messages = self._handle.answer.remote(scope, [reference])
                try:
                    async for message in messages:
                        held.append(message)
                        events = events or _is_events(message)
                        if events or _is_last(message):
                            begun = True
                            for item in held:
                                await send(item)
                            held.clear()
                finally:
                    messages.cancel()
                return
            except BackPressureError:
                raise Busy(5) from None
            except (RayActorError, DeploymentUnavailableError) as error:
                log.warning("a replica was lost", extra={"kind": type(error).__name__})
                self._metrics.error("ReplicaLost")
                if begun:
                    raise
        raise Refused(
            503,
            f"{ATTEMPTS} replicas died while they were at this request",
            "look at the recording, or at the memory of the machines",
            60,
        )


def _is_events(message: Message) -> bool:
    """Whether a response is a stream of events."""
    headers = dict(message.get("headers", ()))
    return bool(headers.get(b"content-type", b"").startswith(_EVENTS))


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _is_near(scope: Message) -> bool:
    """Whether the client is on this machine."""
    try:
        return ipaddress.ip_address((scope.get("client") or ("",))[0]).is_loopback
    except ValueError:
        return False


def _forwarded(scope: Message) -> Message:
    """What a replica gets to know of a request that the door has let in."""
    names = ("type", "http_version", "method", "scheme", "path", "raw_path", "query_string")
    kept = [
        (name, value)
        for name, value in scope["headers"]
        if name not in (b"host", b"origin", b"authorization")
    ]
    return {
        **{name: scope[name] for name in names if name in scope},
        "asgi": {"version": "3.0"},
        "root_path": "",
        "headers": [*kept, (b"host", b"localhost")],
        "server": ("localhost", 80),
        # As the door tells clients apart: by keys, which replicas do not see, or by address.
        "client": (scope["state"]["client"], 0),
    }


async def _stored(receive: Receive) -> Any:
    """A request's body in Ray's store, which puts on the disk what has no room in memory."""
    with tempfile.SpooledTemporaryFile(_IN_MEMORY) as file:
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                from starlette.requests import ClientDisconnect

                raise ClientDisconnect
            await run_in_threadpool(file.write, message.get("body", b""))
            more = message.get("more_body", False)
        return await run_in_threadpool(_put, file)


def _put(file: Any) -> Any:
    import ray

    size = file.tell()
    file.seek(0)
    if size <= _IN_MEMORY:
        return ray.put(np.frombuffer(file.read(), np.uint8))
    file.rollover()
    return ray.put(np.asarray(np.memmap(cast(IO[bytes], file._file), np.uint8, "r")))


def deployed(
    model: ModelOptions | MakeModel,
    options: ServeOptions | None = None,
    call: CallOptions | None = None,
    *,
    replicas: int = 2,
    gpus: float = 0.0,
) -> Any:
    """A Ray Serve application, for `ray.serve.run`.

    Args:
        model: which every replica loads, or a function that makes one.
        options: how requests are served; Ray Serve listens in its own way.
        call: what is asked of calls where a request says nothing.
        replicas: how many models there are.
        gpus: of each.

    Raises:
        MissingExtraError: Ray Serve or the server is not installed.
        UsageError: an option cannot be used on a cluster.
    """
    serve = _serve()
    options, call = options or ServeOptions(), call or CallOptions()
    if options.state is not None:
        raise UsageError(
            "jobs are kept by one server, not by replicas", "leave state out, or run one server"
        )
    keys = load_keys(options)
    local_only = not keys and not options.without_keys

    def build() -> FastAPI:
        return _door(serve.get_deployment_handle(REPLICA), options, keys, local_only)

    behind = serve.deployment(
        Replica,
        name=REPLICA,
        num_replicas=replicas,
        ray_actor_options={"num_cpus": 0.5, "num_gpus": gpus},
        max_ongoing_requests=options.max_queue,
        # The door is one of them; more are told to come back later.
        max_queued_requests=options.max_queue * replicas,
        graceful_shutdown_timeout_s=options.drain_seconds,
    )
    before = serve.deployment(
        serve.ingress(build)(),
        name=DOOR,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=MAX_CONNECTIONS,
        graceful_shutdown_timeout_s=options.drain_seconds,
    )
    return before.bind(behind.bind(model, options, call))


def _serve() -> Any:
    require_extra("ray", "ray", "the server on a cluster")
    try:
        from ray import serve
    except ImportError as error:
        raise MissingExtraError(
            f"Ray is here, but not all of Ray Serve: {error.name}", "pip install 'speechmeta[ray]'"
        ) from error
    return serve


def _door(handle: Any, options: ServeOptions, keys: Keys, local_only: bool) -> FastAPI:
    set_up(options.log_format)
    metrics = Metrics()
    app = FastAPI(openapi_url=None)
    app.mount("/", Door(handle, metrics, local_only))
    stand_around(app, options, keys, metrics)
    return app


def application(arguments: Mapping[str, Any]) -> Any:
    """What `serve run speechmeta.server.ray_serve:application NAME=VALUE ...` runs.

    Args:
        arguments: `replicas`, `gpus` (of each replica), and options of `speechmeta serve` by their
            names in docs/options.md, such as `model` or `min_pause`.

    Raises:
        UsageError: there is no such option, or it cannot take its value.
    """
    given = dict(arguments)
    replicas, gpus = _number(given, "replicas", 2), _number(given, "gpus", 0)
    bases: list[Any] = [ModelOptions(), ServeOptions(), CallOptions()]
    for number, base in enumerate(bases):
        named = {name: entry for entry in entries(type(base))
                 for name in (entry.parameter, entry.key)}  # fmt: skip
        values = {named[name].path: given.pop(name) for name in [*given] if name in named}
        bases[number] = changed(base, values)
    if given:
        raise UsageError(f"there is no option {next(iter(given))}", "see docs/options.md")
    model, options, call = bases
    return deployed(model, options, call, replicas=max(1, round(replicas)), gpus=gpus)


def _number(given: dict[str, Any], name: str, default: float) -> float:
    value = given.pop(name, default)
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UsageError(f"{name} is {value!r}", "give a number") from None


__all__ = ["Door", "Replica", "application", "deployed"]
