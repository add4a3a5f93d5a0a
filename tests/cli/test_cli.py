"""The command line, with a decoder without weights: what goes where, and exit codes."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import wave
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from audio_files import Sine, write_wav
from conftest import RunCli
from fakes import FakeEngine

import speechmeta
from speechmeta.schema import FIELDS, CallReport

USAGE = 2


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Every Analyzer that the command makes decodes with a FakeEngine; its options are kept."""
    import speechmeta.pipeline.analyzer as home

    original = home.Analyzer
    options: list[dict[str, Any]] = []

    def make(model: str | None = None, **rest: Any) -> Any:
        options.append({"model": model, **rest})
        return original.from_engine(FakeEngine())

    monkeypatch.setattr(home, "Analyzer", make)
    return options


@pytest.fixture
def call(tmp_path: Path, sine: Sine) -> Path:
    return write_wav(tmp_path / "call.wav", sine(2, 8000), 8000)


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.mark.slow
def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from speechmeta.cli import main; status = main(['--help']); "
        "heavy = {'torch', 'transformers', 'torchaudio', 'sklearn', 'av', 'numpy'}; "
        "print(status, sorted(heavy & set(sys.modules)))"
    )
    done = python("-c", code)
    assert done.stdout.splitlines()[-1] == "0 []"
    assert "analyze" in done.stdout


def test_package_import_is_light() -> None:
    code = "import sys, speechmeta; print([m for m in ('torch', 'pydantic') if m in sys.modules])"
    assert python("-c", code).stdout == "[]\n"


