"""Language models that write responses: any of transformers, or an OpenAI-compatible server."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from speechmeta.errors import ModelError, SpeechMetaError
from speechmeta.models.endpoint import Endpoint
from speechmeta.models.text.base import Answer
from speechmeta.models.text.remote import completion

if TYPE_CHECKING:
    from openai import AsyncOpenAI

Messages = list[dict[str, str]]


class TextModel(Protocol):
    """Answers conversations."""

    name: str

    def answer(self, conversations: Sequence[Messages]) -> list[str]:
        """One answer for each conversation, in order."""
        ...


class TransformersText:
    """A causal language model of transformers with a chat template.

    Args:
        name: a folder or a hub id; safetensors only, none of its code is run.
        device, dtype: as for `ChatModel`.
        max_new_tokens: longest answer.
        temperature: above 0 samples; 0 takes the most likely token.
        seed: of the sampling.
    """

    def __init__(
        self,
        name: str,
        device: str = "auto",
        dtype: str = "auto",
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        seed: int = 0,
        local_files_only: bool = False,
    ) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from speechmeta.models.desta2.loading import pick_device, pick_dtype
        from speechmeta.models.weights import quiet_transformers
        from speechmeta.trust import checkpoint_errors, from_checkpoint

        self.name = name
        self.options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "do_sample": False}
        if temperature > 0:
            self.options |= {"do_sample": True, "temperature": temperature}
        self.seed = seed
        with (
            checkpoint_errors(
                f"the language model {name!r} cannot be loaded", "give a folder or a hub id"
            ),
            quiet_transformers(),
        ):
            self.tokenizer: Any = from_checkpoint(
                AutoTokenizer, name, local_files_only=local_files_only, padding_side="left"
            )
            model: Any = from_checkpoint(
                AutoModelForCausalLM,
                name,
                dtype=pick_dtype(dtype),
                use_safetensors=True,
                local_files_only=local_files_only,
            )
        if not self.tokenizer.chat_template:
            raise ModelError(f"{name!r} has no chat template", "take an instruction-tuned model")
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        place = pick_device(device)
        try:
            self.model = model.to(place).eval()
        except (RuntimeError, AssertionError) as error:
            raise ModelError(
                f"the language model cannot go to {place}: {str(error).splitlines()[0]}",
                "take device=cpu, or a smaller model",
            ) from error

    def answer(self, conversations: Sequence[Messages]) -> list[str]:
        import torch

        from speechmeta.decoding.memory import out_of_memory
        from speechmeta.models.weights import quiet_transformers

        inputs = self._inputs(list(conversations)).to(self.model.device)
        torch.manual_seed(self.seed)
        try:
            with torch.inference_mode(), quiet_transformers():
                ids = self.model.generate(
                    **inputs, **self.options, pad_token_id=self.tokenizer.pad_token_id
                )
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise ModelError(
                f"the memory does not suffice for {len(conversations)} responses at a time",
                "lower the batch size, or take a smaller model",
            ) from error
        new = ids[:, inputs["input_ids"].shape[1] :]
        texts: list[str] = self.tokenizer.batch_decode(new, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _inputs(self, conversations: list[Messages]) -> Any:
        from speechmeta.models.templates import chat_prompt

        options: dict[str, Any] = {"tokenize": True, "padding": True, "return_tensors": "pt"}
        return chat_prompt(self.tokenizer, conversations, self.name, **options)


class OpenAIText:
    """A server with OpenAI's chat completions, such as vLLM or llama.cpp.

    Args:
        base_url: up to and including `/v1`.
        name: the model's name at the server.
        key_variable: environment variable with the key, if the server wants one.
        timeout: seconds for one answer.

    Raises:
        UsageError: the address is none.
        MissingExtraError: the client for servers is not installed.
    """

    def __init__(
        self,
        base_url: str,
        name: str,
        key_variable: str = "OPENAI_API_KEY",
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        seed: int = 0,
        timeout: float = 120.0,
    ) -> None:
        self.name = name
        key = key_variable if os.environ.get(key_variable) else None
        # Together: such servers batch what arrives at the same time.
        self._endpoint = Endpoint(base_url, key, timeout, concurrency=64)
        self.options = {"max_tokens": max_new_tokens, "temperature": temperature, "seed": seed}

    def answer(self, conversations: Sequence[Messages]) -> list[str]:
        """See `TextModel.answer`.

        Raises:
            EndpointError: one has none.
        """
        answers = self._endpoint.each([partial(self._one, talk) for talk in conversations])
        texts = []
        for answer in answers:
            if isinstance(answer, SpeechMetaError):
                raise answer
            texts.append(answer.text.strip())
        return texts

    async def _one(self, messages: Messages, client: AsyncOpenAI) -> Answer:
        return await completion(
            self._endpoint, client, model=self.name, messages=messages, **self.options
        )


__all__ = ["Messages", "OpenAIText", "TextModel", "TransformersText"]
