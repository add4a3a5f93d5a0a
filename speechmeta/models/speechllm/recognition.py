"""SpeechLLM checkpoints as the pipeline needs them: the engine, and what it can be asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from speechmeta.decoding.engine import Engine
from speechmeta.decoding.options import DecodeOptions
from speechmeta.decoding.record import DecodedRecord
from speechmeta.errors import SpeechMetaError, UsageError
from speechmeta.models.hub import revision_of
from speechmeta.schema import FIELDS, LABEL_FIELDS, LabelSets, ModelInfo

if TYPE_CHECKING:
    from speechmeta.models.speechllm.modeling_speechllm import SpeechLLMForConditionalGeneration
    from speechmeta.models.speechllm.processing_speechllm import SpeechLLMProcessor

BATCH_SIZE = 8


class SpeechLLMRecognizer:
    """A `SpeechModel` (`speechmeta.models.base`) of the family `speechllm`.

    Args:
        model, processor: as loaded.
        name: of the model in reports.
        batch_size: waveforms that are decoded together.
    """

    max_seconds = 30.0
    fields = FIELDS

    def __init__(
        self,
        model: SpeechLLMForConditionalGeneration,
        processor: SpeechLLMProcessor,
        *,
        name: str,
        batch_size: int | None = None,
    ) -> None:
        self.model, self.processor, self.name = model, processor, name
        self.batch_size = BATCH_SIZE if batch_size is None else batch_size
        self.engine = Engine(model, processor, DecodeOptions(batch_size=self.batch_size))

    @property
    def info(self) -> ModelInfo:
        return ModelInfo(
            name=self.name,
            architecture=self.model.config.model_type,
            device=str(self.model.device),
            dtype=str(self.model.dtype).removeprefix("torch."),
            revision=revision_of(self.model.config.name_or_path),
        )

    @property
    def label_sets(self) -> LabelSets:
        sets: LabelSets = self.model.config.label_sets
        return sets

    @property
    def thresholds(self) -> Mapping[str, float]:
        return dict.fromkeys(LABEL_FIELDS, float(self.model.config.abstain_below))

    @property
    def gives_words(self) -> bool:
        return False

    def decode(
        self,
        waveforms: Sequence[npt.NDArray[np.float32]],
        fields: Sequence[str] | None = None,
        instruction: str | None = None,
        word_times: bool = False,
    ) -> list[DecodedRecord | SpeechMetaError]:
        """See `speechmeta.models.base.SpeechModel.decode`."""
        if word_times:
            raise UsageError(
                f"the model {self.name} cannot tell the times of words",
                "leave --word-times out, or name a Whisper",
            )
        return self.engine.decode(waveforms, fields, instruction)


__all__ = ["SpeechLLMRecognizer"]
