"""Tests of the feedback queue and processor."""
