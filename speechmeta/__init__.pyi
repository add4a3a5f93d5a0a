# The public names: type checkers read this file, and `lazy_loader` imports by it.
from .chat.model import ChatModel
from .errors import SpeechMetaError
from .models.loading import load_model
from .pipeline.analyzer import Analyzer, analyze_call, generate_meta
from .schema import CallReport, SpeakerMeta
from .version import __version__

__all__ = [
    "Analyzer",
    "CallReport",
    "ChatModel",
    "SpeakerMeta",
    "SpeechMetaError",
    "__version__",
    "analyze_call",
    "generate_meta",
    "load_model",
]
