"""Training in several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from training_tiny import tiny_config

from speechmeta.models.speechllm import load_model
from speechmeta.training import parallel
from speechmeta.training.config import TrainConfig
from speechmeta.training.trainer import train


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return tiny_config(tmp_path)


def _average(folder: Path) -> None:
    number = parallel.rank()
    weights = [torch.nn.Parameter(torch.zeros(3)) for _ in range(3)]
    weights[0].grad = torch.full((3,), float(number))
    if number == 1:
        weights[1].grad = torch.full((3,), 4.0)
    value = parallel.average_gradients(weights, 10.0 * number)
    gradients = [None if weight.grad is None else weight.grad.tolist() for weight in weights]
    (folder / f"{number}.json").write_text(json.dumps([value, gradients]))


def test_gradients_are_averaged_over_processes(tmp_path: Path) -> None:
    parallel.run(_average, (tmp_path,), 2, tmp_path / "meet")
    for number in range(2):
        assert json.loads((tmp_path / f"{number}.json").read_text()) == [
            5.0,
            [[0.5] * 3, [2.0] * 3, None],
        ]


def _wait(folder: Path) -> None:
    (folder / f"{parallel.rank()}.pid").write_text(str(os.getpid()))
    time.sleep(600)


@pytest.mark.skipif(os.name != "posix", reason="looks for processes by signal 0")
def test_processes_do_not_outlive_their_parent(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2]);"
        "from speechmeta.training import parallel; from test_training_parallel import _wait;"
        "folder = Path(sys.argv[1]); parallel.run(_wait, (folder,), 2, folder / 'meet')"
    )
    tests = str(Path(__file__).parents[1])
    with subprocess.Popen([sys.executable, "-c", code, tmp_path, tests]) as parent:
        try:
            assert _until(lambda: len([*tmp_path.glob("*.pid")]) == 2)
            # Between the file and its content.
            assert _until(lambda: all(path.read_text() for path in tmp_path.glob("*.pid")))
        finally:
            parent.kill()
    children = [int(path.read_text()) for path in tmp_path.glob("*.pid")]
    assert _until(lambda: not any(map(_runs, children)))


def _until(reached: Callable[[], bool], seconds: float = 120) -> bool:
    end = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    # A child that nobody waits for is dead all the same.
    status = Path(f"/proc/{process}/stat")
    return not (status.is_file() and status.read_text().rpartition(")")[2].split()[0] == "Z")


def test_processes_learn_the_same(config: TrainConfig) -> None:
    config.optim.processes = 2
    # Many clips, so that each process has a batch.
    config.optim.batch_seconds = 2
    config.optim.max_steps = 2
    final = train(config)
    assert json.loads((final / "training.json").read_text())["steps"] == 2
    model, _ = load_model(final, device="cpu")
    assert all(bool(torch.isfinite(weight).all()) for weight in model.parameters())
