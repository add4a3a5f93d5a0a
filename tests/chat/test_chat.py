"""ChatModel: turns, reuse, batches, streams, structured answers."""

from __future__ import annotations

import functools
import json
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from desta_tiny import Shape, make_checkpoint
from pydantic import BaseModel, Field

from speechmeta import ChatModel
from speechmeta.audio.loading import load_audio
from speechmeta.chat.model import ChatReply
from speechmeta.decoding.chat_loop import PrefixStore
from speechmeta.errors import AudioError, DecodingError, ModelError, UsageError

pytestmark = pytest.mark.slow

ASK = {"role": "user", "content": "Is the customer angry? Why?"}
SYSTEM = {"role": "system", "content": "You are a helpful voice assistant."}


@pytest.fixture(scope="module", params=["desta2", "desta25"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("desta"), Shape(request.param, seed=3))


@functools.cache
def _loaded(folder: Path) -> ChatModel:
    return ChatModel.from_pretrained(folder, device="cpu", dtype="float32", local_files_only=True)


def _load(folder: Path, **options: Any) -> ChatModel:
    """A model that remembers nothing yet; its weights are read once for all tests."""
    read = _loaded(folder)
    return ChatModel(read.model, read.processor, read.name, **options)


@pytest.fixture
def model(folder: Path) -> ChatModel:
    return _load(folder)


@pytest.fixture(scope="module")
def clip(shared_dir: Path) -> str:
    return str(shared_dir / "fixtures" / "desta2" / "clip.wav")


@pytest.fixture
def calls(model: ChatModel) -> Iterator[dict[str, int]]:
    """How often Whisper's encoder ran, and how many positions went through the decoder."""
    counts = {"encoder": 0, "positions": 0}

    def encoder(_: Any, args: Any, kwargs: Any, out: Any) -> None:
        counts["encoder"] += len(out.last_hidden_state)

    def decoder(_: Any, args: Any, kwargs: Any, out: Any) -> None:
        fed = kwargs.get("inputs_embeds")
        counts["positions"] += (fed if fed is not None else kwargs["input_ids"]).shape[1]

    hooks = [
        model.model.audio_tower.get_encoder().register_forward_hook(encoder, with_kwargs=True),
        model.model.language_model.register_forward_hook(decoder, with_kwargs=True),
    ]
    yield counts
    for hook in hooks:
        hook.remove()


def test_second_turn_does_not_pay_again(
    folder: Path, model: ChatModel, clip: str, calls: dict[str, int]
) -> None:
    talk = [SYSTEM, {"role": "audio", "content": clip}, ASK]
    first: ChatReply = model.chat(talk, max_new_tokens=10)
    assert calls["encoder"] == first.usage.encoded_windows == 1
    assert first.usage.reused_tokens == 0
    assert first.usage.prefill_tokens == first.usage.prompt_tokens
    calls.update(encoder=0, positions=0)

    talk += [{"role": "assistant", "content": first.text}, {"role": "user", "content": "no?"}]
    second = model.chat(talk, max_new_tokens=10)
    assert calls["encoder"] == second.usage.encoded_windows == 0
    assert second.usage.reused_tokens >= first.usage.prompt_tokens - 3
    assert second.usage.prefill_tokens < 60 < second.usage.prompt_tokens
    assert calls["positions"] == second.usage.prefill_tokens + second.usage.answer_tokens - 1

    fresh = _load(folder).chat(talk, max_new_tokens=10)
    assert fresh.usage.reused_tokens == 0
    assert fresh.token_ids == second.token_ids


def test_reuse_gives_the_same_logits(folder: Path, clip: str) -> None:
    rng = random.Random(0)
    warm, cold = _load(folder), _load(folder, remembered_tokens=0)
    talk: list[dict[str, str]] = [{"role": "audio", "content": clip}]
    for turn in range(4):
        talk.append(
            {"role": "user", "content": " ".join(rng.sample("why angry no yes a".split(), 3))}
        )
        a, b = (m.chat(talk, max_new_tokens=8) for m in (warm, cold))
        assert a.token_ids == b.token_ids
        assert b.usage.reused_tokens == 0
        assert turn == 0 or a.usage.reused_tokens > 0
        talk.append({"role": "assistant", "content": a.text})


def test_batch_is_single(folder: Path, model: ChatModel, clip: str) -> None:
    noise = (0.1 * np.random.default_rng(0).standard_normal(8000).astype(np.float32), 8000)
    batch: list[list[dict[str, Any]]] = [
        [{"role": "audio", "content": clip}, ASK],
        [{"role": "user", "content": "true"}],
        [SYSTEM, {"role": "audio", "content": noise}, {"role": "audio", "content": clip}, ASK],
    ]
    alone = [_load(folder).chat(talk, max_new_tokens=9) for talk in batch]
    together = model.chat(batch, max_new_tokens=9)
    assert [r.token_ids for r in together] == [r.token_ids for r in alone]
    # A batch of second turns goes on from what each row left behind.
    nexts = [
        [*talk, {"role": "assistant", "content": r.text}, {"role": "user", "content": "and?"}]
        for talk, r in zip(batch, together, strict=True)
    ]
    again = model.chat(nexts, max_new_tokens=9)
    assert all(r.usage.reused_tokens > 0 for r in again)
    assert [r.token_ids for r in again] == [
        _load(folder).chat(talk, max_new_tokens=9).token_ids for talk in nexts
    ]


def test_one_bad_row_leaves_the_others(model: ChatModel, clip: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF")
    good = [{"role": "audio", "content": clip}, ASK]
    replies = model.chat(
        [
            good,
            [{"role": "audio", "content": str(broken)}, ASK],
            [{"role": "robot", "content": "x"}],
            [{"role": "user", "content": "true " * 5000}],
        ],
        max_new_tokens=4,
    )
    assert replies[0].token_ids == model.chat(good, max_new_tokens=4).token_ids
    assert [type(r) for r in replies[1:]] == [AudioError, UsageError, UsageError]
    with pytest.raises(AudioError):
        model.chat([{"role": "audio", "content": str(broken)}, ASK])


def test_a_stream_says_what_the_whole_reply_says(model: ChatModel, clip: str) -> None:
    talk = [{"role": "audio", "content": clip}, ASK]
    whole = model.chat(talk, max_new_tokens=16)
    stream = model.stream(talk, max_new_tokens=16)
    with pytest.raises(UsageError):
        _ = stream.reply
    pieces = list(stream)
    assert "".join(pieces) == whole.text == stream.reply.text
    assert len(pieces) > 1
    with model.stream(talk, max_new_tokens=16) as stream:
        next(stream)
        # Between pieces the caller's own code runs, which may train.
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
    # A closed stream gives the model free again.
    assert model.chat(talk, max_new_tokens=16).text == whole.text
    with pytest.raises(UsageError):
        model.stream([talk, talk])
    with pytest.raises(UsageError):
        model.stream([{"role": "user"}])


def test_closed_stream_has_what_there_is(model: ChatModel, clip: str) -> None:
    talk = [{"role": "audio", "content": clip}, ASK]
    whole = model.chat(talk, max_new_tokens=16)
    with model.stream(talk, max_new_tokens=16) as stream:
        piece = next(stream)
    assert stream.reply.finish == "stopped"
    assert stream.reply.text.startswith(piece)
    assert 0 < len(stream.reply.token_ids) < len(whole.token_ids)
    assert whole.token_ids[: len(stream.reply.token_ids)] == stream.reply.token_ids
    unread = model.stream(talk)
    unread.close()
    with pytest.raises(UsageError):
        _ = unread.reply
    with model.stream(talk, output_type="(yes|no){9}", max_new_tokens=30) as form:
        next(form)
    assert (form.reply.finish, form.reply.value) == ("stopped", None)


def test_stream_read_from_changing_threads(model: ChatModel, clip: str) -> None:
    talk = [{"role": "audio", "content": clip}, ASK]
    whole = model.chat(talk, max_new_tokens=16)
    stream = model.stream(talk, max_new_tokens=16)
    pieces: list[str] = []
    # As web servers do: every piece is asked for by another thread.
    while True:
        found: list[str] = []
        thread = threading.Thread(target=lambda kept=found: kept.append(next(stream, "")))
        thread.start()
        thread.join()
        if not found or not found[0]:
            break
        pieces += found
    assert "".join(pieces) == stream.reply.text == whole.text


def test_open_stream_blocks_nobody(model: ChatModel, clip: str) -> None:
    talk = [{"role": "audio", "content": clip}, ASK]
    whole = model.chat(talk, max_new_tokens=16)
    first = model.stream(talk, max_new_tokens=16)
    head = next(first)
    answers: list[str] = []
    thread = threading.Thread(
        target=lambda: answers.append(model.chat(talk, max_new_tokens=16).text), daemon=True
    )
    thread.start()
    thread.join(60)
    assert answers == [whole.text]
    assert head + "".join(first) == whole.text


def test_lack_of_memory_is_said_and_survived(
    model: ChatModel, clip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = [{"role": "audio", "content": clip}, ASK]
    whole = model.chat(talk, max_new_tokens=4)

    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    with monkeypatch.context() as patch:
        patch.setattr(model.model.language_model, "forward", full)
        with pytest.raises(ModelError, match="memory") as raised:
            model.chat(talk, max_new_tokens=4)
        assert "quantization" in raised.value.hint
        with pytest.raises(ModelError, match="memory"):
            list(model.stream(talk, max_new_tokens=4))
    again = model.chat(talk, max_new_tokens=4)
    assert again.token_ids == whole.token_ids
    # What was remembered was given up for room.
    assert (again.usage.encoded_windows, again.usage.reused_tokens) == (1, 0)


def test_sampling_is_repeatable_by_its_seed(model: ChatModel, clip: str) -> None:
    talk = [{"role": "audio", "content": clip}, ASK]
    options: dict[str, Any] = {"max_new_tokens": 20, "do_sample": True, "temperature": 2.0}
    one, same, other = (model.chat(talk, seed=seed, **options) for seed in (1, 1, 2))
    assert one.token_ids == same.token_ids != other.token_ids
    greedy = model.chat(talk, max_new_tokens=20)
    assert model.chat(talk, **options, top_k=1).token_ids == greedy.token_ids
    assert model.chat(talk, **options, top_p=1e-6).token_ids == greedy.token_ids
    penalised = model.chat(talk, max_new_tokens=20, repetition_penalty=1000.0)
    assert len(set(penalised.token_ids)) == len(penalised.token_ids)
    wrong: list[dict[str, Any]] = [
        {"temperature": 0},
        {"top_p": 0},
        {"max_new_tokens": 0},
        {"max_new_tokens": "9"},
        {"temperature": None},
        {"seed": 1.5},
        {"beams": 4},
    ]
    for bad in wrong:
        with pytest.raises(UsageError, match=next(iter(bad))):
            model.chat(talk, **bad)


class Verdict(BaseModel):
    angry: bool
    mood: Literal["calm", "loud"]
    why: str
    score: int
    tags: list[str]


@pytest.mark.parametrize("budget", [60, 90, 200])
@pytest.mark.parametrize("do_sample", [False, True])
def test_pydantic_answers_are_valid(
    model: ChatModel, clip: str, budget: int, do_sample: bool
) -> None:
    talk = [{"role": "audio", "content": clip}, ASK]
    for seed in range(3 if do_sample else 1):
        reply = model.chat(
            talk, output_type=Verdict, max_new_tokens=budget, do_sample=do_sample, seed=seed
        )
        assert isinstance(reply.value, Verdict)
        assert Verdict.model_validate_json(reply.text) == reply.value
        assert len(reply.token_ids) <= budget
        assert reply.finish == "stop"


def test_every_budget_gives_a_valid_answer_or_an_error(model: ChatModel) -> None:
    seen = set()
    for budget in range(8, 75, 3):
        try:
            reply = model.chat([ASK], output_type=Verdict, max_new_tokens=budget)
        except DecodingError:
            assert "answer" not in seen
            seen.add("error")
        else:
            Verdict.model_validate_json(reply.text)
            assert reply.flags == ("forced_close",)
            seen.add("answer")
    assert seen == {"error", "answer"}


def test_schema_and_regex(model: ChatModel) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"enum": ["x", "ü"]}, "n": {"type": "integer"}},
        "required": ["a", "n"],
    }
    reply = model.chat([ASK], output_type=schema, max_new_tokens=60)
    assert reply.value == json.loads(reply.text)
    assert reply.value["a"] in ("x", "ü")
    assert model.chat([ASK], output_type=r"(yes|no)[.!]", max_new_tokens=9).value[:-1] in (
        "yes",
        "no",
    )
    assert model.chat([ASK], output_type="é+ç", max_new_tokens=12).value.startswith("é")
    batch = model.chat([[ASK], [SYSTEM, ASK]], output_type=schema, max_new_tokens=60)
    assert [r.value for r in batch] == [
        model.chat(talk, output_type=schema, max_new_tokens=60).value
        for talk in ([ASK], [SYSTEM, ASK])
    ]
    stream = model.stream([ASK], output_type=schema, max_new_tokens=60)
    assert json.loads("".join(stream)) == stream.reply.value == reply.value


