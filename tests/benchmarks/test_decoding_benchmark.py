"""The decoding benchmark runs at a small size and prints the promised line."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


@pytest.fixture(autouse=True)
def _no_compiler() -> Iterator[None]:
    """outlines compiles the kernel that applies its masks; here only its values count."""
    with torch.compiler.set_stance("force_eager"):
        yield


def test_last_line_is_json(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "benchmarks")
    decoding = importlib.import_module("decoding")

    decoding.main(
        "--size tiny --dtype float32 --device cpu --clips 2 --rounds 1 --records 100".split()
    )
    line = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert line["size"] == "tiny"
    assert line["valid_share"] == 1.0
    assert line["transcript_tokens"] == 20
    assert line["forward_passes_per_record"] <= line["transcript_tokens"] + line["labels"] + 2
    assert 0.3 < line["forced_share"] < 1
    for key in (
        "dtype",
        "batch_size",
        "grammar_ms_per_step",
        "decoder_speedup_vs_outlines",
        "end_to_end_speedup_vs_unconstrained",
    ):
        assert key in line
    sys.modules.pop("decoding", None)
