"""Alert rules: the language, what it refuses, and what rules find in a report."""

from __future__ import annotations

import contextlib
import json
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from audio_files import write_wav
from fakes import FakeEngine
from hypothesis import given
from hypothesis import strategies as st
from voices import make_call

from speechmeta.batch.summary import Summary
from speechmeta.errors import UsageError
from speechmeta.pipeline import alerts as alerts_module
from speechmeta.pipeline.alerts import find_alerts
from speechmeta.pipeline.analyzer import Analyzer
from speechmeta.pipeline.conversation import measure, summarize
from speechmeta.pipeline.options import CallOptions
from speechmeta.pipeline.rules import RuleSet
from speechmeta.schema import (
    Alert,
    AudioInfo,
    CallReport,
    Coverage,
    ModelInfo,
    SpeakerMeta,
    Turn,
    Word,
)
from speechmeta.server.parameters import call_options
from speechmeta.server.problems import Refused
from speechmeta.writers import WRITERS, get_writer
from speechmeta.writers.structured import document

RunCli = Callable[..., Any]
ROOT = Path(__file__).parents[2]
ROLES = ("agent", "customer")
PATTERNS_MANY = 12


def turn(start: float, end: float, speaker: str, text: str | None = None, **emotion: float) -> Turn:
    values: dict[str, Any] = {"SpeechActivity": True}
    if text is not None:
        values["Transcript"] = text
    if emotion:
        values["Emotion"] = max(emotion, key=emotion.__getitem__)
        values["probabilities"] = {"Emotion": emotion}
    meta = SpeakerMeta.model_validate(values)
    return Turn(start=start, end=end, channel=ROLES.index(speaker), speaker=speaker, meta=meta)


def report_of(turns: list[Turn], duration: float = 100.0) -> CallReport:
    return CallReport(
        audio=AudioInfo(path="call.wav", duration=duration, sample_rate=8000, channels=2),
        model=ModelInfo(name="fake", architecture="fake", device="cpu", dtype="float32"),
        turns=turns,
        speakers=[summarize(turns, duration, name, i) for i, name in enumerate(ROLES)],
        conversation=measure(turns, duration, ROLES),
        coverage=Coverage(speech_seconds=0, non_speech_seconds=0, skipped_seconds=0),
    )


CALL = report_of(
    [
        turn(2.0, 5.0, "agent", "Good morning! Thank you, for calling.", Neutral=0.9, Anger=0.1),
        turn(6.0, 8.0, "customer", "I want to cancel. I\u2019m ANGRY", Neutral=0.3, Anger=0.7),
        turn(9.0, 14.0, "customer", "now, cancel it.", Neutral=0.2, Anger=0.8),
        turn(13.0, 16.0, "agent", "Let me see, this call", Neutral=1.0),
        turn(17.5, 20.0, "agent", "is recorded", Neutral=1.0),
        turn(60.0, 62.0, "customer", "hello?", Neutral=0.45, Anger=0.55),
        turn(90.0, 98.0, "agent", "Is there anything else? Goodbye", Neutral=1.0),
    ]
)


def found(rule: dict[str, Any], report: CallReport = CALL) -> list[Alert]:
    alerts, notes = find_alerts(report, RuleSet.of({"rule": [{"name": "r", **rule}]}))
    assert notes == []
    assert all(alert.rule == "r" and alert.when == rule["when"] for alert in alerts)
    return alerts


def places(rule: dict[str, Any]) -> list[tuple[float, float, int | None]]:
    return [(alert.start, alert.end, alert.turn) for alert in found(rule)]


def test_what_is_said() -> None:
    greeting = {"when": "said", "role": "agent", "phrases": ["thank you for calling"]}
    (alert,) = found(greeting)
    assert (alert.start, alert.end, alert.turn, alert.speaker) == (2.0, 5.0, 0, "agent")
    assert alert.text == "Thank you, for calling"
    assert found({**greeting, "role": "customer"}) == []
    assert found({**greeting, "phrases": "you for"})[0].text == "you, for"
    # Whole words, in any case, with any apostrophe.
    assert found({"when": "said", "phrases": "morn"}) == []
    assert [a.text for a in found({"when": "said", "phrases": "i'm angry"})] == ["I\u2019m ANGRY"]
    # One alert a turn, also where it is said twice.
    assert places({"when": "said", "role": "Customer", "pattern": r"\bcancel(l?ing)?\b"}) == [
        (6.0, 8.0, 1), (9.0, 14.0, 2),
    ]  # fmt: skip
    # A phrase goes on in the next turn after a short pause, and not over a long one.
    assert found({"when": "said", "phrases": "this call is recorded"})[0].turn == 3
    assert found({"when": "said", "phrases": "it hello"}) == []
    assert places({"when": "said", "pattern": "x*"}) == []


