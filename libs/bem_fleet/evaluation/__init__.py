"""Paired evaluation of systems: responses, scores, statistics and reports."""
