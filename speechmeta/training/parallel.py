"""Several training processes that learn as one: the mean of their gradients after each batch.

On a CPU, where a step is many small operations, two processes of one thread each train faster than
one process of two threads. `Trainer`'s own data-parallel wrapper knows only
what passes through `forward`; the encoder alone and the heads that only train do not.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from multiprocessing import parent_process
from pathlib import Path

import torch
from torch import distributed, nn
from torch.multiprocessing.spawn import spawn


def rank() -> int:
    """This process's number, 0 where there is one process only."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world() -> int:
    """How many processes learn together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def run(function: Callable[..., None], arguments: Sequence[object], count: int, meet: Path) -> None:
    """Calls `function(*arguments)` in `count` processes that know each other, and waits for them.

    Args:
        function: importable by name; so are its arguments.
        meet: a file that does not exist yet, through which the processes find each other.
    """
    meet.parent.mkdir(parents=True, exist_ok=True)
    meet.unlink(missing_ok=True)
    threads = max(1, torch.get_num_threads() // count)
    try:
        spawn(
            _join,
            args=(count, str(meet.resolve()), threads, function, tuple(arguments)),
            nprocs=count,
        )
    finally:
        meet.unlink(missing_ok=True)


def _join(
    number: int,
    count: int,
    meet: str,
    threads: int,
    function: Callable[..., None],
    arguments: tuple[object, ...],
) -> None:
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    distributed.init_process_group("gloo", f"file://{meet}", rank=number, world_size=count)
    try:
        function(*arguments)
    finally:
        distributed.destroy_process_group()


def _leave_with_parent() -> None:
    """A parent that was killed cannot stop its processes, which would train on unseen."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def average_gradients(parameters: Sequence[nn.Parameter], value: float) -> float:
    """Replaces all gradients by their mean over the processes, and returns the mean of `value`.

    A parameter without a gradient in every process stays so; one that has a gradient in some of
    them counts as zero in the others.
    """
    if world() == 1:
        return value
    sizes = [parameter.numel() for parameter in parameters]
    buffer = torch.zeros(sum(sizes) + len(parameters) + 1)
    parts = buffer[: sum(sizes)].split(sizes)
    present = buffer[sum(sizes) : -1]
    for number, (parameter, part) in enumerate(zip(parameters, parts, strict=True)):
        if parameter.grad is not None:
            part.copy_(parameter.grad.flatten())
            present[number] = 1.0
    buffer[-1] = value
    distributed.all_reduce(buffer)
    buffer /= world()
    for number, (parameter, part) in enumerate(zip(parameters, parts, strict=True)):
        if present[number] > 0:
            if parameter.grad is None:
                parameter.grad = part.view_as(parameter).clone()
            else:
                parameter.grad.copy_(part.view_as(parameter))
    return float(buffer[-1])