def test_windows() -> None:
    cancel: dict[str, Any] = {"when": "said", "pattern": "cancel"}
    assert [p[2] for p in places({**cancel, "before": 9})] == [1]
    assert [p[2] for p in places({**cancel, "after": 9})] == [2]
    assert places({**cancel, "after": -30}) == []
    assert [p[2] for p in places({"when": "said", "phrases": "goodbye", "after": -30})] == [6]
    assert places({**cancel, "after": 200}) == []
    timed = turn(0.0, 10.0, "agent", "yes and yes")
    timed.words = [
        Word(word=word, start=at, end=at + 1, probability=1.0)
        for word, at in (("yes", 1.0), ("and", 5.0), ("yes", 8.0))
    ]
    report = report_of([timed])
    (alert,) = found({"when": "said", "phrases": "yes", "after": 4}, report)
    assert (alert.start, alert.end) == (8.0, 9.0)


def test_what_is_not_said() -> None:
    notice = {"when": "not_said", "role": "agent", "phrases": "recorded", "before": 15}
    (alert,) = found(notice)
    assert (alert.start, alert.end, alert.turn, alert.speaker) == (0.0, 15.0, None, "agent")
    assert found({**notice, "before": 30}) == []
    assert found({**notice, "role": "customer", "before": 30})
    assert found({"when": "not_said", "phrases": ["goodbye", "bye"], "after": -20}) == []
    # A call of five seconds has no sixth minute.
    assert found({**notice, "after": 300, "before": 400}) == []


def test_silence() -> None:
    assert places({"when": "silence", "over": 30}) == [(20.0, 60.0, 5)]
    assert places({"when": "silence", "over": 25}) == [(20.0, 60.0, 5), (62.0, 90.0, 6)]
    assert places({"when": "silence", "over": 1.9, "before": 5}) == [(0.0, 2.0, 0)]
    assert places({"when": "silence", "over": 1.9, "after": 97}) == [(98.0, 100.0, None)]
    assert found({"when": "silence", "over": 30})[0].value == 40.0
    assert len(found({"when": "silence", "over": 50}, report_of([]))) == 1


def test_interruptions() -> None:
    (alert,) = found({"when": "interruptions", "role": "agent"})
    assert (alert.start, alert.turn, alert.speaker, alert.value) == (13.0, 3, "agent", 1.0)
    assert found({"when": "interruptions", "role": "agent", "over": 1}) == []
    assert found({"when": "interruptions", "role": "customer"}) == []


def test_emotions() -> None:
    angry = {"when": "emotion", "role": "customer", "emotion": "Anger", "probability": 0.6}
    (alert,) = found({**angry, "over": 6})
    assert (alert.start, alert.end, alert.turn, alert.text) == (6.0, 14.0, 1, "Anger")
    assert alert.value == pytest.approx((2 * 0.7 + 5 * 0.8) / 7, abs=1e-4)
    # Seven seconds of talk are not more than seven.
    assert found({**angry, "over": 7}) == []
    assert len(found({**angry, "probability": 0.5, "over": 8})) == 1
    assert found({**angry, "role": "agent"}) == []


def test_shares_of_talk() -> None:
    (alert,) = found({"when": "talk_share", "role": "agent", "over": 0.6})
    assert alert.value == pytest.approx(16.5 / 25.5, abs=1e-4)
    assert (alert.start, alert.end, alert.turn) == (0.0, 100.0, None)
    assert found({"when": "talk_share", "role": "agent", "over": 0.7}) == []
    (alert,) = found({"when": "talk_share", "under": 0.4})
    assert alert.speaker == "customer"
    # Within a window only the talk in it counts.
    (alert,) = found({"when": "talk_share", "over": 0.9, "after": 70})
    assert (alert.speaker, alert.value) == ("agent", 1.0)


