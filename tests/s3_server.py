"""S3 as moto imitates it, on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
import pytest


@contextmanager
def imitated_s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The file system of an empty S3 that `s3://` leads to; skips where the packages are absent."""
    pytest.importorskip("s3fs", reason="s3fs is not installed: pip install 'speechmeta[remote]'")
    moto = pytest.importorskip("moto.server", reason="moto, which imitates S3, is not installed")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        system = fsspec.filesystem("s3", skip_instance_cache=True)
        fsspec.filesystem("s3").clear_instance_cache()
        yield system
    finally:
        server.stop()
        fsspec.filesystem("s3").clear_instance_cache()
