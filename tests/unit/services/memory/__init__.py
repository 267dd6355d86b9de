"""Tests of the memory mission."""
