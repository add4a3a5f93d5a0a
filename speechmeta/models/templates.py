"""Chat templates of checkpoints, which are programs: rendered within a limit of time.

transformers renders them in jinja's sandbox, from which they reach nothing; but a loop in one
may never end. Where it takes too long, the thread that renders is interrupted.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from speechmeta.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SECONDS = 10.0
LONGEST = 1 << 18
"""Characters of a template; published ones have up to some 20,000."""


class _TooLong(BaseException):
    """Raised inside the template; no template can catch it."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises `ModelError` in this thread when the block takes longer.

    Only Python code is interrupted, as between two steps of a template's loop.
    """
    thread = threading.get_ident()
    lock = threading.Lock()
    ended = False

    def interrupt() -> None:
        with lock:
            if not ended:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(thread), ctypes.py_object(_TooLong)
                )

    timer = threading.Timer(seconds, interrupt)
    timer.daemon = True
    timer.start()
    try:
        try:
            yield
        finally:
            with lock:
                ended = True
            timer.cancel()
    except _TooLong:
        raise ModelError(
            f"the checkpoint's chat template takes more than {seconds:g} s",
            "it may never end; take its tokenizer from where you trust",
        ) from None


def apply_chat_template(tokenizer: PreTrainedTokenizerBase, messages: Any, **options: Any) -> Any:
    """`tokenizer.apply_chat_template` that ends.

    Raises:
        ModelError: the template is too long, raises to a power (which cannot be interrupted),
            or takes more than `SECONDS`. jinja's own errors go through.
    """
    template = tokenizer.chat_template
    for text in template.values() if isinstance(template, dict) else (template,):
        _check(str(text))
    with time_limit(SECONDS):
        return tokenizer.apply_chat_template(messages, **options)


def chat_prompt(
    tokenizer: Any, conversations: list[list[dict[str, str]]], name: str, **options: Any
) -> Any:
    """Conversations in a tokenizer's template, ready to be answered.

    Where the template refuses the role system, its words go to the head of the first question.

    Args:
        name: of the model, for the error.
        options: of `tokenizer.apply_chat_template`.

    Raises:
        ModelError: the template refuses a user's question; and see `apply_chat_template`.
    """
    from jinja2.exceptions import TemplateError

    options = {"add_generation_prompt": True, "return_dict": True, **options}
    try:
        return apply_chat_template(tokenizer, conversations, **options)
    except TemplateError:
        # Gemma's template, for one.
        merged = [_without_system(messages) for messages in conversations]
    try:
        return apply_chat_template(tokenizer, merged, **options)
    except TemplateError as error:
        raise ModelError(
            f"the chat template of {name!r} refuses a user's question: {error}",
            "take an instruction-tuned model",
        ) from error


def _without_system(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """The same with the system's words at the head of the first question."""
    if len(messages) < 2 or messages[0]["role"] != "system":
        return messages
    first = {**messages[1], "content": f"{messages[0]['content']}\n\n{messages[1]['content']}"}
    return [first, *messages[2:]]


def _check(template: str) -> None:
    if len(template) > LONGEST:
        raise ModelError(
            f"the checkpoint's chat template has {len(template)} characters",
            f"{LONGEST} are the most; take its tokenizer from where you trust",
        )
    if "**" in template:
        raise ModelError(
            "the checkpoint's chat template calculates powers",
            "no published one does; take its tokenizer from where you trust",
        )


__all__ = ["SECONDS", "apply_chat_template", "chat_prompt", "time_limit"]
