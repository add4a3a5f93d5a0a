"""Tuning of Whisper's ears and words: rows of any length, targets, draws, the whole recipe."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml
from whisper_meta_tiny import save_whisper, tiny_whisper

from speechmeta.errors import UsageError
from speechmeta.training.manifest import Clip, read_clips
from speechmeta.training.whisper_meta.draws import (
    IGNORED,
    NOTHING,
    Batches,
    Sounds,
    plan_batches,
)
from speechmeta.training.whisper_meta.export import stored
from speechmeta.training.whisper_meta.features import batch_features, log_mel, with_silence
from speechmeta.training.whisper_meta.greedy import greedy, read_vocabulary
from speechmeta.training.whisper_meta.items import SourcePlan, plan_items, read_items, write_items
from speechmeta.training.whisper_meta.layers import decode, encode
from speechmeta.training.whisper_meta.measure import Transcribed, mixed, word_errors
from speechmeta.training.whisper_meta.recipe import read_recipe, run_recipe
from speechmeta.training.whisper_meta.store import AudioStore, build_store
from speechmeta.training.whisper_meta.targets import (
    plainly_cased,
    proper_nouns,
    punctuated,
    sentence,
)
from speechmeta.training.whisper_meta.teacher import TeacherStore, ask_teacher

RATE = 16_000


def _noise(seconds: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (0.1 * rng.standard_normal(int(RATE * seconds))).astype(np.float32)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Two speakers with words, one of them in capitals, noises without, and one clip to leave."""
    rows: list[dict[str, Any]] = []
    for number in range(12):
        seconds = 0.6 + 0.1 * number
        soundfile.write(tmp_path / f"{number}.wav", _noise(seconds, number), RATE)
        speech = number < 9
        words = ("THE TRAIN LEAVES" if number % 2 else "Yes, I got it.") if speech else None
        rows.append(
            {
                "audio": f"{number}.wav", "duration": seconds, "speech": speech,
                "dataset": "talk" if speech else "noise", "speaker": f"s{number % 2}",
                "transcript": words, "commercial": number != 8,
            }
        )  # fmt: skip
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def clips(manifest: Path) -> list[Clip]:
    return read_clips([manifest], commercial_only=True)


def test_rows_of_a_batch_are_encoded_as_they_are_alone() -> None:
    model, _, _ = tiny_whisper()
    mels = [log_mel(with_silence(_noise(s, int(10 * s)), 0.2)) for s in (0.5, 1.3, 2.0)]
    features, mask = batch_features(mels)
    together = encode(model.model.encoder, features, mask)
    for row, mel in enumerate(mels):
        alone = encode(model.model.encoder, mel[None])
        assert torch.allclose(together[row, : alone.shape[1]], alone[0], atol=1e-5)


def test_full_length_is_encoded_as_transformers_does() -> None:
    model, _, _ = tiny_whisper()
    mel = log_mel(_noise(4.0))[None]
    assert torch.allclose(
        encode(model.model.encoder, mel), model.model.encoder(mel).last_hidden_state, atol=1e-5
    )


@torch.no_grad()
def test_greedy_words_are_those_of_the_whole_sequence_and_ignore_padding() -> None:
    model, tokenizer, _ = tiny_whisper(3)
    vocabulary = read_vocabulary(tokenizer)
    features, mask = batch_features([log_mel(_noise(1.0, 1)), log_mel(_noise(2.0, 2))])
    states = encode(model.model.encoder, features, mask)
    rows, no_speech = greedy(model, vocabulary, states, mask, most=12)
    alone, silent = greedy(model, vocabulary, states[:1, :50], None, most=12)
    assert rows[0] == alone[0]
    assert float(no_speech[0]) == pytest.approx(float(silent[0]), abs=1e-6)
    tokens = torch.tensor([[*vocabulary.prompt, *rows[1]]])
    hidden = decode(model.model.decoder, tokens, states[1:], mask[1:])
    logits = hidden @ model.model.decoder.embed_tokens.weight.T
    logits[0, 3, vocabulary.blank] = -torch.inf
    chosen = logits[0, 3:-1, : vocabulary.end + 1].argmax(-1).tolist()
    assert chosen == rows[1]


def test_targets_are_the_true_words_in_the_hypothesis_writing() -> None:
    heard = 'Well, "I told Mr. Smith," she sad. Isn\'t it?'
    true = "WELL I TOLD MISTER SMITH SHE SAID ISN'T IT"
    assert punctuated(true, heard) == 'Well, "I told mister. Smith," she said. Isn\'t it?'
    assert punctuated("I'VE GONE HOME", "I've gone") == "I've gone home."
    assert punctuated("HE LEFT", "") == "He left."


