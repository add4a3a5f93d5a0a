"""The errors that a user of speechmeta can meet.

Every error carries a `hint` that says what to do about it; the command line
prints `message` and `hint` on one line and exits with `exit_code`.
"""

from __future__ import annotations

import importlib.util


class SpeechMetaError(Exception):
    """Base of all errors that are the input's or the caller's, not a bug of ours.

    Args:
        message: what is wrong, in one line, naming the file, field or option.
        hint: what to do about it, in one line; may be empty.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = " ".join(message.split())
        self.hint = " ".join(hint.split())

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def __reduce__(self) -> tuple[type[SpeechMetaError], tuple[str, str]]:
        # Exceptions cross process borders (batch workers) by pickling.
        return type(self), (self.message, self.hint)


class AudioError(SpeechMetaError):
    """An audio input cannot be read, decoded or used."""


class ModelError(SpeechMetaError):
    """A checkpoint cannot be found, reached, read, or does not fit its config."""


class DecodingError(SpeechMetaError):
    """A record could not be decoded, for example for lack of memory."""


class EndpointError(SpeechMetaError):
    """A server that was asked gave no answer, or none that can be used."""


class DatasetError(SpeechMetaError):
    """A data set folder, manifest or label table is not what it should be."""


class OutputError(SpeechMetaError):
    """A result cannot be written."""


class StoreError(SpeechMetaError):
    """A database does not take a result, or does not answer."""


class UsageError(SpeechMetaError):
    """An argument or option is not one that is understood."""

    exit_code = 2


class MissingExtraError(UsageError):
    """A part was asked for whose libraries come with an extra that is not installed."""


def require_extra(module: str, extra: str, purpose: str) -> None:
    """Looks for a library before work begins that would fail without it.

    Args:
        module: its top-level module.
        extra: the extra of this package that brings it.
        purpose: what needs it, as the subject of a sentence.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        found = importlib.util.find_spec(module)
    except ValueError:  # a module that is set to None counts as absent
        found = None
    if found is None:
        raise MissingExtraError(
            f"{purpose} needs {module}, which is not installed",
            f"pip install 'speechmeta[{extra}]'",
        )
