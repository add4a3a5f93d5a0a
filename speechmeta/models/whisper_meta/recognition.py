"""From waveforms to records with a Whisper checkpoint: encoder once, heads, then the decoder.

Only the heads of the asked fields run, and that of SpeechActivity, without which no other field is
right. What a head gives costs no pass of the decoder. A clip that the SpeechActivity head calls no
speech never reaches it; of the others the decoder says too, at its first position, how probable
it is that nobody speaks. Without Transcript among the fields no words are written.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

from speechmeta.decoding.memory import in_parts
from speechmeta.decoding.options import DecodeOptions
from speechmeta.decoding.record import DecodedRecord, TimedWord
from speechmeta.decoding.whisper import TranscriptDecoder, Transcription
from speechmeta.decoding.whisper_layers import encoder_layers
from speechmeta.errors import AudioError, DecodingError, SpeechMetaError, UsageError
from speechmeta.models.devices import return_freed_memory
from speechmeta.models.hub import revision_of
from speechmeta.models.whisper_meta.calibration import calibrated, setting
from speechmeta.models.whisper_meta.processing_whisper_meta import SAMPLE_RATE, collate
from speechmeta.schema import FIELDS, LABEL_FIELDS, LabelSets, ModelInfo

if TYPE_CHECKING:
    from speechmeta.models.whisper_meta.modeling_whisper_meta import (
        EncoderStates,
        WhisperMetaForConditionalGeneration,
    )
    from speechmeta.models.whisper_meta.processing_whisper_meta import WhisperMetaProcessor

BATCH_SIZE = 64
"""Most clips in the decoder at a time; reading its weights costs the same for one as for many."""

ENCODER_SECONDS = 60.0
"""Most seconds of audio, padding included, in one pass of the encoder; more is no faster
(benchmarks/results/call-memory-limits.txt)."""

BUCKET_RATIO = 0.8
"""Clips go together while the shortest has at least this share of the longest one's frames."""

FRAMES_PER_SECOND = 100

DECODER_POSITIONS = 7_000
"""Most positions of the encoder that are kept for one batch of the decoder."""


@dataclass(frozen=True)
class Clip:
    """One waveform as the encoder takes it.

    Attributes:
        features: (mel bins, frames). audio_frames: those that hold the clip itself.
        seconds: its length. draft: what its transcript may begin with.
    """

    features: torch.Tensor
    audio_frames: int
    seconds: float
    draft: str | None = None


@dataclass(frozen=True)
class EncodedClip:
    """What the encoder and the heads give of one clip.

    Attributes:
        seconds: its length.
        states: (positions, width), what the decoder looks at.
        tables: by field, the probabilities of its labels.
        draft: as of the clip.
    """

    seconds: float
    states: torch.Tensor
    tables: dict[str, dict[str, float]]
    draft: str | None = None

    @property
    def speech(self) -> float | None:
        """The probability of speech by the head; None without one."""
        return self.tables.get("SpeechActivity", {}).get("True")


