"""A checkpoint's chat template cannot hold a program up."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from speechmeta.errors import ModelError
from speechmeta.models import templates
from speechmeta.models.templates import apply_chat_template


class Tokenizer:
    """As transformers renders, with nothing else of a tokenizer."""

    def __init__(self, chat_template: str) -> None:
        self.chat_template = chat_template

    def apply_chat_template(self, messages: Any, **options: Any) -> str:
        template = ImmutableSandboxedEnvironment().from_string(self.chat_template)
        return template.render(messages=messages, **options)


LOOP = "{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3


def test_an_ordinary_template_is_rendered() -> None:
    plain = Tokenizer("{% for m in messages %}{{ m.content }}!{% endfor %}")
    assert apply_chat_template(plain, [{"content": "hi"}]) == "hi!"


@pytest.mark.parametrize("template", [LOOP, "{{ 9 ** 9 ** 9 }}", "a" * (1 << 19)])
def test_a_template_that_would_never_end_is_refused(
    template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(templates, "SECONDS", 0.5)
    with pytest.raises(ModelError, match="template"):
        apply_chat_template(Tokenizer(template), [])


def test_the_limit_holds_in_other_threads_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "SECONDS", 0.5)
    errors: list[BaseException] = []

    def render() -> None:
        try:
            apply_chat_template(Tokenizer(LOOP), [])
        except ModelError as error:
            errors.append(error)

    thread = threading.Thread(target=render)
    thread.start()
    thread.join()
    assert len(errors) == 1
