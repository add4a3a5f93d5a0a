"""A server's `/v1/audio/transcriptions` as a transcriber."""

from __future__ import annotations

import io
import wave
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from speechmeta.audio.loading import SAMPLE_RATE
from speechmeta.errors import EndpointError, SpeechMetaError
from speechmeta.models.base import Waveform
from speechmeta.models.endpoint import Endpoint
from speechmeta.models.transcribers.base import (
    MAX_SECONDS,
    Transcript,
    one_line,
)

if TYPE_CHECKING:
    from openai import AsyncOpenAI


class EndpointTranscriber:
    """Sends each clip as a WAV file of 16 bits; the clip's name and the call's are not told.

    Args:
        endpoint: the server.
        model: its name there.
        language: of the speech, such as "de"; None lets the server find it out.
        prompt: text that the server is to take for what was said before, such as names to expect.
    """

    max_seconds = MAX_SECONDS

    def __init__(
        self, endpoint: Endpoint, model: str, language: str | None = None, prompt: str | None = None
    ) -> None:
        self._endpoint, self._model = endpoint, model
        self.language, self._prompt = language, prompt

    def told(self, language: str | None, hotwords: str | None) -> EndpointTranscriber:
        """See `speechmeta.models.transcribers.base.InstructableTranscriber`."""
        prompt = self._prompt if hotwords is None else hotwords.strip() or None
        return EndpointTranscriber(self._endpoint, self._model, language or self.language, prompt)

    @property
    def name(self) -> str:
        """The model and its server."""
        return f"{self._model} at {self._endpoint.address}"

    def transcribe(
        self, waveforms: Sequence[Waveform], word_times: bool = False
    ) -> list[Transcript | SpeechMetaError]:
        """See `speechmeta.models.transcribers.base.Transcriber.transcribe`."""
        return self._endpoint.each([partial(self._one, waveform) for waveform in waveforms])

    async def _one(self, waveform: Waveform, client: AsyncOpenAI) -> Transcript:
        from openai import omit

        answer: object = await client.audio.transcriptions.create(
            file=("clip.wav", _wav(waveform), "audio/wav"),
            model=self._model,
            response_format="json",
            language=self.language or omit,
            prompt=self._prompt or omit,
        )
        text = getattr(answer, "text", None)
        if not isinstance(text, str):
            raise EndpointError(
                f"{self._endpoint.address} answered without a text",
                "check that it speaks OpenAI's API",
            )
        return Transcript(one_line(text, len(waveform) / SAMPLE_RATE))


def _wav(waveform: Waveform) -> bytes:
    """A clip (samples,) at 16 kHz as a WAV file."""
    samples = np.clip(np.asarray(waveform, np.float64) * 32768, -32768, 32767).round()
    target = io.BytesIO()
    with wave.open(target, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(samples.astype("<i2").tobytes())
    return target.getvalue()


__all__ = ["EndpointTranscriber"]
