"""The grammar of a checkpoint's answer: its regular expression, its index over the
vocabulary, and tables that decoding reads.

Compiled once per (tokenizer, layout, fields, label sets) by `GrammarCache`. Knows tokens
and bytes; models and tensors on devices are the engine's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from speechmeta.decoding.automaton import Automaton
from speechmeta.decoding.layout import SPEECH_VALUES, TextLayout
from speechmeta.decoding.states import TranscriptStates
from speechmeta.decoding.vocabulary import TokenTable
from speechmeta.errors import DecodingError, ModelError
from speechmeta.schema import LabelSets

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Transcripts are not escaped: checkpoints learnt them as they are spoken. Without quotes,
# backslashes and control characters the text is a valid JSON string as it stands. The class
# is over Unicode scalar values, so bytes that are no UTF-8 never match.
_FORBIDDEN = r'"\\\x00-\x1f\x7f-\x9f\u2028\u2029'
_SPECIAL = frozenset(r"\.+*?()|[]{}^$#&-~")


def escape(text: str) -> str:
    """A text as a regular expression that matches it and nothing else."""
    return "".join(f"\\{char}" if char in _SPECIAL else char for char in text)


def variants(label: str, cases: Sequence[str]) -> list[str]:
    """The ways in which a label may be written, each once."""
    forms = {"exact": label, "lower": label.lower()}
    unknown = [case for case in cases if case not in forms]
    if unknown:
        raise ModelError(
            f"the layout writes labels in unknown case {', '.join(unknown)}",
            f"known are {', '.join(forms)}",
        )
    return list(dict.fromkeys(forms[case] for case in cases))


@dataclass(frozen=True)
class Option:
    """One way to write one value of a closed set, in a place of the text.

    Attributes:
        label: the value's name in the label set; `True` or `False` for SpeechActivity.
        form: how it is written.
        tokens: from the place up to and with the first token that ends the value.
        consumed: bytes of the fixed text after the value that the last token covers.
    """

    label: str
    form: str
    tokens: tuple[int, ...]
    consumed: int


@dataclass(frozen=True)
class TranscriptStart:
    """The way from a place in the text into the transcript.

    Attributes:
        tokens: the fixed text, canonical.
        held: how many of them, at the end, are given back: a longer vocabulary entry could
            begin there (token healing).
        healing: at each of the held tokens, the first one first, the entries that may take
            the place of what is left of the fixed text, with the transcript's state after
            them (`CLOSED` when they also close it).
    """

    tokens: tuple[int, ...]
    held: int
    healing: tuple[Mapping[int, int], ...]


class Grammar:
    """One layout, some fields, some label sets, over one vocabulary.

    Args:
        table: the tokenizer's bytes.
        layout: the text.
        fields: the fields that are asked for.
        label_sets: the labels of each label field.
    """

    def __init__(
        self, table: TokenTable, layout: TextLayout, fields: Sequence[str], label_sets: LabelSets
    ) -> None:
        self.table = table
        self.layout = layout
        self.fields = layout.arrange(fields)
        if not self.fields:
            raise ModelError("no field was asked for", "ask for at least one")
        self.label_sets = {name: tuple(labels) for name, labels in label_sets.items()}
        self._options: dict[tuple[int, int | None], tuple[Option, ...]] = {}
        self._starts: dict[int | None, TranscriptStart] = {}

    # The text

    def before(self, index: int) -> str:
        """The fixed text before the index-th field's value; past the last field, the end."""
        if index == len(self.fields):
            return self.layout.after_last
        return self.layout.before_value(self.fields, index)

    def written(self, field: str) -> list[tuple[str, str]]:
        """(value, how it is written) for every way to write a field of a closed set."""
        if field == "SpeechActivity":
            return [(value, value) for value in SPEECH_VALUES]
        labels = self.label_sets.get(field, ())
        if not labels:
            raise ModelError(
                f"the checkpoint has no labels for {field}", "its config needs label_sets"
            )
        return [
            (label, form) for label in labels for form in variants(label, self.layout.label_cases)
        ]

    def ends_record(self, field: str, label: str) -> bool:
        """Whether nothing follows this value: without speech there is nothing to describe."""
        return field == "SpeechActivity" and not SPEECH_VALUES[label]

    @cached_property
    def regex(self) -> str:
        """The whole answer, with what the tokenizer puts before a text."""
        return escape(self.table.start) + self.pattern(0)

    def pattern(self, first: int) -> str:
        """The answer from the fixed text before a field on, as a regular expression."""
        body = f"[^{_FORBIDDEN}]*"
        lead = escape(self.layout.transcript_lead)
        pattern = escape(self.layout.after_last)
        for index in range(len(self.fields) - 1, first - 1, -1):
            field = self.fields[index]
            if field == "Transcript":
                pattern = (f"(?:{lead}{body})?" if lead else body) + pattern
            else:
                going = [
                    escape(form)
                    for label, form in self.written(field)
                    if not self.ends_record(field, label)
                ]
                ending = [
                    escape(form) + escape(self.layout.after_last)
                    for label, form in self.written(field)
                    if self.ends_record(field, label)
                ]
                choices = "|".join([f"(?:{'|'.join(going)})" + pattern, *ending])
                pattern = f"(?:{choices})"
            pattern = escape(self.before(index)) + pattern
        return pattern

    @cached_property
    def automaton(self) -> Automaton:
        """The expression compiled over the vocabulary."""
        return Automaton.compile(self.regex, self.table)

    def accepts(self, tokens: Sequence[int]) -> bool:
        """Whether a whole answer's tokens are in the grammar."""
        return self.automaton.accepts(tokens)

    # Values of closed sets

    def options(self, index: int, consumed: int | None) -> tuple[Option, ...]:
        """Every way to write the index-th field from a place before it.

        Args:
            index: of a field that is not the transcript.
            consumed: bytes of `before(index)` that are written already; None at the start
                of the answer.
        """
        key = (index, consumed)
        if key not in self._options:
            field = self.fields[index]
            result: dict[tuple[int, ...], Option] = {}
            for label, form in self.written(field):
                ends = self.ends_record(field, label)
                after = self.before(len(self.fields) if ends else index + 1)
                option = self._option(index, consumed, label, form, after)
                result.setdefault(option.tokens, option)
            self._options[key] = tuple(result.values())
        return self._options[key]

    def _option(
        self, index: int, consumed: int | None, label: str, form: str, after: str
    ) -> Option:
        tokens, offset = self._encode(index, consumed, form + after)
        end = offset + len(form.encode())
        count, length = 0, 0
        while length <= end:
            length += len(self.table.bytes[tokens[count]] or b"")
            count += 1
        return Option(label, form, tuple(tokens[:count]), length - end)

    def _encode(self, index: int, consumed: int | None, text: str) -> tuple[list[int], int]:
        """Tokens of the fixed text before a field and what follows it; and the fixed bytes."""
        before = self.before(index)
        if consumed is None:
            return self.table.encode_start(before + text), len((self.table.start + before).encode())
        rest = before.encode()[consumed:].decode()
        return self.table.encode(rest + text), len(rest.encode())

    def closing(self, index: int, consumed: int) -> list[int]:
        """Canonical tokens of what is left of the fixed text before a field, or the end."""
        return self.table.encode(self.before(index).encode()[consumed:].decode())

    # The transcript

    @cached_property
    def transcript_index(self) -> int:
        return self.fields.index("Transcript")

    @cached_property
    def after_transcript(self) -> bytes:
        """The fixed text after the transcript's value, up to the next choice."""
        return self.before(self.transcript_index + 1).encode()

    def transcript_start(self, consumed: int | None) -> TranscriptStart:
        """The way into the transcript; arguments as for `options`."""
        if consumed not in self._starts:
            tokens, _ = self._encode(self.transcript_index, consumed, "")
            held, healing = self._heal(tokens, consumed)
            self._starts[consumed] = TranscriptStart(tuple(tokens), held, healing)
        return self._starts[consumed]

    def _heal(
        self, tokens: list[int], consumed: int | None
    ) -> tuple[int, tuple[Mapping[int, int], ...]]:
        """Where, at the end of fixed text, canonical tokenization may take a longer entry.

        An entry counts when it begins with the fixed text that is left, goes on as the
        grammar allows, and is what the tokenizer itself writes for that text: others no
        checkpoint has seen in this place.
        """
        pieces = [self.table.bytes[token] or b"" for token in tokens]
        found: list[dict[int, int]] = []
        states = self.transcript
        # No entry of the vocabularies at hand spans more than three tokens of fixed text.
        for held in range(1, min(3, len(tokens)) + 1):
            rest = b"".join(pieces[-held:])
            table: dict[int, int] = {}
            for token, piece in self._starting_with(rest):
                state = states.walk(piece[len(rest) :])
                if state is not None and self._canonical(tokens, held, token, consumed):
                    table[token] = state
            found.append(table)
        while found and not found[-1]:
            found.pop()
        return len(found), tuple(reversed(found))

    def _starting_with(self, prefix: bytes) -> list[tuple[int, bytes]]:
        return [
            (token, piece)
            for token, piece in enumerate(self.table.bytes)
            if piece and len(piece) > len(prefix) and piece.startswith(prefix)
        ]

    def _canonical(self, tokens: list[int], held: int, token: int, consumed: int | None) -> bool:
        added = (self.table.bytes[token] or b"")[len(self.table.text_of(tokens[-held:])) :]
        try:
            text = added.decode()
        except UnicodeDecodeError:
            return False
        for after in ("", "a", " a"):
            written, _ = self._encode(self.transcript_index, consumed, text + after)
            place = len(tokens) - held
            if len(written) > place and written[place] == token:
                return True
        return False

    @cached_property
    def transcript(self) -> TranscriptStates:
        """The states of the automaton inside the transcript.

        Raises:
            ModelError: the vocabulary cannot write one.
        """
        text = ""
        for index in range(self.transcript_index):
            field = self.fields[index]
            going = (
                form for label, form in self.written(field) if not self.ends_record(field, label)
            )
            text += self.before(index) + next(going)
        state = self.automaton.walk(
            self.table.encode_start(text + self.before(self.transcript_index))
        )
        if state is None:
            raise ModelError(
                "the grammar does not accept its own text", "the layout is inconsistent"
            )
        return TranscriptStates.within(self.automaton, state, self.table, self.after_transcript)

    @cached_property
    def fixed_tokens(self) -> int:
        """An upper bound of the tokens of an answer that are not its transcript's."""
        total = len(self.table.encode(self.layout.after_last)) + 1
        for index, field in enumerate(self.fields):
            forms = [""] if field == "Transcript" else [form for _, form in self.written(field)]
            total += max(len(self.table.encode(self.before(index) + form)) for form in forms) + 1
        return total

    # What was written

    def parse_transcript(self, written: bytes) -> str:
        """The transcript's value from the bytes between its quotes.

        Raises:
            DecodingError: the bytes are not what the grammar allows, which is a bug or a
                model whose numbers are not finite.
        """
        try:
            text = written.decode()
            json.loads(f'"{text}"')
        except ValueError as error:
            raise DecodingError(
                "the transcript is not valid text", "check the model's weights for NaN"
            ) from error
        return text.removeprefix(self.layout.transcript_lead).strip()


class GrammarCache:
    """Grammars of one tokenizer and layout, compiled when a set of fields first comes."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, layout: TextLayout, label_sets: LabelSets
    ) -> None:
        self.table = TokenTable(tokenizer)
        self.layout = layout
        self.label_sets = label_sets
        self._grammars: dict[tuple[str, ...], Grammar] = {}

    def get(self, fields: Sequence[str]) -> Grammar:
        """The grammar for these fields."""
        key = self.layout.arrange(fields)
        if key not in self._grammars:
            self._grammars[key] = Grammar(self.table, self.layout, key, self.label_sets)
        return self._grammars[key]
