"""Format following: what is counted, the clips, this package's answers and those of audio LLMs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile

from speechmeta.audio.loading import Audio, load_audio
from speechmeta.errors import DecodingError, ModelError, SpeechMetaError
from speechmeta.eval.audio_llm import AudioLLM
from speechmeta.eval.format_following import (
    THREE_TASKS,
    AnalyzerAnswers,
    Asking,
    as_dataset,
    asked_fields,
    instruction,
    judge,
    summarise,
)
from speechmeta.eval.hard_clips import CONDITIONS, HardClip, hard_clips
from speechmeta.eval.run import Journal, RunOptions, run
from speechmeta.schema import FIELDS

GOOD = '{"Transcript": "Hello.", "Gender": "Female", "Emotion": null}'


@pytest.mark.parametrize(
    ("answer", "parses", "exact", "valid", "fenced"),
    [
        (GOOD, True, True, True, False),
        (f"  {GOOD}\n", True, True, True, False),
        (f"```json\n{GOOD}\n```", False, True, True, True),
        (f"Here it is: {GOOD}", False, False, False, False),
        (GOOD.replace('"Emotion"', '"Mood"'), True, False, False, False),
        (GOOD.replace(', "Emotion": null', ""), True, False, True, False),
        (GOOD.replace('"Female"', '"Woman"'), True, True, False, False),
        (GOOD.replace('"Hello."', "7"), True, True, False, False),
        (GOOD[:-1] + ', "Gender": "Male"}', False, False, False, False),
        (GOOD[:-1], False, False, False, False),
        (f"[{GOOD}]", False, False, False, False),
        ("[" * 100_000, False, False, False, False),
        ("", False, False, False, False),
        (None, False, False, False, False),
    ],
)
def test_an_answer_is_judged(
    answer: str | None, parses: bool, exact: bool, valid: bool, fenced: bool
) -> None:
    found = judge(answer, THREE_TASKS)
    assert (found.parses, found.exact, found.valid, found.fenced) == (parses, exact, valid, fenced)
    assert found.follows == (parses and exact and valid)
    assert found.follows_in_fence == ((parses or fenced) and exact and valid)


def test_labels_without_speech_do_not_fit_the_schema() -> None:
    answer = '{"SpeechActivity": false, "Gender": "Male"}'
    assert judge(answer, ("SpeechActivity", "Gender")).valid is False


def test_fields_vary_from_clip_to_clip_and_are_the_same_again() -> None:
    asked = [asked_fields(f"1-{number:05}") for number in range(300)]
    assert asked == [asked_fields(f"1-{number:05}") for number in range(300)]
    assert {len(fields) for fields in asked} == {1, 2, 3, 4, 5, 6}
    assert 60 < sum(fields == THREE_TASKS for fields in asked) < 160
    assert len(set(asked)) > 30
    text = instruction(("Gender", "Transcript"))
    assert '"Gender": one of "' in text
    assert "Accent" not in text


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "voice.wav"
    times = np.arange(16000 * 4) / 16000
    soundfile.write(path, np.sin(2 * np.pi * 180 * times) * (0.3 + 0.2 * np.sin(9 * times)), 16000)
    return path


def test_hard_clips_are_readable_different_and_the_same_again(recording: Path) -> None:
    clips = hard_clips([recording], 3 * len(CONDITIONS), 5)
    assert clips[: len(CONDITIONS)] == hard_clips([recording], len(CONDITIONS), 5)
    assert [clip.condition for clip in clips[: len(CONDITIONS)]] == list(CONDITIONS)
    files = [clip.file() for clip in clips]
    for clip, data in zip(clips, files, strict=True):
        # The bytes may differ: some formats note the time.
        assert np.array_equal(load_audio(clip.file()).waveform, load_audio(data).waveform)
    assert len(set(files)) == len(files)
    made = {clip.condition: load_audio(data) for clip, data in zip(clips, files, strict=True)}
    assert made["odd sample rate"].sample_rate != 16000
    assert made["telephone codec"].sample_rate == 8000
    assert made["two channels, offset"].channels == 2
    assert made["under an eighth of a second"].duration <= 0.125
    assert np.abs(made["silence"].waveform).max() < 0.01
    loud = np.abs(made["clipping"].waveform)
    assert (loud > 0.999).mean() > 0.2
    with pytest.raises(ValueError, match="no recordings"):
        hard_clips([], 1, 5)


class Sloppy:
    """Answers all that is asked, but forgets a field of the tones and fails in silence."""

    def describe(self) -> dict[str, Any]:
        return {"name": "sloppy", "fields": list(FIELDS)}

    def answer(self, audios: Sequence[Audio], fields: Sequence[str]) -> list[Any]:
        found: list[str | SpeechMetaError] = []
        for audio in audios:
            assert audio.sample_rate == 16000
            if np.abs(audio.waveform).max() < 0.01:
                found.append(DecodingError("too quiet"))
            else:
                keys = fields if audio.duration > 0.125 else fields[1:]
                found.append(json.dumps(dict.fromkeys(keys)))
        return found


def test_a_run_is_counted_by_condition_and_goes_on_with_more(
    recording: Path, tmp_path: Path
) -> None:
    answers = tmp_path / "answers.jsonl"
    summaries = []
    for count in (20, 40):
        clips = hard_clips([recording], count, 5)
        clips[2] = HardClip(clips[2].name, "cut file", tmp_path / "absent.wav")
        journal = Journal(answers, {"seed": 5}, resume=True)
        before = len(journal.records)
        records = run(as_dataset(clips), Asking(Sloppy(), clips), journal, RunOptions(batch_size=7))
        summaries.append((before, summarise(records)))
    lines = [json.loads(line) for line in answers.read_text().splitlines()[1:]]
    assert [line["id"] for line in lines[:17]] == sorted(line["id"] for line in lines[:17])
    # Failed clips are tried again.
    assert summaries[0][0] == 0
    assert summaries[1][0] == 17
    counts = summaries[1][1]
    whole, conditions = counts["all"], counts["by condition"]
    assert set(conditions) == set(CONDITIONS)
    assert (whole["n"], whole["unreadable"], whole["errors"]) == (40, 1, 5)
    assert (conditions["silence"]["errors"], conditions["silence"]["follows"]) == (4, 0)
    assert (conditions["as recorded"]["n"], conditions["as recorded"]["follows"]) == (4, 4)
    short = conditions["under an eighth of a second"]
    assert (short["parses"], short["exact_fields"], short["follows"]) == (4, 0, 0)
    assert whole["follows"] == 40 - 5 - 4
    assert whole["follows_share"] == pytest.approx(31 / 40)
    assert 0.6 < whole["at_least_95"] < 31 / 40
    assert sum(row["n"] for row in counts["by number of fields"].values()) == 40
    assert counts["three tasks in one JSON"]["n"] > 5


def test_our_answers_are_the_json_that_callers_get(recording: Path) -> None:
    said = SimpleNamespace(model_dump_json=lambda: '{"Gender":null}')
    told: list[Any] = []

    def generate(audios: Any, fields: Any) -> list[Any]:
        told.append(fields)
        return [said, DecodingError("lost")]

    info = SimpleNamespace(model_dump=lambda: {"name": "bundled"})
    analyzer: Any = SimpleNamespace(info=info, label_sets={}, generate_meta_batch=generate)
    answers = AnalyzerAnswers(analyzer)
    found = answers.answer([load_audio(recording)] * 2, ("Gender",))
    assert (found[0], str(found[1]), told) == ('{"Gender":null}', "lost", [("Gender",)])
    assert answers.describe()["name"] == "bundled"


TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}\n{% endfor %}assistant: "
)
TEXT_TEMPLATE = (
    "{% for message in messages %}{% if message['content'] is string %}"
    "{{ message['content'] }}{% endif %}{% endfor %}"
)


def tiny_qwen_audio(folder: Path, template: str = TEMPLATE) -> Path:
    """A random Qwen2-Audio that hears one second."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        PreTrainedTokenizerFast,
        Qwen2AudioConfig,
        Qwen2AudioEncoderConfig,
        Qwen2AudioForConditionalGeneration,
        Qwen2AudioProcessor,
        Qwen2Config,
        WhisperFeatureExtractor,
    )

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    whole = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    whole.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    whole.decoder = decoders.ByteLevel()
    special = ["<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=whole, eos_token="<|end|>", pad_token="<|end|>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    extractor = WhisperFeatureExtractor(feature_size=8, chunk_length=1)
    Qwen2AudioProcessor(extractor, tokenizer, chat_template=template).save_pretrained(folder)
    torch.manual_seed(0)
    audio = Qwen2AudioEncoderConfig(
        num_mel_bins=8, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=16,
        d_model=16, max_source_positions=50,
    )  # fmt: skip
    text = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=2048,
    )  # fmt: skip
    index = tokenizer.convert_tokens_to_ids("<|AUDIO|>")
    config = Qwen2AudioConfig(audio_config=audio, text_config=text, audio_token_index=index)
    Qwen2AudioForConditionalGeneration(config).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_an_audio_language_model_is_prompted_and_answers_freely(
    recording: Path, tmp_path: Path
) -> None:
    for name, template in (("parts", TEMPLATE), ("text", TEXT_TEMPLATE)):
        folder = tiny_qwen_audio(tmp_path / name, template)
        model = AudioLLM(str(folder), max_new_tokens=12, local_files_only=True)
        assert model.describe()["architecture"] == "qwen2_audio"
        clips = hard_clips([recording], 2, 5)
        records = run(as_dataset(clips), Asking(model, clips), None, RunOptions(batch_size=1))
        # Random weights answer with something, and not with JSON.
        assert [record.error for record in records] == [None, None]
        assert all(isinstance(record.output, str) for record in records)
        assert summarise(records)["all"]["follows"] == 0
        heard = model._inputs(load_audio(clips[0].file()), "Who speaks?")
        written = model.processor.tokenizer.decode(heard["input_ids"][0])
        assert "Who speaks?" in written
        assert written.count("<|AUDIO|>") > 1, "the audio's place is filled"
        assert heard["input_features"].shape == (1, 8, 100)


@pytest.mark.slow
def test_what_is_no_audio_language_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot load"):
        AudioLLM(str(tmp_path), local_files_only=True)
