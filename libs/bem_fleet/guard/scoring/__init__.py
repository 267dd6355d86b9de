"""Scorers: text normalization, sentence embeddings, classifier heads and response features."""
