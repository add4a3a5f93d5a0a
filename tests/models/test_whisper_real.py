"""Real Whisper checkpoints give token for token what transformers' own `generate` gives.

They are made from registry packages by `recipes/whisper_meta/original.py`; without the registry
the tests skip.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from transformers import WhisperForConditionalGeneration
from whisper_original import original_whisper

from speechmeta.audio.loading import load_audio, resample
from speechmeta.decoding.record import DecodedRecord
from speechmeta.models.loading import load_model
from speechmeta.models.whisper_meta.recognition import WhisperMetaRecognizer

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CALL = ROOT / "examples" / "call.wav"


def turns() -> list[np.ndarray]:
    """The two sides of the example call, six seconds of each at 16 kHz."""
    audio = load_audio(CALL)
    sides = [resample(row, audio.sample_rate, 16_000) for row in audio.waveform]
    return [side[: 6 * 16_000].astype(np.float32) for side in sides]


@pytest.fixture(scope="module", params=["base", "tiny.en"])
def checkpoint(request: pytest.FixtureRequest) -> Path:
    """A folder in transformers' layout."""
    return original_whisper(request, request.param)


def test_token_ids_are_those_of_transformers(checkpoint: Path) -> None:
    clips = turns()
    model, processor = load_model(checkpoint, "cpu", "float32")
    reference = WhisperForConditionalGeneration.from_pretrained(checkpoint).eval()
    multilingual = bool(reference.generation_config.is_multilingual)
    engine = WhisperMetaRecognizer(
        model, processor, name="real", language="en" if multilingual else None
    )
    said = {"language": "en", "task": "transcribe"} if multilingual else {}
    end = reference.config.eos_token_id
    texts = []
    for clip, record in zip(clips, engine.decode(clips, ("Transcript",)), strict=True):
        assert isinstance(record, DecodedRecord)
        inputs = processor(audio=clip, sampling_rate=16_000)
        ids = reference.generate(inputs["input_features"], **said)[0].tolist()
        assert model.generate(**inputs, **said)[0].tolist() == ids
        text = processor.decode([token for token in ids if token < end]).strip()
        assert record.values["Transcript"] == text
        texts.append(text.lower())
    assert "help" in texts[0]
