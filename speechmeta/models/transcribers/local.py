"""Transcribers that run here: Whisper checkpoints in our class, all others through transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechmeta.audio.loading import SAMPLE_RATE
from speechmeta.decoding.options import DecodeOptions
from speechmeta.decoding.record import TRUNCATED, DecodedRecord
from speechmeta.errors import DecodingError, ModelError, SpeechMetaError, UsageError
from speechmeta.models.base import Waveform
from speechmeta.models.devices import resolve_device, resolve_dtype
from speechmeta.models.hub import CHECKPOINT_PATTERNS, Source, find_checkpoint
from speechmeta.models.transcribers.base import (
    MAX_SECONDS,
    Transcriber,
    Transcript,
    one_by_one,
    one_line,
    padded,
)
from speechmeta.models.transcribers.prompted import PROMPTED, load_prompted
from speechmeta.trust import checkpoint_errors, from_checkpoint, read_json_object

if TYPE_CHECKING:
    from transformers import AutomaticSpeechRecognitionPipeline

    from speechmeta.models.whisper_meta.recognition import WhisperMetaRecognizer

_PATTERNS = (*CHECKPOINT_PATTERNS, "*.model", "vocab.txt")


class WhisperTranscriber:
    """A Whisper checkpoint in this package's class: under the grammar, with words of its own."""

    def __init__(self, whisper: WhisperMetaRecognizer) -> None:
        self._whisper = whisper
        self.name = whisper.name
        self.language = whisper.info.language
        self.max_seconds = whisper.max_seconds

    def told(self, language: str | None, hotwords: str | None) -> WhisperTranscriber:
        """See `speechmeta.models.transcribers.base.InstructableTranscriber`."""
        return WhisperTranscriber(self._whisper.told(language, hotwords))

    def transcribe(
        self, waveforms: Sequence[Waveform], word_times: bool = False
    ) -> list[Transcript | SpeechMetaError]:
        """See `speechmeta.models.transcribers.base.Transcriber.transcribe`."""
        records = self._whisper.decode(waveforms, ["Transcript"], word_times=word_times)
        return [
            record if isinstance(record, SpeechMetaError) else _transcript(record)
            for record in records
        ]


def _transcript(record: DecodedRecord) -> Transcript:
    text = str(record.values["Transcript"] or "")
    return Transcript(
        text, record.language, record.transcript_confidence, record.words, record.flags
    )


class TransformersTranscriber:
    """A speech recognition model of transformers, by its pipeline, a clip at a time.

    Clips are not padded to each other's length, since padding changes what some models write.

    Args:
        pipeline: of the task automatic-speech-recognition.
        name: of the model in reports.
    """

    language: str | None = None
    max_seconds = MAX_SECONDS

    def __init__(self, pipeline: AutomaticSpeechRecognitionPipeline, name: str) -> None:
        self._pipeline, self.name = pipeline, name
        self._options = DecodeOptions()
        # CTC and transducers write as long as there is audio; the others are told when to end.
        self._bounded = pipeline.type == "seq2seq"

    def transcribe(
        self, waveforms: Sequence[Waveform], word_times: bool = False
    ) -> list[Transcript | SpeechMetaError]:
        """See `speechmeta.models.transcribers.base.Transcriber.transcribe`."""
        return one_by_one(waveforms, self._one)

    def _one(self, waveform: Waveform) -> Transcript:
        seconds = len(waveform) / SAMPLE_RATE
        budget = self._options.budget(seconds)
        audio = {"raw": padded(waveform), "sampling_rate": SAMPLE_RATE}
        options: dict[str, Any] = (
            {"max_new_tokens": budget, "num_beams": 1, "do_sample": False} if self._bounded else {}
        )
        try:
            parts = self._pipeline.preprocess(audio)
            outputs = [self._pipeline.forward(part, **options) for part in parts]
            written = sum(output["tokens"].shape[-1] for output in outputs)
            said = str(self._pipeline.postprocess(outputs)["text"])
        except (RuntimeError, ValueError, MemoryError):
            raise
        except Exception as error:  # whatever one of a hundred models raises of one clip
            raise DecodingError(
                f"the transcriber {self.name} failed: {type(error).__name__}: {error}",
                "its files may not belong together",
            ) from error
        text = one_line(said, seconds)
        flags = (TRUNCATED,) if self._bounded and written > budget else ()
        return Transcript(text, flags=flags)


