"""Runs the notebooks that changed and builds the pages."""
