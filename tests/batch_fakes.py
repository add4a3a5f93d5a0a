"""A job and a model for tests of folder runs: fast, deterministic, and ill-behaved on demand.

A fake recording is a WAVE header followed by JSON: `turns` are the lengths in samples of its
turns, `value` what their samples are, `do` what happens while it is prepared.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from speechmeta.batch.job import Ask, ModelFacts, Spill, Waveform
from speechmeta.errors import AudioError, DecodingError, ModelError, SpeechMetaError
from speechmeta.schema import (
    AudioInfo,
    CallReport,
    Coverage,
    ModelInfo,
    SpeakerMeta,
    Turn,
)

HEAD = b"RIFF\x00\x00\x00\x00WAVE"
FACTS = ModelFacts(ModelInfo(name="fake", architecture="fake", device="cpu", dtype="float32"), {})


def fake_call(path: Path | bytes, turns: Sequence[int] = (800, 1600), **more: Any) -> None:
    """Writes a fake recording."""
    name = os.fsdecode(path)
    os.makedirs(os.path.dirname(name), exist_ok=True)
    with open(name, "wb") as file:
        file.write(HEAD + json.dumps({"turns": list(turns), **more}).encode())


@dataclass(frozen=True)
class FakeJob:
    """Prepares fake recordings; `delay` in seconds slows every file down."""

    delay: float = 0.0

    def warm_up(self) -> None:
        pass

    def prepare(self, path: str, spill: Spill, ask: Ask) -> Any:
        with open(path, "rb") as file:
            data = file.read()
        if not data.startswith(HEAD):
            raise AudioError(f"{path} is not audio", "give a recording")
        spec = json.loads(data[len(HEAD) :])
        time.sleep(self.delay)
        todo = spec.get("do", "")
        if todo == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif todo == "hang":
            while True:
                time.sleep(60)
        elif todo == "bug":
            raise KeyError("a bug")
        elif todo == "grow":
            with open(path, "ab") as file:
                file.write(b" ")
        elif todo == "crash once":
            with contextlib.suppress(FileExistsError):
                os.close(os.open(f"{path}.seen", os.O_CREAT | os.O_EXCL))
                os.kill(os.getpid(), signal.SIGKILL)
        elif todo == "tell":
            Path(f"{path}.told").touch()
        elif todo == "ask":
            spec["value"] = ask(spec["value"])
        for index, length in enumerate(spec["turns"]):
            # Every turn's samples tell whose they are.
            spill(np.full(length, spec.get("value", 1.0) + index / 100, np.float32))
        return {"path": path, "lengths": spec["turns"]}

    def assemble(self, prepared: Any, records: Sequence[Any], model: ModelFacts) -> CallReport:
        turns = []
        at = 0.0
        for length, record in zip(prepared["lengths"], records, strict=True):
            if isinstance(record, SpeechMetaError):
                raise record
            seconds = length / 16000
            meta = SpeakerMeta.model_validate({"SpeechActivity": True, "Transcript": record})
            turns.append(
                Turn(start=at, end=at + seconds, channel=0, speaker="speaker_0", meta=meta)
            )
            at += seconds
        return CallReport(
            audio=AudioInfo(path=prepared["path"], duration=at, sample_rate=16000, channels=1),
            model=model.info,
            turns=turns,
            coverage=Coverage(speech_seconds=at, non_speech_seconds=0.0, skipped_seconds=0.0),
        )


class FakeModel:
    """Says a turn's length and sample value; a value of 666 breaks the whole batch."""

    facts = FACTS

    def __init__(
        self,
        log: Path | None,
        die: bool,
        delay: float,
        together: int = 1,
        after: Path | None = None,
    ) -> None:
        self._log = log
        self._together = together
        self._after = after
        self._loaded = log and log.with_name(f"{log.name}.loaded")
        if self._loaded is not None:
            with open(self._loaded, "a", encoding="ascii") as file:
                file.write(f"{os.getpid()}\n")
        self._die = die
        self._delay = delay

    def answer(self, request: float) -> float:
        """Twice the number; odd ones cannot be answered."""
        time.sleep(self._delay)
        if request % 2:
            raise DecodingError("cannot answer this")
        return 2 * request

    def decode(
        self, waveforms: Sequence[Waveform], asked: Sequence[Any]
    ) -> list[str | SpeechMetaError]:
        time.sleep(self._delay)
        if self._loaded is not None:
            limit = time.monotonic() + 120
            while len(set(self._loaded.read_text().split())) < self._together:
                assert time.monotonic() < limit, "the others did not come"
                time.sleep(0.01)
        if self._after is not None:
            limit = time.monotonic() + 120
            while not self._after.exists():
                assert time.monotonic() < limit, "nobody told"
                time.sleep(0.01)
        if self._log is not None:
            with open(self._log, "a", encoding="ascii") as file:
                lengths = " ".join(str(len(waveform)) for waveform in waveforms)
                file.write(f"{os.getpid()}: {lengths}\n")
        values = [float(waveform[0]) for waveform in waveforms]
        if 666.0 in values:
            if self._die:
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("out of memory")
        return [
            DecodingError("cannot decode this")
            if value == 13.0
            else f"{len(waveform)} of {value:.2f} to {float(waveform[-1]):.2f}"
            for value, waveform in zip(values, waveforms, strict=True)
        ]


@dataclass(frozen=True)
class FakeSource:
    """Loads a `FakeModel`.

    Attributes:
        log: a file that gets one line a batch: process, and the lengths of its turns.
        broken: the model cannot be loaded.
        die: a value of 666 kills the process instead of raising.
        together: nothing is decoded before so many processes have loaded it; with a log.
        after: nothing is decoded before this file is there; a call of `do="tell"` makes one.
    """

    log: Path | None = None
    broken: bool = False
    die: bool = False
    delay: float = 0.0
    together: int = 1
    after: Path | None = None

    def load(self) -> FakeModel:
        if self.broken:
            raise ModelError("no such model", "give another")
        return FakeModel(self.log, self.die, self.delay, self.together, self.after)
