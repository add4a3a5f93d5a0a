"""The report used in a browser: sound, words, search, keyboard, paper, and axe-core's rules."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from browsing import FLAGS, assert_accessible, launched
from report_samples import NASTY, empty_report, sample_peaks, sample_report

from speechmeta.schema import CallReport, RedactedSpan, Word
from speechmeta.writers import HtmlWriter
from speechmeta.writers.html_index import index_page
from speechmeta.writers.structured import document

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    with launched(chromium) as browser:
        yield browser


Open = Callable[..., Any]


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Opens a report's page; fails if it logs an error or asks for anything outside."""
    wrong: list[str] = []
    contexts: list[Any] = []

    def go(report: CallReport | str, width: int = 1280, **options: Any) -> Any:
        path = tmp_path / "page.html"
        if isinstance(report, str):
            path.write_text(report, encoding="utf-8")
        else:
            report = report.with_peaks(sample_peaks(report, bins=4000))
            HtmlWriter(**options).write(report, path, overwrite=True)
        context = browser.new_context(viewport={"width": width, "height": 900})
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
        page.on("request", lambda r: wrong.append(r.url) if r.url.startswith("http") else None)
        page.goto(path.as_uri())
        return page

    yield go
    for context in contexts:
        context.close()
    assert wrong == []


def until(page: Any, condition: str) -> None:
    """Waits for a condition; Playwright's own waiting needs eval, which the page forbids."""
    for _ in range(600):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(100)
    pytest.fail(f"never came true: {condition}")


def with_sound(folder: Path, seconds: float = 40.0) -> CallReport:
    """The sample call with a recording of its length, and words with times in a turn."""
    folder.mkdir(exist_ok=True)
    times = np.arange(int(8000 * seconds)) / 8000
    sound = 0.2 * np.sin(2 * np.pi * 300 * times)
    soundfile.write(folder / "sample call.wav", np.stack([sound, 0.5 * sound], 1), 8000)
    return sample_report(str(folder / "sample call.wav"))


def test_a_turn_is_played_and_its_words_light_up(show: Open, tmp_path: Path) -> None:
    page = show(with_sound(tmp_path / "calls"))
    assert page.evaluate("document.querySelector('audio').src").startswith("data:audio/webm")
    until(page, "document.querySelector('audio').duration > 39")
    page.locator("#row-2 .play").click()
    until(page, "document.querySelector('audio').currentTime > 8.5")
    page.evaluate("document.querySelector('audio').pause()")
    now = page.evaluate("document.querySelector('audio').currentTime")
    assert 8.0 <= now < 14
    assert page.locator("tr.now").evaluate_all("rows => rows.map(r => r.id)") == ["row-2"]
    assert page.locator(".turn.now").count() == 1
    words = sample_report().turns[2].words
    assert words is not None
    heard = [word for word in words if word.start <= now][-1]
    assert page.locator(".w.now").inner_text() == heard.word
    left = page.locator(".playhead").evaluate("element => parseFloat(element.style.left)")
    assert left == pytest.approx(now / 40 * 100, abs=1.5)
    page.locator("#row-2 .w").nth(10).click()
    until(page, "document.querySelector('audio').currentTime >= 12")


def test_a_link_plays_too_and_nothing_is_linked_when_told_so(show: Open, tmp_path: Path) -> None:
    report = with_sound(tmp_path / "calls #1", 2.0)
    page = show(report, audio="link")
    assert page.locator("audio").get_attribute("src") == "calls%20%231/sample%20call.wav"
    until(page, "document.querySelector('audio').duration > 1.9")
    page = show(report, audio="none")
    assert page.locator("audio, .play").count() == 0


def test_redacted_reports_carry_redacted_sound_only(tmp_path: Path) -> None:
    report = with_sound(tmp_path, 4.0)
    span = RedactedSpan(turn=0, start=1.5, end=2.5, mark="[card number]")
    report = report.model_copy(update={"redactions": [span]})
    assert "<audio" not in written(HtmlWriter("link"), report, tmp_path)
    page = written(HtmlWriter("embed"), report, tmp_path)
    found = re.search(r'src="data:audio/webm;base64,([^"]+)"', page)
    assert found
    import base64

    from speechmeta.audio.loading import load_audio

    audio = load_audio(base64.b64decode(found[1]))
    wave, rate = audio.mono(), audio.sample_rate
    inside = wave[int(1.4 * rate) : int(2.6 * rate)]
    outside = wave[int(0.3 * rate) : int(1.0 * rate)]
    assert float(np.abs(inside).max()) < 0.02 < 0.05 < float(np.abs(outside).max())


def written(writer: HtmlWriter, report: CallReport, folder: Path) -> str:
    writer.write(report, folder / "page.html", overwrite=True)
    return (folder / "page.html").read_text()


def test_long_sound_is_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = with_sound(tmp_path, 4.0)
    monkeypatch.setattr("speechmeta.writers.html.EMBED_BYTES", 1000)
    assert 'src="sample%20call.wav"' in written(HtmlWriter(), report, tmp_path)
    assert "<audio" not in HtmlWriter().text(report), "where the page lies is not known"


def rows(page: Any) -> list[str]:
    found = page.locator(".turns tbody tr").evaluate_all(
        "rows => rows.filter(r => !r.hidden).map(r => r.id)"
    )
    return [str(item).removeprefix("row-") for item in found]


