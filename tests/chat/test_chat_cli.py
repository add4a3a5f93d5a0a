"""`speechmeta chat`."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from conftest import RunCli
from desta_tiny import Shape, make_checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("desta"), Shape(seed=3))


@pytest.fixture(scope="module")
def clip(shared_dir: Path) -> Path:
    return shared_dir / "fixtures" / "desta2" / "clip.wav"


def test_one_question_is_answered_on_stdout(run_cli: RunCli, checkpoint: Path, clip: Path) -> None:
    common = ("chat", clip, "--model", checkpoint, "--device", "cpu", "--local-files-only")
    result = run_cli(*common, "--ask", "Why?", "--max-new-tokens", "8")
    assert result.code == 0, result.stderr
    assert result.stdout.strip()
    assert "was cut" in result.stderr
    again = run_cli(*common, "--ask", "Why?", "--max_new_tokens", "8", "--quiet")
    assert (again.stdout, again.stderr) == (result.stdout, "")


def test_answers_fit_the_schema(
    run_cli: RunCli, checkpoint: Path, clip: Path, tmp_path: Path
) -> None:
    schema = tmp_path / "s.json"
    schema.write_text(
        json.dumps(
            {
                "type": "object",
                "properties": {"angry": {"type": "boolean"}, "why": {"type": "string"}},
                "required": ["angry", "why"],
            }
        )
    )
    common = ("chat", clip, "--model", checkpoint, "--device", "cpu", "--ask", "Why?")
    result = run_cli(*common, "--schema", schema, "--max-new-tokens", "40")
    assert result.code == 0, result.stderr
    assert set(json.loads(result.stdout)) == {"angry", "why"}
    short = run_cli(*common, "--schema", schema, "--max-new-tokens", "3")
    assert (short.code, short.stdout) == (1, "")
    assert "at least" in short.stderr
    schema.write_text("[")
    assert run_cli(*common, "--schema", schema).code == 2


def test_a_conversation_follows_its_commands(
    run_cli: RunCli, checkpoint: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["Why?", "And?", "/nonsense", "/audio nothing.wav", f"/audio {clip}", "yes?", "/reset"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join([*lines, "Why?", "/quit", "never"])))
    result = run_cli(
        "chat", clip, "--model", checkpoint, "--device", "cpu", "--max-new-tokens", "5", "-q"
    )
    assert result.code == 1
    assert "/nonsense is not known" in result.stderr
    assert "nothing.wav is not a file" in result.stderr
    assert "never" not in result.stdout


def test_broken_recording_does_not_spoil_the_conversation(
    run_cli: RunCli,
    checkpoint: Path,
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"no audio")
    monkeypatch.setattr("sys.stdin", io.StringIO(f"/audio {broken}\nWhy?\n"))
    result = run_cli(
        "chat", clip, "--model", checkpoint, "--device", "cpu", "--max-new-tokens", "5", "-q"
    )
    assert result.code == 1
    assert result.stderr.count("speechmeta:") == 1
    assert "broken.wav" in result.stderr
    assert result.stdout.strip()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--ask", "Why?", "--top-p", "0"), 2, "top_p"),
        (("--ask", " "), 2, "--ask is empty"),
        (("--ask", "Why?", "--device-map", "round"), 2, "device map"),
        (("{broken}", "--ask", "Why?"), 1, "broken.wav"),
    ],
)
def test_mistakes_are_found_before_a_model_is_loaded(
    run_cli: RunCli,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    words: str,
) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("speechmeta.chat.model.ChatModel.from_pretrained", load)
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"no audio")
    result = run_cli("chat", *(argument.format(broken=broken) for argument in arguments))
    assert result.code == code
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_device_map_and_compute_type(
    run_cli: RunCli, checkpoint: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from speechmeta import ChatModel

    seen: dict[str, object] = {}
    load = ChatModel.from_pretrained

    def spy(*args: object, **options: object) -> object:
        seen.update(options)
        assert options["audio_dtype"] == "bfloat16"
        return load(*args, **{**options, "quantization": None, "device_map": None})  # type: ignore[arg-type]

    monkeypatch.setattr(ChatModel, "from_pretrained", spy)
    common = ("chat", clip, "--model", checkpoint, "--device", "cpu", "--ask", "Why?")
    result = run_cli(
        *common, "--compute-type", "int8", "--device-map", "auto", "--audio-type", "bfloat16", "-q"
    )
    assert result.code == 0, result.stderr
    assert (seen["dtype"], seen["quantization"], seen["device_map"]) == ("auto", "int8", "auto")


def test_a_cut_transcript_is_said(
    run_cli: RunCli, checkpoint: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("speechmeta.chat.recordings.Ear._full", lambda *_: True)
    monkeypatch.setattr("sys.stdin", io.StringIO("Why?\nAnd?\n"))
    result = run_cli(
        "chat", clip, "--model", checkpoint, "--device", "cpu", "--max-new-tokens", "5"
    )
    assert result.stderr.count("was cut at Whisper's limit") == 1


def test_wrong_usage_has_an_exit_code_and_a_line(
    run_cli: RunCli, checkpoint: Path, tmp_path: Path
) -> None:
    assert run_cli("chat", tmp_path / "no.wav", "--ask", "x").code == 2
    result = run_cli("chat", "--model", tmp_path / "none", "--ask", "x", "--local-files-only")
    assert result.code == 1
    assert "there is no folder" in result.stderr
    quantised = run_cli(
        "chat", "--model", checkpoint, "--ask", "x", "--quantization", "int3", "--device", "cpu"
    )
    assert quantised.code == 2
    assert run_cli("chat", "--help").code == 0
