"""Tests of the character study's training."""
