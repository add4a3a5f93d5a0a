"""`/v1/jobs`: calls that nobody waits for; they outlive the server that accepted them."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from speechmeta.server.calls_api import body, json_response
from speechmeta.server.envelope import note
from speechmeta.server.job_runner import JobRunner
from speechmeta.server.jobs import Job
from speechmeta.server.parameters import call_options, text_of
from speechmeta.server.problems import Refused
from speechmeta.server.served import Served
from speechmeta.server.uploads import received
from speechmeta.visible import visible_json

_WEBHOOK = {
    "type": "string",
    "description": "Address that is told when the job has ended; the server allows some only.",
}


def router(served: Served) -> APIRouter:
    """The routes of jobs."""
    routes = APIRouter(tags=["jobs"])

    def runner() -> JobRunner:
        if served.jobs is None:
            raise Refused(404, "this server keeps no jobs", "start it with --state DIR")
        return served.jobs

    @routes.post(
        "/v1/jobs",
        status_code=202,
        openapi_extra=body(webhook=_WEBHOOK),
        summary="Leave a recording to be analysed",
    )
    async def accept(request: Request) -> Response:
        jobs = runner()
        # Before the recording is sent, which would have no place.
        jobs.check()
        async with AsyncExitStack() as stack:
            incoming = await stack.enter_async_context(
                received(request, jobs.recordings, served.roots)
            )
            given = incoming.given
            language, prompt = text_of(given, "language"), text_of(given, "prompt")
            webhook = text_of(given, "webhook")
            if webhook is not None:
                webhook = jobs.webhooks.checked(webhook)
            options = call_options(served.call, given)
            owner = request.state.owner
            job = await jobs.accept(incoming, owner, options, language, prompt, webhook)
        note(request, job=job.id)
        address = f"/v1/jobs/{job.id}"
        answer = _shown(job, None)
        return Response(answer, 202, {"Location": address}, media_type="application/json")

    @routes.get("/v1/jobs/{number}", summary="How a job stands, and its result")
    async def show(request: Request, number: str) -> Response:
        job, share = await runner().find(number, request.state.owner)
        note(request, job=job.id)
        return json_response(_shown(job, share))

    @routes.delete("/v1/jobs/{number}", status_code=204, summary="End a job, delete its result")
    async def remove(request: Request, number: str) -> Response:
        jobs = runner()
        job, _ = await jobs.find(number, request.state.owner)
        note(request, job=job.id)
        await jobs.remove(job)
        return Response(status_code=204)

    return routes


def _shown(job: Job, share: float | None) -> str:
    status: str = job.status
    if status == "queued" and share is not None:
        status = "running"
    data: dict[str, Any] = {
        "id": job.id,
        "object": "job",
        "status": status,
        "name": job.asked.name,
        "created": round(job.created, 3),
    }
    if job.ended is not None:
        data["ended"] = round(job.ended, 3)
    if status == "running" and share is not None:
        data["progress"] = round(share, 4)
    if job.document is not None:
        found = json.loads(job.document)
        data |= {"result": found} if job.status == "done" else found
    return visible_json(json.dumps(data, ensure_ascii=False))
