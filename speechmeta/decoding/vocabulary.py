"""A tokenizer seen as bytes: what each token adds to the text, and canonical tokenization.

Reads the tokenizer and never changes it. Knows two shapes: Llama's (`▁` for the space,
`<0xAB>` for bytes without an entry of their own) and GPT-2's byte-level alphabet.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from outlines_core import Vocabulary

from speechmeta.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
# Text that may stand before a continuation so that the tokenizer does not take it for the
# start of a text, where many add a space.
_ANCHORS = ("\n", "\x07", "|", "0")


def _byte_level_alphabet() -> dict[int, str]:
    """From GPT-2's printable stand-ins to the 256 bytes as Latin-1 (openai/gpt-2 `encoder.py`)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {byte: chr(byte) for byte in printable}
    return table | {256 + offset: chr(byte) for offset, byte in enumerate(others)}


_BYTE_LEVEL = _byte_level_alphabet()
_IN_ALPHABET = re.compile(f"[{re.escape(''.join(map(chr, _BYTE_LEVEL)))}]*")


def _byte_level(entries: Mapping[int, str]) -> Iterator[tuple[int, bytes]]:
    """The bytes of entries in GPT-2's alphabet; those with other characters stand for none."""
    known = {index: token for index, token in entries.items() if _IN_ALPHABET.fullmatch(token)}
    # All at once: a character is a byte.
    text = "".join(known.values()).translate(_BYTE_LEVEL).encode("latin-1")
    start = 0
    for index, token in known.items():
        yield index, text[start : start + len(token)]
        start += len(token)


def _sentence_piece(entries: Mapping[int, str]) -> Iterator[tuple[int, bytes]]:
    """The bytes of entries in Llama's shape."""
    for index, token in entries.items():
        match = _BYTE_TOKEN.fullmatch(token)
        yield index, bytes([int(match[1], 16)]) if match else token.replace("▁", " ").encode()


class TokenTable:
    """The bytes of every token of a tokenizer.

    Args:
        tokenizer: a transformers tokenizer with a `tokenizers` backend.
        without: ids that stand for no text, beside those that are marked as special.

    Raises:
        ModelError: the tokenizer is of another kind.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, without: Collection[int] = ()) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ModelError(
                f"{type(tokenizer).__name__} has no tokenizers backend",
                "save the checkpoint with a fast tokenizer (tokenizer.json)",
            )
        self._tokenizer = tokenizer
        self._backend = backend
        added = tokenizer.added_tokens_decoder
        # The entry for unknown text is not text, even where it is not marked as special.
        unknown = getattr(backend.model, "unk_token", None)
        left_out = {index for index, token in added.items() if token.special}.union(without)
        entries = {
            index: token
            for token, index in tokenizer.get_vocab().items()
            if token != unknown and index not in left_out
        }
        decoder = b"" if backend.decoder is None else backend.decoder.__getstate__()
        size = max(entries, default=-1) + 1
        self.bytes: list[bytes | None] = [None] * size
        for index in added.keys() & entries.keys():
            # Added text is matched before anything else, as it stands.
            self.bytes[index] = added[index].content.encode()
            del entries[index]
        pieces = _byte_level(entries) if b'"ByteLevel"' in decoder else _sentence_piece(entries)
        for index, piece in pieces:
            self.bytes[index] = piece
        eos = tokenizer.eos_token_id
        self.eos_token_id: int = size if eos is None else int(eos)
        if self.eos_token_id < size:
            self.bytes[self.eos_token_id] = None

    def text_of(self, tokens: list[int]) -> bytes:
        """The bytes that a sequence of tokens writes; special tokens write none."""
        return b"".join(self.bytes[token] or b"" for token in tokens)

    @cached_property
    def outlines_vocabulary(self) -> Vocabulary:
        """The vocabulary for `outlines_core.Index`, without special tokens."""
        table: dict[str | bytes, list[int]] = {}
        for index, piece in enumerate(self.bytes):
            if piece:
                table.setdefault(piece, []).append(index)
        return Vocabulary(self.eos_token_id, table)

    @cached_property
    def start(self) -> str:
        """What the tokenizer puts before a text: a space in Llama's shape, else nothing."""
        return self.text_of(self._encode('{"')).decode().removesuffix('{"')

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def encode_start(self, text: str) -> list[int]:
        """Canonical tokens of a text by itself; their bytes are `start` + text."""
        tokens = self._encode(text)
        if self.text_of(tokens) != (self.start + text).encode():
            raise ModelError(
                f"the tokenizer does not give {text!r} back", "its checkpoint cannot be decoded"
            )
        return tokens

    def encode(self, text: str) -> list[int]:
        """Canonical tokens of a text that goes on after another token.

        In byte-pair encoding this is what tokenizing the whole text gives, wherever that has
        a token boundary here.
        """
        if not text:
            return []
        wanted = text.encode()
        if not self.start:
            tokens = self._encode(text)
            if self.text_of(tokens) == wanted:
                return tokens
        for anchor in _ANCHORS:
            before = self._encode(anchor)
            tokens = self._encode(anchor + text)
            if tokens[: len(before)] == before and self.text_of(tokens[len(before) :]) == wanted:
                return tokens[len(before) :]
        raise ModelError(
            f"the tokenizer does not give {text!r} back", "its checkpoint cannot be decoded"
        )
