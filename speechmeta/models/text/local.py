"""A language model of transformers that answers under a grammar."""

from __future__ import annotations

import io
import re
import threading
from contextlib import nullcontext, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from speechmeta.decoding.chat_loop import LoopRow, SamplingOptions, generate
from speechmeta.decoding.forms import Forms
from speechmeta.decoding.memory import out_of_memory
from speechmeta.decoding.structured import Constraint
from speechmeta.errors import DecodingError, ModelError, UsageError, require_extra
from speechmeta.models.devices import resolve_device, resolve_dtype
from speechmeta.models.hub import CHECKPOINT_PATTERNS, find_checkpoint
from speechmeta.models.templates import chat_prompt
from speechmeta.models.text.base import Answer, Messages, Schema
from speechmeta.trust import check_config, checkpoint_errors, from_checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

CONTEXT = 16_384
"""Most tokens unless more are asked for: models that take a million need memory for them."""

_PATTERNS = (*CHECKPOINT_PATTERNS, "*.model")


class LocalText:
    """A causal language model; the same question always gets the same answer.

    Args:
        model: in evaluation mode.
        tokenizer: its own, with a chat template.
        name: of the model in reports.
        context: tokens of question and answer together; None for what the config says, and no
            more than `CONTEXT`.

    Raises:
        ModelError: the tokenizer has no chat template, or is of a kind that cannot be confined.
    """

    attempts = 1
    confined = True

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        name: str,
        context: int | None = None,
    ) -> None:
        if not tokenizer.chat_template:
            raise ModelError(f"{name} has no chat template", "take an instruction-tuned model")
        self._model, self._tokenizer, self.name = model, tokenizer, name
        known = int(getattr(model.config, "max_position_embeddings", None) or 1 << 30)
        if context is not None and context > known:
            raise UsageError(
                f"{name} has a context of {known} tokens, not {context}", "lower --llm-context"
            )
        self.context = context or min(known, CONTEXT)
        self._lock = threading.Lock()
        self._forms = Forms(tokenizer)
        self._control = sorted(
            {token.content for token in tokenizer.added_tokens_decoder.values() if token.content},
            key=len,
            reverse=True,
        )

    def size(self, text: str) -> int:
        """See `speechmeta.models.text.base.TextModel.size`."""
        return len(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def plain(self, text: str) -> str:
        """See `speechmeta.models.text.base.TextModel.plain`."""
        for token in self._control:
            if len(token) > 1 and token in text:
                text = text.replace(token, escaped(token[0]) + token[1:])
        return text

    def check(self, schema: Schema) -> None:
        """See `speechmeta.models.text.base.TextModel.check`."""
        self._forms.grammar(dict(schema))

    def answer(self, messages: Messages, schema: Schema, budget: int) -> Answer:
        """See `speechmeta.models.text.base.TextModel.answer`."""
        with self._lock:
            return self._answer(messages, schema, budget)

    def _answer(self, messages: Messages, schema: Schema, budget: int) -> Answer:
        form = self._forms.grammar(dict(schema))
        assert form is not None
        ids: list[int] = chat_prompt(
            self._tokenizer, [[dict(m) for m in messages]], self.name, tokenize=True
        )["input_ids"][0]
        if len(ids) + budget > self.context:
            raise DecodingError(
                f"the question has {len(ids)} tokens and its answer up to {budget}, more than the "
                f"{self.context} of {self.name}",
                "lower --llm-answer, or take a model with a longer context",
            )
        constraint = Constraint(form, 1, budget)
        try:
            with torch.inference_mode():
                table = self._model.get_input_embeddings()
                device = table.weight.device
                row = LoopRow(list(ids), table(torch.tensor(ids, device=device)))
                end = int(self._tokenizer.eos_token_id)
                options = SamplingOptions(max_new_tokens=budget)
                for _ in generate(self._model, [row], options, [end], end, constraint):
                    pass
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise DecodingError(
                f"the memory does not suffice for {len(ids)} tokens",
                "lower --llm-context, or take a smaller model",
            ) from error
        text = self._forms.text(row.tokens)
        if not constraint.whole[0]:
            raise DecodingError("the answer was not finished", "raise --llm-answer")
        return Answer(text, constraint.forced[0])


def escaped(char: str) -> str:
    """A character as JSON may write it within a string."""
    return f"\\u{ord(char):04x}"


def load_text_model(
    name: str | Path,
    device: str = "auto",
    dtype: str = "auto",
    local_files_only: bool = False,
    context: int | None = None,
) -> LocalText:
    """Loads a language model; runs no code of it.

    Args:
        name: a folder, a hub id, or a `.gguf` file.
        device, dtype, local_files_only: as for `speechmeta.models.loading.load_model`; int8
            stands for auto here.
        context: see `LocalText`.

    Raises:
        ModelError: it cannot be found, reached or read, or is not a language model that answers.
        MissingExtraError: a `.gguf` file was named, and the library that reads them is missing.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from speechmeta.models.weights import quiet_transformers

    place = resolve_device(device)
    options: dict[str, Any] = {"local_files_only": True}
    if re.search(r"\.gguf$", str(name), re.IGNORECASE):
        path = Path(name)
        if not path.is_file():
            raise ModelError(f"there is no file {path}", "check the path of the .gguf file")
        require_extra("gguf", "gguf", "a .gguf file")
        folder = path.parent
        options["gguf_file"] = path.name
    else:
        folder = find_checkpoint(name, local_files_only, _PATTERNS).folder
        options["use_safetensors"] = True
    hint = "give a folder, a hub id or a .gguf file of an instruction-tuned language model"
    with checkpoint_errors(f"the text model {name} cannot be loaded", hint), quiet_transformers():
        files = {key: value for key, value in options.items() if key != "use_safetensors"}
        config = from_checkpoint(AutoConfig, folder, **files)
        given = config.to_dict()
        if "gguf_file" in options:
            # Sizes from the file's own header, which no config.json stands for.
            given.pop("quantization_config", None)
        check_config(given, str(name))
        tokenizer = from_checkpoint(AutoTokenizer, folder, **files)
        kind = resolve_dtype("auto" if dtype == "int8" else dtype, place)
        # The bar of a .gguf file's conversion heeds no setting.
        with redirect_stderr(io.StringIO()) if "gguf_file" in options else nullcontext():
            model = from_checkpoint(AutoModelForCausalLM, folder, dtype=kind, **options)
        return LocalText(model.to(place).eval(), tokenizer, str(name), context)


__all__ = ["LocalText", "escaped", "load_text_model"]
