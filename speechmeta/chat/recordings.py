"""Hears recordings for chat: windows, rows for the decoder and transcripts, each only once."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from speechmeta.audio.loading import SAMPLE_RATE, load_audio
from speechmeta.audio.types import FloatArray
from speechmeta.chat.messages import AudioInput
from speechmeta.errors import SpeechMetaError
from speechmeta.models.desta2.modeling_desta2 import DestaForConditionalGeneration
from speechmeta.models.desta2.processing_desta2 import NO_SPEECH, DestaProcessor
from speechmeta.models.desta2.windows import (
    WINDOW_SAMPLES,
    Window,
    mono_16k,
    reference_16k,
    speech_spans,
    split_windows,
)
from speechmeta.models.weights import quiet_transformers

# What the published DeSTA2.5 code lets Whisper write for 30 s; it is cut there without a word.
_REFERENCE_TRANSCRIPT_TOKENS = 128


@dataclass(frozen=True)
class HeardWindow:
    """A window of a recording, as the decoder was given it.

    Attributes:
        start, end: seconds.
        speech: whether the VAD found speech.
        transcript: the text that follows the window's rows in the prompt.
        flags: `cut_in_speech` (no pause within 30 s), `transcript_limit` (Whisper's longest
            text was reached).
    """

    start: float
    end: float
    speech: bool
    transcript: str
    flags: tuple[str, ...] = ()


@dataclass
class Recording:
    """An encoded recording.

    Attributes:
        key: equal keys mean equal recordings, heard in the same way.
        path: its path, if it has one.
        seconds: its duration; what the windows do not cover was cut (published behaviour).
        windows: its windows.
        rows: for each window (prompt_size, decoder width) float32.
        transcripts: for each window Whisper's text, None where Whisper was not asked.
        limited: for each window whether Whisper's longest text was reached.
    """

    key: tuple[Any, ...]
    path: str | None
    seconds: float
    windows: list[Window]
    rows: list[torch.Tensor] = field(default_factory=list)
    transcripts: list[str | None] = field(default_factory=list)
    limited: list[bool] = field(default_factory=list)

    def heard(self, text: str | None, drop_text: bool) -> list[HeardWindow]:
        """The windows with the transcripts that go into a prompt.

        Args:
            text: the caller's transcript of the whole, which follows the last window.
            drop_text: drop the caller's text where there is no speech, as the published
                DeSTA2.5 code does.
        """
        result = []
        for index, window in enumerate(self.windows):
            flags = ("cut_in_speech",) * window.in_speech
            if text is not None and not (drop_text and not window.speech):
                transcript = text if index == len(self.windows) - 1 else ""
            else:
                found = self.transcripts[index]
                transcript = NO_SPEECH if found is None else found
                flags += ("transcript_limit",) * self.limited[index]
            start, end = window.start / SAMPLE_RATE, window.end / SAMPLE_RATE
            result.append(HeardWindow(start, end, window.speech, transcript, flags))
        return result


class Ear:
    """Encodes recordings and remembers them.

    Args:
        model, processor: of a DeSTA checkpoint.
        batch_size: windows that go through Whisper at once.
        remembered: recordings that are kept; the least recently used go first.

    Attributes:
        encoded_windows, transcribed_windows: how many went through Whisper's encoder and
            decoder so far.
    """

    def __init__(
        self,
        model: DestaForConditionalGeneration,
        processor: DestaProcessor,
        batch_size: int,
        remembered: int,
    ) -> None:
        self.model = model
        self.processor = processor
        self.batch_size = batch_size
        self.remembered = remembered
        self.encoded_windows = 0
        self.transcribed_windows = 0
        self._known: OrderedDict[tuple[Any, ...], Recording] = OrderedDict()

    def hear(
        self, audios: Sequence[AudioInput], reference: bool
    ) -> list[Recording | SpeechMetaError]:
        """Encodes what is new among some audios and transcribes what has no text.

        Args:
            reference: hear as the published code does: one window of 30 s, what is longer
                is cut; DeSTA2 resamples twice and transcribes without a VAD.

        Returns:
            in the order of the audios; an error where one cannot be read.
        """
        found: list[Recording | SpeechMetaError] = []
        work: list[tuple[Recording, int, FloatArray]] = []
        for audio in audios:
            try:
                recording, new = self._look_up(audio, reference)
            except SpeechMetaError as error:
                found.append(error)
                continue
            found.append(recording)
            work += new
        try:
            for first in range(0, len(work), self.batch_size):
                self._encode(work[first : first + self.batch_size], reference)
        except BaseException:
            for recording, _, _ in work:
                self._known.pop(recording.key, None)
            raise
        while len(self._known) > self.remembered:
            self._known.popitem(last=False)
        return found

    def forget(self) -> None:
        """Drops what is remembered."""
        self._known.clear()

    def _look_up(
        self, audio: AudioInput, reference: bool
    ) -> tuple[Recording, list[tuple[Recording, int, FloatArray]]]:
        """The recording, and its windows that have to be encoded."""
        source = audio.source
        key = (_fingerprint(source), reference)
        known = self._known.get(key)
        if known is not None and (audio.text is not None or not self._lacks_text(known)):
            self._known.move_to_end(key)
            return known, []
        recording, waveform = self._prepare(source, key, reference)
        count = len(recording.windows)
        recording.rows = [torch.empty(0)] * count
        recording.limited = [False] * count
        recording.transcripts = [
            "" if audio.text is None and self._asks_whisper(window, reference) else None
            for window in recording.windows
        ]
        self._known[key] = recording
        self._known.move_to_end(key)
        return recording, [
            (recording, index, waveform[window.start : window.end])
            for index, window in enumerate(recording.windows)
        ]

    def _asks_whisper(self, window: Window, reference: bool) -> bool:
        return window.speech or (reference and self.processor.variant == "desta2")

    def _lacks_text(self, recording: Recording) -> bool:
        reference = recording.key[1]
        return any(
            text is None and self._asks_whisper(window, reference)
            for window, text in zip(recording.windows, recording.transcripts, strict=True)
        )

    def _prepare(
        self, source: Any, key: tuple[Any, ...], reference: bool
    ) -> tuple[Recording, FloatArray]:
        audio = load_audio(source)
        if not reference:
            waveform = mono_16k(audio)
            windows = split_windows(waveform)
        else:
            waveform = reference_16k(audio, twice=self.processor.variant == "desta2")
            # The VAD gets the whole file, Whisper its first 30 s.
            speech = bool(speech_spans(waveform))
            windows = [Window(0, min(len(waveform), WINDOW_SAMPLES), speech)]
        return Recording(key, audio.path, len(waveform) / SAMPLE_RATE, windows), waveform

    @torch.inference_mode()
    def _encode(self, work: list[tuple[Recording, int, FloatArray]], reference: bool) -> None:
        device = self.model.multi_modal_projector.layer_weights.device
        features = self.processor.features([waveform for _, _, waveform in work]).to(device)
        found = self.model.get_audio_features(features)
        self.encoded_windows += len(work)
        for (recording, index, _), rows in zip(work, found.embeds, strict=True):
            recording.rows[index] = rows
        asked = [i for i, (recording, w, _) in enumerate(work) if recording.transcripts[w] == ""]
        if not asked:
            return
        options: dict[str, Any] = {}
        if reference and self.processor.variant == "desta25":
            options["max_new_tokens"] = _REFERENCE_TRANSCRIPT_TOKENS
        with quiet_transformers():
            ids = self.model.transcribe(found.last_hidden_state[asked], **options)
        self.transcribed_windows += len(asked)
        for i, text, row in zip(
            asked, self.processor.transcripts(ids, reference), ids, strict=True
        ):
            recording, index, _ = work[i]
            recording.transcripts[index] = text
            recording.limited[index] = self._full(row)

    def _full(self, ids: torch.Tensor) -> bool:
        """Whether Whisper wrote until it had no room left, without an end token."""
        config = self.model.audio_tower.generation_config
        ends = config.eos_token_id
        ends = {config.pad_token_id, *(ends if isinstance(ends, list) else [ends])}
        written = sum(token not in ends for token in ids.tolist())
        # The prompt (begin, language, task, no timestamps) takes four places of the decoder.
        return written + 4 >= int(self.model.config.audio_config.max_target_positions)


def _fingerprint(source: Any) -> tuple[Any, ...]:
    """Tells recordings apart without decoding files."""
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        try:
            state = path.stat()
        except (OSError, ValueError):
            return ("path", str(path))
        return ("path", str(path.resolve()), state.st_size, state.st_mtime_ns)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return ("bytes", hashlib.sha256(source).hexdigest())
    audio = load_audio(source)
    samples = np.ascontiguousarray(audio.waveform)
    return ("samples", audio.sample_rate, samples.shape, hashlib.sha256(samples.data).hexdigest())


__all__ = ["Ear", "HeardWindow", "Recording"]
