"""Tests of the assignment."""
