"""Other models' transcripts beside our labels: local ones, and a server that fails in many ways."""

from __future__ import annotations

import copy
import io
import json
import sys
import threading
import time
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from audio_files import write_wav
from conftest import RunCli
from fakes import FakeEngine
from openai_server import Asked, Fake, Reply, serving
from tiny import tiny_clips
from whisper_meta_tiny import edit_json, save_whisper, tiny_heads, tiny_whisper_meta

from speechmeta.decoding.record import DecodedRecord
from speechmeta.decoding.whisper import Transcription
from speechmeta.errors import (
    EndpointError,
    MissingExtraError,
    ModelError,
    SpeechMetaError,
    UsageError,
)
from speechmeta.models.base import Aligner, told
from speechmeta.models.endpoint import Endpoint
from speechmeta.models.transcribers.base import Transcript, one_line
from speechmeta.models.transcribers.beside import TranscribedBeside
from speechmeta.models.transcribers.local import load_transcriber
from speechmeta.models.transcribers.remote import EndpointTranscriber
from speechmeta.models.whisper_meta.recognition import WhisperMetaRecognizer
from speechmeta.pipeline.analyzer import Analyzer
from speechmeta.pipeline.options import CallOptions, ModelOptions
from speechmeta.schema import CallReport

pytestmark = pytest.mark.slow

Sine = Callable[..., np.ndarray]


class Scripted:
    """A transcriber that says what it is told to, and keeps what it was given."""

    name, language, max_seconds = "scripted", None, 30.0

    def __init__(self, *texts: str | SpeechMetaError) -> None:
        self.texts = list(texts)
        self.heard: list[int] = []

    def transcribe(self, waveforms: Any, word_times: bool = False) -> list[Any]:
        self.heard += [len(item) for item in waveforms]
        said = [self.texts.pop(0) for _ in waveforms]
        return [Transcript(item) if isinstance(item, str) else item for item in said]


def tiny_recognizer() -> WhisperMetaRecognizer:
    torch.manual_seed(0)
    model, processor = tiny_whisper_meta(0, heads={"open": tiny_heads()}, default_heads=None)
    model.set_heads("open")
    return WhisperMetaRecognizer(model, processor, name="tiny")


@pytest.fixture(autouse=True)
def soon_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's pauses between repetitions are short."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.02)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)


def at(server: Fake, **options: Any) -> EndpointTranscriber:
    return EndpointTranscriber(Endpoint(server.address, **options), "m")


def samples_of(asked: Asked) -> int:
    """The length of the clip in a request."""
    begin = asked.body.index(b"RIFF")
    with wave.open(io.BytesIO(asked.body[begin:])) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 16_000)
        return int(file.getnframes())


# Beside the model


def test_the_transcript_is_the_others_and_all_else_stays(sine: Sine) -> None:
    clips = [sine(1.0, 16_000, 200), np.zeros(16_000, np.float32), sine(2.0, 16_000, 900)]
    engine, other = FakeEngine(), Scripted(" hello  \n there ", "second")
    beside = TranscribedBeside(engine, other)
    records = beside.decode(clips)
    assert [sorted(call[1]) for call in engine.calls] == [
        sorted(["SpeechActivity", "Gender", "Age", "Accent", "Emotion"])
    ]
    assert other.heard == [16_000, 32_000]
    assert all(isinstance(record, DecodedRecord) for record in records)
    values = [record.values for record in records if isinstance(record, DecodedRecord)]
    assert [value["Transcript"] for value in values] == ["hello  \n there", "", "second"]
    assert [value["Gender"] for value in values] == ["Male", None, "Female"]
    assert list(values[0]) == [*beside.fields]
    assert beside.info.transcriber == "scripted"