class WhisperMetaRecognizer:
    """A `SpeechModel` (`speechmeta.models.base`) of the family `whisper_meta`.

    Args:
        model, processor: as loaded.
        name: of the model in reports.
        batch_size: waveforms that are decoded together.
        language: of the speech, such as "de"; None for the checkpoint's own, or to detect it
            clip by clip where it knows several.
        hotwords: names and terms to expect, separated by commas.
        beams: transcripts of a clip that are followed at the same time.

    Raises:
        UsageError: the checkpoint does not know the language, or takes no hotwords.
    """

    def __init__(
        self,
        model: WhisperMetaForConditionalGeneration,
        processor: WhisperMetaProcessor,
        *,
        name: str,
        batch_size: int | None = None,
        language: str | None = None,
        hotwords: str | None = None,
        beams: int = 1,
    ) -> None:
        self.model, self.processor, self.name = model, processor, name
        self.batch_size = BATCH_SIZE if batch_size is None else batch_size
        options = DecodeOptions(batch_size=self.batch_size, beams=beams)
        self.transcripts = TranscriptDecoder(model.whisper, processor.tokenizer, options)
        self._layers = encoder_layers(model.get_encoder())
        self.language = self._checked_language(language)
        self.hotwords = (hotwords or "").strip() or None
        heads = (model.config.heads or {}).get(model.heads_name or "", {})
        self._head_fields: dict[str, dict[str, object]] = heads.get("fields", {})
        self._labels: dict[str, list[str]] = model.config.head_labels(model.heads_name)

    def told(self, language: str | None, hotwords: str | None) -> WhisperMetaRecognizer:
        """See `speechmeta.models.base.Instructable`."""
        other = copy.copy(self)
        if language is not None:
            other.language = self._checked_language(language)
        if hotwords is not None:
            other.hotwords = hotwords.strip() or None
        return other

    def _checked_language(self, language: str | None) -> str | None:
        known = self.transcripts.languages
        if language is None:
            return self.model.config.language if known else None
        # Whisper's command line takes names too: German, Castilian.
        code: str = TO_LANGUAGE_CODE.get(language.strip().lower(), language.strip().lower())
        if not known and code == "en":
            return None
        if code not in known and len(known) <= 1:
            only = LANGUAGES[known[0]].title() if known else "English"
            raise UsageError(
                f"the model {self.name} knows {only} only, not {language!r}",
                "leave the language out, or name a multilingual Whisper, such as "
                "--model openai/whisper-large-v3-turbo",
            )
        if code not in known:
            raise UsageError(
                f"the model {self.name} does not know the language {language!r}",
                f"choose from {', '.join(sorted(known))}",
            )
        return code

    @property
    def info(self) -> ModelInfo:
        model = self.model
        heads = (model.config.heads or {}).get(model.heads_name or "", {})
        licence = model.config.licence
        if licence and heads.get("licence") and heads["licence"] != licence:
            licence = f"{licence} AND {heads['licence']}"
        return ModelInfo(
            name=self.name,
            architecture=model.config.model_type,
            device=str(model.device),
            dtype=str(model.whisper.dtype).removeprefix("torch."),
            revision=revision_of(model.config.name_or_path),
            heads=model.heads_name,
            language=self.language or (None if self.transcripts.languages else "en"),
            licence=licence,
        )

    @property
    def fields(self) -> tuple[str, ...]:
        return self.model.fields

    @property
    def label_sets(self) -> LabelSets:
        sets: LabelSets = self.model.config.label_sets_with(self.model.heads_name)
        return sets

    @property
    def thresholds(self) -> Mapping[str, float]:
        return {
            field: setting(self._head_fields.get(field, {}), "abstain_below", math.inf, 0.0)
            for field in LABEL_FIELDS
        }

    @property
    def gives_words(self) -> bool:
        return True

    @property
    def takes_drafts(self) -> bool:
        return self.transcripts.options.beams == 1

    @property
    def max_seconds(self) -> float:
        return self.processor.max_seconds

    def decode(
        self,
        waveforms: Sequence[npt.NDArray[np.float32]],
        fields: Sequence[str] | None = None,
        instruction: str | None = None,
        word_times: bool = False,
        drafts: Sequence[str | None] | None = None,
    ) -> list[DecodedRecord | SpeechMetaError]:
        """See `speechmeta.models.base.SpeechModel.decode`, and `Drafted`."""
        from speechmeta.models.base import given_fields

        asked = given_fields(self, fields)
        if instruction is not None:
            raise UsageError(
                f"the model {self.name} takes no instruction",
                "leave it out, and choose what is written by the fields",
            )
        results: list[DecodedRecord | SpeechMetaError | None] = [None] * len(waveforms)
        clips: list[tuple[int, Clip]] = []
        for row, waveform in enumerate(waveforms):
            try:
                features, frames = self.processor.features(waveform)
            except SpeechMetaError as error:
                results[row] = error
            except (ValueError, TypeError) as error:
                results[row] = AudioError(
                    f"the audio cannot be prepared: {error}", "check the waveform"
                )
            else:
                draft = drafts[row] if drafts is not None else None
                clips.append((row, Clip(features, frames, len(waveform) / SAMPLE_RATE, draft)))
        waiting: list[tuple[int, EncodedClip]] = []
        heads = frozenset(self._labels) & {"SpeechActivity", *asked}
        for bucket in self._buckets(clips):
            encoded = in_parts([clip for _, clip in bucket], lambda part: self._encode(part, heads))
            for (row, _), item in zip(bucket, encoded, strict=True):
                if isinstance(item, SpeechMetaError):
                    results[row] = item
                elif self._needs_words(item, asked):
                    waiting.append((row, item))
                else:
                    results[row] = self._record(item, None, asked)
            return_freed_memory()
        for batch in self._batches(waiting):
            written = in_parts(
                [item for _, item in batch], lambda part: self._transcribe(part, asked, word_times)
            )
            for (row, item), words in zip(batch, written, strict=True):
                results[row] = (
                    words
                    if isinstance(words, SpeechMetaError)
                    else self._record(item, words, asked)
                )
            return_freed_memory()
        return [item for item in results if item is not None]

    @property
    def judges_speech(self) -> bool:
        return "SpeechActivity" in self._labels

    def speech_probabilities(
        self, waveforms: Sequence[npt.NDArray[np.float32]]
    ) -> list[float | None]:
        """See `speechmeta.models.base.SpeechJudge`."""
        if not self.judges_speech:
            raise UsageError(
                f"the model {self.name} has no head for SpeechActivity",
                "the bundled model has one: leave --model out",
            )
        # What the head gives needs no pass of the decoder.
        return [
            None
            if isinstance(record, SpeechMetaError)
            else record.probabilities["SpeechActivity"]["True"]
            for record in self.decode(waveforms, ["SpeechActivity"])
        ]

    def align(
        self,
        waveforms: Sequence[npt.NDArray[np.float32]],
        texts: Sequence[str],
    ) -> list[list[TimedWord] | None]:
        """See `speechmeta.models.base.Aligner.align`."""
        clips: list[tuple[int, Clip]] = []
        for row, waveform in enumerate(waveforms):
            features, frames = self.processor.features(waveform)
            clips.append((row, Clip(features, frames, len(waveform) / SAMPLE_RATE)))
        waiting: list[tuple[int, EncodedClip]] = []
        for bucket in self._buckets(clips):
            encoded = in_parts(
                [clip for _, clip in bucket], lambda part: self._encode(part, frozenset())
            )
            waiting += [
                (row, item)
                for (row, _), item in zip(bucket, encoded, strict=True)
                if isinstance(item, EncodedClip)
            ]
        found: list[list[TimedWord] | None] = [None] * len(waveforms)
        for batch in self._batches(waiting):
            aligned = in_parts(
                [(item, texts[row]) for row, item in batch],
                lambda part: list(
                    self.transcripts.align(
                        [item.states for item, _ in part],
                        [item.seconds for item, _ in part],
                        [text for _, text in part],
                        self.language,
                    )
                ),
            )
            for (row, _), words in zip(batch, aligned, strict=True):
                found[row] = None if isinstance(words, SpeechMetaError) else words
        return_freed_memory()
        return found

    def _needs_words(self, item: EncodedClip, asked: tuple[str, ...]) -> bool:
        """Whether a clip goes on to the decoder."""
        if item.speech is None:
            return "Transcript" in asked or "SpeechActivity" in asked
        return "Transcript" in asked and item.speech >= 0.5

    def _batches(
        self, waiting: list[tuple[int, EncodedClip]]
    ) -> list[list[tuple[int, EncodedClip]]]:
        """Batches for the decoder, of clips as they come from the encoder, the longest first."""
        batches: list[list[tuple[int, EncodedClip]]] = []
        for row in waiting:
            if batches:
                count = len(batches[-1]) + 1
                longest = len(batches[-1][0][1].states)
                if count <= self.batch_size and count * longest <= DECODER_POSITIONS:
                    batches[-1].append(row)
                    continue
            batches.append([row])
        return batches

    def _buckets(self, clips: list[tuple[int, Clip]]) -> list[list[tuple[int, Clip]]]:
        """Clips of similar length, the longest first."""
        buckets: list[list[tuple[int, Clip]]] = []
        for row in sorted(clips, key=lambda item: -item[1].features.shape[-1]):
            if buckets:
                longest = buckets[-1][0][1].features.shape[-1]
                count = len(buckets[-1]) + 1
                fits = count * longest <= ENCODER_SECONDS * FRAMES_PER_SECOND
                similar = row[1].features.shape[-1] >= BUCKET_RATIO * longest
                if fits and similar and count <= self.batch_size:
                    buckets[-1].append(row)
                    continue
            buckets.append([row])
        return buckets

    @torch.inference_mode()
    def _encode(
        self, clips: Sequence[Clip], heads: frozenset[str]
    ) -> list[EncodedClip | SpeechMetaError]:
        inputs = collate([(clip.features, clip.audio_frames) for clip in clips])
        device = self.model.device
        states = self.model.encode(
            inputs["input_features"].to(device),
            inputs["frames"].to(device),
            inputs["audio_frames"].to(device),
            output_hidden_states=bool(heads),
            layers=self._layers,
        )
        tables = self._heard(states, clips, heads)
        sizes = states.mask.sum(-1).tolist()
        return [
            EncodedClip(
                clip.seconds, states.last_hidden_state[row, : sizes[row]], tables[row], clip.draft
            )
            for row, clip in enumerate(clips)
        ]

    def _heard(
        self, states: EncoderStates, clips: Sequence[Clip], heads: frozenset[str]
    ) -> list[dict[str, dict[str, float]]]:
        """For each clip, by field, the probabilities that the heads give."""
        rows: list[dict[str, dict[str, float]]] = [{} for _ in clips]
        if not heads:
            return rows
        for field, logits in self.model.classify(states, heads).items():
            given = self._head_fields[field]
            for row, scores in enumerate(logits.cpu().double().tolist()):
                if not all(map(math.isfinite, scores)):
                    raise DecodingError(
                        f"the scores of {field} are not finite", "decode in float32 or bfloat16"
                    )
                seconds = clips[row].seconds
                rows[row][field] = calibrated(self._labels[field], scores, given, seconds)
        return rows

    @torch.inference_mode()
    def _transcribe(
        self, clips: Sequence[EncodedClip], asked: tuple[str, ...], word_times: bool
    ) -> list[Transcription | SpeechMetaError]:
        # Head and decoder are taken for two witnesses of one odds each: together they say no
        # speech exactly where P(no speech) of the decoder is above P(speech) of the head.
        limits = [0.5 if clip.speech is None else clip.speech for clip in clips]
        taught = self.model.config.no_speech_taught
        if "Transcript" not in asked:
            # The first position says whether anyone speaks; nothing is written behind it.
            limits, taught = [-1.0] * len(clips), True
        return self.transcripts.decode(
            [clip.states for clip in clips],
            [clip.seconds for clip in clips],
            language=self.language,
            hotwords=self.hotwords,
            want_words=word_times and "Transcript" in asked,
            no_speech_above=limits if taught else None,
            drafts=[clip.draft for clip in clips],
        )

    def _record(
        self, clip: EncodedClip, written: Transcription | None, asked: tuple[str, ...]
    ) -> DecodedRecord:
        speech = self._speech(clip.speech, written, "Transcript" in asked)
        spoken = speech >= 0.5
        values: dict[str, bool | str | None] = {}
        probabilities: dict[str, dict[str, float]] = {}
        for field in FIELDS:
            if field not in asked:
                continue
            if field == "SpeechActivity":
                values[field] = spoken
                probabilities[field] = {"True": speech, "False": 1.0 - speech}
            elif field == "Transcript":
                values[field] = written.text if written is not None and spoken else ""
            elif spoken:
                table = probabilities[field] = clip.tables[field]
                values[field] = max(table, key=table.__getitem__)
            else:
                values[field] = None
        record = DecodedRecord(values, probabilities)
        record.abstain_below = {
            field: setting(self._head_fields[field], "abstain_below", clip.seconds, 0.0)
            for field in probabilities
            if field in LABEL_FIELDS
        }
        if written is not None:
            record.forward_passes = written.passes
            record.sampled_tokens = record.transcript_tokens = len(written.token_ids)
            record.language = written.language
        if written is not None and spoken and "Transcript" in asked:
            record.text, record.flags = written.text, written.flags
            record.words = written.words
            record.transcript_confidence = written.confidence
        return record

    def _speech(self, head: float | None, written: Transcription | None, words: bool) -> float:
        """The probability of speech, from the head and from what the decoder did."""
        if written is None:
            return 1.0 if head is None else head
        decoder = 1.0 - written.no_speech_probability
        if words and not self.model.config.no_speech_taught:
            # As Whisper itself does: its no-speech token alone is weak evidence, words that the
            # model is sure of weigh more.
            sure = written.confidence or 0.0
            decoder = max(decoder, sure)
            if head is not None:
                return min(head, decoder) if decoder < 0.5 else head
            return decoder if written.text else decoder / 2
        if head is None:
            return decoder
        return joint(head, decoder)


def joint(first: float, second: float) -> float:
    """One probability from two independent witnesses: the mean of their log odds."""
    edge = 1e-6
    odds = [math.log(p / (1 - p)) for p in (min(max(p, edge), 1 - edge) for p in (first, second))]
    return 1 / (1 + math.exp(-sum(odds) / 2))


__all__ = ["WhisperMetaRecognizer", "joint"]
