"""The data sets that can be read, each stated once; imports nothing, as the help lists them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """A data set.

    Attributes:
        reader: `module:function` below `speechmeta.eval.readers`; the function takes the path
            and the split's name (None for its default) and returns a `Dataset`.
        text: what it reads and which splits it has, for the help.
        classes: whether it takes a number of emotion classes as a third argument.
    """

    reader: str
    text: str
    classes: bool = False


READERS = {
    "librispeech": Entry(
        "librispeech:read_librispeech",
        "LibriSpeech as it unpacks; splits such as test-clean (the default).",
    ),
    "commonvoice": Entry(
        "commonvoice:read_commonvoice",
        "Common Voice, Corpus 4 to 20 and later; splits are its TSV files.",
    ),
    "iemocap": Entry(
        "iemocap:read_iemocap",
        "IEMOCAP; splits session1 to session5 (the folds) or all (the default).",
        classes=True,
    ),
    "mswc": Entry("mswc:read_mswc", "Multilingual Spoken Words, English; splits train, dev, test."),
    "manifest": Entry(
        "jsonl:read_jsonl",
        "A JSONL manifest with audio or audio_filepath and references; splits tune and test are "
        "its halves by speaker.",
    ),
}
"""By the name on the command line."""
