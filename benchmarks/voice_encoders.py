"""What tells two voices apart in windows of 1.5 s: encoders beside each other, and label heads.

    python benchmarks/voice_encoders.py --data ../shared/speech --work runs/voices

The voice encoder of the package (GE2E), a layer of the bundled checkpoint's encoder (mean and
deviation over the window) and both together, each under a projection learnt on the same windows of
train speakers: recordings free for commercial use, as the recipe takes them, as they are and over a
telephone. Layer and shrinkage are chosen on every fifth of those speakers. Then the label heads'
evidence from the same pass: how much likelier one voice is than two by gender and age.

Measured are windows of speakers of the `tune` half of dev, in pairs from one source on one line:
the equal error rate of the log evidence of one voice against two (`diarization.same_voice`), of
single windows and of groups of five, for all pairs and for two voices of one gender and of two.
Windows and vectors are kept in the work folder. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diarization import clips_of

from speechmeta.audio.loading import SAMPLE_RATE
from speechmeta.diarization.diarizer import WINDOW_SECONDS
from speechmeta.diarization.embeddings import Matrix, unit
from speechmeta.diarization.same_voice import VoiceSpread
from speechmeta.diarization.selection import PACKAGED
from speechmeta.diarization.voice_encoder import VoiceEmbedder
from speechmeta.models.hub import Source
from speechmeta.models.whisper_meta.heads import pool_statistics
from speechmeta.models.whisper_meta.loading import load_whisper
from speechmeta.training.manifest import Clip, read_manifest
from speechmeta.training.speakers import discriminant, equal_error
from speechmeta.training.voice_windows import speaker_windows
from speechmeta.training.voices import VoicesRecipe, choose, read_voices_recipe

RECIPE = Path(__file__).parents[1] / "recipes" / "speakers" / "recipe.yaml"
BUNDLED = PACKAGED.parent / "bundled"
TRAIN_SPEAKERS, TRAIN_WINDOWS, TRAIN_SECONDS = 45, 6, 18.0
TUNE_SPEAKERS, TUNE_WINDOWS, TUNE_SECONDS = 25, 20, 40.0
"""Most speakers of a source, windows of a speaker on a line, and seconds of its recordings."""

BATCH = 16
CHOOSING = 5
"""Every so many speakers of train choose layer and shrinkage instead of the projection."""
SHRINKAGES = (0.1, 0.3, 1.0, 3.0)
CUES = ("Gender", "Age")
DOUBT = 0.02
"""Share of a head's answer that is taken for a guess: one window must not settle it."""
LINES = {"as it is": False, "telephone": True}
SIZES = (1, 5)
DRAWS = 20
"""How often the windows of a voice are put into groups anew: few voices have ten windows."""
PAIRS = ("all", "same gender", "different gender")

Pairs = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Windows:
    """Windows with what is known and heard of them.

    Attributes:
        line: (n,) the source and how it was heard. voice: (n,) whose, on that line.
        gender: (n,), "" where unknown.
        voices: (n, 256) of the voice encoder. states: (n, layers, 2 * width) pooled.
        labels: (n, labels) by field, log of each label's posterior over its prior.
    """

    line: np.ndarray
    voice: np.ndarray
    gender: np.ndarray
    voices: Matrix
    states: np.ndarray
    labels: Mapping[str, Matrix]

    def at(self, rows: np.ndarray) -> Windows:
        labels = {name: table[rows] for name, table in self.labels.items()}
        columns = (self.line, self.voice, self.gender, self.voices, self.states)
        return Windows(*(column[rows] for column in columns), labels)

    def telephone(self) -> np.ndarray:
        return np.char.endswith(self.line, "over a telephone")

    def speakers(self) -> np.ndarray:
        """(n,) names without the line."""
        pairs = zip(self.voice.tolist(), self.line.tolist(), strict=True)
        return np.array([voice.removeprefix(f"{line} ") for voice, line in pairs])


Take = Callable[[Windows], Matrix]
Score = Callable[[Windows, np.ndarray, Pairs], Matrix]
"""Windows, groups (groups, windows of each) of their rows and pairs of groups to nats (pairs,) by
which one voice is likelier than two."""


