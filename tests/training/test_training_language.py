"""Prose for the language models of a checkpoint, and the models that a config asks for."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from speechmeta.decoding.ngram import NgramModel
from speechmeta.decoding.words import UNKNOWN, WordModel
from speechmeta.errors import DatasetError
from speechmeta.models.speechllm import SpeechLLMProcessor
from speechmeta.training import language, prose
from speechmeta.training.build import build
from speechmeta.training.config import TrainConfig
from speechmeta.training.manifest import read_manifest

BOOK = """# The Title

## Author: Nobody

Mr. Smith went to St. Ives. "Where is it?" he asked; _nobody_ knew!

It was in 1885. The long\u2014and winding\u2014road
leads to your door.

| a | table |
"""


def test_sentences_as_they_are_spoken() -> None:
    assert list(prose.prose_sentences(BOOK)) == [
        "mister smith went to saint ives",
        "where is it",
        "he asked",
        "nobody knew",
        "the long and winding road leads to your door",
    ]


def test_what_is_held_out_is_not_read() -> None:
    held_out = prose.HeldOut(["The cat sat on the mat, and slept there.", "Yes, sir!"])
    assert "yes sir" in held_out
    assert "yes sir i do" not in held_out
    assert "then the cat sat on the mat and left" in held_out
    assert "the cat sat on the" not in held_out


def manifest(folder: Path, *transcripts: str) -> Path:
    path = folder / "manifest.jsonl"
    rows = [{"audio": "a.wav", "duration": 1, "transcript": text} for text in transcripts]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_folders_become_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    books = tmp_path / "books"
    (books / "deep").mkdir(parents=True)
    (books / "a.md").write_text(BOOK)
    (books / "deep" / "b.txt").write_text("First of all.\nSecond.")
    (books / "c.pdf").write_text("No text.")
    output = tmp_path / "prose.txt.gz"
    held_out = manifest(tmp_path, "Where is it?")
    prose.main([str(books), "--held-out", str(held_out), "--output", str(output)])
    written = gzip.decompress(output.read_bytes()).decode().splitlines()
    assert written[0] == "mister smith went to saint ives"
    assert "where is it" not in written
    assert written[-2:] == ["first of all", "second"]
    assert "6 sentences, 23 words; 1 held out" in capsys.readouterr().out


def test_missing_and_empty_texts(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="missing"):
        prose.text_files([tmp_path / "none.txt"])
    with pytest.raises(DatasetError, match="no text"):
        prose.text_files([tmp_path])


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    (tmp_path / "prose.txt").write_text("a rare bird\n" * 3 + "\n")
    return TrainConfig.model_validate(
        {
            "output": tmp_path / "run",
            "data": {
                "manifests": [manifest(tmp_path, "Hello there.", "hello there", "Room 12")],
                "prose": {tmp_path / "prose.txt": 2},
            },
            "model": {"vocab_size": 330, "word_least": [2, 7]},
        }
    )


def test_transcripts_and_prose_are_counted(config: TrainConfig, tmp_path: Path) -> None:
    clips = list(read_manifest(config.data.manifests[0]))
    assert list(language.sentences(config, clips)) == [
        ("hello there", 8),
        *[("a rare bird", 2)] * 3,
    ]
    assert len(list(language.sentences(config, clips, every=2))) == 3
    _, processor = build(config, clips)
    language.save_language_models(config, clips, processor, tmp_path)
    words, ngram = WordModel.load(tmp_path), NgramModel.load(tmp_path)
    assert words is not None
    assert ngram is not None
    assert set(words.words) == {"hello", "there", "a", "rare", "bird"}
    hello, there, rare = map(words.id_of, ("hello", "there", "rare"))
    assert words.log_prob((), hello) > words.log_prob((), words.id_of("a")) > -2
    assert words.log_prob((hello,), there) > -0.5 > words.log_prob((hello,), rare)
    assert words.log_prob((), UNKNOWN) < -4


def test_words_are_tokenized_as_sentences_are(config: TrainConfig) -> None:
    clips = list(read_manifest(config.data.manifests[0]))
    _, processor = build(config, clips)
    ngram = language.estimate_ngram(config, clips, processor)
    ids = processor.tokenizer(" hello there", add_special_tokens=False)["input_ids"]
    others = processor.tokenizer(" there hello", add_special_tokens=False)["input_ids"]
    assert ngram.score(ids) > -2 > ngram.score(others)


def test_models_are_made_anew(config: TrainConfig, tmp_path: Path) -> None:
    clips = list(read_manifest(config.data.manifests[0]))
    _, processor = build(config, clips)
    folder = tmp_path / "checkpoint"
    processor.save_pretrained(folder)
    path = tmp_path / "config.yaml"
    path.write_text(config.model_dump_json())
    language.main([str(path), str(folder)])
    assert WordModel.load(folder) is not None
    assert SpeechLLMProcessor.from_pretrained(folder) is not None
    config.model.word_order = 0
    bare = tmp_path / "bare"
    bare.mkdir()
    language.save_language_models(config, clips, processor, bare)
    assert NgramModel.load(bare) is not None
    assert WordModel.load(bare) is None


def test_unreadable_prose(config: TrainConfig) -> None:
    config.data.prose = {Path("nowhere.txt"): 1}
    with pytest.raises(DatasetError, match="nowhere"):
        list(language.sentences(config, []))
