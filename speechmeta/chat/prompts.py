"""From conversations to rows for the generation loop: hears, tokenizes, embeds, reuses."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from speechmeta.chat.messages import Conversation, read_conversation
from speechmeta.chat.recordings import Ear, Recording
from speechmeta.chat.reply import HeardAudio
from speechmeta.decoding.chat_loop import LoopRow, PrefixStore, SamplingOptions
from speechmeta.errors import SpeechMetaError, UsageError
from speechmeta.models.desta2.modeling_desta2 import DestaForConditionalGeneration
from speechmeta.models.desta2.processing_desta2 import DestaProcessor, Prompt


@dataclass
class ReadyRow:
    """One conversation, ready for the loop."""

    prompt: Prompt
    audios: tuple[HeardAudio, ...]
    row: LoopRow


class Prompter:
    """Makes rows of conversations.

    Args:
        model, processor: of a DeSTA checkpoint.
        ear: hears and remembers recordings.
        store: keys and values of earlier turns.
    """

    def __init__(
        self,
        model: DestaForConditionalGeneration,
        processor: DestaProcessor,
        ear: Ear,
        store: PrefixStore,
    ) -> None:
        self.model = model
        self.processor = processor
        self.ear = ear
        self.store = store

    def read(self, messages: object) -> Conversation:
        """Checks the messages of one conversation.

        Raises:
            UsageError: a message is not understood.
        """
        config = self.model.config
        return read_conversation(messages, config.variant, config.audio_locator)

    def prepare(
        self, batch: Sequence[Any], reference: bool, sampling: SamplingOptions
    ) -> list[ReadyRow | SpeechMetaError]:
        """Hears and tokenizes each conversation of a batch; an error where one cannot be."""
        read: list[Conversation | SpeechMetaError] = []
        for messages in batch:
            try:
                read.append(self.read(messages))
            except SpeechMetaError as error:
                read.append(error)
        audios = [a for item in read if isinstance(item, Conversation) for a in item.audios]
        heard = iter(self.ear.hear(audios, reference))
        prepared: list[ReadyRow | SpeechMetaError] = []
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
    ) -> ReadyRow:
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
        key = self._key(prompt, good)
        reused, layers = (0, []) if reference else self.store.find(key)
        return ReadyRow(
            prompt, audios, LoopRow(key, self._embed(prompt, rows, reused), reused, layers)
        )

    def _key(self, prompt: Prompt, recordings: Sequence[Recording]) -> list[Hashable]:
        """What makes each position of a prompt: a token, or a row of a window of a recording."""
        places = iter(
            (recordings[audio].key, window)
            for audio, window in prompt.windows
            for _ in range(self.model.config.prompt_size)
        )
        mark = self.model.config.audio_token_id
        return [next(places) if token == mark else token for token in prompt.ids]

    @torch.inference_mode()
    def _embed(self, prompt: Prompt, rows: list[torch.Tensor], reused: int) -> torch.Tensor:
        table: Any = self.model.get_input_embeddings()
        device = table.weight.device
        ids = torch.tensor([prompt.ids[reused:]], device=device)
        wanted = int((ids == self.model.config.audio_token_id).sum())
        audio = torch.cat(rows) if rows else torch.zeros(0, 1, device=device)
        # Reused positions are the first ones, so the rows still wanted are the last ones.
        audio = audio[len(audio) - wanted :]
        if not wanted:
            embeds: torch.Tensor = table(ids)[0]
            return embeds
        merged: torch.Tensor = self.model.merge_inputs(ids, audio.to(device))[0]
        return merged


def _heard_audio(recording: Recording, text: str | None, drop_text: bool) -> HeardAudio:
    windows = tuple(recording.heard(text, drop_text))
    covered = sum(window.end - window.start for window in windows)
    return HeardAudio(
        recording.path, recording.seconds, windows, max(0.0, recording.seconds - covered)
    )


__all__ = ["Prompter", "ReadyRow"]