def test_rules_beyond_the_grammar_are_errors(model: ChatModel) -> None:
    class Picky(BaseModel):
        n: int = Field(ge=10**9, le=10**9 + 1)

    with pytest.raises(DecodingError, match="Picky"):
        model.chat([ASK], output_type=Picky, max_new_tokens=20)


@pytest.mark.parametrize("bad", [5, "(", {"type": "no-such"}, int, {"$ref": "http://x/y"}])
def test_bad_output_types(model: ChatModel, bad: Any) -> None:
    with pytest.raises(UsageError):
        model.chat([ASK], output_type=bad)


def test_tokenizer_is_left_alone(model: ChatModel) -> None:
    tokenizer = model.processor.tokenizer
    before = (len(tokenizer), tokenizer.pad_token, tokenizer.padding_side)
    model.chat([ASK], output_type="a", max_new_tokens=4)
    assert (len(tokenizer), tokenizer.pad_token, tokenizer.padding_side) == before


def test_long_audio_is_heard_whole(model: ChatModel, clip: str) -> None:
    speech = load_audio(clip).mono()
    gap = np.zeros(16_000, np.float32)
    long = np.concatenate([part for _ in range(25) for part in (speech, gap)])
    reply = model.chat([{"role": "audio", "content": (long, 16_000)}, ASK], max_new_tokens=2)
    (audio,) = reply.audios
    assert len(audio.windows) == 4
    assert audio.skipped_seconds == 0
    assert audio.windows[-1].end == pytest.approx(len(long) / 16_000)
    assert all(window.speech for window in audio.windows)
    size = model.model.config.prompt_size
    assert model.model.config.audio_token_id not in reply.token_ids
    short = model.chat([{"role": "audio", "content": clip}, ASK], max_new_tokens=2)
    assert reply.usage.prompt_tokens >= short.usage.prompt_tokens + 3 * size

    cut = (
        model.chat(
            [{"role": "audio", "content": (long, 16_000)}, ASK],
            reference_behaviour=True,
            max_new_tokens=2,
        )
        if model.model.config.variant == "desta25"
        else None
    )
    if cut is not None:
        assert cut.audios[0].skipped_seconds == pytest.approx(len(long) / 16_000 - 30, abs=0.01)


