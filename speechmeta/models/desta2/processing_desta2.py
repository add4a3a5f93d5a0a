"""From conversations and waveforms to what DeSTA2 and DeSTA2.5-Audio take."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers.processing_utils import ProcessorMixin

from speechmeta.audio.loading import SAMPLE_RATE
from speechmeta.errors import ModelError, UsageError
from speechmeta.models.desta2.configuration_desta2 import DestaConfig
from speechmeta.models.templates import apply_chat_template

BEGIN_AUDIO, END_AUDIO = "<start_audio>", "<end_audio>"
"""What stands around an audio in a prompt of DeSTA2.5-Audio; ordinary text, not tokens."""

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, WhisperFeatureExtractor

NO_SPEECH = " "
"""The transcript of audio without speech, as DeSTA2.5-Audio was trained."""


@dataclass(frozen=True)
class ChatTurn:
    """One message, as the chat template takes it.

    Attributes:
        role: system, user, assistant, or audio (DeSTA2).
        parts: text, and indices of the conversation's audios where they belong in it.
    """

    role: str
    parts: tuple[str | int, ...]


@dataclass(frozen=True)
class Prompt:
    """A conversation as token ids.

    Attributes:
        ids: `audio_token_id` stands `prompt_size` times for every window.
        text: the rendered chat template with the transcripts in place, for reading.
        windows: the (audio, window) whose rows come, in order.
    """

    ids: list[int]
    text: str
    windows: list[tuple[int, int]]


class DestaProcessor(ProcessorMixin):
    """Log-mel features, transcripts and prompts.

    Args:
        feature_extractor: a `WhisperFeatureExtractor`.
        tokenizer: the decoder's tokenizer, with a chat template; it is not changed.
        asr_tokenizer: Whisper's tokenizer.
        variant, prompt_size, audio_token_id, audio_locator, placeholder_token: as in
            `DestaConfig`.
    """

    def __init__(
        self,
        feature_extractor: WhisperFeatureExtractor | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        asr_tokenizer: PreTrainedTokenizerBase | None = None,
        variant: str = "desta25",
        prompt_size: int = 64,
        audio_token_id: int = 0,
        audio_locator: str = "<|AUDIO|>",
        placeholder_token: str = "<|reserved_special_token_87|>",
    ) -> None:
        self.variant = variant
        self.prompt_size = prompt_size
        self.audio_token_id = audio_token_id
        self.audio_locator = audio_locator
        self.placeholder_token = placeholder_token
        super().__init__(feature_extractor, tokenizer, asr_tokenizer)

    @classmethod
    def for_config(
        cls,
        config: DestaConfig,
        feature_extractor: WhisperFeatureExtractor,
        tokenizer: PreTrainedTokenizerBase,
        asr_tokenizer: PreTrainedTokenizerBase,
    ) -> DestaProcessor:
        """The processor that fits a model's config."""
        return cls(
            feature_extractor=feature_extractor,
            tokenizer=tokenizer,
            asr_tokenizer=asr_tokenizer,
            variant=config.variant,
            prompt_size=config.prompt_size,
            audio_token_id=config.audio_token_id,
            audio_locator=config.audio_locator,
            placeholder_token=config.placeholder_token,
        )

    def features(self, waveforms: Sequence[np.ndarray]) -> torch.Tensor:
        """Log-mel (windows, mel bins, 3000) of waveforms (samples,) at 16 kHz, up to 30 s each.

        Longer ones are cut to 30 s here, as Whisper's extractor does; `split_windows` comes
        before.
        """
        # One by one: the extractor's result for a clip must not depend on its neighbours.
        return torch.cat(
            [
                self.feature_extractor(wave, sampling_rate=SAMPLE_RATE, return_tensors="pt")[
                    "input_features"
                ]
                for wave in waveforms
            ]
        )

    def transcripts(self, ids: torch.Tensor, reference: bool = False) -> list[str]:
        """Whisper's ids (windows, tokens) as text; DeSTA2.5 strips it, DeSTA2 does not."""
        texts = [_decode(self.asr_tokenizer, row.tolist(), reference) for row in ids]
        return [text.strip() for text in texts] if self.variant == "desta25" else texts

    def text(self, ids: Sequence[int], reference: bool = False) -> str:
        """An answer's ids as text, special tokens left out.

        Args:
            reference: with the clean-up of spaces before punctuation that transformers 4 did
                where a tokenizer asked for it.
        """
        return _decode(self.tokenizer, list(ids), reference)

    def prompt(self, turns: Sequence[ChatTurn], heard: Sequence[Sequence[str]]) -> Prompt:
        """Token ids of a conversation, ending where the assistant's answer begins.

        Every piece of text between audios is tokenized by itself; the chat template writes the
        one begin-of-text token.

        Args:
            turns: the messages.
            heard: for each audio the transcripts of its windows.
        """
        ids: list[int] = []
        text = ""
        windows: list[tuple[int, int]] = []
        pending = ""
        before, after = (BEGIN_AUDIO, END_AUDIO) if self.variant == "desta25" else ("", "")
        for piece in self._rendered(turns, len(heard)):
            if isinstance(piece, str):
                pending += piece
                continue
            for window, transcript in enumerate(heard[piece]):
                # Windows of one recording follow each other as audios of their own.
                pending += before if not window or not before else "\n" + before
                ids += self.tokenize(pending)
                ids += [self.audio_token_id] * self.prompt_size
                ids += self.tokenize(transcript)
                text += pending + transcript
                windows.append((piece, window))
                pending = after
        ids += self.tokenize(pending)
        return Prompt(ids, text + pending, windows)

    def reference_prompt(
        self,
        turns: Sequence[ChatTurn],
        heard: Sequence[str],
        names: Sequence[str],
        no_audio: bool = False,
    ) -> Prompt:
        """The prompt of the published code, flaws included.

        DeSTA2: the template is split at the file's path, the audio rows lie before the token
        that ends the audio message's header where the tokenizer adds a begin-of-text token,
        and that token comes twice. DeSTA2.5: two begin-of-text tokens where there is no audio.

        Args:
            turns: the messages.
            heard: each audio's transcript.
            names: each audio's path as the caller wrote it.
            no_audio: whether no conversation of the batch has audio.

        Raises:
            UsageError: what the published code refuses: more or fewer audios than one, or a
                path that occurs more than once (DeSTA2).
        """
        if self.variant == "desta25":
            if not no_audio:
                return self.prompt(turns, [[text] for text in heard])
            text = "".join(str(piece) for piece in self._rendered(turns, 0))
            return Prompt(self.tokenize(text, add_special_tokens=True), text, [])
        if len(heard) != 1:
            raise UsageError(
                f"the published DeSTA2 code takes exactly one audio, not {len(heard)}",
                "leave reference_behaviour off",
            )
        template = [
            {
                "role": turn.role,
                "content": "".join(names[p] if isinstance(p, int) else p for p in turn.parts),
            }
            for turn in turns
        ]
        sides = self._apply(template).split(names[0])
        if len(sides) != 2:
            raise UsageError(
                f"the prompt contains the path {names[0]!r} {len(sides) - 1} times, and the "
                "published DeSTA2 code splits it there",
                "leave reference_behaviour off",
            )
        left, right = sides[0], heard[0] + sides[1]
        ids = self.tokenize(left + right, add_special_tokens=True)
        position = len(self.tokenize(left))
        rows = [self.audio_token_id] * self.prompt_size
        return Prompt(ids[:position] + rows + ids[position:], left + right, [(0, 0)])

    def tokenize(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Token ids of a text by itself."""
        if not text:
            return []
        ids: list[int] = self.tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"]
        return ids

    def _rendered(self, turns: Sequence[ChatTurn], count: int) -> list[str | int]:
        """The chat template's text, with audio indices where the audios belong."""
        texts = "".join(part for turn in turns for part in turn.parts if isinstance(part, str))
        # Marks that no text contains, so that a message cannot be taken for an audio.
        salt = 0
        while f"\ue000{salt}:" in texts:
            salt += 1
        messages = [
            {
                "role": turn.role,
                "content": "".join(
                    f"\ue000{salt}:{part}\ue001" if isinstance(part, int) else part
                    for part in turn.parts
                ),
            }
            for turn in turns
        ]
        pieces = re.split(f"\ue000{salt}:(\\d+)\ue001", self._apply(messages))
        found = [int(piece) for piece in pieces[1::2]]
        if found != list(range(count)):
            raise ModelError(
                "the checkpoint's chat template drops or reorders messages with audio",
                "its tokenizer_config.json is not the one that it was trained with",
            )
        return [int(piece) if i % 2 else piece for i, piece in enumerate(pieces)]

    def _apply(self, messages: list[dict[str, str]]) -> str:
        from jinja2.exceptions import TemplateError

        if not self.tokenizer.chat_template:
            raise ModelError(
                "the decoder's tokenizer has no chat template", "take an instruction-tuned decoder"
            )
        try:
            text: str = apply_chat_template(
                self.tokenizer, messages, tokenize=False, add_generation_prompt=True
            )
        except TemplateError as error:
            raise UsageError(
                f"the checkpoint's chat template refuses these messages: {error}",
                "begin with system or user, then let user and assistant take turns",
            ) from error
        return text


def _decode(tokenizer: PreTrainedTokenizerBase, ids: list[int], reference: bool) -> str:
    text: str = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    if reference and getattr(tokenizer, "clean_up_tokenization_spaces", False):
        text = tokenizer.clean_up_tokenization(text)
    return text


__all__ = ["NO_SPEECH", "ChatTurn", "DestaProcessor", "Prompt"]
