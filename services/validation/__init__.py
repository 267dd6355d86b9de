"""Decides claims: comparisons, the false discovery rate over all of them, acceptance gates."""
