"""Tests of the engine's compiled kernels."""
