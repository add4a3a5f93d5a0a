"""The pages of reports and comparisons in a browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import assert_accessible, launched
from eval_fakes import Oracle
from eval_trees import librispeech, manifest

from speechmeta.eval import evaluate, read_dataset
from speechmeta.eval.reports.compare import compare_reports
from speechmeta.eval.reports.output import write_comparison

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    with launched(chromium) as browser:
        yield browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run with every kind of table, one beside the published table, and a comparison."""
    folder = tmp_path_factory.mktemp("pages")
    labels = {"gender": ("Female", "Male"), "age": ("Young", "Senior"), "emotion": ("sad", "angry")}
    rows: list[dict[str, Any]] = [
        {
            "audio": f"clips/a clip with a long name {i}.wav",
            "dataset": f"a-data-set-with-a-name-of-its-own-{i % 3}",
            "duration": 0.3,
            "speaker": f"s{i % 6}",
            "speech": True,
            "transcript": "this is my order",
            "accent": "usa" if i % 2 else "India",
            **{field: values[i % 2] for field, values in labels.items()},
        }
        for i in range(24)
    ]
    dataset = read_dataset("manifest", manifest(folder / "m.jsonl", rows))
    said = {"Transcript": "this was <my> order of"}
    wrong: dict[str, Any] = {clip.id: said for clip in dataset.clips[::4]}
    run = evaluate(dataset, predictor=Oracle(dataset, wrong), output=folder / "run.json")
    books = read_dataset("librispeech", librispeech(folder / "books"))
    evaluate(books, predictor=Oracle(books), output=folder / "published.json")
    good = evaluate(dataset, predictor=Oracle(dataset))
    write_comparison(compare_reports([run, good, run, run]), folder / "comparison.json")
    return {path.stem: path for path in folder.glob("*.html")}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["run", "published", "comparison"])
def test_a_page_is_whole_and_accessible(
    browser: Any, pages: dict[str, Path], name: str, width: int, scheme: str
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    wrong: list[str] = []
    page = context.new_page()
    page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
    page.goto(pages[name].as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == width
    cut = page.locator(".wide").evaluate_all(
        "all => all.filter(e => e.scrollWidth > e.clientWidth).map(e => e.ariaLabel)"
    )
    # On a telephone tables scroll by themselves, on a screen none has to.
    assert cut == [] or width < 1280
    assert_accessible(page)
    assert wrong == []
    context.close()


def test_bars_are_drawn_and_sound_is_played(browser: Any, pages: dict[str, Path]) -> None:
    page = browser.new_page()
    page.goto(pages["run"].as_uri())
    bars = page.locator("rect.bin")
    assert bars.count() > 0
    box = bars.first.bounding_box()
    assert box["width"] > 5
    assert box["height"] > 20
    assert page.locator("article ins").first.inner_text() == "was order of"
    page.locator("audio").first.evaluate("player => { player.muted = true; return player.play(); }")
    assert page.locator("audio").first.evaluate("player => player.duration") > 0.2
    page.close()
