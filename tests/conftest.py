"""Fixtures for all tests: where shared recordings lie, the bundled model, the command line."""

from __future__ import annotations

import gc
import os
import shutil
import sys
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from postgres_server import Cluster

    from speechmeta.pipeline.analyzer import Analyzer

ROOT = Path(__file__).resolve().parent.parent
BUNDLED = ROOT / "speechmeta" / "checkpoints" / "bundled"

# The model runs on whatever the machine has; tests compare numbers, so they all see the same.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# A busy machine makes no test fail.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
# No test reaches for the network.
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Imports make no garbage, and what they made is not looked through again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


LONGEST = (
    "batch/test_batch_calls.py",
    "chat/test_chat.py",
    "server/test_server_jobs.py",
    "models/test_whisper_real.py",
    "docs/test_tour.py",
    "chat/test_chat_training.py",
    "batch/test_batch_ray.py",
    "server/test_server_ray.py",
    "batch/test_batch_run.py",
    "batch/test_batch_resume.py",
    "decoding/test_decoding_engine.py",
    "docs/test_finetune_examples.py",
    "decoding/test_whisper_published.py",
)
"""Files that take more than about 15 seconds of a processor, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`pytest -m fast` runs all tests but those that are marked as slow.

    The longest files go first: where workers share the files, none is left alone with a long one
    in the end.
    """
    places = {ROOT / "tests" / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))
    for item in items:
        if item.get_closest_marker("slow") is None:
            item.add_marker("fast")


@pytest.fixture(autouse=True)
def gradients_stay_on() -> Iterator[None]:
    """No test leaves its thread in a mode in which later ones cannot learn."""
    yield
    torch = sys.modules.get("torch")
    if torch is not None:
        on = torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        torch.set_grad_enabled(True)
        assert on, "gradients are switched off after this test"


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with recordings and recorded reference results, beside the repository."""
    path = Path(os.environ.get("SPEECHMETA_SHARED", ROOT.parent / "shared"))
    if not path.is_dir():
        pytest.skip(f"no shared recordings at {path}; SPEECHMETA_SHARED names another place")
    return path


@pytest.fixture(scope="session")
def bundled_dir() -> Path:
    """The bundled checkpoint's folder."""
    if not (BUNDLED / "model.safetensors").is_file():
        pytest.skip(f"no weights in {BUNDLED}: the bundled checkpoint comes with a release")
    return BUNDLED


@pytest.fixture(scope="session")
def bundled_model(bundled_dir: Path) -> tuple[Any, Any]:
    """(model, processor) of the bundled checkpoint on the CPU in float32."""
    from speechmeta.models.loading import load_model

    return load_model(bundled_dir, device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def bundled_analyzer(bundled_dir: Path) -> Analyzer:
    """An Analyzer with the bundled checkpoint on the CPU in float32."""
    from speechmeta.pipeline.analyzer import Analyzer

    return Analyzer(device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """A PostgreSQL server of Debian's, which ends with the tests."""
    from postgres_server import cluster

    with cluster() as found:
        yield found


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a browser."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        found = shutil.which(name)
        if found:
            return found
    pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")


@dataclass(frozen=True)
class CliResult:
    """What a command gave back."""

    code: int
    stdout: str
    stderr: str


RunCli = Callable[..., CliResult]


@pytest.fixture
def run_cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> RunCli:
    """Runs `speechmeta ARGS...` in this process, through the same `main` as the command."""
    monkeypatch.setenv("COLUMNS", "120")

    def run(*args: str | Path) -> CliResult:
        from speechmeta.cli import main

        capsys.readouterr()
        code = main([str(arg) for arg in args])
        captured = capsys.readouterr()
        return CliResult(code, captured.out, captured.err)

    return run


@pytest.fixture
def sine() -> Callable[..., npt.NDArray[np.float32]]:
    """`sine(seconds, rate, frequency=440, level=0.25)`: a tone, shape (samples,)."""

    def make(
        seconds: float, rate: int, frequency: float = 440.0, level: float = 0.25
    ) -> npt.NDArray[np.float32]:
        times = np.arange(round(seconds * rate)) / rate
        return (level * np.sin(2 * np.pi * frequency * times)).astype(np.float32)

    return make


CheckGolden = Callable[[Path, str], None]


@pytest.fixture
def check_golden() -> CheckGolden:
    """Compares text with a committed file; SPEECHMETA_UPDATE_GOLDEN=1 writes it anew."""

    def check(path: Path, text: str) -> None:
        if os.environ.get("SPEECHMETA_UPDATE_GOLDEN") == "1":
            path.write_text(text, encoding="utf-8", newline="\n")
        assert text == path.read_text(encoding="utf-8")

    return check
