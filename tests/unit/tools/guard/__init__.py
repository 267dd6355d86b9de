"""Tests of the guard's training."""
