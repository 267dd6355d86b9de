"""Tests of the composition study."""
