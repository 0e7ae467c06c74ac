"""Retrieval tasks: how prompts are built and answers scored."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, ["haystack", "niah"])
