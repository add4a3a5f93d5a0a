"""The documentation: the site builds without a warning, and its links hold on GitHub too."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
from conftest import ROOT

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "recipes").rglob("*.md")),
    ROOT / "speechmeta" / "checkpoints" / "bundled" / "README.md",
]
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_CODE = re.compile(r"^(```|~~~).*?^\1$", re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    text = _CODE.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#{1,6} +(.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere_on_github(page: Path) -> None:
    for link in _LINK.findall(_CODE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        path, fragment = urldefrag(link)
        target = (page.parent / unquote(path)).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        assert target.is_relative_to(ROOT), f"{page.name}: {link} is outside the repository"
        if fragment:
            assert fragment in anchors(target), f"{page.name}: {link}"


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    # What is generated is there: commands, docstrings, measurements, files that pages link to.
    commands = (tmp_path / "cli.html").read_text(encoding="utf-8")
    assert "--min-pause" in commands
    assert "speechmeta-models-download" in commands
    python = (tmp_path / "python.html").read_text(encoding="utf-8")
    assert 'id="speechmeta.pipeline.analyzer.Analyzer.analyze_call"' in python
    assert 'id="speechmeta.schema.CallReport.to_pandas"' in python
    measured = (tmp_path / "benchmarks.html").read_text(encoding="utf-8")
    for result in (ROOT / "benchmarks" / "results").glob("*.txt"):
        assert f'id="{result.stem}"' in measured, result.name
    for report in (ROOT / "eval" / "results").glob("*.md"):
        assert (tmp_path / "repository/eval/results" / f"{report.stem}.html").is_file()
    assert (tmp_path / "repository/examples/rules.toml").is_file()
    # A site that is read from disk fetches nothing.
    fetched = re.findall(r'<(?:script|link)[^>]+(?:src|href)="(https?:[^"]+)"', commands)
    assert not fetched