def test_sentences_begin_and_end_as_sentences_do() -> None:
    assert sentence("where is it") == "Where is it?"
    assert sentence('"""i think so,"" he said."') == '"I think so," he said.'
    assert sentence("six") == "Six."
    assert sentence("") == ""


def test_names_are_learnt_from_cased_texts() -> None:
    nouns = proper_nouns(["I met Anna there.", "So Anna left London.", "We like London a lot."])
    assert nouns == {"anna": "Anna", "london": "London"}
    assert plainly_cased("IS ANNA IN LONDON", nouns) == "Is Anna in London?"


def test_the_store_goes_on_where_it_was_stopped(clips: list[Clip], tmp_path: Path) -> None:
    folder = tmp_path / "audio"
    build_store(clips[:3], folder)
    with (folder / "audio.int16").open("ab") as file:
        file.write(b"\x01\x02" * 99)
    store = build_store(clips, folder)
    assert all(clip in store for clip in clips)
    for number, clip in ((0, clips[0]), (5, clips[5])):
        wanted = _noise(0.6 + 0.1 * number, number)
        assert np.abs(store.wave(clip) - wanted).max() < 2e-4


def test_the_plan_is_repeatable_and_joins_one_speaker(clips: list[Clip], tmp_path: Path) -> None:
    store = build_store(clips, tmp_path / "audio")
    sources = {"talk": SourcePlan(clips=4, crops=5, joins=3)}
    items = plan_items(clips, store, sources, seed=1)
    assert items == plan_items(clips, store, sources, seed=1)
    assert items != plan_items(clips, store, sources, seed=2)
    write_items(items, tmp_path / "items.jsonl")
    assert read_items(tmp_path / "items.jsonl") == items
    speakers = {str(clip.audio): clip.speaker for clip in clips}
    kinds = [item.kind for item in items]
    assert (kinds.count("clip"), kinds.count("crop"), kinds.count("join")) == (8, 5, 3)
    assert sum(item.taught for item in items) == 4 + 5 + 3
    for item in items:
        assert len(item.wave(store)) == item.samples
        assert len({speakers[piece.audio] for piece in item.pieces}) == 1
        assert (item.kind == "join") == (len(item.pieces) == 2)
        if item.kind == "crop":
            assert item.samples >= min(0.5 * RATE, 0.6 * RATE)
            assert item.words is None


Made = Callable[..., Batches]


@pytest.fixture
def made(clips: list[Clip], tmp_path: Path) -> Made:
    """Batches over the fixture's clips, with a tiny model for teacher."""
    whisper = save_whisper(tmp_path / "whisper")
    _, tokenizer, _ = tiny_whisper()
    store = build_store(clips, tmp_path / "audio")
    items = plan_items(clips, store, {"talk": SourcePlan(clips=4, crops=4)}, 0)
    teacher = ask_teacher(items, store, str(whisper), tmp_path / "teacher")

    def make(batches: int = 4, share: float = 0.3) -> Batches:
        plan = plan_batches(items, {"talk": 1 - share, NOTHING: share}, batches, 12.0, 0)
        texts = {item.name: [5, 6, 7] for item in items if item.kind == "clip"}
        quiet = [clip for clip in clips if not clip.speech]
        return Batches(
            plan, items, texts, store, teacher, quiet, Sounds(), (0.2, 0.4), {},
            read_vocabulary(tokenizer), 80, 64_000,
        )  # fmt: skip

    return make


