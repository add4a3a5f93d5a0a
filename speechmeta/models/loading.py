"""Any checkpoint by name: the bundled one, a folder or a hub id, of any family that analyses."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from speechmeta.errors import ModelError, UsageError
from speechmeta.models.base import SpeechModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

BUNDLED = Path(__file__).parents[1] / "checkpoints" / "bundled"
"""The checkpoint that this project trained and ships."""

BUNDLED_NAME = "bundled"
"""What it is called, as an argument and in results."""


class _Writing(TypedDict):
    """How a Whisper writes."""

    language: str | None
    hotwords: str | None
    beams: int


def load_model(
    name_or_path: str | Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    local_files_only: bool = False,
    heads: str | None = None,
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Loads a checkpoint and its processor, ready for inference.

    Args:
        name_or_path: a folder or hub id of a `whisper_meta`, Whisper or SpeechLLM checkpoint;
            None or "bundled" for the bundled one. No code of a checkpoint is ever executed.
        device: `auto` takes CUDA, then MPS, then the CPU.
        dtype: `float32`, `bfloat16`, `float16`, `int8`, or `auto`: what suits the device.
        local_files_only: fetch nothing.
        heads: the set of label heads of a `whisper_meta` checkpoint; None for its own choice.

    Returns:
        transformers' kind of model and processor, by the checkpoint's family.

    Raises:
        ModelError: the checkpoint cannot be found, reached or read, or does not fit its config.
        UsageError: the device or dtype is not known or not there, or there are no such heads.
    """
    from speechmeta.models.hub import find_checkpoint
    from speechmeta.trust import read_json_object

    if name_or_path is None or str(name_or_path) == BUNDLED_NAME:
        if not (BUNDLED / "config.json").is_file():
            raise ModelError(
                "this installation has no bundled checkpoint",
                "install the whole package, or name a model",
            )
        name_or_path = BUNDLED
    source = find_checkpoint(name_or_path, local_files_only)
    config = read_json_object(source.folder / "config.json")
    if config.get("model_type") in ("whisper_meta", "whisper"):
        from speechmeta.models.whisper_meta.loading import load_whisper

        return load_whisper(source, device, dtype, heads)
    if heads is not None:
        raise UsageError(
            f"{source.folder} has no label heads, and {heads} were asked for",
            "leave --heads out, or leave --model out for the bundled checkpoint",
        )
    from speechmeta.models.speechllm.loading import load_speechllm

    return load_speechllm(source, config, device, dtype)


def load_speech_model(
    model: str | Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    batch_size: int | None = None,
    local_files_only: bool = False,
    *,
    heads: str | None = None,
    language: str | None = None,
    hotwords: str | None = None,
    beams: int = 1,
    transcriber: str | None = None,
    transcriber_model: str | None = None,
    transcriber_key_variable: str | None = None,
    transcriber_timeout: float = 120.0,
    transcriber_requests: int = 4,
) -> SpeechModel:
    """Loads a checkpoint as the pipeline needs it.

    Args:
        model, device, dtype, local_files_only, heads: see `load_model`.
        batch_size: waveforms that are decoded together; None for what suits the family.
        language: of the speech, such as "de"; None for the checkpoint's own, or to detect it.
        hotwords: names and terms that Whisper is told to expect, separated by commas.
        beams: transcripts that Whisper follows at the same time.
        transcriber: what writes the transcripts in the model's place, a checkpoint or the address
            of a server; language, hotwords and beams are for it then.
        transcriber_model: its name at the server.
        transcriber_key_variable, transcriber_timeout, transcriber_requests: see
            `speechmeta.models.endpoint.Endpoint`.

    Raises:
        ModelError: see `load_model`.
        UsageError: see `load_model`; or the checkpoint does not know the language, or takes no
            language, hotwords or beams; or the server's address is none.
        MissingExtraError: a server is named, and the client for it is not installed.
    """
    words: _Writing = {"language": language, "hotwords": hotwords, "beams": beams}
    name = BUNDLED_NAME if model is None else str(model)
    if transcriber is None:
        return _recognizer(name, device, dtype, batch_size, local_files_only, heads, words)
    from speechmeta.models.endpoint import Endpoint, is_address
    from speechmeta.models.transcribers.base import Transcriber
    from speechmeta.models.transcribers.beside import TranscribedBeside

    writer: Transcriber
    if is_address(transcriber):
        from speechmeta.models.transcribers.remote import EndpointTranscriber

        endpoint = Endpoint(
            transcriber, transcriber_key_variable, transcriber_timeout, transcriber_requests
        )
        endpoint.check_offline(local_files_only)
        if beams > 1:
            raise UsageError("a server takes no beams", "leave --beams out")
        writer = EndpointTranscriber(endpoint, transcriber_model or "", language, hotwords)
    else:
        from speechmeta.models.transcribers.local import load_transcriber

        writer = load_transcriber(
            BUNDLED if transcriber == BUNDLED_NAME else transcriber,
            device,
            dtype,
            batch_size,
            local_files_only,
            name=transcriber,
            **words,
        )
    alone: _Writing = {"language": None, "hotwords": None, "beams": 1}
    base = _recognizer(name, device, dtype, batch_size, local_files_only, heads, alone)
    return TranscribedBeside(base, writer)


def _recognizer(
    name: str,
    device: str,
    dtype: str,
    batch_size: int | None,
    local_files_only: bool,
    heads: str | None,
    words: _Writing,
) -> SpeechModel:
    """One model, without a transcriber beside it; `words` are how Whisper writes."""
    loaded, processor = load_model(name, device, dtype, local_files_only, heads)
    if loaded.config.model_type == "whisper_meta":
        from speechmeta.models.whisper_meta.recognition import WhisperMetaRecognizer

        return WhisperMetaRecognizer(loaded, processor, name=name, batch_size=batch_size, **words)
    for option, value in words.items():
        if value is not None and value != 1:
            raise UsageError(
                f"the model {name} takes no {option}", f"leave --{option} out, or name a Whisper"
            )
    from speechmeta.models.speechllm.recognition import SpeechLLMRecognizer

    return SpeechLLMRecognizer(loaded, processor, name=name, batch_size=batch_size)


__all__ = ["BUNDLED", "BUNDLED_NAME", "load_model", "load_speech_model"]
