"""The reference decoder: one record at a time, one token per forward pass.

It decides as `speechmeta.decoding.engine.Engine` does, and scores every option of a label by
itself. Nothing here is fast; the engine is tested against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from speechmeta.decoding.assemble import choices, finish, room
from speechmeta.decoding.audio_models import AudioModel, AudioProcessor
from speechmeta.decoding.decoders import CausalDecoder
from speechmeta.decoding.grammar import Grammar, GrammarCache, Option
from speechmeta.decoding.inputs import Prompt, PromptBuilder
from speechmeta.decoding.labels import choose, common_prefix
from speechmeta.decoding.layout import SPEECH_VALUES
from speechmeta.decoding.memory import in_parts
from speechmeta.decoding.options import DecodeOptions
from speechmeta.decoding.record import DecodedRecord
from speechmeta.decoding.transcript import TranscriptWriter
from speechmeta.errors import SpeechMetaError
from speechmeta.schema import check_fields


class ReferenceEngine:
    """Constrained decoding, token by token.

    Args:
        model, processor: of one checkpoint.
        options: see `DecodeOptions`; batch sizes have no effect here.
    """

    def __init__(
        self, model: AudioModel, processor: AudioProcessor, options: DecodeOptions | None = None
    ) -> None:
        self.model = model
        self.options = options or DecodeOptions()
        self.decoder = CausalDecoder(model.language_model)
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
        return self.decode_prompts(self.prompts.build(waveforms, asked, instruction), grammar)

    @torch.inference_mode()
    def decode_prompts(
        self, prompts: Sequence[Prompt | SpeechMetaError], grammar: Grammar
    ) -> list[DecodedRecord | SpeechMetaError]:
        """Decodes what the encoder has prepared; see `Engine.decode_prompts`."""
        results: list[DecodedRecord | SpeechMetaError] = []
        for prompt in prompts:
            if isinstance(prompt, SpeechMetaError):
                results.append(prompt)
            else:
                results += in_parts([prompt], lambda rows: [self._record(rows[0], grammar)])
        return results

    @torch.inference_mode()
    def greedy_tokens(
        self,
        waveform: np.ndarray,
        fields: Sequence[str] | None = None,
        instruction: str | None = None,
        max_new_tokens: int = 256,
    ) -> list[int]:
        """The best allowed token at each step, forced text and labels included.

        This is what a logits processor in `generate` gives: the model also chooses how the
        forced text is tokenized, and a label by its first token.
        """
        asked = check_fields(fields)
        automaton = self.grammars.get(asked).automaton
        prompt = self.prompts.build([waveform], asked, instruction)[0]
        if isinstance(prompt, SpeechMetaError):
            raise prompt
        decoder = _TokenLoop(self.model, prompt)
        state, tokens = automaton.initial, list[int]()
        while len(tokens) < max_new_tokens and state not in automaton.finals:
            following = automaton.transitions[state]
            allowed = sorted(following)
            scores = decoder.logits[torch.tensor(allowed, device=decoder.logits.device)]
            tokens.append(allowed[int(scores.argmax())])
            decoder.feed(tokens[-1])
            state = following[tokens[-1]]
        return tokens

    def _record(self, prompt: Prompt, grammar: Grammar) -> DecodedRecord:
        decoder = _TokenLoop(self.model, prompt)
        record = DecodedRecord(values={})
        written: dict[str, str] = {}
        consumed: int | None = None
        for index, field in enumerate(grammar.fields):
            if field == "Transcript":
                writer = self._transcript(decoder, grammar, prompt, consumed, record)
                record.values[field] = grammar.parse_transcript(writer.written)
                written[field] = writer.written.decode()
                record.flags = writer.flags
                consumed = writer.consumed
                continue
            option = self._label(decoder, grammar, index, consumed, record)
            written[field] = option.form
            consumed = option.consumed
            if field == "SpeechActivity":
                record.values[field] = SPEECH_VALUES[option.label]
            else:
                record.values[field] = option.label
            if grammar.ends_record(field, option.label):
                break
        return finish(record, grammar, written, consumed or 0, decoder.passes)

    def _label(
        self,
        decoder: _TokenLoop,
        grammar: Grammar,
        index: int,
        consumed: int | None,
        record: DecodedRecord,
    ) -> Option:
        options = grammar.options(index, consumed)
        shared = common_prefix(options)
        for token in options[0].tokens[:shared]:
            decoder.feed(token)
        scores = [decoder.score(option.tokens[shared:]) for option in options]
        record.probabilities[grammar.fields[index]], chosen = choose(options, scores)
        for token in chosen.tokens[shared:]:
            decoder.feed(token)
        sampled = choices(options, chosen)
        record.sampled_tokens += sampled
        record.forced_tokens += len(chosen.tokens) - sampled
        return chosen

    def _transcript(
        self,
        decoder: _TokenLoop,
        grammar: Grammar,
        prompt: Prompt,
        consumed: int | None,
        record: DecodedRecord,
    ) -> TranscriptWriter:
        start = grammar.transcript_start(consumed)
        budget = room(self.decoder, grammar, prompt, self.options)
        writer = TranscriptWriter(grammar.transcript, self.options, budget)
        first_held = len(start.tokens) - start.held
        for place, token in enumerate(start.tokens):
            if place >= first_held:
                healing = start.healing[place - first_held]
                rivals = [token, *healing]
                best = rivals[int(decoder.logits[rivals].argmax())]
                if best != token:
                    fixed = grammar.table.text_of(list(start.tokens[place:]))
                    decoder.feed(best)
                    writer.heal(best, fixed, healing[best])
                    break
            decoder.feed(token)
            record.forced_tokens += 1
        masks = grammar.transcript.masks
        while not writer.done:
            state, level = writer.place
            mask = torch.from_numpy(masks[state, level]).to(decoder.logits.device)
            scores = decoder.logits[: len(mask)].masked_fill(~mask, -torch.inf)
            top = scores.max(-1)
            decoder.feed(writer.push(int(top.indices) if top.values.isfinite() else -1))
        decoder.forget(len(writer.tokens) - writer.kept)
        record.transcript_tokens = len(writer.tokens)
        record.sampled_tokens += len(writer.tokens)
        return writer


class _TokenLoop:
    """The decoder after a prompt, fed one token a pass."""

    def __init__(self, model: AudioModel, prompt: Prompt) -> None:
        self._model = model.language_model
        self._cache = DynamicCache()
        self.passes = 0
        self._run(inputs_embeds=prompt.embeds[None])

    def _run(self, **inputs: Any) -> None:
        output = self._model(**inputs, cache=self._cache, use_cache=True, logits_to_keep=1)
        self.logits: torch.Tensor = output.logits[0, -1].float()
        self.passes += 1

    def feed(self, token: int) -> None:
        self._run(input_ids=torch.tensor([[token]], device=self.logits.device))

    def forget(self, count: int) -> None:
        """Takes the last tokens back; the logits are then of no use."""
        if count:
            self._cache.crop(-count)

    def score(self, tokens: Sequence[int]) -> float:
        """Log probability of a continuation, which is taken back."""
        before, total = self.logits, 0.0
        for place, token in enumerate(tokens):
            total += float(self.logits.log_softmax(-1)[token])
            if place + 1 < len(tokens):
                self.feed(token)
        self.forget(len(tokens) - 1)
        self.logits = before
        return total