def test_a_rule_that_cannot_be_judged_says_so_and_raises_no_alert() -> None:
    silent = report_of([turn(0.0, 5.0, "agent"), turn(6.0, 9.0, "customer", "hello")])
    rules = RuleSet.of(
        {
            "rule": [
                {"name": "a", "when": "not_said", "role": "agent", "phrases": "hello"},
                {"name": "b", "when": "not_said", "phrases": "goodbye"},
                {"name": "c", "when": "said", "phrases": "hello"},
                {"name": "d", "when": "emotion", "emotion": "Anger"},
                {"name": "e", "when": "talk_share", "role": "boss", "over": 0.1},
            ]
        }
    )
    alerts, notes = find_alerts(silent, rules)
    assert [(alert.rule, alert.turn) for alert in alerts] == [("c", 1)]
    assert notes == [
        "the rule 'a' was not judged: there is no Transcript of agent",
        "the rule 'b' was not judged: there is no Transcript of agent",
        "the rule 'd' was not judged: there is no Emotion of agent, customer",
        "the rule 'e' was not judged: no speaker is called 'boss'; --roles names them",
    ]
    # Where one turn's words failed, what was said in others is found all the same.
    failed = report_of([turn(0.0, 5.0, "agent"), turn(6.0, 9.0, "agent", "hello")])
    said = {"name": "a", "when": "said", "role": "agent", "phrases": "hello"}
    alerts, notes = find_alerts(
        failed, RuleSet.of({"rule": [said, {**said, "name": "b", "when": "not_said"}]})
    )
    assert [alert.rule for alert in alerts] == ["a"]
    assert len(notes) == 1


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"(?:a|aa)+$", "a" * 200 + "b"),
        (r"(x+x+)+y", "x" * 5000),
        (r"(?e)(?:foobarbazqux){e<=8}", "lorem ipsum " * 4000),
    ],
)
def test_no_pattern_hangs(monkeypatch: pytest.MonkeyPatch, pattern: str, text: str) -> None:
    monkeypatch.setattr(alerts_module, "PATTERN_SECONDS", 0.2)
    turns = [turn(float(n), n + 0.5, "agent", text) for n in range(20)]
    rule = {"name": "evil", "when": "said", "pattern": pattern}
    good = {"name": "good", "when": "talk_share", "over": 0.5}
    begun = time.process_time()
    alerts, notes = find_alerts(report_of(turns), RuleSet.of({"rule": [rule, good]}))
    assert time.process_time() - begun < 2.0
    assert len(notes) == 1
    assert "'evil' was given up" in notes[0]
    assert {alert.rule for alert in alerts} == {"good"}


def test_many_evil_patterns_do_not_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts_module, "PATTERN_SECONDS", 0.1)
    monkeypatch.setattr(alerts_module, "PATTERNS_SECONDS", 0.3)
    evil = [
        {"name": f"{n}", "when": "said", "pattern": f"(x+x+)+y{n}"} for n in range(PATTERNS_MANY)
    ]
    begun = time.process_time()
    _, notes = find_alerts(
        report_of([turn(0.0, 1.0, "agent", "x" * 5000)]), RuleSet.of({"rule": evil})
    )
    assert time.process_time() - begun < 1.0
    assert len(notes) == PATTERNS_MANY


def test_a_client_of_the_server_names_no_file(tmp_path: Path) -> None:
    rules = {"rule": [{"name": "r", "when": "silence", "over": 3}]}
    path = tmp_path / "rules.toml"
    path.write_text(rule_text(**rules["rule"][0]))
    expected = CallOptions(rules=rules)
    for sent in ({"rules": json.dumps(rules)}, {"rules": rules}, {"options": {"rules": rules}}):
        assert call_options(CallOptions(), sent) == expected
    assert call_options(expected, {"rules": ""}).rules is None
    for named in (str(path), f'"{path}"', "3", "[" * 5000):
        for refused in ({"rules": named}, {"options": {"rules": named}}):
            with pytest.raises(Refused, match="reads no file for a client"):
                call_options(CallOptions(), refused)