@pytest.mark.slow
def test_every_public_name_is_there() -> None:
    assert len(speechmeta.__all__) <= 10
    for name in speechmeta.__all__:
        assert getattr(speechmeta, name) is not None
    with pytest.raises(AttributeError):
        speechmeta.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_the_version_is_printed_alone(run_cli: RunCli) -> None:
    result = run_cli("--version")
    assert (result.code, result.stdout) == (0, f"speechmeta {speechmeta.__version__}\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["analyse", "a.wav"],
        ["analyze"],
        ["analyze", "a.wav", "--loud"],
        ["analyze", "a.wav", "--fields", "Mood"],
        ["analyze", "a.wav", "--fields", ","],
        ["analyze", "a.wav", "--device", "tpu"],
        ["analyze", "a.wav", "--compute-type", "float12"],
        ["analyze", "a.wav", "--channels", "both"],
        ["analyze", "a.wav", "--min-confidence", "1.5"],
        ["analyze", "a.wav", "--batch-size", "0"],
        ["analyze", "a.wav", "--roles", "agent,,customer"],
        ["analyze", "a.wav", "--roles", "agent,agent"],
        ["analyze", "a.wav", "--fields", "Gender", "--word-times"],
        ["analyze", "a.wav", "-f", "json"],
        ["analyze", "a.wav", "--overwrite"],
        ["analyze", "a.wav", "-o", "out", "-f", "docx"],
        ["analyze", "x/a.wav", "y/a.mp3", "-o", "out"],
        ["schema", "poem"],
    ],
)
def test_usage_errors_are_one_line(
    run_cli: RunCli, made: list[Any], tmp_path: Path, monkeypatch: Any, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run_cli(*arguments)
    assert result.code == USAGE
    assert result.stdout == ""
    assert result.stderr.startswith("speechmeta: ")
    assert result.stderr.count("\n") == 1
    assert made == [], "no model is loaded for nothing"


def test_no_command_shows_the_help(run_cli: RunCli) -> None:
    result = run_cli()
    assert result.code == USAGE
    assert "Usage" in result.stdout


def test_names_that_are_not_utf8(
    run_cli: RunCli, made: list[Any], call: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "speechmeta")
    odd = os.fsdecode(os.fsencode(call.parent) + b"/caf\xe9.wav")
    try:
        os.link(call, odd)
    except OSError:
        pytest.skip("this file system takes no such names")
    broken = os.fsdecode(os.fsencode(call.parent) + b"/\xe9.wav")
    Path(broken).write_bytes(b"")
    shown = [str(call.parent / "caf\\xe9.wav"), str(call.parent / "\\xe9.wav")]
    result = run_cli("analyze", odd, broken, "--json")
    assert result.code == 1
    assert f"{shown[0]}: " in caplog.text
    documents = [json.loads(line) for line in result.stdout.splitlines()]
    assert [item["audio"]["path"] for item in documents] == shown
    assert documents[1]["error"]["type"] == "AudioError"
    assert shown[0] in run_cli("analyze", odd).stdout.replace("\n", "")
    out = call.parent / "out"
    formats = "json,jsonl,csv,tsv,srt,vtt,txt,parquet,html"
    result = run_cli("analyze", odd, "-o", out, "-f", formats, "--no-vad")
    assert result.code == 0, result.stderr
    assert len(os.listdir(out)) == 9
    page = next(out.glob("*.html")).read_text()
    assert 'class="wave"' in page
    assert "caf\\xe9.wav" in page


def test_a_name_with_a_line_feed_stays_on_its_line(
    run_cli: RunCli, made: list[Any], call: Path
) -> None:
    odd = call.parent / "new\nline\t.wav"
    try:
        os.link(call, odd)
    except OSError:
        pytest.skip("this file system takes no such names")
    result = run_cli("analyze", odd, "-o", call.parent / "out", "-f", "json", "--no-vad")
    assert result.code == 0
    [line] = [line for line in result.stderr.splitlines() if "wrote" in line]
    assert line.endswith("new\\nline\\t.json")


def test_outputs_that_are_there_are_found_before_the_analysis(
    run_cli: RunCli, made: list[Any], call: Path
) -> None:
    out = call.parent / "out"
    assert run_cli("analyze", call, "-o", out, "-f", "json,srt,json").code == 0
    made.clear()
    result = run_cli("analyze", call, "-o", out, "-f", "txt,srt")
    assert (result.code, result.stderr) == (
        1, f"speechmeta: {out / 'call.srt'} exists; add --overwrite, or choose another folder\n"
    )  # fmt: skip
    assert made == []
    assert not (out / "call.txt").exists()
    assert run_cli("analyze", call, "-o", out, "-f", "txt,srt", "--overwrite").code == 0


def test_json_of_one_file(run_cli: RunCli, made: list[Any], call: Path) -> None:
    result = run_cli("analyze", call, "--json")
    assert (result.code, result.stderr) == (0, "")
    document = json.loads(result.stdout)
    assert document["audio"]["path"] == str(call)
    assert document["schema_version"] == "1.1"
    jsonschema.validate(document, CallReport.model_json_schema())


def test_json_lines_of_several_files(
    run_cli: RunCli, made: list[Any], call: Path, tmp_path: Path
) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("hello\n" * 100)
    absent = tmp_path / "absent.wav"
    result = run_cli("analyze", call, text, absent, call, "--json")
    assert result.code == 1
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record["audio"]["path"] for record in records] == list(
        map(str, [call, text, absent, call])
    )
    assert records[0] == records[3]
    assert records[1]["error"]["type"] == "AudioError"
    assert "text file" in records[1]["error"]["message"]
    assert records[1]["error"]["hint"]
    assert "does not exist" in records[2]["error"]["message"]
    assert result.stderr.count("\n") == 2
    assert len(made) == 1, "one model for all files"


def test_one_bad_file(run_cli: RunCli, made: list[Any], tmp_path: Path) -> None:
    result = run_cli("analyze", tmp_path / "absent.wav", "--json")
    assert (result.code, result.stdout) == (1, "")
    assert "does not exist" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not made, "nobody waits for a model to learn that a name is misspelt"


