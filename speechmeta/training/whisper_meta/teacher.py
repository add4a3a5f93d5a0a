"""What the padded original says of each item: encoder states, and words where case is missing."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from speechmeta.training.whisper_meta.features import SAMPLES_PER_FRAME, log_mel, padded_wave
from speechmeta.training.whisper_meta.items import Item
from speechmeta.training.whisper_meta.store import AudioStore

_LOG = logging.getLogger(__name__)
_BEHIND = 25
"""Frames behind the end of the audio that are kept too: the silence belongs to the clip."""


@dataclass(frozen=True)
class Answer:
    """What the original says of one item.

    Attributes:
        offset: first row in the file of states.
        frames: rows.
        hypothesis: its words, or None where it was not asked.
    """

    offset: int
    frames: int
    hypothesis: str | None


class TeacherStore:
    """Encoder states (float16, width `width`) of many items in one memory-mapped file."""

    def __init__(self, folder: Path, width: int) -> None:
        self.folder, self.width = folder, width
        self.answers: dict[str, Answer] = {}
        path = folder / "teacher.jsonl"
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            row: dict[str, Any] = json.loads(line)
            name = row.pop("name")
            self.answers[name] = Answer(**row)

    def states(self, name: str) -> np.ndarray:
        """(frames, width) float32."""
        answer = self.answers[name]
        kept = np.memmap(
            self.folder / "states.float16",
            dtype=np.float16,
            mode="r",
            offset=answer.offset * self.width * 2,
            shape=(answer.frames, self.width),
        )
        return np.asarray(kept, dtype=np.float32)


def lacks_case(words: str | None) -> bool:
    """Whether a transcript has no punctuation, or no case."""
    if not words:
        return False
    return words.isupper() or words.islower() or not any(mark in words for mark in ".,?!")


def ask_teacher(
    items: Sequence[Item],
    audio: AudioStore,
    whisper: str,
    folder: Path,
    batch_size: int = 8,
) -> TeacherStore:
    """Runs the padded original over the items that it teaches; continues where a run ended.

    Args:
        items: the plan.
        audio: holds their clips.
        whisper: folder or name of the original.
        folder: where states and words are kept.
        batch_size: clips at a time.
    """
    import torch
    from transformers import AutoTokenizer, WhisperForConditionalGeneration

    from speechmeta.training.whisper_meta.greedy import greedy, read_vocabulary
    from speechmeta.training.whisper_meta.layers import encode

    model = WhisperForConditionalGeneration.from_pretrained(
        whisper, dtype=torch.bfloat16, attn_implementation="sdpa", trust_remote_code=False
    ).eval()
    tokenizer = AutoTokenizer.from_pretrained(whisper, trust_remote_code=False)
    vocabulary = read_vocabulary(tokenizer)
    width = model.config.d_model
    padded = model.config.max_source_positions * SAMPLES_PER_FRAME
    folder.mkdir(parents=True, exist_ok=True)
    done = TeacherStore(folder, width)
    left = [item for item in items if item.taught and item.name not in done.answers]
    # Words cost a step a token for the whole batch, so those of a length go together, within
    # spans short enough for every beginning to stay a fair sample.
    span = batch_size * 16
    batches: list[list[Item]] = []
    for start in range(0, len(left), span):
        part = sorted(left[start : start + span], key=lambda item: (_asked(item), item.samples))
        batches += [part[at : at + batch_size] for at in range(0, len(part), batch_size)]
    end = max((answer.offset + answer.frames for answer in done.answers.values()), default=0)
    begun = time.monotonic()
    states_path = folder / "states.float16"
    if not states_path.exists():
        states_path.touch()
    with states_path.open("r+b") as file, (folder / "teacher.jsonl").open("a") as index:
        for number, batch in enumerate(batches):
            mels = [log_mel(padded_wave(item.wave(audio), padded), model.config.num_mel_bins)
                    for item in batch]  # fmt: skip
            with torch.inference_mode():
                states = encode(model.model.encoder, torch.stack(mels).bfloat16())
                hypotheses: list[str | None] = [None] * len(batch)
                asked = [row for row, item in enumerate(batch) if _asked(item)]
                if asked:
                    longest = max(batch[row].samples for row in asked) / 16_000
                    tokens, _ = greedy(model, vocabulary, states[asked], most=int(10 + 8 * longest))
                    for row, ids in zip(asked, tokens, strict=True):
                        hypotheses[row] = tokenizer.decode(ids).strip()
            for row, item in enumerate(batch):
                frames = min(-(-item.samples // SAMPLES_PER_FRAME) + _BEHIND, states.shape[1])
                file.seek(end * width * 2)
                file.write(states[row, :frames].to(torch.float16).numpy().tobytes())
                answer = {"offset": end, "frames": frames, "hypothesis": hypotheses[row]}
                index.write(json.dumps({"name": item.name, **answer}) + "\n")
                done.answers[item.name] = Answer(end, frames, hypotheses[row])
                end += frames
            file.flush()
            index.flush()
            if number % 10 == 9:
                rate = (time.monotonic() - begun) / ((number + 1) * batch_size)
                _LOG.info("%d of %d items, %.3f s each", (number + 1) * batch_size, len(left), rate)
    return done


def _asked(item: Item) -> bool:
    return lacks_case(item.words)
