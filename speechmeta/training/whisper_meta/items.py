"""What is taught: clips, crops and joins of clips, planned once from a seed."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from speechmeta.audio.loading import SAMPLE_RATE
from speechmeta.training.manifest import Clip
from speechmeta.training.whisper_meta.store import AudioStore


@dataclass(frozen=True)
class Piece:
    """A part of a recording.

    Attributes:
        audio: path, as the store knows it.
        start, count: samples at 16 kHz.
        pause: samples of silence in front of it.
    """

    audio: str
    start: int
    count: int
    pause: int = 0


@dataclass(frozen=True)
class Item:
    """One thing to learn from.

    Attributes:
        name: unique in a plan.
        kind: `clip`, `crop` (a part of a clip, without words of its own) or `join`.
        dataset: source of the clips.
        pieces: in order.
        words: transcript as the source has it; None where there is none.
        taught: whether the padded original is asked about it.
    """

    name: str
    kind: str
    dataset: str
    pieces: tuple[Piece, ...]
    words: str | None
    taught: bool

    @property
    def samples(self) -> int:
        """Length at 16 kHz."""
        return sum(piece.pause + piece.count for piece in self.pieces)

    def wave(self, store: AudioStore) -> np.ndarray:
        """Samples (samples,), float32."""
        parts = []
        for piece in self.pieces:
            parts.append(np.zeros(piece.pause, np.float32))
            parts.append(store.part(piece.audio, piece.start, piece.count))
        return np.concatenate(parts)


@dataclass(frozen=True)
class SourcePlan:
    """How much of a source is used.

    Attributes:
        clips: how many of its clips are taught by the original; the others teach words alone.
        crops, joins, long_joins: how many of each are made and taught.
    """

    clips: int = 0
    crops: int = 0
    joins: int = 0
    long_joins: int = 0


def plan_items(
    clips: Sequence[Clip], store: AudioStore, sources: Mapping[str, SourcePlan], seed: int
) -> list[Item]:
    """All items of the sources named, in an order in which every beginning is a fair sample."""
    rng = np.random.default_rng(seed)
    grouped: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        if clip.dataset in sources and clip.speech and clip in store:
            grouped[clip.dataset].append(clip)
    items: list[Item] = []
    for dataset, plan in sources.items():
        own = [grouped[dataset][place] for place in rng.permutation(len(grouped[dataset]))]
        own = [clip for clip in own if 0.2 < clip.duration < 29.0]
        if not own:
            continue
        for number, clip in enumerate(own):
            if number < plan.clips or clip.transcript:
                whole = (_whole(clip, store),)
                items.append(
                    Item(
                        f"{dataset}-{number}", "clip", dataset, whole, clip.transcript,
                        number < plan.clips,
                    )
                )  # fmt: skip
        for number in range(plan.crops):
            piece = _whole(own[int(rng.integers(len(own)))], store)
            count = int(np.exp(rng.uniform(np.log(0.5), np.log(4.0))) * SAMPLE_RATE)
            count = min(count, piece.count)
            start = int(rng.integers(piece.count - count + 1))
            crop = (Piece(piece.audio, start, count),)
            items.append(Item(f"{dataset}-crop-{number}", "crop", dataset, crop, None, True))
        speakers: dict[str | None, list[Clip]] = defaultdict(list)
        for clip in own:
            if clip.transcript:
                speakers[clip.speaker].append(clip)
        several = [group for _, group in sorted(speakers.items(), key=lambda pair: str(pair[0]))
                   if len(group) > 1]  # fmt: skip
        for number in range(plan.joins + plan.long_joins if several else 0):
            group = several[int(rng.integers(len(several)))]
            limit = 15.0 if number < plan.joins else 28.5
            joined = _join(group, store, rng, limit, 2 if number < plan.joins else 12)
            if len(joined) > 1:
                pieces = tuple(piece for piece, _ in joined)
                words = " ".join(words for _, words in joined)
                items.append(Item(f"{dataset}-join-{number}", "join", dataset, pieces, words, True))
    return [items[place] for place in rng.permutation(len(items))]


def _whole(clip: Clip, store: AudioStore) -> Piece:
    return Piece(str(clip.audio), 0, store.places[str(clip.audio)][1])


def _join(
    group: Sequence[Clip], store: AudioStore, rng: np.random.Generator, seconds: float, most: int
) -> list[tuple[Piece, str]]:
    """Clips of one speaker behind one another, in all at most `seconds`."""
    joined: list[tuple[Piece, str]] = []
    total = 0
    for place in rng.permutation(len(group))[:most]:
        piece = _whole(group[place], store)
        pause = int(rng.uniform(0.1, 0.8) * SAMPLE_RATE) if joined else 0
        if total + pause + piece.count <= seconds * SAMPLE_RATE:
            total += pause + piece.count
            joined.append(
                (Piece(piece.audio, 0, piece.count, pause), group[place].transcript or "")
            )
    return joined


def write_items(items: Sequence[Item], path: Path) -> None:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(asdict(item)) + "\n" for item in items), encoding="utf-8")


def read_items(path: Path) -> list[Item]:
    """What `write_items` wrote."""
    items = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row: dict[str, Any] = json.loads(line)
        pieces = tuple(Piece(**piece) for piece in row.pop("pieces"))
        items.append(Item(**row, pieces=pieces))
    return items
