"""Clients that mean ill: each is refused in words, bounded, and harms nobody else."""

from __future__ import annotations

import importlib
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import ROOT
from serving import Running, running, tone_bytes

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def adversary() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module("adversary")
        sys.modules.pop("adversary", None)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    place = tmp_path_factory.mktemp("hostile")
    (place / "root").mkdir()
    (place / "root" / "tone.wav").write_bytes(tone_bytes(0.2))
    (place / "secret.wav").write_bytes(tone_bytes(0.2))
    with running(
        root=(str(place / "root"),), state=str(place / "state"), max_upload_mb=1,
        client_seconds=3.0, max_queue=4,
    ) as found:  # fmt: skip
        yield found


def test_nothing_that_is_wrong_is_taken(
    live: Running, adversary: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Some 1,200 requests: a refusal in words, or no answer to what is hardly HTTP."""
    log = logging.getLogger("speechmeta.server")
    log.addHandler(caplog.handler)
    amiss = []
    try:
        for name, data in adversary.requests():
            answer = adversary.answered(live.port(), data)
            status = adversary.status_of(answer)
            plain = name.startswith(("http:", "path:", "method:", "query:"))
            if not (400 <= status < 500 or (plain and status == 0)):
                amiss.append((name, answer[:300]))
            elif b"application/json" in answer.lower():
                told = json.loads(answer.partition(b"\r\n\r\n")[2])
                if not told["message"] or not told["hint"] or "Traceback" in str(told):
                    amiss.append((name, answer[:300]))
            elif not plain:
                amiss.append((name, answer[:300]))
    finally:
        log.removeHandler(caplog.handler)
    faults = [record.__dict__ for record in caplog.records if record.message == "fault"]
    found = [(fault["kind"], fault["where"]) for fault in faults]
    assert (amiss, found) == ([], [])
    assert honest(live, adversary) == 200
    assert list(live.server.served.uploads.iterdir()) == []


def honest(live: Running, adversary: Any) -> int:
    form = adversary.upload(tone_bytes(0.2), more=adversary.part("vad", b"false"))
    answer = adversary.answered(live.port(), adversary.request(form, adversary.FORM))
    status: int = adversary.status_of(answer)
    return status
