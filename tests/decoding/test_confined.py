"""Forms of users compile within limits of time, memory and nesting, or are refused."""

from __future__ import annotations

import contextlib
import json
import socket
from typing import Any

import pytest
from outlines_core import Index, Vocabulary

from speechmeta.decoding import confined as limits
from speechmeta.decoding.confined import check_size, confined
from speechmeta.errors import UsageError

pytestmark = pytest.mark.slow

LETTERS = {bytes([byte]): [byte] for byte in range(32, 127)}


@pytest.fixture
def vocabulary() -> Vocabulary:
    return Vocabulary(200, dict(LETTERS))


def test_a_form_compiles_in_the_child_as_it_would_here(vocabulary: Vocabulary) -> None:
    found = confined("compile_regex", "(yes|no)[0-9]{2}", vocabulary)
    assert found.get_transitions() == Index("(yes|no)[0-9]{2}", vocabulary).get_transitions()
    regex = confined("schema_regex", json.dumps({"type": "integer"}))
    assert confined("matches", regex, "42")
    assert not confined("matches", regex, "no")
    assert confined("fault", '{"minimum": 3}', "4") is None
    assert "minimum" in confined("fault", '{"minimum": 3}', "2")


def test_nothing_is_fetched_that_a_schema_names() -> None:
    called: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        schema = {"$ref": f"http://127.0.0.1:{server.getsockname()[1]}/schema.json"}
        with pytest.raises(UsageError, match="Unresolvable"):
            confined("fault", json.dumps(schema), "1")
        with contextlib.suppress(TimeoutError):
            called.append(server.accept()[0].fileno())
    assert not called


@pytest.mark.parametrize(
    ("task", "form"),
    [
        ("compile_regex", "((a{1,900}){1,900}){1,900}"),
        ("compile_regex", "[a-z]{1,60}" * 40 + "|" + "([ab]|a[^b]*){500}(a|b)*a.{30}"),
        ("matches", "(a+)+b"),
    ],
)
def test_a_form_that_asks_for_too_much_is_refused(
    task: str, form: str, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that the test need not wait for as long as a user may.
    monkeypatch.setattr(limits, "SECONDS", 2.0)
    monkeypatch.setattr(limits, "MEMORY_BYTES", 300 << 20)
    more: dict[str, tuple[Any, ...]] = {
        "compile_regex": (vocabulary,),
        "matches": ("a" * 40,),
    }
    with pytest.raises(UsageError, match=r"takes more than|cannot be compiled"):
        confined(task, form, *more.get(task, ()))


@pytest.mark.parametrize(
    ("task", "form", "message"),
    [
        ("schema_regex", '{"type": "no-such-type"}', "not a JSON Schema"),
        ("schema_regex", '{"$ref": "#/nowhere"}', "cannot be compiled"),
        ("compile_regex", "(", "not a regular expression"),
    ],
)
def test_a_wrong_form_is_the_users_error(
    task: str, form: str, message: str, vocabulary: Vocabulary
) -> None:
    more = (vocabulary,) if task == "compile_regex" else ()
    with pytest.raises(UsageError, match=message):
        confined(task, form, *more)


def test_deep_and_long_forms_are_refused_before_anything_reads_them() -> None:
    check_size(json.dumps({"properties": {"a": {"type": "object", "properties": {}}}}))
    for form in ('{"a":' * 100 + "1" + "}" * 100, "(" * 100 + ")" * 100, "a" * (2 << 20)):
        with pytest.raises(UsageError, match=r"levels deep|characters"):
            check_size(form)
