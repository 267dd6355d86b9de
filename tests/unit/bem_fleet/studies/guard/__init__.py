"""Tests of the guard study."""
