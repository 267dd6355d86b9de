"""Tests of the recipe of the online learner's bank."""
