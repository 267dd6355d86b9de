"""Tests of missions in files."""
