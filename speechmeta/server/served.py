"""What the routes of one server share."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.requests import Request

from speechmeta.pipeline.options import CallOptions
from speechmeta.server.admission import Admission, Visit
from speechmeta.server.keeping import Keeper
from speechmeta.server.keys import Keys
from speechmeta.server.live_hall import Hall
from speechmeta.server.metrics import Metrics
from speechmeta.server.options import ServeOptions
from speechmeta.server.service import Service

if TYPE_CHECKING:
    from speechmeta.server.job_runner import JobRunner


@dataclass(frozen=True)
class Served:
    """One server.

    Attributes:
        call: what is asked of calls where a request says nothing.
        uploads: where recordings lie while a client waits; private.
        roots: folders whose recordings may be named.
        hall: of live calls.
        admission: to the queue of those whose clients wait.
        jobs: None where none are kept.
        keeper: writes results to a database; None where there is none.
    """

    service: Service
    options: ServeOptions
    call: CallOptions
    uploads: Path
    roots: tuple[Path, ...]
    keys: Keys
    metrics: Metrics
    hall: Hall
    admission: Admission
    jobs: JobRunner | None = None
    keeper: Keeper | None = None
    created: int = field(default_factory=lambda: int(time.time()))

    def visit(self, request: Request) -> AbstractContextManager[Visit]:
        """A request that waits for its call; see `Admission.visit`.

        Raises:
            Busy: there is no room, which is said before the recording is sent.
        """
        return self.admission.visit(request.state.client)
