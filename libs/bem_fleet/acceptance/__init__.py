"""Acceptance gates: pass criteria of each mission as data, and their evaluation on reports."""
