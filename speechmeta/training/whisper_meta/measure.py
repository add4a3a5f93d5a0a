"""Word error rates by source, padded or over T frames, wideband or over the telephone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from speechmeta.audio.loading import SAMPLE_RATE
from speechmeta.audio.telephone import over_the_line
from speechmeta.training.manifest import Clip
from speechmeta.training.whisper_meta.features import (
    SAMPLES_PER_FRAME,
    batch_features,
    log_mel,
    padded_wave,
    with_silence,
)
from speechmeta.training.whisper_meta.greedy import greedy, read_vocabulary
from speechmeta.training.whisper_meta.layers import encode
from speechmeta.training.whisper_meta.store import AudioStore

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, WhisperForConditionalGeneration


@dataclass(frozen=True)
class Transcribed:
    """What a model wrote of one clip.

    Attributes:
        clip: the recording.
        text: as written.
        no_speech: probability of <|nospeech|>.
    """

    clip: Clip
    text: str
    no_speech: float


def transcribe(
    model: WhisperForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    clips: Sequence[Clip],
    audio: AudioStore,
    trailing: float | None,
    telephone: bool = False,
    batch_seconds: float = 120.0,
) -> list[Transcribed]:
    """Greedy words of clips, shortest first.

    Args:
        trailing: seconds of silence behind each clip; None pads to thirty seconds.
        telephone: hear them over a G.711 line.
        batch_seconds: audio in a batch.
    """
    import torch

    vocabulary = read_vocabulary(tokenizer)
    most = model.config.max_source_positions * SAMPLES_PER_FRAME
    transcribed: list[Transcribed] = []
    waiting = sorted((clip for clip in clips if clip in audio), key=lambda clip: clip.duration)
    while waiting:
        batch: list[Clip] = []
        while waiting and (
            not batch or (len(batch) + 1) * _seconds(waiting[0], trailing) <= batch_seconds
        ):
            batch.append(waiting.pop(0))
        mels = []
        for clip in batch:
            wave = audio.wave(clip)[:most]
            if telephone:
                wave = over_the_line(wave, SAMPLE_RATE)
            wave = (
                padded_wave(wave, most) if trailing is None else with_silence(wave, trailing, most)
            )
            mels.append(log_mel(wave, model.config.num_mel_bins))
        features, mask = batch_features(mels)
        with torch.inference_mode():
            states = encode(model.model.encoder, features.to(model.dtype), mask)
            rows, no_speech = greedy(
                model, vocabulary, states, mask, most=min(int(12 + 8 * batch[-1].duration), 220)
            )
        for clip, tokens, silent in zip(batch, rows, no_speech.tolist(), strict=True):
            transcribed.append(Transcribed(clip, tokenizer.decode(tokens).strip(), silent))
    return transcribed


def _seconds(clip: Clip, trailing: float | None) -> float:
    return 30.0 if trailing is None else clip.duration + trailing


def word_errors(
    transcribed: Sequence[Transcribed],
    normal: Callable[[str], str],
    silent_above: float | None = None,
) -> dict[str, dict[str, float]]:
    """By source, and for `all`: clips, words, wrong words in %; without speech: clips with words.

    Args:
        transcribed: of one model.
        normal: Whisper's English normaliser.
        silent_above: clips above this no-speech probability count as written without words.
    """
    import jiwer

    grouped: dict[str, list[tuple[str, str]]] = defaultdict(list)
    quiet: dict[str, list[bool]] = defaultdict(list)
    for one in transcribed:
        silent = silent_above is not None and one.no_speech > silent_above
        text = "" if silent else normal(one.text)
        if not one.clip.speech:
            quiet[one.clip.dataset].append(bool(text))
        elif one.clip.transcript and (true := normal(one.clip.transcript)):
            grouped[one.clip.dataset].append((true, text))
    result: dict[str, dict[str, float]] = {}
    if grouped:
        grouped["all"] = [pair for pairs in list(grouped.values()) for pair in pairs]
    for name, pairs in grouped.items():
        rate = jiwer.wer([true for true, _ in pairs], [text for _, text in pairs])
        words = sum(len(true.split()) for true, _ in pairs)
        result[name] = {"clips": len(pairs), "words": words, "wer": round(100 * rate, 2)}
    for name, written in quiet.items():
        share = round(100 * float(np.mean(written)), 2)
        result[f"{name} (no speech)"] = {"clips": len(written), "with words": share}
    return result


def mixed(
    original: Mapping[str, Any], tuned: Mapping[str, Any], encoder: float, decoder: float
) -> dict[str, Any]:
    """Weights between an original and its tuned copy: 1 is the tuned, 0 the original."""
    result = {}
    for name, weight in tuned.items():
        share = encoder if name.startswith("model.encoder.") else decoder
        result[name] = (1.0 - share) * original[name] + share * weight
    return result