def test_unforeseen_errors_end_one_file_only(
    run_cli: RunCli, made: list[Any], call: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def fail_once(self: FakeEngine, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("boom\nat home")
        return original(self, *args, **kwargs)

    original = FakeEngine.decode
    monkeypatch.setattr(FakeEngine, "decode", fail_once)
    result = run_cli("analyze", call, call, "--json", "--no-vad")
    assert result.code == 1
    first, second = map(json.loads, result.stdout.splitlines())
    assert "RuntimeError: boom at home" in first["error"]["message"]
    assert second["turns"]
    assert result.stderr.count("\n") == 1


def test_the_table_shows_the_fields_that_were_asked_for(
    run_cli: RunCli, made: list[Any], call: Path
) -> None:
    result = run_cli("analyze", call, "--no-vad")
    assert result.code == 0
    for text in (call.name, "Transcript", "seconds", "Male", "90%"):
        assert text in result.stdout
    only = run_cli("analyze", call, "--no-vad", "--fields", "emotion")
    assert "Emotion" in only.stdout
    assert "Transcript" not in only.stdout


def test_warnings_go_to_stderr(
    run_cli: RunCli, made: list[Any], call: Path, tmp_path: Path
) -> None:
    cut = tmp_path / "cut.wav"
    cut.write_bytes(call.read_bytes()[:20000])
    result = run_cli("analyze", cut, "--json")
    assert result.code == 0
    assert "cut short" in result.stderr
    assert "cut short" in json.loads(result.stdout)["warnings"][0]
    assert run_cli("analyze", cut, "--quiet").stderr == ""


def test_options_reach_the_analyzer(run_cli: RunCli, made: list[Any], call: Path) -> None:
    result = run_cli(
        "analyze", call, "--json", "--model", "m", "--device", "cuda:1", "--compute-type",
        "bfloat16", "--batch-size", "3", "--local-files-only", "--fields", "Gender,Age",
        "--min-confidence", "0.7", "--roles", "caller", "--channels", "mono", "--no-vad",
    )  # fmt: skip
    assert result.code == 0, result.stderr
    [options] = made
    expected = {
        "model": "m",
        "device": "cuda:1",
        "dtype": "bfloat16",
        "batch_size": 3,
        "local_files_only": True,
    }
    assert expected.items() <= options.items()
    turn = json.loads(result.stdout)["turns"][0]
    assert turn["speaker"] == "caller"
    assert (turn["Gender"], turn["Age"]) == ("Male", None)
    assert not {"Transcript", "Emotion"} & set(turn)


def test_underscores_of_whisper_users(run_cli: RunCli, made: list[Any], call: Path) -> None:
    result = run_cli(
        "analyze", call, "--batch_size", "2", "--compute_type=float16", "--local_files_only",
        "--min_confidence", "0.5", "--json",
    )  # fmt: skip
    assert result.code == 0, result.stderr
    assert (made[0]["batch_size"], made[0]["dtype"]) == (2, "float16")


def test_each_recording_gets_a_file_per_format(
    run_cli: RunCli, made: list[Any], call: Path, tmp_path: Path, sine: Sine
) -> None:
    other = write_wav(tmp_path / "other.wav", sine(1, 8000), 8000)
    folder = tmp_path / "new" / "out"
    result = run_cli("analyze", call, other, "--output_dir", folder, "--output_format", "json,srt")
    assert (result.code, result.stdout) == (0, "")
    assert sorted(path.name for path in folder.iterdir()) == [
        "call.json", "call.srt", "other.json", "other.srt",
    ]  # fmt: skip
    document = json.loads((folder / "other.json").read_text())
    assert document["audio"]["path"] == str(other)
    again = run_cli("analyze", call, "-o", folder)
    assert again.code == 1
    assert "call.json" in again.stderr
    assert run_cli("analyze", call, "-o", folder, "--overwrite").code == 0
    (tmp_path / "file").write_text("")
    assert run_cli("analyze", call, "-o", tmp_path / "file").code == 1


def test_redacted_audio_is_written_once(
    run_cli: RunCli, made: list[Any], call: Path, tmp_path: Path
) -> None:
    target = tmp_path / "clean.wav"
    result = run_cli("analyze", call, "--json", "--redact-audio", target)
    assert result.code == 0
    assert json.loads(result.stdout)["redactions"] == []
    with wave.open(str(target)) as file:
        assert (file.getframerate(), file.getnframes()) == (8000, 16000)
    assert run_cli("analyze", call, "--redact-audio", target).code == 1
    assert run_cli("analyze", call, "--redact-audio", target, "--overwrite", "--beep").code == 0
    assert run_cli("analyze", call, call, "--redact-audio", tmp_path / "x.wav").code == USAGE
    assert run_cli("analyze", call, "--beep").code == USAGE
    assert run_cli("analyze", call, "--redact-audio", call, "--overwrite").code == 1


def test_model_errors_are_one_line(run_cli: RunCli, call: Path, tmp_path: Path) -> None:
    for name in (tmp_path / "nowhere", "some-org/some-model"):
        result = run_cli("analyze", call, "--model", name, "--local-files-only", "--json")
        assert result.code in (1, 2)
        assert result.stdout == ""
        assert result.stderr.startswith("speechmeta: ")
        assert result.stderr.count("\n") == 1
        assert "Traceback" not in result.stderr


def test_schema(run_cli: RunCli) -> None:
    meta = json.loads(run_cli("schema", "meta").stdout)
    assert list(meta["properties"]) == list(FIELDS)
    report = json.loads(run_cli("schema").stdout)
    assert report["title"] == "CallReport"
    assert json.loads(run_cli("schema", "report").stdout) == report


def test_models(run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = run_cli("models")
    assert table.code == 0
    for name in ("bundled", "skit-ai/speechllm-2B", "DeSTA-ntu/DeSTA2-8B-beta"):
        assert name in table.stdout
    listed = json.loads(run_cli("models", "--json").stdout)
    assert listed[0]["name"] == "bundled"
    assert {model["used_by"] for model in listed} == {"analyze", "chat"}


@pytest.mark.slow
def test_models_finds_what_is_in_the_cache(run_cli: RunCli, tmp_path: Path) -> None:
    folder = tmp_path / "models--skit-ai--speechllm-2B"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    snapshot = folder / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    done = python("-m", "speechmeta.cli", "models", "--json", HF_HUB_CACHE=str(tmp_path))
    by_name = {model["name"]: model["location"] for model in json.loads(done.stdout)}
    assert by_name["skit-ai/speechllm-2B"] == str(snapshot)
    assert by_name["skit-ai/speechllm-1.5B"] is None
    done = python("-m", "speechmeta.cli", "models", HF_HUB_CACHE=str(tmp_path), COLUMNS="60")
    # A folder can be copied from the table: broken into lines, it is whole.
    assert str(snapshot) in "".join(line.removeprefix(" " * 10) for line in _lines(done.stdout))
    removed = python(
        "-m", "speechmeta.cli", "models", "rm", "skit-ai/speechllm-2B", HF_HUB_CACHE=str(tmp_path)
    )
    assert removed.returncode == 0, removed.stderr
    assert "removed skit-ai/speechllm-2B" in removed.stderr
    assert not folder.exists()


def _lines(text: str) -> list[str]:
    return [line.removeprefix("here").rstrip() for line in text.splitlines()]


def test_models_that_cannot_be_fetched_or_removed(run_cli: RunCli, tmp_path: Path) -> None:
    for arguments, code, text in (
        (["download", "bundled"], USAGE, "on this machine already"),
        (["download", "some-org/some-model"], 1, "not on this machine"),
        (["rm", "bundled"], USAGE, "not in the hub's cache"),
        (["rm", "some-org/some-model"], 1, "not on this machine"),
    ):
        result = run_cli("models", *arguments)
        assert (result.code, result.stdout) == (code, "")
        assert text in result.stderr
        assert "Traceback" not in result.stderr


@pytest.mark.skipif(os.name == "nt", reason="pipes end otherwise there")
def test_reader_that_has_enough() -> None:
    command = f"{sys.executable} -m speechmeta.cli schema | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("{\n", "")


@pytest.mark.slow
def test_bundled_checkpoint_end_to_end(bundled_dir: Path) -> None:
    example = Path(__file__).parents[2] / "examples" / "call.wav"
    done = python(
        "-m", "speechmeta.cli", "analyze", str(example), "--json", "-q", HF_HUB_OFFLINE="1"
    )
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    jsonschema.validate(document, CallReport.model_json_schema())
    assert document["audio"]["channels"] == 2
    assert {turn["channel"] for turn in document["turns"]} == {0, 1}
    assert all(turn["SpeechActivity"] for turn in document["turns"])
