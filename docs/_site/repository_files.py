"""MkDocs hook: files of the repository that pages link to become part of the site.

On GitHub `../eval/results/bundled-test.md` is a file two folders away; on the site the same link
leads to a copy of it. A link to what is not in the repository fails the build.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any
from urllib.parse import urldefrag

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).resolve().parents[2]
FOLDER = "repository"
"""Where the copies stand on the site."""

REPORTS = "eval/results/*.md"
"""The table of measurements, which is made after the pages were read, links to all of these."""

_TARGETS = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s]+)(?=\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files that pages, or files that were added, link to."""
    reports = " ".join(f"](../{path.relative_to(ROOT)})" for path in ROOT.glob(REPORTS))
    waiting = [("benchmarks.md", reports)]
    waiting += [(file.src_uri, file.content_string) for file in files.documentation_pages()]
    while waiting:
        page, text = waiting.pop()
        for target in _TARGETS.findall(text):
            wanted = _in_repository(page, target)
            if wanted is None or files.get_file_from_path(f"{FOLDER}/{wanted}") is not None:
                continue
            path = ROOT / wanted
            if not path.is_file():
                continue  # a folder, or the link is wrong: MkDocs says so of the page
            level = InclusionLevel.NOT_IN_NAV
            copy = File.generated(
                config, f"{FOLDER}/{wanted}", abs_src_path=str(path), inclusion=level
            )
            files.append(copy)
            if copy.is_documentation_page():
                waiting.append((copy.src_uri, copy.content_string))
    return files


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:
    """Turns links that leave the folder of the documentation to the copies."""
    here = posixpath.dirname(page.file.src_uri)

    def moved(match: re.Match[str]) -> str:
        target = match[1]
        wanted = _in_repository(page.file.src_uri, target)
        if wanted is None:
            return target
        inside = wanted.removeprefix("docs/") if wanted.startswith("docs/") else None
        place = inside if inside is not None else f"{FOLDER}/{wanted}"
        fragment = urldefrag(target).fragment
        return posixpath.relpath(place, here or ".") + (f"#{fragment}" if fragment else "")

    return _TARGETS.sub(moved, markdown)


def _in_repository(page: str, target: str) -> str | None:
    """The path in the repository that a page's link means, if it leaves the page's own tree."""
    path = urldefrag(target).url
    if not path:
        return None
    original = page.removeprefix(f"{FOLDER}/") if page.startswith(f"{FOLDER}/") else f"docs/{page}"
    wanted = posixpath.normpath(posixpath.join(posixpath.dirname(original), path))
    if original.startswith("docs/") and wanted.startswith("docs/"):
        return None
    return wanted
