"""Benchmarks through lm-eval: likelihoods of many interventions at once."""
