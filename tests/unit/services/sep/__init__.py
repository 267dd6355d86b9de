"""Tests of mission sep."""
