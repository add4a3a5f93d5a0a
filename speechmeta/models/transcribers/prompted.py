"""Language models that hear and are asked in words for what was said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from speechmeta.audio.loading import SAMPLE_RATE
from speechmeta.decoding.options import DecodeOptions
from speechmeta.decoding.record import TRUNCATED
from speechmeta.errors import SpeechMetaError
from speechmeta.models.base import Waveform
from speechmeta.models.devices import resolve_device, resolve_dtype
from speechmeta.models.hub import Source
from speechmeta.models.templates import chat_prompt
from speechmeta.models.transcribers.base import (
    MAX_SECONDS,
    Transcript,
    one_by_one,
    one_line,
    padded,
)
from speechmeta.models.weights import quiet_transformers
from speechmeta.trust import checkpoint_errors, from_checkpoint

PROMPTED = ("granite_speech", "granite_speech_plus")
"""Model types that `PromptedTranscriber` knows."""

REQUEST = "can you transcribe the speech into a written format?"
"""As Granite Speech's model card asks for a transcript."""


class PromptedTranscriber:
    """A language model that hears and is asked in words for what was said: Granite Speech.

    Args:
        model: in evaluation mode.
        processor: with the tokenizer's chat template and the audio's place in a prompt.
        name: of the model in reports.
    """

    language: str | None = None
    max_seconds = MAX_SECONDS

    def __init__(self, model: Any, processor: Any, name: str) -> None:
        self._model, self._processor, self.name = model, processor, name
        self._options = DecodeOptions()
        asked = [{"role": "user", "content": f"{processor.audio_token}{REQUEST}"}]
        prompts = chat_prompt(processor.tokenizer, [asked], name, tokenize=False, return_dict=False)
        self._prompt: str = prompts[0]

    def transcribe(
        self, waveforms: Sequence[Waveform], word_times: bool = False
    ) -> list[Transcript | SpeechMetaError]:
        """See `speechmeta.models.transcribers.base.Transcriber.transcribe`."""
        return one_by_one(waveforms, self._one)

    def _one(self, waveform: Waveform) -> Transcript:
        seconds = len(waveform) / SAMPLE_RATE
        budget = self._options.budget(seconds)
        audio = torch.from_numpy(padded(waveform))[None]
        with torch.inference_mode():
            given = self._processor(self._prompt, audio, return_tensors="pt")
            inputs = given.to(self._model.device, dtype=self._model.dtype)
            ids = self._model.generate(
                **inputs, max_new_tokens=budget, num_beams=1, do_sample=False
            )[0, inputs["input_ids"].shape[1] :]
        text = self._processor.tokenizer.decode(ids, skip_special_tokens=True)
        ended = bool(len(ids)) and int(ids[-1]) in _ends(self._model)
        flags = () if ended or len(ids) < budget else (TRUNCATED,)
        return Transcript(one_line(str(text), seconds), flags=flags)


def _ends(model: Any) -> list[int]:
    end = model.generation_config.eos_token_id
    return [] if end is None else end if isinstance(end, list) else [int(end)]


def load_prompted(source: Source, name: str, device: str, dtype: str) -> PromptedTranscriber:
    """Loads a checkpoint; runs no code of it.

    Raises:
        ModelError: it cannot be read, or its chat template refuses the question.
        MissingExtraError: it has an adapter, and the library for it is missing.
    """
    from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor

    place = resolve_device(device)
    hint = "its download may be cut: fetch its files again"
    with checkpoint_errors(f"the transcriber {name} cannot be loaded", hint), quiet_transformers():
        processor = from_checkpoint(AutoProcessor, source.folder, local_files_only=True)
        model = from_checkpoint(
            AutoModelForSpeechSeq2Seq,
            source.folder,
            local_files_only=True,
            use_safetensors=True,
            dtype=resolve_dtype(dtype, place),
        )
        return PromptedTranscriber(model.to(place).eval(), processor, name)


__all__ = ["PROMPTED", "PromptedTranscriber", "load_prompted"]