def test_the_original_answers_for_what_it_teaches_and_writes_what_lacks_case(made: Made) -> None:
    batches = made()
    teacher, items = batches.teacher, batches.items
    assert {item.name for item in items if item.taught} == set(teacher.answers)
    for item in items:
        if item.taught:
            asked = item.words is not None and item.words.isupper()
            assert (teacher.answers[item.name].hypothesis is not None) == asked
            frames = -(-item.samples // 320) + 25
            assert teacher.states(item.name).shape == (frames, 32)
    again = TeacherStore(teacher.folder, 32)
    assert again.answers == teacher.answers


def test_a_batch_follows_from_its_number_and_asks_what_is_known(made: Made) -> None:
    batches = made(share=0.5)
    first, again = batches[2], batches[2]
    assert all(torch.equal(first[name], again[name]) for name in first)
    words = batches.vocabulary
    seen = set()
    for number in range(len(batches)):
        batch = batches[number]
        rows = zip(batches.plan[number], batch["tokens"], batch["labels"], strict=True)
        for row, (draw, tokens, labels) in enumerate(rows):
            wanted = labels[labels != IGNORED].tolist()
            item = None if draw.item is None else batches.items[draw.item]
            seen.add("nothing" if item is None else item.kind)
            if item is None:
                assert wanted == [words.no_speech]
                assert not batch["states_mask"][row].any()
                assert batch["original_weight"][row] == 0
            elif item.kind == "crop":
                assert wanted == [words.language]
                assert batch["states_mask"][row].any()
            else:
                assert tokens[:7].tolist() == [*words.prompt, 5, 6, 7]
                assert wanted == [words.language, 5, 6, 7, words.end]
                assert labels[3:7].tolist() == [5, 6, 7, words.end]
    assert seen == {"nothing", "crop", "clip"}


def test_shares_of_draws_are_kept_and_batches_stay_small(made: Made) -> None:
    batches = made(batches=60, share=0.25)
    draws = [draw for batch in batches.plan for draw in batch]
    assert np.mean([draw.item is None for draw in draws]) == pytest.approx(0.25, abs=0.08)
    for batch in batches.plan:
        longest = max(draw.samples for draw in batch)
        assert len(batch) == 1 or len(batch) * (longest + RATE) <= 12.0 * RATE


def test_mixing_and_storing_weights() -> None:
    first, second = (tiny_whisper(seed)[0].state_dict() for seed in (0, 1))
    mix = mixed(first, second, encoder=1.0, decoder=0.25)
    name = "model.encoder.conv1.weight"
    assert torch.equal(mix[name], second[name])
    name = "model.decoder.layers.0.fc1.weight"
    wanted = 0.75 * first[name] + 0.25 * second[name]
    assert torch.allclose(mix[name], wanted, atol=1e-6)
    kept = stored(mix)
    assert "whisper.proj_out.weight" not in kept
    whole, scale = kept[f"whisper.{name}"], kept[f"whisper.{name}::scale"]
    assert whole.dtype == torch.int8
    opened = whole.float() * scale.float().view(-1, 1)
    assert float((opened - mix[name]).abs().max()) < 0.006 * float(mix[name].abs().max())


def test_word_errors_by_source_and_words_where_nobody_speaks(clips: list[Clip]) -> None:
    spoken, quiet = clips[0], next(clip for clip in clips if not clip.speech)
    heard = [Transcribed(spoken, "yes i got", 0.1), Transcribed(quiet, "thank you", 0.9)]
    table = word_errors(heard, lambda text: text.lower().replace(",", "").replace(".", ""))
    assert table["talk"]["wer"] == 25.0
    assert table["noise (no speech)"]["with words"] == 100.0
    gated = word_errors(heard, str.lower, silent_above=0.5)
    assert gated["noise (no speech)"]["with words"] == 0.0


def _recipe(manifest: Path, tmp_path: Path, **values: Any) -> Path:
    data = {
        "family": "whisper_meta",
        "whisper": str(save_whisper(tmp_path / "original")),
        "manifests": [str(manifest)],
        "work": str(tmp_path / "work"),
        "output": str(tmp_path / "out"),
        "sources": {"talk": {"clips": 3, "crops": 2, "share": 1.0, "later_share": 0.5}},
        "short_words": False,
        "trailing_silence": 0.5,
        "steps": {"steps": 3, "later": 2, "batch_seconds": 6, "warmup": 1, "save_every": 2},
    } | values
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


@pytest.mark.timeout(600)
@pytest.mark.slow
def test_the_recipe_ends_in_a_checkpoint_and_goes_on_where_it_was_stopped(
    manifest: Path, tmp_path: Path
) -> None:
    from speechmeta.models.whisper_meta import WhisperMetaForConditionalGeneration

    recipe = read_recipe(_recipe(manifest, tmp_path))
    folder = run_recipe(recipe)
    model = WhisperMetaForConditionalGeneration.from_pretrained(folder)
    assert model.config.variable_length
    assert model.config.trailing_silence == 0.5
    original = tiny_whisper()[0].state_dict()
    name = "model.encoder.layers.0.fc1.weight"
    change = (model.whisper.state_dict()[name] - original[name]).abs().max()
    assert 0 < float(change) < 0.05
    first = (folder / "model.safetensors").read_bytes()
    # Stopped behind its second step, the run ends in the same weights.
    work = tmp_path / "work" / "tuning"
    assert (work / "checkpoint-2").is_dir()
    for name in ("checkpoint-3", "tuned"):
        for file in (work / name).glob("*"):
            file.unlink()
        (work / name).rmdir()
    run_recipe(recipe, resume=True)
    assert (folder / "model.safetensors").read_bytes() == first
    assert len(AudioStore(tmp_path / "work" / "audio").places) == 11


def test_a_recipe_that_is_wrong_says_where(manifest: Path, tmp_path: Path) -> None:
    path = _recipe(manifest, tmp_path, trailing_silense=1.0)
    with pytest.raises(UsageError, match="trailing_silense"):
        read_recipe(path)
    with pytest.raises(UsageError, match="cannot read"):
        read_recipe(tmp_path / "none.yaml")
    path = _recipe(manifest, tmp_path, sources={"nobody": {"share": 1.0}})
    with pytest.raises(UsageError, match="no clip"):
        run_recipe(read_recipe(path))
