"""CPU milliseconds of one linear layer in bfloat16, in our int8 and in torchao's.

At the shape of TinyLlama's MLP, for one row (a decoding step), a few (a batch) and many (a
prompt), on one thread, in alternating order; the least of several rounds. `int8` in `speechmeta`
stays ours only as long as this says so. The last line is one JSON object.

    pip install torchao && python benchmarks/int8.py
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from importlib import metadata

import torch
from torch import nn

from speechmeta.models.speechllm.quantization import Int8Linear

WIDTH_IN, WIDTH_OUT = 2048, 5632
ROWS = (1, 8, 64)
ROUNDS, CALLS = 7, 5


def contenders() -> dict[str, nn.Module]:
    """The same layer three ways."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    torch.manual_seed(0)
    linear = nn.Linear(WIDTH_IN, WIDTH_OUT, bias=False, dtype=torch.bfloat16)
    theirs = nn.Sequential(copy.deepcopy(linear))
    quantize_(theirs, Int8WeightOnlyConfig())
    return {"bfloat16": linear, "ours": Int8Linear(linear), "torchao": theirs}


def milliseconds(call: Callable[[], object]) -> float:
    """CPU time of one call."""
    started = time.process_time()
    for _ in range(CALLS):
        call()
    return 1e3 * (time.process_time() - started) / CALLS


@torch.inference_mode()
def main() -> None:
    torch.set_num_threads(1)
    layers = contenders()
    table: dict[str, dict[str, float]] = {name: {} for name in layers}
    exact = {}
    for rows in ROWS:
        inputs = torch.randn(rows, WIDTH_IN, dtype=torch.bfloat16)
        best = dict.fromkeys(layers, float("inf"))
        for number in range(ROUNDS):
            for name in list(layers)[:: 1 if number % 2 else -1]:
                layer = layers[name]
                best[name] = min(best[name], milliseconds(lambda: layer(inputs)))  # noqa: B023
        for name, value in best.items():
            table[name][str(rows)] = round(value, 2)
    wanted = layers["bfloat16"](inputs).float()
    for name, layer in layers.items():
        exact[name] = round(float((layer(inputs).float() - wanted).norm() / wanted.norm()), 4)
    print(f"{'':<10}" + "".join(f"{rows:>8} rows" for rows in ROWS) + f"{'error':>10}")
    for name, row in table.items():
        print(f"{name:<10}" + "".join(f"{row[str(n)]:>13.2f}" for n in ROWS) + f"{exact[name]:>10}")
    print(
        json.dumps(
            {
                "benchmark": "int8",
                "shape": [WIDTH_IN, WIDTH_OUT],
                "cpu_ms": table,
                "relative_error": exact,
                "torch": torch.__version__,
                "torchao": metadata.version("torchao"),
            }
        )
    )


if __name__ == "__main__":
    main()
