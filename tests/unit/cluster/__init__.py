"""Tests of the local cluster builder."""
