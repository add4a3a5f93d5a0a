"""The decoder on a vLLM server process, behind the engine's interface (extra `vllm`).

Encoder and connector run in PyTorch; vLLM gets each prompt as embeddings (`enable_prompt_embeds`)
and the grammar as a structured output. What it cannot give is said in `VllmEngine`.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from speechmeta.decoding.assemble import finish, room
from speechmeta.decoding.grammar import Grammar, GrammarCache, escape
from speechmeta.decoding.inputs import Prompt, PromptBuilder
from speechmeta.decoding.layout import SPEECH_VALUES
from speechmeta.decoding.options import DecodeOptions
from speechmeta.decoding.record import TRUNCATED, DecodedRecord
from speechmeta.errors import DecodingError, SpeechMetaError, UsageError
from speechmeta.schema import check_fields

# vLLM gives at most so many alternatives of a token without further settings.
_ALTERNATIVES = 20


def _vllm(name: str = "vllm") -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(
            "vLLM is not installed", 'pip install "speechmeta[vllm]" on a machine with a GPU'
        ) from error


def start_vllm(model: Any, processor: Any, folder: str | Path, **options: Any) -> Any:
    """Writes the decoder to a folder and starts vLLM on it.

    Args:
        model, processor: as from `load_model`.
        folder: gets the decoder's weights and tokenizer.
        options: further arguments of `vllm.LLM`.

    Raises:
        UsageError: vLLM is not installed.
    """
    vllm = _vllm()
    model.language_model.save_pretrained(folder)
    processor.tokenizer.save_pretrained(folder)
    return vllm.LLM(model=str(folder), enable_prompt_embeds=True, **options)


class VllmEngine:
    """Decodes records with vLLM.

    Differences from `Engine`: the model chooses how fixed text is tokenized, labels are
    chosen token by token, and their probabilities come from the alternatives of the first
    token that tells labels apart, so they are approximate; repetitions end at the budget; the
    encoder's own heads have no say.

    Args:
        model: a `SpeechLLMForConditionalGeneration`; its decoder is not used.
        processor: its processor.
        llm: a `vllm.LLM` of the model's decoder, with prompt embeddings enabled.
        options: the budget of transcripts and the encoder's batches.
    """

    def __init__(
        self, model: Any, processor: Any, llm: Any, options: DecodeOptions | None = None
    ) -> None:
        self.model = model
        self.llm = llm
        self.options = options or DecodeOptions()
        self.prompts = PromptBuilder(model, processor, self.options)
        self.grammars = GrammarCache(processor.tokenizer, processor.layout, model.config.label_sets)

    @torch.inference_mode()
    def decode(
        self,
        waveforms: Sequence[np.ndarray],
        fields: Sequence[str] | None = None,
        instruction: str | None = None,
    ) -> list[DecodedRecord | SpeechMetaError]:
        """Decodes clips; see `Engine.decode`."""
        asked = check_fields(fields)
        grammar = self.grammars.get(asked)
        results: list[DecodedRecord | SpeechMetaError] = []
        writers: dict[int, _Answer] = {}
        for number, prompt in enumerate(self.prompts.build(waveforms, asked, instruction)):
            if isinstance(prompt, SpeechMetaError):
                results.append(prompt)
                continue
            try:
                budget = (
                    room(self.model, grammar, prompt, self.options)
                    if "Transcript" in grammar.fields
                    else 0
                )
                writers[number] = _Answer(prompt, grammar, grammar.fixed_tokens + budget)
                results.append(DecodedRecord({}))
            except SpeechMetaError as error:
                results.append(error)
        open_rows = list(writers)
        while open_rows:
            outputs = self._generate([writers[number] for number in open_rows])
            still_open = []
            for number, output in zip(open_rows, outputs, strict=True):
                try:
                    if writers[number].take(output.outputs[0]):
                        results[number] = writers[number].record()
                    else:
                        still_open.append(number)
                except SpeechMetaError as error:
                    results[number] = error
            open_rows = still_open
        return results

    def _generate(self, answers: Sequence[_Answer]) -> list[Any]:
        vllm = _vllm()
        structured = _vllm("vllm.sampling_params").StructuredOutputsParams
        table = self.model.get_input_embeddings()
        requests, parameters = [], []
        for answer in answers:
            ids = torch.tensor(answer.tokens, device=table.weight.device).long()
            embeds = (
                torch.cat([answer.prompt.embeds, table(ids)])
                if len(ids)
                else (answer.prompt.embeds)
            )
            requests.append({"prompt_embeds": embeds})
            parameters.append(
                vllm.SamplingParams(
                    temperature=0.0,
                    max_tokens=answer.limit,
                    logprobs=_ALTERNATIVES,
                    structured_outputs=structured(regex=answer.pattern),
                )
            )
        outputs: list[Any] = self.llm.generate(requests, parameters)
        return outputs


class _Answer:
    """One record while vLLM writes it: one request, and more where its tokens ran out.

    Attributes:
        prompt: what comes before the answer.
        pattern: the expression for what is still to be written.
        tokens: what is written already.
        limit: most tokens of the next request.
    """

    def __init__(self, prompt: Prompt, grammar: Grammar, limit: int) -> None:
        self.prompt = prompt
        self.limit = limit
        self.tokens: list[int] = []
        self._grammar = grammar
        # The first token's leading space is text for us and may be none for vLLM.
        start = escape(grammar.table.start)
        self.pattern = (f"(?:{start})?" if start else "") + grammar.pattern(0)
        self._result = DecodedRecord(values={})
        self._written: dict[str, str] = {}
        self._next = 0
        self._requests = 0
        self._head = ""

    def take(self, output: Any) -> bool:
        """Takes a request's output; returns whether the record is complete.

        Raises:
            DecodingError: the text is not what the grammar allows.
        """
        table, grammar = self._grammar.table, self._grammar
        ids = [int(token) for token in output.token_ids if int(token) != table.eos_token_id]
        self._result.sampled_tokens += len(ids)
        self._result.forward_passes += len(output.token_ids)
        text = table.text_of(ids)
        position = len(text) - len(text.lstrip(b" ")) if not self.tokens else 0
        position = 0 if text.startswith(grammar.before(0).encode()) else position
        for index in range(self._next, len(grammar.fields)):
            field = grammar.fields[index]
            before = grammar.before(index).encode()
            if not text.startswith(before, position):
                return self._go_on(text, position, index)
            value_at = position
            position += len(before)
            if field == "Transcript":
                end = text.find(grammar.layout.value_close.encode(), position)
                if end < 0:
                    return self._close(text, position, index)
                self._transcript(text[position:end])
                position = end
                continue
            option = self._label(field, text, position)
            if option is None:
                return self._go_on(text, value_at, index)
            self._result.probabilities[field] = self._distribution(
                field, text, position, ids, output.logprobs
            )
            label, form = option
            self._written[field] = form
            position += len(form.encode())
            speech = field == "SpeechActivity"
            self._result.values[field] = SPEECH_VALUES[label] if speech else label
            if grammar.ends_record(field, label):
                break
        return True

    def record(self) -> DecodedRecord:
        """The complete record."""
        passes = self._result.forward_passes
        last = self._grammar.before(len(self._grammar.fields)).encode()
        return finish(self._result, self._grammar, self._written, len(last), passes)

    def _transcript(self, written: bytes) -> None:
        self._result.values["Transcript"] = self._grammar.parse_transcript(written)
        self._written["Transcript"] = written.decode()

    def _close(self, text: bytes, position: int, index: int) -> bool:
        """Ends a transcript whose budget is used up; returns whether nothing follows it."""
        whole = text[position:].decode(errors="ignore").encode()
        self._transcript(whole)
        self._result.flags = (TRUNCATED,)
        if index + 1 == len(self._grammar.fields):
            return True
        return self._go_on(text[:position] + whole, position + len(whole), index + 1)

    def _go_on(self, text: bytes, position: int, index: int) -> bool:
        """Asks for the rest from a field on, where the tokens did not suffice.

        Raises:
            DecodingError: nothing was gained since the last request.
        """
        if index == self._next and self._requests:
            raise _unreadable()
        self._requests += 1
        start = self._grammar.table.start.encode()
        if not self.tokens and text.startswith(start):
            text, position = text[len(start) :], position - len(start)
        self._head += text[:position].decode()
        self.tokens = self._grammar.table.encode_start(self._head) if self._head else []
        self.pattern = self._grammar.pattern(index)
        self._next = index
        return False

    def _label(self, field: str, text: bytes, position: int) -> tuple[str, str] | None:
        """(label, form) of a complete value, None of one that was cut.

        Raises:
            DecodingError: it is no value of the field.
        """
        close = self._grammar.layout.value_close
        cut = False
        for label, form in self._grammar.written(field):
            whole = (form + close).encode()
            if text.startswith(whole, position):
                return label, form
            cut = cut or whole.startswith(text[position:])
        if not cut:
            raise _unreadable()
        return None

    def _distribution(
        self,
        field: str,
        text: bytes,
        position: int,
        ids: list[int],
        logprobs: Sequence[Mapping[int, Any]] | None,
    ) -> dict[str, float]:
        """Probabilities from the alternatives of the value's first token.

        An alternative counts for every label that it can be the beginning of; labels that
        begin alike share it until the token where they part.
        """
        pieces = self._grammar.table.bytes
        forms = [(label, form.encode()) for label, form in self._grammar.written(field)]
        scores = {label: 0.0 for label, _ in forms}
        alive = dict.fromkeys(forms, True)
        reached, weight = 0, 1.0
        for place, token in enumerate(ids):
            piece = pieces[token] or b""
            begin, reached = reached, reached + len(piece)
            if reached <= position:
                continue
            written = text[position : max(position, begin)]
            skipped = max(0, position - begin)
            found: dict[bytes, float] = {}
            for other, entry in (logprobs[place] if logprobs else {}).items():
                option = pieces[other] if other < len(pieces) else None
                if option and option[:skipped] == piece[:skipped]:
                    value = math.exp(float(getattr(entry, "logprob", entry)))
                    tail = option[skipped:]
                    found[tail] = found.get(tail, 0.0) + weight * value
            for form in [form for form, there in alive.items() if there]:
                rest = form[1][len(written) :] + self._grammar.layout.value_close.encode()
                taken = piece[skipped:]
                if rest.startswith(taken) or taken.startswith(rest):
                    continue
                alive[form] = False
                scores[form[0]] += sum(
                    value
                    for tail, value in found.items()
                    if tail and (rest.startswith(tail) or tail.startswith(rest))
                )
            weight = found.get(piece[skipped:], weight)
            if sum(alive.values()) <= 1:
                break
        for form, there in alive.items():
            if there:
                scores[form[0]] += weight
        total = sum(scores.values())
        if not total > 0 or not math.isfinite(total):
            raise DecodingError("vLLM's label scores are not finite", "choose another dtype")
        return {label: value / total for label, value in scores.items()}


def _unreadable() -> DecodingError:
    return DecodingError(
        "vLLM wrote text that the grammar does not allow",
        "use a vLLM version with structured outputs by regular expression",
    )
