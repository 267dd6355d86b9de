"""Scores of single answers: what an answer is worth, before any statistic is taken of it."""
