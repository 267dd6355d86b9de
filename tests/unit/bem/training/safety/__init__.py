"""Tests of the safety training."""
