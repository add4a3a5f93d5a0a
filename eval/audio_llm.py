"""Any audio language model of transformers, prompted, generating freely.

Qwen2-Audio, Granite Speech, Voxtral, Qwen2.5-Omni, Audio Flamingo 3 and what else
`AutoModelForMultimodalLM` knows and whose processor takes `text` and `audio`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from speechmeta.audio.loading import SAMPLE_RATE, Audio
from speechmeta.errors import ModelError, SpeechMetaError
from speechmeta.schema import DEFAULT_LABEL_SETS, FIELDS

from .format_following import instruction

BY_FILE = ("voxtral", "voxtral_realtime")
"""Model types whose processor reads recordings by itself, from files."""


class AudioLLM:
    """A checkpoint that hears one recording and is asked for fields in words.

    Args:
        name: a hub id, or a folder.
        device: for `model.to`; `auto` is CUDA where there is one.
        dtype: `auto` for the checkpoint's own.
        max_new_tokens: longest answer.

    Raises:
        ModelError: transformers cannot load it, or it is no model that hears.
    """

    def __init__(
        self,
        name: str,
        device: str = "auto",
        dtype: str = "auto",
        max_new_tokens: int = 256,
        *,
        local_files_only: bool = False,
    ) -> None:
        import torch
        from transformers import AutoModelForMultimodalLM, AutoProcessor

        from speechmeta.trust import check_folder, checkpoint_errors

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        with checkpoint_errors(f"cannot load {name}", "name an audio language model"):
            if Path(name).is_dir():
                check_folder(Path(name))
            self.processor: Any = AutoProcessor.from_pretrained(
                name, trust_remote_code=False, local_files_only=local_files_only
            )
            loaded: Any = AutoModelForMultimodalLM.from_pretrained(
                name, dtype=dtype, trust_remote_code=False, local_files_only=local_files_only
            )
        self.name, self.max_new_tokens = name, max_new_tokens
        self.model: Any = loaded.to(device).eval()
        self.kind = str(self.model.config.model_type)
        if self.kind not in BY_FILE and not getattr(self.processor, "audio_token", None):
            raise ModelError(
                f"the processor of {name} has no token for audio", "name a model that hears"
            )

    @property
    def label_sets(self) -> Mapping[str, Sequence[str]]:
        return DEFAULT_LABEL_SETS

    def describe(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "architecture": self.kind,
            "device": str(self.model.device),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "fields": list(FIELDS),
            "decoding": f"greedy, free, at most {self.max_new_tokens} tokens",
        }

    def answer(self, audios: Sequence[Audio], fields: Sequence[str]) -> list[str | SpeechMetaError]:
        # One at a time: not every processor pads prompts on the left.
        prompt = instruction(fields)
        return [self._answer(audio, prompt) for audio in audios]

    def _answer(self, audio: Audio, prompt: str) -> str:
        import torch

        inputs = self._inputs(audio, prompt)
        inputs = inputs.to(self.model.device)
        for key, value in inputs.items():
            if torch.is_tensor(value) and value.is_floating_point():
                inputs[key] = value.to(self.model.dtype)
        with torch.inference_mode():
            written = self.model.generate(
                **inputs, do_sample=False, max_new_tokens=self.max_new_tokens
            )
        new = written[0, inputs["input_ids"].shape[1] :]
        return str(self.processor.tokenizer.decode(new, skip_special_tokens=True)).strip()

    def _inputs(self, audio: Audio, prompt: str) -> Any:
        if self.kind in BY_FILE:
            return self._inputs_by_file(audio, prompt)
        wave = audio.mono()
        content = [{"type": "audio", "audio": wave}, {"type": "text", "text": prompt}]
        text = self._templated(content)
        if self.processor.audio_token not in text:
            # Templates for text only, as Granite Speech has one.
            text = self._templated(f"{self.processor.audio_token}{prompt}")
        hears = getattr(self.processor, "feature_extractor", None) is not None
        more = {"sampling_rate": SAMPLE_RATE} if hears else {}
        return self.processor(text=[text], audio=[wave], return_tensors="pt", **more)

    def _templated(self, content: Any) -> str:
        talk = [{"role": "user", "content": content}]
        holder = self.processor
        if getattr(holder, "chat_template", None) is None:
            holder = self.processor.tokenizer
        return str(holder.apply_chat_template(talk, tokenize=False, add_generation_prompt=True))

    def _inputs_by_file(self, audio: Audio, prompt: str) -> Any:
        import soundfile

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "clip.wav"
            soundfile.write(path, audio.mono(), audio.sample_rate)
            content = [{"type": "audio", "path": str(path)}, {"type": "text", "text": prompt}]
            return self.processor.apply_chat_template([{"role": "user", "content": content}])
