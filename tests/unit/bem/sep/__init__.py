"""Tests of scramble-equivariant pretraining."""