def test_fields_are_only_those_that_were_asked_for(sine: Sine) -> None:
    engine, other = FakeEngine(), Scripted("hello")
    clip = sine(1.0, 16_000)
    (record,) = TranscribedBeside(engine, other).decode([clip], ["Transcript"])
    assert isinstance(record, DecodedRecord)
    assert record.values == {"Transcript": "hello"}
    assert record.probabilities == {}
    assert engine.calls[-1][1] == ("SpeechActivity",)
    TranscribedBeside(engine, other).decode([clip], ["Gender"])
    assert engine.calls[-1][1] == ("Gender",)
    assert other.heard == [16_000]


def test_no_decoder_pass_is_made_on_a_model_with_heads() -> None:
    recognizer = tiny_recognizer()
    passes = []
    recognizer.transcripts.decode = lambda *_, **__: passes.append(1)  # type: ignore[method-assign,assignment]
    records = TranscribedBeside(recognizer, Scripted(*["hi"] * 3)).decode(tiny_clips(3))
    assert passes == []
    assert all(isinstance(r, DecodedRecord) and "Emotion" in r.values for r in records)


def test_words_of_a_foreign_text_get_times() -> None:
    recognizer = tiny_recognizer()
    assert isinstance(recognizer, Aligner)
    clips = tiny_clips(3, seconds=(1.5, 2.5))
    texts = ["I want to <|endoftext|> speak", "für zwölf Personen, señor", "word " * 200]
    found = recognizer.align(clips, texts)
    assert found[2] is None, "more than the context holds"
    for words, text, clip in zip(found[:2], texts, clips, strict=False):
        assert words is not None
        assert " ".join(word.word for word in words) == text
        times = [time for word in words for time in (word.start, word.end)]
        assert times == sorted(times)
        assert times[0] >= 0
        assert times[-1] <= len(clip) / 16_000
        assert all(0 < word.probability <= 1 for word in words)


def test_a_language_is_found_where_the_aligner_knows_several() -> None:
    recognizer = tiny_recognizer()
    recognizer.language = None
    (words,) = recognizer.align(tiny_clips(1), ["hello there"])
    assert words is not None
    assert [word.word for word in words] == ["hello", "there"]


def test_word_times_are_ours_or_said_to_be_missing(sine: Sine) -> None:
    call = (np.concatenate([sine(2.0, 16_000), np.zeros(16_000, np.float32)]), 16_000)
    fake = TranscribedBeside(FakeEngine(), Scripted("two words"))
    report = Analyzer.from_engine(fake).analyze_call(call, vad=False, word_times=True)
    assert report.turns[0].words is None
    assert report.turns[0].flags == ["words_not_aligned"]
    tiny = TranscribedBeside(tiny_recognizer(), Scripted("two words"))
    tiny.base.decode = FakeEngine().decode  # type: ignore[method-assign]
    report = Analyzer.from_engine(tiny).analyze_call(call, vad=False, word_times=True)
    assert [word.word for word in report.turns[0].words or []] == ["two", "words"]
    assert report.turns[0].flags == []


def test_a_turn_that_failed_keeps_its_labels_and_is_named(sine: Sine) -> None:
    call = (np.stack([sine(2.0, 16_000, hertz) for hertz in (200, 300, 400)]), 16_000)
    down = EndpointError("the server said 4111 1111 1111 1111", "look at it")
    beside = TranscribedBeside(FakeEngine(), Scripted("one", down, "three"))
    report = Analyzer.from_engine(beside).analyze_call(
        call, redact=True, vad=False, channels="split"
    )
    assert [turn.meta.transcript for turn in report.turns] == ["one", None, "three"]
    assert [turn.meta.gender for turn in report.turns] == ["Male"] * 3
    assert report.turns[1].flags == ["transcript_failed"]
    (failure,) = report.failures
    assert (failure.part, failure.turns, failure.hint) == ("transcript", [1], "look at it")
    assert "4111" not in report.model_dump_json()
    document = json.loads(report.model_dump_json())
    assert "Transcript" not in document["turns"][1]
    assert CallReport.model_validate(document).failures == report.failures
    assert report.coverage.skipped_seconds == 0


