"""Places in the queue: appointments are kept, nobody is starved, and no place stays unused."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import pytest

from speechmeta.server.admission import KEPT_SECONDS, Admission, Visit
from speechmeta.server.clients import client_of
from speechmeta.server.fair_line import FairLine
from speechmeta.server.problems import Busy


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def entered(admission: Admission, client: str) -> ExitStack:
    """A call that has its place until the stack is closed."""
    with ExitStack() as stack:
        admission.enter(stack.enter_context(admission.visit(client)))
        return stack.pop_all()
    raise AssertionError


def told(admission: Admission, client: str) -> int:
    """After how many seconds a client is to come again."""
    with pytest.raises(Busy) as refused:
        entered(admission, client)
    assert refused.value.retry_after is not None
    return refused.value.retry_after


def test_a_place_is_given_back(clock: Clock) -> None:
    admission = Admission(2, clock)
    for _ in range(5):
        with entered(admission, "a"), entered(admission, "b"):
            assert admission.taken == 2
    assert admission.taken == 0
    with pytest.raises(ValueError, match="bad upload"), admission.visit("a"):
        raise ValueError("bad upload")
    with entered(admission, "a"), entered(admission, "a"):
        assert admission.taken == 2


def test_retry_after_goes_by_the_pace(clock: Clock) -> None:
    admission = Admission(1, clock)
    for _ in range(8):
        with entered(admission, "a"):
            clock.now += 3.5
        clock.now += 1000  # when there is nothing to do, no pace is measured
    with entered(admission, "a"):
        assert [told(admission, "a") for _ in range(3)] == [4, 7, 11]
        assert [told(admission, "a") for _ in range(30)][-1] == 60


def test_who_comes_as_told_does_not_lose_to_others(clock: Clock) -> None:
    admission = Admission(1, clock)
    first = entered(admission, "a")
    seconds = told(admission, "a")
    clock.now += seconds - 0.25
    first.close()
    told(admission, "a")
    clock.now += 0.25
    with entered(admission, "a"):
        told(admission, "a")


def test_a_place_for_one_who_does_not_come_is_not_kept_for_long(clock: Clock) -> None:
    admission = Admission(1, clock)
    with entered(admission, "a"):
        clock.now += told(admission, "a")
    clock.now += KEPT_SECONDS + 0.1
    with entered(admission, "a"):
        assert admission.taken == 1


def test_a_place_is_kept_for_a_moment_while_a_recording_is_sent(clock: Clock) -> None:
    admission = Admission(1, clock)
    with admission.visit("a"):
        told(admission, "b")
        clock.now += KEPT_SECONDS + 0.1
        with entered(admission, "b"):
            assert admission.taken == 1


def test_a_recording_that_was_sent_slowly_is_not_refused(clock: Clock) -> None:
    """But for those that are more than twice what is taken on."""
    admission = Admission(1, clock)
    with ExitStack() as stack:
        slow = []
        for _ in range(3):
            slow.append(stack.enter_context(admission.visit("a")))
            clock.now += KEPT_SECONDS + 0.1
        admission.enter(slow[0])
        admission.enter(slow[1])
        with pytest.raises(Busy):
            admission.enter(slow[2])
        told(admission, "b")
    assert admission.taken == 0


def test_a_flood_is_in_its_own_way_only(clock: Clock) -> None:
    admission = Admission(4, clock)
    flood = [entered(admission, "many") for _ in range(4)]
    for _ in range(500):
        told(admission, "many")
    seconds = told(admission, "one")
    assert seconds == 1, "the next place is for the one that has none"
    flood.pop().close()
    told(admission, "many")
    clock.now += seconds
    told(admission, "many")
    with entered(admission, "one"):
        # One and two places now: the next is for the one again, then for the flood.
        told(admission, "one")
        clock.now += 1.0
        flood.pop().close()
        told(admission, "many")
        with entered(admission, "one"):
            clock.now += 1.0
            flood.pop().close()
            told(admission, "one")
            with entered(admission, "many"):
                assert admission.taken == 4


@pytest.mark.parametrize(("places", "at_once"), [(4, 1), (4, 4), (16, 4)])
def test_all_wait_about_as_long(clock: Clock, places: int, at_once: int) -> None:
    """32 clients that send one call after the other; `at_once` calls are done together."""
    waits = simulated(clock, {f"{number}": "all" for number in range(32)}, places, at_once, 400)
    ordered = sorted(itertools.chain(*waits.values()))
    assert len(ordered) == 400
    median = ordered[len(ordered) // 2]
    assert 0.8 * 32 < median < 1.2 * 32, "calls of others in a row, at a second each"
    assert ordered[380] < 1.5 * median


def test_one_client_among_many_of_another(clock: Clock) -> None:
    names = {f"{number}": "flood" for number in range(40)} | {"honest": "honest"}
    waits = simulated(clock, names, 4, 1, 400)
    assert len(waits["honest"]) >= 40
    assert max(waits["honest"]) < 15, "four places and an appointment, not forty calls"


def simulated(
    clock: Clock, names: dict[str, str], places: int, at_once: int, calls: int
) -> dict[str, list[float]]:
    """Seconds that the calls of each sender took, a second's work each, from the first attempt."""
    admission = Admission(places, clock)
    luck = random.Random(1)
    events: list[tuple[float, int, Callable[[], None]]] = []
    numbers = itertools.count()
    left = itertools.count(1)
    inside: FairLine[tuple[str, float, ExitStack]] = FairLine()
    waits: dict[str, list[float]] = defaultdict(list)
    busy = False

    def at(when: float, what: Callable[[], None]) -> None:
        heapq.heappush(events, (when, next(numbers), what))

    def work() -> None:
        nonlocal busy
        group = [] if busy else [inside.take(lambda _: True) for _ in range(at_once)]
        taken = [item for item in group if item is not None]
        if taken:
            busy = True
            at(clock.now + len(taken) * luck.uniform(0.5, 1.5), lambda: ended(taken))

    def ended(taken: list[tuple[str, float, ExitStack]]) -> None:
        nonlocal busy
        busy = False
        for sender, first, stack in taken:
            stack.close()
            waits[sender].append(clock.now - first)
            at(clock.now, partial(begin, sender))
        work()

    def begin(sender: str) -> None:
        if next(left) <= calls:
            attempt(sender, clock.now)

    def attempt(sender: str, first: float) -> None:
        try:
            stack = entered(admission, names[sender])
        except Busy as refused:
            again = clock.now + (refused.retry_after or 0) + luck.uniform(0.0, 0.05)
            at(again, lambda: attempt(sender, first))
            return
        inside.add(names[sender], (sender, first, stack))
        work()

    for number, sender in enumerate(names):
        at(0.01 * number, partial(begin, sender))
    while events:
        clock.now, _, what = heapq.heappop(events)
        what()
    assert admission.taken == 0
    return waits


def test_visits_are_told_apart() -> None:
    assert Visit("a", 1, 0.0, 0.0) != Visit("a", 1, 0.0, 0.0)


def test_a_fair_line() -> None:
    line: FairLine[int] = FairLine()
    for number in range(4):
        line.add("many", number)
    line.add("one", 10)
    line.add("none", 20)
    line.remove("none", 20)
    line.remove("none", 20)
    assert (len(line), sorted(line)) == (5, [0, 1, 2, 3, 10])
    assert line.take(lambda client: client == "none") is None
    assert line.take(lambda client: client == "one") == 10
    line.add("one", 11)
    assert [line.take(lambda _: True) for _ in range(6)] == [0, 11, 1, 2, 3, None]


@pytest.mark.parametrize(
    ("owner", "host", "name"),
    [
        ("abc", "10.0.0.1", "key abc"),
        ("", "10.0.0.1", "10.0.0.1"),
        ("", "::ffff:10.0.0.1", "10.0.0.1"),
        ("", "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("", "2001:db8:1:2:ffff::", "2001:db8:1:2::"),
        ("", None, ""),
        ("", "testclient", "testclient"),
    ],
)
def test_clients(owner: str, host: str | None, name: str) -> None:
    assert client_of(owner, host) == name
