"""Scorers of instruction following, and a run over a small manifest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import RunCli
from desta_tiny import Shape, make_checkpoint

from speechmeta.decoding import confined
from speechmeta.errors import AudioError, DatasetError, UsageError
from speechmeta.eval.instruction import Item, prompt, read_choice, read_items, report, run_items
from speechmeta.eval.metrics.constraints import check_constraint

pytestmark = pytest.mark.slow

EMOTION = Item(1, "classification", "emotion", ("a.wav",), "How?", ("angry", "not angry"), "angry")
SAKURA = Item(2, "sakura", "gender", ("a.wav",), "Who?", ("Male", "Female"), "Female")


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("Angry.", "angry"),
        ("The speaker is not angry.", "not angry"),
        ("The speaker is angry!", "angry"),
        ("Angry or not angry, who knows", None),
        ("I hear a tangry voice", None),
        ("", None),
    ],
)
def test_a_choice_is_read_from_an_answer(text: str, choice: str | None) -> None:
    assert read_choice(EMOTION, text) == choice


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("(b)", "Female"),
        ("b", "Female"),
        ("B) because of the pitch", "Female"),
        ("(b) Female", "Female"),
        ("The voice is male.", "Male"),
        ("(a) or (b)", None),
        ("a voice", None),
        ("Male? no: Female", None),
    ],
)
def test_a_letter_is_read_from_an_answer(text: str, choice: str | None) -> None:
    assert read_choice(SAKURA, text) == choice


def test_prompts_name_the_choices() -> None:
    assert prompt(EMOTION) == "How? The answer could be angry, not angry."
    assert prompt(SAKURA) == "Who? (a) Male (b) Female"


@pytest.mark.parametrize(
    ("kind", "value", "good", "bad"),
    [
        ("json", None, '```json\n{"a": 1}\n```', "{a: 1}"),
        ("json", ["a"], '{"a": 1, "b": 2}', '{"b": 2}'),
        ("max_words", 2, "two words", "now three words"),
        ("min_words", 3, "it's three words", "two words"),
        ("sentences", 2, "One. Two!", "One."),
        ("max_sentences", 1, "One, two.", "One. Two."),
        ("bullets", 2, "- a\n* b", "- a"),
        ("paragraphs", 2, "a\n\nb", "a\nb"),
        ("contains", ["train"], "The Train.", "training"),
        ("excludes", "train", "training", "a train"),
        ("starts_with", "Well", "well then", "oh well"),
        ("ends_with", "Bye.", "good bye.", "bye now"),
        ("uppercase", None, "ÄB 1", "Ab"),
        ("lowercase", None, "äb", "12"),
        ("no_commas", None, "a b", "a, b"),
        ("quoted", None, '"a"', "a"),
        ("one_of", ["yes", "no"], "Yes.", "yes it is"),
        ("matches", r"\d+", "12", "a12"),
    ],
)
def test_each_constraint_tells_good_from_bad(kind: str, value: Any, good: str, bad: str) -> None:
    constraint = {"type": kind, "value": value}
    assert check_constraint(constraint, good)
    assert not check_constraint(constraint, bad)
    assert not check_constraint(constraint, "  ")


def test_a_pattern_that_would_go_on_for_ever_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confined, "SECONDS", 1.0)
    with pytest.raises(UsageError, match=r"the pattern .*takes more than"):
        check_constraint({"type": "matches", "value": "(a|a)*b"}, "a" * 60)
    with pytest.raises(UsageError, match="missing \\)"):
        check_constraint({"type": "matches", "value": "(a"}, "a")


def _manifest(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path = folder / "m.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


ROWS: list[dict[str, Any]] = [
    {"audio": "1.wav", "instruction": "Q1", "choices": ["x", "y"], "label": "x", "name": "t1"},
    {"audio": "2.wav", "instruction": "Q2", "choices": ["x", "y"], "label": "y", "name": "t2"},
    {"audio": "bad", "instruction": "Q3", "choices": ["x", "y"], "label": "x", "name": "t2"},
    {
        "task": "sakura",
        "pair": "p",
        "audio": "1.wav",
        "instruction": "S1",
        "choices": ["x", "y"],
        "label": "x",
    },
    {
        "task": "sakura",
        "pair": "p",
        "hop": "multi",
        "audio": "1.wav",
        "instruction": "S2",
        "choices": ["x", "y"],
        "label": "y",
    },
    {
        "audio": ["1.wav", "2.wav"],
        "instruction": "I1",
        "constraints": [{"type": "max_words", "value": 3}, {"type": "json"}],
    },
    {"audio": "1.wav", "instruction": "I2", "constraints": [{"type": "max_words", "value": 3}]},
]


class Parrot:
    """Says x, and fails where the audio is bad."""

    name = "parrot"

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def chat(self, messages: Sequence[Any], **options: Any) -> list[Any]:
        self.seen.append((messages, options))
        return [
            AudioError("bad") if "bad" in str(talk[0]["content"]) else SimpleNamespace(text="x")
            for talk in messages
        ]


def test_the_report_scores_every_item_once(tmp_path: Path) -> None:
    items = read_items(_manifest(tmp_path, ROWS))
    assert items[5].audios == (str(tmp_path / "1.wav"), str(tmp_path / "2.wav"))
    parrot = Parrot()
    answers = run_items(parrot, items, batch_size=2, max_new_tokens=5)
    assert [len(messages) for messages, _ in parrot.seen] == [2, 2, 2, 1]
    result = report(answers, system="parrot", text_if_rate=80.0)
    classes = result["measured"]["classification"]
    assert (classes["items"], classes["failed"], classes["correct"]) == (3, 1, 1)
    assert classes["accuracy"] == pytest.approx(1 / 3)
    assert classes["uar"] == pytest.approx(0.25)
    assert classes["confusion"] == {"x": {"x": 1, "(none)": 1}, "y": {"x": 1}}
    assert classes["by_name"]["t1"]["accuracy"] == 1
    sakura = result["measured"]["sakura"]
    assert (sakura["single"]["accuracy"], sakura["multi"]["accuracy"]) == (1, 0)
    assert sakura["multi_where_single_is_correct"] == {"items": 1, "accuracy": 0}
    ifeval = result["measured"]["ifeval"]
    assert (ifeval["if_rate"], ifeval["delta"]) == (50, -37.5)
    assert ifeval["constraint_rate"] == pytest.approx(200 / 3)
    published = result["published_not_measured_here"]
    assert "not measured here" in published["note"]
    assert {
        "system": "DeSTA2",
        "benchmark": "Speech-IFEval",
        "measure": "IF rate %",
        "value": 89.23,
    } in published["figures"]
    with pytest.raises(UsageError):
        report(answers, system="parrot", text_if_rate=0.0)


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"audio": "a", "instruction": "x"},
        {"audio": "a", "instruction": "x", "choices": ["a", "b"], "label": "c"},
        {"audio": "a", "instruction": "x", "choices": ["a", "A."], "label": "a"},
        {"audio": "a", "instruction": "x", "constraints": [{"type": "rhymes"}]},
        {"audio": "a", "instruction": "x", "constraints": [{"type": "max_words"}]},
        {"audio": "a", "instruction": "x", "task": "dance"},
        {
            "audio": "a",
            "instruction": "x",
            "task": "sakura",
            "choices": ["a", "b"],
            "label": "a",
            "hop": "triple",
        },
    ],
)
def test_a_broken_manifest_names_its_line(tmp_path: Path, row: dict[str, Any]) -> None:
    with pytest.raises(DatasetError, match="line 1"):
        read_items(_manifest(tmp_path, [row]))


@pytest.mark.parametrize("constrained", [False, True])
def test_the_command_writes_report_and_answers(
    run_cli: RunCli, tmp_path: Path, shared_dir: Path, constrained: bool
) -> None:
    folder = make_checkpoint(tmp_path / "model", Shape(seed=3))
    clip = str(shared_dir / "fixtures" / "desta2" / "clip.wav")
    rows = [{**row, "audio": clip} for row in ROWS]
    output, answers = tmp_path / "r.json", tmp_path / "a.jsonl"
    result = run_cli(
        "eval",
        "instruction",
        "--data",
        _manifest(tmp_path, rows),
        "--model",
        folder,
        "-o",
        output,
        "--answers",
        answers,
        "--max-new-tokens",
        "4",
        "--device",
        "cpu",
        "--local-files-only",
        *(["--constrained"] if constrained else []),
    )
    assert result.code == 0, result.stderr
    measured = json.loads(output.read_text())["measured"]
    assert measured["classification"]["items"] == 3
    assert len(answers.read_text().splitlines()) == 7
    if constrained:
        assert measured["classification"]["no_choice_read"] == 0
