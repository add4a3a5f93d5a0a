"""Chat about recordings with DeSTA2 and DeSTA2.5-Audio.

model = ChatModel.from_pretrained("DeSTA-ntu/DeSTA2.5-Audio-Llama-3.1-8B", device="cuda")
talk = [{"role": "audio", "content": "call.wav"},
        {"role": "user", "content": "Is the customer angry? Why?"}]
print(model.chat(talk).text)
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import torch

from speechmeta.chat_audio import Ear, HeardWindow, Recording
from speechmeta.chat_messages import Conversation, is_batch, read_conversation
from speechmeta.decoding.chat_loop import LoopRow, PrefixStore, SamplingOptions, generate
from speechmeta.decoding.structured import Constraint, Grammar, OutputType, compile_output
from speechmeta.decoding.vocabulary import TokenTable
from speechmeta.errors import DecodingError, SpeechMetaError, UsageError
from speechmeta.models.desta2.modeling_desta2 import DestaForConditionalGeneration
from speechmeta.models.desta2.processing_desta2 import DestaProcessor, Prompt

DEFAULT_CHAT_MODEL = "DeSTA-ntu/DeSTA2.5-Audio-Llama-3.1-8B"

_REMEMBERED_GRAMMARS = 16


@dataclass(frozen=True)
class HeardAudio:
    """What the model was given of one recording.

    Attributes:
        path: its path, if it has one.
        seconds: its duration.
        windows: the parts that were encoded; together the whole recording.
        skipped_seconds: what was not encoded: above 0 only with `reference_behaviour`.
    """

    path: str | None
    seconds: float
    windows: tuple[HeardWindow, ...]
    skipped_seconds: float

    @property
    def transcript(self) -> str:
        """The windows' transcripts joined with spaces."""
        return " ".join(w.transcript.strip() for w in self.windows if w.transcript.strip())


@dataclass(frozen=True)
class ChatUsage:
    """What an answer cost.

    Attributes:
        prompt_tokens: positions of the prompt, audio rows included.
        reused_tokens: how many of them came from an earlier turn's keys and values.
        prefill_tokens: how many went through the decoder.
        answer_tokens: tokens generated.
        encoded_windows, transcribed_windows: windows of up to 30 s that went through Whisper's
            encoder and decoder for this call (for a batch: for all of it).
    """

    prompt_tokens: int
    reused_tokens: int
    prefill_tokens: int
    answer_tokens: int
    encoded_windows: int
    transcribed_windows: int


@dataclass(frozen=True)
class ChatReply:
    """An answer.

    Attributes:
        text: the answer as text.
        value: with `output_type`: the validated value (pydantic instance, JSON value, or the
            matched text); else None.
        finish: "stop", or "length" where the answer was cut at `max_new_tokens`.
        token_ids: what was generated, end token included.
        prompt: the prompt as text, transcripts in place, audio rows left out.
        audios: what was heard.
        usage: what it cost.
        flags: `forced_close` where the token budget made a structured answer end; and the
            windows' flags.
    """

    text: str
    value: Any
    finish: str
    token_ids: tuple[int, ...]
    prompt: str
    audios: tuple[HeardAudio, ...]
    usage: ChatUsage
    flags: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.text


@dataclass
class _Ready:
    """One conversation, ready for the loop."""

    prompt: Prompt
    audios: tuple[HeardAudio, ...]
    row: LoopRow


