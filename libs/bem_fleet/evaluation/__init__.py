"""Evaluation: two systems answer the same items, and statistics say whether they differ."""
