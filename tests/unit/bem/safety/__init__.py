"""Tests of the safety basis."""