class Encoders:
    """Both encoders on one thread in float32, and the processor seconds that each took."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.voice = VoiceEmbedder.load(PACKAGED)
        self.model, self.processor = load_whisper(Source(BUNDLED, True), "cpu", "float32")
        self.heads: dict[str, Any] = self.model.config.heads[self.model.heads_name]["fields"]
        self.spent = {"voice encoder": 0.0, "bundled encoder": 0.0}
        self.seconds = 0.0

    @torch.inference_mode()
    def hear(self, waves: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """What `Windows` has of each of a few waveforms (samples,) at 16 kHz."""
        began = time.process_time()
        found: dict[str, np.ndarray] = {"voices": self.voice.encode(waves)}
        between = time.process_time()
        states = self.model.encode(**self.processor.prepare_audio(waves))
        pooled = pool_statistics(states.hidden_states, states.audio_mask)
        for field in CUES:
            head = self.heads[field]
            logits = self.model.label_heads.linear[field](pooled.flatten(1))
            prior = torch.tensor([head["prior"][label] for label in head["labels"]])
            # As `calibrated` has it, which leaves each label an equal chance before.
            scores = (logits / head["temperature"] - prior.log()).log_softmax(-1)
            found[field] = (scores + np.log(len(prior))).double().numpy()
        found["states"] = pooled.flatten(2).half().numpy()
        self.spent["voice encoder"] += between - began
        self.spent["bundled encoder"] += time.process_time() - between
        self.seconds += sum(len(wave) for wave in waves) / SAMPLE_RATE
        return found


def tune_clips(
    data: Path, recipe: VoicesRecipe, speakers: int = TUNE_SPEAKERS, seconds: float = TUNE_SECONDS
) -> list[Clip]:
    """Recordings of those speakers of each source that have most."""
    by_source: dict[str, dict[str, list[Clip]]] = defaultdict(lambda: defaultdict(list))
    for clip in clips_of(data, "tune"):
        if clip.dataset not in recipe.clips.left_out and clip.duration >= recipe.clips.shortest:
            by_source[clip.dataset][str(clip.speaker)].append(clip)
    chosen = []
    for source in by_source.values():
        own = sorted(source.values(), key=lambda clips: -sum(clip.duration for clip in clips))
        for clips in own[:speakers]:
            total = 0.0
            for clip in clips:
                if total < seconds:
                    chosen.append(clip)
                total += clip.duration
    return chosen


def heard(clips: Sequence[Clip], each: int, file: Path) -> tuple[Windows, dict[str, float]]:
    """At most `each` windows of a speaker on a line, and processor seconds for a second of audio
    by encoder; from the file if it is there."""
    if not file.is_file():
        genders = {(clip.dataset, clip.speaker): clip.labels.get("Gender", "") for clip in clips}
        windows = list(speaker_windows(clips, WINDOW_SECONDS, each))
        encoders = Encoders()
        table = defaultdict(list)
        for first in range(0, len(windows), BATCH):
            waves = [window.wave for window in windows[first : first + BATCH]]
            for name, rows in encoders.hear(waves).items():
                table[name].append(rows)
        spent = {name: value / encoders.seconds for name, value in encoders.spent.items()}
        columns = {name: np.concatenate(rows) for name, rows in table.items()}
        columns["line"] = np.array([window.line for window in windows])
        columns["voice"] = np.array([f"{window.line} {window.speaker}" for window in windows])
        columns["gender"] = np.array([genders[item.source, item.speaker] for item in windows])
        columns["spent"] = np.array(json.dumps(spent))
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, **columns)
    with np.load(file) as stored:
        known = [stored[name] for name in ("line", "voice", "gender", "voices", "states")]
        labels = {name: stored[name] for name in CUES}
        return Windows(*known, labels), json.loads(str(stored["spent"]))


def groups_of(voices: np.ndarray, size: int) -> np.ndarray:
    """The rows (groups, size) of so many windows of one voice each; what is left over is none."""
    found = [np.zeros((0, size), np.int64)]
    for voice in dict.fromkeys(voices.tolist()):
        own = np.flatnonzero(voices == voice)
        found.append(own[: len(own) // size * size].reshape(-1, size))
    return np.concatenate(found)


class Projection:
    """Vectors to log evidence, as the product has it."""

    def __init__(self, take: Take, mean: Matrix, matrix: Matrix, spread: VoiceSpread) -> None:
        self.take, self.mean, self.matrix, self.spread = take, mean, matrix, spread

    def __call__(self, windows: Windows, groups: np.ndarray, pairs: Pairs) -> Matrix:
        """A `Score`."""
        rows, places = np.unique(groups, return_inverse=True)
        own = unit((self.take(windows.at(rows)) - self.mean) @ self.matrix)
        sums = own[places.reshape(groups.shape)].sum(1)
        counts = np.full(len(sums), groups.shape[1], np.float64)
        alone = self.spread.evidence(sums, counts)
        one, other = pairs
        joined = self.spread.evidence(sums[one] + sums[other], counts[one] + counts[other])
        return joined - alone[one] - alone[other]


def learnt(take: Take, windows: Windows, shrinkage: float, recipe: VoicesRecipe) -> Projection:
    """Of vectors of these windows, as `speechmeta.training.voices.fitted` learns it."""
    vectors = take(windows)
    centred = vectors.copy()
    for line in set(windows.line.tolist()):
        mine = windows.line == line
        centred[mine] -= vectors[mine].mean(0)
    matrix, between = discriminant(centred, windows.voice, recipe.dimensions, shrinkage)
    spread = VoiceSpread(between, recipe.share, recipe.most, recipe.apart)
    return Projection(take, vectors.mean(0), matrix, spread)


def chosen(
    takes: Mapping[str, Take], windows: Windows, recipe: VoicesRecipe
) -> tuple[str, float, Projection]:
    """Which of several kinds of vectors, and what shrinkage, is best on held-out speakers, and the
    projection of all."""
    speakers = windows.speakers()
    held = np.isin(speakers, np.unique(speakers)[CHOOSING - 1 :: CHOOSING])
    rest, choosing = windows.at(~held), windows.at(held)
    rates = {
        (name, shrinkage): rates_of(learnt(take, rest, shrinkage, recipe), choosing, 1)["all"]
        for name, take in takes.items()
        for shrinkage in SHRINKAGES
    }
    for (name, shrinkage), rate in rates.items():
        print(f"choosing: {name}, shrinkage {shrinkage}: {rate:.4f}", file=sys.stderr, flush=True)
    name, shrinkage = min(rates, key=lambda key: rates[key])
    return name, shrinkage, learnt(takes[name], windows, shrinkage, recipe)


def cue(fields: Sequence[str], share: float) -> Score:
    """What labels say: two voices have them independently of each other, one has them alike.

    Args:
        share: of each further window of a group that counts as news.
    """

    def score(windows: Windows, groups: np.ndarray, pairs: Pairs) -> Matrix:
        one, other = pairs
        weight = (1 + share * (groups.shape[1] - 1)) / groups.shape[1]
        nats = np.zeros(len(one))
        for field in fields:
            logs = weight * windows.labels[field][groups].sum(1)
            likely = np.exp(logs - logs.max(1, keepdims=True))
            likely /= likely.sum(1, keepdims=True)
            count = likely.shape[1]
            likely = (1 - DOUBT) * likely + DOUBT / count
            nats += np.log(count * (likely[one] * likely[other]).sum(1))
        return nats

    return score


def added(one: Score, other: Score) -> Score:
    return lambda *given: one(*given) + other(*given)


def rates_of(score: Score, windows: Windows, size: int) -> dict[str, float]:
    """Equal error rates by kind of pair, and under `pairs ...` how many there are of each."""
    table: dict[str, list[np.ndarray]] = {name: [] for name in ("same", *PAIRS)}
    random = np.random.default_rng(0)
    for _ in range(1 if size == 1 else DRAWS):
        drawn = windows.at(random.permutation(len(windows.line)))
        groups = groups_of(drawn.voice, size)
        lines, voices, genders = (
            column[groups[:, 0]] for column in (drawn.line, drawn.voice, drawn.gender)
        )
        for line in np.unique(lines):
            mine = np.flatnonzero(lines == line)
            first, second = np.triu_indices(len(mine), 1)
            distances = -score(drawn, groups[mine], (first, second))
            one, other = mine[first], mine[second]
            same = voices[one] == voices[other]
            known = ~same & (genders[one] != "") & (genders[other] != "")
            alike = genders[one] == genders[other]
            kinds = (same, ~same, known & alike, known & ~alike)
            for own, kind in zip(table.values(), kinds, strict=True):
                own.append(distances[kind])
    found = {name: np.concatenate(parts) for name, parts in table.items()}
    return {name: equal_error(found["same"], found[name])[0] for name in PAIRS} | {
        f"pairs {name}": len(distances) for name, distances in found.items()
    }


def layers_of(windows: Windows) -> dict[str, Take]:
    """Each layer's vectors, every dimension with the deviation 1 in these windows."""
    takes: dict[str, Take] = {}
    for number in range(windows.states.shape[1]):
        scale = np.asarray(windows.states[:, number], np.float64).std(0) + 1e-6

        def take(given: Windows, number: int = number, scale: Matrix = scale) -> Matrix:
            return np.asarray(given.states[:, number], np.float64) / scale

        takes[f"layer {number}"] = take
    return takes


