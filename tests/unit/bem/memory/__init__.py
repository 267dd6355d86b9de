"""Tests of the long memory."""
