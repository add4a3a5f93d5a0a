"""Training data out of metadata, and training of the Q-Former at toy size."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import RunCli
from desta_tiny import Shape, make_checkpoint

from speechmeta import ChatModel
from speechmeta.errors import DatasetError, EndpointError, ModelError, OutputError, UsageError
from speechmeta.models.desta2.loading import load_desta
from speechmeta.training.datagen import construct, plan, read_prompts
from speechmeta.training.descriptions import describe, read_records
from speechmeta.training.qformer import (
    IGNORED,
    ChatCollator,
    ChatExamples,
    QFormerOptions,
    freeze_all_but_connector,
    train_qformer,
)
from speechmeta.training.text_models import Messages, OpenAIText, TransformersText

pytestmark = pytest.mark.slow

META = {
    "audio": "a.wav",
    "SpeechActivity": True,
    "Transcript": "I have waited for an hour.",
    "Gender": "Male",
    "Age": "Young",
    "Accent": "America",
    "Emotion": "Frustrated",
}


class Echo:
    """A writer that answers at once, and fails where it is told to."""

    name = "echo"

    def __init__(self, bad: str = "", stop_after: int = 10**9) -> None:
        self.bad, self.left, self.asked = bad, stop_after, 0

    def answer(self, conversations: Sequence[Messages]) -> list[str]:
        if self.bad and any(self.bad in c[-1]["content"] for c in conversations):
            raise ModelError("cannot")
        self.left -= len(conversations)
        if self.left < 0:
            raise KeyboardInterrupt
        self.asked += len(conversations)
        return [f"heard: {c[-1]['content'].splitlines()[-1]}" for c in conversations]


def test_a_record_is_described_in_words() -> None:
    assert describe(META).description == (
        "I have waited for an hour. (Gender: Male, Age: Young, Accent: America, "
        "Emotion: Frustrated)"
    )
    line = describe({"audio": "b.wav", "transcript": "yes", "gender": "Female", "duration": 2})
    assert line.description == "yes (Gender: Female, Duration: 2.0 s)"
    assert describe({"audio": "c.wav", "speech": False}).description == "(no speech)"
    call = {
        "audio": {"path": "call.wav"},
        "turns": [
            {"start": 3.2, "end": 7, "speaker": "customer", **META},
            {"start": 3700, "end": 3701, "speaker": "agent", "SpeechActivity": False},
        ],
    }
    described = describe(call)
    assert described.description.splitlines() == [
        "[00:03 - 00:07] customer: I have waited for an hour. (Gender: Male, Age: Young, "
        "Accent: America, Emotion: Frustrated)",
        "[01:01:40 - 01:01:41] agent: (no speech)",
    ]
    assert described.transcript == "I have waited for an hour."
    for bad in ({}, {"audio": "x.wav"}, {"audio": 3, "transcript": "y"}):
        with pytest.raises(ValueError, match=r"no audio|neither"):
            describe(bad)


def _records(folder: Path, count: int = 4) -> Path:
    path = folder / "records.jsonl"
    path.write_text(
        "".join(
            json.dumps({**META, "audio": f"{i}.wav", "Transcript": f"number {i}"}) + "\n"
            for i in range(count)
        )
    )
    return path


def test_construct_is_resumable(tmp_path: Path) -> None:
    tasks = list(plan(read_records(_records(tmp_path)), read_prompts(), 3, seed=1))
    assert len({task.id for task in tasks}) == 12
    assert tasks == list(plan(read_records(_records(tmp_path)), read_prompts(), 3, seed=1))
    whole, halves = tmp_path / "whole.jsonl", tmp_path / "halves.jsonl"
    assert construct(tasks, Echo(), whole, batch_size=5).written == 12
    with pytest.raises(KeyboardInterrupt):
        construct(tasks, Echo(stop_after=7), halves, batch_size=2)
    # A process that dies while writing leaves half a line.
    with halves.open("a") as file:
        file.write('{"id": "half')
    writer = Echo()
    report = construct(tasks, writer, halves, batch_size=2)
    assert (report.kept, report.written, writer.asked) == (6, 6, 6)
    assert halves.read_text() == whole.read_text()
    line = json.loads(whole.read_text().splitlines()[0])
    assert line["audio"] == str(tmp_path / "0.wav")
    assert line["transcript"] == "number 0"
    assert line["response"].startswith("heard: ")


def test_construct_goes_on_after_failures(tmp_path: Path) -> None:
    tasks = list(plan(read_records(_records(tmp_path)), read_prompts(), 2, seed=0))
    output = tmp_path / "out.jsonl"
    report = construct(tasks, Echo(bad="number 2"), output, batch_size=4)
    assert (report.written, report.failed) == (6, 2)
    assert construct(tasks, Echo(), output).written == 2
    with pytest.raises(ModelError):
        construct(tasks, Echo(bad="number"), tmp_path / "none.jsonl")
    with pytest.raises(UsageError):
        list(plan([], ["x"], 2, 0)) or list(plan(read_records(_records(tmp_path)), ["x"], 2, 0))
    output.write_text("no json\n")
    with pytest.raises(DatasetError):
        construct(tasks, Echo(), output)
    (tmp_path / "bad.jsonl").write_text("[]\n")
    with pytest.raises(DatasetError):
        list(read_records(tmp_path / "bad.jsonl"))


def test_audio_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "calls").mkdir()
    (tmp_path / "calls" / "b.wav").touch()
    records = Path("data") / "records.jsonl"
    monkeypatch.chdir(tmp_path)
    # A manifest names files beside itself; a document of analyze what it was called with.
    call = {"audio": {"path": "calls/b.wav"}, "turns": []}
    records.write_text("".join(json.dumps(line) + "\n" for line in ({**META}, call)))
    construct(plan(read_records(records), ["What?"], 1, 0), Echo(), Path("out/train.jsonl"))
    lines = Path("out/train.jsonl").read_text().splitlines()
    assert [json.loads(line)["audio"] for line in lines] == [
        str(tmp_path / "data" / "a.wav"),
        str(tmp_path / "calls" / "b.wav"),
    ]


def test_output_that_cannot_be_written(run_cli: RunCli, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    tasks = list(plan(read_records(_records(tmp_path)), ["What?"], 1, 0))
    with pytest.raises(OutputError, match="cannot be written"):
        construct(tasks, Echo(), tmp_path / "file" / "out.jsonl")


@pytest.fixture
def server() -> Iterator[tuple[str, list[Any]]]:
    seen: list[Any] = []
    both = threading.Barrier(2)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append((self.path, self.headers.get("Authorization"), body))
            if body["model"] == "garbage":
                self.wfile.write(b"what?\r\n\r\n")
                return
            if body["model"] == "slow":
                # Answers only when a second question is there too.
                both.wait(30)
            if body["model"] == "none":
                self.send_error(404, "no such model")
                return
            answer = {"choices": [{"message": {"content": " fine "}}]}
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *args: Any) -> None:
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}/v1", seen
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def test_openai_compatible_server(
    server: tuple[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, seen = server
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    model = OpenAIText(address, "m", max_new_tokens=9)
    assert model.answer([[{"role": "user", "content": "x"}]]) == ["fine"]
    path, key, body = seen[0]
    assert (path, key) == ("/v1/chat/completions", "Bearer k")
    assert (body["model"], body["max_tokens"]) == ("m", 9)
    with pytest.raises(EndpointError, match="404"):
        OpenAIText(address, "none").answer([[{"role": "user", "content": "x"}]])
    with pytest.raises(EndpointError, match=r"broke the connection off|cannot be read"):
        OpenAIText(address, "garbage").answer([[{"role": "user", "content": "x"}]])
    question = [{"role": "user", "content": "x"}]
    assert OpenAIText(address, "slow").answer([question, question]) == ["fine", "fine"]
    with pytest.raises(UsageError):
        OpenAIText("file:///etc", "m")


def test_writers_that_know_no_system(data: tuple[Path, Path]) -> None:
    writer = TransformersText(
        str(data[0] / "meta-llama" / "tiny"), "cpu", max_new_tokens=3, local_files_only=True
    )
    talk = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Why?"}]
    template = writer.tokenizer.chat_template
    merged = writer.tokenizer.apply_chat_template(
        [{"role": "user", "content": "Be kind.\n\nWhy?"}], add_generation_prompt=True
    )["input_ids"]
    writer.tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        + template
    )
    assert writer._inputs([talk])["input_ids"][0].tolist() == merged
    assert len(writer.answer([talk, talk])) == 2
    writer.tokenizer.chat_template = "{{ raise_exception('never') }}"
    with pytest.raises(ModelError, match="never"):
        writer.answer([talk])


@pytest.mark.skipif(torch.cuda.is_available(), reason="the device is there")
def test_writer_on_a_missing_device(data: tuple[Path, Path]) -> None:
    with pytest.raises(ModelError, match="cannot go to cuda"):
        TransformersText(str(data[0] / "meta-llama" / "tiny"), "cuda", local_files_only=True)


@pytest.fixture(scope="module", params=["desta2", "desta25"])
def data(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, shared_dir: Path
) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("qformer")
    make_checkpoint(folder / "model", Shape(request.param, seed=5))
    clip = str(shared_dir / "fixtures" / "desta2" / "clip.wav")
    other = str(shared_dir / "fixtures" / "desta25" / "noise.wav")
    lines = [
        {"audio": clip, "transcript": "the train", "prompt": "Why?", "response": "angry"},
        {"audio": other, "transcript": None, "prompt": "What?", "response": "noise", "system": "s"},
        {"audio": clip, "transcript": None, "prompt": "Who?", "response": "the agent"},
    ]
    manifest = folder / "train.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "model", manifest


def test_examples_and_collator(data: tuple[Path, Path]) -> None:
    model, processor = load_desta(data[0], "cpu", "float32", local_files_only=True)
    examples = ChatExamples(data[1], model, processor)
    items = [examples[i] for i in range(3)]
    eos = processor.tokenizer.eos_token_id
    for item, response in zip(items, ("angry", "noise", "the agent"), strict=True):
        wanted = [label for label in item["labels"] if label != IGNORED]
        assert wanted == [*processor.tokenize(response), eos]
        assert item["input_ids"][-len(wanted) :] == wanted
    batch = ChatCollator(eos)(items)
    assert batch["input_features"].shape[0] == 3
    with torch.inference_mode():
        together = model(**batch).logits
        for row, item in enumerate(items):
            alone = model(**ChatCollator(eos)([item])).logits[0]
            torch.testing.assert_close(together[row, : len(alone)], alone, atol=1e-4, rtol=1e-4)


def test_only_the_connector_learns(data: tuple[Path, Path], tmp_path: Path) -> None:
    before, processor = load_desta(data[0], "cpu", "float32", local_files_only=True)
    examples = ChatExamples(data[1], before, processor)
    batch = ChatCollator(processor.tokenizer.eos_token_id)([examples[i] for i in range(3)])
    options = QFormerOptions(
        model=str(data[0]),
        manifest=data[1],
        output=tmp_path / "run",
        epochs=10,
        batch_size=3,
        learning_rate=3e-3,
        device="cpu",
        dtype="float32",
        local_files_only=True,
    )
    final = train_qformer(options)
    after, _ = load_desta(final, "cpu", "float32", local_files_only=True)
    with torch.inference_mode():
        losses = [float(model.eval()(**batch).loss) for model in (before, after)]
    assert losses[1] < losses[0] - 0.2
    changed = {
        name.split(".")[0]
        for (name, old), new in zip(
            before.state_dict().items(), after.state_dict().values(), strict=True
        )
        if not torch.equal(old, new)
    }
    assert changed == {"multi_modal_projector"}
    chat = ChatModel.from_pretrained(final, device="cpu", local_files_only=True)
    noise = np.random.default_rng(0).standard_normal(8000)
    talk = [{"role": "audio", "content": (noise, 8000)}, {"role": "user", "content": "Why?"}]
    assert chat.chat(talk, max_new_tokens=3).token_ids


def test_frozen_parts_stay_out_of_training_mode(data: tuple[Path, Path]) -> None:
    model, _ = load_desta(data[0], "cpu", "float32", local_files_only=True)
    freeze_all_but_connector(model)
    model.train()
    assert model.multi_modal_projector.training
    assert not model.audio_tower.training
    assert not model.language_model.training
    assert {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad} == {
        "multi_modal_projector"
    }


def test_resumed_is_uninterrupted(data: tuple[Path, Path], tmp_path: Path) -> None:
    def run(output: str, steps: int, resume: bool = False) -> Path:
        return train_qformer(
            QFormerOptions(
                model=str(data[0]),
                manifest=data[1],
                output=tmp_path / output,
                epochs=4,
                batch_size=1,
                learning_rate=1e-3,
                save_steps=3,
                max_steps=steps,
                device="cpu",
                dtype="float32",
                local_files_only=True,
            ),
            resume=resume,
        )

    whole = run("whole", 6)
    for path in (tmp_path / "whole").glob("checkpoint-6"):
        (path / "trainer_state.json").unlink()
    with pytest.raises(UsageError, match="earlier run"):
        run("whole", 6)
    wanted = load_desta(whole, "cpu", "float32", True)[0].multi_modal_projector.state_dict()
    again = run("whole", 6, resume=True)
    found = load_desta(again, "cpu", "float32", True)[0].multi_modal_projector.state_dict()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=1e-5)
    files = {path.name for path in (tmp_path / "whole" / "checkpoint-3").iterdir()}
    assert "config.json" in files
    assert sum(path.stat().st_size for path in whole.iterdir()) < 10_000_000


def test_missing_recordings_are_found_at_once(data: tuple[Path, Path], tmp_path: Path) -> None:
    manifest = tmp_path / "m.jsonl"
    manifest.write_text('{"audio": "gone.wav", "prompt": "b", "response": "c"}\n')
    model, processor = load_desta(data[0], "cpu", "float32", local_files_only=True)
    with pytest.raises(DatasetError, match=r"gone\.wav"):
        ChatExamples(manifest, model, processor)


def test_training_needs_a_published_layout(data: tuple[Path, Path], tmp_path: Path) -> None:
    chat = ChatModel.from_pretrained(data[0], device="cpu", local_files_only=True)
    chat.save_pretrained(tmp_path / "saved")
    options = QFormerOptions(
        model=str(tmp_path / "saved"), manifest=data[1], output=tmp_path / "run", device="cpu"
    )
    with pytest.raises(UsageError, match="published layout"):
        train_qformer(options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "line",
    [
        '{"audio": 3, "prompt": "b", "response": "c"}',
        "[]",
        "{",
        '{"audio": "a", "prompt": "b"}',
        "",
    ],
)
def test_broken_manifests_are_data_set_errors(
    data: tuple[Path, Path], tmp_path: Path, line: str
) -> None:
    manifest = tmp_path / "m.jsonl"
    manifest.write_text(line + "\n")
    model, processor = load_desta(data[0], "cpu", "float32", local_files_only=True)
    with pytest.raises(DatasetError):
        ChatExamples(manifest, model, processor)


def test_the_commands_make_data_and_train_on_it(
    run_cli: RunCli, data: tuple[Path, Path], tmp_path: Path, shared_dir: Path
) -> None:
    clip = shared_dir / "fixtures" / "desta2" / "clip.wav"
    records = tmp_path / "records.jsonl"
    records.write_text(json.dumps({**META, "audio": str(clip)}) + "\n")
    writer = data[0] / "meta-llama" / "tiny"
    common = ("train", "construct", records, "-o", tmp_path / "t.jsonl", "--writer", writer)
    result = run_cli(
        *common,
        "--per-record",
        "2",
        "--max-new-tokens",
        "4",
        "--device",
        "cpu",
        "--local-files-only",
    )
    assert result.code == 0, result.stderr
    assert len((tmp_path / "t.jsonl").read_text().splitlines()) == 2
    trained = run_cli(
        "train",
        "qformer",
        tmp_path / "t.jsonl",
        "-o",
        tmp_path / "run",
        "--model",
        data[0],
        "--max-steps",
        "1",
        "--device",
        "cpu",
        "--local-files-only",
    )
    assert trained.code == 0, trained.stderr
    assert trained.stdout == ""
    assert "train_loss" in trained.stderr
    assert (tmp_path / "run" / "final" / "config.json").is_file()
    assert run_cli("train", "--help").code == 0
    missing = run_cli("train", tmp_path / "no.yaml")
    assert missing.code != 0
    assert "no.yaml" in missing.stderr
