"""`Service.decode`, on which live calls stand: clips in the batches of all others."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from fakes import FakeEngine
from serving import Running, running

from speechmeta.batch.flow import URGENT_ROWS, Finished
from speechmeta.errors import DecodingError
from speechmeta.pipeline.analyzer import Analyzer
from speechmeta.pipeline.options import CallOptions
from speechmeta.server.lanes import Lane, LaneModel, Wanted

pytestmark = pytest.mark.slow

WORDS = ("SpeechActivity", "Transcript")


@pytest.fixture(scope="module")
def live() -> Iterator[Running]:
    with running() as found:
        yield found


def tone(seconds: float) -> npt.NDArray[np.float32]:
    return np.asarray(np.sin(np.arange(round(16000 * seconds)) / 10), np.float32)


class Asked:
    """Clips on their way, and what came of them."""

    def __init__(self, live: Running) -> None:
        self._service = live.server.served.service
        self._lane = self._service.model.lane(CallOptions())
        self.ended: queue.Queue[Finished] = queue.Queue()

    def ask(
        self,
        *seconds: float,
        urgent: bool = False,
        lane: Lane | None = None,
        optional: bool = False,
    ) -> int:
        clips = [tone(length) for length in seconds]
        wanted = [Wanted(WORDS) for _ in clips]
        told = self.ended.put
        return self._service.decode(clips, wanted, lane or self._lane, told, urgent, optional)

    def texts(self) -> list[str]:
        records = self.ended.get(timeout=60).records or ()
        return [record.values["Transcript"] for record in records]


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


def waiting(live: Running) -> int:
    return live.server.served.service.load.turns


@pytest.fixture
def busy(live: Running) -> Iterator[Asked]:
    """The model is at a clip of 9 s, until the gate is opened."""
    while live.engine.entered.acquire(blocking=False):
        pass
    live.engine.gate.clear()
    asked = Asked(live)
    asked.ask(9.0)
    assert live.engine.entered.acquire(timeout=60)
    live.engine.calls.clear()
    yield asked
    live.engine.gate.set()
    until(lambda: live.server.served.service.load.decoding == 0)


def test_each_clip_gets_its_record(live: Running) -> None:
    asked = Asked(live)
    asked.ask(1.0, 2.0, 0.06)
    records = asked.ended.get(timeout=60).records or ()
    assert [record.values["Transcript"] for record in records[:2]] == ["1.0 seconds", "2.0 seconds"]
    assert isinstance(records[2], DecodingError)


def test_urgent_clips_go_before_all_others(live: Running, busy: Asked) -> None:
    busy.ask(3.0)
    busy.ask(1.0, urgent=True)
    busy.ask(2.0, urgent=True)
    until(lambda: waiting(live) == 3)
    live.engine.gate.set()
    said = [busy.texts() for _ in range(4)]
    assert said[0] == ["9.0 seconds"]
    assert said[-1] == ["3.0 seconds"]
    # The urgent ones share a batch, and with no other.
    assert [sorted(lengths) for lengths, *_ in live.engine.calls][-2:] == [[16000, 32000], [48000]]


def test_others_come_in_small_batches_while_urgent_ones_are_expected(
    live: Running, busy: Asked
) -> None:
    busy.ask(1.0, urgent=True)
    busy.ask(*[2.0] * (3 * URGENT_ROWS))
    until(lambda: waiting(live) == 3 * URGENT_ROWS + 1)
    live.engine.gate.set()
    for _ in range(3):
        busy.texts()
    sizes = [len(lengths) for lengths, *_ in live.engine.calls]
    assert sizes[-3:] == [URGENT_ROWS] * 3


def test_forgotten_clips_are_not_decoded_and_nobody_is_told(live: Running, busy: Asked) -> None:
    kept = busy.ask(3.0)
    dropped = busy.ask(1.0, urgent=True)
    until(lambda: waiting(live) == 2)
    busy._service.forget(dropped)
    until(lambda: waiting(live) == 1)
    live.engine.gate.set()
    assert [busy.texts(), busy.texts()] == [["9.0 seconds"], ["3.0 seconds"]]
    assert all(16000 not in lengths for lengths, *_ in live.engine.calls)
    # What has ended can be forgotten as well.
    busy._service.forget(kept)
    assert busy.ended.empty()


def test_a_clip_may_be_forgotten_while_the_model_has_it(live: Running, busy: Asked) -> None:
    service = busy._service
    key = busy.ask(3.0)
    service.forget(key - 1)
    busy.ask(2.0)
    # Orders are heard in their order: with this one waiting, the clip is forgotten.
    until(lambda: waiting(live) == 2)
    live.engine.gate.set()
    assert sorted([busy.texts(), busy.texts()]) == [["2.0 seconds"], ["3.0 seconds"]]
    assert busy.ended.empty()


def test_languages_do_not_share_batches(live: Running, busy: Asked) -> None:
    busy.ask(1.0, urgent=True)
    busy.ask(1.0, urgent=True, lane=Lane(words=True))
    until(lambda: waiting(live) == 2)
    live.engine.gate.set()
    for _ in range(3):
        busy.texts()
    assert [len(lengths) for lengths, *_ in live.engine.calls][-2:] == [1, 1]


def test_what_is_optional_is_decoded_only_by_a_model_that_is_idle(
    live: Running, busy: Asked
) -> None:
    busy.ask(1.0, urgent=True, optional=True)
    left_out = busy.ended.get(timeout=60)
    assert left_out.records is None
    assert left_out.error is None
    assert waiting(live) == 0
    live.engine.gate.set()
    assert busy.texts() == ["9.0 seconds"]
    until(lambda: busy._service.idle)
    busy.ask(2.0, urgent=True, optional=True)
    assert busy.texts() == ["2.0 seconds"]
    # Nor while somebody else is about to have something urgent.
    until(lambda: busy._service.idle)
    busy._service.expect(1, True)
    busy.ask(2.0, urgent=True, optional=True)
    assert busy.ended.get(timeout=60).records is None
    busy._service.expect(1, False)
    busy.ask(3.0, urgent=True, optional=True)
    assert busy.texts() == ["3.0 seconds"]


def test_a_draft_reaches_a_model_that_takes_one_and_no_other() -> None:
    given: list[object] = []

    class Drafting(FakeEngine):
        takes_drafts = True

        def decode(self, *args: Any, **options: Any) -> Any:
            given.append(args[4])
            return super().decode(*args[:4], **options)

    asked: list[Wanted | tuple[str, ...]] = [Wanted(WORDS, "good morning"), WORDS]
    clips = [tone(1.0), tone(2.0)]
    for engine in (Drafting(), FakeEngine()):
        records = LaneModel(Analyzer.from_engine(engine)).decode_lane(clips, asked, Lane())
        texts = [record.values["Transcript"] for record in records]
        assert texts == ["1.0 seconds", "2.0 seconds"]
    assert given == [["good morning", None]]
