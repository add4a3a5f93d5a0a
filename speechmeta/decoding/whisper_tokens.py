"""What Whisper's vocabulary holds beside text: its prompt, its languages, what it never writes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from transformers.models.whisper.tokenization_whisper import LANGUAGES

from speechmeta.errors import ModelError, UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, WhisperForConditionalGeneration

_CONTROL = re.compile(r"<\|[^|]*\|>")
# From here on a vocabulary has the languages' tokens in use (openai/whisper `model.py`).
_MULTILINGUAL_SIZE = 51_865

# openai/whisper `tokenizer.py`, `non_speech_tokens`: what stands for sounds, speakers and music.
_SYMBOLS = (
    *'"#()*+/:;<=>@[\\]^_`{|}~「」『』',
    *"<< >> <<< >>> -- --- -( -[ (' (\" (( )) ((( ))) [[ ]] {{ }} ♪♪ ♪♪♪".split(),
)
_MUSIC = "♩♪♫♬♭♮♯"


@dataclass(frozen=True)
class WhisperTokens:
    """Ids of one checkpoint.

    Attributes:
        start, end: begin and close a transcript.
        no_timestamps: the prompt's last token, after which text without times is written.
        transcribe: the task; None in English-only checkpoints, as the languages are.
        languages: by code ("en"), empty in English-only checkpoints. A checkpoint of the
            multilingual vocabulary that was tuned for some of them names those in the generation
            config's `lang_to_id`, as transformers reads it.
        no_speech: its probability after `start` says whether nobody speaks; None without one.
        previous: stands before the text that came before.
        control: every id that stands for no text, timestamps among them.
        never: text that is not written.
        not_first: what is not written at the start of a transcript.
    """

    start: int
    end: int
    no_timestamps: int
    transcribe: int | None
    languages: dict[str, int]
    no_speech: int | None
    previous: int | None
    control: frozenset[int]
    never: frozenset[int]
    not_first: frozenset[int]

    @classmethod
    def of(
        cls, whisper: WhisperForConditionalGeneration, tokenizer: PreTrainedTokenizerFast
    ) -> Self:
        """Reads the generation config, and for what it leaves open the tokenizer.

        Raises:
            ModelError: the tokenizer is not Whisper's.
        """
        config, generation = whisper.config, whisper.generation_config
        find = tokenizer.backend_tokenizer.token_to_id

        def wanted(name: str) -> int:
            token = find(name)
            if token is None:
                raise ModelError(
                    f"the tokenizer has no {name}", "it has to be the checkpoint's own, Whisper's"
                )
            return int(token)

        end = generation.eos_token_id if generation.eos_token_id is not None else None
        end = config.eos_token_id if end is None else end
        end = end[0] if isinstance(end, list) else end
        multilingual = getattr(generation, "is_multilingual", None)
        if multilingual is None:
            multilingual = config.vocab_size >= _MULTILINGUAL_SIZE
        codes = {code: find(f"<|{code}|>") for code in LANGUAGES} if multilingual else {}
        if kept := getattr(generation, "lang_to_id", None):
            codes = {code: token for code, token in codes.items() if f"<|{code}|>" in kept}
        encode = tokenizer.backend_tokenizer.encode

        def ids(text: str) -> list[int]:
            found: list[int] = encode(text, add_special_tokens=False).ids
            return found

        never = getattr(generation, "suppress_tokens", None)
        not_first = getattr(generation, "begin_suppress_tokens", None)
        return cls(
            start=int(config.decoder_start_token_id),
            end=int(end),
            no_timestamps=wanted("<|notimestamps|>"),
            transcribe=wanted("<|transcribe|>") if multilingual else None,
            languages={code: token for code, token in codes.items() if token is not None},
            no_speech=find("<|nospeech|>") or find("<|nocaptions|>"),
            previous=find("<|startofprev|>"),
            control=frozenset(
                token
                for token, added in tokenizer.added_tokens_decoder.items()
                if _CONTROL.fullmatch(added.content)
            ),
            never=frozenset(_non_speech(ids) if never is None else never),
            not_first=frozenset([*ids(" "), int(end)] if not_first is None else not_first),
        )

    def task(self, language: str | None) -> list[int]:
        """The prompt after `start`: language and task, and that no times are wanted.

        Raises:
            UsageError: the language is not known.
        """
        if self.transcribe is None:
            return [self.no_timestamps]
        return [self.language(language or ""), self.transcribe, self.no_timestamps]

    def check(self, language: str | None) -> None:
        """Raises UsageError where a language is asked for that the checkpoint does not know."""
        if self.languages:
            if language is not None:
                self.language(language)
        elif language not in (None, "en"):
            raise UsageError(
                f"an English-only checkpoint does not know the language {language!r}",
                "choose a multilingual one",
            )

    def language(self, code: str) -> int:
        """The token of a language.

        Raises:
            UsageError: it is not known.
        """
        if code not in self.languages:
            raise UsageError(
                f"the checkpoint does not know the language {code!r}",
                f"known are {', '.join(sorted(self.languages))}",
            )
        return self.languages[code]


def _non_speech(encode: Callable[[str], list[int]]) -> set[int]:
    """The ids that openai/whisper suppresses in every transcript."""
    # Hyphens and apostrophes stand within words, and begin none.
    found = {encode(" -")[0], encode(" '")[0]}
    for symbol in (*_SYMBOLS, *_MUSIC):
        for tokens in (encode(symbol), encode(" " + symbol)):
            # Of a note's bytes the first ones are those of other signs that nobody says.
            if len(tokens) == 1 or symbol in _MUSIC:
                found.add(tokens[0])
    return found