def load_transcriber(
    name_or_path: str | Path,
    device: str = "auto",
    dtype: str = "auto",
    batch_size: int | None = None,
    local_files_only: bool = False,
    *,
    name: str = "",
    language: str | None = None,
    hotwords: str | None = None,
    beams: int = 1,
) -> Transcriber:
    """Loads a checkpoint that writes transcripts; runs no code of it.

    Args:
        name_or_path: a folder or a hub id; a Whisper in transformers' or this package's layout,
            a CTC, sequence-to-sequence or transducer model of transformers, or Granite Speech.
        device, dtype, local_files_only: as for `speechmeta.models.loading.load_model`.
        name: in reports; `name_or_path` without it.
        batch_size, language, hotwords, beams: of Whisper checkpoints.

    Raises:
        ModelError: the checkpoint cannot be found, reached or read, or is none that transcribes.
        UsageError: it does not take one of the options.
    """
    name = name or str(name_or_path)
    source = find_checkpoint(name_or_path, local_files_only, _PATTERNS)
    config = read_json_object(source.folder / "config.json")
    if config.get("model_type") in ("whisper", "whisper_meta"):
        from speechmeta.models.whisper_meta.loading import load_whisper
        from speechmeta.models.whisper_meta.recognition import WhisperMetaRecognizer

        whisper = WhisperMetaRecognizer(
            *load_whisper(source, device, dtype),
            name=name,
            batch_size=batch_size,
            language=language,
            hotwords=hotwords,
            beams=beams,
        )
        return WhisperTranscriber(whisper)
    several = beams if beams > 1 else None
    for option, value in (("language", language), ("hotwords", hotwords), ("beams", several)):
        if value is not None:
            raise UsageError(
                f"the transcriber {name} takes no {option}",
                f"leave --{option} out, or name a Whisper",
            )
    if dtype == "int8":
        raise UsageError(f"the transcriber {name} has no int8", "choose auto, float32 or bfloat16")
    if config.get("model_type") in PROMPTED:
        return load_prompted(source, name, device, dtype)
    return TransformersTranscriber(_pipeline(source, name, device, dtype), name)


def _pipeline(
    source: Source, name: str, device: str, dtype: str
) -> AutomaticSpeechRecognitionPipeline:
    import transformers
    from transformers import AutoConfig, AutoFeatureExtractor, AutoTokenizer

    from speechmeta.models.weights import quiet_transformers

    place = resolve_device(device)
    hint = "give a folder or hub id of a speech recognition model; its download may be cut"
    with checkpoint_errors(f"the transcriber {name} cannot be loaded", hint), quiet_transformers():
        config = from_checkpoint(AutoConfig, source.folder, local_files_only=True)
        kinds = {
            "AutoModelForCTC": transformers.MODEL_FOR_CTC_MAPPING,
            "AutoModelForTDT": transformers.MODEL_FOR_TDT_MAPPING,
            "AutoModelForRNNT": transformers.MODEL_FOR_RNNT_MAPPING,
            "AutoModelForSpeechSeq2Seq": transformers.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING,
        }
        kind = next((kind for kind, known in kinds.items() if type(config) in known), None)
        if kind is None:
            raise ModelError(
                f"{name} is a {config.model_type} model, which is none that transcribes",
                "name a Whisper, a CTC model, a transducer or a speech-to-text model",
            )
        # Not the processor: with a language model it would need libraries and files of its own.
        extractor = from_checkpoint(AutoFeatureExtractor, source.folder, local_files_only=True)
        tokenizer = from_checkpoint(AutoTokenizer, source.folder, local_files_only=True)
        model = from_checkpoint(
            getattr(transformers, kind),
            source.folder,
            local_files_only=True,
            use_safetensors=True,
            dtype=resolve_dtype(dtype, place),
        )
        _check_prompts(name, model, extractor)
        return transformers.AutomaticSpeechRecognitionPipeline(
            model=model.to(place).eval(),
            feature_extractor=extractor,
            tokenizer=tokenizer,
            device=place,
        )


def _check_prompts(name: str, model: Any, extractor: Any) -> None:
    """Refuses models that are asked for a transcript in words, such as Voxtral.

    Raises:
        ModelError: it is one.
    """
    if model.main_input_name not in getattr(extractor, "model_input_names", ()):
        raise ModelError(
            f"{name} takes a prompt beside the audio, which is not supported here",
            "serve it, such as with vLLM, and give its address as --transcriber",
        )


__all__ = ["TransformersTranscriber", "WhisperTranscriber", "load_transcriber"]
