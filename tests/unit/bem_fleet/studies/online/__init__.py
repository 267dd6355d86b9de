"""Tests of the study of online learning."""