class ChatStream:
    """An answer in pieces of text, as they are generated; `reply` is there after the last.

    Closing it, or leaving its `with` block, ends the generation; `reply` then holds what there
    is, with the finish reason "stopped".
    """

    def __init__(self, pieces: Iterator[str | ChatReply]) -> None:
        self._pieces = pieces
        self._reply: ChatReply | None = None

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        for piece in self._pieces:
            if isinstance(piece, str):
                return piece
            self._reply = piece
        raise StopIteration

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the generation."""
        close = getattr(self._pieces, "close", None)
        if close is not None:
            close()

    @property
    def reply(self) -> ChatReply:
        """The whole answer.

        Raises:
            UsageError: the stream has not been read to its end.
        """
        if self._reply is None:
            raise UsageError("the stream has not been read to its end", "iterate over it first")
        return self._reply


class ChatModel:
    """A DeSTA model with its processor, the recordings that it heard, and reusable caches.

    One object answers one call at a time; concurrent calls wait for each other.

    Args:
        model, processor: of `speechmeta.models.desta2`.
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
        self._grammars: OrderedDict[Hashable, Grammar] = OrderedDict()
        self._lock = threading.RLock()
        self._table: TokenTable | None = None

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
        **options: Any,
    ) -> Self:
        """Loads a published checkpoint, or one that `save_pretrained` wrote; runs no code of it.

        Args:
            name_or_path: a folder or a hub id.
            device: "auto", "cpu", "cuda", "cuda:1", "mps", or a torch.device.
            dtype: of the decoder: "auto" for that of its files, "float32", "bfloat16",
                "float16". Whisper and the connector compute in float32 always.
            local_files_only: never reach for the network.
            quantization: "int8" or "int4" (bitsandbytes), "torchao-int8" or "torchao-int4", or
                a quantization config of transformers; for the decoder.
            device_map: where the decoder's layers go, as in transformers ("auto" or a dict);
                Whisper and the connector go to `device`.
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
            name_or_path, device, dtype, local_files_only, quantization, device_map
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
            messages: a list of messages (see `speechmeta.chat_messages`), or a list of such lists.
                For the next turn append the reply's text as role assistant and the next
                question as role user: what was heard and computed before is used again.
            output_type: a pydantic class, a JSON Schema as dict, or a regular expression, that
                the answer is made to match.
            reference_behaviour: hear and prompt exactly as the published code does, its flaws
                included: audio is cut at 30 s (`HeardAudio.skipped_seconds` says so), DeSTA2
                resamples twice and misplaces the audio by one token. Nothing is reused from
                keys and values of earlier turns.
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
        """
        sampling = _options(options)
        with self._lock:
            if is_batch(messages):
                return self._answer(list(messages), output_type, reference_behaviour, sampling)
            result = self._answer([messages], output_type, reference_behaviour, sampling)[0]
            if isinstance(result, SpeechMetaError):
                raise result
            return result

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
        sampling = _options(options)
        if is_batch(messages):
            raise UsageError("a batch cannot be streamed", "stream one conversation at a time")
        self._read(messages)
        return ChatStream(self._pieces(messages, output_type, reference_behaviour, sampling))

    def _pieces(
        self,
        messages: Sequence[Any],
        output_type: OutputType | None,
        reference: bool,
        sampling: SamplingOptions,
    ) -> Iterator[str | ChatReply]:
        with self._lock:
            cost = self._cost()
            ready = self._prepare([messages], reference, sampling)[0]
            if isinstance(ready, SpeechMetaError):
                raise ready
            grammar = self._grammar(output_type)
            constraint = self._constraint(grammar, 1, sampling)
            sent = 0
            for _ in self._steps([ready], sampling, constraint, reference):
                # A character may be spread over several tokens; its beginning is not shown.
                text = self._text(ready.row.tokens, constraint, reference).rstrip("\ufffd")
                if len(text) > sent:
                    yield text[sent:]
                    sent = len(text)
            reply = self._reply(ready, grammar, constraint, 0, reference, cost)
            if len(reply.text) > sent:
                yield reply.text[sent:]
            yield reply

    def _answer(
        self,
        batch: list[Any],
        output_type: OutputType | None,
        reference: bool,
        sampling: SamplingOptions,
    ) -> list[ChatReply | SpeechMetaError]:
        cost = self._cost()
        grammar = self._grammar(output_type)
        prepared: list[Any] = self._prepare(batch, reference, sampling)
        good = [item for item in prepared if isinstance(item, _Ready)]
        if not good:
            return prepared
        constraint = self._constraint(grammar, len(good), sampling)
        for _ in self._steps(good, sampling, constraint, reference):
            pass
        results: list[ChatReply | SpeechMetaError] = []
        row = 0
        for item in prepared:
            if isinstance(item, _Ready):
                try:
                    item = self._reply(item, grammar, constraint, row, reference, cost)
                except SpeechMetaError as error:
                    item = error
                row += 1
            results.append(item)
        return results

    def _read(self, messages: Any) -> Conversation:
        config = self.model.config
        return read_conversation(messages, config.variant, config.audio_locator)

    def _prepare(
        self, batch: Sequence[Any], reference: bool, sampling: SamplingOptions
    ) -> list[_Ready | SpeechMetaError]:
        """Hears and tokenizes each conversation of a batch."""
        read: list[Conversation | SpeechMetaError] = []
        for messages in batch:
            try:
                read.append(self._read(messages))
            except SpeechMetaError as error:
                read.append(error)
        audios = [a for item in read if isinstance(item, Conversation) for a in item.audios]
        heard = iter(self.ear.hear(audios, reference))
        prepared: list[_Ready | SpeechMetaError] = []
        for item in read:
            if isinstance(item, SpeechMetaError):
                prepared.append(item)
                continue
            recordings = [next(heard) for _ in item.audios]
            try:
                prepared.append(self._ready(item, recordings, reference, not audios, sampling))
            except SpeechMetaError as error:
                prepared.append(error)
        return prepared

    def _ready(
        self,
        conversation: Conversation,
        recordings: Sequence[Recording | SpeechMetaError],
        reference: bool,
        no_audio: bool,
        sampling: SamplingOptions,
    ) -> _Ready:
        good: list[Recording] = []
        for recording in recordings:
            if isinstance(recording, SpeechMetaError):
                raise recording
            good.append(recording)
        drop_text = reference and self.model.config.variant == "desta25"
        audios = tuple(
            _heard_audio(recording, audio.text, drop_text)
            for recording, audio in zip(good, conversation.audios, strict=True)
        )
        texts = [[window.transcript for window in audio.windows] for audio in audios]
        if reference:
            names = [str(audio.source) for audio in conversation.audios]
            prompt = self.processor.reference_prompt(
                conversation.turns, [windows[0] for windows in texts], names, no_audio
            )
        else:
            prompt = self.processor.prompt(conversation.turns, texts)
        room = self.model.config.text_config.max_position_embeddings - len(prompt.ids)
        if sampling.max_new_tokens > room:
            raise UsageError(
                f"the conversation has {len(prompt.ids)} tokens, which leaves {max(room, 0)} of "
                f"the decoder's context for an answer of up to {sampling.max_new_tokens}",
                "lower max_new_tokens, or ask about parts of the recording",
            )
        rows = [good[audio].rows[window] for audio, window in prompt.windows]
        key: list[Hashable] = []
        places = iter(
            (good[audio].key, window)
            for audio, window in prompt.windows
            for _ in range(self.model.config.prompt_size)
        )
        for token in prompt.ids:
            key.append(next(places) if token == self.model.config.audio_token_id else token)
        reused, layers = (0, []) if reference else self._store.find(key)
        return _Ready(
            prompt, audios, LoopRow(key, self._embed(prompt, rows, reused), reused, layers)
        )

    @torch.inference_mode()
    def _embed(self, prompt: Prompt, rows: list[torch.Tensor], reused: int) -> torch.Tensor:
        device = self.model.get_input_embeddings().weight.device
        ids = torch.tensor([prompt.ids[reused:]], device=device)
        wanted = int((ids == self.model.config.audio_token_id).sum())
        audio = torch.cat(rows) if rows else torch.zeros(0, 1, device=device)
        # Reused positions are the first ones, so the rows still wanted are the last ones.
        audio = audio[len(audio) - wanted :]
        if not wanted:
            embeds: torch.Tensor = self.model.get_input_embeddings()(ids)[0]
            return embeds
        merged: torch.Tensor = self.model.merge_inputs(ids, audio.to(device))[0]
        return merged

    # As a decorator, so that the mode ends at every yield: a stream that its reader abandons
    # would otherwise leave the reader's thread without gradients.
    @torch.inference_mode()
    def _steps(
        self,
        ready: list[_Ready],
        sampling: SamplingOptions,
        constraint: Constraint | None,
        reference: bool,
    ) -> Iterator[list[int | None]]:
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

    def _grammar(self, output_type: OutputType | None) -> Grammar | None:
        if output_type is None:
            return None
        if self._table is None:
            self._table = TokenTable(self.processor.tokenizer)
        # Compiling costs seconds with a large vocabulary; a form is known by its content.
        kind: Any = output_type
        if isinstance(output_type, dict):
            kind = json.dumps(output_type, sort_keys=True)
        key = (type(output_type).__name__, kind)
        if key not in self._grammars:
            self._grammars[key] = compile_output(output_type, self._table)
            while len(self._grammars) > _REMEMBERED_GRAMMARS:
                self._grammars.popitem(last=False)
        self._grammars.move_to_end(key)
        return self._grammars[key]

    def _constraint(
        self, grammar: Grammar | None, rows: int, sampling: SamplingOptions
    ) -> Constraint | None:
        if grammar is None:
            return None
        return Constraint(grammar, rows, sampling.max_new_tokens)

    def _text(self, tokens: Sequence[int], constraint: Constraint | None, reference: bool) -> str:
        """The text of an answer's tokens."""
        if constraint is not None and self._table is not None:
            # Byte by byte: a tokenizer's clean-up of spaces would change what was matched.
            return self._table.text_of(
                [token for token in tokens if token != self._table.eos_token_id]
            ).decode(errors="replace")
        return self.processor.text(tokens, reference)

    def _cost(self) -> tuple[int, int]:
        return self.ear.encoded_windows, self.ear.transcribed_windows

    def _reply(
        self,
        ready: _Ready,
        grammar: Grammar | None,
        constraint: Constraint | None,
        index: int,
        reference: bool,
        cost: tuple[int, int],
    ) -> ChatReply:
        row = ready.row
        text = self._text(row.tokens, constraint, reference)
        value, flags = None, []
        finish = row.finish
        if grammar is not None and constraint is not None:
            if not constraint.whole[index]:
                raise DecodingError(f"the answer {text!r} was not finished", "raise max_new_tokens")
            value = grammar.parse(text)
            finish = "stop"
            flags = ["forced_close"] * constraint.forced[index]
        heard = {
            flag for audio in ready.audios for window in audio.windows for flag in window.flags
        }
        after = self._cost()
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
                encoded_windows=after[0] - cost[0],
                transcribed_windows=after[1] - cost[1],
            ),
            flags=(*flags, *sorted(heard)),
        )


def _options(options: dict[str, Any]) -> SamplingOptions:
    known = [item.name for item in fields(SamplingOptions)]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise UsageError(
            f"chat does not take {', '.join(unknown)}", f"options are {', '.join(known)}"
        )
    return SamplingOptions(**options)


def _heard_audio(recording: Recording, text: str | None, drop_text: bool) -> HeardAudio:
    windows = tuple(recording.heard(text, drop_text))
    covered = sum(window.end - window.start for window in windows)
    return HeardAudio(
        recording.path, recording.seconds, windows, max(0.0, recording.seconds - covered)
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
