"""Tests of the training of the online learner's bank."""
