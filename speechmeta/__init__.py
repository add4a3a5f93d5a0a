"""Call recordings as validated JSON: who speaks when, what is said, how the voices sound."""

import lazy_loader

# The names are those of __init__.pyi. Lazy, so that `speechmeta --help` and the schema need no
# torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
