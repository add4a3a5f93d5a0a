"""Transcripts of Whisper's decoder under the grammar, in batches.

Every row begins with the same prompt; its first pass gives the first token and, beside it, the
probability that nobody speaks. From then on each pass writes a token of every row that is not
over, and rows that are over leave the batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from speechmeta.decoding.automaton import Automaton
from speechmeta.decoding.beams import Line, beam_search, greedy
from speechmeta.decoding.decoders import CrossAttentionDecoder, MemoryCache
from speechmeta.decoding.drafts import Draft
from speechmeta.decoding.inputs import Prompt
from speechmeta.decoding.masks import Masks
from speechmeta.decoding.options import DecodeOptions
from speechmeta.decoding.record import TimedWord
from speechmeta.decoding.session import Plan, Results, Session
from speechmeta.decoding.states import BUDGET_LEVELS, TranscriptStates
from speechmeta.decoding.transcript import TranscriptWriter
from speechmeta.decoding.trees import ROOT, Tree
from speechmeta.decoding.vocabulary import TokenTable
from speechmeta.decoding.whisper_tokens import WhisperTokens
from speechmeta.decoding.word_times import WrittenRow, word_times
from speechmeta.errors import DecodingError, SpeechMetaError, UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, WhisperForConditionalGeneration

# What a JSON string may hold once it is escaped, without the control characters that a
# transcript has no use for. The class is over Unicode scalar values: bytes that are no UTF-8
# never match.
_TEXT = r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]*"


@dataclass
class Transcription:
    """What was said in one clip.

    Attributes:
        text: without spaces around it.
        token_ids: of the text.
        token_logprobs: of these tokens and, where one closed the transcript, of the end token,
            as the model gives them before what is not allowed is left out.
        no_speech_probability: of Whisper's own token for it; 0 where the vocabulary has none.
        words: with times, where they were asked for.
        flags: `transcript_truncated` where the budget ended the transcript, `transcript_loop`
            where a repetition did.
        passes: through the decoder that this clip took part in.
        language: given or detected; None for English-only checkpoints.
    """

    text: str
    token_ids: list[int] = field(default_factory=list)
    token_logprobs: list[float] = field(default_factory=list)
    no_speech_probability: float = 0.0
    words: list[TimedWord] | None = None
    flags: tuple[str, ...] = ()
    passes: int = 0
    language: str | None = None

    @property
    def confidence(self) -> float | None:
        """The geometric mean of the tokens' probabilities; None without a token."""
        if not self.token_logprobs:
            return None
        return math.exp(sum(self.token_logprobs) / len(self.token_logprobs))


