"""Tests of the recipe of the embedding head."""
