"""Options that are stated once: flags, variables and config files are made from their fields."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from speechmeta.errors import UsageError
from speechmeta.pipeline.options import CallOptions, ModelOptions, TurnOptions
from speechmeta.settings import OptionError, Options, entries, gather, option


class Inner(Options):
    width: float = option(1.0, "How wide, in metres.", flag="inner-width", ge=0.0)


class Example(Options):
    """What a contributor would write."""

    names: tuple[str, ...] | None = option(None, "Some names.", unset="none")
    by_role: Mapping[str, tuple[str, ...]] | None = option(None, "Names by role.", unset="none")
    loud: bool = option(False, "Louder.")
    count: int = option(3, "How many.", ge=1)
    inner: Inner = Inner()


def config_of(folder: Path, text: str) -> Path:
    path = folder / "call.toml"
    path.write_text(text)
    return path


def test_a_field_is_all_there_is_to_write() -> None:
    listed = {entry.key: (entry.flag, entry.variable) for entry in entries(Example)}
    assert listed == {
        "names": ("--names", "SPEECHMETA_NAMES"),
        "by_role": ("--by-role", "SPEECHMETA_BY_ROLE"),
        "loud": ("--loud", "SPEECHMETA_LOUD"),
        "count": ("--count", "SPEECHMETA_COUNT"),
        "inner.width": ("--inner-width", "SPEECHMETA_INNER_WIDTH"),
    }


def test_flags_come_before_variables_and_these_before_the_file(tmp_path: Path) -> None:
    config = config_of(tmp_path, "count = 1\nloud = true\n[inner]\nwidth = 2\n")
    environment = {"SPEECHMETA_COUNT": "2", "SPEECHMETA_INNER_WIDTH": "3.5"}
    (made,) = gather([Example], {("count",): 5}, config, environment)
    assert made == Example(count=5, loud=True, inner=Inner(width=3.5))
    (made,) = gather([Example], {}, config, {"SPEECHMETA_COUNT": ""})
    assert made == Example(count=1, loud=True, inner=Inner(width=2.0))
    assert gather([Example]) == [Example()]


def test_text_holds_lists_and_tables_of_them() -> None:
    environment = {
        "SPEECHMETA_NAMES": "a, b",
        "SPEECHMETA_BY_ROLE": "agent=x;customer=x,y",
        "SPEECHMETA_LOUD": "true",
    }
    (made,) = gather([Example], environment=environment)
    assert made.names == ("a", "b")
    assert made.by_role == {"agent": ("x",), "customer": ("x", "y")}
    assert made.loud


def test_a_config_file_holds_tables(tmp_path: Path) -> None:
    config = config_of(tmp_path, 'names = ["a"]\n[by_role]\nagent = ["x", "y"]\n')
    (made,) = gather([Example], config=config)
    assert made == Example(names=("a",), by_role={"agent": ("x", "y")})


def test_one_file_serves_several_classes(tmp_path: Path) -> None:
    config = config_of(
        tmp_path,
        'model = "m"\nfields = ["gender"]\nroles = ["a", "b"]\n[turns]\nmax_turn_seconds = 8\n',
    )
    call, model = gather([CallOptions, ModelOptions], config=config)
    assert model == ModelOptions(model="m")
    assert call == CallOptions(
        fields=("Gender",), roles=("a", "b"), turns=TurnOptions(max_turn_seconds=8.0)
    )


@pytest.mark.parametrize(
    ("text", "wrong", "nearest"),
    [
        ("cuont = 1", "cuont", "count"),
        ("[inner]\nwitdh = 1", "inner.witdh", "inner.width"),
        ("inner-width = 1", "inner-width", "inner.width"),
        ("[innr]\nwidth = 1", "innr", "inner"),
    ],
)
def test_unknown_keys_are_errors_that_name_the_nearest(
    tmp_path: Path, text: str, wrong: str, nearest: str
) -> None:
    with pytest.raises(UsageError) as caught:
        gather([Example], config=config_of(tmp_path, text))
    assert repr(wrong) in caught.value.message
    assert repr(nearest) in caught.value.hint


def test_a_misspelt_variable_is_an_error_and_a_foreign_one_is_not() -> None:
    with pytest.raises(UsageError, match="SPEECHMETA_COUTN") as caught:
        gather([Example], environment={"SPEECHMETA_COUTN": "1"})
    assert "SPEECHMETA_COUNT" in caught.value.hint
    environment = {"SPEECHMETA_TRACEBACK": "1", "SPEECHMETA_CONFIG": "x", "COUTN": "1"}
    assert gather([Example], environment=environment) == [Example()]


@pytest.mark.parametrize(
    ("flags", "environment", "text", "source"),
    [
        ({("count",): 0}, {}, "", "--count"),
        ({}, {"SPEECHMETA_COUNT": "many"}, "", "SPEECHMETA_COUNT"),
        ({}, {}, "[inner]\nwidth = -1", "inner.width in "),
    ],
)
def test_errors_say_where_the_value_came_from(
    tmp_path: Path, flags: Any, environment: dict[str, str], text: str, source: str
) -> None:
    with pytest.raises(UsageError) as caught:
        gather([Example], flags, config_of(tmp_path, text), environment)
    assert caught.value.message.startswith(source)


@pytest.mark.parametrize("text", ["count =", "[inner\n"])
def test_a_file_that_is_not_toml_is_a_usage_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match="not valid TOML"):
        gather([Example], config=config_of(tmp_path, text))
    with pytest.raises(UsageError, match="cannot read"):
        gather([Example], config=tmp_path / "absent.toml")


def test_options_cannot_be_changed_but_for_a_copy() -> None:
    example = Example(count=4)
    with pytest.raises(Exception, match="frozen"):
        example.count = 5  # type: ignore[misc]
    assert example.updated({"loud": True}) == Example(count=4, loud=True)
    with pytest.raises(UsageError, match="count is 0"):
        example.updated({"count": 0})
    with pytest.raises(UsageError, match="no option 'cout'") as caught:
        example.updated({"cout": 1})
    assert "count" in caught.value.hint
    # Folder runs send them to other processes.
    assert pickle.loads(pickle.dumps(example)) == example
    error = pickle.loads(pickle.dumps(OptionError("m", "h", "count")))
    assert (error.message, error.hint) == ("m", "h")


@pytest.mark.parametrize("kind", [CallOptions, ModelOptions])
def test_every_option_is_documented(kind: type[Options]) -> None:
    for entry in entries(kind):
        assert entry.text.endswith("."), entry.key
        assert (entry.field.default is not None) or entry.unset, entry.key
        assert entry.panel, entry.key


def test_calls_and_models_share_a_file_because_no_name_is_in_both() -> None:
    both = [entry for kind in (CallOptions, ModelOptions) for entry in entries(kind)]
    for names in ([e.key for e in both], [e.flag for e in both], [e.variable for e in both]):
        assert len(names) == len(set(names))


def test_keyword_arguments_are_the_options() -> None:
    from typing import get_type_hints

    from speechmeta.pipeline.arguments import CallArguments, ModelArguments
    from speechmeta.pipeline.options import CallOptions, ModelOptions

    # Type checkers read the first, everything else the second.
    assert set(get_type_hints(CallArguments)) == set(CallOptions.model_fields)
    assert set(get_type_hints(ModelArguments)) == set(ModelOptions.model_fields)
