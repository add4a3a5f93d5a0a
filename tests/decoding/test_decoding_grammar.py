"""The grammar: what its expression admits, its tables, canonical tokens, healing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tiny import tiny_tokenizer

from speechmeta.decoding.grammar import Grammar, GrammarCache, variants
from speechmeta.decoding.layout import COMPACT_LAYOUT, PUBLISHED_LAYOUT, TextLayout
from speechmeta.decoding.states import BUDGET_LEVELS, CLOSED
from speechmeta.decoding.vocabulary import TokenTable
from speechmeta.errors import DecodingError, ModelError
from speechmeta.schema import DEFAULT_LABEL_SETS, FIELDS

LAYOUTS = pytest.mark.parametrize(
    "layout", [COMPACT_LAYOUT, PUBLISHED_LAYOUT], ids=["compact", "published"]
)
VOCABULARIES = pytest.mark.parametrize("vocab", ["llama", "bytes"])

VALUES = {
    "SpeechActivity": "True",
    "Transcript": "yes i got it",
    "Gender": "Female",
    "Age": "Middle-Age",
    "Accent": "South-East-Asia",
    "Emotion": "Neutral",
}


def grammar_of(
    vocab: str, layout: TextLayout, fields: tuple[str, ...] = FIELDS, **options: Any
) -> Grammar:
    sets = options.get("label_sets", DEFAULT_LABEL_SETS)
    return GrammarCache(tiny_tokenizer(vocab), layout, sets).get(fields)


def answer(layout: TextLayout, **changed: str) -> str:
    values = {**VALUES, **changed}
    if values["Transcript"]:
        values["Transcript"] = layout.transcript_lead + values["Transcript"]
    return layout.render(values)


@LAYOUTS
@VOCABULARIES
def test_whole_answers_are_accepted(vocab: str, layout: TextLayout) -> None:
    grammar = grammar_of(vocab, layout)
    for transcript in ("yes i got it", "", "crème brûlée, 2 €!", "東京 🙂"):
        text = answer(layout, Transcript=transcript)
        assert grammar.accepts(grammar.table.encode_start(text)), text


@LAYOUTS
@VOCABULARIES
@pytest.mark.parametrize("bad", ['a"b', "a\\b", "a\nb", "a\x00b", "a\x7fb", "a\x85b", "a\u2028b"])
def test_what_would_break_json_is_refused(vocab: str, layout: TextLayout, bad: str) -> None:
    grammar = grammar_of(vocab, layout)
    assert not grammar.accepts(grammar.table.encode_start(answer(layout, Transcript=bad)))


@VOCABULARIES
def test_published_labels_in_lower_and_title_case(vocab: str) -> None:
    grammar = grammar_of(vocab, PUBLISHED_LAYOUT)
    for age in ("middle-age", "Middle-Age"):
        tokens = grammar.table.encode_start(answer(PUBLISHED_LAYOUT, Age=age))
        assert grammar.accepts(tokens)
    tokens = grammar.table.encode_start(answer(PUBLISHED_LAYOUT, Age="MIDDLE-AGE"))
    assert not grammar.accepts(tokens)
    forms = {(option.label, option.form) for option in grammar.options(2, 2)}
    assert forms == {(label, f) for label in ("Female", "Male") for f in (label, label.lower())}


@LAYOUTS
@VOCABULARIES
def test_no_speech_ends_the_answer(vocab: str, layout: TextLayout) -> None:
    grammar = grammar_of(vocab, layout)
    text = layout.render({"SpeechActivity": "False"})
    assert grammar.accepts(grammar.table.encode_start(text))
    goes_on = answer(layout, SpeechActivity="False")
    assert not grammar.accepts(grammar.table.encode_start(goes_on))


@LAYOUTS
@VOCABULARIES
@pytest.mark.parametrize("fields", [("Transcript",), ("Gender",), ("Emotion", "Transcript")])
def test_some_fields_only(vocab: str, layout: TextLayout, fields: tuple[str, ...]) -> None:
    grammar = grammar_of(vocab, layout, fields)
    values = {field: VALUES[field] for field in fields}
    if "Transcript" in values:
        values["Transcript"] = layout.transcript_lead + values["Transcript"]
    assert grammar.accepts(grammar.table.encode_start(layout.render(values)))
    assert not grammar.accepts(grammar.table.encode_start(answer(layout)))


@LAYOUTS
@VOCABULARIES
def test_options_are_what_the_tokenizer_writes(vocab: str, layout: TextLayout) -> None:
    """The options' tokens join to the canonical tokens of the whole text."""
    grammar = grammar_of(vocab, layout, tuple(field for field in FIELDS if field != "Transcript"))
    consumed: int | None = None
    tokens: list[int] = []
    values: dict[str, str] = {}
    for index, field in enumerate(grammar.fields):
        option = grammar.options(index, consumed)[0]
        tokens += option.tokens
        consumed = option.consumed
        values[field] = option.form
    tokens += grammar.closing(len(grammar.fields), consumed or 0)
    assert tokens == grammar.table.encode_start(layout.render(values))


