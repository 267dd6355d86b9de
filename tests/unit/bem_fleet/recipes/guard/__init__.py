"""Tests of the safety recipe."""
