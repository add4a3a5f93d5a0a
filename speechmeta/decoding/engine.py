"""The decoding loop: few forward passes, exact label probabilities, batches.

Fixed text is fed together with the token before it (jump-ahead), closed sets are scored as
token trees in one pass, several fields at once where the tree stays small, and transcripts
are written token by token under the grammar's masks. Rows of a batch stand at different
places of their answers; each is a coroutine that yields plans for the next pass.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

import numpy as np
import torch

from speechmeta.decoding.assemble import choices, finish, room
from speechmeta.decoding.audio_models import AudioModel, AudioProcessor
from speechmeta.decoding.cache import SlotCache
from speechmeta.decoding.decoders import CausalDecoder
from speechmeta.decoding.grammar import Grammar, GrammarCache, Option
from speechmeta.decoding.inputs import Prompt, PromptBuilder
from speechmeta.decoding.labels import choose
from speechmeta.decoding.layout import SPEECH_VALUES
from speechmeta.decoding.masks import Masks
from speechmeta.decoding.memory import in_parts
from speechmeta.decoding.options import DecodeOptions
from speechmeta.decoding.record import DecodedRecord
from speechmeta.decoding.session import Plan, Results, Row, Session
from speechmeta.decoding.transcript import TranscriptWriter
from speechmeta.decoding.trees import Forest, LabelStep, TranscriptStep
from speechmeta.errors import SpeechMetaError
from speechmeta.schema import check_fields

# A plan of so few tokens costs a pass hardly more than one token does.
_LIGHT = 4

Decoding = Generator[Plan, Results, DecodedRecord]


class Engine:
    """Decodes records from waveforms.

    Args:
        model, processor: of one checkpoint, such as a `SpeechLLMForConditionalGeneration` and its
            processor.
        options: see `DecodeOptions`.
    """

    def __init__(
        self, model: AudioModel, processor: AudioProcessor, options: DecodeOptions | None = None
    ) -> None:
        self.model = model
        self.options = options or DecodeOptions()
        self.prompts = PromptBuilder(model, processor, self.options)
        self.grammars = GrammarCache(processor.tokenizer, processor.layout, model.config.label_sets)
        self.decoder = CausalDecoder(model.language_model)
        self._forests: dict[Grammar, Forest] = {}
        self._masks: dict[Grammar, Masks] = {}

    @torch.inference_mode()
    def decode(
        self,
        waveforms: Sequence[np.ndarray],
        fields: Sequence[str] | None = None,
        instruction: str | None = None,
    ) -> list[DecodedRecord | SpeechMetaError]:
        """Decodes clips.

        Args:
            waveforms: each (samples,) float at 16 kHz.
            fields: the fields to decode; None for all six.
            instruction: the prompt's instruction; None for the checkpoint's own.

        Returns:
            In the order of the waveforms, a record or the error that kept it from being one.

        Raises:
            UsageError: a field is not known, or the checkpoint takes no instruction.
        """
        asked = check_fields(fields)
        grammar = self.grammars.get(asked)
        return self.decode_prompts(self.prompts.build(waveforms, asked, instruction), grammar)

    @torch.inference_mode()
    def decode_prompts(
        self, prompts: Sequence[Prompt | SpeechMetaError], grammar: Grammar
    ) -> list[DecodedRecord | SpeechMetaError]:
        """Decodes what the encoder has prepared; errors among the prompts are handed on."""
        results: list[DecodedRecord | SpeechMetaError] = [
            item if isinstance(item, SpeechMetaError) else DecodedRecord({}) for item in prompts
        ]
        ready = [(row, item) for row, item in enumerate(prompts) if isinstance(item, Prompt)]
        ready.sort(key=lambda item: -len(item[1].embeds))
        for start in range(0, len(ready), self.options.batch_size):
            batch = ready[start : start + self.options.batch_size]
            decoded = in_parts(batch, lambda part: self._decode([p for _, p in part], grammar))
            for (row, _), result in zip(batch, decoded, strict=True):
                results[row] = result
        return results

    def _decode(
        self, prompts: Sequence[Prompt], grammar: Grammar
    ) -> list[DecodedRecord | SpeechMetaError]:
        results: list[DecodedRecord | SpeechMetaError | None] = [None] * len(prompts)
        longest = max(prompt.seconds for prompt in prompts)
        slots = self.options.budget(min(longest, 20.0)) + 4 * self.options.tree_nodes
        session = Session(self.decoder, prompts, self._masks_of(grammar), slots)
        pending: dict[int, Plan] = {}
        running: dict[int, Decoding] = {}

        def go_on(number: int, results_of_pass: Results | None) -> None:
            try:
                if results_of_pass is None:
                    pending[number] = next(running[number])
                else:
                    pending[number] = running[number].send(results_of_pass)
            except StopIteration as stop:
                results[number] = stop.value
            except SpeechMetaError as error:
                results[number] = error

        for number, prompt in enumerate(prompts):
            running[number] = self._record(session, session.rows[number], prompt, grammar)
            go_on(number, None)
        if len(pending) < len(prompts):
            # The first pass takes all prompts; a row that never began is left out of it.
            return self._without_failed(prompts, grammar, results)
        while pending:
            light = [number for number, plan in pending.items() if len(plan) <= _LIGHT]
            now = light or list(pending)
            plans = [(session.rows[number], pending.pop(number)) for number in now]
            for number, item in zip(now, session.run(plans), strict=True):
                go_on(number, item)
            session.leave([session.rows[number] for number in pending])
        return [item for item in results if item is not None]

    def _without_failed(
        self,
        prompts: Sequence[Prompt],
        grammar: Grammar,
        results: list[DecodedRecord | SpeechMetaError | None],
    ) -> list[DecodedRecord | SpeechMetaError]:
        left = [number for number, item in enumerate(results) if item is None]
        if left:
            again = self._decode([prompts[number] for number in left], grammar)
            for number, item in zip(left, again, strict=True):
                results[number] = item
        return [item for item in results if item is not None]

    def _masks_of(self, grammar: Grammar) -> Masks | None:
        if "Transcript" not in grammar.fields:
            return None
        if grammar not in self._masks:
            allowed = grammar.transcript.masks
            self._masks[grammar] = Masks(
                allowed.reshape(-1, allowed.shape[-1]), self.decoder.device
            )
        return self._masks[grammar]

    def _forest(self, grammar: Grammar) -> Forest:
        if grammar not in self._forests:
            self._forests[grammar] = Forest(grammar, self.options.tree_nodes)
        return self._forests[grammar]

    def _record(
        self, session: Session[SlotCache], row: Row, prompt: Prompt, grammar: Grammar
    ) -> Decoding:
        """One record; yields a plan for each pass and is sent its results."""
        forest = self._forest(grammar)
        record = DecodedRecord(values={})
        written: dict[str, str] = {}
        writer = None
        if "Transcript" in grammar.fields:
            budget = room(self.decoder, grammar, prompt, self.options)
            writer = TranscriptWriter(grammar.transcript, self.options, budget)
        chain: list[int] = []
        index, consumed, over = 0, None, False
        while not over:
            tree = forest.tree(index, consumed)
            place = writer.place_index if writer and not writer.tokens else 0
            results = yield Plan(chain, tree, place=place)
            step: LabelStep | TranscriptStep | None = tree.entry
            while step is not None:
                field = grammar.fields[index]
                if isinstance(step, LabelStep):
                    option, number = self._label(step, results, grammar, record)
                    written[field], consumed = option.form, option.consumed
                    session.keep(row, step.paths[number])
                    chain, following = [option.tokens[-1]], step.following[number]
                    step = None
                    if following is not None:
                        session.keep(row, [following[0]])
                        chain, step = [], following[1]
                    over = grammar.ends_record(field, option.label)
                elif writer is not None:
                    chain = yield from self._transcript(
                        session, row, step, results, grammar, writer, record
                    )
                    record.values[field] = grammar.parse_transcript(writer.written)
                    written[field] = writer.written.decode()
                    record.flags, consumed, step = writer.flags, writer.consumed, None
                index += 1
                over = over or index == len(grammar.fields)
        return finish(record, grammar, written, consumed or 0, row.passes)

    def _label(
        self,
        step: LabelStep,
        results: Results,
        grammar: Grammar,
        record: DecodedRecord,
    ) -> tuple[Option, int]:
        field = grammar.fields[step.index]
        scores = [sum(results.edges[edge] for edge in edges) for edges in step.edges]
        record.probabilities[field], chosen = choose(step.options, scores)
        record.values[field] = (
            SPEECH_VALUES[chosen.label] if field == "SpeechActivity" else chosen.label
        )
        sampled = choices(step.options, chosen)
        record.sampled_tokens += sampled
        record.forced_tokens += len(chosen.tokens) - sampled
        return chosen, step.options.index(chosen)

    def _transcript(
        self,
        session: Session[SlotCache],
        row: Row,
        step: TranscriptStep,
        results: Results,
        grammar: Grammar,
        writer: TranscriptWriter,
        record: DecodedRecord,
    ) -> Generator[Plan, Results, list[int]]:
        """The transcript; returns the tokens that are to be fed before what follows it."""
        start = step.start
        fed = len(start.tokens)
        token = results.best[step.best]
        healed = False
        for place, rivals in enumerate(step.rivals, start=fed - start.held):
            scores = [results.edges[edge] for _, edge in rivals]
            best = rivals[scores.index(max(scores))][0]
            if best != start.tokens[place]:
                healing = start.healing[place - (fed - start.held)]
                fixed = grammar.table.text_of(list(start.tokens[place:]))
                writer.heal(best, fixed, healing[best])
                fed, token, healed = place, best, True
                break
        session.keep(row, step.path[:fed])
        record.forced_tokens += fed
        if not healed:
            token = writer.push(token)
        while not writer.done:
            results = yield Plan([token], after_chain=True, place=writer.place_index)
            token = writer.push(results.best[0])
        record.transcript_tokens = len(writer.tokens)
        record.sampled_tokens += len(writer.tokens)
        # The last token was never fed; where it stays, it goes ahead of what follows.
        undone = len(writer.tokens) - writer.kept
        session.drop(row, max(0, undone - 1))
        return [] if undone else [token]
