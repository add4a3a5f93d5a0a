"""Transcripts as training targets, and the tokenizer that is trained on them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from speechmeta.decoding.layout import SPEECH_VALUES, TextLayout
from speechmeta.schema import LabelSets

_DROPPED = re.compile(r"[^a-z' ]+")
_BRACKETED = re.compile(r"\[[^\]]*\]|<[^>]*>|\([^)]*\)")


def normalize_transcript(text: str) -> str | None:
    """Lower case a to z, apostrophes and single spaces; None where that would lose words.

    Sources write in upper case, or cased with punctuation; a small model learns one way.
    Text with digits gives None: how they were spoken is not known.
    """
    text = _BRACKETED.sub(" ", text).replace("&", " and ").replace("\u2019", "'")
    text = unicodedata.normalize("NFKD", text.lower())
    text = "".join(char for char in text if not unicodedata.combining(char))
    if re.search(r"[0-9$\u20ac\u00a3%@]", text):
        return None
    words = _DROPPED.sub(" ", text.replace("-", " ")).split()
    words = [word.strip("'") if word.strip("'") else "" for word in words]
    return " ".join(word for word in words if word)


def fixed_tokens(layout: TextLayout, label_sets: LabelSets) -> list[str]:
    """The layout's fixed pieces and all values of closed fields, one token each."""
    pieces = [layout.opening + layout.key_open, layout.value_close + layout.separator]
    pieces[1] += layout.key_open
    pieces += [field + layout.key_close for field in layout.order]
    pieces += [layout.after_last, *SPEECH_VALUES]
    pieces += [label for labels in label_sets.values() for label in labels]
    pieces += [layout.prompt_before.replace("{instruction}", ""), *layout.prompt_after]
    return list(dict.fromkeys(piece for piece in pieces if piece))


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, layout: TextLayout, label_sets: LabelSets
) -> PreTrainedTokenizerFast:
    """A byte-fallback BPE in Llama's shape, with the layout's fixed pieces as single tokens.

    Args:
        texts: normalised transcripts and other text of the kind to be written.
        vocab_size: entries in all, the 256 bytes and the fixed pieces included.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    fixed = fixed_tokens(layout, label_sets)
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(fixed),
        special_tokens=special + byte_tokens,
        show_progress=False,
    )

    def lines() -> Iterator[str]:
        for text in texts:
            yield layout.transcript_lead + text

    tokenizer.train_from_iterator(lines(), trainer)
    tokenizer = _without_special_bytes(tokenizer, special)
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in fixed])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


def _without_special_bytes(tokenizer: Tokenizer, special: list[str]) -> Tokenizer:
    # The trainer can reserve ids for the bytes only as special tokens, which decoding would skip.
    import json

    data = json.loads(tokenizer.to_str())
    data["added_tokens"] = [item for item in data["added_tokens"] if item["content"] in special]
    return Tokenizer.from_str(json.dumps(data))
