"""What both engines do around a record's choices: its budget, its counts, its text."""

from __future__ import annotations

from collections.abc import Sequence

from speechmeta.decoding.decoders import C, Decoder
from speechmeta.decoding.grammar import Grammar, Option
from speechmeta.decoding.inputs import Prompt
from speechmeta.decoding.options import DecodeOptions
from speechmeta.decoding.record import DecodedRecord
from speechmeta.errors import DecodingError


def room(decoder: Decoder[C], grammar: Grammar, prompt: Prompt, options: DecodeOptions) -> int:
    """The transcript's budget, at most what the decoder's context leaves.

    Raises:
        DecodingError: the prompt leaves no room.
    """
    free = decoder.max_positions - len(prompt.embeds) - grammar.fixed_tokens
    if free < 1:
        raise DecodingError(
            f"{prompt.seconds:.0f} s of audio do not fit into the decoder's context",
            "cut the audio into turns",
        )
    return min(options.budget(prompt.seconds), free)


def choices(options: Sequence[Option], chosen: Option) -> int:
    """How many of the chosen option's tokens another option could have gone against."""
    count = 0
    for place in range(len(chosen.tokens)):
        prefix = chosen.tokens[:place]
        after = {
            option.tokens[place]
            for option in options
            if option.tokens[:place] == prefix and len(option.tokens) > place
        }
        count += len(after) > 1
    return count


def finish(
    record: DecodedRecord,
    grammar: Grammar,
    written: dict[str, str],
    consumed: int,
    passes: int,
) -> DecodedRecord:
    """Closes the text, and fills what a record without speech leaves out."""
    last = grammar.fields.index(list(written)[-1])
    text = "".join(grammar.before(i) + written[grammar.fields[i]] for i in range(last + 1))
    record.text = text + grammar.layout.after_last
    record.forced_tokens += len(grammar.closing(len(grammar.fields), consumed))
    for field in grammar.fields[last + 1 :]:
        record.values[field] = "" if field == "Transcript" else None
    if record.values.get("SpeechActivity") is False:
        for field in record.values:
            if field != "SpeechActivity":
                record.values[field] = "" if field == "Transcript" else None
                record.probabilities.pop(field, None)
    record.forward_passes = passes
    return record