def test_a_piece_that_failed_leaves_the_others_text(sine: Sine) -> None:
    engine = FakeEngine()
    engine.max_seconds = 2.0
    beside = TranscribedBeside(engine, Scripted("one", *[EndpointError("no")] * 3))
    report = Analyzer.from_engine(beside).analyze_call((sine(3.5, 16_000), 16_000), vad=False)
    assert report.turns[0].meta.transcript == "one"
    assert report.turns[0].flags == ["transcript_failed"]
    assert report.failures[0].turns == [0]


def test_one_clip_without_a_transcript_is_an_error(sine: Sine) -> None:
    beside = TranscribedBeside(FakeEngine(), Scripted(EndpointError("down"), "two"))
    analyzer = Analyzer.from_engine(beside)
    results = analyzer.generate_meta_batch([(sine(1.0, 16_000), 16_000)] * 2)
    assert isinstance(results[0], EndpointError)
    assert not isinstance(results[1], SpeechMetaError)
    assert results[1].transcript == "two"


def test_a_foreign_text_becomes_one_line() -> None:
    assert one_line("a\n\tb\x00\u2028c  \ud800", 1.0) == "a b c ?"
    with pytest.raises(SpeechMetaError, match="caught in a loop"):
        one_line("la " * 400, 1.0)


# Local models


