"""The HTML report in a real browser: the turns stand where and in the colour they should."""

from __future__ import annotations

import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from report_samples import NASTY, sample_peaks, sample_report

from speechmeta.schema import CallReport
from speechmeta.writers import HtmlWriter
from speechmeta.writers.html_view import EMOTION_COLOURS

pytestmark = pytest.mark.slow

WIDTH, HEIGHT = 1280, 1700
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    f"--window-size={WIDTH},{HEIGHT}",
]


@pytest.fixture(scope="module")
def report() -> CallReport:
    return sample_report()


@pytest.fixture(scope="module")
def page(report: CallReport, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "call.html"
    HtmlWriter().write(report.with_peaks(sample_peaks(report)), path)
    return path


def browse(chromium: str, page: Path, profile: Path, *flags: str) -> str:
    command = [chromium, *FLAGS, f"--user-data-dir={profile}", *flags, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def screenshot(chromium: str, page: Path, folder: Path, *flags: str) -> np.ndarray:
    image = pytest.importorskip("PIL.Image", reason="Pillow reads the screenshot")
    target = folder / "page.png"
    browse(chromium, page, folder / "profile", f"--screenshot={target}", *flags)
    with image.open(target) as shot:
        return np.asarray(shot.convert("RGB")).astype(int)


def rgb(colour: str) -> np.ndarray:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])


def bars(shot: np.ndarray, colour: str) -> list[tuple[int, int, int]]:
    """Solid horizontal bars of a colour, at least 30 pixels wide: (row, left, right) of each."""
    same = (np.abs(shot - rgb(colour)).max(axis=-1) <= 2).astype(np.int8)
    found = []
    for row in range(shot.shape[0]):
        edges = np.flatnonzero(np.diff(same[row], prepend=0, append=0))
        for left, right in zip(edges[::2], edges[1::2], strict=True):
            if right - left >= 30:
                found.append((row, int(left), int(right)))
    return found


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_the_turns_are_on_the_screenshot(
    chromium: str, page: Path, report: CallReport, tmp_path: Path, mode: str
) -> None:
    scheme = {"light": "1", "dark": "0"}[mode]
    flag = f"--blink-settings=preferredColorScheme={scheme}"
    shot = screenshot(chromium, page, tmp_path, flag)
    brightness = float(np.median(shot))
    assert brightness > 200 if mode == "light" else brightness < 60

    # Each turn's top edge is a solid bar in its emotion's colour; the first rows of the
    # page that hold one are the two lanes of the timeline.
    seconds = report.audio.duration
    lanes: dict[str, set[int]] = {}
    scale = None
    for turn in report.turns:
        emotion = turn.meta.emotion
        if emotion is None:
            continue
        top = bars(shot, EMOTION_COLOURS[emotion])
        if scale is None:
            # The first row is shorter: the corners are round.
            edge = [bar for bar in top if bar[0] < top[0][0] + 4]
            left, right = min(bar[1] for bar in edge), max(bar[2] for bar in edge)
            scale = (right - left) / (turn.end - turn.start)
            origin = left - turn.start * scale
        # Round corners, and the mark of an interruption over the left end, take some pixels.
        expected = (origin + turn.start * scale, origin + turn.end * scale)
        hits = [
            row
            for row, left, right in top
            if abs(left - expected[0]) <= 6 and abs(right - expected[1]) <= 3
        ]
        assert hits, f"no bar for the {emotion} turn at {turn.start} s"
        lanes.setdefault(turn.speaker, set()).add(min(hits))
    assert scale is not None
    assert 600 < scale * seconds < WIDTH
    # One height per lane, the agent's above the customer's.
    assert all(max(rows) - min(rows) <= 4 for rows in lanes.values())
    assert min(lanes["agent"]) < min(lanes["customer"])


class Turns(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.turns: list[dict[str, str | None]] = []
        self.rows: set[str | None] = set()
        self.classes: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "html":
            self.classes = given.get("class")
        if tag == "button" and "turn" in (given.get("class") or "").split():
            self.turns.append(given)
        if tag == "tr":
            self.rows.add(given.get("id"))


def test_the_dom_after_the_script_ran(
    chromium: str, page: Path, report: CallReport, tmp_path: Path
) -> None:
    dom = browse(chromium, page, tmp_path / "profile", "--dump-dom")
    found = Turns()
    found.feed(dom)
    assert found.classes == "js"
    assert len(found.turns) == len(report.turns)
    assert {turn["data-row"] for turn in found.turns} <= found.rows
    by_start = sorted(found.turns, key=lambda turn: float(left_of(turn)))
    for turn, expected in zip(by_start, report.turns, strict=True):
        assert float(left_of(turn)) == pytest.approx(expected.start / 40 * 100, abs=0.01)
        assert expected.speaker in (turn["data-tip"] or "")
    assert NASTY in (by_start[5]["data-tip"] or "")
    # The script drew the ticks anew, so it ran to its end.
    assert re.search(r'class="tick" style="left: 0%;?"', dom)


def left_of(turn: dict[str, str | None]) -> str:
    found = re.search(r"left:\s*([\d.]+)%", turn["style"] or "")
    assert found
    return found.group(1)
