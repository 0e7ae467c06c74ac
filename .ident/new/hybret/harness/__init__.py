"""Benchmarks through lm-eval: likelihoods of many interventions at once."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={"evaluate": ["conditions", "evaluate"]})