class TranscriptDecoder:
    """Writes transcripts from the states of Whisper's encoder.

    Args:
        whisper: in evaluation mode; it is not changed.
        tokenizer: its own.
        options: of which batch and encoder sizes have no effect here.

    Raises:
        ModelError: the tokenizer is not Whisper's.
    """

    def __init__(
        self,
        whisper: WhisperForConditionalGeneration,
        tokenizer: PreTrainedTokenizerFast,
        options: DecodeOptions | None = None,
    ) -> None:
        self.options = options or DecodeOptions()
        self.decoder = CrossAttentionDecoder(whisper)
        self.tokens = WhisperTokens.of(whisper, tokenizer)
        self._table = TokenTable(tokenizer, self.tokens.control)
        self.states = TranscriptStates.text(
            Automaton.compile(_TEXT, self._table),
            self._table,
            self.tokens.end,
            self.tokens.never,
            self.tokens.not_first,
        )
        allowed = self.states.masks
        self._masks = Masks(allowed.reshape(-1, allowed.shape[-1]), self.decoder.device)
        self._tokenizer = tokenizer
        self._heads = _alignment_heads(whisper)

    @property
    def languages(self) -> tuple[str, ...]:
        """The codes that `decode` takes; none for an English-only checkpoint."""
        return tuple(sorted(self.tokens.languages))

    @torch.inference_mode()
    def decode(
        self,
        encoder_states: Sequence[torch.Tensor],
        seconds: Sequence[float],
        *,
        language: str | None = None,
        hotwords: str | None = None,
        want_words: bool = False,
        no_speech_above: Sequence[float | None] | None = None,
        drafts: Sequence[str | None] | None = None,
    ) -> list[Transcription | SpeechMetaError]:
        """Transcripts of one batch.

        Args:
            encoder_states: of each row (positions, width), of the encoder's last layer.
            seconds: of each row's own audio: bounds the transcript, and its words' times.
            language: a code; None detects it row by row, in one more pass.
            hotwords: text that the decoder takes for what was written before, so that names
                in it are written as they are there; of a longer text the end counts.
            want_words: with times, in one more pass.
            no_speech_above: by row, the probability of no speech above which the transcript is
                left empty; None never.
            drafts: by row, what the transcript may begin with, which spares a pass for each
                token of it that does and changes nothing else; without effect on beams.

        Returns:
            By row, a transcription or what kept it from being one.

        Raises:
            UsageError: the language is not known, or the vocabulary takes no hotwords.
        """
        self.tokens.check(language)
        prompt = self._prompt(hotwords)
        prompts = self._prompts(prompt, encoder_states, seconds)
        limits = no_speech_above or [None] * len(prompts)
        longest = max(self._budget(item, len(prompt)) for item in seconds)
        writers = [
            TranscriptWriter(self.states, self.options, self._budget(item, len(prompt)))
            for item in seconds
        ]
        given = [
            self._draft(writer, text)
            for writer, text in zip(writers, drafts or [None] * len(writers), strict=True)
        ]
        room = 3 + min(longest, 64) + max(len(draft.tokens) for draft in given)
        session = Session(self.decoder, prompts, self._masks, room)
        lines = [Line(row, writer) for row, writer in zip(session.rows, writers, strict=True)]
        opened = self._open(session, language, list(zip(lines, given, strict=True)))
        write = greedy if self.options.beams == 1 else beam_search
        found: list[Transcription | SpeechMetaError] = [item for item, _ in opened]
        begun: dict[int, tuple[Line, Results]] = {}
        for number, (item, first) in enumerate(opened):
            limit = limits[number]
            item.passes = lines[number].row.passes
            if limit is None or item.no_speech_probability <= limit:
                begun[number] = lines[number], first
        for number, line in write(session, begun, self.options.beams).items():
            if isinstance(line, SpeechMetaError):
                found[number] = line
            else:
                self._close(opened[number][0], line)
        if want_words:
            self._time(found, prompts)
        return found

    @torch.inference_mode()
    def align(
        self,
        encoder_states: Sequence[torch.Tensor],
        seconds: Sequence[float],
        texts: Sequence[str],
        language: str | None = None,
    ) -> list[list[TimedWord] | None]:
        """When the words of texts that were written elsewhere are said.

        The decoder is fed each text as if it had written it, in one pass; a word's probability is
        what this decoder gives it.

        Args:
            encoder_states, seconds: as `decode` takes them.
            texts: none is empty.
            language: of the texts; None detects it row by row, where the checkpoint knows several.

        Returns:
            By row, the words in order; None where the text is longer than the context, or holds
            what the vocabulary cannot write.

        Raises:
            UsageError: the language is not known.
        """
        self.tokens.check(language)
        languages = [language if self.tokens.languages else None] * len(texts)
        if language is None and self.tokens.languages:
            nothing: list[float | None] = [-1.0] * len(texts)
            heard = self.decode(encoder_states, seconds, no_speech_above=nothing)
            languages = [None if isinstance(i, SpeechMetaError) else i.language for i in heard]
        prompts = self._prompts(self._prompt(None), encoder_states, seconds)
        words: list[list[TimedWord] | None] = [None] * len(texts)
        rows: dict[int, WrittenRow] = {}
        for number, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
            code = languages[number]
            if code is None and self.tokens.languages:
                continue
            task = self.tokens.task(code)
            ids = self._plain(" " + text.strip())
            pieces = [self.states.piece(token) for token in ids]
            fits = len(prompt.embeds) + len(task) + len(ids) + 1 <= self.decoder.max_positions
            if fits and b"".join(pieces).decode(errors="replace").strip() == text.strip():
                length = prompt.seconds
                rows[number] = WrittenRow(prompt, task, ids, pieces, None, length, code)
        if rows:
            timed = word_times(self.decoder, list(rows.values()), self._heads, self.tokens.end)
            for number, found in zip(rows, timed, strict=True):
                words[number] = found
        return words

    def _time(
        self, found: Sequence[Transcription | SpeechMetaError], prompts: Sequence[Prompt]
    ) -> None:
        """Adds words to what was found, in one pass over all of it."""
        rows: list[tuple[Transcription, WrittenRow]] = []
        for item, prompt in zip(found, prompts, strict=True):
            if isinstance(item, SpeechMetaError):
                continue
            item.words = []
            if item.text:
                pieces = [self.states.piece(token) for token in item.token_ids]
                row = WrittenRow(
                    prompt,
                    self.tokens.task(item.language),
                    item.token_ids,
                    pieces,
                    item.token_logprobs,
                    prompt.seconds,
                    item.language,
                )
                rows.append((item, row))
        if rows:
            timed = word_times(self.decoder, [row for _, row in rows], self._heads, self.tokens.end)
            for (item, _), words in zip(rows, timed, strict=True):
                item.words = words
                item.passes += 1

    def _prompt(self, hotwords: str | None) -> list[int]:
        """The prompt up to and with the start token."""
        text = (hotwords or "").strip()
        if not text:
            return [self.tokens.start]
        if self.tokens.previous is None:
            raise UsageError(
                "the checkpoint takes no hotwords", "its vocabulary has no <|startofprev|>"
            )
        ids: list[int] = self._tokenizer(" " + text, add_special_tokens=False)["input_ids"]
        # As openai/whisper does: half of the context is left to the transcript.
        kept = ids[-(self.decoder.max_positions // 2 - 1) :]
        return [self.tokens.previous, *kept, self.tokens.start]

    def _plain(self, text: str) -> list[int]:
        """The tokens of a text in which `<|endoftext|>` and its like are text like any other."""
        backend = self._tokenizer.backend_tokenizer
        pieces = backend.pre_tokenizer.pre_tokenize_str(text)
        return [token.id for piece, _ in pieces for token in backend.model.tokenize(piece)]

    def _prompts(
        self,
        prompt: list[int],
        encoder_states: Sequence[torch.Tensor],
        seconds: Sequence[float],
    ) -> list[Prompt]:
        embeds = self.decoder.embed(torch.tensor([prompt], device=self.decoder.device))[0]
        return [
            Prompt(embeds, length, memory=states)
            for states, length in zip(encoder_states, seconds, strict=True)
        ]

    def _budget(self, seconds: float, prompt: int) -> int:
        """Most tokens of a transcript, its end token not counted."""
        # Task and end token have places too; finding word times feeds all of them.
        return min(self.options.budget(seconds), self.decoder.max_positions - prompt - 4)

    def _open(
        self,
        session: Session[MemoryCache],
        language: str | None,
        lines: Sequence[tuple[Line, Draft]],
    ) -> list[tuple[Transcription, Results]]:
        """Feeds the prompts and drafts; by row what is known then, and the next token."""
        edges = [] if self.tokens.no_speech is None else [self.tokens.no_speech]
        detects = language is None and self.tokens.languages
        task = [] if detects else self.tokens.task(language)
        if detects:
            edges += self.tokens.languages.values()
        plans = [_opening(task, edges, draft) for _, draft in lines]
        top = 2 * self.options.beams if self.options.beams > 1 else 1
        first = session.run(list(zip(session.rows, plans, strict=True)), top)
        opened = []
        for results in first:
            given = dict(zip(edges, results.edges, strict=True))
            item = Transcription("", language=language if self.tokens.languages else None)
            if self.tokens.no_speech is not None:
                item.no_speech_probability = math.exp(given[self.tokens.no_speech])
            if detects:
                known = self.tokens.languages
                item.language = max(known, key=lambda code: given[known[code]])
            opened.append((item, results))
        if detects:
            tasks = [self.tokens.task(item.language) for item, _ in opened]
            plans = [_opening(own, [], draft) for own, (_, draft) in zip(tasks, lines, strict=True)]
            again = session.run(list(zip(session.rows, plans, strict=True)), top)
            opened = [(item, now) for (item, _), now in zip(opened, again, strict=True)]
            task = tasks[0]
        for number, (line, draft) in enumerate(lines):
            item, results = opened[number]
            count = draft.check(line, results)
            session.keep(line.row, range(len(task) + count))
            opened[number] = item, results.after(count * top)
        return opened

    def _draft(self, writer: TranscriptWriter, text: str | None) -> Draft:
        wanted = text is not None and text.strip() and self.options.beams == 1
        tokens = self._plain(" " + text.strip()) if wanted and text else []
        # As the first token of every transcript is asked for, whatever its budget.
        return Draft.of(writer, tokens, self.states.start * BUDGET_LEVELS + BUDGET_LEVELS - 1)

    def _close(self, item: Transcription, line: Line) -> None:
        writer = line.writer
        kept = writer.tokens[: writer.kept]
        item.token_logprobs = line.log_probs[: writer.kept]
        item.token_ids = [token for token in kept if token != self.tokens.end]
        item.flags, item.passes = writer.flags, line.row.passes
        try:
            item.text = writer.written.decode().strip()
        except UnicodeDecodeError as error:
            raise DecodingError("the transcript is not valid text", "") from error


def _opening(task: Sequence[int], edges: Sequence[int], draft: Draft) -> Plan:
    """Feeds the task, if it is known, and a draft behind it.

    Args:
        edges: tokens whose probability after the prompt is asked for.
    """
    tree = Tree()
    if task:
        tree.best += tree.path(ROOT, [*task, *draft.tokens])[len(task) - 1 :]
    for token in edges:
        tree.edge(ROOT, token)
    return Plan([], tree, places=draft.places if task else ())


def _alignment_heads(whisper: WhisperForConditionalGeneration) -> list[tuple[int, int]]:
    """The published heads; where a checkpoint has none, all of the upper half of the layers."""
    heads = getattr(whisper.generation_config, "alignment_heads", None)
    if heads:
        return [(int(layer), int(head)) for layer, head in heads]
    layers = range(whisper.config.decoder_layers // 2, whisper.config.decoder_layers)
    return [
        (layer, head) for layer in layers for head in range(whisper.config.decoder_attention_heads)
    ]


__all__ = ["TranscriptDecoder", "Transcription"]
