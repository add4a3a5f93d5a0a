"""The published table's protocol, as a diagnostic: it says nothing of a model in use.

As skit-ai/SpeechLLM's `trainer.py` test_step at f44d361: the gold answer is fed through the
decoder, the prediction is the argmax at every position, so that each predicted token follows
the correct ones. The text of these tokens is read as JSON after a trailing comma is removed;
what cannot be read counts as "NA". Word error rates are taken per utterance after
lower-casing and averaged; labels are compared in lower case.

That reading needs a prompt which names the fields. A checkpoint without instructions is not
told which fields of a clip are known, cannot foresee the keys, and would be measured on them;
its values are read at the places of the gold values instead, and the report says so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from speechmeta.decoding.layout import SPEECH_VALUES, TextLayout
from speechmeta.errors import DatasetError, UsageError
from speechmeta.schema import LABEL_FIELDS

from ..types import Clip, Prediction, Record, Value

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

    from speechmeta.audio.loading import Audio

DECODING = "teacher-forced"
PROTOCOL = (
    "TEACHER-FORCED DIAGNOSTIC, the published SpeechLLM table's protocol: argmax after the "
    "gold prefix, mean of per-utterance WER, lower-casing only. Not what the model does in use; "
    "not comparable with the free-running numbers."
)
BY_PLACE = (
    " This checkpoint takes no instruction: its values were read at the places of the gold values, "
    "not from the JSON as a whole."
)
NOT_READ = "NA"


class TeacherForcedPredictor:
    """A checkpoint that is shown the gold answer.

    Args:
        model, processor: as `speechmeta.models.speechllm.load_model` returns them.
        name: of the checkpoint, for the report.
    """

    needs_audio = True

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, name: str) -> None:
        self.model = model
        self.processor = processor
        self.name = name

    def describe(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "architecture": self.model.config.model_type,
            "device": str(self.model.device),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "fields": ["SpeechActivity", "Transcript", *LABEL_FIELDS],
            "protocol": PROTOCOL + ("" if self.processor.layout.instruction else BY_PLACE),
        }

    def predict_clips(
        self, clips: Sequence[Clip], audios: Sequence[Audio | None]
    ) -> list[Prediction]:
        # One at a time, as in the original: padding would change nothing but the speed.
        return [self._predict(clip, audio) for clip, audio in zip(clips, audios, strict=True)]

    def _predict(self, clip: Clip, audio: Audio | None) -> Prediction:
        import torch

        if audio is None:
            raise UsageError("teacher forcing needs the audio")
        gold = self.gold_values(clip)
        if not gold:
            return Prediction(error="the clip has no reference that could be forced")
        layout, tokenizer = self.processor.layout, self.processor.tokenizer
        instruction = layout.instruction_for(gold) if layout.instruction else None
        inputs = self.processor(
            audio=audio.mono(), sampling_rate=audio.sample_rate, instruction=instruction
        )
        answer_text = layout.render(gold)
        encoded = tokenizer(answer_text, add_special_tokens=False, return_offsets_mapping=True)
        answer = torch.tensor([encoded["input_ids"]])
        inputs["input_ids"] = torch.cat([inputs["input_ids"], answer], dim=1)
        inputs["attention_mask"] = torch.cat(
            [inputs["attention_mask"], torch.ones_like(answer)], dim=1
        )
        with torch.inference_mode():
            batch = {key: value.to(self.model.device) for key, value in inputs.items()}
            batch["input_values"] = batch["input_values"].to(self.model.dtype)
            logits = self.model(**batch).logits[0]
        # The logits before a position predict it.
        predicted = logits[-answer.shape[1] - 1 : -1].argmax(-1).tolist()
        text = tokenizer.decode(predicted, skip_special_tokens=False)
        if layout.instruction:
            found = read_answer(text)
        else:
            spans = value_spans(layout, gold)
            found = {}
            for field, (start, stop) in spans.items():
                places = [
                    token
                    for token, (first, last) in zip(
                        predicted, encoded["offset_mapping"], strict=True
                    )
                    if first < stop and last > start
                ]
                said = tokenizer.decode(places, skip_special_tokens=False)
                found[field] = _bare(said, layout)
        return Prediction(values=_as_values(found, gold), output=text)

    def gold_values(self, clip: Clip) -> dict[str, str]:
        """The clip's known fields as the checkpoint writes them.

        An answer ends after SpeechActivity "False" where the layout says so.
        """
        layout = self.processor.layout
        lower = layout.label_cases[0] == "lower"
        known = clip.reference()
        values: dict[str, str] = {}
        for field in layout.arrange(known):
            value = known[field]
            if field == "SpeechActivity":
                values[field] = next(k for k, meaning in SPEECH_VALUES.items() if meaning is value)
                if value is False and layout.ends_without_speech:
                    return {field: values[field]}
            elif field == "Transcript":
                values[field] = layout.transcript_lead + str(value).lower()
            else:
                values[field] = str(value).lower() if lower else str(value)
        return values


def _as_values(found: Mapping[str, Any], gold: Mapping[str, str]) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for field in gold:
        value = str(found.get(field, NOT_READ))
        if field == "SpeechActivity":
            # Kept as text where it is neither: "NA" is not false.
            said = {name.lower(): meaning for name, meaning in SPEECH_VALUES.items()}
            values[field] = said.get(value.lower(), value)
        else:
            values[field] = value
    return values


def _bare(text: str, layout: TextLayout) -> str:
    # A value's first and last token may hold the fixed text around it as well.
    text = text.lstrip(layout.key_close)
    head, close, tail = text.rpartition(layout.value_close)
    fixed = layout.separator + layout.key_open + layout.closing
    return (head if close and not tail.strip(fixed) else text).strip()


def value_spans(layout: TextLayout, values: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    """Where each value stands in `layout.render(values)`, as characters from and to."""
    spans: dict[str, tuple[int, int]] = {}
    place = 0
    for index, field in enumerate(layout.arrange(values)):
        place += len(layout.before_value(values, index))
        spans[field] = (place, place + len(values[field]))
        place += len(values[field])
    return spans


def read_answer(text: str) -> dict[str, Any]:
    """The first JSON object in a text, a trailing comma forgiven; empty if there is none."""
    match = re.search(r"\{.*?\}", text, re.DOTALL)
    if match is None:
        return {}
    try:
        answer = json.loads(re.sub(r",\s*}", "}", match.group(0)))
    except json.JSONDecodeError:
        return {}
    return answer if isinstance(answer, dict) else {}


def score_teacher_forced(records: Sequence[Record], protocol: str = PROTOCOL) -> dict[str, Any]:
    """The protocol's numbers; a failed clip counts as wrong, with a WER of 1.

    Raises:
        DatasetError: there are no records.
    """
    import jiwer

    if not records:
        raise DatasetError("there are no records to score", "check the data set and --limit")
    rates, empty = [], 0
    for record in records:
        reference = record.reference.get("Transcript")
        if reference is None:
            continue
        if not str(reference).strip():
            empty += 1
        elif record.error is not None:
            rates.append(1.0)
        else:
            said = str(record.prediction.get("Transcript", NOT_READ))
            rates.append(jiwer.wer(str(reference).lower(), said.lower()))
    labels: dict[str, Any] = {}
    for field in ("SpeechActivity", *LABEL_FIELDS):
        cases = [
            str(r.reference[field]).lower() == str(r.prediction.get(field, NOT_READ)).lower()
            for r in records
            if r.reference.get(field) is not None
            # Where the answer ended before the field, nothing was predicted.
            and (r.error is not None or field in r.prediction)
        ]
        if cases:
            labels[field] = {"accuracy": fmean(cases), "n": len(cases)}
    failures = [{"id": r.id, "error": r.error} for r in records if r.error is not None]
    return {
        "protocol": protocol,
        "n": len(records),
        "errors": len(failures),
        "mean_utterance_wer": fmean(rates) if rates else None,
        "utterances": len(rates),
        "empty_references": empty,
        "normalizer": "lower case",
        "labels": labels,
        "failures": failures,
    }
