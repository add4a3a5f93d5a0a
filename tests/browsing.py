"""Pages in a real browser: what every test of one asks for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--autoplay-policy=no-user-gesture-required",
    "--mute-audio",
]


@contextmanager
def launched(chromium: str) -> Iterator[Any]:
    """A browser, driven by Playwright; skips the test where that is not installed."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright drives Chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, headless=True, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


def assert_accessible(page: Any) -> None:
    """axe-core finds no violation on a page that is open."""
    reason = "axe-core comes with axe-playwright-python, of the extra dev"
    package = pytest.importorskip("axe_playwright_python", reason=reason)
    script = Path(package.__file__).parent / "axe.min.js"
    # Not by a script tag: the page's policy runs no script but its own.
    page.evaluate(script.read_text())
    found = page.evaluate("axe.run()")
    assert [(v["id"], v["nodes"][0]["html"][:200]) for v in found["violations"]] == []
    assert len(found["passes"]) > 15