def both(windows: Windows, layer: Take) -> Take:
    """The voice encoder's vectors beside a layer's, as wide on the average."""
    scale = float(np.sqrt(windows.voices.var(0).mean()))
    return lambda given: np.hstack([given.voices / scale, layer(given)])


def scores_of(train: Windows, recipe: VoicesRecipe) -> dict[str, Score]:
    """All that is compared, by name."""
    shipped = VoiceEmbedder.load(PACKAGED)
    if shipped.spread is None:
        raise SystemExit("the packaged voice encoder has no spread")

    def voices(windows: Windows) -> Matrix:
        return windows.voices

    layers = layers_of(train)
    _, _, alone = chosen({"GE2E": voices}, train, recipe)
    layer, _, encoder = chosen(layers, train, recipe)
    _, _, together = chosen({f"GE2E and {layer}": both(train, layers[layer])}, train, recipe)
    labels, gender = cue(CUES, recipe.share), cue(CUES[:1], recipe.share)
    return {
        "GE2E, projection as shipped": Projection(
            voices, shipped.mean, shipped.matrix, shipped.spread
        ),
        "GE2E, learnt here": alone,
        f"bundled encoder, {layer}": encoder,
        "both": together,
        "gender": gender,
        "gender and age": labels,
        "GE2E + gender": added(alone, gender),
        "GE2E + gender and age": added(alone, labels),
        "both + gender and age": added(together, labels),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/speech"))
    parser.add_argument("--work", type=Path, default=Path("runs/voices"))
    given = parser.parse_args()
    if not (given.data / "dev.jsonl").is_file():
        print(json.dumps({"skipped": f"no recordings at {given.data / 'dev.jsonl'}"}))
        return 0
    recipe = read_voices_recipe(RECIPE)
    clips = choose(
        read_manifest(given.data / "train.jsonl"),
        replace(recipe.clips, speakers=TRAIN_SPEAKERS, seconds=TRAIN_SECONDS),
        recipe.seed,
    )
    train, spent = heard(clips, TRAIN_WINDOWS, given.work / "train.npz")
    tune, _ = heard(tune_clips(given.data, recipe), TUNE_WINDOWS, given.work / "tune.npz")
    telephone = tune.telephone()
    result: dict[str, Any] = {
        "benchmark": "voices",
        "train_windows": len(train.line),
        "train_speakers": len(set(train.speakers().tolist())),
        "tune_windows": len(tune.line),
        "tune_speakers": len(set(tune.speakers().tolist())),
        "processor_seconds_per_second": {name: round(value, 4) for name, value in spent.items()},
        "equal_error": {},
    }
    print(f"{'':34}" + "".join(f"{f'{line}, {size}':^24}" for line in LINES for size in SIZES))
    print(f"{'':34}" + f"{'all':>8}{'same':>8}{'other':>8}" * len(LINES) * len(SIZES))
    for name, score in scores_of(train, recipe).items():
        own = {
            f"{line}, {size}": rates_of(score, tune.at(telephone == over), size)
            for line, over in LINES.items()
            for size in SIZES
        }
        result["equal_error"][name] = {
            kind: {pairs: round(rates[pairs], 4) for pairs in PAIRS} for kind, rates in own.items()
        }
        result["pairs"] = {
            kind: {key[6:]: int(n) for key, n in rates.items() if key.startswith("pairs ")}
            for kind, rates in own.items()
        }
        cells = [f"{rates[pairs]:8.1%}" for rates in own.values() for pairs in PAIRS]
        print(f"{name:34}" + "".join(cells), flush=True)
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
