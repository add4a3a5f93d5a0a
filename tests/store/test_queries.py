"""docs/queries.md: each question's SQL, on both databases, with the right answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from postgres_server import Cluster

sqlalchemy = pytest.importorskip("sqlalchemy", reason="the extra `store` is not installed")
pytest.importorskip("duckdb_engine", reason="the extra `store` is not installed")

from speechmeta.store.sink import Sink  # noqa: E402

pytestmark = pytest.mark.slow

Ask = Callable[[str], list[tuple[Any, ...]]]

PAGE = (ROOT / "docs" / "queries.md").read_text(encoding="utf-8")
QUERIES = re.findall(r"^## (\d+)\. (.*?)\n.*?```sql\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL)


def turn(
    start: float, end: float, speaker: str, text: str, emotion: str | None, sure: float = 0.9
) -> dict[str, Any]:
    words = [
        {"word": word, "start": start + place, "end": start + place + 0.5, "probability": 0.9}
        for place, word in enumerate(text.split())
    ]
    return {
        "start": start, "end": end, "channel": int(speaker == "customer"), "speaker": speaker,
        "SpeechActivity": True, "Transcript": text, "Emotion": emotion,
        "confidence": {"Emotion": sure, "SpeechActivity": 0.99}, "words": words,
    }  # fmt: skip


def speaker(name: str, talk: float, share: float, interruptions: int, wait: float | None) -> Any:
    return {
        "speaker": name, "channel": 0, "talk_seconds": talk, "turns": 1, "talk_share": share,
        "interruptions": interruptions, "response_latency_seconds": wait, "Emotion": {},
    }  # fmt: skip


def call(
    path: str, duration: float, silence: float, turns: Any, speakers: Any, alerts: Any, reason: str
) -> dict[str, Any]:
    fields = {"summary": {"value": {"reason": reason}, "evidence": {}, "parts": 1}}
    return {
        "schema_version": "1.1",
        "audio": {"path": path, "duration": duration, "sample_rate": 8000, "channels": 2},
        "model": {"name": "made"},
        "turns": turns,
        "speakers": speakers,
        "conversation": {"silence_seconds": silence, "interruptions": []},
        "coverage": {},
        "alerts": [{"rule": rule, "when": "words", "start": 0.0, "end": 1.0} for rule in alerts],
        "call_fields": fields if reason else None,
        "warnings": [],
    }


CALLS = [
    call(
        "a.wav", 100.0, 20.0,
        [
            turn(0, 10, "agent", "our Premium plan", "Happy"),
            turn(12, 22, "customer", "i want a REFUND now", "Anger", 0.8),
        ],
        [speaker("agent", 30.0, 0.6, 1, 0.5), speaker("customer", 30.0, 0.4, 3, 1.0)],
        ["refund", "refund", "shouting"], "refund",
    ),
    call(
        "b.wav", 50.0, 40.0,
        [
            turn(0, 5, "customer", "hello", "Frustrated"),
            turn(6, 16, "agent", "the refund for premium premium", "Neutral"),
            # Not sure enough to be told.
            turn(20, 25, "customer", "well", "Frustrated", 0.4),
        ],
        [speaker("agent", 30.0, 0.8, 0, 1.5), speaker("customer", 0.0, 0.2, 0, None)],
        ["refund"], "refund",
    ),
    call("c.wav", 30.0, 15.1, [], [speaker("agent", 60.0, 1.0, 2, 2.5)], [], "other"),
    call("d.wav", 10.0, 5.0, [turn(1, 6, "customer", "no", "Frustrated", 0.6)], [], [], ""),
]  # fmt: skip

ANSWERS: dict[str, list[tuple[Any, ...]]] = {
    "1": [("b.wav", 0.8), ("c.wav", 0.5)],
    "2": [("agent", 3, 0.8), ("customer", 2, 0.3)],
    "3": [("a.wav", "Anger", "i want a REFUND now"), ("d.wav", "Frustrated", "no")],
    "4": [
        ("a.wav", 1, "customer", 12.0, "i want a REFUND now"),
        ("b.wav", 1, "agent", 6.0, "the refund for premium premium"),
    ],
    "5": [(1.5, 2.3)],
    "6": [
        ("agent", "Happy", 0.5), ("agent", "Neutral", 0.5),
        ("customer", "Frustrated", 0.6), ("customer", "Anger", 0.4),
    ],
    "7": [("a.wav", 1.0), ("b.wav", 9.0)],
    "8": [("refund", 2, 3, 50.0), ("shouting", 1, 1, 25.0)],
    "9": [("customer", 3, 6.0), ("agent", 3, 1.5)],
    "10": [("refund", 2, 75.0), ("other", 1, 30.0)],
}  # fmt: skip


@pytest.fixture(scope="module", params=["duckdb", "postgresql"])
def ask(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """A made store of four calls; runs a query."""
    if request.param == "duckdb":
        place: Path = tmp_path_factory.mktemp("store")
        url = f"duckdb:///{place}/calls.duckdb"
    else:
        cluster: Cluster = request.getfixturevalue("postgres")
        url = cluster.make_place("queries")
    with Sink(url) as sink:
        for number, data in enumerate(CALLS):
            sink.write(f"{number:064x}", data)

        def asked(query: str) -> list[tuple[Any, ...]]:
            with sink._engine.connect() as connection:
                return [tuple(row) for row in connection.execute(sqlalchemy.text(query))]

        yield asked


def test_there_are_ten_questions() -> None:
    assert [number for number, _, _ in QUERIES] == list(ANSWERS)
    assert len(QUERIES) == 10


@pytest.mark.parametrize(("number", "query"), [(number, query) for number, _, query in QUERIES])
def test_a_question_gets_its_answer(ask: Ask, number: str, query: str) -> None:
    found = [
        tuple(float(cell) if isinstance(cell, Decimal) else cell for cell in row)
        for row in ask(query)
    ]
    assert found == ANSWERS[number]
