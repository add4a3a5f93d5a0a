"""Chat about recordings with DeSTA2 and DeSTA2.5-Audio.

model = ChatModel.from_pretrained("DeSTA-ntu/DeSTA2.5-Audio-Llama-3.1-8B", device="cuda")
talk = [{"role": "audio", "content": "call.wav"},
        {"role": "user", "content": "Is the customer angry? Why?"}]
print(model.chat(talk).text)
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch

from speechmeta.chat.messages import is_batch
from speechmeta.chat.prompts import Prompter, ReadyRow
from speechmeta.chat.recordings import Ear, HeardWindow
from speechmeta.chat.reply import ChatReply, ChatStream, ChatUsage, HeardAudio
from speechmeta.decoding.chat_loop import PrefixStore, SamplingOptions, generate, sampling_options
from speechmeta.decoding.forms import Forms
from speechmeta.decoding.memory import out_of_memory
from speechmeta.decoding.structured import Constraint, Form, OutputType
from speechmeta.errors import DecodingError, ModelError, SpeechMetaError, UsageError
from speechmeta.models.desta2.modeling_desta2 import DestaForConditionalGeneration
from speechmeta.models.desta2.processing_desta2 import DestaProcessor

DEFAULT_CHAT_MODEL = "DeSTA-ntu/DeSTA2.5-Audio-Llama-3.1-8B"
_LESS_MEMORY = "take quantization, fewer recordings at a time, or a lower audio_batch_size"


@dataclass
class _Request:
    """What one call asks for, and how far it is.

    Attributes:
        rows: the conversations that can be answered.
        windows: how many were encoded and transcribed for it.
        steps: the loop; each step appends to the rows' tokens.
    """

    rows: list[ReadyRow]
    grammar: Form | None
    constraint: Constraint | None
    reference: bool
    windows: tuple[int, int]
    steps: Iterator[list[int | None]]


class ChatModel:
    """A DeSTA model with its processor, the recordings that it heard, and reusable caches.

    One object may serve many threads: calls wait for each other, streams take turns piece by
    piece.

    Args:
        model: of `speechmeta.models.desta2`.
        processor: the model's own.
        name: what the checkpoint is called.
        audio_batch_size: windows of 30 s that go through Whisper at once.
        remembered_audios: encoded recordings that are kept.
        remembered_tokens: decoder positions whose keys and values are kept over all
            conversations (131 kB each with Llama-3-8B in bfloat16).
    """

    def __init__(
        self,
        model: DestaForConditionalGeneration,
        processor: DestaProcessor,
        name: str = "",
        *,
        audio_batch_size: int = 8,
        remembered_audios: int = 16,
        remembered_tokens: int = 16_384,
    ) -> None:
        if audio_batch_size < 1 or remembered_audios < 0 or remembered_tokens < 0:
            raise UsageError(
                "audio_batch_size has to be at least 1, what is remembered at least 0",
                "leave them out for the defaults",
            )
        self.model = model.eval()
        self.processor = processor
        self.name = name
        self.ear = Ear(model, processor, audio_batch_size, remembered_audios)
        self._store = PrefixStore(remembered_tokens)
        self._prompter = Prompter(self.model, processor, self.ear, self._store)
        self._forms = Forms(processor.tokenizer)
        self._lock = threading.RLock()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path = DEFAULT_CHAT_MODEL,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        *,
        local_files_only: bool = False,
        quantization: Any = None,
        device_map: Any = None,
        audio_dtype: str | torch.dtype = "float32",
        **options: Any,
    ) -> Self:
        """Loads a published checkpoint, or one that `save_pretrained` wrote; runs no code of it.

        Args:
            name_or_path: a folder or a hub id.
            device: "auto", "cpu", "cuda", "cuda:1", "mps", or a torch.device.
            dtype: of the decoder: "auto" for that of its files, "float32", "bfloat16",
                "float16". The connector computes in float32 always.
            local_files_only: never use the network.
            quantization: "int8" or "int4" (bitsandbytes), "torchao-int8" or "torchao-int4", or
                a quantization config of transformers; for the decoder.
            device_map: where the decoder's layers go, as in transformers ("auto" or a dict);
                Whisper and the connector go to `device`.
            audio_dtype: of Whisper. The published code has float32; a 16-bit type saves 3 GB with
                Whisper-large-v3.
            options: of `ChatModel`.

        Raises:
            ModelError: the checkpoint cannot be found or read, does not fit its config, or
                cannot be loaded in the wanted way here.
        """
        from speechmeta.models.desta2.loading import load_desta

        known = ("audio_batch_size", "remembered_audios", "remembered_tokens")
        unknown = [name for name in options if name not in known]
        if unknown:
            raise UsageError(
                f"from_pretrained does not take {', '.join(unknown)}",
                f"options are {', '.join(known)}",
            )
        model, processor = load_desta(
            name_or_path, device, dtype, local_files_only, quantization, device_map, audio_dtype
        )
        return cls(model, processor, str(name_or_path), **options)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes everything, Whisper and decoder included, in transformers' layout."""
        from speechmeta.models.desta2.loading import save_desta

        save_desta(self.model, self.processor, folder)

    @property
    def encoded_windows(self) -> int:
        """Windows that went through Whisper's encoder so far."""
        return self.ear.encoded_windows

    def forget(self) -> None:
        """Drops remembered recordings, keys and values."""
        with self._lock:
            self.ear.forget()
            self._store.clear()

    def chat(
        self,
        messages: Sequence[Any],
        *,
        output_type: OutputType | None = None,
        reference_behaviour: bool = False,
        **options: Any,
    ) -> Any:
        """Answers a conversation, or a batch of them.

        Args:
            messages: a list of messages (see `speechmeta.chat.messages`), or a list of such lists.
                For the next turn append the reply's text as role assistant and the next
                question as role user: what was computed before is used again.
            output_type: a pydantic class, a JSON Schema as dict, or a regular expression, that
                the answer is made to match.
            reference_behaviour: do exactly what the published code does, its flaws included:
                audio is cut at 30 s (`HeardAudio.skipped_seconds` says so), DeSTA2 resamples
                twice and misplaces the audio by one token. Nothing is reused from keys and values
                of earlier turns.
            options: see `SamplingOptions`.

        Returns:
            `ChatReply`; for a batch a list in its order, where a conversation that fails has
            its `SpeechMetaError` instead.

        Raises:
            UsageError: messages or options are not understood, or the prompt is longer than
                the decoder's context.
            AudioError: an audio cannot be read.
            DecodingError: no answer of the wanted form exists within `max_new_tokens`, or it
                breaks a rule of the form that decoding cannot enforce.
            ModelError: the device ran out of memory; what was remembered is dropped then.
        """
        sampling = sampling_options(options)
        batch = list(messages) if is_batch(messages) else [messages]
        with self._working():
            results = self._answer(batch, output_type, reference_behaviour, sampling)
        if is_batch(messages):
            return results
        if isinstance(results[0], SpeechMetaError):
            raise results[0]
        return results[0]

    def stream(
        self,
        messages: Sequence[Any],
        *,
        output_type: OutputType | None = None,
        reference_behaviour: bool = False,
        **options: Any,
    ) -> ChatStream:
        """Like `chat` for one conversation, as an iterator over pieces of the answer's text.

        Options and messages are checked here, hearing begins with the first piece.
        """
        sampling = sampling_options(options)
        if is_batch(messages):
            raise UsageError("a batch cannot be streamed", "stream one conversation at a time")
        self._prompter.read(messages)
        return ChatStream(
            lambda deliver: self._pieces(
                messages, output_type, reference_behaviour, sampling, deliver
            )
        )

    @contextmanager
    def _working(self) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                # What is remembered takes room that a smaller question may need.
                self.forget()
                raise ModelError("the memory does not suffice", _LESS_MEMORY) from error

    def _pieces(
        self,
        messages: Sequence[Any],
        output_type: OutputType | None,
        reference: bool,
        sampling: SamplingOptions,
        deliver: Callable[[ChatReply], None],
    ) -> Iterator[str]:
        # Held for each piece and not in between: readers may change threads from piece to piece
        # (Gradio's do), and one that dawdles must not keep the others waiting.
        with self._working():
            request, (row,) = self._begin([messages], output_type, reference, sampling)
        if isinstance(row, SpeechMetaError):
            raise row
        sent = 0
        try:
            while True:
                with self._working():
                    going = next(request.steps, None) is not None
                if not going:
                    break
                # A character may be spread over several tokens; its beginning is not shown.
                text = self._text(request, row.row.tokens).rstrip("\ufffd")
                if len(text) > sent:
                    yield text[sent:]
                    sent = len(text)
            reply = self._reply(request, 0)
            deliver(reply)
            if len(reply.text) > sent:
                yield reply.text[sent:]
        except GeneratorExit:
            row.row.finish = row.row.finish or "stopped"
            # A structured answer that is not whole has no reply.
            with suppress(SpeechMetaError):
                deliver(self._reply(request, 0))
            raise
        finally:
            with self._lock:
                request.steps.close()  # type: ignore[attr-defined]

    def _answer(
        self,
        batch: list[Any],
        output_type: OutputType | None,
        reference: bool,
        sampling: SamplingOptions,
    ) -> list[ChatReply | SpeechMetaError]:
        request, prepared = self._begin(batch, output_type, reference, sampling)
        for _ in request.steps:
            pass
        results: list[ChatReply | SpeechMetaError] = []
        row = 0
        for item in prepared:
            if isinstance(item, SpeechMetaError):
                results.append(item)
                continue
            try:
                results.append(self._reply(request, row))
            except SpeechMetaError as error:
                results.append(error)
            row += 1
        return results

    def _begin(
        self,
        batch: list[Any],
        output_type: OutputType | None,
        reference: bool,
        sampling: SamplingOptions,
    ) -> tuple[_Request, list[ReadyRow | SpeechMetaError]]:
        """Compiles the form and hears; each conversation's row, or what is wrong with it."""
        grammar = self._forms.grammar(output_type)
        before = self.ear.encoded_windows, self.ear.transcribed_windows
        prepared = self._prepare(batch, reference, sampling)
        windows = (
            self.ear.encoded_windows - before[0],
            self.ear.transcribed_windows - before[1],
        )
        rows = [item for item in prepared if isinstance(item, ReadyRow)]
        constraint = (
            Constraint(grammar, len(rows), sampling.max_new_tokens)
            if grammar is not None and rows
            else None
        )
        steps = self._steps(rows, sampling, constraint, reference)
        return _Request(rows, grammar, constraint, reference, windows, steps), prepared

    def _prepare(
        self, batch: Sequence[Any], reference: bool, sampling: SamplingOptions
    ) -> list[ReadyRow | SpeechMetaError]:
        return self._prompter.prepare(batch, reference, sampling)

    # As a decorator, so that the mode ends at every yield: a stream that its reader abandons
    # would otherwise leave the reader's thread without gradients.
    @torch.inference_mode()
    def _steps(
        self,
        ready: list[ReadyRow],
        sampling: SamplingOptions,
        constraint: Constraint | None,
        reference: bool,
    ) -> Iterator[list[int | None]]:
        if not ready:
            return
        stop_ids = self._stop_ids(reference and not any(item.audios for item in ready))
        yield from generate(
            self.model.language_model,
            [item.row for item in ready],
            sampling,
            stop_ids,
            self.processor.tokenizer.eos_token_id,
            constraint,
            None if reference else self._store,
        )

    def _stop_ids(self, only_tokenizer: bool) -> list[int]:
        """End tokens: the decoder's and the tokenizer's.

        The published DeSTA2.5 code stops at the tokenizer's alone where there is no audio.
        """
        own = self.processor.tokenizer.eos_token_id
        if only_tokenizer:
            return [own]
        decoder = self.model.language_model
        ends = decoder.generation_config.eos_token_id or decoder.config.eos_token_id
        ends = [ends] if isinstance(ends, int) else list(ends or [])
        return [*ends, own]

    def _text(self, request: _Request, tokens: Sequence[int]) -> str:
        """The text of an answer's tokens."""
        if request.constraint is not None:
            return self._forms.text(tokens)
        return self.processor.text(tokens, request.reference)

    def _reply(self, request: _Request, index: int) -> ChatReply:
        ready, constraint = request.rows[index], request.constraint
        row = ready.row
        text = self._text(request, row.tokens)
        value, flags = None, []
        finish = row.finish
        if request.grammar is not None and constraint is not None and finish != "stopped":
            if not constraint.whole[index]:
                raise DecodingError(f"the answer {text!r} was not finished", "raise max_new_tokens")
            value = request.grammar.parse(text)
            finish = "stop"
            flags = ["forced_close"] * constraint.forced[index]
        noted = {
            flag for audio in ready.audios for window in audio.windows for flag in window.flags
        }
        return ChatReply(
            text=text,
            value=value,
            finish=finish,
            token_ids=tuple(row.tokens),
            prompt=ready.prompt.text,
            audios=ready.audios,
            usage=ChatUsage(
                prompt_tokens=len(row.key),
                reused_tokens=row.reused,
                prefill_tokens=len(row.embeds),
                answer_tokens=len(row.tokens),
                encoded_windows=request.windows[0],
                transcribed_windows=request.windows[1],
            ),
            flags=(*flags, *sorted(noted)),
        )


__all__ = [
    "DEFAULT_CHAT_MODEL",
    "ChatModel",
    "ChatReply",
    "ChatStream",
    "ChatUsage",
    "HeardAudio",
    "HeardWindow",
]