def test_search_filters_and_order(show: Open) -> None:
    page = show(sample_report())
    assert rows(page) == list("01234567")
    page.locator("#search").fill("SORRY")
    assert rows(page) == ["3"]
    assert page.locator("#count").inner_text() == "1 of 8 turns"
    assert page.locator(".turn.off").count() == 7
    page.locator("#search").fill("")
    page.locator("#speaker").select_option("customer")
    assert rows(page) == list("1256")
    page.locator("#label").select_option("emotion=Anger")
    assert rows(page) == ["5"]
    page.locator("#label").select_option("flags=transcript truncated")
    assert rows(page) == ["5"]
    page.locator("#label").select_option("")
    page.locator("#speaker").select_option("")
    page.locator("#sort").select_option("seconds")
    assert rows(page)[:2] == ["7", "2"]
    page.locator("#sort").select_option("emotion")
    assert rows(page)[0] == "5"
    page.locator("#sort").select_option("start")
    assert rows(page) == list("01234567")


def test_the_timeline_is_one_stop_and_arrows_go_on_within_it(show: Open) -> None:
    page = show(sample_report())
    assert page.locator(".turn[tabindex='0']").count() == 1
    focused = "document.activeElement.dataset.row ?? document.activeElement.tagName"
    page.locator("[data-zoom=in]").focus()
    page.keyboard.press("Tab")
    assert page.evaluate(focused) == "row-0"
    seen = []
    for key in ("ArrowRight", "ArrowRight", "ArrowUp", "ArrowDown", "End", "Home", "ArrowLeft"):
        page.keyboard.press(key)
        seen.append(page.evaluate(focused))
    assert seen == ["row-1", "row-2", "row-3", "row-2", "row-7", "row-0", "row-0"]
    assert page.locator("#tip").is_visible()
    page.keyboard.press("Tab")
    assert page.evaluate(focused) == "INPUT"


def test_zoomed_in_the_waveform_is_drawn_finely(show: Open) -> None:
    page = show(sample_report())
    assert not page.locator(".lane canvas").first.is_visible()
    page.locator("[data-zoom=in]").click()
    page.locator("[data-zoom=in]").click()
    drawn = page.locator(".lane canvas").first.evaluate(
        "c => new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size"
    )
    assert drawn > 3
    page.locator("[data-zoom=fit]").click()
    assert not page.locator(".lane canvas").first.is_visible()


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_screen(show: Open, width: int) -> None:
    page = show(sample_report("calls/" + "long" * 60 + ".wav"), width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_hostile_names_and_transcripts_are_text(show: Open) -> None:
    report = sample_report('x"><img src=x onerror=alert(1)>.wav')
    report.turns[0].speaker = "'\"><script>alert(2)</script>"
    word = Word(word="<b>bold</b>", start=0.5, end=1.0, probability=1.0)
    said = report.turns[0].meta.model_copy(update={"transcript": word.word})
    report.turns[0] = report.turns[0].model_copy(update={"meta": said, "words": [word]})
    page = show(report)
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    assert page.locator("main img, main script, main b:has-text('bold')").count() == 0
    assert page.locator("#row-0 .said").inner_text().strip() == "<b>bold</b>"
    assert page.locator("#row-5 .said").inner_text().split() == NASTY.split()


def folder_page() -> str:
    """A page of three calls, one of which could not be read."""
    good = document(sample_report())
    bad = {"error": {"type": "AudioError", "message": "b.wav is empty", "hint": "copy it again"}}
    calls = [("a.wav", "calls/a.wav.html", good), ("b.wav", "", bad), ("c.wav", "", good)]
    return index_page(calls, "Monday's calls")


def test_nothing_is_wider_than_a_telephone(show: Open) -> None:
    for shown in (sample_report(), folder_page()):
        page = show(shown, 360)
        until(page, "document.readyState === 'complete'")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        # Tables scroll by themselves; whoever has no mouse reaches them with the tabulator.
        for table in page.locator("table").all():
            assert table.evaluate(
                "e => e.scrollWidth <= 360 || e.closest('[tabindex=\"0\"]') !== null"
            )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("kind", ["call", "empty", "folder"])
def test_axe_core_finds_no_violation(
    show: Open, tmp_path: Path, kind: str, width: int, scheme: str
) -> None:
    shown: CallReport | str = empty_report()
    if kind == "call":
        shown = with_sound(tmp_path / "calls", 2.0)
    elif kind == "folder":
        shown = folder_page()
    page = show(shown, width)
    page.emulate_media(color_scheme=scheme)
    assert_accessible(page)


def test_twenty_minutes_on_six_sheets_of_paper(chromium: str, tmp_path: Path) -> None:
    report = sample_report()
    turns = []
    for number in range(300):
        turn = report.turns[number % 8]
        length = turn.end - turn.start
        turns.append(turn.model_copy(update={"start": number * 4.0, "end": number * 4.0 + length}))
    audio = report.audio.model_copy(update={"duration": 1200.0})
    report = report.model_copy(update={"turns": turns, "audio": audio})
    page, pdf = tmp_path / "long.html", tmp_path / "long.pdf"
    HtmlWriter().write(report.with_peaks(sample_peaks(report)), page)
    subprocess.run(
        [
            chromium,
            "--headless",
            *FLAGS,
            f"--user-data-dir={tmp_path / 'profile'}",
            "--no-pdf-header-footer",
            f"--print-to-pdf={pdf}",
            page.as_uri(),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    sheets = len(re.findall(rb"/Type\s*/Page\b", pdf.read_bytes()))
    assert 2 <= sheets <= 6
