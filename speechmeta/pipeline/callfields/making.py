"""The filler that the options ask for, loaded once for all who ask."""

from __future__ import annotations

import threading
from weakref import WeakValueDictionary

from speechmeta.models.endpoint import Endpoint, is_address
from speechmeta.models.text.base import TextModel
from speechmeta.pipeline.callfields.filling import Filler
from speechmeta.pipeline.callfields.schemas import find_schemas
from speechmeta.pipeline.options import ModelOptions

_FILLERS: WeakValueDictionary[ModelOptions, Filler] = WeakValueDictionary()
_LOADING = threading.Lock()


def filler_of(options: ModelOptions) -> Filler | None:
    """What fills call fields; None where none are asked for.

    Raises:
        UsageError: a schema is not known or cannot be used, or the server's address cannot.
        ModelError: the text model cannot be loaded.
        MissingExtraError: a library that the text model needs is not installed.
    """
    if options.llm is None or options.call_schema is None:
        return None
    with _LOADING:
        filler = _FILLERS.get(options)
        if filler is None:
            schemas = find_schemas(options.call_schema)
            filler = Filler(_text_model(options, options.llm), schemas, options.llm_answer)
            _FILLERS[options] = filler
        return filler


def _text_model(options: ModelOptions, name: str) -> TextModel:
    if is_address(name):
        from speechmeta.models.text.remote import EndpointText

        endpoint = Endpoint(name, options.llm_key_variable, options.llm_timeout, 1)
        endpoint.check_offline(options.local_files_only)
        return EndpointText(endpoint, options.llm_model or "", options.llm_context)
    from speechmeta.models.text.local import load_text_model

    return load_text_model(
        name, options.device, options.dtype, options.local_files_only, options.llm_context
    )


__all__ = ["filler_of"]
