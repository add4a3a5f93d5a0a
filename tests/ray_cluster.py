"""A Ray of two cores on this machine, for tests."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from conftest import ROOT

ATTEMPTS = 3
"""Ray gives its own processes 15 and 30 seconds to start, which a busy machine may need twice."""


@contextmanager
def cluster(*more_paths: str) -> Iterator[Any]:
    """Ray, whose workers find the tests' modules; skips where it is not installed.

    Args:
        more_paths: further folders with modules that workers need.
    """
    # Here, as Ray takes seconds to import, also for those who want the fast tests.
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'speechmeta[ray]'")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Its workers step back behind everything else, which on a busy machine is for ever.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # Ray Serve ends a proxy that is not ready after 5 s, and starts it from the beginning.
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "120")
    paths = [str(ROOT / "tests"), str(ROOT), *more_paths]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for left in reversed(range(ATTEMPTS)):
            try:
                ray.init(
                    address="local",
                    num_cpus=2,
                    num_gpus=0,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level="error",
                    object_store_memory=100_000_000,
                    runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(paths)}},
                )
                break
            except Exception as error:
                ray.shutdown()
                if not left or "timed out during startup" not in str(error):
                    raise
        try:
            yield ray
        finally:
            ray.shutdown()