def test_no_speech_is_not_transcribed(model: ChatModel) -> None:
    tone = np.sin(np.arange(32_000) / 10).astype(np.float32)
    talk = [{"role": "audio", "content": (tone, 16_000)}, ASK]
    reply = model.chat(talk, max_new_tokens=2)
    assert reply.usage.transcribed_windows == 0
    assert reply.audios[0].windows[0].transcript == " "
    given = [{"role": "audio", "content": (tone, 16_000), "text": "a beep"}, ASK]
    assert "a beep" in model.chat(given, max_new_tokens=2).prompt


def test_given_text_needs_no_whisper(model: ChatModel, clip: str) -> None:
    talk = [{"role": "audio", "content": clip, "text": "the train was late"}, ASK]
    reply = model.chat(talk, max_new_tokens=2)
    assert (reply.usage.encoded_windows, reply.usage.transcribed_windows) == (1, 0)
    assert "the train was late" in reply.prompt
    later = model.chat([{"role": "audio", "content": clip}, ASK], max_new_tokens=2)
    assert later.usage.transcribed_windows == 1


def test_every_kind_of_source_gives_the_same_answer(model: ChatModel, clip: str) -> None:
    audio = load_audio(clip)
    sources = [
        clip,
        Path(clip),
        Path(clip).read_bytes(),
        audio,
        (audio.waveform, 16_000),
        (torch.from_numpy(audio.waveform), 16_000),
    ]
    texts = {
        model.chat([{"role": "audio", "content": source}, ASK], max_new_tokens=6).text
        for source in sources
    }
    assert len(texts) == 1


