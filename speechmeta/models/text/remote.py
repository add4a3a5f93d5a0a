"""A server's `/v1/chat/completions` as a text model."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from speechmeta.decoding.confined import check_size, confined
from speechmeta.decoding.structured import schema_text
from speechmeta.errors import EndpointError, SpeechMetaError
from speechmeta.models.endpoint import Endpoint
from speechmeta.models.text.base import Answer, Messages, Schema

if TYPE_CHECKING:
    from openai import AsyncOpenAI

CONTEXT = 16_384
ATTEMPTS = 3

_BYTES_PER_TOKEN = 3
"""English has four to five; text in other alphabets, and escapes, fewer."""


class EndpointText:
    """A model of a server that takes a JSON Schema as `response_format`.

    Args:
        endpoint: the server.
        model: its name there.
        context: tokens of question and answer together.
    """

    attempts = ATTEMPTS
    confined = False

    def __init__(self, endpoint: Endpoint, model: str, context: int | None = None) -> None:
        self._endpoint, self._model = endpoint, model
        self.context = context or CONTEXT

    @property
    def name(self) -> str:
        """The model and its server."""
        return f"{self._model} at {self._endpoint.address}"

    def size(self, text: str) -> int:
        """See `speechmeta.models.text.base.TextModel.size`."""
        return len(text.encode("utf-8", "replace")) // _BYTES_PER_TOKEN + 1

    def plain(self, text: str) -> str:
        """See `speechmeta.models.text.base.TextModel.plain`; its tokens are not known here."""
        return text

    def check(self, schema: Schema) -> None:
        """See `speechmeta.models.text.base.TextModel.check`."""
        text = schema_text(dict(schema))
        check_size(text)
        confined("check_schema", text)

    def answer(self, messages: Messages, schema: Schema, budget: int) -> Answer:
        """See `speechmeta.models.text.base.TextModel.answer`."""
        (answer,) = self._endpoint.each([partial(self._one, messages, schema, budget)])
        if isinstance(answer, SpeechMetaError):
            raise answer
        return answer

    def _bounds(self, budget: int) -> dict[str, Any]:
        # OpenAI's newer models refuse the names that everybody else knows.
        if self._endpoint.is_openai:
            return {"max_completion_tokens": budget}
        return {"max_tokens": budget, "temperature": 0.0}

    async def _one(
        self, messages: Messages, schema: Schema, budget: int, client: AsyncOpenAI
    ) -> Answer:
        form = {"name": "fields", "schema": dict(schema)}
        return await completion(
            self._endpoint,
            client,
            model=self._model,
            messages=[dict(message) for message in messages],
            response_format={"type": "json_schema", "json_schema": form},
            **self._bounds(budget),
        )


async def completion(endpoint: Endpoint, client: AsyncOpenAI, **body: Any) -> Answer:
    """What a server's `/v1/chat/completions` answers to a request.

    Raises:
        EndpointError: no text. What the client raises is for `Endpoint.each` to explain.
    """
    ask: Any = client.chat.completions.create
    given = await ask(**body)
    choices = getattr(given, "choices", None)
    choice = choices[0] if isinstance(choices, list) and choices else None
    text = getattr(getattr(choice, "message", None), "content", None)
    if not isinstance(text, str) or not text.strip():
        raise EndpointError(
            f"{endpoint.address} answered without a text",
            "the model may have refused, or the server does not speak OpenAI's API",
        )
    return Answer(text, getattr(choice, "finish_reason", None) == "length")


__all__ = ["EndpointText", "completion"]
