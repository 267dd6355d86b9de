"""Tests of the passage-qa recipe."""
