"""Policies by role: what they come to, and that what they leave out is not computed."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audio_files import write_wav
from fakes import FakeEngine
from tiny import tiny_clips
from voices import Call, make_call
from whisper_meta_tiny import tiny_heads, tiny_whisper_meta

from speechmeta.batch.calls import CallJob, LoadedAnalyzer
from speechmeta.batch.job import SpilledTurn, SpillFile
from speechmeta.errors import UsageError
from speechmeta.models.whisper_meta.recognition import WhisperMetaRecognizer
from speechmeta.pipeline.analyzer import Analyzer
from speechmeta.pipeline.options import CallOptions
from speechmeta.pipeline.policy import decide
from speechmeta.schema import FIELDS, LABEL_FIELDS, CallReport
from speechmeta.settings import gather
from speechmeta.writers import WRITERS, get_writer
from speechmeta.writers.structured import document

pytestmark = pytest.mark.slow

RunCli = Callable[..., Any]
WORDS = ("SpeechActivity", "Transcript")
TRAITS = ("Gender", "Age", "Accent")
ROLES = ("agent", "customer")
BY_ROLE: dict[str, Any] = {"agent": ["Transcript"], "customer": "all"}


def fields_of(speakers: tuple[str, ...], **options: Any) -> dict[str, tuple[str, ...]]:
    asked = CallOptions(**options)
    decisions, _ = decide(speakers, asked.policy, asked.fields, asked.roles)
    return {name: item.fields for name, item in decisions.items()}


def warnings_of(speakers: tuple[str, ...], **options: Any) -> list[str]:
    asked = CallOptions(**options)
    return decide(speakers, asked.policy, asked.fields, asked.roles)[1]


def test_the_policies_by_name() -> None:
    roles = {"roles": ROLES}
    assert fields_of(ROLES, **roles) == {"agent": FIELDS, "customer": FIELDS}
    workplace = {**roles, "policy": "eu-workplace"}
    assert fields_of(ROLES, **workplace) == {"agent": WORDS, "customer": (*WORDS, "Emotion")}
    assert warnings_of(ROLES, **workplace) == []
    assert fields_of(ROLES, policy="transcript-only") == {"agent": WORDS, "customer": WORDS}
    # Traits on demand, for each party by itself; emotions of agents on no demand.
    on_demand = fields_of(ROLES, **workplace, fields={"agent": "Transcript,Age", "customer": "all"})
    assert on_demand == {"agent": ("Transcript", "Age"), "customer": FIELDS}
    assert fields_of(ROLES, **workplace, fields="all")["agent"] == (*WORDS, *TRAITS)
    everybody = fields_of(ROLES, **workplace, fields="Transcript,Emotion")
    assert everybody == {"agent": ("Transcript",), "customer": ("Transcript", "Emotion")}


@pytest.mark.parametrize("name", ["Agent", "agent 2", "EMPLOYEE", "adviser_1"])
def test_agents_go_by_several_names(name: str) -> None:
    assert "Emotion" not in fields_of((name,), policy="eu-workplace")[name]
    assert warnings_of((name,), policy="eu-workplace") == []


@pytest.mark.parametrize("name", ["speaker_0", "caller", "Kunde", "customers' agent", ""])
def test_where_a_role_is_not_known_the_strictest_rule_holds(name: str) -> None:
    decisions, warnings = decide((name, "customer"), "eu-workplace")
    assert decisions[name].fields == WORDS
    assert decisions[name].left_out["Emotion"] == "the role is not known"
    assert decisions["customer"].fields == (*WORDS, "Emotion")
    (warning,) = warnings
    assert f"cannot tell whether {name} is" in warning
    assert "--roles agent,customer" in warning


def test_rules_by_role_are_a_policy_too() -> None:
    assert fields_of(ROLES, roles=ROLES, fields=BY_ROLE) == {
        "agent": ("Transcript",),
        "customer": FIELDS,
    }
    # Without roles nobody knows who is who.
    unknown = ("speaker_0", "speaker_1")
    assert set(fields_of(unknown, fields=BY_ROLE).values()) == {("Transcript",)}
    (warning,) = warnings_of(unknown, fields=BY_ROLE)
    assert "speaker_0, speaker_1" in warning
    assert "--roles" in warning
    # Where all rules are one, it does not matter who is who.
    same = {"agent": "Transcript", "customer": "Transcript"}
    assert warnings_of(unknown, fields=same) == []
    # A star is a rule for the named ones that have none, and for no stranger.
    star = {"*": "all", "agent": "Transcript"}
    roles = ("agent", "customer", "friend")
    assert fields_of((*roles, "speaker_3"), roles=roles, fields=star) == {
        "agent": ("Transcript",),
        "customer": FIELDS,
        "friend": FIELDS,
        "speaker_3": ("Transcript",),
    }
    assert fields_of(ROLES, roles=ROLES, fields={"agent": "none", "customer": "all"}) == {
        "agent": (),
        "customer": FIELDS,
    }


def test_every_way_of_asking_is_one(tmp_path: Path) -> None:
    expected = {"agent": ("Transcript",), "customer": ("all",)}
    assert CallOptions(fields=BY_ROLE).fields == expected
    assert CallOptions(fields=["agent=Transcript", "customer=all"]).fields == expected
    assert CallOptions(fields="agent=transcript;customer=ALL").fields == expected
    config = tmp_path / "call.toml"
    config.write_text('[fields]\nagent = ["Transcript"]\ncustomer = "all"\n')
    assert gather([CallOptions], config=config)[0].fields == expected
    environment = {"SPEECHMETA_FIELDS": "agent=Transcript;customer=all"}
    assert gather([CallOptions], environment=environment)[0].fields == expected
    mixed: dict[tuple[str, ...], Any] = {("fields",): "all;agent=Transcript"}
    assert gather([CallOptions], mixed)[0].fields == {"*": ("all",), "agent": ("Transcript",)}
    plain = CallOptions(fields=["Emotion", "Transcript"]).fields
    assert plain == ("Transcript", "Emotion")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": "eu"}, "policy is 'eu'"),
        ({"fields": {"agent": "Mood"}}, "unknown field 'Mood'"),
        ({"fields": "none"}, "no field was asked for"),
        ({"fields": {}}, "no field was asked for"),
        ({"fields": {" ": "all"}}, "a role without a name"),
        ({"fields": ["agent=all", "Agent=Gender"]}, "'Agent' has two rules"),
        ({"fields": {"agent": "all,Gender"}}, "'all' stands among"),
        ({"fields": {"agnet": "all"}, "roles": ROLES}, "fields were asked for 'agnet', but"),
        ({"fields": "Gender", "policy": "transcript-only"}, "does not allow Gender"),
        ({"fields": {"agent": "Emotion"}, "policy": "eu-workplace"}, "Emotion for agent"),
        ({"fields": {"boss": "Emotion"}, "policy": "eu-workplace"}, "Emotion for boss"),
        ({"fields": {"a": "Gender"}, "word_times": True}, "without Transcript"),
    ],
)
def test_what_cannot_be_asked_is_said(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        CallOptions(**options)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def call() -> Call:
    return make_call(turns=4)


def asked_by_length(engine: FakeEngine) -> dict[int, set[str]]:
    """Length of a clip -> fields that the engine was asked for, over all passes."""
    found: dict[int, set[str]] = {}
    for lengths, fields, _ in engine.calls:
        for length in lengths:
            found.setdefault(length, set()).update(fields)
    return found


def analyzed(call: Call, **options: Any) -> tuple[CallReport, FakeEngine]:
    engine = FakeEngine()
    report = Analyzer.from_engine(engine).analyze_call((call.waveform, call.rate), **options)
    return report, engine


def test_a_field_that_is_left_out_is_never_asked_of_the_model(call: Call) -> None:
    report, engine = analyzed(call, roles=ROLES, policy="eu-workplace")
    assert {turn.speaker: turn.meta.fields for turn in report.turns} == {
        "agent": WORDS,
        "customer": (*WORDS, "Emotion"),
    }
    assert sorted(map(sorted, asked_by_length(engine).values())) == sorted(
        sorted(turn.meta.fields) for turn in report.turns
    )
    assert all(set(turn.confidence) <= set(turn.meta.fields) for turn in report.turns)
    agent, customer = report.speakers
    assert (agent.emotion, agent.emotion_by_quarter, agent.gender) == ({}, [], None)
    assert customer.emotion
    assert report.policy is not None
    assert report.policy.model_dump() == {
        "name": "eu-workplace",
        "speakers": [
            {
                "speaker": "agent",
                "fields": list(WORDS),
                "left_out": {
                    **dict.fromkeys(TRAITS, "only where it is asked for by name"),
                    "Emotion": "not allowed by the policy",
                },
            },
            {
                "speaker": "customer",
                "fields": [*WORDS, "Emotion"],
                "left_out": dict.fromkeys(TRAITS, "only where it is asked for by name"),
            },
        ],
    }


def test_a_clip_of_which_nothing_is_asked_never_reaches_the_model(call: Call) -> None:
    rules = {"agent": "none", "customer": "Transcript,Emotion"}
    report, engine = analyzed(call, roles=ROLES, fields=rules, redact=True)
    lengths = asked_by_length(engine)
    agents = [turn for turn in report.turns if turn.speaker == "agent"]
    customers = [turn for turn in report.turns if turn.speaker == "customer"]
    assert len(lengths) == len(customers) < len(report.turns)
    assert all(turn.meta.fields == () and not turn.confidence for turn in agents)
    # Who talks when is known all the same.
    assert report.speakers[0].talk_seconds > 1.0
    assert report.speakers[0].words_per_minute is None
    assert report.speakers[1].words_per_minute is not None
    assert CallReport.model_validate(json.loads(report.model_dump_json())).policy == report.policy


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_every_format_copes_with_fields_of_one_role_alone(
    call: Call, tmp_path: Path, name: str
) -> None:
    for rules in ({"agent": "Transcript", "customer": "all"}, {"agent": "none", "customer": "Age"}):
        report, _ = analyzed(call, roles=ROLES, fields=rules)
        path = tmp_path / f"{len(rules['agent'])}.{name}"
        get_writer(name).write(report, path)
        assert path.stat().st_size > 0
    if name == "txt":
        assert path.read_text().count("agent: (no transcript)\n") == 2
    if name == "html":
        page = path.read_text()
        assert "What was computed" in page
        assert "not asked for" in page


def test_one_shared_channel_says_that_turns_may_be_mistaken() -> None:
    parts = make_call(turns=6)
    mono = parts.waveform.sum(0)
    engine = FakeEngine()
    report = Analyzer.from_engine(engine).analyze_call(
        (mono, parts.rate), roles=ROLES, policy="eu-workplace"
    )
    assert {turn.speaker for turn in report.turns} == set(ROLES)
    assert any("share a channel" in warning for warning in report.warnings)
    unnamed = Analyzer.from_engine(engine).analyze_call(
        (mono, parts.rate), speakers=2, policy="eu-workplace"
    )
    assert not any("share a channel" in warning for warning in unnamed.warnings)
    assert all("Emotion" not in turn.meta.fields for turn in unnamed.turns)


class Counted:
    """Rows that went through each head, and through the decoder, of a tiny model."""

    def __init__(self, heads: bool = True) -> None:
        model, processor = tiny_whisper_meta(
            heads={"open": tiny_heads()} if heads else None,
            default_heads="open" if heads else None,
        )
        self.rows: Counter[str] = Counter()
        if model.label_heads is not None:
            for name, head in model.label_heads.linear.items():
                head.register_forward_hook(self._count(name))
        self.model = WhisperMetaRecognizer(model, processor, name="tiny")
        inner = self.model.transcripts.decode

        def decode(states: Any, *args: Any, **kwargs: Any) -> Any:
            found = inner(states, *args, **kwargs)
            self.rows["decoder"] += len(states)
            self.rows["tokens"] += sum(len(getattr(item, "token_ids", [])) for item in found)
            return found

        self.model.transcripts.decode = decode  # type: ignore[assignment,method-assign]

    def _count(self, name: str) -> Any:
        def hook(_: Any, given: tuple[Any, ...], __: Any) -> None:
            self.rows[name] += given[0].shape[0]

        return hook


def test_no_head_and_no_decoder_runs_for_what_is_left_out(call: Call) -> None:
    counted = Counted()
    analyzer = Analyzer.from_engine(counted.model)
    source = (call.waveform, call.rate)
    # A long turn is several clips to the tiny model, so clips are counted by asking for little.
    by_role = {}
    for role, other in (ROLES, ROLES[::-1]):
        counted.rows.clear()
        rules = {role: "SpeechActivity", other: "none"}
        analyzer.analyze_call(source, roles=ROLES, fields=rules)
        by_role[role] = counted.rows["SpeechActivity"]
    assert min(by_role.values()) > 0
    counted.rows.clear()
    analyzer.analyze_call(source, roles=ROLES, policy="eu-workplace")
    assert counted.rows["Emotion"] == by_role["customer"]
    assert not any(counted.rows[name] for name in TRAITS)
    counted.rows.clear()
    analyzer.analyze_call(source, roles=ROLES, fields={"agent": "Gender", "customer": "Transcript"})
    assert counted.rows["Gender"] == by_role["agent"]
    assert counted.rows["decoder"] <= by_role["customer"]
    assert not any(counted.rows[name] for name in ("Age", "Accent", "Emotion"))
    counted.rows.clear()
    analyzer.analyze_call(source, policy="transcript-only")
    assert not any(counted.rows[name] for name in LABEL_FIELDS)
    assert counted.rows["SpeechActivity"] == sum(by_role.values())


def test_the_same_in_a_folder_run(call: Call, tmp_path: Path) -> None:
    path = write_wav(tmp_path / "call.wav", call.waveform, call.rate)
    counted = Counted()
    analyzer = Analyzer.from_engine(counted.model)
    options = CallOptions(roles=ROLES, fields={"agent": "Transcript", "customer": "all"})
    job, model = CallJob(options), LoadedAnalyzer(analyzer, options).load()
    with SpillFile(str(tmp_path / "spill")) as spill:
        plan = job.prepare(str(path), spill, lambda _: None)
    waiting = [
        SpilledTurn(0, number, spill.path, sum(spill.lengths[:number]), length, asked)
        for number, (length, asked) in enumerate(zip(spill.lengths, spill.asked, strict=True))
    ]
    # Turns of many calls and roles come to the model in one batch.
    found = model.decode([turn.read() for turn in waiting], [turn.asked for turn in waiting])
    folder = {name: counted.rows[name] for name in ("Emotion", "Gender", "SpeechActivity")}
    counted.rows.clear()
    single = document(analyzer.analyze_call(path, options))
    assert folder == {name: counted.rows[name] for name in folder}
    assert 0 < folder["Emotion"] == folder["Gender"] < folder["SpeechActivity"]
    report = document(job.assemble(plan, found, model.facts))
    assert report["policy"] == single["policy"]
    assert [set(turn) for turn in report["turns"]] == [set(turn) for turn in single["turns"]]


def test_a_whisper_without_heads_writes_no_words_for_speech_activity_alone() -> None:
    counted = Counted(heads=False)
    (record, *_) = counted.model.decode(tiny_clips(2), ("SpeechActivity",))
    assert tuple(getattr(record, "values", ())) == ("SpeechActivity",)
    assert (counted.rows["decoder"], counted.rows["tokens"]) == (2, 0)
    counted.model.decode(tiny_clips(2), ("Transcript",))
    assert counted.rows["tokens"] > 0
    # The policy asks for what it may, and says what the model does not give.
    report = Analyzer.from_engine(counted.model).analyze_call(
        (np.concatenate(tiny_clips(2)), 16000), vad=False
    )
    assert report.policy is not None
    assert report.policy.speakers[0].left_out == dict.fromkeys(
        LABEL_FIELDS, "not given by the model"
    )
    with pytest.raises(UsageError, match="does not give Emotion"):
        Analyzer.from_engine(counted.model).analyze_call(
            (np.zeros(16000), 16000), fields={"customer": "Emotion"}
        )


@pytest.fixture
def fake_analyzer(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    import speechmeta.pipeline.analyzer as home

    engine = FakeEngine()
    monkeypatch.setattr(home, "Analyzer", lambda **_: Analyzer.from_engine(engine))
    return engine


def test_on_the_command_line(
    run_cli: RunCli, fake_analyzer: FakeEngine, call: Call, tmp_path: Path
) -> None:
    path = write_wav(tmp_path / "call.wav", call.waveform, call.rate)
    by_role = ["--fields", "agent=Transcript", "--fields", "customer=all"]
    result = run_cli("analyze", path, "--json", "--roles", "agent,customer", *by_role)
    assert result.code == 0, result.stderr
    found = json.loads(result.stdout)
    assert {turn["speaker"]: "Emotion" in turn for turn in found["turns"]} == {
        "agent": False,
        "customer": True,
    }
    assert found["policy"]["name"] == "all"
    table = run_cli("analyze", path, "--roles", "agent,customer", *by_role)
    assert re.search(r"customer.*\n?.*Happy 20%", table.stdout)
    assert not re.search(r"agent +\d+\.\d seconds *\n +Female", table.stdout)
    result = run_cli("analyze", path, "--json", "--policy", "eu-workplace")
    assert "name the roles in the order of the channels" in result.stderr
    for wrong in (
        ["--policy", "none"],
        ["--fields", "agent=Mood"],
        ["--fields", "agent=all", "--fields", "agent=Gender"],
        ["--roles", "agent,customer", "--fields", "agnet=all"],
        ["--policy", "eu-workplace", "--fields", "agent=Emotion"],
    ):
        result = run_cli("analyze", path, "--json", *wrong)
        assert (result.code, result.stdout, result.stderr.count("\n")) == (2, "", 1), wrong
