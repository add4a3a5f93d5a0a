"""Answers of a wanted form: pydantic classes, JSON Schemas and regular expressions.

The form becomes a regular expression, outlines compiles it against the tokenizer, and
outlines' logits processor masks every step. On top of it lies a guard: near the end of the
token budget only those tokens stay possible from which the form can still be completed, so
that an answer is never cut in the middle.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from outlines.backends.outlines_core import OutlinesCoreLogitsProcessor
from outlines.processors.tensor_adapters import tensor_adapters
from outlines_core import Guide, Index
from pydantic import BaseModel, ValidationError

from speechmeta.decoding.automaton import Automaton
from speechmeta.decoding.confined import check_size, confined
from speechmeta.decoding.vocabulary import TokenTable
from speechmeta.errors import DecodingError, UsageError

OutputType: TypeAlias = type[BaseModel] | dict[str, Any] | str
"""A pydantic class, a JSON Schema, or a regular expression."""


@dataclass
class Form:
    """A compiled form; holds no state of a request and may be used by many.

    Attributes:
        automaton: the whole answer matches it.
        parse: text to value; raises DecodingError where the value breaks a rule that a regular
            expression cannot express (a number's range, a validator).
    """

    automaton: Automaton
    parse: Callable[[str], object]

    @property
    def fewest_tokens(self) -> int:
        """The shortest complete answer in tokens."""
        return self.automaton.distances[self.automaton.initial]


def compile_output(output_type: OutputType, table: TokenTable) -> Form:
    """Compiles a form against a tokenizer.

    Raises:
        UsageError: the form is none of the three kinds, or outlines does not support it, or
            the tokenizer cannot write it.
    """
    regex, parse = _regex_and_parser(output_type)
    index: Index = confined("compile_regex", regex, table.outlines_vocabulary)
    automaton = Automaton(index, table.eos_token_id)
    if automaton.initial not in automaton.distances:
        raise UsageError(
            "no text fits the output type",
            "the tokenizer cannot write it, or it contradicts itself",
        )
    return Form(automaton, parse)


def _regex_and_parser(output_type: OutputType) -> tuple[str, Callable[[str], object]]:
    if isinstance(output_type, str):
        check_size(output_type)
        regex = output_type
        return regex, lambda text: _matched(regex, text)
    if isinstance(output_type, type) and issubclass(output_type, BaseModel):
        model = output_type
        return _schema_regex(schema_text(model.model_json_schema())), lambda text: _model(
            model, text
        )
    if isinstance(output_type, dict):
        schema = schema_text(output_type)
        return _schema_regex(schema), lambda text: _instance(schema, text)
    raise UsageError(
        f"output_type is {type(output_type).__name__}",
        "give a pydantic class, a JSON Schema as dict, or a regular expression as string",
    )


def schema_text(schema: dict[str, Any]) -> str:
    """A JSON Schema as JSON.

    Raises:
        UsageError: it holds what JSON cannot, or is nested without end.
    """
    try:
        return json.dumps(schema)
    except (ValueError, TypeError, RecursionError) as error:
        raise UsageError(
            f"output_type is not a JSON Schema: {error}", "see https://json-schema.org"
        ) from error


def _schema_regex(schema: str) -> str:
    check_size(schema)
    regex: str = confined("schema_regex", schema)
    return regex


def _matched(regex: str, text: str) -> str:
    # Python's matcher can take for ever where the automaton did not.
    if not confined("matches", regex, text):
        raise DecodingError(f"the answer {text!r} does not match the regular expression")
    return text


def _model(model: type[BaseModel], text: str) -> BaseModel:
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise DecodingError(
            f"the answer {text!r} breaks a rule of {model.__name__}: {place}: {first['msg']}",
            "only rules that a regular expression can express are enforced while decoding",
        ) from error


def _instance(schema: str, text: str) -> object:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise DecodingError(f"the answer {text!r} is not JSON: {error}") from error
    fault: str | None = confined("fault", schema, text)
    if fault is not None:
        raise DecodingError(
            f"the answer {text!r} breaks a rule of the schema: {fault}",
            "only rules that a regular expression can express are enforced while decoding",
        )
    return value


class _Masks(OutlinesCoreLogitsProcessor):
    """outlines' logits processor without its compiled kernel and its process-wide settings.

    outlines unpacks its bit mask with `torch.compile`, which takes half a minute and a C
    compiler at the first call, and its constructor switches off errors of torch._dynamo for the
    whole process.
    """

    _guides: list[Guide]

    def __init__(self, index: Index) -> None:
        self.index = index
        self.tensor_library_name = "torch"
        self.is_first_token = True
        adapter: Any = tensor_adapters["torch"]
        self.tensor_adapter = adapter()

    def _setup(self, batch_size: int, vocab_size: int) -> None:
        self._guides = [Guide(self.index) for _ in range(batch_size)]
        self._words = torch.zeros(batch_size, (vocab_size + 31) // 32, dtype=torch.int32)

    @property
    def guides(self) -> list[Guide]:
        """Each row's place in the automaton, from the first step on."""
        return self._guides

    def bias_logits(self, batch_size: int, logits: Any) -> Any:
        """Sets what no guide allows to -inf, in place; (rows, vocabulary)."""
        for guide, words in zip(self._guides, self._words, strict=True):
            words.zero_()
            guide.write_mask_into(words.data_ptr(), words.numel(), words.element_size())
        words = self._words.to(logits.device)
        bits = (words[..., None] >> torch.arange(32, device=logits.device, dtype=torch.int32)) & 1
        allowed = bits.flatten(1)[:, : logits.shape[1]].bool()
        return logits.masked_fill_(~allowed, -torch.inf)


@dataclass
class Constraint:
    """A form's state over the rows of one request.

    Args:
        form: what every row has to match.
        rows: how many rows there are.
        budget: most tokens of a row.

    Raises:
        DecodingError: the budget is smaller than the shortest complete answer.
    """

    form: Form
    rows: int
    budget: int
    forced: list[bool] = field(init=False)
    """Whether the token limit forced the ending of a row."""
    whole: list[bool] = field(init=False)
    """Whether a row's text so far is a whole answer."""

    def __post_init__(self) -> None:
        needed = self.form.fewest_tokens
        if needed > self.budget:
            raise DecodingError(
                f"the output type needs at least {needed} tokens, the budget is {self.budget}",
                f"raise max_new_tokens to {needed} or more",
            )
        self.forced = [False] * self.rows
        self.whole = [False] * self.rows
        self._ended = [False] * self.rows
        self._automaton = self.form.automaton
        # One processor for each request: outlines' keeps state between calls.
        self._masks = _Masks(self._automaton.index)
        self._farthest = max(self._automaton.distances.values())
        self._used = 0

    def mask(self, logits: torch.Tensor, last: Sequence[int]) -> torch.Tensor:
        """Sets what may not come next to -inf.

        Args:
            logits: (rows, vocabulary) float32; changed in place.
            last: each row's last token; empty at the first step.
        """
        # The processor follows the text by each row's last token.
        ids = torch.tensor([[token] for token in last] or [[0]] * self.rows)
        logits = self._masks(ids, logits)
        left = self.budget - self._used
        if left <= self._farthest:
            for row, guide in enumerate(self._masks.guides):
                self._guard(logits[row], guide.get_state(), left, row)
        return logits

    def _guard(self, logits: torch.Tensor, state: int, left: int, row: int) -> None:
        """Closes ways that are too long for what is `left`, this token included."""
        distances = self._automaton.distances
        late = [
            token
            for token, target in self._automaton.transitions.get(state, {}).items()
            if distances.get(target, left) > left - 1
        ]
        if late:
            logits[torch.tensor(late, device=logits.device)] = -torch.inf
            self.forced[row] = True

    def advance(self, tokens: Sequence[int | None]) -> list[bool]:
        """Takes each row's token, None where a row has ended; says which rows are complete.

        A row is complete after an end token, or where nothing but an end token could follow.
        """
        self._used += 1
        for row, token in enumerate(tokens):
            if token is None or self._ended[row]:
                continue
            state = self._masks.guides[row].get_state()
            if token == self._automaton.eos:
                self.whole[row] = self._ended[row] = state in self._automaton.finals
                continue
            target = self._automaton.walk([token], state)
            if target is None:
                raise DecodingError(
                    "the model's scores are not numbers", "try dtype=float32 or bfloat16"
                )
            self._ended[row] = not self._automaton.transitions.get(target)
            self.whole[row] = target in self._automaton.finals
        return list(self._ended)


__all__ = ["Constraint", "Form", "OutputType", "compile_output", "schema_text"]
