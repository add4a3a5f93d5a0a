"""The app in a real browser: a file is uploaded, the six fields appear, the chat answers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from conftest import ROOT, RunCli
from desta_tiny import Shape, make_checkpoint
from report_samples import sample_report

from speechmeta.app import TURN_COLUMNS, launch, probability, turn_rows
from speechmeta.errors import UsageError
from speechmeta.schema import FIELDS

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WAIT = 120_000
"""Milliseconds; a page that is still loading on a busy machine has not failed."""
CALL = ROOT / "examples" / "call.wav"

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("desta"), Shape(seed=3))


def _serve(*args: str | Path) -> Iterator[str]:
    pytest.importorskip("gradio", reason="the extra `app` is not installed")
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "app_server.py"), *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:"), address
        yield address
    finally:
        process.communicate("", timeout=60)


@pytest.fixture(scope="module")
def address(checkpoint: Path) -> Iterator[str]:
    yield from _serve("fake", checkpoint)


@pytest.fixture(scope="module")
def browser(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright drives Chromium")
    with sync_api.sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("browser"),
            executable_path=chromium,
            headless=True,
            args=FLAGS,
            viewport={"width": 1280, "height": 1500},
        )
        context.set_default_timeout(WAIT)
        try:
            yield context
        finally:
            context.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page of its own, which takes no time of the next test's."""
    page = browser.new_page()
    yield page
    page.close()


def _upload(page: Any, address: str, clip: Path) -> None:
    page.goto(address)
    page.locator("#recording input[type=file]").set_input_files(clip)
    page.locator("#recording").get_by_text(clip.name).or_(
        page.locator("#recording audio, #recording [data-testid*=waveform]")
    ).first.wait_for(state="attached")


def _analyze(page: Any) -> dict[str, list[str]]:
    """Presses the button; the cells of the table by column."""
    page.locator("#analyze-button").click()
    page.locator("#timeline iframe").wait_for()
    page.locator("#turns td").first.wait_for()
    rows = page.locator("#turns tbody tr").all()
    cells = [[cell.inner_text().strip() for cell in row.locator("td").all()] for row in rows]
    return {name: [row[i] for row in cells] for i, name in enumerate(TURN_COLUMNS)}


def test_a_recording_is_analysed_without_leaving_the_machine(page: Any, address: str) -> None:
    elsewhere: list[str] = []
    page.on(
        "request",
        lambda request: (
            elsewhere.append(request.url)
            if urlsplit(request.url).scheme in ("http", "https", "ws", "wss")
            and urlsplit(request.url).hostname != "127.0.0.1"
            else None
        ),
    )
    _upload(page, address, CALL)
    columns = _analyze(page)
    assert set(FIELDS) < set(columns)
    assert columns["SpeechActivity"][0].startswith("yes")
    assert "second" in columns["Transcript"][0]
    for field in ("Gender", "Age", "Accent", "Emotion"):
        assert "%" in columns[field][0], columns
    report = page.frame_locator("#timeline iframe")
    report.get_by_text("Timeline", exact=True).wait_for()
    link = page.locator("#downloads a[download$='.json']").get_attribute("href")
    answer = page.request.get(link)
    assert answer.ok
    assert set(FIELDS) <= set(answer.json()["turns"][0])
    assert elsewhere == []


def test_the_chat_answers_and_begins_anew(page: Any, address: str) -> None:
    _upload(page, address, CALL)
    page.get_by_role("tab", name="Chat").click()
    for count, text in ((1, "Is the customer angry?"), (2, "Why?")):
        page.locator("#question textarea, #question input").first.fill(text)
        # Gradio takes no question while an answer is on its way.
        for _ in range(30):
            page.get_by_role("button", name="Ask").click()
            page.wait_for_timeout(2000)
            if page.locator("#talk .user.message").count() == count:
                break
        page.wait_for_function(
            "n => document.querySelectorAll('#talk .bot.message').length >= n"
            " && [...document.querySelectorAll('#talk .bot.message')].at(-1).innerText.trim()",
            arg=count,
        )
    assert page.locator("#talk .user.message").count() == 2
    page.get_by_role("button", name="Start again").click()
    page.wait_for_function("document.querySelectorAll('#talk .message').length == 0")


def test_without_a_recording_the_page_asks_for_one(page: Any, address: str) -> None:
    page.goto(address)
    page.locator("#analyze-button").click()
    page.get_by_text("there is no recording yet").first.wait_for()


def test_the_bundled_model_fills_every_cell(page: Any, bundled_dir: Path, tmp_path: Path) -> None:
    served = _serve("bundled")
    address = next(served)
    try:
        _upload(page, address, CALL)
        page.locator("#min-confidence input, #min-confidence textarea").fill("0")
        columns = _analyze(page)
        assert len(columns["Transcript"]) == 8
        for field in FIELDS:
            assert not {"", "-"} & set(columns[field])
        page.frame_locator("#timeline iframe").get_by_text("Timeline", exact=True).wait_for()
        shot = tmp_path / "app.png"
        page.screenshot(path=shot)
        assert shot.stat().st_size > 20_000
        if target := os.environ.get("SPEECHMETA_APP_SCREENSHOT"):
            shutil.copyfile(shot, target)
    finally:
        served.close()  # type: ignore[attr-defined]


def test_rows_are_those_of_the_report() -> None:
    report = sample_report()
    rows = turn_rows(report)
    assert len(rows) == len(report.turns)
    assert all(len(row) == len(TURN_COLUMNS) for row in rows)
    for turn, row in zip(report.turns, rows, strict=True):
        cells = dict(zip(TURN_COLUMNS, row, strict=True))
        if turn.meta.gender is not None and "Gender" in turn.confidence:
            assert cells["Gender"] == f"{turn.meta.gender} ({turn.confidence['Gender']:.0%})"
        if turn.meta.gender is None:
            assert cells["Gender"] == "-"


def test_the_box_for_probabilities_is_empty_or_a_number() -> None:
    assert [probability(text) for text in ("", " ", "0.5", "0,5", "0")] == [
        None,
        None,
        0.5,
        0.5,
        0.0,
    ]
    with pytest.raises(UsageError, match="not a number"):
        probability("high")


class UnreachablePage:
    """What Gradio does where a proxy stands before this machine's own address."""

    closed = False

    def queue(self) -> UnreachablePage:
        return self

    def launch(self, **_: Any) -> None:
        raise ValueError("When localhost is not accessible, a shareable link must be created.")

    def close(self) -> None:
        self.closed = True


def test_a_proxy_before_this_machine_is_named() -> None:
    pytest.importorskip("gradio", reason="the extra `app` is not installed")
    page = UnreachablePage()
    with pytest.raises(UsageError, match="NO_PROXY"):
        launch(page, block=False)
    assert page.closed


def test_without_gradio_the_command_names_the_extra(
    run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    result = run_cli("app")
    assert result.code == 2
    assert "pip install 'speechmeta[app]'" in result.stderr
    assert run_cli("app", "--help").code == 0
