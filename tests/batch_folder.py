"""A folder of calls, and a run over it with a system that is not a model."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from batch_fakes import FakeJob, FakeSource, fake_call

from speechmeta.batch.journal import STATE_FOLDER
from speechmeta.batch.local import EngineOptions
from speechmeta.batch.runner import FolderOptions, FolderResult, run_folder


def run(root: Path, out: Path, **options: Any) -> FolderResult:
    """Runs with fakes; options of `EngineOptions` and `FolderOptions` by name."""
    job = options.pop("job", FakeJob())
    source = options.pop("source", FakeSource())
    progress = options.pop("progress", None)
    names = EngineOptions.__dataclass_fields__
    use = EngineOptions(**{key: options.pop(key) for key in list(options) if key in names})
    return run_folder(root, out, job, source, FolderOptions(use=use, **options), progress)


def results(out: Path) -> list[dict[str, Any]]:
    text = (out / "results.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def names(out: Path) -> list[str]:
    return [os.path.basename(line["audio"]["path"]) for line in results(out)]


def no_leftovers(out: Path) -> bool:
    spilled = list((out / STATE_FOLDER).glob("spill-*"))
    return not spilled and not list(out.rglob(".speechmeta-*.tmp"))


def make_calls(tmp_path: Path) -> Path:
    """Three calls in two folders, two of them of the same name."""
    root = tmp_path / "calls"
    fake_call(root / "b" / "call.wav", [400, 500], value=2.0)
    fake_call(root / "a" / "call.wav", [300], value=1.0)
    fake_call(root / "c.wav", [100, 200, 300], value=3.0)
    return root
