"""Tests of the local fleet."""