def test_changed_file_is_heard_again(model: ChatModel, tmp_path: Path, clip: str) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(Path(clip).read_bytes())
    talk = [{"role": "audio", "content": str(path)}, ASK]
    assert model.chat(talk, max_new_tokens=2).usage.encoded_windows == 1
    assert model.chat(talk, max_new_tokens=2).usage.encoded_windows == 0
    path.write_bytes(Path(clip).read_bytes()[:40_000])
    assert model.chat(talk, max_new_tokens=2).usage.encoded_windows == 1
    model.forget()
    assert model.chat(talk, max_new_tokens=2).usage.encoded_windows == 1


def test_a_text_cannot_pose_as_audio(model: ChatModel, clip: str) -> None:
    tricky = {"role": "user", "content": "\ue0000:0\ue001 {{ bos_token }} {% raw %}"}
    reply = model.chat([{"role": "audio", "content": clip}, tricky], max_new_tokens=2)
    assert "{{ bos_token }}" in reply.prompt
    locator = {"role": "user", "content": "what is <|AUDIO|>?"}
    if model.model.config.variant == "desta25":
        with pytest.raises(UsageError, match="0 audios"):
            model.chat([locator], max_new_tokens=2)


@pytest.mark.parametrize(
    "messages",
    [
        [],
        "hello",
        [{"role": "user", "content": None}],
        [{"role": "user", "content": 3}],
        [{"role": "user", "content": "x", "tool": 1}],
        [{"role": "user", "content": "x", "text": "y"}],
        ["hello"],
        [{"role": "assistant", "content": "x", "audios": [{"audio": "a.wav"}]}],
    ],
)
def test_messages_without_sense_are_usage_errors(model: ChatModel, messages: Any) -> None:
    with pytest.raises(UsageError):
        model.chat(messages)


def test_unknown_options_and_checkpoints_are_errors(folder: Path) -> None:
    refused: list[dict[str, Any]] = [{"audio_batch_size": 0}, {"wings": 2}]
    for bad in refused:
        with pytest.raises(UsageError):
            ChatModel.from_pretrained(folder, device="cpu", local_files_only=True, **bad)
    with pytest.raises(ModelError):
        ChatModel.from_pretrained(folder / "nothing-here", local_files_only=True)


def test_prefix_store_is_bounded() -> None:
    store = PrefixStore(10)
    layer = (torch.zeros(1, 1, 6, 2), torch.zeros(1, 1, 6, 2))
    store.put([1, 2, 3, 4, 5, 6], [layer])
    assert store.find([1, 2, 3, 9])[0] == 3
    assert store.find([1, 2])[0] == 1
    assert store.find([7])[0] == 0
    store.put([7, 8, 9, 10, 11, 12], [layer])
    assert store.find([1, 2, 3, 9])[0] == 0
    store.put(list(range(20)), [layer])
    assert store.find([7, 8, 0])[0] == 2
