"""What training reads: texts, clips, batches and their losses."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from training_tiny import tiny_config

from speechmeta.decoding.layout import COMPACT_LAYOUT
from speechmeta.errors import DatasetError
from speechmeta.schema import DEFAULT_LABEL_SETS
from speechmeta.training import augment
from speechmeta.training.augment import AugmentOptions
from speechmeta.training.batches import Collator, EpochLoader, SecondsSampler
from speechmeta.training.build import build
from speechmeta.training.cache import AudioCache
from speechmeta.training.config import TrainConfig
from speechmeta.training.dataset import (
    CLOSED_SETS,
    FORCED,
    LABEL,
    TRANSCRIPT,
    ClipDataset,
    age_shares,
)
from speechmeta.training.losses import ctc_loss, label_losses, text_losses
from speechmeta.training.manifest import read_manifest
from speechmeta.training.synthesize import call_sentences
from speechmeta.training.text import normalize_transcript, train_tokenizer


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return tiny_config(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Yes, I got it!", "yes i got it"),
        ("WE CALL IT BEAR", "we call it bear"),
        ("It\u2019s a well-known caf\u00e9 [noise]", "it's a well known cafe"),
        ("'quoted' rock'n'roll", "quoted rock'n'roll"),
        ("room 12", None),
        ("", ""),
    ],
)
def test_normalize_transcript(text: str, expected: str | None) -> None:
    assert normalize_transcript(text) == expected


def test_tokenizer_round_trip() -> None:
    texts = ["how can i help you", "it's a test of the tokenizer"] * 5
    tokenizer = train_tokenizer(texts, 340, COMPACT_LAYOUT, DEFAULT_LABEL_SETS)
    answer = COMPACT_LAYOUT.render(
        {"SpeechActivity": "True", "Gender": "Male", "Transcript": " how can i help zoë"}
    )
    ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == answer
    tokens = tokenizer.convert_ids_to_tokens(ids)
    assert "Male" in tokens
    assert 'Transcript": "' in tokens
    assert "<0xC3>" in tokens  # bytes for what the vocabulary lacks


def test_only_known_fields_are_taught(config: TrainConfig) -> None:
    clips = list(read_manifest(config.data.manifests[0]))
    _, processor = build(config, clips)
    cache = AudioCache(clips, config.data.cache)
    dataset = ClipDataset(clips, cache, processor, config, train=False)

    def text(index: int, *kinds: int) -> str:
        example = dataset[index]
        chosen = [
            token
            for token, kind in zip(example.answer, example.kinds, strict=True)
            if kind in kinds
        ]
        return str(processor.tokenizer.decode(chosen))

    assert text(0, TRANSCRIPT, LABEL, FORCED) == (
        '{"SpeechActivity": "True", "Gender": "Female", "Emotion": "Happy", '
        '"Transcript": " hello there"}</s>'
    )
    assert text(0, LABEL) == "TrueFemaleHappy"
    assert text(0, TRANSCRIPT) == ' hello there"}'
    assert text(2, TRANSCRIPT, LABEL, FORCED) == (
        '{"SpeechActivity": "True", "Accent": "Africa"}</s>'
    )
    assert text(3, TRANSCRIPT, LABEL, FORCED) == '{"SpeechActivity": "False"}</s>'
    assert dataset[2].ctc is None
    assert processor.tokenizer.decode(dataset[1].ctc) == " good bye"


def test_rare_labels_and_rare_voices_count_more(config: TrainConfig) -> None:
    rows = [("reader", "America")] * 9 + [("one", "America"), ("two", "Africa"), (None, "America")]
    path = config.data.manifests[0]
    with path.open("w") as file:
        for number, (speaker, accent) in enumerate(rows):
            row = {"audio": f"{number}.wav", "duration": 0.6 + 0.1 * number, "accent": accent}
            file.write(json.dumps({**row, "speaker": speaker}) + "\n")
    clips = list(read_manifest(path))
    _, processor = build(config, clips)
    cache = AudioCache(clips, config.data.cache)

    def weights() -> list[float]:
        dataset = ClipDataset(clips, cache, processor, config, train=False)
        return [weights["Accent"] for weights in dataset.label_weights]

    found = weights()
    assert np.mean(found) == pytest.approx(1.0)
    # Nine clips of one voice, to the power of minus a half.
    assert found[9] == pytest.approx(3 * found[0])
    assert found[11] == found[9]  # an unknown voice is one of its own
    assert found[10] == pytest.approx(found[9] * (5 / 1) ** 0.5)
    config.optim.speaker_balance = config.optim.label_balance = 0.0
    assert weights() == [1.0] * 12
    dataset = ClipDataset(clips, cache, processor, config, train=False)
    assert dataset.label_shares() == {
        "Accent": {
            "America": pytest.approx(11 / 12, abs=1e-4),
            "Africa": pytest.approx(1 / 12, abs=1e-4),
        }
    }


def test_losses_follow_the_kinds_of_tokens(config: TrainConfig) -> None:
    clips = list(read_manifest(config.data.manifests[0]))
    model, processor = build(config, clips)
    cache = AudioCache(clips, config.data.cache)
    dataset = ClipDataset(clips, cache, processor, config, train=False)
    blank = model.config.text_config.pad_token_id
    collate = Collator(processor, 0.0, model.config.text_config.vocab_size, blank)
    batch = collate([dataset[index] for index in range(4)])
    logits = torch.zeros(*batch["labels"].shape, model.config.text_config.vocab_size)
    even = float(np.log(model.config.text_config.vocab_size))
    losses = text_losses(logits, batch)
    assert float(losses["transcript"]) == pytest.approx(even, rel=1e-5)
    assert float(losses["forced"]) == pytest.approx(even, rel=1e-5)
    # Right answers at transcript positions take that loss alone to zero.
    rows, columns = (batch["kinds"] == TRANSCRIPT).nonzero(as_tuple=True)
    logits[rows, columns - 1, batch["labels"][rows, columns]] = 100.0
    changed = text_losses(logits, batch)
    assert float(changed["transcript"]) < 1e-6
    assert float(changed["label"]) == pytest.approx(float(losses["label"]))
    features = model.get_audio_features(batch["input_values"], batch["audio_attention_mask"])
    assert float(ctc_loss(features, batch, model.config).detach()) > 0


def test_every_clip_is_drawn_once_an_epoch(config: TrainConfig) -> None:
    clips = list(read_manifest(config.data.manifests[0]))
    _, processor = build(config, clips)
    dataset = ClipDataset(clips, AudioCache(clips, config.data.cache), processor, config)
    batches = list(SecondsSampler(dataset, 4.0, seed=1))
    assert Counter(index for batch in batches for index in batch) == Counter(range(len(dataset)))
    for batch in batches:
        longest = max(dataset.seconds(index) for index in batch)
        assert len(batch) == 1 or longest * len(batch) <= 4.0 + 1e-6


def test_epochs_differ_and_the_first_may_start_short(config: TrainConfig) -> None:
    clips = list(read_manifest(config.data.manifests[0]))
    _, processor = build(config, clips)
    dataset = ClipDataset(clips, AudioCache(clips, config.data.cache), processor, config)
    sampler = SecondsSampler(dataset, 1.5, seed=1, short_first=True)
    loader = EpochLoader(dataset, batch_sampler=sampler)
    orders = []
    for epoch in range(5):
        loader.set_epoch(epoch)
        batches = list(sampler)
        assert len(loader) == len(batches)
        orders.append([dataset.seconds(batch[0]) for batch in batches])
    trends = [np.corrcoef(np.arange(len(order)), order)[0, 1] for order in orders]
    assert trends[0] > 0.8 > 0.5 > np.mean(trends[1:])
    assert orders[0] != orders[1]
    shares = [list(SecondsSampler(dataset, 1.5, seed=1, share=(number, 2))) for number in range(2)]
    assert len(shares[0]) == len(shares[1])
    drawn = Counter(index for share in shares for batch in share for index in batch)
    assert max(drawn.values()) == 1


def test_phones_stand_where_they_sound(config: TrainConfig) -> None:
    config.augment = augment.AugmentOptions(speed=1.0, speed_range=(0.5, 0.5))
    clips = list(read_manifest(config.data.manifests[0]))
    _, processor = build(config, clips)
    dataset = ClipDataset(clips, AudioCache(clips, config.data.cache), processor, config)
    collate = Collator(processor, 0.0, 320, 0)
    frames = collate([dataset[2], dataset[0]])["phones"]
    assert set(frames[1].tolist()) == {-100}
    # Half as fast: 0.2 s of silence, then 0.6 s of a vowel, at 25 frames a second.
    names = [dataset.phone_names[place] for place in frames[0].tolist() if place >= 0]
    assert names.count("aa") == pytest.approx(15, abs=1)
    assert names[:5] == ["pau"] * 5
    lead = frames[0].tolist().index(dataset.phone_names.index("pau"))
    assert lead == pytest.approx(config.model.margin_seconds * 25, abs=1.5)


def test_long_clips_are_heard_in_crops(config: TrainConfig) -> None:
    config.data.crops, config.data.crop_seconds = {"noise": 0.5}, 0.8
    clips = [
        dataclasses.replace(clip, dataset="noise" if number % 2 else "other")
        for number, clip in enumerate(read_manifest(config.data.manifests[0]))
    ]
    _, processor = build(config, clips)
    cache = AudioCache(clips, config.data.cache)
    dataset = ClipDataset(clips, cache, processor, config)
    assert [dataset.crop_share(number) for number in range(12)] == [
        # Clips of 1.2 s and more, of every second source.
        0.5 if number % 2 and number >= 6 else 0.0
        for number in range(12)
    ]
    drawn = [
        number
        for epoch in range(8)
        for batch in _epoch(SecondsSampler(dataset, 4, 0), epoch)
        for number in batch
    ]
    crops = Counter(number - len(dataset) for number in drawn if number >= len(dataset))
    assert set(crops) == {7, 9, 11}
    assert 6 <= crops.total() <= 18
    config.augment = AugmentOptions(speed=0, telephone=0, noise=0, reverb=0, gain_db=(0, 0))
    whole, crop = dataset[9], dataset[len(dataset) + 9]
    assert (len(whole.wave), len(crop.wave)) == (24_000, 12_800)
    assert whole.ctc
    assert crop.ctc is None
    views = np.lib.stride_tricks.sliding_window_view(whole.wave, 12_800)
    assert (np.abs(views[:, ::100] - crop.wave[::100]).max(axis=1) < 1e-6).sum() == 1


def _epoch(sampler: SecondsSampler, epoch: int) -> list[list[int]]:
    sampler.set_epoch(epoch)
    return list(sampler)


def test_ages_near_a_bound_count_for_both_groups() -> None:
    assert age_shares(30, 4)[:2] == pytest.approx([0.5, 0.5], abs=1e-6)
    assert age_shares(64, 4)[2] == pytest.approx(0.841, abs=1e-3)
    assert age_shares(20, 0.1) == pytest.approx([1.0, 0.0, 0.0])
    assert sum(age_shares(45, 9)) == pytest.approx(1.0)


def test_known_ages_give_shares(config: TrainConfig) -> None:
    clips = [
        dataclasses.replace(clip, labels={"Age": "Young"}, years=29.0 if number else None)
        for number, clip in enumerate(list(read_manifest(config.data.manifests[0]))[:2])
    ]
    _, processor = build(config, clips)
    config.optim.age_doubt = 4
    dataset = ClipDataset(clips, AudioCache(clips, config.data.cache), processor, config)
    dataset.train = False
    examples = [dataset[0], dataset[1]]
    assert examples[0].classes["Age"][0] == [1.0, 0.0, 0.0]
    assert examples[1].classes["Age"][0] == pytest.approx(age_shares(29, 4))
    shares = dataset.label_shares()["Age"]
    assert shares["Young"] == pytest.approx((1 + age_shares(29, 4)[0]) / 2, abs=1e-4)
    assert shares["Middle-Age"] == pytest.approx(age_shares(29, 4)[1] / 2, abs=1e-4)
    # Too few to say, and nothing that a probability could be divided by.
    assert "Senior" not in shares
    batch = Collator(processor, 0.0, 320, 0)(examples)
    logits = {name: torch.zeros(2, len(values)) for name, values in CLOSED_SETS.items()}
    logits["Age"][:, 0] = 2.0
    losses = label_losses(logits, batch)
    assert set(losses) == {"SpeechActivity", "Age"}
    log_probs = logits["Age"][0].log_softmax(0)
    wanted = torch.tensor(age_shares(29, 4))
    expected = (-log_probs[0] - (wanted * log_probs).sum()) / 2
    assert float(losses["Age"]) == pytest.approx(float(expected), rel=1e-5)


def test_commercial_only(config: TrainConfig) -> None:
    from speechmeta.training.manifest import read_clips

    assert len(read_clips(config.data.manifests, config.data.commercial_only)) == 12
    config.data.commercial_only = True
    assert len(read_clips(config.data.manifests, config.data.commercial_only)) == 3


def test_augmentation_keeps_what_it_should() -> None:
    rng = np.random.default_rng(0)
    time = np.arange(16_000) / 16_000
    tone = (0.5 * np.sin(2 * np.pi * 1000 * time)).astype(np.float32)
    high = (0.5 * np.sin(2 * np.pi * 6000 * time)).astype(np.float32)
    level = float(np.sqrt(np.mean(tone**2)))
    middle = slice(2_000, -2_000)
    assert np.sqrt(np.mean(augment.telephone_band(tone, rng)[middle] ** 2)) > 0.8 * level
    assert np.sqrt(np.mean(augment.telephone_band(high, rng)[middle] ** 2)) < 0.02 * level
    assert np.abs(augment.mu_law(tone) - tone).max() < 0.03
    assert len(augment.change_speed(tone, 1.1)) == pytest.approx(16_000 / 1.1, abs=2)
    noisy = augment.add_noise(tone, rng.standard_normal(500).astype(np.float32), 10.0)
    noise_level = np.sqrt(np.mean((noisy - tone) ** 2))
    assert 20 * np.log10(level / noise_level) == pytest.approx(10.0, abs=0.1)
    for _ in range(40):
        made_up = augment.non_speech(rng, 0.7)
        assert made_up.shape == (11_200,)
        assert np.isfinite(made_up).all()
        assert np.abs(made_up).max(initial=0.0) <= 1.0


def test_made_up_sentences_are_normal() -> None:
    import itertools
    import random

    for sentence in itertools.islice(call_sentences(random.Random(0)), 200):
        assert normalize_transcript(sentence) == sentence


def test_bad_manifests(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"audio": "a.wav", "duration": 1}\n{"duration": 1}\n')
    with pytest.raises(DatasetError, match="line 2"):
        list(read_manifest(path))
    with pytest.raises(DatasetError, match="cannot read"):
        list(read_manifest(tmp_path / "absent.jsonl"))
