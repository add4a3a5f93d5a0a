"""OpenAI's client and the bundled model: the words of the example call, and when they are said."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from conftest import ROOT
from serving import running

from speechmeta.pipeline.analyzer import Analyzer

pytestmark = pytest.mark.slow

CALL = ROOT / "examples" / "call.wav"
SPOKEN = json.loads((ROOT / "examples" / "call.json").read_text(encoding="utf-8"))["turns"]


def plain(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower().replace("o'clock", "oclock"))


@pytest.fixture(scope="module")
def create(bundled_analyzer: Analyzer) -> Iterator[Any]:
    with (
        running(analyzer=bundled_analyzer) as live,
        openai.OpenAI(base_url=f"{live.address}/v1", api_key="x", max_retries=0) as client,
    ):

        def asked(**options: Any) -> Any:
            with CALL.open("rb") as file:
                return client.audio.transcriptions.create(
                    file=file, model="whisper-1", timeout=240, **options
                )

        yield asked


@pytest.fixture(scope="module")
def verbose(create: Any) -> Any:
    return create(
        response_format="verbose_json", timestamp_granularities=["word", "segment"], language="en"
    )


def test_segments_are_the_turns_that_were_spoken(verbose: Any) -> None:
    assert verbose.language == "english"
    assert len(verbose.segments) == len(SPOKEN)
    for segment, turn in zip(verbose.segments, SPOKEN, strict=True):
        assert segment.start == pytest.approx(turn["start"], abs=0.4)
        assert segment.end == pytest.approx(turn["end"], abs=0.4)
        assert set(segment.speechmeta) >= {"speaker", "Gender", "Emotion", "confidence"}
    said = " ".join(turn["text"] for turn in SPOKEN)
    right = set(plain(said)) & set(plain(verbose.text))
    assert len(right) > 0.8 * len(set(plain(said)))


def test_words_lie_within_their_turn_in_order(verbose: Any) -> None:
    words = list(verbose.words)
    assert plain(" ".join(word.word for word in words)) == plain(verbose.text)
    for segment in verbose.segments:
        count = len(segment.text.split())
        own, words = words[:count], words[count:]
        assert [word.word.strip() for word in own] == segment.text.split()
        times = [time for word in own for time in (word.start, word.end)]
        assert times == sorted(times)
        assert segment.start - 0.25 <= times[0]
        assert times[-1] <= segment.end + 0.25
    assert words == []


def test_words_are_where_they_were_spoken(verbose: Any) -> None:
    """Speech is even enough that a word's share of the letters is nearly its share of the time."""
    checked = 0
    for turn in SPOKEN:
        letters = re.sub(r"[^a-z]", "", turn["text"].lower())
        for word in verbose.words:
            name = re.sub(r"[^a-z]", "", word.word.lower())
            middle = (word.start + word.end) / 2
            if len(name) < 4 or letters.count(name) != 1:
                continue
            if not turn["start"] <= middle <= turn["end"]:
                continue
            share = (letters.index(name) + len(name) / 2) / len(letters)
            wanted = turn["start"] + share * (turn["end"] - turn["start"])
            assert middle == pytest.approx(wanted, abs=0.6), word
            checked += 1
    assert checked >= 12


@pytest.mark.parametrize(
    ("granularities", "names"),
    [(["word"], {"words"}), (["segment"], {"segments"}), ([], {"segments"})],
)
def test_what_is_asked_for_is_there(create: Any, granularities: Any, names: set[str]) -> None:
    more = {"timestamp_granularities": granularities} if granularities else {}
    found = create(response_format="verbose_json", **more).model_dump(exclude_none=True)
    assert {"words", "segments"} & set(found) == names


def test_every_format_says_the_same(create: Any, verbose: Any) -> None:
    text = create(language="en").text
    assert text == verbose.text
    assert create(response_format="text", language="en").strip() == text
    with create(stream=True, language="en") as events:
        assert "".join(getattr(event, "delta", "") for event in events) == text
    for form, mark in (("srt", "00:00:0"), ("vtt", "WEBVTT")):
        subtitles = create(response_format=form, language="en")
        assert mark in subtitles
        assert set(plain(text)) <= set(plain(subtitles))


def test_a_prompt_and_a_language(create: Any) -> None:
    assert create(prompt="Italian, table for two", language="en").text
    with pytest.raises(openai.BadRequestError, match="language"):
        create(language="klingon")
    with pytest.raises(openai.BadRequestError, match="knows English only, not 'de'"):
        create(language="de")
