"""Tests of the building blocks of missions."""
