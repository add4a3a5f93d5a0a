"""Label heads: what crops teach, how they are weighed, fitted and calibrated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from speechmeta.errors import UsageError
from speechmeta.training.manifest import Clip
from speechmeta.training.temperature import fit_temperature, log_loss, scaled
from speechmeta.training.whisper_meta.heads_calibrate import (
    CalibrationOptions,
    Cases,
    balanced,
    calibrate,
    fitted_prior,
    ordinary_prior,
    threshold,
    with_neutral,
)
from speechmeta.training.whisper_meta.heads_crops import CropOptions, crop_wave, plan_crops
from speechmeta.training.whisper_meta.heads_recipe import (
    is_heads_recipe,
    loudest,
    read_heads_recipe,
)
from speechmeta.training.whisper_meta.heads_targets import (
    TAUGHT,
    TargetOptions,
    clip_target,
    field_targets,
)
from speechmeta.training.whisper_meta.heads_train import fit_field, fit_heads

pytestmark = pytest.mark.slow

OPTIONS = TargetOptions()


def clip(
    number: int = 0,
    dataset: str = "read",
    speaker: str | None = "s",
    speech: bool = True,
    years: float | None = None,
    **labels: str,
) -> Clip:
    return Clip(
        Path(f"{dataset}-{speaker}-{number}.wav"), 3.0, dataset, speaker, speech, None, labels,
        years=years,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("years", "expected"),
    [(12, (1, 0, 0)), (29, (0.625, 0.375, 0)), (30, (0.375, 0.625, 0)), (45, (0, 1, 0)),
     (59, (0, 0.625, 0.375)), (61, (0, 0.125, 0.875)), (70, (0, 0, 1))],
)  # fmt: skip
def test_ages_near_a_bound_belong_to_both_groups(years: float, expected: tuple[float, ...]) -> None:
    label = "Young" if years < 30 else "Middle-Age" if years < 60 else "Senior"
    target = clip_target(clip(years=years, Age=label), "Age", OPTIONS)
    assert target.tolist() == pytest.approx(expected)


def test_a_childs_gender_is_taught_softly() -> None:
    assert clip_target(clip(years=8, Gender="Male"), "Gender", OPTIONS).tolist() == [0.75, 0.25]
    assert clip_target(clip(years=14, Gender="Female"), "Gender", OPTIONS).tolist() == [0, 1]


def test_speech_activity_is_known_of_every_clip() -> None:
    speech = [clip_target(item, "SpeechActivity", OPTIONS).tolist() for item in (
        clip(), clip(speech=False), None,
    )]  # fmt: skip
    assert speech == [[1, 0], [0, 1], [0, 1]]


def test_classes_count_the_same_and_no_speaker_is_a_class() -> None:
    clips = [clip(i, speaker="talker", Gender="Male") for i in range(200)]
    clips += [clip(i, speaker=f"m{i}", Gender="Male") for i in range(30)]
    clips += [clip(i, speaker=f"f{i}", Gender="Female") for i in range(30)]
    weights = field_targets(clips, "Gender").weights
    assert weights[:230].sum() == pytest.approx(weights[230:].sum())
    assert weights[:200].sum() <= 0.06 * weights[:230].sum()


def test_ordinary_talk_is_a_small_share_of_neutral() -> None:
    """With the weight of all acted clips it drowned what actors felt."""
    clips = [clip(i, "emodb-german", f"a{i}", Emotion="Neutral") for i in range(10)]
    clips += [clip(i, "emodb-german", f"a{i}", Emotion="Anger") for i in range(10)]
    clips += [clip(i, "read", f"r{i}") for i in range(500)]
    clips += [clip(i, "ravdess", f"fear{i}") for i in range(5)]
    targets = field_targets(clips, "Emotion")
    neutral = TAUGHT["Emotion"].index("Neutral")
    assert (targets.wanted[20:520, neutral] == 1).all()
    assert targets.weights[20:520].sum() == pytest.approx(0.2 * targets.weights[:10].sum() / 0.8)
    assert targets.weights[20:520].sum() + targets.weights[:10].sum() == pytest.approx(
        targets.weights[10:20].sum()
    )
    # What actors felt that has no class here is not ordinary talk.
    assert (targets.weights[520:] == 0).all()


def test_heads_find_what_statistics_tell() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((300, 2, 2, 5)) * np.array([1.0, 50.0])[:, None, None] + 7
    clips = [clip(i, speaker=f"s{i}", Gender="Male" if rows[i, 1, 0, 3] > 7 else "Female")
             for i in range(300)]  # fmt: skip
    heads = fit_heads(rows, clips, strengths={"Gender": 1.0})
    # Of the other fields there is nothing to tell apart.
    assert list(heads.linear) == ["Gender"]
    values = torch.from_numpy(rows.reshape(300, -1)).float()
    said = heads.linear["Gender"](values).argmax(1)
    truth = [TAUGHT["Gender"].index(item.labels["Gender"]) for item in clips]
    assert float((said == torch.tensor(truth)).float().mean()) > 0.95


def test_a_label_that_nobody_taught_is_never_said() -> None:
    points = np.random.default_rng(0).standard_normal((60, 6))
    clips = [clip(i, speaker=f"s{i}", Age=("Young", "Senior")[i % 2]) for i in range(60)]
    weight, bias = fit_field(points, field_targets(clips, "Age"), 1.0)
    logits = points @ weight.T + bias
    assert not (logits.argmax(1) == TAUGHT["Age"].index("Middle-Age")).any()


def test_overconfident_logits_get_a_temperature_above_one() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(3, size=2000)
    honest = 1.5 * np.eye(3)[truth] + rng.gumbel(size=(2000, 3))
    temperature = fit_temperature(4 * honest, truth)
    assert temperature == pytest.approx(4 * fit_temperature(honest, truth), rel=0.05)
    assert log_loss(4 * honest, truth, temperature) < log_loss(4 * honest, truth)
    assert np.exp(scaled(honest, 2.0, np.log([0.2, 0.3, 0.5]))).sum(1) == pytest.approx(1)


def test_labels_are_left_out_where_they_are_seldom_right() -> None:
    sure = np.linspace(0.51, 0.99, 200)
    log_probs = np.log(np.stack([sure, 1 - sure], 1))
    truth = (sure < 0.7).astype(int)
    assert threshold(log_probs, truth, 0.5) == pytest.approx(0.7, abs=0.03)
    assert threshold(log_probs, np.zeros(200, int), 0.5) == 0.0


def test_a_class_that_is_said_too_seldom_gets_a_small_prior() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(3, size=900)
    logits = 2 * np.eye(3)[truth] + rng.gumbel(size=(900, 3)) - np.array([0.0, 2.0, 0.0])
    prior = fitted_prior(Cases(logits, truth, np.ones(900)), 1.0, 1e-6)
    assert prior.sum() == pytest.approx(1)
    assert np.log(prior[0] / prior[1]) == pytest.approx(2, abs=0.4)
    recall = np.mean((logits - np.log(prior)).argmax(1)[truth == 1] == 1)
    assert recall > 1.3 * np.mean(logits.argmax(1)[truth == 1] == 1)


def test_ordinary_talk_counts_as_much_as_what_was_acted() -> None:
    cases = Cases(np.zeros((4, 4)), np.array([0, 1, 2, 0]), np.ones(4))
    both = with_neutral(cases, np.ones((8, 4)), 3)
    assert both.weights[4:].sum() == pytest.approx(both.weights[:4].sum())
    assert (both.truth[4:] == 3).all()


def test_ordinary_talk_is_neutral_and_feelings_are_found_as_far_as_that_allows() -> None:
    labels, rng = TAUGHT["Emotion"], np.random.default_rng(0)
    logits = rng.normal(size=(500, 4))
    options = CalibrationOptions()
    said = (logits - np.log(ordinary_prior(logits, labels, options))).argmax(1)
    assert np.mean(said == labels.index("Anger")) <= options.ordinary_anger
    assert 0.5 * options.ordinary_anger < np.mean(said != labels.index("Neutral")) <= 0.1


def test_what_the_config_says_of_a_field() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(2, size=400)
    logits = 3 * (np.eye(2)[truth] + rng.normal(size=(400, 2)))
    cases = Cases(logits, truth, balanced(truth))
    faint = Cases(logits / 9 + rng.normal(size=(400, 2)), truth, balanced(truth))
    found = calibrate("Gender", ["Male", "Female"], cases, faint, None, CalibrationOptions())
    assert found["labels"] == ["Male", "Female"]
    assert sum(found["prior"].values()) == pytest.approx(1)
    assert found["short"]["temperature"] >= found["temperature"]
    assert found["short"]["abstain_below"] > 0.5


class _Tones:
    """Each clip is a second of silence and two of a tone."""

    def wave(self, clip: Clip) -> np.ndarray:
        tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(32_000) / 16_000)
        return np.concatenate([np.zeros(16_000), tone]).astype(np.float32)


def test_crops_are_planned_by_speaker_and_sound_the_same_again() -> None:
    clips = [clip(i, "many") for i in range(20)] + [clip(0, "old", "o", Age="Senior")]
    options = CropOptions(per_clip={"many": 2}, per_speaker={"many": 4}, seniors=3, made_up=5)
    crops = plan_crops(clips, options, 1)
    assert crops == plan_crops(clips, options, 1)
    assert len(crops) == 5 + 4 * 2 + 3
    assert len({crop.name(clips) for crop in crops}) == len(crops)
    for crop in crops:
        first, again = (crop_wave(crop, clips, _Tones(), clips[:1], 0.6) for _ in range(2))
        np.testing.assert_array_equal(first, again)
        assert len(first) <= crop.seconds * 16_000 + 1
        assert np.abs(first).max() <= 1


def test_the_committed_recipe_is_read(tmp_path: Path) -> None:
    path = Path(__file__).parents[2] / "recipes" / "whisper_meta" / "heads.yaml"
    assert is_heads_recipe(path)
    recipe = read_heads_recipe(path)
    assert recipe.crops.per_clip["emodb-german"] == 2
    assert recipe.targets.neutral_share == 0.1
    whole = path.read_text()
    for text, message in (
        (whole + "\nnonsense: 1\n", "nonsense"),
        (whole.replace("per_clip:", "telephone:"), "crops.telephone"),
        ("seed: {", "cannot read"),
    ):
        (tmp_path / "heads.yaml").write_text(text)
        with pytest.raises(UsageError, match=message):
            read_heads_recipe(tmp_path / "heads.yaml")


def test_the_loudest_part() -> None:
    wave = np.concatenate([np.zeros(50), np.ones(10), np.zeros(40)])
    assert loudest(wave, 10).tolist() == [1.0] * 10
    assert len(loudest(wave, 1000)) == 100
