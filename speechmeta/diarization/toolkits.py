"""Speaker embeddings by other toolkits, where they are installed: pyannote.audio and NeMo.

Neither comes with this package: both bring much else. They load their checkpoints themselves, which
are pickles; name only those that you trust.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from speechmeta.audio.loading import SAMPLE_RATE
from speechmeta.audio.types import FloatArray
from speechmeta.diarization.embeddings import Matrix, unit
from speechmeta.errors import ModelError, SpeechMetaError

if TYPE_CHECKING:
    from speechmeta.diarization.same_voice import VoiceSpread

PYANNOTE_DISTANCE = 0.7
"""Where pyannote's own pipelines cut their clusters (0.7045 in speaker-diarization-3.1); a pipeline
that is named brings its own."""

NEMO_DISTANCE = 0.6
"""NeMo's `verify_speakers` takes a score of 0.7 for one speaker, which is a cosine of 0.4."""

SHORTEST_SECONDS = 0.5
"""Shorter clips are repeated up to this: the networks need some frames."""

_TOGETHER = 32

Encode = Callable[[torch.Tensor], Any]
"""Takes waveforms (n, samples) at 16 kHz to embeddings (n, size)."""


class ForeignEmbedder:
    """An `Embedder` around another toolkit's network.

    Args:
        encode: the network. distance: cosine distance from which two clusters are two speakers.
        name: for messages.
    """

    spread: VoiceSpread | None = None

    def __init__(self, encode: Encode, distance: float, name: str) -> None:
        self._encode, self.distance, self._name = encode, distance, name

    @torch.inference_mode()
    def embed(self, clips: Sequence[FloatArray]) -> Matrix:
        """Unit vectors (clips, size).

        Raises:
            ModelError: the network gives none.
        """
        shortest = round(SHORTEST_SECONDS * SAMPLE_RATE)
        waves = [clip if len(clip) >= shortest else np.resize(clip, shortest) for clip in clips]
        rows: dict[int, Any] = {}
        for length in sorted({len(wave) for wave in waves}):
            # Only those of one length together: padding would be heard.
            same = [index for index, wave in enumerate(waves) if len(wave) == length]
            for first in range(0, len(same), _TOGETHER):
                part = same[first : first + _TOGETHER]
                batch = torch.from_numpy(np.stack([waves[index] for index in part]).astype("f4"))
                found = np.asarray(torch.as_tensor(self._encode(batch)).float().cpu())
                rows.update(zip(part, found, strict=True))
        vectors = np.stack([rows[index] for index in range(len(clips))]).astype(np.float64)
        if not np.isfinite(vectors).all():
            raise ModelError(
                f"the speaker model {self._name} gives no embedding of a clip",
                "leave --speaker-model out, or name another",
            )
        return unit(vectors)


def is_pyannote(name: str) -> bool:
    """Whether a name is one of pyannote.audio's: of its organisation, or a folder with a pipeline
    or a checkpoint of it."""
    folder = Path(name)
    return name.startswith("pyannote/") or any(
        (folder / file).is_file() for file in ("config.yaml", "pytorch_model.bin")
        if not (folder / "config.json").is_file()
    )  # fmt: skip


def is_nemo(name: str) -> bool:
    """Whether a name is one of NeMo's: a `.nemo` file, or a TitaNet or another of Nvidia's."""
    return name.endswith(".nemo") or name.startswith("nvidia/") or "titanet" in name.lower()


def load_pyannote(name: str, device: torch.device, local_files_only: bool) -> ForeignEmbedder:
    """An embedding model of pyannote.audio, or that of one of its pipelines.

    Raises:
        ModelError: the package is not installed, or the model cannot be had.
    """
    audio = _package("pyannote.audio", "pyannote.audio", name)
    verification = _package("pyannote.audio.pipelines.speaker_verification", "pyannote.audio", name)
    with _Loading(name, "accept its conditions on the hub and set HF_TOKEN, or name a folder"):
        place = _local(name) if local_files_only else name
        distance = PYANNOTE_DISTANCE
        if "diarization" in name or (Path(place) / "config.yaml").is_file():
            pipeline = audio.Pipeline.from_pretrained(place)
            if pipeline is None:
                raise ValueError("its conditions were not accepted, or the token is missing")
            encoder = pipeline._embedding
            settings = pipeline.parameters(instantiated=True)
            distance = float(settings.get("clustering", {}).get("threshold", distance))
            encoder.to(device)
        else:
            if Path(place).is_dir():
                place = str(Path(place) / "pytorch_model.bin")
            encoder = verification.PretrainedSpeakerEmbedding(place, device=device)
    return ForeignEmbedder(lambda waves: encoder(waves[:, None]), distance, name)


def load_nemo(name: str, device: torch.device, local_files_only: bool) -> ForeignEmbedder:
    """A speaker model of NeMo, such as nvidia/speakerverification_en_titanet_large or a `.nemo`.

    Raises:
        ModelError: the package is not installed, or the model cannot be had.
    """
    models = _package("nemo.collections.asr.models", "'nemo_toolkit[asr]'", name)
    with _Loading(name, "name a .nemo file or nvidia/speakerverification_en_titanet_large"):
        known = models.EncDecSpeakerLabelModel
        file = Path(name)
        if local_files_only and not file.is_file():
            file = next(iter(sorted(Path(_local(name)).glob("*.nemo"))), file)
        if file.suffix == ".nemo":
            model = known.restore_from(str(file), map_location=device)
        else:
            model = known.from_pretrained(name)
        model.freeze()
        model.to(device)

    def encode(waves: torch.Tensor) -> Any:
        lengths = torch.full((len(waves),), waves.shape[1], device=device)
        _, found = model(input_signal=waves.to(device), input_signal_length=lengths)
        return found

    return ForeignEmbedder(encode, NEMO_DISTANCE, name)


class _Loading:
    """Turns whatever another toolkit raises while it loads into one line."""

    def __init__(self, name: str, hint: str) -> None:
        self._name, self._hint = name, hint
        self._warnings = warnings.catch_warnings()

    def __enter__(self) -> None:
        self._warnings.__enter__()
        warnings.simplefilter("ignore")

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._warnings.__exit__(None, None, None)
        if isinstance(error, Exception) and not isinstance(error, SpeechMetaError):
            told = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ModelError(
                f"the speaker model {self._name} cannot be loaded: {told}", self._hint
            ) from error


def _package(module: str, install: str, name: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(module)
    except ImportError as error:
        raise ModelError(
            f"the speaker model {name} needs {install.strip(chr(39))}, which is not installed",
            f"pip install {install}, or leave --speaker-model out",
        ) from error


def _local(name: str) -> str:
    """The folder of a model that was downloaded before."""
    if Path(name).exists():
        return name
    from huggingface_hub import snapshot_download

    return str(snapshot_download(name, local_files_only=True))
