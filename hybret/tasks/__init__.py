"""Retrieval tasks: how prompts are built and answers scored."""
