"""`/healthz`, `/readyz` and `/metrics`: for those who look after the server."""

from __future__ import annotations

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import JSONResponse, Response

from speechmeta.server.served import Served


def router(served: Served) -> APIRouter:
    """The routes of probes and of Prometheus."""
    routes = APIRouter(tags=["operation"])

    @routes.get("/healthz", summary="Whether the server works; if not, start it again")
    async def health() -> Response:
        broken = served.service.is_broken
        return JSONResponse({"status": "broken" if broken else "ok"}, 503 if broken else 200)

    @routes.get("/readyz", summary="Whether requests are answered now")
    async def ready() -> Response:
        well = served.service.ready and (served.jobs is None or served.jobs.keeps)
        return JSONResponse({"status": "ready" if well else "not ready"}, 200 if well else 503)

    @routes.get("/metrics", summary="Counters for Prometheus")
    async def metrics() -> Response:
        jobs = {} if served.jobs is None else await served.jobs.counts()
        text = served.metrics.text(served.service.load, jobs)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    return routes
