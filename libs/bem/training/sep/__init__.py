"""Scramble-equivariant pretraining of the character model: views, trainer and evaluation."""
