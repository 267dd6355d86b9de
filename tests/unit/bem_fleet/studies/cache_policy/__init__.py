"""Tests of the study of cache policies."""
