"""What to do when memory runs out: halve the batch, and blame one record alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from speechmeta.errors import DecodingError, SpeechMetaError

T = TypeVar("T")
R = TypeVar("R")


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on any device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "out of memory" in text or "can't allocate memory" in text
    )


def in_parts(
    rows: Sequence[T], work: Callable[[Sequence[T]], list[R | SpeechMetaError]]
) -> list[R | SpeechMetaError]:
    """Runs work on rows together, and in halves where that fails.

    Memory that runs out halves the rows; so does any other failure of a batch, until the row
    that causes it stands alone and gets an error object. The other rows keep their results.
    """
    try:
        return work(rows)
    except SpeechMetaError as error:
        failure: SpeechMetaError = error
    except (RuntimeError, ValueError, MemoryError) as error:
        if out_of_memory(error):
            failure = DecodingError(
                "memory ran out while one record was decoded",
                "cut long audio into turns, or choose a smaller dtype",
            )
        else:
            failure = DecodingError(f"decoding failed: {error}", "check the audio and the model")
    if len(rows) == 1:
        return [failure]
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    middle = len(rows) // 2
    return in_parts(rows[:middle], work) + in_parts(rows[middle:], work)
