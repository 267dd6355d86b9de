"""Tests of the macro-policy."""