def rule_text(**keys: Any) -> str:
    lines = [f"{name} = {json.dumps(value)}" for name, value in keys.items()]
    return "\n".join(["[[rule]]", *lines])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no rule"),
        ("rule = 3", "has no rule"),
        ("rule = []", "has no rule"),
        ("rule = [3]", "rule 1 is no table"),
        ("[[rules]]", "unknown key 'rules' .allowed is rule"),
        ("[[rule]", "is not valid TOML"),
        ("a = " + "[" * 5000, "TOML|nested"),
        (rule_text(name="n"), "rule 1 .n. has no key 'when' .choose from said, not_said"),
        (rule_text(name="n", when="sayd"), "when = 'sayd' .choose from said"),
        (rule_text(name="n", when=["said"]), "when = "),
        (
            rule_text(name="n", when="said", phrase="x"),
            "rule 1 .n.: unknown key 'phrase' .did you mean 'phrases'. allowed with said are name,",
        ),
        (rule_text(name="n", when="said", over=3), "unknown key 'over'"),
        (rule_text(when="silence", over=3), "has no key 'name'"),
        (rule_text(name="n", when="silence"), "has no key 'over'"),
        (rule_text(name="n", when="silence", over=-1), "over is -1"),
        (rule_text(name="n", when="silence", over="3"), "over is '3'"),
        (rule_text(name="n", when="silence", over=True), "over is True"),
        ('[[rule]]\nname = "n"\nwhen = "silence"\nover = nan', "over is nan"),
        (rule_text(name="n", when="said"), "neither phrases nor pattern"),
        (rule_text(name="n", when="said", phrases=["ok", "?!"]), "'\\?!' has no word"),
        (rule_text(name="n", when="said", pattern="("), "no regular expression"),
        (rule_text(name="n", when="said", pattern="(" * 900), "no regular expression"),
        (rule_text(name="n", when="said", pattern="x" * 1001), "pattern is 'xxx"),
        (rule_text(name="n", when="said", phrases="x", after=9, before=9), "nothing lies"),
        (rule_text(name="n", when="said", phrases="x", after=-9, before=-10), "nothing lies"),
        (rule_text(name="n", when="talk_share"), "neither over nor under"),
        (rule_text(name="n", when="talk_share", over=1.5), "over is 1.5"),
        (rule_text(name="n", when="emotion", emotion="Anger", probability=2), "probability is 2"),
        (rule_text(name="n", when="interruptions", over=1.5), "over is 1.5"),
        (
            "\n".join(rule_text(name=name, when="silence", over=1) for name in "Nn"),
            "rules 1 and 2 have the name 'n'",
        ),
    ],
)  # fmt: skip
def test_a_wrong_file_is_one_line_that_names_the_key(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        CallOptions(rules=path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.toml"):
        with pytest.raises(UsageError, match="cannot read the rules"):
            CallOptions(rules=path)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not valid TOML"):
        CallOptions(rules=tmp_path / "binary.toml")
    with pytest.raises(UsageError, match="rules are int"):
        CallOptions(rules=3)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["name", "when", "over", "phrases", "pattern", "role", "x"]), inner
            )
        ),
        max_leaves=8,
    ),
    st.sampled_from(["said", "not_said", "silence", "emotion", "talk_share", "interruptions"]),
)
def test_any_data_is_rules_or_a_usage_error(data: Any, when: str) -> None:
    rules = [data, {"name": "n", "when": when, "over": data, "phrases": data, "role": data}]
    for rule in rules:
        with contextlib.suppress(UsageError):
            RuleSet.of({"rule": [rule]})


