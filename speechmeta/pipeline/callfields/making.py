"""The filler that the options ask for; its text model is loaded once for all who ask."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from speechmeta.models.endpoint import Endpoint, is_address
from speechmeta.models.text.base import TextModel
from speechmeta.pipeline.options import ModelOptions

if TYPE_CHECKING:
    from speechmeta.pipeline.callfields.filling import Filler

_MODELS: WeakValueDictionary[tuple[object, ...], TextModel] = WeakValueDictionary()
_LOADING = threading.Lock()


def filler_of(options: ModelOptions) -> Filler | None:
    """What fills call fields; None where none are asked for.

    Schemas are read anew each time, as their files may have changed.

    Raises:
        UsageError: a schema is not known or cannot be used, or the server's address cannot.
        ModelError: the text model cannot be loaded.
        MissingExtraError: a library that the text model needs is not installed.
    """
    if options.llm is None or options.call_schema is None:
        return None
    # They bring outlines, which nothing else of a call needs.
    from speechmeta.pipeline.callfields.filling import Filler
    from speechmeta.pipeline.callfields.schemas import find_schemas

    schemas = find_schemas(options.call_schema)
    return Filler(_text_model(options, options.llm), schemas, options.llm_answer)


def _text_model(options: ModelOptions, name: str) -> TextModel:
    if is_address(name):
        from speechmeta.models.text.remote import EndpointText

        endpoint = Endpoint(name, options.llm_key_variable, options.llm_timeout, 1)
        endpoint.check_offline(options.local_files_only)
        return EndpointText(endpoint, options.llm_model or "", options.llm_context)
    from speechmeta.models.text.local import load_text_model

    how = (options.device, options.dtype, options.local_files_only, options.llm_context)
    changed = os.stat(name).st_mtime_ns if os.path.exists(name) else 0
    with _LOADING:
        model = _MODELS.get((name, changed, *how))
        if model is None:
            model = load_text_model(name, *how)
            _MODELS[(name, changed, *how)] = model
        return model


__all__ = ["filler_of"]
