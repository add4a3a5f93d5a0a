"""Compiled forms of answers, remembered by their content, for one tokenizer."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from speechmeta.decoding.structured import Form, OutputType, compile_output
from speechmeta.decoding.vocabulary import TokenTable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_REMEMBERED = 16


class Forms:
    """Turns output types into grammars over a tokenizer's vocabulary.

    Args:
        tokenizer: the decoder's; it is not changed.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._grammars: OrderedDict[Hashable, Form] = OrderedDict()

    @cached_property
    def _table(self) -> TokenTable:
        # Reading a vocabulary takes a moment that plain answers need not wait for.
        return TokenTable(self._tokenizer)

    def grammar(self, output_type: OutputType | None) -> Form | None:
        """The compiled form; None for plain text.

        Raises:
            UsageError: see `compile_output`.
        """
        if output_type is None:
            return None
        # Compiling costs seconds with a large vocabulary; a form is known by its content.
        kind: Any = output_type
        if isinstance(output_type, dict):
            kind = json.dumps(output_type, sort_keys=True, default=repr)
        key = (type(output_type).__name__, kind)
        if key not in self._grammars:
            self._grammars[key] = compile_output(output_type, self._table)
            while len(self._grammars) > _REMEMBERED:
                self._grammars.popitem(last=False)
        self._grammars.move_to_end(key)
        return self._grammars[key]

    def text(self, tokens: Sequence[int]) -> str:
        """The text that tokens stand for, the end token left out.

        Byte by byte: a tokenizer's clean-up of spaces would change what was matched.
        """
        end = self._table.eos_token_id
        return self._table.text_of([token for token in tokens if token != end]).decode(
            errors="replace"
        )


__all__ = ["Forms"]
