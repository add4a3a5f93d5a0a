"""The application: all routes, and what stands around them."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from speechmeta.errors import SpeechMetaError, UsageError
from speechmeta.pipeline.analyzer import Analyzer
from speechmeta.pipeline.options import CallOptions, ModelOptions
from speechmeta.server import calls_api, health_api, jobs_api, live_api, openai_api
from speechmeta.server.admission import Admission
from speechmeta.server.envelope import Envelope, error_response, note, of_http
from speechmeta.server.job_runner import JobRunner
from speechmeta.server.keeping import Keeper
from speechmeta.server.keys import Keys, load_keys
from speechmeta.server.live_hall import Hall
from speechmeta.server.metrics import Metrics
from speechmeta.server.options import ServeOptions
from speechmeta.server.patience import Patience
from speechmeta.server.problems import Refused, as_told, body_of
from speechmeta.server.served import Served
from speechmeta.server.service import Service
from speechmeta.server.webhooks import load_webhooks
from speechmeta.version import __version__
from speechmeta.web_safety import LOOPBACK, OwnPagesOnly, PrivateFiles
from speechmeta.writers.files import printable

MakeRouter = Callable[[Served], APIRouter]

ROUTERS: tuple[MakeRouter, ...] = (
    openai_api.router,
    calls_api.router,
    jobs_api.router,
    live_api.router,
    health_api.router,
)
"""What the server answers; a further part of it is a function like these."""

PREFIX = "speechmeta-serve-"


class Server:
    """A server without its sockets: the ASGI application and what it holds.

    Args:
        model: which to load, or one that is there.
        options: how it is served.
        call: what is asked of calls where a request says nothing.
        routers: further routes, beside `ROUTERS`.
        sink: URL of a database that results also go to.

    Raises:
        UsageError: options contradict each other, or a file or folder is not there.
    """

    def __init__(
        self,
        model: ModelOptions | Analyzer,
        options: ServeOptions | None = None,
        call: CallOptions | None = None,
        routers: Sequence[MakeRouter] = (),
        sink: str | None = None,
    ) -> None:
        options = options or ServeOptions()
        keys = load_keys(options)
        webhooks = load_webhooks(options)
        roots = tuple(map(_folder, options.root or ()))
        metrics = Metrics()
        self._files = PrivateFiles(keep_seconds=2 * options.request_seconds + 3600, prefix=PREFIX)
        service = Service(model, options, self._files.uploads, metrics.batch)
        jobs = None
        keeper = None if sink is None else Keeper(sink, metrics)
        if options.state is not None:
            share = keys.share(options.max_jobs)
            jobs = JobRunner(
                Path(options.state), options, share, service, webhooks, metrics, keeper
            )
        self.served = Served(
            service,
            options,
            call or CallOptions(),
            self._files.uploads,
            roots,
            keys,
            metrics,
            Hall(options.max_live, keys.share(options.max_live), metrics),
            Admission(options.max_queue),
            jobs,
            keeper,
        )
        self.app = _application(self.served, [*ROUTERS, *routers])

    def start(self) -> None:
        """Loads the model, and takes up the jobs that an earlier server left.

        Raises:
            ModelError, UsageError, OutputError, StoreError: that cannot be done.
        """
        served = self.served
        if served.keeper is not None:
            served.keeper.start()
        try:
            served.service.start()
            served.metrics.batch_size = served.service.batch_size
            # What the model does not give is said before the first request.
            served.service.model.lane(served.call)
            if served.jobs is not None:
                served.jobs.start()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends all work, and deletes what was sent."""
        self.served.hall.close()
        self.served.service.stop()
        if self.served.jobs is not None:
            self.served.jobs.stop()
        if self.served.keeper is not None:
            self.served.keeper.stop()
        self._files.close()


def _folder(name: str) -> Path:
    path = Path(name)
    if not path.is_dir():
        raise UsageError(f"{printable(name)} is not a folder", "give --root a folder of recordings")
    return path


def _application(served: Served, routers: Sequence[MakeRouter]) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if served.jobs is not None:
                attending = asyncio.create_task(served.jobs.attend())
                stack.push_async_callback(_ended, attending)
            yield

    app = FastAPI(
        title="speechmeta",
        version=__version__,
        description="Calls as validated JSON: who speaks when, what is said, how voices sound.",
        lifespan=lifespan,
        redoc_url=None,
    )
    for make in routers:
        app.include_router(make(served))
    app.add_exception_handler(SpeechMetaError, _answer)
    app.add_exception_handler(HTTPException, _answer)
    app.add_exception_handler(RequestValidationError, _answer)
    stand_around(app, served.options, served.keys, served.metrics)
    return app


def stand_around(app: FastAPI, options: ServeOptions, keys: Keys, metrics: Metrics) -> None:
    """Puts around an application what sees to it that clients behave, and are answered."""
    max_bytes = options.max_upload_mb * 2**20
    # The last is the outermost.
    refusal = Refused(403, "this server answers to its own names only", "--allow-host adds one")
    app.add_middleware(
        OwnPagesOnly,
        hosts=_names(options, keys),
        answer=("application/json", json.dumps(body_of(refusal))),
    )
    app.add_middleware(
        Envelope,
        keys=keys,
        metrics=metrics,
        max_bytes=max_bytes,
        # As much as may be worked on or wait, each of the largest.
        max_together=max_bytes * options.max_queue,
    )
    app.add_middleware(Patience, seconds=options.client_seconds)


def _names(options: ServeOptions, keys: Keys) -> frozenset[str] | None:
    """The hosts that requests may be for; None for any."""
    named = frozenset(name.lower() for name in options.allow_host or ())
    if named or (options.on_loopback and not keys):
        return LOOPBACK | named
    return None


async def _answer(request: Request, error: Exception) -> Response:
    """The answer to what a route refuses."""
    if isinstance(error, RequestValidationError):
        error = Refused(400, "the request is not as it has to be", "GET /docs says what to send")
    if isinstance(error, HTTPException):
        error = of_http(error)
    if not isinstance(error, SpeechMetaError):
        error = as_told((type(error).__name__, ""))
    note(request, kind=type(error).__name__)
    return error_response(error)


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
