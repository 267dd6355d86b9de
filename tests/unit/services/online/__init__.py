"""Tests of mission online."""
