"""Tests of the heads' training."""
