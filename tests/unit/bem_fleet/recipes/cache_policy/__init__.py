"""Tests of the recipe of the learned cache policy."""
