"""Whisper checkpoints through the pipeline: fields, speech, languages, batches, bad folders."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from audio_files import write_wav
from safetensors.torch import load_file, save_file
from tiny import tiny_clips
from whisper_meta_tiny import SECONDS, edit_json, save_whisper, tiny_heads, tiny_whisper_meta

from speechmeta.decoding.record import DecodedRecord
from speechmeta.errors import ModelError, SpeechMetaError, UsageError
from speechmeta.models.loading import load_model, load_speech_model
from speechmeta.models.whisper_meta.calibration import calibrated
from speechmeta.models.whisper_meta.recognition import WhisperMetaRecognizer, joint
from speechmeta.pipeline.analyzer import Analyzer
from speechmeta.pipeline.options import CallOptions
from speechmeta.schema import FIELDS, LABEL_FIELDS
from speechmeta.server.lanes import LaneModel

pytestmark = pytest.mark.slow

RunCli = Callable[..., Any]


def recognizer(
    speech: float | None = 3.0, taught: bool = False, **options: Any
) -> WhisperMetaRecognizer:
    """A tiny model whose SpeechActivity head always gives the same log odds; None: no heads."""
    heads = {"open": tiny_heads()} if speech is not None else None
    model, processor = tiny_whisper_meta(
        heads=heads,
        default_heads="open" if heads else None,
        config={"no_speech_taught": taught, "licence": "MIT"},
    )
    if speech is not None:
        assert model.label_heads is not None
        head: Any = model.label_heads.linear["SpeechActivity"]
        with torch.no_grad():
            head.weight.zero_()
            head.bias.copy_(torch.tensor([speech, 0.0]))
    return WhisperMetaRecognizer(model, processor, name="tiny", **options)


def records(found: list[DecodedRecord | SpeechMetaError]) -> list[DecodedRecord]:
    good = [item for item in found if isinstance(item, DecodedRecord)]
    assert len(good) == len(found), found
    return good


def test_all_six_fields_come_in_one_pass_of_encoder_and_decoder() -> None:
    model = recognizer()
    assert model.fields == FIELDS
    for record in records(model.decode(tiny_clips(3))):
        assert tuple(record.values) == FIELDS
        assert record.values["SpeechActivity"] is True
        for field in LABEL_FIELDS:
            table = record.probabilities[field]
            assert math.isclose(sum(table.values()), 1.0, rel_tol=1e-9)
            assert record.values[field] == max(table, key=table.__getitem__)
        assert record.text == record.values["Transcript"] != ""
        if not record.flags:
            # A loop is written before it is cut, so that its record takes more passes.
            assert record.forward_passes <= record.transcript_tokens + 2
        assert 0.0 < (record.transcript_confidence or 0.0) < 1.0
        assert record.language == "en"
        record.to_meta(model.label_sets)


def test_what_a_head_gives_costs_no_pass_of_the_decoder() -> None:
    labels = ("SpeechActivity", "Gender", "Emotion")
    for record in records(recognizer().decode(tiny_clips(2), labels)):
        assert (record.forward_passes, tuple(record.values)) == (0, labels)


def test_a_clip_that_the_head_calls_no_speech_never_reaches_the_decoder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = recognizer(speech=-3.0)

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("the decoder was asked")

    monkeypatch.setattr(model.transcripts, "decode", fail)
    for record in records(model.decode(tiny_clips(2))):
        assert record.values == {
            "SpeechActivity": False, "Transcript": "", **dict.fromkeys(LABEL_FIELDS),
        }  # fmt: skip
        assert record.probabilities["SpeechActivity"]["False"] == pytest.approx(0.9526, abs=1e-4)
        record.to_meta(model.label_sets)


def test_head_and_decoder_together_say_whether_there_is_speech(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = recognizer(speech=1.0, taught=True)
    limit = 1 / (1 + math.exp(-1.0))
    decode = model.transcripts.decode
    seen: list[Any] = []

    def silent(*args: Any, **kwargs: Any) -> Any:
        seen.append(kwargs["no_speech_above"])
        found: Any = decode(*args, **kwargs)
        for item, chance in zip(found, (limit - 0.01, limit + 0.01), strict=True):
            item.no_speech_probability = chance
        return found

    monkeypatch.setattr(model.transcripts, "decode", silent)
    first, second = records(model.decode(tiny_clips(2, seconds=(1.0, 1.01))))
    assert seen == [[pytest.approx(limit), pytest.approx(limit)]]
    assert {first.values["SpeechActivity"], second.values["SpeechActivity"]} == {True, False}
    assert joint(0.8, 0.2) == pytest.approx(0.5)
    assert joint(1.0, 0.0) == pytest.approx(0.5)
    assert joint(0.9, 0.9) == pytest.approx(0.9)


def test_a_checkpoint_without_heads_gives_speech_and_words() -> None:
    model = recognizer(speech=None)
    assert model.fields == ("SpeechActivity", "Transcript")
    assert model.info.heads is None
    for record in records(model.decode(tiny_clips(2))):
        assert tuple(record.values) == ("SpeechActivity", "Transcript")
        spoken = record.probabilities["SpeechActivity"]["True"] >= 0.5
        assert record.values["SpeechActivity"] is spoken
        assert bool(record.values["Transcript"]) is spoken
    with pytest.raises(UsageError, match="does not give Gender, only SpeechActivity") as caught:
        model.decode(tiny_clips(1), ("Gender",))
    assert "bundled" in caught.value.hint


def test_a_batch_gives_what_its_clips_give_alone() -> None:
    model = recognizer()
    clips = tiny_clips(6, seed=4, seconds=(0.2, SECONDS - 0.6))
    together = records(model.decode(clips))
    for clip, record in zip(clips, together, strict=True):
        alone = records(model.decode([clip]))[0]
        assert alone.values == record.values
        for field, table in alone.probabilities.items():
            assert record.probabilities[field] == pytest.approx(table, abs=1e-5)
        assert record.transcript_confidence == pytest.approx(alone.transcript_confidence, abs=1e-5)


def test_clips_that_cannot_be_heard_cost_only_themselves() -> None:
    good = tiny_clips(1)[0]
    found = recognizer().decode([good, np.zeros(0, np.float32), good * np.nan, good])
    assert [isinstance(item, SpeechMetaError) for item in found] == [False, True, True, False]


def test_temperature_and_prior_shape_the_probabilities() -> None:
    plain = calibrated(["a", "b"], [2.0, 0.0], {}, 3.0)
    assert plain["a"] == pytest.approx(1 / (1 + math.exp(-2)))
    cooler = calibrated(["a", "b"], [2.0, 0.0], {"temperature": 2.0}, 3.0)
    assert cooler["a"] == pytest.approx(1 / (1 + math.exp(-1)))
    rare = calibrated(["a", "b"], [0.0, 0.0], {"prior": {"a": 0.9, "b": 0.1}}, 3.0)
    assert rare["b"] == pytest.approx(0.9)
    assert set(calibrated(["true", "false"], [0.0, 1.0], {}, 3.0)) == {"True", "False"}
    head = {"temperature": 1.0, "short": {"seconds": 1.0, "temperature": 2.0}}
    assert calibrated(["a", "b"], [2.0, 0.0], head, 0.9) == pytest.approx(cooler)
    assert calibrated(["a", "b"], [2.0, 0.0], head, 1.0) == pytest.approx(plain)


def test_short_clips_abstain_where_long_ones_do_not() -> None:
    short = {"seconds": 1.0, "abstain_below": 1.0}
    model, processor = tiny_whisper_meta(
        heads={"open": tiny_heads(Gender={"short": short})}, default_heads="open"
    )
    engine = WhisperMetaRecognizer(model, processor, name="tiny")
    for seconds, withheld in ((0.6, True), (1.5, False)):
        record = records(engine.decode(tiny_clips(1, seconds=(seconds, seconds + 0.01))))[0]
        if record.values["SpeechActivity"]:
            meta = record.to_meta(engine.label_sets, engine.thresholds)
            assert (meta.gender is None) is withheld
            assert record.to_meta(engine.label_sets, 0.0).gender is not None


def test_thresholds_of_the_checkpoint_are_those_of_each_field() -> None:
    heads = {"open": tiny_heads(Emotion={"abstain_below": 0.99}, Age={"abstain_below": 0.0})}
    model, processor = tiny_whisper_meta(heads=heads, default_heads="open")
    engine = WhisperMetaRecognizer(model, processor, name="tiny")
    assert engine.thresholds["Emotion"] == 0.99
    analyzer = Analyzer.from_engine(engine)
    noise = (tiny_clips(1, seconds=(2.0, 2.1))[0], 16_000)
    report = analyzer.analyze_call(noise, vad=False)
    for turn in report.turns:
        if turn.meta.speech_activity:
            assert turn.meta.emotion is None
            assert turn.meta.age is not None
            assert turn.confidence["Emotion"] < 0.99
    again = analyzer.analyze_call(noise, vad=False, min_confidence=0.0)
    assert all(turn.meta.emotion for turn in again.turns if turn.meta.speech_activity)


def test_long_clips_are_cut_to_what_the_model_hears() -> None:
    engine = recognizer()
    analyzer = Analyzer.from_engine(engine)
    noise = tiny_clips(1, seconds=(9.0, 9.1))[0]
    record = analyzer.decode([noise])[0]
    assert isinstance(record, DecodedRecord)
    assert engine.max_seconds == SECONDS - 0.5
    assert record.forward_passes > 3


def test_the_document_says_which_model_heads_and_language() -> None:
    info = recognizer(language="de").info.model_dump()
    assert info == {
        "name": "tiny", "architecture": "whisper_meta", "device": "cpu", "dtype": "float32",
        "licence": "MIT AND Apache-2.0", "heads": "open", "language": "de",
    }  # fmt: skip


def test_the_language_is_given_or_detected_turn_by_turn() -> None:
    model, processor = tiny_whisper_meta(config={"language": None})
    engine = WhisperMetaRecognizer(model, processor, name="tiny")
    assert engine.info.language is None
    record = records(engine.decode(tiny_clips(1)))[0]
    assert record.language in ("en", "de", "fr")
    report = Analyzer.from_engine(engine).analyze_call((tiny_clips(1)[0], 16_000), vad=False)
    for turn in report.turns:
        if turn.meta.transcript:
            assert json.loads(turn.model_dump_json())["language"] == turn.language
    for named in ("de", "DE", "German", " german "):
        named_engine = WhisperMetaRecognizer(model, processor, name="tiny", language=named)
        assert named_engine.info.language == "de"
    with pytest.raises(UsageError, match="'xx'") as caught:
        WhisperMetaRecognizer(model, processor, name="tiny", language="xx")
    assert "de, en, fr" in caught.value.hint
    english, its = tiny_whisper_meta(multilingual=False)
    assert WhisperMetaRecognizer(english, its, name="t", language="en").info.language == "en"
    assert WhisperMetaRecognizer(english, its, name="t", language="English").info.language == "en"
    with pytest.raises(UsageError, match="English only"):
        WhisperMetaRecognizer(english, its, name="tiny", language="de")


def test_a_checkpoint_tuned_for_one_language_takes_no_other() -> None:
    """The bundled one has the vocabulary of all languages, and writes English whatever is asked."""
    model, processor = tiny_whisper_meta()
    generation = model.generation_config
    generation.lang_to_id = {"<|en|>": generation.lang_to_id["<|en|>"]}
    engine = WhisperMetaRecognizer(model, processor, name="tiny", language="English")
    assert engine.info.language == "en"
    assert engine.told("en", None).decode(tiny_clips(1))
    for other in ("de", "German", "xx"):
        with pytest.raises(UsageError, match=f"knows English only, not '{other}'") as caught:
            WhisperMetaRecognizer(model, processor, name="tiny", language=other)
        assert "--model" in caught.value.hint
        with pytest.raises(UsageError, match="knows English only"):
            LaneModel(Analyzer.from_engine(engine)).lane(CallOptions(), other)


@pytest.mark.slow
def test_the_bundled_model_takes_english_only(bundled_analyzer: Analyzer) -> None:
    engine = bundled_analyzer.engine
    assert isinstance(engine, WhisperMetaRecognizer)
    assert engine.told("en", None).info.language == "en"
    with pytest.raises(UsageError, match="knows English only"):
        engine.told("de", None)


def test_int8_and_bfloat16_give_nearly_what_float32_gives(tmp_path: Path) -> None:
    model, processor = tiny_whisper_meta(spread=0.05)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    clips = tiny_clips(2)
    plain, _ = load_model(tmp_path, "cpu", "float32")
    inputs = processor(audio=clips, sampling_rate=16_000)
    wanted = plain.encode(**inputs).last_hidden_state
    for dtype, worst in (("int8", 0.1), ("bfloat16", 0.1)):
        other, _ = load_model(tmp_path, "cpu", dtype)
        got = other.encode(**inputs).last_hidden_state.float()
        assert 0 < float((got - wanted).abs().mean()) < worst
        found = WhisperMetaRecognizer(other, processor, name=dtype).decode(clips)
        assert len(records(found)) == 2


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return save_whisper(tmp_path / "plain")


@pytest.fixture
def full(tmp_path: Path) -> Path:
    heads = {"open": tiny_heads(), "research": tiny_heads(file="heads-research.safetensors")}
    model, processor = tiny_whisper_meta(heads=heads, default_heads="open")
    folder = tmp_path / "full"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    edit_json(folder / "config.json", heads=heads)
    shutil.copy(folder / "heads.safetensors", folder / "heads-research.safetensors")
    return folder


def test_heads_are_chosen_by_name(full: Path, plain: Path) -> None:
    assert load_speech_model(full, "cpu").info.heads == "open"
    assert load_speech_model(full, "cpu", heads="research").info.heads == "research"
    with pytest.raises(UsageError, match="no heads 'secret'") as caught:
        load_speech_model(full, "cpu", heads="secret")
    assert caught.value.hint == "choose open or research"
    with pytest.raises(UsageError, match="no label heads"):
        load_speech_model(plain, "cpu", heads="open")


def test_a_processor_of_the_hub_without_tokenizer_json_is_read(plain: Path) -> None:
    data = json.loads((plain / "tokenizer.json").read_text())
    (plain / "vocab.json").write_text(json.dumps(data["model"]["vocab"]))
    merges = [
        " ".join(item) if isinstance(item, list) else item for item in data["model"]["merges"]
    ]
    (plain / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    added = {item["content"]: item["id"] for item in data["added_tokens"]}
    (plain / "added_tokens.json").write_text(json.dumps(added))
    (plain / "tokenizer.json").unlink()
    (plain / "tokenizer_config.json").unlink()
    _, processor = load_model(plain, "cpu")
    assert (
        processor.tokenizer.convert_tokens_to_ids("<|notimestamps|>") == added["<|notimestamps|>"]
    )


def without_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def damaged_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")


def other_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace("<|startoftranscript|>", "<|somethingelse|>"))


def other_shapes(folder: Path) -> None:
    edit_json(folder / "config.json", d_model=64)


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def pickled_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def other_mel_bins(folder: Path) -> None:
    edit_json(folder / "preprocessor_config.json", feature_size=128)


def missing_layer(folder: Path) -> None:
    path = folder / "model.safetensors"
    state = load_file(path)
    del state["model.decoder.layers.1.fc1.weight"]
    save_file(state, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_tokenizer, "has no tokenizer"),
        (damaged_tokenizer, "cannot load"),
        (other_tokenizer, r"no <\|startoftranscript\|>"),
        (other_shapes, "wrong shapes"),
        (without_weights, "no safetensors weights"),
        (pickled_weights, "no safetensors weights, only pytorch_model.bin"),
        (other_mel_bins, "takes 80 mel bins"),
        (missing_layer, r"lacks whisper\.model\.decoder\.layers\.1\.fc1\.weight"),
    ],
)
def test_a_folder_that_cannot_be_loaded_is_one_line(
    plain: Path, spoil: Callable[[Path], None], message: str, run_cli: RunCli, tmp_path: Path
) -> None:
    spoil(plain)
    with pytest.raises(ModelError, match=message):
        load_speech_model(plain, "cpu")
    call = write_wav(tmp_path / "call.wav", tiny_clips(1)[0], 16_000)
    done = run_cli("analyze", call, "--model", plain, "--json")
    assert done.code == 1
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_heads_for_another_encoder_are_refused(full: Path) -> None:
    state = load_file(full / "heads.safetensors")
    save_file(
        {name: item[..., :-2].contiguous() for name, item in state.items()},
        full / "heads.safetensors",
    )
    with pytest.raises(ModelError, match=r"the heads .*heads\.safetensors has .* for \["):
        load_speech_model(full, "cpu")
    (full / "heads.safetensors").unlink()
    with pytest.raises(ModelError, match=r"lacks heads\.safetensors"):
        load_speech_model(full, "cpu")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--fields", "Gender"), "does not give Gender"),
        (("--language", "xx"), "does not know the language 'xx'"),
        (("--heads", "open"), "no label heads"),
        (("--compute-type", "int4"), "int4"),
    ],
)
def test_usage_errors_of_the_command_are_one_line_and_code_2(
    plain: Path, options: tuple[str, ...], said: str, run_cli: RunCli, tmp_path: Path
) -> None:
    call = write_wav(tmp_path / "call.wav", tiny_clips(1)[0], 16_000)
    done = run_cli("analyze", call, call, "--model", plain, "--json", *options)
    assert done.code == 2
    assert done.stdout == ""
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_the_command_analyses_the_other_files(plain: Path, run_cli: RunCli, tmp_path: Path) -> None:
    call = write_wav(tmp_path / "call.wav", tiny_clips(1, seconds=(2.0, 2.1))[0], 16_000)
    (tmp_path / "broken.wav").write_bytes(b"nothing")
    done = run_cli(
        "analyze", tmp_path / "broken.wav", call, "--model", plain, "--json", "--no-vad",
        "--language", "de", "--hotwords", "Acme, SKU-42",
    )  # fmt: skip
    assert done.code == 1
    broken, good = map(json.loads, done.stdout.splitlines())
    assert "error" in broken
    assert good["model"]["language"] == "de"
    assert set(good["turns"][0]) >= {"SpeechActivity", "Transcript"}
    assert "Gender" not in good["turns"][0]
