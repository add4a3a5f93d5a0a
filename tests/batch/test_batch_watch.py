"""Folders that grow: what has come is analysed when it is whole, and only then."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from batch_fakes import fake_call
from batch_folder import names, run

from speechmeta.batch.watching import settled_files, watch


def aged(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds,) * 2)


def test_recordings_are_taken_as_they_come_and_are_whole(tmp_path: Path) -> None:
    root, out = tmp_path / "calls", tmp_path / "calls" / "results"
    fake_call(root / "a.wav", [100])
    aged(root / "a.wav", 60)
    runs: list[list[str]] = []
    looks = 0

    def once() -> None:
        run(root, out, resume=True, settled=10.0)
        runs.append(names(out))

    def sleep(seconds: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 2:
            fake_call(root / "b.wav", [100])
        elif looks == 4:
            aged(root / "b.wav", 60)
        elif looks == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watch(root, out, once, settled=10.0, sleep=sleep)
    assert runs == [["a.wav"], ["a.wav", "b.wav"]]
    # What the run itself wrote is nothing new.
    aged(out / "results.jsonl", 60)
    assert len(settled_files(root, out, 10.0)) == 2


def test_a_run_leaves_what_is_still_written_to(tmp_path: Path) -> None:
    root, out = tmp_path / "calls", tmp_path / "out"
    fake_call(root / "a.wav", [100])
    fake_call(root / "b.wav", [100])
    aged(root / "a.wav", 60)
    assert run(root, out, settled=10.0).counts.total == 1
    assert run(root, out, resume=True).counts.total == 2
