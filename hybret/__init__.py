"""hybret: in hybrid language models (recurrent layers plus a few attention layers), which part does the retrieving?"""

import warnings
from typing import Any

import lazy_loader

__version__ = "0.1.0"

# The public names are in __init__.pyi. Each is imported on first use, so that `import hybret` brings no torch.
_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    with warnings.catch_warnings():
        # transformers imports tqdm's bars, which ask for ipywidgets in every notebook; hybret does without.
        warnings.filterwarnings("ignore", message="IProgress not found")
        return _load(name)
