"""What the routes of one server share."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from speechmeta.pipeline.options import CallOptions
from speechmeta.server.keeping import Keeper
from speechmeta.server.keys import Keys
from speechmeta.server.live_hall import Hall
from speechmeta.server.metrics import Metrics
from speechmeta.server.options import ServeOptions
from speechmeta.server.problems import Busy
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
    jobs: JobRunner | None = None
    keeper: Keeper | None = None
    created: int = field(default_factory=lambda: int(time.time()))

    def refuse_if_full(self) -> None:
        """Before a recording is sent for which there would be no room.

        Raises:
            Busy: there is none now.
        """
        if self.service.is_full():
            raise Busy(self.service.retry_after())