@pytest.mark.parametrize(
    ("rule", "options", "message"),
    [
        ({"role": "agnet"}, {"roles": ROLES}, "'r' is for 'agnet', but the roles are agent"),
        ({}, {"fields": "Emotion"}, "'r' needs Transcript: it is left out for everybody"),
        ({"role": "agent"}, {"fields": {"agent": "Age", "customer": "all"}, "roles": ROLES},
         "'r' needs Transcript of agent: not asked for"),
        ({"when": "emotion", "emotion": "Anger", "role": "agent"},
         {"policy": "eu-workplace", "roles": ROLES},
         "'r' needs Emotion of agent: not allowed by the policy"),
    ],
)  # fmt: skip
def test_rules_fit_the_other_options(
    rule: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    words = {"when": "said", "phrases": "x"} if "when" not in rule else {}
    with pytest.raises(UsageError, match=message):
        CallOptions(rules={"rule": [{"name": "r", **words, **rule}]}, **options)


def test_rules_travel_with_the_options(tmp_path: Path) -> None:
    rules = {"rule": [{"name": "r", "when": "said", "phrases": "x"}]}
    options = CallOptions(rules=rules)
    assert pickle.loads(pickle.dumps(options)) == options
    kept = options.model_dump(mode="json")["rules"]["rule"][0]
    assert (kept["name"], kept["when"], kept["phrases"]) == ("r", "said", ["x"])
    assert options.updated({"redact": True}).rules == options.rules
    config = tmp_path / "call.toml"
    config.write_text('[[rules.rule]]\nname = "r"\nwhen = "said"\nphrases = "x"\n')
    from speechmeta.settings import gather

    assert gather([CallOptions], config=config)[0].rules == options.rules


def test_the_example_and_the_page() -> None:
    rules = RuleSet.load(ROOT / "examples" / "rules.toml")
    page = (ROOT / "docs" / "rules.md").read_text(encoding="utf-8")
    for rule in rules.rule:
        assert f"`{rule.when}`" in page
        for key in type(rule).model_fields:
            assert f"`{key}`" in page
    assert {rule.when for rule in rules.rule} == {
        "said", "not_said", "silence", "interruptions", "emotion", "talk_share",
    }  # fmt: skip


@pytest.fixture
def fake_analyzer(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    import speechmeta.pipeline.analyzer as home

    engine = FakeEngine()
    monkeypatch.setattr(home, "Analyzer", lambda **_: Analyzer.from_engine(engine))
    return engine


def test_on_the_command_line(run_cli: RunCli, fake_analyzer: FakeEngine, tmp_path: Path) -> None:
    call = make_call(turns=4)
    path = write_wav(tmp_path / "call.wav", call.waveform, call.rate)
    rules = tmp_path / "rules.toml"
    rules.write_text(
        rule_text(name="counts", when="said", role="agent", phrases=["seconds"])
        + "\n"
        + rule_text(name="never", when="not_said", phrases=["good <b>morning</b>"])
    )
    result = run_cli("analyze", path, "--json", "--roles", "agent,customer", "--rules", rules)
    assert result.code == 0, result.stderr
    found = json.loads(result.stdout)
    turns = [n for n, turn in enumerate(found["turns"]) if turn["speaker"] == "agent"]
    said = [alert for alert in found["alerts"] if alert["rule"] == "counts"]
    assert [alert["turn"] for alert in said] == turns
    end = round(found["audio"]["duration"], 3)
    never = {"rule": "never", "when": "not_said", "start": 0.0, "end": end}
    assert found["alerts"][0] == never
    table = run_cli("analyze", path, "--roles", "agent,customer", "--rules", rules)
    assert "alerts" in table.stdout
    assert "never" in table.stdout
    out = tmp_path / "out"
    code = run_cli(
        "analyze", path, "--roles", "agent,customer", "--rules", rules, "-o", out, "-f", "html,csv"
    ).code
    assert code == 0
    page = (out / "call.html").read_text()
    assert "Alerts" in page
    assert f'href="#row-{turns[0]}"' in page
    rows = (out / "call.csv").read_text().splitlines()
    assert rows[0].split(",").count("alerts") == 1
    assert sum("counts" in row for row in rows) == len(turns)
    # What the model cannot know is said before the first file.
    fake_analyzer.fields = ("SpeechActivity", "Transcript")  # type: ignore[assignment]
    rules.write_text(rule_text(name="n", when="emotion", emotion="Anger"))
    result = run_cli("analyze", path, "--rules", rules)
    assert (result.code, result.stderr.count("\n")) == (2, 1)
    assert "needs Emotion, which the model fake does not give" in result.stderr


def test_an_emotion_that_the_model_does_not_know() -> None:
    options = CallOptions(rules={"rule": [{"name": "r", "when": "emotion", "emotion": "Rage"}]})
    with pytest.raises(UsageError, match=r"'Rage' .choose from Happy, Sad"):
        Analyzer.from_engine(FakeEngine()).asked_fields(options)


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_every_format_writes_a_report_with_alerts(tmp_path: Path, name: str) -> None:
    alerts, _ = find_alerts(
        CALL,
        RuleSet.of(
            {
                "rule": [
                    {"name": "=evil()", "when": "said", "pattern": "cancel"},
                    {"name": "dead air", "when": "silence", "over": 20},
                    {"name": "share", "when": "talk_share", "role": "agent", "over": 0.1},
                ]
            }
        ),
    )
    report = CALL.model_copy(update={"alerts": alerts})
    get_writer(name).write(report, tmp_path / f"call.{name}")
    assert CallReport.model_validate(document(report)).alerts == alerts


def test_a_folder_is_summed_up() -> None:
    summary = Summary()
    summary.expect(["dead air", "never"])
    alerts, _ = find_alerts(
        CALL, RuleSet.of({"rule": [{"name": "dead air", "when": "silence", "over": 20}]})
    )
    for _ in range(2):
        summary.add(document(CALL.model_copy(update={"alerts": alerts})))
    summary.add(document(CALL.model_copy(update={"alerts": []})))
    assert summary.as_json()["alerts"] == {
        "dead air": {"calls": 2, "alerts": 4},
        "never": {"calls": 0, "alerts": 0},
    }
