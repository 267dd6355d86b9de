"""Tests of the acceptance gates."""