def save_wav2vec2(folder: Path) -> Path:
    from transformers import (
        Wav2Vec2Config,
        Wav2Vec2CTCTokenizer,
        Wav2Vec2FeatureExtractor,
        Wav2Vec2ForCTC,
    )

    folder.mkdir()
    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefghijklmnopqrstuvwxyz"]
    (folder / "vocab.json").write_text(json.dumps({c: n for n, c in enumerate(letters)}))
    tokenizer = Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))
    torch.manual_seed(1)
    config = Wav2Vec2Config(
        vocab_size=len(letters),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8, 8),
        conv_kernel=(400, 3),
        conv_stride=(160, 2),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
        pad_token_id=0,
    )
    Wav2Vec2ForCTC(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_moonshine(folder: Path) -> Path:
    from tiny import tiny_tokenizer
    from transformers import (
        MoonshineConfig,
        MoonshineForConditionalGeneration,
        Wav2Vec2FeatureExtractor,
    )

    tokenizer = tiny_tokenizer()
    torch.manual_seed(0)
    config = MoonshineConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        encoder_num_hidden_layers=1,
        decoder_num_hidden_layers=1,
        encoder_num_attention_heads=2,
        decoder_num_attention_heads=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        # Tied, it would repeat the token that it begins with.
        tie_word_embeddings=False,
    )
    MoonshineForConditionalGeneration(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_parakeet(folder: Path) -> Path:
    from tiny import tiny_tokenizer
    from transformers import (
        ParakeetCTCConfig,
        ParakeetFeatureExtractor,
        ParakeetForCTC,
        ParakeetTokenizer,
    )

    tokenizer = tiny_tokenizer("bytes")
    torch.manual_seed(0)
    config = ParakeetCTCConfig(
        vocab_size=len(tokenizer) + 1,
        pad_token_id=len(tokenizer),
        encoder_config={
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "subsampling_conv_channels": 8,
        },
    )
    ParakeetForCTC(config).save_pretrained(folder)
    bins = config.encoder_config.num_mel_bins
    ParakeetFeatureExtractor(feature_size=bins).save_pretrained(folder)
    ParakeetTokenizer(
        tokenizer_object=tokenizer.backend_tokenizer, pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(folder)
    return folder


def save_granite(folder: Path) -> Path:
    from tiny import tiny_tokenizer
    from transformers import (
        GraniteSpeechConfig,
        GraniteSpeechFeatureExtractor,
        GraniteSpeechForConditionalGeneration,
        GraniteSpeechProcessor,
    )

    tokenizer = copy.deepcopy(tiny_tokenizer("bytes"))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|audio|>"]})
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant: "
    )
    torch.manual_seed(2)
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {
        "model_type": "granite",
        "vocab_size": len(tokenizer),
        "intermediate_size": 32,
        "num_key_value_heads": 2,
        "eos_token_id": tokenizer.eos_token_id,
        "tie_word_embeddings": False,
    }
    hearing = {"input_dim": 160, "num_layers": 2, "hidden_dim": 32, "num_heads": 2}
    projector = {"encoder_hidden_size": 32, "cross_attention_frequency": 1, "vocab_size": 9}
    config = GraniteSpeechConfig(
        text_config={**small, **text},
        encoder_config={"output_dim": 8, "context_size": 50, **hearing},
        projector_config={**small, "intermediate_size": 32, **projector},
        audio_token_index=tokenizer.convert_tokens_to_ids("<|audio|>"),
        has_lora_adapter=False,
        tie_word_embeddings=False,
    )
    GraniteSpeechForConditionalGeneration(config).save_pretrained(folder)
    GraniteSpeechProcessor(GraniteSpeechFeatureExtractor(), tokenizer).save_pretrained(folder)
    return folder


def test_a_model_that_is_asked_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_granite(tmp_path / "model")
    transcriber = load_transcriber(folder, "cpu", "float32")
    clips = [*tiny_clips(3), np.zeros(50, np.float32)]
    found = transcriber.transcribe(clips)
    assert [type(item) for item in found] == [Transcript] * 4
    assert any(item.text for item in found if isinstance(item, Transcript))
    assert transcriber.transcribe(clips[1:2]) == found[1:2]
    assert isinstance(found[0], Transcript)
    assert found[0].flags == ("transcript_truncated",), "random weights write up to their budget"
    # An adapter that cannot be read would be left out in silence.
    (folder / "adapter_config.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match="the adapter in"):
        load_transcriber(folder, "cpu", "float32")


@pytest.mark.parametrize("save", [save_wav2vec2, save_moonshine, save_parakeet])
def test_any_speech_recognition_model_of_transformers(
    save: Callable[[Path], Path], tmp_path: Path
) -> None:
    transcriber = load_transcriber(save(tmp_path / "model"), "cpu", "float32")
    clips = [*tiny_clips(3), np.zeros(50, np.float32)]
    found = transcriber.transcribe(clips)
    assert [type(item) for item in found] == [Transcript] * 4
    texts = [item.text for item in found if isinstance(item, Transcript)]
    assert any(texts)
    assert transcriber.transcribe(clips[1:2]) == found[1:2], "a clip is heard by itself"
    if save is save_moonshine:
        # Random weights write up to the end of their budget, which is said.
        assert all(item.flags == ("transcript_truncated",) for item in found[:3])  # type: ignore[union-attr]
    with pytest.raises(UsageError, match="takes no language"):
        load_transcriber(tmp_path / "model", language="de")


def test_a_whisper_transcribes_in_our_class_with_words_of_its_own(tmp_path: Path) -> None:
    folder = save_whisper(tmp_path / "whisper")
    transcriber = load_transcriber(folder, "cpu", "float32", language="de")
    assert transcriber.language == "de"
    clips = tiny_clips(4)
    found = transcriber.transcribe(clips, word_times=True)
    assert all(isinstance(item, Transcript) for item in found)
    said = [item for item in found if isinstance(item, Transcript) and item.text]
    assert said
    assert all(item.words and item.confidence for item in said)


def test_no_code_of_a_transcriber_is_run(tmp_path: Path) -> None:
    folder = save_wav2vec2(tmp_path / "model")
    (folder / "own.py").write_text("raise SystemExit('run')")
    edit_json(folder / "config.json", model_type="own", auto_map={"AutoConfig": "own.Own"})
    with pytest.raises(ModelError):
        load_transcriber(folder)
    folder = save_moonshine(tmp_path / "other")
    edit_json(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.Own", None]})
    edit_json(folder / "config.json", attn_implementation="someone/kernel")
    with pytest.raises(ModelError, match="may be code from elsewhere"):
        load_transcriber(folder)


def test_what_does_not_transcribe_is_refused(tmp_path: Path) -> None:
    from transformers import BertConfig

    BertConfig().save_pretrained(tmp_path / "bert")
    with pytest.raises(ModelError, match="none that transcribes"):
        load_transcriber(tmp_path / "bert")
    folder = save_wav2vec2(tmp_path / "cut")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_transcriber(folder)
    with pytest.raises(ModelError, match="there is no checkpoint"):
        load_transcriber(tmp_path / "nowhere")


# A server


def test_clips_are_sent_as_they_are_and_come_back_in_order() -> None:
    clips = tiny_clips(6)

    def answer(asked: Asked, number: int) -> Reply:
        time.sleep(0.05 if number == 0 else 0.0)
        return Reply({"text": f"{samples_of(asked)} samples"})

    with serving(answer) as server:
        transcriber = EndpointTranscriber(Endpoint(server.address), "m-1", "de", "Acme")
        found = transcriber.transcribe(clips)
    assert found == [Transcript(f"{len(clip)} samples") for clip in clips]
    body = server.asked[0].body
    for field in (b'name="model"\r\n\r\nm-1', b'name="language"\r\n\r\nde', b"\r\n\r\nAcme"):
        assert field in body
    assert {asked.path for asked in server.asked} == {"/v1/audio/transcriptions"}
    assert transcriber.name == f"m-1 at {server.address}"


def test_so_many_are_sent_at_a_time_and_no_more() -> None:
    three = threading.Barrier(3)

    def answer(asked: Asked, number: int) -> Reply:
        # However slow they come, each waits for two others, and a while for one too many.
        three.wait(60)
        return Reply({"text": "hi"}, pause=0.05)

    with serving(answer) as server:
        at(server, concurrency=3).transcribe(tiny_clips(9))
    assert server.most == 3


def test_a_key_goes_only_where_it_belongs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "sk-admin")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Secret: sk-custom")
    monkeypatch.setenv("MY_KEY", "sk-mine")
    with serving(lambda *_: Reply({"text": "hi"})) as server:
        at(server).transcribe(tiny_clips(1))
        at(server, key_variable="MY_KEY").transcribe(tiny_clips(1))
    first, second = (
        {name.lower(): value for name, value in asked.headers.items()} for asked in server.asked
    )
    assert "authorization" not in first
    assert second["authorization"] == "Bearer sk-mine"
    assert not {"openai-organization", "openai-project"} & (first.keys() | second.keys())
    assert "sk-" not in str(first)
    assert str(second).count("sk-") == 1


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_what_may_pass_is_tried_again(status: int) -> None:
    def answer(_: Asked, number: int) -> Reply:
        return Reply({"text": "hi"}) if number == 2 else Reply({"error": "busy"}, status)

    with serving(answer) as server:
        assert at(server).transcribe(tiny_clips(1)) == [Transcript("hi")]
    assert len(server.asked) == 3


FAILING: dict[str, tuple[Reply, str]] = {
    "an error": (Reply({"error": {"message": "no\x1b[31m memory"}}, 500), r"500: no\\x1b.* memory"),
    "refused": (Reply({"error": {"message": "too long"}}, 400), "400: too long"),
    "no JSON": (Reply(b"{"), "cannot be read|without a text"),
    "a page": (Reply(b"<html>hello</html>", kind="text/html"), "without a text"),
    "no text": (Reply({"words": 1}), "without a text"),
    "a number": (Reply({"text": 1}), "without a text"),
    "a list": (Reply(["text"]), "cannot be read|without a text"),
    "deep JSON": (Reply(b'{"text":' + b"[" * 100_000), "cannot be read"),
    "too much": (Reply({"text": "x" * (5 << 20)}), "more than 4 MiB"),
    "talkative": (Reply({"text": "la " * 10_000}), "caught in a loop"),
    "packed": (
        Reply({"text": "hi"}, headers={"Content-Encoding": "gzip"}),
        "packed its answer",
    ),
    "elsewhere": (Reply("", 307, headers={"Location": "http://127.0.0.1:9/v1"}), "answered 307"),
    "cut": (Reply({"text": "hello there"}, cut=True), "broke the connection off"),
    "slow": (Reply({"text": "hi"}, pause=1.0), "within 0.5 s"),
    "dripping": (Reply({"text": "hello"}, drip=0.1), "within 0.5 s"),
    "later": (Reply("", 429, headers={"Retry-After": "60"}), "within 0.5 s"),
}


@pytest.mark.parametrize("name", FAILING)
def test_a_turn_that_fails_is_one_error_and_the_others_stay(name: str) -> None:
    reply, message = FAILING[name]
    clips = tiny_clips(3)

    def answer(asked: Asked, _: int) -> Reply:
        return reply if samples_of(asked) == len(clips[1]) else Reply({"text": "fine"})

    patient = name in ("slow", "dripping", "later")
    with serving(answer) as server:
        found = at(server, seconds=0.5 if patient else 20.0).transcribe(clips)
    assert found[0] == found[2] == Transcript("fine")
    assert isinstance(found[1], SpeechMetaError)
    with pytest.raises(SpeechMetaError, match=message):
        raise found[1]


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_server_that_refuses_all_is_asked_no_more(status: int) -> None:
    with serving(lambda *_: Reply({"error": {"message": "no"}}, status)) as server:
        found = at(server, concurrency=2).transcribe(tiny_clips(20, seconds=(0.1, 0.2)))
    assert all(isinstance(item, EndpointError) for item in found)
    assert len(found) == 20
    assert len(server.asked) <= 2


def test_a_server_that_is_down_is_said_once_for_all_turns() -> None:
    with serving(lambda *_: Reply("")) as server:
        pass
    found = at(server).transcribe(tiny_clips(20, seconds=(0.1, 0.2)))
    assert {str(item) for item in found} == {str(found[0])}
    assert "cannot be reached" in str(found[0])


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://", "cannot be read"),
        ("http://[::1", "cannot be read"),
        ("http://host:port/v1", "cannot be read"),
        ("https://me:secret@host/v1", "holds a user"),
        ("https://host/v1?key=secret", "holds a user, a query"),
    ],
)
def test_an_address_that_is_none_or_holds_a_secret(address: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        Endpoint(address)
    assert "secret" not in str(caught.value)


def test_options_that_do_not_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no model of it"):
        ModelOptions(transcriber="http://127.0.0.1:1/v1")
    with pytest.raises(UsageError, match="without the address"):
        ModelOptions(transcriber="openai/whisper-tiny", transcriber_model="m")
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(UsageError, match="is not set") as caught:
        Endpoint("http://127.0.0.1:1/v1", "sk-12345")
    assert "sk-12345" not in str(caught.value)
    with pytest.raises(UsageError, match="another machine"):
        Endpoint("https://api.example.com/v1").check_offline(True)
    Endpoint("http://127.0.0.1:1/v1").check_offline(True)


def test_a_server_that_repeats_the_key_does_not_make_us_repeat_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-mine")
    refusal = Reply({"error": {"message": "Incorrect API key provided: sk-mine"}}, 401)
    with serving(lambda *_: refusal) as server:
        (error,) = at(server, key_variable="MY_KEY").transcribe(tiny_clips(1))
    assert "Incorrect API key provided: [key]" in str(error)
    monkeypatch.setenv("MY_KEY", "sk-\u20ac")
    with pytest.raises(UsageError, match="characters that no key has") as caught:
        Endpoint(server.address, "MY_KEY")
    assert "sk-" not in str(caught.value)


def test_one_clip_that_breaks_the_connection_off_leaves_the_others() -> None:
    clips = tiny_clips(6)

    def answer(asked: Asked, _: int) -> Reply:
        return Reply({"text": "fine"}, cut=samples_of(asked) == len(clips[0]))

    with serving(answer) as server:
        found = at(server, concurrency=1).transcribe(clips)
    assert isinstance(found[0], EndpointError)
    assert found[1:] == [Transcript("fine")] * 5


def test_a_recording_of_which_more_is_known(tmp_path: Path) -> None:
    with serving(lambda *_: Reply({"text": "hi"})) as server:
        engine = told(TranscribedBeside(FakeEngine(), at(server)), "de", "Acme")
        assert engine.info.language == "de"
        engine.decode(tiny_clips(1))
    assert b"\r\n\r\nde\r\n" in server.asked[0].body
    assert b"\r\n\r\nAcme\r\n" in server.asked[0].body
    whisper = load_transcriber(save_whisper(tmp_path / "whisper"), "cpu", "float32")
    assert told(TranscribedBeside(FakeEngine(), whisper), "fr", None).info.language == "fr"
    with pytest.raises(UsageError, match="does not know the language"):
        told(TranscribedBeside(FakeEngine(), whisper), "xx", None)
    with pytest.raises(UsageError, match="takes no language"):
        told(TranscribedBeside(FakeEngine(), Scripted()), "de", None)


def test_the_server_of_this_package_is_a_transcriber() -> None:
    from serving import running

    with running(CallOptions(vad=False)) as live:
        transcriber = EndpointTranscriber(Endpoint(f"{live.address}/v1"), "whisper-1")
        clips = tiny_clips(3, seconds=(1.0, 2.0))
        found = transcriber.transcribe(clips)
        records = live.engine.decode(clips, ["Transcript"])
    said = [r.values["Transcript"] for r in records if isinstance(r, DecodedRecord)]
    assert found == [Transcript(str(text)) for text in said]


def test_it_works_where_a_loop_runs_already() -> None:
    import asyncio

    async def notebook(server: Fake) -> Any:
        return at(server).transcribe(tiny_clips(1))

    with serving(lambda *_: Reply({"text": "hi"})) as server:
        assert asyncio.run(notebook(server)) == [Transcript("hi")]


def test_the_command_keeps_the_call_and_says_what_failed(
    run_cli: RunCli, tmp_path: Path, sine: Sine, bundled_dir: Path
) -> None:
    from voices import speak

    del bundled_dir
    said = speak("Good morning, how can I help you?", rate=16_000)
    gap = np.zeros(24_000, np.float32)
    path = write_wav(tmp_path / "call.wav", np.concatenate([said, gap, said, gap]), 16_000)

    def answer(_: Asked, number: int) -> Reply:
        return Reply({"text": "Good morning"}) if number == 0 else Reply({"error": "no"}, 400)

    with serving(answer) as server:
        flags = ["--transcriber", server.address, "--transcriber-model", "m", "--json"]
        result = run_cli("analyze", path, *flags, "--word-times", "--transcriber-requests", "1")
    assert result.code == 1
    document = json.loads(result.stdout)
    assert document["model"]["name"] == "bundled"
    assert document["model"]["transcriber"] == f"m at {server.address}"
    assert document["turns"][0]["Transcript"] == "Good morning"
    assert [word["word"] for word in document["turns"][0]["words"]] == ["Good", "morning"]
    assert "Transcript" not in document["turns"][1]
    assert document["turns"][1]["Gender"]
    assert "no transcript of 1 turn" in result.stderr
    assert "answered 400" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_whisper_without_heads_takes_one_pass_to_tell_speech(tmp_path: Path) -> None:
    from speechmeta.models.loading import load_model

    model, processor = load_model(save_whisper(tmp_path / "whisper"), "cpu", "float32")
    recognizer = WhisperMetaRecognizer(model, processor, name="tiny", language="en")
    passes: list[tuple[int, list[int]]] = []
    decode = recognizer.transcripts.decode

    def counted(*args: Any, **kwargs: Any) -> Any:
        written = decode(*args, **kwargs)
        passes.extend((i.passes, i.token_ids) for i in written if isinstance(i, Transcription))
        return written

    recognizer.transcripts.decode = counted  # type: ignore[method-assign]
    records = TranscribedBeside(recognizer, Scripted(*["hi"] * 3)).decode(tiny_clips(3))
    assert passes == [(1, [])] * 3
    assert [list(r.values) for r in records if isinstance(r, DecodedRecord)] == [
        ["SpeechActivity", "Transcript"]
    ] * 3