@LAYOUTS
@VOCABULARIES
def test_tables_agree_with_the_index(vocab: str, layout: TextLayout) -> None:
    states = grammar_of(vocab, layout).transcript
    assert states.masks.shape[:2] == (len(states.moves), BUDGET_LEVELS)
    for state, moves in enumerate(states.moves):
        # With tokens to spare all moves are open; with one left, those after which it may close.
        assert set(states.masks[state, -1].nonzero()[0]) == set(moves)
        last = {token for token, to in moves.items() if to == CLOSED or not states.distance[to]}
        assert set(states.masks[state, 0].nonzero()[0]) == last
        if states.distance[state] == 0:
            assert last


def test_a_longer_entry_is_healed() -> None:
    """The tokenizer joins an opening quote with some words: the model may write the joint."""
    tokenizer = tiny_tokenizer("bytes")
    table = TokenTable(tokenizer)
    grammar = grammar_of("bytes", COMPACT_LAYOUT, ("Transcript",))
    start = grammar.transcript_start(None)
    assert table.text_of(list(start.tokens)) == b'{"Transcript": "'
    for offset, healing in enumerate(start.healing):
        place = len(start.tokens) - start.held + offset
        fixed = table.text_of(list(start.tokens[place:]))
        for token in healing:
            assert (table.bytes[token] or b"").startswith(fixed)


def test_tokenizer_is_left_alone() -> None:
    tokenizer = tiny_tokenizer("llama")
    before = (tokenizer.backend_tokenizer.to_str(), tokenizer.padding_side, tokenizer.pad_token)
    grammar_of("llama", COMPACT_LAYOUT).transcript  # noqa: B018
    after = (tokenizer.backend_tokenizer.to_str(), tokenizer.padding_side, tokenizer.pad_token)
    assert before == after


def test_grammars_are_compiled_once() -> None:
    cache = GrammarCache(tiny_tokenizer("llama"), COMPACT_LAYOUT, DEFAULT_LABEL_SETS)
    assert cache.get(FIELDS) is cache.get(tuple(reversed(FIELDS)))
    assert cache.get(FIELDS) is not cache.get(("Gender",))


@VOCABULARIES
def test_every_byte_has_a_token(vocab: str) -> None:
    table = TokenTable(tiny_tokenizer(vocab))
    assert {piece for piece in table.bytes if piece and len(piece) == 1} == {
        bytes([byte]) for byte in range(256)
    }
    text = 'né "x" 🙂'
    assert table.text_of(table.encode(text)) == text.encode()
    assert table.text_of(table.encode_start(text)) == (table.start + text).encode()


def test_parsed_transcripts() -> None:
    grammar = grammar_of("llama", COMPACT_LAYOUT)
    assert grammar.parse_transcript(b" hello there ") == "hello there"
    assert grammar.parse_transcript(b"") == ""
    for broken in (b"a\xc3", b'a"b', b"a\nb"):
        with pytest.raises(DecodingError):
            grammar.parse_transcript(broken)
    json.loads(f'"{grammar.parse_transcript("東京".encode())}"')


def test_bad_layouts_and_label_sets() -> None:
    with pytest.raises(ModelError, match="case"):
        variants("Female", ("upper",))
    with pytest.raises(ModelError, match="labels"):
        grammar_of("llama", COMPACT_LAYOUT, ("Age",), label_sets={"Gender": ["Female"]}).options(
            0, None
        )
