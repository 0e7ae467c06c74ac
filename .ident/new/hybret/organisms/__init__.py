"""The embedded models: their words, corpus, tokenizer, training documents and training recipe."""
