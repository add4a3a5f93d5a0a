"""faster-whisper as a system under test: the widest-used Whisper on CTranslate2.

Needs `pip install 'speechmeta[faster-whisper]'`; nothing of it is used elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechmeta.errors import ModelError, UsageError, require_extra

from .types import Prediction

if TYPE_CHECKING:
    from speechmeta.audio.loading import Audio

DEVICES = ("auto", "cpu", "cuda")


class FasterWhisperPredictor:
    """A CTranslate2 Whisper through `WhisperModel.transcribe`, with its own voice activity filter.

    A clip of which the filter, or the decoder, leaves no words is one without speech. All other
    options (five beams, falling back to higher temperatures) are the package's defaults.

    Args:
        model: a folder in CTranslate2's layout, or a name that the package knows.
        language: code of the language, None to let it guess.
        device: `auto`, `cpu` or `cuda`.
        compute_type: CTranslate2's, such as `int8` or `float32`; `auto` is its fastest here.

    Raises:
        MissingExtraError: the package is not installed.
        UsageError: the device is none of its.
        ModelError: the model cannot be loaded.
    """

    def __init__(
        self,
        model: str | Path,
        language: str | None = None,
        device: str = "auto",
        compute_type: str = "auto",
        *,
        local_files_only: bool = False,
    ) -> None:
        require_extra("faster_whisper", "faster-whisper", "--faster-whisper")
        from faster_whisper import WhisperModel

        if device not in DEVICES:
            raise UsageError(
                f"faster-whisper runs on {', '.join(DEVICES)}, not on {device}", "choose --device"
            )
        self.language, self.name = language, str(model)
        try:
            self.model: Any = WhisperModel(
                self.name,
                device=device,
                compute_type=compute_type,
                local_files_only=local_files_only,
            )
        # The package raises what CTranslate2, the hub and onnxruntime raise.
        except Exception as error:
            text = " ".join(str(error).split())
            raise ModelError(
                f"faster-whisper cannot load {model}: {text}",
                "give a folder in CTranslate2's layout, or a name that faster-whisper knows",
            ) from error

    def describe(self) -> dict[str, Any]:
        return {
            "name": f"faster-whisper {self.name}",
            "architecture": f"faster-whisper {metadata.version('faster-whisper')}",
            "device": self.model.model.device,
            "dtype": self.model.model.compute_type,
            "language": self.language,
            "options": "vad_filter=True, else as released; no words is no speech",
            "fields": ["SpeechActivity", "Transcript"],
        }

    def predict(self, audios: Sequence[Audio]) -> list[Prediction]:
        return [self._predict(audio) for audio in audios]

    def _predict(self, audio: Audio) -> Prediction:
        segments, _ = self.model.transcribe(audio.mono(), language=self.language, vad_filter=True)
        text = "".join(segment.text for segment in segments).strip()
        return Prediction(values={"SpeechActivity": bool(text), "Transcript": text})
